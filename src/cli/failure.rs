//! Why a command failed: the lines for standard error, and the exit status.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Access, access};
use rustix::io::Errno;

use crate::config::ConfigError;
use crate::daemon::StartError;
use crate::store::StoreError;
use crate::store::file::folder_of;

/// sysexits EX_CONFIG: a setting is invalid. The unit does not restart the daemon after it.
pub(super) const EX_CONFIG: u8 = 78;
/// sysexits EX_NOPERM: a right is missing. The unit does not restart the daemon after it.
pub(super) const EX_NOPERM: u8 = 77;
/// Any other failure, which may pass by itself.
pub(super) const FAILURE: u8 = 1;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Start(#[from] StartError),
    /// The change feed cannot continue at the consumer's position: pruned, or of another epoch.
    #[error("{0}")]
    PositionGone(String),
    /// The log file cannot be opened.
    #[error("{path}: cannot write the log: {error}")]
    Log { path: String, error: std::io::Error },
    /// `check` found what prevents a start: a line for each, and the exit status of `run`.
    #[error("{}", .lines.join("; "))]
    NotReady { lines: Vec<String>, code: u8 },
    #[error("{0}")]
    Other(String),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Other(error.to_string())
    }
}

impl Failure {
    /// One line for each error of the configuration; else a single line.
    pub(super) fn lines(&self) -> Vec<String> {
        match self {
            Self::Config(ConfigError { lines, .. }) | Self::NotReady { lines, .. } => lines.clone(),
            other => vec![other.to_string()],
        }
    }

    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Config(ConfigError { is_denied: true, .. }) => EX_NOPERM,
            Self::Config(_) | Self::Start(StartError::Config(_)) => EX_CONFIG,
            Self::NotReady { code, .. } => *code,
            Self::PositionGone(_) => 3,
            _ => FAILURE,
        }
    }

    /// The exit status of `run`, and of `check` for what it finds. The service manager concludes from it whether to start
    /// again: invalid settings and missing rights do not pass by themselves.
    pub(super) fn start_exit_code(&self) -> u8 {
        match self {
            Self::Store(error) | Self::Start(StartError::Store(error)) => of_store(error),
            Self::Start(StartError::Listen { error, .. } | StartError::ListenAdmin { error, .. })
            | Self::Start(StartError::System(error))
            | Self::Log { error, .. } => of_io(error),
            other => other.exit_code(),
        }
    }
}

fn of_io(error: &std::io::Error) -> u8 {
    match error.kind() {
        ErrorKind::PermissionDenied => EX_NOPERM,
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => EX_CONFIG,
        _ => FAILURE,
    }
}

fn of_store(error: &StoreError) -> u8 {
    match error {
        StoreError::NotOurs(_)
        | StoreError::NotAFile { .. }
        | StoreError::HardLinked { .. }
        | StoreError::Newer { .. } => EX_CONFIG,
        StoreError::CannotOpen { path, .. } => of_path(path),
        _ => FAILURE,
    }
}

/// Why a file cannot be opened or created, by the rights of this process.
fn of_path(path: &Path) -> u8 {
    let folder = folder_of(path);
    if folder.exists() && !folder.is_dir() {
        return EX_CONFIG;
    }
    let of_folder = access(folder, Access::WRITE_OK | Access::EXEC_OK);
    // Only the owner may set the mode.
    let uid = rustix::process::geteuid();
    let is_of_another =
        std::fs::metadata(path).is_ok_and(|found| found.uid() != uid.as_raw() && !uid.is_root());
    match of_folder.and_then(|()| access(path, Access::READ_OK | Access::WRITE_OK)) {
        Ok(()) if is_of_another => EX_NOPERM,
        Err(Errno::ACCESS | Errno::PERM) => EX_NOPERM,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) if of_folder.is_err() => {
            EX_CONFIG
        }
        _ => FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_by_itself_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let cannot = |path: &Path| {
            Failure::Store(StoreError::CannotOpen { path: path.to_owned(), reason: String::new() })
                .start_exit_code()
        };
        assert_eq!(cannot(&folder.path().join("none/a.db")), 78, "the folder is missing");
        assert_eq!(cannot(&folder.path().join("a.db")), 1, "neither rights nor settings are the reason");
        let listen = |kind: ErrorKind| {
            let address = ([127, 0, 0, 1], 80).into();
            Failure::Start(StartError::Listen { address, error: kind.into() }).start_exit_code()
        };
        assert_eq!((listen(ErrorKind::PermissionDenied), listen(ErrorKind::AddrInUse)), (77, 1));
        let newer = StoreError::Newer { path: "a".into(), found: 9, known: 1 };
        assert_eq!(Failure::Store(newer).start_exit_code(), 78);
        assert_eq!(Failure::Store(StoreError::Full).start_exit_code(), 1);
        let denied = ConfigError { lines: Vec::new(), is_denied: true };
        assert_eq!(Failure::Config(denied).start_exit_code(), 77);
    }
}
