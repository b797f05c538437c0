//! The lock file beside the database: one daemon for one database.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::StartError;
use crate::store::StoreError;
use crate::store::file::{beside, flags, is_trusted, open_for_good, set_mode, try_lock};
use crate::store::holders::{self, Holder};

/// The lock file is no symbolic link, and opening it never blocks.
const FLAGS: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK);

/// Locks the file beside the database. The file stays, and only the daemon's user can open it, so that no reader of the
/// database can hold its lock. [`StartError::Taken`]: another daemon runs.
pub(crate) fn lock(database: &Path) -> Result<File, StartError> {
    let path = path(database);
    // The second time after a file that a reader could lock was replaced.
    for _ in 0..2 {
        let file = open(&path).map_err(StoreError::cannot_open(&path))?;
        if try_lock(&file)? {
            return Ok(file);
        }
        let holders = holders::of_file(&path);
        // The sandbox of a unit hides the processes of others, root's included (ProtectProc=invisible).
        let may_be_trusted = |holder: &Holder| holder.uid.is_none() || is_trusted(holder);
        if holders.is_empty() || holders.iter().any(may_be_trusted) {
            break;
        }
        let who = holders::list(&holders);
        log::warn!("{}: {who} of another user has locked this file; it is replaced", path.display());
        std::fs::remove_file(&path)?;
    }
    Err(StartError::Taken(database.to_owned()))
}

/// Opens or creates the lock file with mode 0600.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true).mode(0o600);
    let file = options.custom_flags(flags(FLAGS)).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.nlink() != 1 {
        return Err(io::Error::other("it is not a regular file with one link; remove it"));
    }
    set_mode(&file, 0o600)?;
    Ok(file)
}

fn path(database: &Path) -> PathBuf {
    beside(database, ".lock")
}

/// Whether a daemon holds the lock of this database.
pub(crate) fn is_running(database: &Path) -> bool {
    let path = path(database);
    match OpenOptions::new().read(true).custom_flags(flags(FLAGS)).open(&path) {
        Ok(file) => is_locked(&file),
        // A reader of the database may not open the lock file. /proc/locks lists its lock; and the daemon locks the
        // database's file, too.
        Err(_) => {
            !holders::of_file(&path).is_empty() || open_for_good(database).is_ok_and(|file| is_locked(&file))
        }
    }
}

fn is_locked(file: &File) -> bool {
    match file.try_lock_shared() {
        Ok(()) => {
            let _ = file.unlock();
            false
        }
        Err(TryLockError::WouldBlock) => true,
        Err(TryLockError::Error(_)) => false,
    }
}
