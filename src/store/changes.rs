//! The change feed.

use rusqlite::{Connection, params};

use crate::directory::{Change, UnixSeconds};

/// Appends lines to the change feed.
pub(super) fn write_changes(
    connection: &Connection,
    changes: &[Change],
    now: UnixSeconds,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO changes (at, entity, key, action, fields) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for change in changes {
        let fields = serde_json::to_string(&change.fields).unwrap_or_else(|_| "{}".into());
        statement.execute(params![
            now.0,
            change.entity.as_str(),
            change.key,
            change.action.as_str(),
            fields
        ])?;
    }
    Ok(())
}
