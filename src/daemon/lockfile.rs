//! The file beside the database that the daemon holds locked, and at which commands knock.
//!
//! A command that has written something opens it for writing and closes it, of which the kernel (inotify(7)) tells the
//! daemon: so it need not ask the database every second. No signal: the pid in the database may be another
//! process's, where the daemon is in a container.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use rustix::fs::OFlags;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::StartError;
use crate::directory::UnixSeconds;
use crate::store::file::{real_path, refuse_foreign};
use crate::store::holders::{flock_holder, is_flocked};
use crate::store::{StoreError, epoch};

/// One daemon for one database. The lock is on a file beside it, which stays: closing any descriptor of
/// the database itself would drop SQLite's own locks. Only the owner may open it, so that no reader of the
/// database can hold it.
///
/// # Errors
/// [`StartError::Taken`], or what the system says.
pub fn lock(database: &Path) -> Result<File, StartError> {
    refuse_foreign(database)?;
    let path = path(database);
    let cannot = |reason: String| StoreError::CannotOpen { path: path.clone(), reason };
    let file = options().create(true).truncate(false).read(true).write(true).mode(0o600).open(&path);
    let file = file.map_err(|error| cannot(error.to_string()))?;
    let found = file.metadata()?;
    if !found.is_file() || found.nlink() != 1 {
        return Err(cannot("it is not a regular file with one name; delete it".into()).into());
    }
    // A command that looks whether a daemon is running holds the lock for a moment.
    for _ in 0..20 {
        match file.try_lock() {
            Ok(()) => {
                if found.permissions().mode() & 0o7777 != 0o600 {
                    let set = file.set_permissions(Permissions::from_mode(0o600));
                    set.map_err(|error| cannot(format!("its mode cannot be set: {error}")))?;
                }
                return Ok(file);
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
            Err(TryLockError::Error(error)) => return Err(StartError::System(error)),
        }
    }
    if let Some(holder) = flock_holder(&path) {
        log::error!("{} is locked by {holder}", path.display());
    }
    Err(StartError::Taken(database.to_owned()))
}

/// Compares the database with the highest change number that the lock file remembers: a lower one of the same epoch is
/// that of an older copy, which begins another epoch. What it returns keeps the file's memory up to date.
///
/// The memory is written after each commit without a sync: a power failure may lose that of the last seconds, never
/// more, and so never begins an epoch without need.
///
/// # Errors
/// Whatever SQLite says.
pub fn watch_position(
    lock: &File,
    connection: &Connection,
    now: UnixSeconds,
) -> Result<impl FnMut(i64) + Send + 'static, StartError> {
    let file = lock.try_clone()?;
    let mut found = epoch::position(connection).map_err(StoreError::from)?;
    let mut text = String::new();
    let _ = (&file).take(MEMORY).read_to_string(&mut text);
    if let Some((known, last)) = remembered(&text)
        && known == found.epoch
        && found.last < last
    {
        found.epoch = epoch::begin(connection, now).map_err(StoreError::from)?;
        log::warn!(
            "an older copy of the database was put back: change {last} was given before, its last is {}; \
             the change feed begins epoch {}, and its consumers must start over",
            found.last,
            found.epoch
        );
    }
    let mut written = None;
    let mut remember = move |last: i64| {
        if written != Some(last) {
            // The descriptor stays open: closing it would be a knock.
            let line = format!("epoch={} last_change={last:020}\n", found.epoch);
            if file.write_all_at(line.as_bytes(), 0).is_ok() {
                written = Some(last);
            }
        }
    };
    remember(found.last);
    Ok(remember)
}

/// Longest content of the lock file, in bytes.
const MEMORY: u64 = 256;

/// Epoch and highest change number.
fn remembered(text: &str) -> Option<(&str, i64)> {
    let (epoch, last) = text.lines().next()?.strip_prefix("epoch=")?.split_once(" last_change=")?;
    Some((epoch, last.parse().ok()?))
}

/// Opens neither through a link nor with a wait for a FIFO's other end.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY;
    options.custom_flags(i32::try_from(flags.bits()).unwrap_or(0));
    options
}

fn path(database: &Path) -> PathBuf {
    let mut path = real_path(database).into_os_string();
    path.push(".lock");
    path.into()
}

/// Whether a daemon works with this database now. Those who may not open the lock file see it in /proc/locks.
#[must_use]
pub fn is_running(database: &Path) -> bool {
    let path = path(database);
    match options().read(true).open(&path) {
        Ok(file) => matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => is_flocked(&path),
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
    drop(options().write(true).open(path(database)));
}
