//! Conversions: due members, claims, results, and the record of API calls.

use std::time::Duration;

use super::Result;
use super::clashes;
use super::connection::{Connection, Row, values};
use super::member_merge::add_member_fact;
use crate::directory::clock::Moment;
use crate::directory::members::{Answer, Conversion, MemberFact};
use crate::directory::openid::Backoff;
use crate::directory::{Source, UnixSeconds, UserId};

/// The result of one conversion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConversionOutcome {
    /// WeCom returned the member's openid.
    Openid(String),
    /// 43004, an unknown errcode, or an unusable answer: the member backs off.
    NotYet {
        /// The errcode, if the answer has one.
        errcode: Option<i64>,
        /// The errmsg, or the reason why the answer is unusable.
        errmsg: String,
    },
    /// Final until an event names the member.
    Never {
        #[allow(missing_docs)]
        errcode: i64,
        #[allow(missing_docs)]
        errmsg: String,
    },
}

/// A row of `api_calls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiCall {
    pub at: UnixSeconds,
    /// The path below `/cgi-bin/`, such as `user/get`.
    pub api: &'static str,
    pub userid: Option<UserId>,
    /// `None` without a readable answer.
    pub errcode: Option<i64>,
    /// WeCom's errmsg, or the network error.
    pub errmsg: String,
    pub millis: u64,
}

/// Wait after a discarded answer, until the second in which the name changed its holder is over.
const CHANGED_HANDS: Duration = Duration::from_secs(2);

/// Maximum number of rows in `api_calls`.
const CALLS_KEPT: i64 = 10_000;

/// Selects the columns of claims on present members; ?1 is the time before which an openid is old.
macro_rules! claims_where {
    ($condition:literal) => {
        concat!(
            "SELECT userid, openid_revision,
                openid_state = 'converted' AND NOT coalesce(openid_updated_at <= ?1, 0), event_time
             FROM members WHERE deleted_at IS NULL AND ",
            $condition
        )
    };
}

/// Records a call, and deletes the oldest beyond [`CALLS_KEPT`].
pub(crate) fn record_api_call(connection: &Connection, call: &ApiCall) -> Result<()> {
    let newest: i64 = connection.one(
        "INSERT INTO api_calls (at, api, userid, errcode, errmsg, millis) VALUES (?1, ?2, ?3, ?4, ?5, ?6) RETURNING id",
        values![
            call.at,
            call.api,
            call.userid.as_ref().map(UserId::as_str),
            call.errcode,
            &call.errmsg,
            i64::try_from(call.millis).unwrap_or(i64::MAX),
        ],
        |row| row.get(0),
    )?;
    connection.execute("DELETE FROM api_calls WHERE id <= ?1", values![newest - CALLS_KEPT])?;
    Ok(())
}

/// The calls of the last `seconds` before `now`, oldest first: API, and age in seconds.
pub(crate) fn recent_api_calls(
    connection: &Connection,
    seconds: i64,
    now: UnixSeconds,
) -> Result<Vec<(String, i64)>> {
    // In descending order of id, which is the order of time and needs no further index.
    let mut calls = Vec::new();
    connection.for_each("SELECT api, at FROM api_calls ORDER BY id DESC", &[], |row| {
        let ago = now.since(row.get(1)?);
        let is_recent = (0..=seconds).contains(&ago);
        if is_recent {
            calls.push((row.get(0)?, ago));
        }
        Ok(is_recent)
    })?;
    calls.reverse();
    Ok(calls)
}

/// Limits of a search for due members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    /// Members with a next attempt at this time or earlier are due.
    pub now: UnixSeconds,
    /// The longest wait that can begin now. Members with a later next attempt are due too: a wrong clock set it.
    pub latest: UnixSeconds,
    /// Converted members whose openids were confirmed before this are due.
    pub recheck_before: Option<UnixSeconds>,
}

