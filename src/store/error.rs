//! Errors of the database, one variant per remedy.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use super::holders;
use crate::system_error::{Operation, explain};

/// A failed operation on the database. The text names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file does not exist yet.
    #[error("{0}: there is no database yet; `wecom-dirsync run` creates it")]
    Missing(PathBuf),
    /// The file cannot be created or opened.
    #[error("{path}: cannot open the database: {reason}")]
    CannotOpen { path: PathBuf, reason: String },
    /// Not SQLite, or a database of another program.
    #[error("{0}: this is not a database of wecom-dirsync; point [database] path to another file")]
    NotOurs(PathBuf),
    /// The path leads to something other than a regular file.
    #[error("{path}: this is {what}, not a database; point [database] path to a file")]
    NotAFile { path: PathBuf, what: &'static str },
    /// The file has several names, so a second daemon could open it under another one.
    #[error(
        "{path}: this file has {links} hard links, and two daemons could open it under two names; delete the others (find -samefile), or copy the database"
    )]
    HardLinked { path: PathBuf, links: u64 },
    /// Another daemon has the same file open, under this name or another.
    #[error("{path}: {holders} works with this database already; stop it first")]
    InUse { path: PathBuf, holders: String },
    /// A newer version of this program wrote the database.
    #[error(
        "{path}: the database has schema {found}, this version knows up to {known}; install the newer version again"
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    /// An older version wrote the database; only the daemon migrates it.
    #[error(
        "{path}: the database has the older schema {found}; start the daemon of this version once to migrate it"
    )]
    Older { path: PathBuf, found: i64 },
    /// Another program holds a lock for too long.
    #[error(
        "the database is locked by another program (a sqlite3 shell with an open transaction?); end that transaction"
    )]
    Locked,
    /// As [`StoreError::Locked`], with the processes that hold the lock.
    #[error("the database is locked by another program: {0}; end its transaction, or the program")]
    LockedBy(String),
    /// Files beside the database cannot be created; even reading requires them.
    #[error(
        "the database's folder is not writable, which even reading requires while no daemon runs; run the command as the service's user (sudo -u wecom-dirsync ..)"
    )]
    NoWriteAccess,
    /// The file system has no free space.
    #[error("the disk is full; make room on the file system of the database")]
    Full,
    /// The file is no longer at the path where it was opened.
    #[error(
        "{0} was moved away, deleted or replaced while the daemon had it open; put the same file back, or restart the service to continue with the present file"
    )]
    Vanished(PathBuf),
    /// SQLite finds the file corrupt.
    #[error(
        "the database is damaged ({0}); stop the service, move the files of the database away, and put a copy in their place, or start without a database: the service fills it from WeCom"
    )]
    Damaged(String),
    /// Reading or writing the file fails with an I/O error.
    #[error("the disk of the database fails ({0}); check the system's log (dmesg)")]
    Disk(String),
    /// The writer has stopped, because the daemon shuts down.
    #[error("the database is being closed")]
    Closed,
    /// The program panicked on the data to write.
    #[error("the program failed on this data; please report it")]
    Panicked,
    /// A column contains what no table has.
    #[error("the database has an unreadable value in column {0}; run `wecom-dirsync check --database`")]
    Unreadable(String),
    /// Any other error of SQLite.
    #[error("the database failed: {0}")]
    Sqlite(#[source] rusqlite::Error),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked,
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::ReadOnly) => Self::NoWriteAccess,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(error.to_string()),
            Some(ErrorCode::SystemIoFailure) => Self::Disk(error.to_string()),
            _ => Self::Sqlite(error),
        }
    }
}

impl StoreError {
    /// Whether the error is caused by the data to write, so that a retry fails alike.
    #[must_use]
    pub fn is_of_the_data(&self) -> bool {
        match self {
            Self::Panicked => true,
            Self::Sqlite(error) => matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
            ),
            _ => false,
        }
    }

    /// For `map_err`: converts an error about this path.
    pub(crate) fn cannot_open(path: &Path) -> impl Fn(std::io::Error) -> Self {
        move |error| Self::CannotOpen {
            path: path.to_owned(),
            reason: explain(Operation::OpenDatabase, &error),
        }
    }

    /// Adds the processes that hold the lock, if the database is locked and any are found.
    pub(super) fn with_holders(self, database: Option<&Path>) -> Self {
        match (&self, database) {
            (Self::Locked, Some(database)) => {
                let holders = holders::list(&holders::of_database(database));
                if holders.is_empty() { self } else { Self::LockedBy(holders) }
            }
            _ => self,
        }
    }

    /// A copy of the error for another caller.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Locked => Self::Locked,
            Self::LockedBy(holders) => Self::LockedBy(holders.clone()),
            Self::InUse { path, holders } => Self::InUse { path: path.clone(), holders: holders.clone() },
            Self::NotAFile { path, what } => Self::NotAFile { path: path.clone(), what },
            Self::HardLinked { path, links } => Self::HardLinked { path: path.clone(), links: *links },
            Self::Full => Self::Full,
            Self::NoWriteAccess => Self::NoWriteAccess,
            Self::Closed => Self::Closed,
            Self::Panicked => Self::Panicked,
            Self::Unreadable(column) => Self::Unreadable(column.clone()),
            Self::Vanished(path) => Self::Vanished(path.clone()),
            Self::Damaged(what) => Self::Damaged(what.clone()),
            Self::Disk(what) => Self::Disk(what.clone()),
            Self::Missing(path) => Self::Missing(path.clone()),
            Self::NotOurs(path) => Self::NotOurs(path.clone()),
            Self::CannotOpen { path, reason } => {
                Self::CannotOpen { path: path.clone(), reason: reason.clone() }
            }
            Self::Newer { path, found, known } => {
                Self::Newer { path: path.clone(), found: *found, known: *known }
            }
            Self::Older { path, found } => Self::Older { path: path.clone(), found: *found },
            Self::Sqlite(error) => Self::Sqlite(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(error.sqlite_error().map_or(1, |e| e.extended_code)),
                Some(error.to_string()),
            )),
        }
    }
}
