//! Processes that hold locks on a file, from `/proc/locks`. fcntl's F_GETLK would need `unsafe` and shows no more.

use std::fmt::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The bytes of `-shm` that a writer, a checkpoint and a recovery lock (SQLite's wal.c, WAL_WRITE_LOCK ff.).
const WRITERS: (u64, u64) = (120, 122);

/// A process that holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    /// `None` if the kernel does not show it, as for processes of another container.
    pub pid: Option<u32>,
    /// The name of its command, if readable.
    pub name: Option<String>,
    /// The id of its user, if readable.
    pub uid: Option<u32>,
}

/// Other processes that hold locks of SQLite's (POSIX) on the database or its shared memory.
pub(super) fn of_database(database: &Path) -> Vec<Holder> {
    let index = super::file::beside(database, "-shm");
    // Readers lock other bytes, which do not block a writer.
    let mut holders = of_file_where(&index, |lock| {
        lock.kind == "POSIX" && lock.first <= WRITERS.1 && lock.last >= WRITERS.0
    });
    holders.extend(of_file_where(database, |lock| lock.kind == "POSIX" && lock.access == "WRITE"));
    holders
}

/// Other processes that hold a lock on the whole file (flock).
pub(crate) fn of_file(path: &Path) -> Vec<Holder> {
    of_file_where(path, |lock| lock.kind == "FLOCK")
}

fn of_file_where(path: &Path, is_match: impl Fn(&Lock<'_>) -> bool) -> Vec<Holder> {
    let Ok(found) = std::fs::metadata(path) else { return Vec::new() };
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let mut pids: Vec<Option<u32>> = parse(&locks)
        .filter(|lock| lock.inode == found.ino() && is_match(lock))
        .map(|lock| lock.pid)
        .filter(|pid| *pid != Some(std::process::id()))
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids.into_iter().map(holder).collect()
}

struct Lock<'a> {
    kind: &'a str,
    access: &'a str,
    pid: Option<u32>,
    inode: u64,
    first: u64,
    last: u64,
}

/// Lines such as `1: POSIX  ADVISORY  WRITE 4711 fd:00:12345 120 120` (proc_locks(5)); lines with `->` are waiting processes.
fn parse(locks: &str) -> impl Iterator<Item = Lock<'_>> {
    locks.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let kind = words.next().filter(|kind| *kind != "->")?;
        let access = words.nth(1)?;
        let pid = words.next()?.parse().ok().filter(|pid| *pid != 0);
        let inode = words.next()?.rsplit(':').next()?.parse().ok()?;
        let first = words.next()?.parse().ok()?;
        let last = words.next()?.parse().unwrap_or(u64::MAX);
        Some(Lock { kind, access, pid, inode, first, last })
    })
}

fn holder(pid: Option<u32>) -> Holder {
    let process = pid.map(|pid| PathBuf::from(format!("/proc/{pid}")));
    let name = process.as_ref().and_then(|process| std::fs::read_to_string(process.join("comm")).ok());
    let uid = process.and_then(|process| Some(std::fs::metadata(process).ok()?.uid()));
    Holder { pid, name: name.map(|name| name.trim().escape_debug().to_string()), uid }
}

/// Formats ids and names for a message.
pub(crate) fn list(holders: &[Holder]) -> String {
    let mut text = String::new();
    for holder in holders {
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = match (holder.pid, &holder.name) {
            (Some(pid), Some(name)) => write!(text, "{comma}process {pid} ({name})"),
            (Some(pid), None) => write!(text, "{comma}process {pid}"),
            (None, _) => write!(text, "{comma}a process that is not visible from here (another container?)"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_read_as_the_kernel_lists_them() {
        let text = "1: POSIX  ADVISORY  WRITE 4711 fd:00:12345 120 120\n\
                    1: -> POSIX  ADVISORY  WRITE 99 fd:00:12345 120 120\n\
                    2: FLOCK  ADVISORY  WRITE 0 08:01:77 0 EOF\n\
                    3: OFDLCK ADVISORY  READ -1 00:2d:78 0 EOF\nnonsense\n";
        let found: Vec<_> =
            parse(text).map(|lock| (lock.kind, lock.access, lock.pid, lock.inode, lock.last)).collect();
        let expected = [
            ("POSIX", "WRITE", Some(4711), 12345, 120),
            ("FLOCK", "WRITE", None, 77, u64::MAX),
            ("OFDLCK", "READ", None, 78, u64::MAX),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn holders_are_listed_with_what_is_known_of_them() {
        let holder = |pid, name: Option<&str>| Holder { pid, name: name.map(str::to_owned), uid: None };
        let text = list(&[holder(Some(7), Some("sqlite3")), holder(Some(8), None), holder(None, None)]);
        assert!(text.starts_with("process 7 (sqlite3), process 8, a process that is not visible"), "{text}");
    }
}