/// Due members, the longest overdue first; after them, converted members whose openids must be confirmed.
pub(crate) fn due_members(
    connection: &Connection,
    Due { now, latest, recheck_before }: Due,
    limit: usize,
) -> Result<Vec<ConversionClaim>> {
    let mut due = Vec::new();
    let mut find = |sql: &'static str, time: UnixSeconds| {
        connection.for_each(sql, values![recheck_before, time, limit], |row| {
            due.extend(claimed(row)?);
            Ok(true)
        })
    };
    find(
        claims_where!(
            "openid_state = 'pending' AND openid_next_attempt_at <= ?2 ORDER BY openid_next_attempt_at LIMIT ?3"
        ),
        now,
    )?;
    find(
        claims_where!(
            "openid_state = 'pending' AND openid_next_attempt_at > ?2 ORDER BY openid_next_attempt_at LIMIT ?3"
        ),
        latest,
    )?;
    find(
        claims_where!(
            "openid_state = 'converted' AND openid_next_attempt_at <= ?2 ORDER BY openid_next_attempt_at LIMIT ?3"
        ),
        now,
    )?;
    if let Some(before) = recheck_before {
        find(
            claims_where!(
                "openid_state = 'converted' AND openid_next_attempt_at IS NULL AND openid_updated_at <= ?2
                 ORDER BY openid_updated_at LIMIT ?3"
            ),
            before,
        )?;
    }
    due.truncate(limit);
    Ok(due)
}

/// The earliest next attempt after `now`.
pub(crate) fn earliest_due(connection: &Connection, now: UnixSeconds) -> Result<Option<UnixSeconds>> {
    connection.one(
        "SELECT min(next) FROM (
                SELECT min(openid_next_attempt_at) AS next FROM members
                WHERE openid_state = 'pending' AND deleted_at IS NULL AND openid_next_attempt_at > ?1
                UNION ALL
                SELECT min(openid_next_attempt_at) FROM members
                WHERE openid_state = 'converted' AND deleted_at IS NULL AND openid_next_attempt_at > ?1)",
        values![now.0],
        |row| Ok(row.get::<Option<i64>>(0)?.map(UnixSeconds)),
    )
}

/// Makes a present member without an openid due at once, with its attempts reset. `None` if there is no such member.
pub(super) fn make_due_now(
    connection: &Connection,
    userid: &UserId,
    now: UnixSeconds,
) -> Result<Option<UserId>> {
    let changed = connection.execute(
        "UPDATE members SET openid_state = 'pending', openid_attempts = 0, openid_next_attempt_at = ?2,
                openid_revision = openid_revision + 1
             WHERE userid = ?1 AND openid IS NULL AND deleted_at IS NULL",
        values![userid.as_str(), now.0],
    )?;
    Ok((changed > 0).then(|| userid.clone()))
}

/// Makes a member due for the command `retry`; false if there is no such member without an openid.
pub(crate) fn make_due(connection: &Connection, userid: &UserId, now: UnixSeconds) -> Result<bool> {
    Ok(make_due_now(connection, userid, now)?.is_some())
}

/// Makes all members without an openid due now, and returns their number.
pub(crate) fn make_all_due(connection: &Connection, now: UnixSeconds) -> Result<usize> {
    connection.execute(
        "UPDATE members SET openid_state = 'pending', openid_attempts = 0, openid_next_attempt_at = ?1,
                openid_revision = openid_revision + 1
             WHERE openid IS NULL AND deleted_at IS NULL",
        values![now.0],
    )
}

