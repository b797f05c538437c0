//! What can go wrong with the database, by what somebody can do about it.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use super::holders;

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such file.
    #[error("{0}: there is no database yet; `wecom-dirsync run` makes one")]
    Missing(PathBuf),
    /// The file cannot be made or opened.
    #[error(
        "{path}: cannot open the database: {reason}; check that its folder exists and belongs to the service's user"
    )]
    CannotOpen {
        /// The database.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// SQLite, but made by something else, or not SQLite at all.
    #[error("{0}: this is not a database of wecom-dirsync; point [database] path to another file")]
    NotOurs(PathBuf),
    /// Something else than a regular file.
    #[error("{path}: this is {what}, not a database; point [database] path to a file")]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// Such as `a folder`.
        what: &'static str,
    },
    /// The file has several names, so another daemon could open it under another one.
    #[error(
        "{path}: this file has {links} hard links, and two daemons could open it under two names; delete the others (find -samefile), or copy the database"
    )]
    HardLinked {
        /// The path.
        path: PathBuf,
        /// Its number of links.
        links: u64,
    },
    /// Another daemon has the same file open, under this name or another.
    #[error("{path}: {holders} works with this database already; stop it first")]
    InUse {
        /// The path.
        path: PathBuf,
        /// Who.
        holders: String,
    },
    /// Made by a newer version.
    #[error(
        "{path}: the database has schema {found}, this version knows up to {known}; install the newer version again"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// Made by an older version; only the daemon migrates.
    #[error(
        "{path}: the database has the older schema {found}; start the daemon of this version once, it brings it up to date"
    )]
    Older {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: i64,
    },
    /// Another program holds a lock for too long.
    #[error(
        "the database is locked by another program (a sqlite3 shell with an open transaction?); end that transaction"
    )]
    Locked,
    /// As [`StoreError::Locked`], and by whom.
    #[error("the database is locked by another program: {0}; end its transaction, or the program")]
    LockedBy(String),
    /// Reading takes files beside the database, which cannot be made.
    #[error(
        "the database's folder cannot be written to, which even reading takes while no daemon runs; become the service's user (sudo -u wecom-dirsync ..)"
    )]
    NoWriteAccess,
    /// No room.
    #[error("the disk is full; make room on the file system of the database")]
    Full,
    /// The file is not where it was opened.
    #[error(
        "{0} was moved away, deleted or replaced while the daemon had it open; put the same file back, or restart the service to go on with what is there"
    )]
    Vanished(PathBuf),
    /// The content makes no sense.
    #[error(
        "the database is damaged ({0}); stop the service, move the files of the database away, and put a copy in their place or start with none: it fills itself from WeCom"
    )]
    Damaged(String),
    /// The disk does not do what it should.
    #[error("the disk of the database fails ({0}); look at the system's log (dmesg)")]
    Disk(String),
    /// The writer has stopped, because the daemon is ending.
    #[error("the database is being closed")]
    Closed,
    /// Anything else that SQLite says.
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
    /// Whether the error lies in what was to be written, not in the database: the same again fails again.
    #[must_use]
    pub fn is_of_the_data(&self) -> bool {
        match self {
            Self::Sqlite(error) => matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
            ),
            _ => false,
        }
    }

    /// For `map_err`: the file under this path cannot be opened.
    pub(crate) fn cannot_open<E: ToString>(path: &Path) -> impl Fn(E) -> Self {
        move |error| Self::CannotOpen { path: path.to_owned(), reason: error.to_string() }
    }

    /// If the database is locked: the same, with the processes that hold the lock, if any are found.
    #[must_use]
    pub(super) fn with_holders(self, database: Option<&Path>) -> Self {
        match (&self, database) {
            (Self::Locked, Some(database)) => {
                let holders = holders::list(&holders::of_database(database));
                if holders.is_empty() { self } else { Self::LockedBy(holders) }
            }
            _ => self,
        }
    }

    /// A copy to tell several people of.
    #[must_use]
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
