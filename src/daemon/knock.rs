//! How a command that has written something beside the daemon has it looked at, at once.
//!
//! The command opens the lock file for writing and closes it; the daemon has the kernel (inotify(7)) tell it of that, so it
//! need not ask the database every second. No signal: the pid in the database may be another process's, where the
//! daemon is in a container.

use std::fs::OpenOptions;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

/// A lock file that is watched; what happens is kept until somebody listens.
pub(super) struct Door {
    inotify: OwnedFd,
    watch: i32,
}

impl Door {
    /// Watches this lock file, which must exist.
    ///
    /// # Errors
    /// If the system refuses: the file system cannot, or the user watches too much already.
    pub(super) fn watch(lock: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC)?;
        let watch = inotify::add_watch(&inotify, lock, WatchFlags::CLOSE_WRITE)?;
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

/// Does it.
pub(super) fn at(lock: &Path) {
    // Where it cannot be done, the daemon looks by itself before long.
    drop(OpenOptions::new().write(true).open(lock));
}
