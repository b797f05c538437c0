//! What the daemon says of itself, for the commands that run beside it.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value as Json;

use crate::directory::UnixSeconds;

/// Writes a named piece of state; `None` removes it.
///
/// # Errors
/// Whatever SQLite says.
pub fn set_state(
    connection: &Connection,
    name: &str,
    at: UnixSeconds,
    value: Option<&Json>,
) -> rusqlite::Result<()> {
    match value {
        Some(value) => connection
            .prepare_cached(
                "INSERT INTO daemon_state (name, at, value) VALUES (?1, ?2, ?3)
             ON CONFLICT (name) DO UPDATE SET at = excluded.at, value = excluded.value",
            )?
            .execute(params![name, at.0, value.to_string()])?,
        None => connection.prepare_cached("DELETE FROM daemon_state WHERE name = ?1")?.execute([name])?,
    };
    Ok(())
}

/// Reads a named piece of state, and when it was written.
///
/// # Errors
/// Whatever SQLite says.
pub fn get_state(connection: &Connection, name: &str) -> rusqlite::Result<Option<(UnixSeconds, Json)>> {
    let row = connection
        .prepare_cached("SELECT at, value FROM daemon_state WHERE name = ?1")?
        .query_row([name], |row| Ok((UnixSeconds(row.get(0)?), row.get::<_, String>(1)?)))
        .optional()?;
    Ok(row.and_then(|(at, value)| Some((at, serde_json::from_str(&value).ok()?))))
}
