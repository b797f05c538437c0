//! What comparisons have deleted within a day: the deletion guard bounds the sum.

use super::Result;
use super::connection::Connection;
use super::state::{COMPARISON_DELETIONS, DeletedCounts};
use crate::directory::UnixSeconds;

const DAY: i64 = 86_400;

/// Members, departments and tags that comparisons deleted within a day before `now`, without an operator's permission.
pub(crate) fn deleted_within_a_day(connection: &Connection, now: UnixSeconds) -> Result<[usize; 3]> {
    let recent = within_a_day(connection, now)?;
    Ok(std::array::from_fn(|kind| recent.iter().map(|deleted| deleted.counts[kind]).sum()))
}

/// Records deletions that a comparison is about to make.
pub(crate) fn record_deletions(connection: &Connection, counts: [usize; 3], now: UnixSeconds) -> Result<()> {
    let mut recent = within_a_day(connection, now)?;
    recent.push(DeletedCounts { at: now.0, counts });
    COMPARISON_DELETIONS.set(connection, now, &recent)
}

fn within_a_day(connection: &Connection, now: UnixSeconds) -> Result<Vec<DeletedCounts>> {
    let mut known = COMPARISON_DELETIONS.get(connection)?.map_or_else(Vec::new, |(_, known)| known);
    // A time ahead counts: the clock was set back.
    known.retain(|deleted| now.0 - deleted.at < DAY);
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open::open_in_memory;

    #[test]
    fn deletions_add_up_for_a_day() {
        let db = open_in_memory().unwrap();
        let at = |hours: i64| UnixSeconds(1_790_000_000 + hours * 3600);
        record_deletions(&db, [5, 0, 1], at(0)).unwrap();
        record_deletions(&db, [7, 2, 0], at(20)).unwrap();
        assert_eq!(deleted_within_a_day(&db, at(23)).unwrap(), [12, 2, 1]);
        assert_eq!(deleted_within_a_day(&db, at(24)).unwrap(), [7, 2, 0]);
        record_deletions(&db, [1, 0, 0], at(30)).unwrap();
        assert_eq!(deleted_within_a_day(&db, at(43)).unwrap(), [8, 2, 0]);
        assert_eq!(deleted_within_a_day(&db, at(54)).unwrap(), [0, 0, 0]);
    }
}
