//! The file beside the database that the daemon holds locked, and at which commands knock.
//!
//! A command that has written something opens it for writing and closes it, of which the kernel (inotify(7)) tells the
//! daemon: so it need not ask the database every second. No signal: the pid in the database may be another
//! process's, where the daemon is in a container.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::fs::OFlags;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::StartError;
use crate::store::file::{beside, flags, is_trusted, open_for_good, set_mode, try_lock};
use crate::store::{StoreError, holders};

/// The lock file is no symbolic link, and opening it never blocks.
const FLAGS: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK);

/// One daemon for one database: locks the file beside it, which stays. Only the daemon's user can open it, so no reader
/// of the database can hold its lock.
///
/// # Errors
/// [`StartError::Taken`], or what the system says.
pub fn lock(database: &Path) -> Result<File, StartError> {
    let path = path(database);
    // A second time, if the first file was one that a reader could lock.
    for _ in 0..2 {
        let file = open(&path).map_err(StoreError::cannot_open(&path))?;
        if try_lock(&file)? {
            return Ok(file);
        }
        let holders = holders::of_file(&path);
        if holders.is_empty() || holders.iter().any(is_trusted) {
            break;
        }
        let who = holders::list(&holders);
        log::warn!("{}: {who} of another user has locked this file; it is replaced", path.display());
        std::fs::remove_file(&path)?;
    }
    Err(StartError::Taken(database.to_owned()))
}

/// Opens the lock file, or makes it, for its owner only.
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

/// Whether a daemon works with this database now.
#[must_use]
pub fn is_running(database: &Path) -> bool {
    let path = path(database);
    match OpenOptions::new().read(true).custom_flags(flags(FLAGS)).open(&path) {
        Ok(file) => is_locked(&file),
        // A reader of the database may not open the lock file. Only its owner can have locked it; and the daemon locks
        // the database's file, too.
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

/// The file, watched; what happens is kept until somebody listens.
pub(super) struct Door {
    inotify: OwnedFd,
    watch: i32,
}

impl Door {
    /// Watches the lock file of this database, which must exist.
    ///
    /// # Errors
    /// If the system refuses: the file system cannot, or the user watches too much already.
    pub(super) fn watch(database: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC)?;
        let watch = inotify::add_watch(&inotify, path(database), WatchFlags::CLOSE_WRITE)?;
        Ok(Self { inotify, watch })
    }

    /// Calls `heard` for each knock.
    ///
    /// # Errors
    /// If no thread can be had.
    pub(super) fn listen(self, heard: impl Fn() + Send + 'static) -> io::Result<Knocks> {
        let door = Arc::new(self);
        let at = Arc::clone(&door);
        let thread = std::thread::Builder::new().name("knocks".into()).spawn(move || {
            if let Err(error) = hear(&at.inotify, heard) {
                log::warn!("commands beside the daemon are heard late from now on: {error}");
            }
        })?;
        Ok(Knocks { door, thread })
    }
}

/// The thread that hears it.
pub(super) struct Knocks {
    door: Arc<Door>,
    thread: JoinHandle<()>,
}

impl Knocks {
    /// Ends the thread.
    pub(super) fn stop(self) {
        // The kernel tells the reader that the watch is gone.
        let removed = inotify::remove_watch(&self.door.inotify, self.door.watch);
        if removed.is_ok() && self.thread.join().is_err() {
            log::error!("the thread that hears commands ended in a panic; please report this");
        }
    }
}

fn hear(fd: &OwnedFd, heard: impl Fn()) -> io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 512];
    let mut events = inotify::Reader::new(fd, &mut buffer);
    loop {
        match events.next() {
            Ok(event) if event.events().contains(ReadFlags::IGNORED) => return Ok(()),
            Ok(_) => heard(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Has the daemon, if one runs, look at once at what a command has committed.
pub fn knock(database: &Path) {
    // Where it cannot be done, the daemon looks by itself before long.
    drop(OpenOptions::new().write(true).custom_flags(flags(FLAGS)).open(path(database)));
}
