//! The database's file before SQLite opens it: what it is, whose it is, and who may read it.
//!
//! Nothing here changes a file that is not ours. A descriptor of the database is never closed again: closing any
//! descriptor of a file releases all POSIX locks that this process has on it, SQLite's included.

use std::collections::BTreeMap;
use std::fs::{File, FileType, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::OFlags;

use super::error::StoreError;
use super::open::{APPLICATION_ID, known_version};

/// Descriptors of databases by device and inode, kept until the process ends.
static KEPT: Mutex<BTreeMap<(u64, u64), File>> = Mutex::new(BTreeMap::new());

/// SQLite's header, and that of the first page's b-tree (<https://www.sqlite.org/fileformat2.html>).
const HEADER: usize = 108;

/// The path that SQLite uses, all symbolic links followed; its `-wal`, `-shm` and `.lock` are beside it.
#[must_use]
pub fn real_path(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (folder.canonicalize(), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

/// Refuses a file that is there and not ours, before anything is made beside it.
///
/// # Errors
/// [`StoreError::NotOurs`], [`StoreError::Newer`] or [`StoreError::CannotOpen`].
pub fn refuse_foreign(path: &Path) -> Result<(), StoreError> {
    let path = real_path(path);
    match std::fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => recognise(&path),
    }
}

/// Makes the file with mode `mode` if there is none; accepts a database of ours or an empty one, then gives it and
/// SQLite's files beside it that mode. `path` is a [`real_path`].
pub(super) fn prepare(path: &Path, mode: u32) -> Result<(), StoreError> {
    let cannot = |error: io::Error| cannot_open(path, &error.to_string());
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = OpenOptions::new().create_new(true).write(true).read(true).mode(mode).open(path);
            let made = made.map_err(cannot)?;
            keep(made).map_err(cannot)?;
        }
        Err(error) => return Err(cannot(error)),
        Ok(_) => {}
    }
    recognise(path)?;
    with_descriptor(path, |file| set_mode(file, mode)).map_err(cannot)?;
    set_modes_beside(path, mode)
}

/// Gives SQLite's files beside the database its mode: they may be older than the setting.
pub(super) fn set_modes_beside(path: &Path, mode: u32) -> Result<(), StoreError> {
    for suffix in ["-wal", "-shm", "-journal"] {
        let beside = beside(path, suffix);
        let cannot = |what: &str| cannot_open(&beside, what);
        match std::fs::symlink_metadata(&beside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(cannot(&error.to_string())),
            Ok(found) => acceptable(&found).map_err(|what| cannot(&what))?,
        }
        // -shm has locks of SQLite's, too: its mode is set by name, after the look at what it is.
        let current = std::fs::symlink_metadata(&beside).map_err(|error| cannot(&error.to_string()))?;
        if current.permissions().mode() & 0o7777 != mode {
            std::fs::set_permissions(&beside, Permissions::from_mode(mode))
                .map_err(|error| cannot(&format!("its mode cannot be set: {error}")))?;
        }
    }
    Ok(())
}

/// Accepts a database of ours or an empty file, and touches nothing. `path` is a [`real_path`].
pub(super) fn recognise(path: &Path) -> Result<(), StoreError> {
    let cannot = |error: io::Error| cannot_open(path, &error.to_string());
    let found = std::fs::symlink_metadata(path).map_err(cannot)?;
    acceptable(&found).map_err(|what| cannot_open(path, &what))?;
    if is_mount_point(path) {
        let what = "it is a mount point of its own, so that SQLite's files would not be beside it elsewhere; \
                    mount its folder instead";
        return Err(cannot_open(path, what));
    }
    let (header, length) = with_descriptor(path, |file| {
        // What was looked at is what was opened.
        acceptable(&file.metadata()?).map_err(io::Error::other)?;
        let mut header = [0; HEADER];
        let mut filled = 0;
        while filled < HEADER {
            match file.read_at(&mut header[filled..], u64::try_from(filled).unwrap_or(0))? {
                0 => break,
                n => filled += n,
            }
        }
        Ok((header, filled))
    })
    .map_err(cannot)?;
    judge(path, &header, length)
}

fn judge(path: &Path, header: &[u8; HEADER], length: usize) -> Result<(), StoreError> {
    let has_log =
        ["-wal", "-journal"].iter().any(|s| std::fs::metadata(beside(path, s)).is_ok_and(|m| m.len() > 0));
    let number = |at: usize| {
        i64::from(u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]))
    };
    let (version, application) = (number(60), number(68));
    if length == 0 {
        // A journal or WAL beside an empty file is of a database that something else is making.
        return Ok(());
    }
    let is_sqlite = length == HEADER && header.starts_with(b"SQLite format 3\0");
    // No table, no version, nothing in the WAL.
    let is_empty =
        application == 0 && version == 0 && header[100] == 0x0d && number(102) >> 8 == 0 && !has_log;
    if !is_sqlite || !(application == APPLICATION_ID || is_empty) {
        return Err(StoreError::NotOurs(path.to_owned()));
    }
    if application == APPLICATION_ID && version > known_version() {
        return Err(StoreError::Newer { path: path.to_owned(), found: version, known: known_version() });
    }
    Ok(())
}

/// A regular file with one name.
fn acceptable(found: &Metadata) -> Result<(), String> {
    let kind = found.file_type();
    if !kind.is_file() {
        return Err(format!("it is {}, not a regular file", kind_in_words(kind)));
    }
    match found.nlink() {
        1 => Ok(()),
        n => Err(format!(
            "it has {n} names (hard links): another daemon may use it under another one; delete the others"
        )),
    }
}

fn kind_in_words(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_symlink() {
        "a symbolic link to nothing"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// A single file that is mounted (as `docker -v FILE:FILE` does).
fn is_mount_point(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
        .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn with_descriptor<T>(path: &Path, work: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
    let found = std::fs::symlink_metadata(path)?;
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(file) = kept.get(&(found.dev(), found.ino())) {
        return work(file);
    }
    // Neither waits for a FIFO's other end nor follows a link that was put there meanwhile.
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let opened = file.metadata()?;
    work(kept.entry((opened.dev(), opened.ino())).or_insert(file))
}

fn keep(file: File) -> io::Result<()> {
    let found = file.metadata()?;
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).insert((found.dev(), found.ino()), file);
    Ok(())
}

fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    if file.metadata()?.permissions().mode() & 0o7777 == mode {
        return Ok(());
    }
    file.set_permissions(Permissions::from_mode(mode))
        .map_err(|error| io::Error::new(error.kind(), format!("its mode cannot be set: {error}")))
}

/// A file that SQLite has beside the database.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn cannot_open(path: &Path, reason: &str) -> StoreError {
    StoreError::CannotOpen { path: path.to_owned(), reason: reason.to_owned() }
}
