//! Which processes hold locks on a database, read from /proc/locks (proc(5)).

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{major, minor};

use super::file::beside;
use crate::text::printable;

/// SQLite's locks that keep another connection from writing: the writer's byte of `-shm`, the one of recovery, and the
/// bytes of the database that are locked exclusively only.
const WRITER: (u64, u64) = (120, 120);
const RECOVERY: (u64, u64) = (122, 122);
const PENDING: (u64, u64) = (0x4000_0000, 0x4000_01ff);

/// A line of /proc/locks.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    flock: bool,
    write: bool,
    pid: i64,
    device: (u32, u32),
    inode: u64,
    bytes: (u64, u64),
}

/// `1: POSIX  ADVISORY  WRITE 1234 fe:00:5678 120 EOF`; one that waits (`1: -> ..`) holds nothing.
fn parse(line: &str) -> Option<Line> {
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    let [kind, _, access, pid, place, first, last] = words.as_slice() else { return None };
    let mut place = place.split(':');
    let hex = |text: Option<&str>| text.and_then(|text| u32::from_str_radix(text, 16).ok());
    let device = (hex(place.next())?, hex(place.next())?);
    Some(Line {
        flock: *kind == "FLOCK",
        write: *access == "WRITE",
        pid: pid.parse().ok()?,
        device,
        inode: place.next()?.parse().ok()?,
        bytes: (first.parse().ok()?, last.parse().unwrap_or(u64::MAX)),
    })
}

fn lines_of(path: &Path) -> Vec<Line> {
    let Ok(found) = std::fs::metadata(path) else { return Vec::new() };
    let all = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let device = (major(found.dev()), minor(found.dev()));
    // Btrfs and overlays show another (anonymous) device there than stat(2) does.
    let fits = |line: &Line| {
        line.inode == found.ino() && (line.device == device || line.device.0 == 0 || device.0 == 0)
    };
    all.lines().filter_map(parse).filter(fits).collect()
}

/// The other processes that keep this database from being written, such as `process 1234 (sqlite3)`; `None` if
/// /proc does not show any.
#[must_use]
pub(super) fn in_the_way(database: &Path) -> Option<String> {
    let myself = i64::from(std::process::id());
    let mut shm = lines_of(&beside(database, "-shm"));
    let mut main = lines_of(database);
    shm.retain(|line| !line.flock && line.pid != myself);
    main.retain(|line| !line.flock && line.pid != myself);
    let overlaps = |line: &&Line, (first, last): (u64, u64)| line.bytes.0 <= last && line.bytes.1 >= first;
    let groups: [Vec<&Line>; 4] = [
        shm.iter().filter(|line| overlaps(line, WRITER)).collect(),
        main.iter().filter(|line| line.write && overlaps(line, PENDING)).collect(),
        shm.iter().filter(|line| overlaps(line, RECOVERY)).collect(),
        shm.iter().filter(|line| line.write).collect(),
    ];
    let mut pids: Vec<i64> =
        groups.into_iter().find(|g| !g.is_empty())?.iter().map(|line| line.pid).collect();
    pids.sort_unstable();
    pids.dedup();
    Some(pids.iter().take(3).map(|pid| in_words(*pid)).collect::<Vec<_>>().join(", "))
}

/// Whether somebody holds the whole file locked for itself (flock(2)): as /proc shows it to those who may not open the file.
#[must_use]
pub fn is_flocked(path: &Path) -> bool {
    lines_of(path).iter().any(|line| line.flock && line.write)
}

/// Who holds the whole file locked.
#[must_use]
pub fn flock_holder(path: &Path) -> Option<String> {
    lines_of(path).iter().find(|line| line.flock).map(|line| in_words(line.pid))
}

fn in_words(pid: i64) -> String {
    if pid <= 0 {
        // A lock of an open file description, which may have several owners.
        return "a process that /proc/locks does not name".into();
    }
    match std::fs::read(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", printable(String::from_utf8_lossy(&name).trim_end())),
        Err(_) => format!("process {pid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_locks_are_read() {
        let line = parse("7: POSIX  ADVISORY  WRITE 1234 fe:1a:5678 120 EOF").unwrap();
        assert_eq!((line.pid, line.device, line.inode), (1234, (0xfe, 0x1a), 5678));
        assert_eq!((line.write, line.flock, line.bytes), (true, false, (120, u64::MAX)));
        assert!(parse("8: FLOCK  ADVISORY  WRITE 1 08:01:2 0 EOF").unwrap().flock);
        assert_eq!(parse("7: -> POSIX  ADVISORY  WRITE 1234 fe:00:5678 120 120"), None);
        assert_eq!(parse(""), None);
    }
}
