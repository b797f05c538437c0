//! The file beside the database that the daemon holds locked, and at which commands knock.
//!
//! A command that has written something opens it for writing and closes it, of which the kernel (inotify(7)) tells the
//! daemon: so it need not ask the database every second. No signal: the pid in the database may be another
//! process's, where the daemon is in a container.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::StartError;
use crate::store::StoreError;

/// One daemon for one database. The lock is on a file beside it, which stays: closing any descriptor of
/// the database itself would drop SQLite's own locks.
///
/// # Errors
/// [`StartError::Taken`], or what the system says.
pub fn lock(database: &Path, mode: u32) -> Result<File, StartError> {
    let path = path(database);
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(mode).open(&path);
    let file =
        file.map_err(|error| StoreError::CannotOpen { path: path.clone(), reason: error.to_string() })?;
    // A command that looks whether a daemon is running holds the lock for a moment.
    for _ in 0..20 {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
            Err(TryLockError::Error(error)) => return Err(StartError::System(error)),
        }
    }
    Err(StartError::Taken(database.to_owned()))
}

fn path(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

/// Whether a daemon works with this database now.
#[must_use]
pub fn is_running(database: &Path) -> bool {
    match File::open(path(database)) {
        Ok(file) => matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)),
        Err(_) => false,
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
    drop(OpenOptions::new().write(true).open(path(database)));
}
