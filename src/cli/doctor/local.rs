//! This machine: the files as the service's user sees them, the database, and the space on its disk.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::finding::Finding;
use crate::config::Config;
use crate::store::file::{beside, folder_of};
use crate::store::verify::{Verification, verify};
use crate::store::{Connection, StoreError};

/// The user that the package's unit runs as.
const SERVICE_USER: &str = "wecom-dirsync";
/// With less free space the database may stop at any time, in bytes.
const LITTLE_SPACE: u64 = 128 * 1024 * 1024;
/// With less free space the disk should be looked after, in bytes.
const SOME_SPACE: u64 = 1024 * 1024 * 1024;
/// A longer WAL shows that something keeps it from shrinking, in bytes.
const LONG_WAL: u64 = 256 * 1024 * 1024;
/// Findings of the database that are printed.
const SHOWN: usize = 5;

/// A user, for checks of file modes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) groups: Vec<u32>,
    /// For messages; the number if the name is not known.
    pub(super) name: String,
}

/// The user of the running daemon; else the unit's, if root asks; else the caller.
pub(super) fn service_user(daemon: Option<u32>) -> Option<User> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let group = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let of_process = |pid: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        user_of_process(&status, &passwd)
    };
    if let Some(user) = daemon.and_then(|pid| of_process(&pid.to_string())) {
        return Some(user);
    }
    let caller = of_process("self")?;
    if caller.uid == 0
        && let Some(user) = user_of_name(SERVICE_USER, &passwd, &group)
    {
        return Some(user);
    }
    Some(caller)
}

/// The user in the text of `/proc/PID/status`.
fn user_of_process(status: &str, passwd: &str) -> Option<User> {
    let numbers = |key: &str| -> Option<Vec<u32>> {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().map(|number| number.parse().ok()).collect()
    };
    // Real, effective, saved and file system id.
    let (uid, gid) = (*numbers("Uid:")?.get(1)?, *numbers("Gid:")?.get(1)?);
    let mut groups = numbers("Groups:").unwrap_or_default();
    groups.push(gid);
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    Some(User { uid, groups, name: name.unwrap_or_else(|| uid.to_string()) })
}

/// The user of this name, by the texts of `/etc/passwd` and `/etc/group`.
fn user_of_name(name: &str, passwd: &str, group: &str) -> Option<User> {
    let fields: Vec<&str> = passwd
        .lines()
        .map(|line| line.split(':').collect())
        .find(|fields: &Vec<&str>| fields.first() == Some(&name))?;
    let (uid, gid) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
    let of_group = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let is_member = fields.get(3)?.split(',').any(|member| member == name);
        is_member.then(|| fields.get(2)?.parse().ok()).flatten()
    };
    let groups = std::iter::once(gid).chain(group.lines().filter_map(of_group)).collect();
    Some(User { uid, groups, name: name.to_owned() })
}

/// Permissions, as the bits of a file mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access(u32);

impl Access {
    const SEARCH: Self = Self(1);
    pub(super) const READ: Self = Self(4);
    /// To open a file for reading and writing.
    pub(super) const WRITE: Self = Self(6);
    /// To create files in a folder.
    pub(super) const CREATE: Self = Self(3);

    fn in_words(self) -> &'static str {
        match self.0 {
            1 => "enter",
            3 => "create files in",
            4 => "read",
            _ => "write",
        }
    }
}

/// Whether the mode bits of a file grant the access. Access control lists are not considered.
fn is_granted(user: &User, access: Access, (owner, group, mode): (u32, u32, u32)) -> bool {
    let shift = if user.uid == owner {
        6
    } else if user.groups.contains(&group) {
        3
    } else {
        0
    };
    (mode >> shift) & access.0 == access.0
}

/// The first path that denies the user the access: the file itself, or a folder on the way to it. A missing file denies
/// nothing.
fn denied(user: &User, path: &Path, access: Access) -> Option<(PathBuf, Access)> {
    if user.uid == 0 {
        return None;
    }
    let path = path.canonicalize().ok()?;
    let folders: Vec<&Path> = path.ancestors().skip(1).collect();
    let on_the_way = folders.into_iter().rev().map(|folder| (folder, Access::SEARCH));
    on_the_way.chain([(path.as_path(), access)]).find_map(|(place, access)| {
        let found = std::fs::metadata(place).ok()?;
        let owned = (found.uid(), found.gid(), found.mode());
        (!is_granted(user, access, owned)).then(|| (place.to_owned(), access))
    })
}

