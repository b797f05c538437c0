//! The database file: identification before any change, lock, and access mode.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::OFlags;

use super::error::StoreError;
use super::holders::{self, Holder};

/// Identifies databases of this program (`PRAGMA application_id`): "WDSy".
pub(super) const APPLICATION_ID: u32 = 0x5744_5379;

/// The first bytes of every SQLite database.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Length of a database's header, and the offset of the application id in it (SQLite file format, 1.3).
const HEADER: usize = 100;
const USER_VERSION_AT: usize = 60;
const APPLICATION_ID_AT: usize = 68;

/// Attempts to take a lock, 10 ms apart.
const LOCK_TRIES: u32 = 20;

/// The folder of a file; that of a bare name is `.`.
pub(crate) fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The path with symbolic links resolved: SQLite names its other files after it.
pub(crate) fn resolved(path: &Path) -> PathBuf {
    if let Ok(resolved) = path.canonicalize() {
        return resolved;
    }
    let name = path.file_name().map(Path::new);
    match (folder_of(path).canonicalize(), name) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

/// The file beside the database with this suffix, such as `-wal`.
pub(crate) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = resolved(database).into_os_string();
    path.push(suffix);
    path.into()
}

/// Checks that the path is free, an empty file, or a database of this program. Changes nothing.
pub(crate) fn recognise(path: &Path) -> Result<(), StoreError> {
    let cannot = StoreError::cannot_open(path);
    if !is_there(path, std::fs::metadata(path))? {
        return Ok(());
    }
    let opened = open_for_good(path).map_err(&cannot)?;
    if is_ours_or_empty(&opened).map_err(&cannot)? {
        Ok(())
    } else {
        Err(StoreError::NotOurs(path.to_owned()))
    }
}

/// The schema version in the header of a file that [`recognise`] accepts; `None` if there is no file or an empty one. The WAL
/// may have a later one. [`StoreError::Newer`]: of a later version of this program.
pub(crate) fn version_in_header(path: &Path) -> Result<Option<i64>, StoreError> {
    let cannot = StoreError::cannot_open(path);
    if !is_there(path, std::fs::metadata(path))? {
        return Ok(None);
    }
    let mut header = [0; HEADER];
    let length = open_for_good(path).and_then(|file| read_at_most(&file, &mut header)).map_err(&cannot)?;
    let bytes = header.get(USER_VERSION_AT..USER_VERSION_AT + 4).filter(|_| length == HEADER);
    let Some(found) = bytes.and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes) else {
        return Ok(None);
    };
    let (found, known) = (i64::from(found), super::open::known_version());
    if found > known {
        Err(StoreError::Newer { path: path.to_owned(), found, known })
    } else {
        Ok(Some(found))
    }
}

/// Inspected databases, by device and inode. Never closed, because closing any descriptor of a file drops the locks that
/// SQLite holds on it in this process (POSIX).
static OPEN: Mutex<BTreeMap<(u64, u64), Arc<File>>> = Mutex::new(BTreeMap::new());

/// Opens a database's file for inspection, and keeps it open until the process ends.
pub(crate) fn open_for_good(path: &Path) -> io::Result<Arc<File>> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let found = std::fs::metadata(path)?;
    if let Some(file) = open.get(&(found.dev(), found.ino())) {
        return Ok(Arc::clone(file));
    }
    let flags = flags(OFlags::NONBLOCK | OFlags::NOCTTY);
    let file = Arc::new(OpenOptions::new().read(true).custom_flags(flags).open(path)?);
    let opened = file.metadata()?;
    let kept = Arc::clone(open.entry((opened.dev(), opened.ino())).or_insert_with(|| Arc::clone(&file)));
    // The path may lead to a known file by now.
    std::mem::forget(file);
    Ok(kept)
}

/// Opens or creates the database's file, locks it (see [`lock_inode`]), and sets the mode of all files of the database.
///
/// Accepts only a regular file with one link that is empty or a database of this program; on an error, nothing is changed.
/// The file must stay open until SQLite has closed the database: closing any descriptor drops SQLite's locks (POSIX).
pub(crate) fn claim(path: &Path, mode: u32) -> Result<File, StoreError> {
    let cannot = StoreError::cannot_open(path);
    // Opening a device or a pipe may have an effect.
    is_there(path, std::fs::metadata(path))?;
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .read(true)
        .mode(mode)
        .custom_flags(flags(OFlags::NONBLOCK | OFlags::NOCTTY))
        .open(path)
        .map_err(&cannot)?;
    let found = file.metadata().map_err(&cannot)?;
    regular(path, &found)?;
    if !is_ours_or_empty(&file).map_err(&cannot)? {
        return Err(StoreError::NotOurs(path.to_owned()));
    }
    lock_inode(&file, path)?;
    set_mode(&file, mode).map_err(&cannot)?;
    for suffix in ["-wal", "-shm", "-journal"] {
        set_mode_of(&beside(path, suffix), mode)?;
    }
    Ok(file)
}

/// Locks the file itself (flock), so that no second daemon opens it under another name or after the lock file was removed.
/// Locks of other users are ignored, because any user with read access could prevent the start. [`StoreError::InUse`]: a
/// process of this user or of root holds the lock.
fn lock_inode(file: &File, path: &Path) -> Result<(), StoreError> {
    match try_lock(file) {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(error) => {
            log::debug!("the database's file cannot be locked: {error}");
            return Ok(());
        }
    }
    let holders = holders::of_file(path);
    if holders.iter().any(is_trusted) {
        let trusted: Vec<_> = holders.into_iter().filter(is_trusted).collect();
        return Err(StoreError::InUse { path: path.to_owned(), holders: holders::list(&trusted) });
    }
    if !holders.is_empty() {
        let who = holders::list(&holders);
        log::warn!("{}: {who} of another user has locked the file; the lock is ignored", path.display());
    }
    Ok(())
}

