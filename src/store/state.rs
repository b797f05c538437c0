//! What the daemon says of itself, for the commands that run beside it.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value as Json, json};

use crate::directory::UnixSeconds;

/// Writes a named piece of state; `None` removes it.
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
pub fn get_state(connection: &Connection, name: &str) -> rusqlite::Result<Option<(UnixSeconds, Json)>> {
    let row = connection
        .prepare_cached("SELECT at, value FROM daemon_state WHERE name = ?1")?
        .query_row([name], |row| Ok((UnixSeconds(row.get(0)?), row.get::<_, String>(1)?)))
        .optional()?;
    Ok(row.and_then(|(at, value)| Some((at, serde_json::from_str(&value).ok()?))))
}

/// Something may have been missed: the directory is to be compared with WeCom soon.
pub fn request_reconcile(connection: &Connection, reason: &str, now: UnixSeconds) -> rusqlite::Result<()> {
    let known = get_state(connection, "comparison_due")?;
    let since = known.map_or(now, |(at, why)| since(at, &why));
    set_state(connection, "comparison_due", now, Some(&json!({"reason": reason, "since": since.0})))
}

fn since(at: UnixSeconds, why: &Json) -> UnixSeconds {
    why.get("since").and_then(Json::as_i64).map_or(at, UnixSeconds)
}

/// Since when there are doubts, and the reason of the latest. Later doubts do not put the comparison off.
pub fn reconcile_request(connection: &Connection) -> rusqlite::Result<Option<(UnixSeconds, Json)>> {
    Ok(get_state(connection, "comparison_due")?.map(|(at, why)| (since(at, &why), why)))
}

/// The doubts that were there before `began` are settled.
pub fn settle_reconcile_request(connection: &Connection, began: UnixSeconds) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM daemon_state WHERE name = 'comparison_due' AND at < ?1", [began.0])?;
    Ok(())
}

/// A message to the daemon, or from it: kept under a name of its own until it is taken.
pub fn take_first(connection: &Connection, prefix: &str) -> rusqlite::Result<Option<(String, Json)>> {
    connection
        .prepare_cached(
            "DELETE FROM daemon_state WHERE name =
               (SELECT name FROM daemon_state WHERE substr(name, 1, length(?1)) = ?1 ORDER BY at, name LIMIT 1)
             RETURNING name, value",
        )?
        .query_row([prefix], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
        .optional()
        .map(|found| {
            let (name, value) = found?;
            let name = name.get(prefix.len()..)?.to_owned();
            Some((name, serde_json::from_str(&value).ok()?))
        })
}

/// Forgets all messages of this kind.
pub fn forget_all(connection: &Connection, prefix: &str) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM daemon_state WHERE substr(name, 1, length(?1)) = ?1", [prefix])?;
    Ok(())
}

/// Forgets messages of this kind that nobody took for an hour.
pub fn forget_old(connection: &Connection, prefix: &str, now: UnixSeconds) -> rusqlite::Result<()> {
    connection.execute(
        "DELETE FROM daemon_state WHERE substr(name, 1, length(?1)) = ?1 AND at < ?2",
        params![prefix, now.plus(-3600).0],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open::open_in_memory;

    #[test]
    fn doubts_that_go_on_do_not_put_the_comparison_off() {
        let db = open_in_memory().unwrap();
        for at in [100, 103, 106] {
            request_reconcile(&db, "503", UnixSeconds(at)).unwrap();
        }
        assert_eq!(reconcile_request(&db).unwrap().unwrap().0, UnixSeconds(100));
        settle_reconcile_request(&db, UnixSeconds(106)).unwrap();
        assert!(reconcile_request(&db).unwrap().is_some(), "one came after the comparison began");
        settle_reconcile_request(&db, UnixSeconds(107)).unwrap();
        assert_eq!(reconcile_request(&db).unwrap(), None);
    }
}