/// The files and folders of the configuration, as this user sees them.
pub(super) fn paths(config: &Config, user: &User) -> Vec<Finding> {
    let database = &config.database.path;
    let folder = folder_of(database).to_owned();
    if !folder.is_dir() {
        return vec![Finding::must_fix(
            "paths",
            format!("the folder {} of the database does not exist", folder.display()),
            "create it for the service's user, or correct [database] path",
        )];
    }
    let mut wanted = vec![(config.file.clone(), Access::READ), (folder, Access::CREATE)];
    wanted.extend(
        std::iter::once(database.clone())
            .chain(["-wal", "-shm", ".lock"].map(|suffix| beside(database, suffix)))
            .map(|file| (file, Access::WRITE)),
    );
    wanted.extend(config.log.file.clone().map(|file| (file, Access::WRITE)));
    let denials = wanted.iter().filter_map(|(path, access)| denied(user, path, *access));
    let mut findings: Vec<Finding> =
        denials.map(|(path, access)| denial(&user.name, &path, access)).collect();
    findings.dedup();
    if findings.is_empty() {
        findings.push(Finding::ok(
            "paths",
            format!("configuration and database are accessible for user {}", user.name),
        ));
    }
    findings
}

fn denial(user: &str, path: &Path, access: Access) -> Finding {
    let path = path.display();
    let remedy = match access {
        Access::READ => format!("sudo chgrp {user} {path} && sudo chmod 0640 {path}"),
        Access::SEARCH => format!("sudo chmod o+x {path}, or move the files to a folder of the service"),
        _ => format!("sudo chown {user}: {path} (root created it if `run` was executed as root before)"),
    };
    Finding::must_fix("paths", format!("user {user} may not {} {path}", access.in_words()), remedy)
}

/// File, rows, facts and change feed.
pub(super) fn database(connection: &Connection, path: &Path) -> Finding {
    // A snapshot is one state while the daemon goes on.
    match connection.snapshot(|connection| verify(connection, None)) {
        Ok(found) => judge_database(&found, path),
        Err(error) => unusable_database(&error),
    }
}

fn judge_database(found: &Verification, path: &Path) -> Finding {
    let path = path.display();
    if found.findings.is_empty() {
        return Finding::ok(
            "database",
            format!("{path}: file, rows, facts and change feed agree ({} members)", found.members),
        );
    }
    let shown: Vec<&str> = found.findings.iter().take(SHOWN).map(String::as_str).collect();
    let what = format!("{path}: {} disagreements: {}", found.findings.len(), shown.join("; "));
    let remedy = "stop the service, copy the database, and run check --database --repair";
    Finding::must_fix("database", what, remedy)
}

/// A database that cannot be opened or read.
pub(super) fn unusable_database(error: &StoreError) -> Finding {
    if matches!(error, StoreError::Missing(_)) {
        let remedy = "start the service, which creates it (systemctl start wecom-dirsync)";
        return Finding::warning("database", "there is no database yet", remedy);
    }
    let remedy = "run doctor as root or as the service's user; else see what the message names";
    Finding::must_fix("database", error.to_string(), remedy)
}

/// Free space beside the database, and the length of the WAL.
pub(super) fn disk(database: &Path) -> Vec<Finding> {
    let Ok(found) = rustix::fs::statvfs(folder_of(database)) else { return Vec::new() };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
    vec![judge_space(free, length(database)), judge_wal(length(&beside(database, "-wal")))]
}

fn judge_space(free: u64, database: u64) -> Finding {
    const MIB: u64 = 1024 * 1024;
    let what = format!("{} MiB are free beside the database of {} MiB", free / MIB, database / MIB);
    let remedy = "make room on this file system, or move the database: a full disk refuses events";
    if free < LITTLE_SPACE {
        Finding::must_fix("disk", what, remedy)
    } else if free < SOME_SPACE.max(database) {
        Finding::warning("disk", what, remedy)
    } else {
        Finding::ok("disk", what)
    }
}

