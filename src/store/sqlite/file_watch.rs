//! Detects what SQLite does not report: replaced files, and a growing WAL.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::store::Result;
use crate::store::connection::Connection;
use crate::store::error::StoreError;

/// A WAL longer than this, in bytes, is checkpointed. SQLite does so at 4 MB, unless a reader prevents it.
const WAL_LIMIT: u64 = 64 * 1024 * 1024;
/// Minimum interval between checks of the WAL's length.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Watches the files of the database that the writer has open.
pub(in crate::store) struct Watch {
    /// The database and its WAL; `None` for a database in memory.
    files: Option<[Watched; 2]>,
    checked: Option<Instant>,
    warned: bool,
}

struct Watched {
    path: PathBuf,
    /// Device and inode, once the file exists.
    identity: Option<(u64, u64)>,
}

impl Watched {
    fn is_gone(&mut self) -> bool {
        let Ok(found) = std::fs::metadata(&self.path) else { return self.identity.is_some() };
        let found = (found.dev(), found.ino());
        *self.identity.get_or_insert(found) != found
    }
}

impl Watch {
    pub(in crate::store) fn new(connection: &Connection) -> Self {
        let path = connection.path();
        let watched = |path: PathBuf| {
            let mut watched = Watched { path, identity: None };
            watched.is_gone();
            watched
        };
        let files = path.map(|path| {
            let mut wal = path.as_os_str().to_owned();
            wal.push("-wal");
            [watched(path.to_owned()), watched(wal.into())]
        });
        Self { files, checked: None, warned: false }
    }

    /// [`StoreError::Vanished`] if a file was moved, deleted or replaced: SQLite would continue on the old inode, and other
    /// programs would not find the commit.
    pub(in crate::store) fn still_there(&mut self) -> Result<()> {
        for file in self.files.iter_mut().flatten() {
            if file.is_gone() {
                return Err(StoreError::Vanished(file.path.clone()));
            }
        }
        Ok(())
    }

    /// Checkpoints a long WAL; warns if a reader prevents it. Must be called between transactions.
    pub(in crate::store) fn limit_wal(&mut self, connection: &Connection, now: Instant) {
        if self.checked.is_some_and(|checked| now.saturating_duration_since(checked) < CHECK_INTERVAL) {
            return;
        }
        self.checked = Some(now);
        let length = self.wal_length();
        if length <= WAL_LIMIT {
            if std::mem::take(&mut self.warned) {
                log::info!("the database's WAL is short again");
            }
            return;
        }
        match truncate_wal(connection) {
            Ok(true) => {}
            Ok(false) if self.warned => {}
            Ok(false) => {
                self.warned = true;
                log::warn!(
                    "the database's WAL has grown to {} MiB, because another program has been reading for too long \
                     (a sqlite3 shell with an open transaction?); end that, or the disk fills up",
                    length / (1024 * 1024)
                );
            }
            Err(error) => log::debug!("the WAL cannot be checkpointed: {error}"),
        }
    }

    fn wal_length(&self) -> u64 {
        let wal = self.files.as_ref().map(|[_, wal]| &wal.path);
        wal.and_then(|path| std::fs::metadata(path).ok()).map_or(0, |found| found.len())
    }
}

/// Checkpoints and truncates the WAL; false if another connection prevents it. Never waits for a lock.
pub(in crate::store) fn truncate_wal(connection: &Connection) -> Result<bool> {
    let sqlite = connection.sqlite();
    sqlite.busy_timeout(Duration::ZERO)?;
    let busy: i64 = sqlite.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    Ok(busy == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open::{open_in_memory, open_reader, open_writer};

    #[test]
    fn a_moved_or_replaced_file_is_detected_and_so_is_its_return() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("a.db"), folder.path().join("b.db"));
        let db = open_writer(&path, 0o600).unwrap();
        let mut watch = Watch::new(&db);
        assert!(watch.still_there().is_ok());
        std::fs::rename(&path, &moved).unwrap();
        assert!(matches!(watch.still_there(), Err(StoreError::Vanished(gone)) if gone == path));
        std::fs::write(&path, "").unwrap();
        assert!(watch.still_there().is_err(), "another file under the same name");
        std::fs::rename(&moved, &path).unwrap();
        assert!(watch.still_there().is_ok());
        assert!(Watch::new(&open_in_memory().unwrap()).still_there().is_ok());
    }

    #[test]
    fn a_long_wal_is_truncated_as_soon_as_no_reader_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let db = open_writer(&path, 0o600).unwrap();
        let mut watch = Watch::new(&db);
        let reader = open_reader(&path).unwrap();
        reader.script("BEGIN; SELECT count(*) FROM members").unwrap();
        db.sqlite().pragma_update(None, "synchronous", "OFF").unwrap();
        db.script(
            "CREATE TABLE filling (text);
             WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 70)
             INSERT INTO filling SELECT zeroblob(1024 * 1024) FROM n",
        )
        .unwrap();
        let now = Instant::now();
        watch.limit_wal(&db, now);
        assert!(watch.warned && watch.wal_length() > WAL_LIMIT);
        reader.script("COMMIT").unwrap();
        watch.limit_wal(&db, now + CHECK_INTERVAL / 2);
        assert!(watch.wal_length() > WAL_LIMIT, "it is not checked all the time");
        watch.limit_wal(&db, now + CHECK_INTERVAL);
        assert_eq!(watch.wal_length(), 0);
        watch.limit_wal(&db, now + CHECK_INTERVAL * 2);
        assert!(!watch.warned);
    }
}