/// Stores the result of a conversion. False: the claim is obsolete, because an event arrived during the call; the member is
/// converted again.
///
/// An openid or a final refusal is a fact about the name at `answered_at`, on WeCom's clock; the merge attributes it to a
/// member.
pub fn record_conversion(
    connection: &Connection,
    claim: &ConversionClaim,
    outcome: &ConversionOutcome,
    answered_at: UnixSeconds,
    backoff: Backoff,
    moment: Moment,
    random: f64,
) -> Result<bool> {
    let now = moment.local;
    let (openid, attempts, is_current) = stored(connection, claim)?.unwrap_or_default();
    let back_off = |backoff: Backoff, errcode: Option<i64>, errmsg: &str| -> Result<bool> {
        let attempts = attempts.saturating_add(1);
        // A clash causes only one further call.
        let next = (!claim.only_for_clash).then(|| backoff.next(attempts, now, random).0);
        connection.execute(
            "UPDATE members SET openid_attempts = ?2, openid_next_attempt_at = ?3, openid_errcode = ?4,
                    openid_error = ?5 WHERE userid = ?1",
            values![claim.userid.as_str(), attempts, next, errcode, errmsg],
        )?;
        Ok(true)
    };
    let add_fact = |conversion: Conversion| {
        let answered_at = answered_at.max(claim.event_time);
        let asked_before = answered_at.since(claim.event_time);
        let fact = MemberFact::Answered(Answer { asked_before, conversion });
        add_member_fact(connection, &claim.userid, Source::Api(answered_at), fact, moment)
    };
    match outcome {
        ConversionOutcome::Openid(answered) => {
            if openid.as_ref() == Some(answered) {
                connection.execute("UPDATE members SET openid_attempts = 0, openid_next_attempt_at = NULL,
                            openid_errcode = NULL, openid_error = NULL, openid_updated_at = ?2 WHERE userid = ?1", values![claim.userid.as_str(), now.0])?;
                clashes::look_for(connection, answered, now)?;
                return Ok(true);
            }
            add_fact(Conversion::Openid(answered.clone()))?;
            match stored(connection, claim)? {
                Some((Some(known), ..)) if known == *answered => Ok(true),
                Some((_, _, true)) => {
                    let soon = Backoff { first: CHANGED_HANDS, ..backoff };
                    back_off(soon, None, "the userid changed its holder during the call")
                }
                _ => Ok(false),
            }
        }
        _ if !is_current => Ok(false),
        ConversionOutcome::Never { errcode, errmsg } if openid.is_none() => {
            let (merged, _) = add_fact(Conversion::Refused(*errcode, errmsg.clone()))?;
            if !merged.holds {
                return back_off(backoff, Some(*errcode), errmsg);
            }
            connection.execute(
                "UPDATE members SET openid_state = 'failed', openid_attempts = openid_attempts + 1,
                        openid_next_attempt_at = NULL, openid_errcode = ?2, openid_error = ?3,
                        openid_updated_at = ?4 WHERE userid = ?1",
                values![claim.userid.as_str(), errcode, errmsg, now.0],
            )?;
            Ok(true)
        }
        // A converted member keeps its openid when a repeated call is refused: only another openid is a change.
        ConversionOutcome::NotYet { errcode, errmsg } => back_off(backoff, *errcode, errmsg),
        ConversionOutcome::Never { errcode, errmsg } => back_off(backoff, Some(*errcode), errmsg),
    }
}

/// Openid and attempts of the present member with this name, and whether the claim is current.
fn stored(connection: &Connection, claim: &ConversionClaim) -> Result<Option<(Option<String>, u32, bool)>> {
    connection.row(
        "SELECT openid, openid_attempts, openid_revision = ?2 FROM members
             WHERE userid = ?1 AND deleted_at IS NULL",
        values![claim.userid.as_str(), claim.revision],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )
}

/// A member to convert, with its revision before the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversionClaim {
    /// The userid at the claim.
    pub userid: UserId,
    revision: i64,
    /// Whether the member has a recent openid and is converted again only because another member has the same.
    only_for_clash: bool,
    /// WeCom's time of the newest fact about the member. The call is later, even if the fact is dated ahead of the estimate of
    /// WeCom's clock.
    event_time: UnixSeconds,
}

/// Reads a row of `claims_where!`.
fn claimed(row: &Row<'_>) -> Result<Option<ConversionClaim>> {
    let Some(userid) = row.userid(0)? else { return Ok(None) };
    let (revision, only_for_clash, event_time) = (row.get(1)?, row.get(2)?, UnixSeconds(row.get(3)?));
    Ok(Some(ConversionClaim { userid, revision, only_for_clash, event_time }))
}

/// Claims a member that is pending, or converted and due for a confirmation: last confirmed before `recheck_before`, or with
/// a next attempt up to `now`. `None` if the member is neither.
pub fn claim(
    connection: &Connection,
    userid: &UserId,
    recheck_before: Option<UnixSeconds>,
    now: UnixSeconds,
) -> Result<Option<ConversionClaim>> {
    let sql = claims_where!(
        "userid = ?3 AND (openid_state = 'pending'
            OR (openid_state = 'converted' AND (openid_updated_at <= ?1 OR openid_next_attempt_at <= ?2)))"
    );
    Ok(connection.row(sql, values![recheck_before, now, userid.as_str()], claimed)?.flatten())
}