fn judge_wal(length: u64) -> Finding {
    let what = format!("the WAL has {} KiB", length / 1024);
    if length > LONG_WAL {
        let remedy =
            "end the shell or program that keeps a read transaction open; the WAL shrinks by itself then";
        return Finding::warning("wal", what, remedy);
    }
    Finding::ok("wal", what)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nwecom-dirsync:x:998:997::/nonexistent:/usr/sbin/nologin\n";
    const GROUP: &str =
        "root:x:0:\nwecom-dirsync:x:997:\nreaders:x:44:alice,wecom-dirsync\nothers:x:45:alice\n";

    #[test]
    fn the_user_is_that_of_the_daemon_or_of_the_unit() {
        let status = "Name:\twecom-dirsync\nUid:\t0\t998\t0\t998\nGid:\t0\t997\t0\t997\nGroups:\t44 997 \n";
        let user = user_of_process(status, PASSWD).unwrap();
        assert_eq!((user.uid, user.name.as_str()), (998, "wecom-dirsync"));
        assert_eq!(user.groups, [44, 997, 997]);
        assert_eq!(user_of_process(status, "").unwrap().name, "998");
        let user = user_of_name("wecom-dirsync", PASSWD, GROUP).unwrap();
        assert_eq!((user.uid, user.groups), (998, vec![997, 44]));
        assert_eq!(user_of_name("wecom", PASSWD, GROUP), None);
    }

    #[test]
    fn the_first_class_that_fits_decides_as_in_the_kernel() {
        let user = User { uid: 998, groups: vec![997], name: "w".into() };
        for (owner, group, mode, access, expected) in [
            (998, 0, 0o600, Access::WRITE, true),
            (998, 997, 0o066, Access::READ, false),
            (0, 997, 0o640, Access::READ, true),
            (0, 997, 0o604, Access::READ, false),
            (0, 0, 0o604, Access::READ, true),
            (0, 0, 0o600, Access::WRITE, false),
            (0, 997, 0o730, Access::CREATE, true),
            (0, 997, 0o750, Access::CREATE, false),
            (0, 0, 0o711, Access::SEARCH, true),
        ] {
            let owned = (owner, group, 0o100_000 | mode);
            assert_eq!(is_granted(&user, access, owned), expected, "{owner} {group} {mode:o} {access:?}");
        }
    }

    #[test]
    fn a_folder_on_the_way_that_keeps_the_user_out_is_named() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().canonicalize().unwrap().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let file = inner.join("directory.db");
        std::fs::write(&file, "").unwrap();
        let mode =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        let stranger = User { uid: 4_000_000_000, groups: vec![], name: "w".into() };
        mode(folder.path(), 0o755);
        mode(&inner, 0o700);
        mode(&file, 0o666);
        assert_eq!(denied(&stranger, &file, Access::WRITE), Some((inner.clone(), Access::SEARCH)));
        mode(&inner, 0o755);
        assert_eq!(denied(&stranger, &file, Access::WRITE), None);
        mode(&file, 0o600);
        assert_eq!(denied(&stranger, &file, Access::WRITE), Some((file.clone(), Access::WRITE)));
        assert_eq!(denied(&stranger, &inner.join("missing"), Access::WRITE), None);
        let finding = denial("w", &file, Access::WRITE);
        assert!(finding.remedy.unwrap().starts_with(&format!("sudo chown w: {}", file.display())));
    }

    #[test]
    fn space_and_wal_have_their_levels() {
        const GIB: u64 = 1024 * 1024 * 1024;
        assert_eq!(judge_space(100 * 1024 * 1024, 0).level, Level::MustFix);
        assert_eq!(judge_space(GIB / 2, 0).level, Level::Warning);
        assert_eq!(judge_space(2 * GIB, 3 * GIB).level, Level::Warning);
        assert_eq!(judge_space(4 * GIB, 3 * GIB).level, Level::Ok);
        assert_eq!((judge_wal(0).level, judge_wal(GIB).level), (Level::Ok, Level::Warning));
        let damaged = Verification { findings: vec!["file: x".into(); 9], ..Verification::default() };
        let finding = judge_database(&damaged, Path::new("/d"));
        assert_eq!(finding.level, Level::MustFix);
        assert_eq!(finding.what.matches("file: x").count(), SHOWN);
    }
}
