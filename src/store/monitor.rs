//! Figures for the admin listener, each by a query of its own on a reader's connection.

use rusqlite::{Connection, OptionalExtension};

use crate::directory::UnixSeconds;
use crate::directory::openid::OpenidState;

/// How many present members are in each openid state. Walks an index and reads no row: SQLite puts the seek off
/// until a column is wanted, and none is.
///
/// # Errors
/// Whatever SQLite says.
pub fn members_by_state(connection: &Connection) -> rusqlite::Result<[(OpenidState, i64); 3]> {
    let mut counts = OpenidState::ALL.map(|state| (state, 0));
    for (state, count) in &mut counts {
        *count = connection
            .prepare_cached("SELECT count(*) FROM members WHERE deleted_at IS NULL AND openid_state = ?1")?
            .query_row([state.as_str()], |row| row.get(0))?;
    }
    Ok(counts)
}

/// When the pending member that has waited longest became known.
///
/// # Errors
/// Whatever SQLite says.
pub fn oldest_pending(connection: &Connection) -> rusqlite::Result<Option<UnixSeconds>> {
    time(
        connection,
        "SELECT min(created_at) FROM members WHERE deleted_at IS NULL AND openid_state = 'pending'",
    )
}

/// When the last callback came.
///
/// # Errors
/// Whatever SQLite says.
pub fn last_event(connection: &Connection) -> rusqlite::Result<Option<UnixSeconds>> {
    time(connection, "SELECT received_at FROM events ORDER BY seq DESC LIMIT 1")
}

/// When the last comparison with WeCom ended; `None` also for a database that has no record of them.
///
/// # Errors
/// Whatever SQLite says.
pub fn last_reconcile(connection: &Connection) -> rusqlite::Result<Option<UnixSeconds>> {
    let is_kept = connection
        .prepare_cached("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'reconciles'")?
        .exists([])?;
    if is_kept { time(connection, "SELECT max(finished_at) FROM reconciles") } else { Ok(None) }
}

fn time(connection: &Connection, sql: &str) -> rusqlite::Result<Option<UnixSeconds>> {
    let found =
        connection.prepare_cached(sql)?.query_row([], |row| row.get::<_, Option<i64>>(0)).optional()?;
    Ok(found.flatten().map(UnixSeconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open::open_in_memory;

    #[test]
    fn a_large_company_is_counted_by_the_index() {
        let db = open_in_memory().unwrap();
        let sql = "EXPLAIN QUERY PLAN
                   SELECT count(*) FROM members WHERE deleted_at IS NULL AND openid_state = ?1";
        let plan: String = db.query_row(sql, ["pending"], |row| row.get(3)).unwrap();
        assert_eq!(plan, "SEARCH members USING INDEX members_by_state (openid_state=?)");
    }

    #[test]
    fn the_last_reconcile_is_known_once_one_has_finished() {
        let db = Connection::open_in_memory().unwrap();
        assert_eq!(last_reconcile(&db).unwrap(), None);
        db.execute_batch("CREATE TABLE reconciles (started_at INTEGER, finished_at INTEGER)").unwrap();
        assert_eq!(last_reconcile(&db).unwrap(), None);
        db.execute_batch("INSERT INTO reconciles VALUES (5, 8), (3, 4), (9, NULL)").unwrap();
        assert_eq!(last_reconcile(&db).unwrap(), Some(UnixSeconds(8)));
    }
}
