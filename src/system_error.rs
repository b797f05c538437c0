//! Errors of the operating system, for the operator: one table from operation and error to cause and remedy.

use std::io::{self, ErrorKind};

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Opening or creating a file of the database.
    OpenDatabase,
    ReadConfig,
    WriteConfig,
    Listen,
}

use Operation::{Listen, OpenDatabase, ReadConfig, WriteConfig};

/// Operation, kinds of errors, cause, remedy.
type Row = (Operation, &'static [ErrorKind], &'static str, &'static str);

const TABLE: [Row; 14] = [
    (
        OpenDatabase,
        &[ErrorKind::ReadOnlyFilesystem],
        "its file system is read-only",
        "the unit lets the service write below /var/lib/wecom-dirsync only, so set [database] path there; else mount the file system writable",
    ),
    (
        OpenDatabase,
        &[ErrorKind::PermissionDenied],
        "permission denied",
        "run the command as the service's user (sudo -u wecom-dirsync ..), or give folder and files to that user (chown)",
    ),
    (
        OpenDatabase,
        &[ErrorKind::NotFound],
        "its folder does not exist",
        "create the folder for the service's user, or correct [database] path",
    ),
    (
        OpenDatabase,
        &[ErrorKind::NotADirectory],
        "a part of its path is a file, not a folder",
        "correct [database] path",
    ),
    (
        OpenDatabase,
        &[ErrorKind::StorageFull, ErrorKind::QuotaExceeded],
        "the disk or the quota is full",
        "make room on its file system",
    ),
    (
        ReadConfig,
        &[ErrorKind::NotFound],
        "there is no such file",
        "name the file with -c FILE, or make one with `wecom-dirsync init`",
    ),
    (
        ReadConfig,
        &[ErrorKind::PermissionDenied],
        "permission denied",
        "run the command with sudo, or as a member of the file's group",
    ),
    (
        WriteConfig,
        &[ErrorKind::PermissionDenied],
        "permission denied",
        "run the command with sudo, or name a file in a folder of your own",
    ),
    (WriteConfig, &[ErrorKind::ReadOnlyFilesystem], "its file system is read-only", "name a file elsewhere"),
    (
        WriteConfig,
        &[ErrorKind::NotFound, ErrorKind::NotADirectory],
        "its folder does not exist",
        "create the folder first",
    ),
    (
        WriteConfig,
        &[ErrorKind::StorageFull, ErrorKind::QuotaExceeded],
        "the disk or the quota is full",
        "make room on its file system",
    ),
    (
        Listen,
        &[ErrorKind::AddrInUse],
        "another program uses this port",
        "find it with `ss -ltnp` and stop it, or choose another port",
    ),
    (
        Listen,
        &[ErrorKind::AddrNotAvailable],
        "this machine does not have this address",
        "choose one that `ip addr` shows, such as 127.0.0.1",
    ),
    (
        Listen,
        &[ErrorKind::PermissionDenied],
        "the system forbids this port",
        "choose one from 1024 on, or set AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit",
    ),
];

/// Cause and remedy; an error that the table does not have explains itself.
pub(crate) fn explain(operation: Operation, error: &io::Error) -> String {
    let row = TABLE.iter().find(|(of, kinds, ..)| *of == operation && kinds.contains(&error.kind()));
    row.map_or_else(|| error.to_string(), |(.., cause, remedy)| format!("{cause}; {remedy}"))
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn each_row_explains_its_kinds_and_no_other_row_of_the_operation_has_them() {
        for (operation, kinds, cause, remedy) in TABLE {
            for kind in kinds {
                let rows = TABLE.iter().filter(|(of, kinds, ..)| *of == operation && kinds.contains(kind));
                assert_eq!(rows.count(), 1, "{operation:?} {kind:?}");
                let found = explain(operation, &io::Error::from(*kind));
                assert_eq!(found, format!("{cause}; {remedy}"), "{operation:?} {kind:?}");
            }
        }
    }

    #[test]
    fn the_systems_errors_lead_to_their_own_rows() {
        for (operation, errno, expected, not) in [
            (OpenDatabase, Errno::ROFS, "read-only; the unit lets the service write below", "chown"),
            (
                OpenDatabase,
                Errno::ACCESS,
                "permission denied; run the command as the service's user",
                "create",
            ),
            (OpenDatabase, Errno::PERM, "chown", "create"),
            (OpenDatabase, Errno::NOENT, "folder does not exist; create", "chown"),
            (OpenDatabase, Errno::NOTDIR, "is a file, not a folder", "chown"),
            (OpenDatabase, Errno::NOSPC, "full; make room", "chown"),
            (OpenDatabase, Errno::DQUOT, "quota", "chown"),
            (ReadConfig, Errno::NOENT, "no such file; name the file with -c", "sudo"),
            (ReadConfig, Errno::ACCESS, "permission denied; run the command with sudo", "-c"),
            (WriteConfig, Errno::ACCESS, "sudo", "create"),
            (WriteConfig, Errno::ROFS, "read-only", "sudo"),
            (WriteConfig, Errno::NOENT, "create the folder first", "sudo"),
            (WriteConfig, Errno::NOSPC, "full", "sudo"),
            (Listen, Errno::ADDRINUSE, "another program uses this port; find it", "address"),
            (Listen, Errno::ADDRNOTAVAIL, "this machine does not have this address", "port"),
            (Listen, Errno::ACCESS, "CAP_NET_BIND_SERVICE", "another program"),
        ] {
            let found = explain(operation, &errno.into());
            assert!(found.contains(expected) && !found.contains(not), "{operation:?} {errno:?}: {found}");
        }
        assert_eq!(explain(Listen, &io::Error::other("it is odd")), "it is odd");
    }
}
