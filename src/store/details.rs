//! Details: members whose fields are not known yet, and what user/get said of them.

use rusqlite::{Connection, OptionalExtension, params};

use super::observed::{Effect, observe_member};
use crate::directory::{Fields, MemberField, UnixSeconds, UserId};

/// A member as it was when user/get was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetailsAsked {
    /// Who.
    pub userid: UserId,
    /// Whether an event named it: not merely a listing.
    pub is_named: bool,
    revision: i64,
}

/// Members whose details are to be asked for, those with the newest news first.
///
/// # Errors
/// Whatever SQLite says.
pub fn details_due(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<DetailsAsked>> {
    asked(
        connection,
        "SELECT userid, EXISTS (SELECT 1 FROM events WHERE subject = userid), details_revision FROM members
         WHERE details_state = 'due' AND deleted_at IS NULL ORDER BY event_time DESC LIMIT ?1",
        limit,
    )
}

/// Some members whose fields are known, chosen by chance: to see whether they still hold.
///
/// # Errors
/// Whatever SQLite says.
pub fn details_sample(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<DetailsAsked>> {
    asked(
        connection,
        "SELECT userid, 1, details_revision FROM members WHERE userid IN
           (SELECT userid FROM members WHERE deleted_at IS NULL AND details_state = 'known'
            ORDER BY random() LIMIT ?1)",
        limit,
    )
}

fn asked(connection: &Connection, sql: &str, limit: usize) -> rusqlite::Result<Vec<DetailsAsked>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([i64::try_from(limit).unwrap_or(i64::MAX)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        if let Ok(userid) = UserId::parse(row.get_ref(0)?.as_str()?) {
            found.push(DetailsAsked { userid, is_named: row.get(1)?, revision: row.get(2)? });
        }
    }
    Ok(found)
}

/// Brings in what user/get showed at `at` on WeCom's clock. They are known then, unless the answer is of the
/// same second as an event that says otherwise, or an event made them due again in between.
///
/// # Errors
/// Whatever SQLite says.
pub fn record_details(
    connection: &Connection,
    asked: &DetailsAsked,
    fields: &Fields<MemberField>,
    at: UnixSeconds,
    now: UnixSeconds,
) -> rusqlite::Result<Effect> {
    let row: Option<i64> = connection
        .prepare_cached("SELECT details_revision FROM members WHERE userid = ?1 AND deleted_at IS NULL")?
        .query_row([asked.userid.as_str()], |row| row.get(0))
        .optional()?;
    let Some(revision) = row else { return Ok(Effect::default()) };
    let merge = observe_member(connection, &asked.userid, fields, at, now)?;
    let state = if revision == asked.revision && !merge.unsettled { "known" } else { "due" };
    connection
        .prepare_cached("UPDATE members SET details_state = ?2, details_fetched_at = ?3 WHERE userid = ?1")?
        .execute(params![asked.userid.as_str(), state, now.0])?;
    Ok(Effect::of(&merge.changes))
}

/// WeCom will not show this member's fields.
///
/// # Errors
/// Whatever SQLite says.
pub fn record_denied(
    connection: &Connection,
    asked: &DetailsAsked,
    now: UnixSeconds,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE members SET details_state = 'denied', details_fetched_at = ?3
             WHERE userid = ?1 AND details_revision = ?2",
        )?
        .execute(params![asked.userid.as_str(), asked.revision, now.0])?;
    Ok(())
}

/// Moves up to `limit` members after `after`, in order of userid, from one state of details to another. The last
/// of them, if there may be more.
///
/// # Errors
/// Whatever SQLite says.
pub fn move_details(
    connection: &Connection,
    (from, to): (&str, &str),
    after: &str,
    limit: usize,
) -> rusqlite::Result<Option<String>> {
    let mut statement = connection.prepare_cached(
        "SELECT userid FROM members WHERE userid > ?1 AND details_state = ?2 AND deleted_at IS NULL
         ORDER BY userid LIMIT ?3",
    )?;
    let found = statement
        .query_map(params![after, from, i64::try_from(limit).unwrap_or(i64::MAX)], |row| row.get(0))?;
    let mut found: Vec<String> = found.collect::<rusqlite::Result<_>>()?;
    let mut update = connection.prepare_cached(
        "UPDATE members SET details_state = ?2, details_revision = details_revision + 1 WHERE userid = ?1",
    )?;
    for userid in &found {
        update.execute(params![userid, to])?;
    }
    Ok(if found.len() == limit { found.pop() } else { None })
}
