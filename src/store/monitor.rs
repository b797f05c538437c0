//! Figures for the admin listener, one query each.

use super::Result;
use super::connection::{Connection, values};
use crate::directory::UnixSeconds;
use crate::directory::openid::OpenidState;

/// The number of present members in each openid state. Reads an index only: SQLite defers the seek to a row until a column
/// is needed.
pub(crate) fn members_by_state(connection: &Connection) -> Result<[(OpenidState, i64); 3]> {
    let mut counts = OpenidState::ALL.map(|state| (state, 0));
    for (state, count) in &mut counts {
        *count = connection.one(
            "SELECT count(*) FROM members WHERE deleted_at IS NULL AND openid_state = ?1",
            values![state.as_str()],
            |row| row.get(0),
        )?;
    }
    Ok(counts)
}

/// Creation time of the pending member that has waited longest. `many`: more than a twelfth of all members are pending.
pub(crate) fn oldest_pending(connection: &Connection, many: bool) -> Result<Option<UnixSeconds>> {
    // The index needs a seek per row. From one row in twelve on, a full scan is faster: for a million pending members 0.2 s
    // instead of 2.4 s.
    let sql = if many {
        "SELECT min(created_at) FROM members NOT INDEXED WHERE deleted_at IS NULL AND openid_state = 'pending'"
    } else {
        "SELECT min(created_at) FROM members WHERE deleted_at IS NULL AND openid_state = 'pending'"
    };
    time(connection, sql)
}

/// The time of receipt of the last callback.
pub(crate) fn last_event(connection: &Connection) -> Result<Option<UnixSeconds>> {
    time(connection, "SELECT received_at FROM events ORDER BY seq DESC LIMIT 1")
}

/// The end of the last comparison that was complete, or partial because of what WeCom denies.
pub(crate) fn last_reconcile(connection: &Connection) -> Result<Option<UnixSeconds>> {
    time(connection, "SELECT max(finished_at) FROM reconciles WHERE outcome IN ('ok', 'partial')")
}

fn time(connection: &Connection, sql: &'static str) -> Result<Option<UnixSeconds>> {
    let found = connection.row(sql, &[], |row| row.get::<Option<i64>>(0))?;
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
        let plan: String = db.one(sql, values!["pending"], |row| row.get(3)).unwrap();
        assert_eq!(plan, "SEARCH members USING INDEX members_by_state (openid_state=?)");
    }

    #[test]
    fn the_longest_waiting_is_found_either_way() {
        let db = open_in_memory().unwrap();
        assert_eq!(oldest_pending(&db, false).unwrap(), None);
        let rows = [("a", "'pending'", 5, "NULL"), ("b", "'pending'", 3, "NULL"), ("c", "'pending'", 1, "9")];
        for (userid, state, created_at, deleted_at) in rows.into_iter().chain([("d", "'failed'", 2, "NULL")])
        {
            db.script(&format!(
                "INSERT INTO members (userid, openid_state, openid_next_attempt_at, openid_revision, details_state,
                     created_at, updated_at, event_time, deleted_at)
                 VALUES ('{userid}', {state}, 7, 1, 'known', {created_at}, 0, 0, {deleted_at})"
            ))
            .unwrap();
        }
        for many in [true, false] {
            assert_eq!(oldest_pending(&db, many).unwrap(), Some(UnixSeconds(3)), "many: {many}");
        }
    }

    #[test]
    fn the_last_reconcile_is_known_once_one_has_finished() {
        let db = open_in_memory().unwrap();
        assert_eq!(last_reconcile(&db).unwrap(), None);
        let add = |finished_at: Option<i64>, outcome: &str| {
            let sql = "INSERT INTO reconciles (started_at, finished_at, reason, outcome) VALUES (1, ?1, 'test', ?2)";
            db.execute(sql, values![finished_at, outcome]).unwrap();
        };
        add(None, "running");
        add(Some(9), "failed");
        add(Some(10), "blocked");
        assert_eq!(last_reconcile(&db).unwrap(), None);
        add(Some(8), "ok");
        add(Some(4), "partial");
        assert_eq!(last_reconcile(&db).unwrap(), Some(UnixSeconds(8)));
    }
}
