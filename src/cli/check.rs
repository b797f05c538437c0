//! `check`: validates the configuration and prints the effective one, secrets redacted; `--database` verifies the database.

use std::path::Path;

use super::prerequisites::examine;
use super::{Failure, load, print};
use crate::config::render;
use crate::daemon::lock;
use crate::store::verify::{Verification, verify};
use crate::store::{open_reader, open_writer};
use crate::text::printable;
use crate::unix_time::unix_now;

/// Findings that are printed; all are counted.
const SHOWN: usize = 1000;

pub(super) fn check(path: Option<&Path>, database: bool, repair: bool) -> Result<(), Failure> {
    let config = load(path)?;
    let file = config.file.display().to_string();
    let findings = examine(&config);
    let mut text = format!("# {}: the configuration is valid; in effect are:\n", printable(&file));
    for warning in findings.notes.iter().cloned().chain(config.warnings()) {
        text.push_str(&format!("# note: {}\n", printable(&warning)));
    }
    text.push('\n');
    for line in render(&config).lines() {
        text.push_str(&printable(line));
        text.push('\n');
    }
    print(&text)?;
    if database {
        check_database(&config.database.path, config.database.mode, repair)?;
    }
    findings.failure().map_or(Ok(()), Err)
}

fn check_database(path: &Path, mode: u32, repair: bool) -> Result<(), Failure> {
    let found = if repair { repaired(path, mode)? } else { verified(path)? };
    let name = path.display().to_string();
    let mut text = format!("\n# database {}: {}\n", printable(&name), summary(&found));
    for finding in found.findings.iter().take(SHOWN) {
        text.push_str(&format!("# {}\n", printable(finding)));
    }
    print(&text)?;
    match (found.findings.len(), repair) {
        (0, _) | (_, true) => Ok(()),
        (count, false) => Err(Failure::Other(format!(
            "{count} disagreements in the database; stop the service, copy the database, and run check --database --repair"
        ))),
    }
}

fn verified(path: &Path) -> Result<Verification, Failure> {
    Ok(open_reader(path)?.snapshot(|connection| verify(connection, None))?)
}

/// Repairs, and verifies the result before it is committed.
fn repaired(path: &Path, mode: u32) -> Result<Verification, Failure> {
    let _lock = lock(path)?;
    open_writer(path, mode)?.transaction(|connection| {
        let found = verify(connection, Some(unix_now()))?;
        let left = verify(connection, None)?;
        match left.findings.first() {
            None => Ok(found),
            Some(first) => Err(Failure::Other(format!(
                "nothing was changed, because {} of {} disagreements cannot be repaired, the first: {}; put a copy of \
                 the database in its place, or start without one: the service fills it from WeCom",
                left.findings.len(),
                found.findings.len(),
                printable(first)
            ))),
        }
    })
}

fn summary(found: &Verification) -> String {
    let changes = found.changes.map_or_else(
        || "the change feed is pruned and was not compared".to_owned(),
        |lines| format!("{lines} lines of the change feed"),
    );
    let rows = format!("{} members, {} departments and tags, {changes}", found.members, found.numbered);
    match found.findings.len() {
        0 => format!("file, rows, facts and change feed agree ({rows})"),
        count => format!("{count} disagreements ({rows}):"),
    }
}
