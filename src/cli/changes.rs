//! `changes`: the change feed as lines of JSON, and on as it grows.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::{Failure, load};
use crate::store::epoch::{Position, position};
use crate::store::queries::{changes_since, oldest_change};
use crate::store::{StoreError, open_reader};
use crate::text::printable_json;

/// How often the feed is looked at for more.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Lines that are read in one go.
const BATCH: u32 = 1000;

/// Where a consumer stands: `SEQ`, or `EPOCH:SEQ`.
#[derive(Debug, Clone)]
pub(super) struct Since {
    epoch: Option<String>,
    seq: i64,
}

impl Since {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (epoch, seq) = match text.rsplit_once(':') {
            Some((epoch, seq)) if !epoch.is_empty() => (Some(epoch.to_owned()), seq),
            Some(_) => return Err("is neither SEQ nor EPOCH:SEQ".into()),
            None => (None, text),
        };
        let seq = seq.parse().map_err(|_| "is neither SEQ nor EPOCH:SEQ".to_owned())?;
        Ok(Self { epoch, seq })
    }
}

pub(super) fn changes(path: Option<&Path>, since: &Since, follow: bool) -> Result<(), Failure> {
    let config = load(path)?;
    let database = &config.database.path;
    let mut connection = match open_reader(database) {
        // Somebody who follows may well begin before the daemon does.
        Err(StoreError::Missing(_)) if follow => wait_for(database)?,
        opened => opened?,
    };
    let (mut epoch, mut last) = (since.epoch.clone(), since.seq);
    let mut file = identity(database);
    let mut seen_version = None;
    loop {
        let mut lines = String::new();
        {
            // One transaction: the lines are of the epoch that is read with them.
            let reading = connection.unchecked_transaction()?;
            let now = position(&reading)?;
            still_there(&reading, &now, epoch.as_deref(), last)?;
            for (seq, line) in changes_since(&reading, &now.epoch, last, BATCH)? {
                last = seq;
                lines.push_str(&printable_json(&line));
                lines.push('\n');
            }
            epoch = Some(now.epoch);
        }
        if !lines.is_empty() {
            if !write_out(&lines)? {
                return Ok(());
            }
            continue;
        }
        if !follow {
            return Ok(());
        }
        // Cheap to ask, and no reading while nothing is written.
        loop {
            let version: i64 = connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
            if seen_version.replace(version) != Some(version) {
                break;
            }
            std::thread::sleep(LOOK_AGAIN);
            // Another file under the same name may be an older copy.
            if identity(database) != file {
                connection = wait_for(database)?;
                file = identity(database);
                seen_version = None;
            }
        }
    }
}

/// Device and inode.
fn identity(database: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(database).ok().map(|found| (found.dev(), found.ino()))
}

/// Fails if the feed cannot go on after change `last` of `epoch`.
fn still_there(reading: &Connection, now: &Position, epoch: Option<&str>, last: i64) -> Result<(), Failure> {
    let remedy = "export the directory and go on from there";
    if let Some(epoch) = epoch
        && epoch != now.epoch
    {
        let what = format!(
            "the change feed is of epoch {} now, not {epoch}: another copy of the database was put in its place; {remedy}",
            now.epoch
        );
        return Err(Failure::Gone(what));
    }
    if last > now.last {
        let what = format!(
            "change {last} is not there yet, the last is {}: an older copy of the database was put in its place; {remedy}",
            now.last
        );
        return Err(Failure::Gone(what));
    }
    let oldest = oldest_change(reading)?.unwrap_or(now.last + 1);
    if last > 0 && oldest > last + 1 {
        let what = format!("changes {} to {} are not kept any more; {remedy}", last + 1, oldest - 1);
        return Err(Failure::Gone(what));
    }
    Ok(())
}

fn wait_for(database: &Path) -> Result<Connection, Failure> {
    loop {
        match open_reader(database) {
            Err(StoreError::Missing(_)) => std::thread::sleep(LOOK_AGAIN),
            opened => return Ok(opened?),
        }
    }
}

/// Prints; false if nobody reads any more.
fn write_out(lines: &str) -> Result<bool, Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(lines.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}
