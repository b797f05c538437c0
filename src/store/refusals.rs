//! The table `refusals`: bounded, written in batches.

use super::Result;
use super::connection::{Connection, values};
use crate::directory::UnixSeconds;

/// Maximum number of rows; the oldest `last_at` is deleted first.
pub(crate) const ROWS: u32 = 200;

/// The refusals of one cause at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefusalRow {
    /// The stable name of the cause.
    pub cause: String,
    /// Escaped for terminals, without the query.
    pub path: String,
    pub first_at: UnixSeconds,
    pub last_at: UnixSeconds,
    pub count: u64,
    /// Address of the latest client; escaped for terminals.
    pub last_client: String,
}

/// Adds counts to the table, and deletes the oldest rows beyond [`ROWS`].
pub(crate) fn record_refusals(connection: &Connection, rows: &[RefusalRow]) -> Result<()> {
    for row in rows {
        connection.execute(
            "INSERT INTO refusals (cause, path, first_at, last_at, count, last_client)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (cause, path) DO UPDATE SET last_at = excluded.last_at,
                count = refusals.count + excluded.count, last_client = excluded.last_client",
            values![
                &row.cause,
                &row.path,
                row.first_at,
                row.last_at,
                i64::try_from(row.count).unwrap_or(i64::MAX),
                &row.last_client
            ],
        )?;
    }
    connection.execute(
        "DELETE FROM refusals WHERE (cause, path) IN
               (SELECT cause, path FROM refusals ORDER BY last_at DESC, count DESC LIMIT -1 OFFSET ?1)",
        values![ROWS],
    )?;
    Ok(())
}

/// Rows with refusals at `since` or later, the latest first.
pub(crate) fn refusals_since(connection: &Connection, since: UnixSeconds) -> Result<Vec<RefusalRow>> {
    connection.rows(
        "SELECT cause, path, first_at, last_at, count, last_client FROM refusals
         WHERE last_at >= ?1 ORDER BY last_at DESC, cause, path",
        values![since],
        |row| {
            Ok(RefusalRow {
                cause: row.get(0)?,
                path: row.get(1)?,
                first_at: row.get(2)?,
                last_at: row.get(3)?,
                count: row.get::<i64>(4)?.unsigned_abs(),
                last_client: row.get(5)?,
            })
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open::open_in_memory;

    fn row(path: &str, at: i64) -> RefusalRow {
        RefusalRow {
            cause: "not_found".into(),
            path: path.into(),
            first_at: UnixSeconds(at),
            last_at: UnixSeconds(at),
            count: 2,
            last_client: "192.0.2.7".into(),
        }
    }

    #[test]
    fn counts_add_up_and_the_first_time_stays() {
        let db = open_in_memory().unwrap();
        record_refusals(&db, &[row("/a", 5), row("/b", 6)]).unwrap();
        record_refusals(&db, &[row("/a", 9)]).unwrap();
        let expected = RefusalRow { first_at: UnixSeconds(5), count: 4, ..row("/a", 9) };
        assert_eq!(refusals_since(&db, UnixSeconds(0)).unwrap(), [expected.clone(), row("/b", 6)]);
        assert_eq!(refusals_since(&db, UnixSeconds(7)).unwrap(), [expected]);
    }

    #[test]
    fn the_table_is_bounded_and_the_oldest_go() {
        let db = open_in_memory().unwrap();
        let rows: Vec<_> = (0..500).map(|n| row(&format!("/{n}"), n)).collect();
        record_refusals(&db, &rows).unwrap();
        let left = refusals_since(&db, UnixSeconds(0)).unwrap();
        assert_eq!((left.len(), left[199].path.as_str()), (200, "/300"));
    }
}
