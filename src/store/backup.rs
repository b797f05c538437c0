//! A consistent copy of the database, made while the daemon runs.

use std::path::Path;

use rusqlite::OpenFlags;
use rusqlite::backup::Backup;

use super::Result;
use super::connection::Connection;
use super::error::StoreError;
use super::open::open_file;
use super::state::{DAEMON, PAUSES, RECONCILE_PROGRESS};
use super::verify::verify;
use super::{epoch, file};

/// What a copy contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copied {
    /// The number of the last change.
    pub(crate) last_change: i64,
    /// Rows of members.
    pub(crate) members: usize,
    /// What [`verify`] found, as in the database itself.
    pub(crate) findings: Vec<String>,
}

/// Copies the database into the empty file `to`, and verifies the copy. The copy has no epoch: numbers that follow it may have
/// been given to other changes already, so a daemon that starts on it begins another one.
pub(crate) fn copy(database: &Path, to: &Path) -> Result<Copied> {
    file::recognise(database)?;
    let from = super::open_reader(database)?;
    let mut copy = open_file(to, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // All pages in one step: a writer restarts a backup in steps, and in WAL mode a reader does not block it.
    Backup::new(from.sqlite(), &mut copy)?.step(-1)?;
    drop(from);
    // One file, without a WAL beside it.
    copy.pragma_update(None, "journal_mode", "DELETE")?;
    let copy = Connection::from(copy);
    copy.transaction(|copy| -> Result<()> {
        epoch::remove(copy)?;
        DAEMON.remove(copy)?;
        PAUSES.remove(copy)?;
        RECONCILE_PROGRESS.remove(copy)
    })?;
    let found = verify(&copy, None)?;
    if let Some(damage) = found.findings.iter().find(|finding| finding.starts_with("file: ")) {
        return Err(StoreError::Damaged(damage.clone()));
    }
    let last_change = epoch::last_change(&copy)?;
    copy.close()?;
    Ok(Copied { last_change, members: found.members, findings: found.findings })
}

/// A time as `YYYYMMDD-HHMMSS`, UTC.
pub(crate) fn date_for_file(at: crate::directory::UnixSeconds) -> Result<String> {
    let clock = rusqlite::Connection::open_in_memory()?;
    Ok(clock.query_row("SELECT strftime('%Y%m%d-%H%M%S', ?1, 'unixepoch')", [at.0], |row| row.get(0))?)
}
