//! What SQLite does not tell of its files: that they are no longer where they were, and that the WAL grows.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::store::error::StoreError;

/// A WAL that is longer than this (bytes) should have been emptied long ago: SQLite does so at 4 MB, unless
/// somebody reads.
const LONG: u64 = 64 * 1024 * 1024;
/// The WAL's length is looked at so often at most.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Watches the files of one database, for the writer that has it open.
pub(in crate::store) struct Watch {
    /// The database, and the WAL beside it; none for a database in memory.
    files: Option<[Watched; 2]>,
    looked: Option<Instant>,
    warned: bool,
}

struct Watched {
    path: PathBuf,
    /// Device and inode, once it has been seen.
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
        let path = connection.path().filter(|path| !path.is_empty() && *path != ":memory:").map(Path::new);
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
        Self { files, looked: None, warned: false }
    }

    /// Whether what was just committed is where everybody else will look for it. SQLite goes on with a file
    /// that was deleted or moved away as if nothing had happened.
    pub(in crate::store) fn still_there(&mut self) -> Result<(), StoreError> {
        for file in self.files.iter_mut().flatten() {
            if file.is_gone() {
                return Err(StoreError::Vanished(file.path.clone()));
            }
        }
        Ok(())
    }

    /// Empties a WAL that has become long; says so if that cannot be, because somebody has been reading for too
    /// long. Between transactions only.
    pub(in crate::store) fn bound_the_wal(&mut self, connection: &Connection, now: Instant) {
        if self.looked.is_some_and(|looked| now.saturating_duration_since(looked) < LOOK_AGAIN) {
            return;
        }
        self.looked = Some(now);
        let length = self.wal_length();
        if length <= LONG {
            if std::mem::take(&mut self.warned) {
                log::info!("the database's WAL is short again");
            }
            return;
        }
        match empty_the_wal(connection) {
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
            Err(error) => log::debug!("the WAL cannot be emptied: {error}"),
        }
    }

    fn wal_length(&self) -> u64 {
        let wal = self.files.as_ref().map(|[_, wal]| &wal.path);
        wal.and_then(|path| std::fs::metadata(path).ok()).map_or(0, |found| found.len())
    }
}

/// Whether nobody kept it from that. Waits for nobody.
pub(in crate::store) fn empty_the_wal(connection: &Connection) -> rusqlite::Result<bool> {
    connection.busy_timeout(Duration::ZERO)?;
    let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    Ok(busy == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open::{open_in_memory, open_reader, open_writer};

    #[test]
    fn a_file_that_is_moved_away_or_replaced_is_noticed_and_so_is_its_return() {
        let folder = tempfile::tempdir().unwrap();
        let (path, aside) = (folder.path().join("a.db"), folder.path().join("b.db"));
        let db = open_writer(&path, 0o600).unwrap();
        let mut watch = Watch::new(&db);
        assert!(watch.still_there().is_ok());
        std::fs::rename(&path, &aside).unwrap();
        assert!(matches!(watch.still_there(), Err(StoreError::Vanished(gone)) if gone == path));
        std::fs::write(&path, "").unwrap();
        assert!(watch.still_there().is_err(), "another file under the same name");
        std::fs::rename(&aside, &path).unwrap();
        assert!(watch.still_there().is_ok());
        assert!(Watch::new(&open_in_memory().unwrap()).still_there().is_ok());
    }

    #[test]
    fn a_long_wal_is_emptied_as_soon_as_nobody_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let db = open_writer(&path, 0o600).unwrap();
        let mut watch = Watch::new(&db);
        let reader = open_reader(&path).unwrap();
        reader.execute_batch("BEGIN; SELECT count(*) FROM members").unwrap();
        db.pragma_update(None, "synchronous", "OFF").unwrap();
        db.execute_batch(
            "CREATE TABLE filling (text);
             WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 70)
             INSERT INTO filling SELECT zeroblob(1024 * 1024) FROM n",
        )
        .unwrap();
        let now = Instant::now();
        watch.bound_the_wal(&db, now);
        assert!(watch.warned && watch.wal_length() > LONG);
        reader.execute_batch("COMMIT").unwrap();
        watch.bound_the_wal(&db, now + LOOK_AGAIN / 2);
        assert!(watch.wal_length() > LONG, "it is not looked at all the time");
        watch.bound_the_wal(&db, now + LOOK_AGAIN);
        assert_eq!(watch.wal_length(), 0);
        watch.bound_the_wal(&db, now + LOOK_AGAIN * 2);
        assert!(!watch.warned);
    }
}
