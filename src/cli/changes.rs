//! `changes`: the change feed as lines of JSON, and on as it grows.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::{Failure, load};
use crate::store::queries::{changes_since, oldest_change};
use crate::store::{StoreError, open_reader};
use crate::text::printable_json;

/// How often the feed is looked at for more.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Lines that are read in one go.
const BATCH: u32 = 1000;

pub(super) fn changes(path: Option<&Path>, since: i64, follow: bool) -> Result<(), Failure> {
    let config = load(path)?;
    let database = &config.database.path;
    let mut connection = match open_reader(database) {
        // Somebody who follows may well begin before the daemon does.
        Err(StoreError::Missing(_)) if follow => wait_for(database)?,
        opened => opened?,
    };
    if let Some(oldest) = oldest_change(&connection)?
        && since > 0
        && oldest > since + 1
    {
        let what = format!(
            "changes {} to {} are not kept any more; export the directory and go on from there",
            since + 1,
            oldest - 1
        );
        return Err(Failure::Other(what));
    }
    let mut last = since;
    let mut seen_version = None;
    loop {
        let mut lines = String::new();
        for (seq, line) in changes_since(&connection, last, BATCH)? {
            last = seq;
            lines.push_str(&printable_json(&line));
            lines.push('\n');
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
            if !database.exists() {
                connection = wait_for(database)?;
                seen_version = None;
            }
        }
    }
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
