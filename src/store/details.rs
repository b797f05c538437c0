//! Details: members whose fields must be fetched, and the answers of user/get about them.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::Result;
use super::connection::{Connection, values};
use super::observations::{Effect, observe_member};
use crate::directory::clock::Moment;
use crate::directory::{Fields, MemberField, UnixSeconds, UserId};

/// Rowids tried per member of a sample; enough to find all members of a small company.
const TRIES: usize = 50;

/// A member whose fields are fetched, with its revision before the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetailsClaim {
    pub userid: UserId,
    /// Whether an event has named the member; otherwise only a listing has.
    pub is_named: bool,
    revision: i64,
}

/// Members whose details are due, those with the newest facts first.
pub(crate) fn details_due(connection: &Connection, limit: usize) -> Result<Vec<DetailsClaim>> {
    claims(
        connection,
        "SELECT userid, EXISTS (SELECT 1 FROM events WHERE subject = userid), details_revision FROM members
         WHERE details_state = 'due' AND deleted_at IS NULL ORDER BY event_time DESC LIMIT ?1",
        i64::try_from(limit).unwrap_or(i64::MAX),
    )
}

/// Up to `limit` random members whose fields are known, to detect drift. `random` returns a number of the given range. Finds
/// few if the fields of few members are known.
pub(crate) fn details_sample(
    connection: &Connection,
    limit: usize,
    mut random: impl FnMut(RangeInclusive<i64>) -> i64,
) -> Result<Vec<DetailsClaim>> {
    let (first, last): (Option<i64>, Option<i64>) = connection.one(
        "SELECT (SELECT min(rowid) FROM members), (SELECT max(rowid) FROM members)",
        &[],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let (Some(first), Some(last)) = (first, last) else { return Ok(Vec::new()) };
    let (mut tried, mut found) = (BTreeSet::new(), Vec::new());
    // By rowid: a scan of a million members would dominate the time of the start.
    for _ in 0..limit.saturating_mul(TRIES) {
        let rowid = random(first..=last);
        if tried.insert(rowid) {
            found.extend(claims(
                connection,
                "SELECT userid, 1, details_revision FROM members
                 WHERE rowid = ?1 AND deleted_at IS NULL AND details_state = 'known'",
                rowid,
            )?);
        }
        if found.len() >= limit {
            break;
        }
    }
    Ok(found)
}

fn claims(connection: &Connection, sql: &'static str, parameter: i64) -> Result<Vec<DetailsClaim>> {
    let mut found = Vec::new();
    connection.for_each(sql, values![parameter], |row| {
        if let Some(userid) = row.userid(0)? {
            found.push(DetailsClaim { userid, is_named: row.get(1)?, revision: row.get(2)? });
        }
        Ok(true)
    })?;
    Ok(found)
}

/// Merges an answer of user/get that is dated `at` on WeCom's clock. The details are known then, unless an event of the same
/// second contradicts the answer, or a later event made them due again.
pub(crate) fn record_details(
    connection: &Connection,
    claim: &DetailsClaim,
    fields: &Fields<MemberField>,
    at: UnixSeconds,
    moment: Moment,
) -> Result<Effect> {
    let now = moment.local;
    let row: Option<i64> = connection.row(
        "SELECT details_revision FROM members WHERE userid = ?1 AND deleted_at IS NULL",
        values![claim.userid.as_str()],
        |row| row.get(0),
    )?;
    let Some(revision) = row else { return Ok(Effect::default()) };
    let merge = observe_member(connection, &claim.userid, fields, at, moment)?;
    let state = if revision == claim.revision && !merge.is_unsettled { "known" } else { "due" };
    connection.execute(
        "UPDATE members SET details_state = ?2, details_fetched_at = ?3 WHERE userid = ?1",
        values![claim.userid.as_str(), state, now.0],
    )?;
    Ok(Effect::of(&merge.changes))
}

/// Records that WeCom does not show this member's fields.
pub(crate) fn record_denied(connection: &Connection, claim: &DetailsClaim, now: UnixSeconds) -> Result<()> {
    connection.execute(
        "UPDATE members SET details_state = 'denied', details_fetched_at = ?3
             WHERE userid = ?1 AND details_revision = ?2",
        values![claim.userid.as_str(), claim.revision, now.0],
    )?;
    Ok(())
}

/// Changes the `details_state` of up to `limit` members after `after`, in order of userid. Returns the last of them if there
/// may be more.
pub(crate) fn move_details(
    connection: &Connection,
    (from, to): (&str, &str),
    after: &str,
    limit: usize,
) -> Result<Option<String>> {
    let mut found: Vec<String> = connection.rows(
        "SELECT userid FROM members WHERE userid > ?1 AND details_state = ?2 AND deleted_at IS NULL
         ORDER BY userid LIMIT ?3",
        values![after, from, limit],
        |row| row.get(0),
    )?;
    for userid in &found {
        connection.execute(
            "UPDATE members SET details_state = ?2, details_revision = details_revision + 1 WHERE userid = ?1",
            values![userid, to],
        )?;
    }
    Ok(if found.len() == limit { found.pop() } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open::open_in_memory;

    fn company(known: usize, due: usize) -> Connection {
        let db = open_in_memory().unwrap();
        for n in 0..known + due {
            let state = if n < known { "known" } else { "due" };
            db.execute("INSERT INTO members (userid, openid_state, openid_next_attempt_at, openid_revision, details_state,
                     created_at, updated_at, event_time) VALUES ('u' || ?1, 'pending', 7, 1, ?2, 0, 0, 0)", values![i64::try_from(n).unwrap(), state])
            .unwrap();
        }
        db
    }

    #[test]
    fn a_sample_has_members_whose_fields_are_known_and_of_a_small_company_all_of_them() {
        let mut rng = fastrand::Rng::with_seed(1);
        for (known, due, expected) in [(0, 0, 0), (0, 9, 0), (1, 0, 1), (20, 5, 20), (300, 300, 20)] {
            let db = company(known, due);
            let sample = details_sample(&db, 20, |range| rng.i64(range)).unwrap();
            let names: BTreeSet<_> = sample.iter().map(|claim| claim.userid.as_str().to_owned()).collect();
            assert_eq!((names.len(), sample.len()), (expected, expected), "{known} {due}");
            let is_known = |name: &String| name[1..].parse::<usize>().unwrap() < known;
            assert!(names.iter().all(is_known), "{names:?}");
        }
    }
}