/// Locks a file (flock); false if another process holds the lock for longer than a command that checks for a daemon.
pub(crate) fn try_lock(file: &File) -> io::Result<bool> {
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(false)
}

/// Whether the process belongs to this process's user or to root.
pub(crate) fn is_trusted(holder: &Holder) -> bool {
    holder.uid.is_some_and(|uid| uid == 0 || uid == rustix::process::geteuid().as_raw())
}

/// Converts flags for `OpenOptions::custom_flags`.
pub(crate) fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

/// Whether the file is a mount point, as with `docker -v FILE:FILE`: SQLite's other files would stay behind.
fn is_mount_point(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS)
        .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Accepts only a regular file with one link: two daemons could open a linked file under two names.
fn regular(path: &Path, found: &std::fs::Metadata) -> Result<(), StoreError> {
    let kind = found.file_type();
    let what = match kind {
        kind if kind.is_file() && is_mount_point(path) => {
            "a mount point of its own (mount its folder instead)"
        }
        kind if kind.is_file() => {
            return match found.nlink() {
                1 => Ok(()),
                links => Err(StoreError::HardLinked { path: path.to_owned(), links }),
            };
        }
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_block_device() || kind.is_char_device() => "a device",
        _ => "not a file",
    };
    Err(StoreError::NotAFile { path: path.to_owned(), what })
}

/// Whether the file exists; an error unless it is a regular file with one link.
fn is_there(path: &Path, found: io::Result<std::fs::Metadata>) -> Result<bool, StoreError> {
    match found {
        Ok(found) => regular(path, &found).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::cannot_open(path)(error)),
    }
}

fn is_ours_or_empty(file: &File) -> io::Result<bool> {
    let mut header = [0; HEADER];
    let length = read_at_most(file, &mut header)?;
    let id = header.get(APPLICATION_ID_AT..APPLICATION_ID_AT + 4);
    Ok(length == 0
        || (length == HEADER && header.starts_with(MAGIC) && id == Some(&APPLICATION_ID.to_be_bytes())))
}

/// Reads the beginning of a file into the buffer; returns the number of bytes read.
pub(super) fn read_at_most(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    read_chunk(file, buffer, 0)
}

/// As [`read_at_most`], from the byte `start` on.
pub(super) fn read_chunk(file: &File, buffer: &mut [u8], start: u64) -> io::Result<usize> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, start + length as u64) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// Sets a file's mode, unless the file has it already.
pub(crate) fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    if file.metadata()?.permissions().mode() & 0o7777 == mode {
        return Ok(());
    }
    file.set_permissions(Permissions::from_mode(mode))
}

/// Sets the mode of one of SQLite's other files, if it exists.
fn set_mode_of(path: &Path, mode: u32) -> Result<(), StoreError> {
    let cannot = StoreError::cannot_open(path);
    if !is_there(path, std::fs::symlink_metadata(path))? {
        return Ok(());
    }
    let opened =
        OpenOptions::new().read(true).custom_flags(flags(OFlags::NONBLOCK | OFlags::NOFOLLOW)).open(path);
    let file = match opened {
        Ok(file) => file,
        // SQLite removes the file when the last process closes the database.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot(error)),
    };
    regular(path, &file.metadata().map_err(&cannot)?)?;
    set_mode(&file, mode).map_err(&cannot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_file_that_is_not_ours_is_refused_untouched() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("text"), "hello").unwrap();
        Connection::open(at("other.db")).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        std::fs::write(at("cut.db"), b"SQLite format 3\0").unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        std::fs::write(at("one"), "").unwrap();
        std::fs::hard_link(at("one"), at("two")).unwrap();
        std::os::unix::fs::symlink(at("text"), at("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for name in ["text", "other.db", "cut.db", "folder", "one", "two", "link", "socket"] {
            let before = (mode(&at(name)), std::fs::read(at(name)).ok());
            assert!(claim(&at(name), 0o600).is_err(), "{name}");
            assert_eq!((mode(&at(name)), std::fs::read(at(name)).ok()), before, "{name}");
        }
        let before = mode(Path::new("/dev/null"));
        assert!(matches!(claim(Path::new("/dev/null"), 0o600), Err(StoreError::NotAFile { .. })));
        assert_eq!(mode(Path::new("/dev/null")), before);
        let left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 8, "{left:?}");
    }

    #[test]
    fn the_mode_is_that_of_the_files_beside_the_database_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        for suffix in ["", "-wal", "-shm"] {
            std::fs::write(beside(&path, suffix), "").unwrap();
            std::fs::set_permissions(beside(&path, suffix), Permissions::from_mode(0o644)).unwrap();
        }
        claim(&path, 0o640).unwrap();
        let modes = ["", "-wal", "-shm"].map(|suffix| mode(&beside(&path, suffix)));
        assert_eq!(modes, [0o640; 3]);
    }

    #[test]
    fn a_symbolic_link_leads_to_the_files_beside_its_target() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real.db"), folder.path().join("link.db"));
        std::fs::write(&real, "").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        claim(&link, 0o600).unwrap();
        assert_eq!(beside(&link, ".lock"), beside(&real, ".lock"));
    }
}
