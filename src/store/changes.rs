//! The change feed.

use super::Result;
use super::connection::{Connection, values};
use super::ledger::take_change;
use crate::directory::{Change, UnixSeconds};

/// Appends lines to the change feed.
pub(super) fn write_changes(connection: &Connection, changes: &[Change], now: UnixSeconds) -> Result<()> {
    for change in changes {
        let fields = serde_json::to_string(&change.fields).unwrap_or_else(|_| "{}".into());
        connection.execute(
            "INSERT INTO changes (seq, at, entity, key, action, fields) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            values![
                take_change(connection)?,
                now,
                change.entity.as_str(),
                &change.key,
                change.action.as_str(),
                fields
            ],
        )?;
    }
    Ok(())
}
