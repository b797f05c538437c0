//! `changes`: the change feed, one JSON object per line; `--follow` continues as it grows.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::store::Connection;

use super::{Failure, load_without_secrets};
use crate::daemon::control::{ControlClient, Request, Response};
use crate::store::epoch::{self, Position};
use crate::store::file::beside;
use crate::store::queries::{changes_since, oldest_change};
use crate::store::{StoreError, open_reader};
use crate::text::printable_json;

/// Interval of checks while no daemon notifies: a follower shows each change within a second.
const POLL: Duration = Duration::from_millis(800);
/// Interval of checks for replaced files while the daemon notifies.
const CHECK_FILES: Duration = Duration::from_secs(10);
/// Time for the daemon to accept a subscription.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Failures in a row after which a follower gives up, some 10 s.
const FAILURES: u32 = 12;
/// Most lines of one query.
const BATCH: u32 = 1000;

pub(super) fn changes(path: Option<&Path>, since: &Position, follow: bool) -> Result<(), Failure> {
    let config = load_without_secrets(path)?;
    let database = &config.database.path;
    let connection = match open_reader(database) {
        // A follower may start before the daemon.
        Err(StoreError::Missing(_)) if follow => wait_for(database)?,
        opened => opened?,
    };
    let mut epoch = epoch::epoch(&connection)?;
    check_position(&connection, since, epoch.as_deref())?;
    let mut last = since.seq;
    if !follow {
        while let Some(lines) = read(&connection, &mut last, &mut epoch)? {
            if !write_out(&lines)? {
                break;
            }
        }
        return Ok(());
    }
    let mut connection = Some(connection);
    let mut files = Files::of(database);
    let (mut seen_version, mut failed) = (None, 0);
    let mut subscription = None;
    loop {
        let lines = match &connection {
            Some(connection) => next(connection, &mut last, &mut epoch, &mut seen_version),
            None => Ok(None),
        };
        match lines {
            Ok(Some(lines)) => {
                failed = 0;
                if !write_out(&lines)? {
                    return Ok(());
                }
                continue;
            }
            Ok(None) if connection.is_some() => failed = 0,
            Ok(None) => {}
            // The files may be being replaced.
            Err(Failure::Store(_)) if failed < FAILURES => failed += 1,
            Err(error) => return Err(error),
        }
        if failed > 0 {
            subscription = None;
        }
        wait(&mut subscription, connection.as_ref().filter(|_| failed == 0));
        if failed > 0 || connection.is_none() || !database.exists() || files.are_others() {
            files = Files::of(database);
            seen_version = None;
            // First: while one connection has the former files open, SQLite gives another one the same.
            (connection, subscription) = (None, None);
            match wait_for(database) {
                Ok(opened) => connection = Some(opened),
                Err(Failure::Store(_)) if failed < FAILURES => failed += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Waits for a notice of the daemon, or for the next check. Without a subscription it tries to get one first, and
/// returns at once then: changes may have come before it.
fn wait(subscription: &mut Option<ControlClient>, connection: Option<&Connection>) {
    if let Some(client) = subscription {
        if client.receive(CHECK_FILES).is_err() {
            *subscription = None;
        }
        return;
    }
    let subscribe = |connection| {
        let mut client = ControlClient::request(connection, &Request::Changes).ok()?;
        let accepted = client.receive(ACCEPT_TIMEOUT);
        matches!(accepted, Ok(Some(Response::Changes(_)))).then_some(client)
    };
    *subscription = connection.and_then(subscribe);
    if subscription.is_none() {
        std::thread::sleep(POLL);
    }
}

/// The next lines, if the database's version differs from `seen_version`, which is cheaper than a query.
fn next(
    connection: &Connection,
    last: &mut i64,
    epoch: &mut Option<String>,
    seen_version: &mut Option<i64>,
) -> Result<Option<String>, Failure> {
    let version: i64 = connection.data_version()?;
    if *seen_version == Some(version) {
        return Ok(None);
    }
    let lines = read(connection, last, epoch)?;
    if lines.is_none() {
        *seen_version = Some(version);
    }
    Ok(lines)
}

/// The next lines after `last`, at most [`BATCH`]; `None` at the end of the feed.
fn read(
    connection: &Connection,
    last: &mut i64,
    epoch: &mut Option<String>,
) -> Result<Option<String>, Failure> {
    // One snapshot: the epoch is that of these lines.
    let (now, found) = connection.snapshot(|connection| -> crate::store::Result<_> {
        Ok((epoch::epoch(connection)?, changes_since(connection, *last, BATCH)?))
    })?;
    if epoch.is_some() && now != *epoch {
        return Err(another_epoch(epoch.as_deref(), now.as_deref()));
    }
    *epoch = now;
    let mut lines = String::new();
    for (seq, line) in found {
        *last = seq;
        lines.push_str(&printable_json(&line));
        lines.push('\n');
    }
    Ok((!lines.is_empty()).then_some(lines))
}

/// The files that a connection has open: after others were put in their place it sees nothing new.
struct Files {
    paths: [PathBuf; 2],
    inodes: [Option<u64>; 2],
}

impl Files {
    fn of(database: &Path) -> Self {
        let paths = ["", "-shm"].map(|suffix| beside(database, suffix));
        let inodes = paths.each_ref().map(|path| inode(path));
        Self { paths, inodes }
    }

    fn are_others(&self) -> bool {
        // A missing file may return.
        let differs =
            |(path, known): (&PathBuf, &Option<u64>)| inode(path).is_some_and(|now| *known != Some(now));
        self.paths.iter().zip(&self.inodes).any(differs)
    }
}

fn inode(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|found| found.ino())
}

/// Refuses a position that is pruned, of another epoch, or beyond the end.
fn check_position(connection: &Connection, since: &Position, epoch: Option<&str>) -> Result<(), Failure> {
    let last = epoch::last_change(connection)?;
    if since.epoch.is_some() && since.epoch.as_deref() != epoch {
        return Err(another_epoch(since.epoch.as_deref(), epoch));
    }
    if since.seq > last {
        return Err(Failure::PositionGone(format!(
            "position #{} is beyond the last change, #{last}: the database is older than the position; \
             export the directory and continue from #{last}",
            since.seq
        )));
    }
    match oldest_change(connection)? {
        Some(oldest) if since.seq > 0 && oldest > since.seq + 1 => Err(Failure::PositionGone(format!(
            "changes {} to {} are pruned; export the directory and continue from #{last}",
            since.seq + 1,
            oldest - 1
        ))),
        _ => Ok(()),
    }
}

fn another_epoch(theirs: Option<&str>, ours: Option<&str>) -> Failure {
    let (theirs, ours) = (theirs.unwrap_or("(none)"), ours.unwrap_or("(none)"));
    Failure::PositionGone(format!(
        "the change feed has epoch {ours}, not {theirs}: an older copy of the database was restored, so its numbers mean \
         other changes; export the directory and continue with `changes --since {ours}:SEQ`, SEQ being last_change_seq of `status --json`"
    ))
}

fn wait_for(database: &Path) -> Result<Connection, Failure> {
    loop {
        match open_reader(database) {
            Err(StoreError::Missing(_)) => std::thread::sleep(POLL),
            opened => return Ok(opened?),
        }
    }
}

/// Prints lines; false if the reader closed the pipe.
fn write_out(lines: &str) -> Result<bool, Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(lines.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}
