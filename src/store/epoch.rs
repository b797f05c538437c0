//! The epoch of the change feed: change numbers are unique within it. It is made with the database, and anew when an
//! older copy of the database is put back, because its numbers would be given a second time.

use rusqlite::{Connection, OptionalExtension};
use serde_json::json;

use super::state::{get_state, set_state};
use crate::directory::UnixSeconds;

const NAME: &str = "epoch";

/// A place in the change feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Which numbering.
    pub epoch: String,
    /// The highest change number that was given.
    pub last: i64,
}

/// Gives the database an epoch if it has none.
///
/// # Errors
/// Whatever SQLite says.
pub(super) fn ensure(connection: &Connection, now: UnixSeconds) -> rusqlite::Result<()> {
    if get_state(connection, NAME)?.is_none() {
        begin(connection, now)?;
    }
    Ok(())
}

/// Begins another epoch.
///
/// # Errors
/// Whatever SQLite says.
pub fn begin(connection: &Connection, now: UnixSeconds) -> rusqlite::Result<String> {
    let epoch = format!("{:016x}", fastrand::u64(..));
    set_state(connection, NAME, now, Some(&json!(epoch)))?;
    Ok(epoch)
}

/// The highest change number that was given, also if that change is no longer kept.
///
/// # Errors
/// Whatever SQLite says.
pub fn last_change(connection: &Connection) -> rusqlite::Result<i64> {
    let last = connection
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'changes'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(last.unwrap_or(0))
}

/// Where the change feed is.
///
/// # Errors
/// Whatever SQLite says.
pub fn position(connection: &Connection) -> rusqlite::Result<Position> {
    let epoch = get_state(connection, NAME)?.and_then(|(_, epoch)| epoch.as_str().map(str::to_owned));
    Ok(Position { epoch: epoch.unwrap_or_default(), last: last_change(connection)? })
}
