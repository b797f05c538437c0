//! The control socket in the file system: its path, its mode, and its removal.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::store::file::beside;

/// The length of `sun_path` (unix(7)) without the terminating zero.
const MAX_PATH: usize = 107;
/// Connections that wait for `accept`.
const BACKLOG: i32 = 16;
/// The name of the socket in a directory of its own.
const NAME: &str = "control.sock";

/// A listening socket of mode 0600; dropping it removes the file.
pub(super) struct ControlSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// The private directory that was made for the socket.
    directory: Option<PathBuf>,
}

impl ControlSocket {
    /// Listens in `$RUNTIME_DIRECTORY` if it is set, else beside the database, else in a new directory of mode 0700
    /// under the temporary directory. `None` if no place is usable; the reason is logged.
    ///
    /// The caller holds the lock of the database, so a socket that is left there is stale.
    pub(super) fn bind(database: &Path) -> Option<Self> {
        let path = preferred_path(database);
        let error = match listen(&path) {
            Ok(listener) => return Some(Self { listener, path, directory: None }),
            Err(error) => error,
        };
        match Self::in_temporary_directory() {
            Ok(socket) => {
                log::info!(
                    "control socket: {}: {error}; it is {} instead",
                    path.display(),
                    socket.path.display()
                );
                Some(socket)
            }
            Err(second) => {
                log::warn!(
                    "no control socket: {}: {error}; temporary directory: {second}; `reconcile` fails while this \
                     daemon runs, and `retry` takes effect late",
                    path.display()
                );
                None
            }
        }
    }

    fn in_temporary_directory() -> io::Result<Self> {
        let directory = std::env::temp_dir().join(format!("wecom-dirsync-{:012x}", fastrand::u64(..1 << 48)));
        DirBuilder::new().mode(0o700).create(&directory)?;
        let path = directory.join(NAME);
        let listener = listen(&path).inspect_err(|_| drop(std::fs::remove_dir(&directory)))?;
        Ok(Self { listener, path, directory: Some(directory) })
    }

    pub(super) fn path(&self) -> &str {
        self.path.to_str().unwrap_or_default()
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        if let Some(directory) = &self.directory {
            let _ = std::fs::remove_dir(directory);
        }
    }
}

fn preferred_path(database: &Path) -> PathBuf {
    let directories = std::env::var_os("RUNTIME_DIRECTORY");
    // A list, if the unit names several directories.
    let first = directories.as_ref().and_then(|all| std::env::split_paths(all).next());
    first.filter(|path| path.is_absolute()).map_or_else(|| beside(database, ".sock"), |path| path.join(NAME))
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let text = path.to_str().ok_or_else(|| io::Error::other("the path is not UTF-8"))?;
    if text.len() > MAX_PATH {
        let what = format!("the path has {} bytes, and that of a socket has at most {MAX_PATH}", text.len());
        return Err(io::Error::other(what));
    }
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Before bind: the file has this mode from its first moment.
    fchmod(&socket, Mode::from_raw_mode(0o600))?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(OwnedFd::from(socket).into())
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => Err(io::Error::other("it is there and not a socket")),
        Ok(_) if connect(path).is_ok() => Err(io::Error::other("another process listens there")),
        Ok(_) => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Connects without waiting for room in the backlog.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)?;
    socket.set_nonblocking(false)?;
    Ok(OwnedFd::from(socket).into())
}
