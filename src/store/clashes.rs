//! One openid on several present members: it belongs to one person, so one of the userids is wrong, or a person has two.
//! Payments would go astray. Each clash is logged once, shown until it is resolved, and its members are asked for again.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};
use serde_json::{Value as Json, json};

use super::state::{get_state, set_state};
use crate::directory::UnixSeconds;

/// In `daemon_state`: the clashes that were found and are not resolved, openid -> userids.
const CLASHES: &str = "openid_clashes";

/// Clashes: openid, and the userids of the present members that have it.
pub type Clashes = BTreeMap<String, Vec<String>>;

/// The clashes that are not resolved.
///
/// # Errors
/// SQLite's.
pub fn clashes(connection: &Connection) -> rusqlite::Result<Clashes> {
    let found = get_state(connection, CLASHES)?.map(|(_, clashes)| clashes);
    Ok(found.and_then(|clashes| serde_json::from_value(clashes).ok()).unwrap_or_default())
}

/// Present members with this openid, in order of userid.
///
/// # Errors
/// SQLite's.
pub fn members_with(connection: &Connection, openid: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare_cached(
        "SELECT userid FROM members WHERE openid = ?1 AND deleted_at IS NULL ORDER BY userid",
    )?;
    let found = statement.query_map([openid], |row| row.get(0))?;
    found.collect()
}

/// A member has this openid now: looks for others that have it, too.
pub(super) fn look_for(connection: &Connection, openid: &str, now: UnixSeconds) -> rusqlite::Result<()> {
    let members = members_with(connection, openid)?;
    if members.len() < 2 {
        return Ok(());
    }
    let mut known = clashes(connection)?;
    if known.get(openid) == Some(&members) {
        return Ok(());
    }
    log::warn!(
        "openid clash: userids={} have the same openid={openid}; they are asked for again. If it stays, find out which \
         of them the person uses, and remove the other in WeCom's admin console",
        members.join(",")
    );
    // A converted member with a time is asked for again then, whatever the age of its openid.
    connection
        .prepare_cached(
            "UPDATE members SET openid_next_attempt_at = ?2 WHERE openid = ?1 AND deleted_at IS NULL",
        )?
        .execute(params![openid, now.0])?;
    known.insert(openid.to_owned(), members);
    write(connection, &known, now)
}

/// Members were deleted, renamed, or got other openids: forgets the clashes that this resolved.
pub(super) fn review(connection: &Connection, now: UnixSeconds) -> rusqlite::Result<()> {
    let known = clashes(connection)?;
    let mut left = Clashes::new();
    for openid in known.keys() {
        let members = members_with(connection, openid)?;
        if members.len() > 1 {
            left.insert(openid.clone(), members);
        } else {
            log::info!("openid clash of openid={openid} is resolved");
        }
    }
    if left == known { Ok(()) } else { write(connection, &left, now) }
}

fn write(connection: &Connection, clashes: &Clashes, now: UnixSeconds) -> rusqlite::Result<()> {
    let value = (!clashes.is_empty()).then(|| json!(clashes));
    set_state(connection, CLASHES, now, value.as_ref())
}

/// For programs: a list of objects with `openid` and `userids`.
#[must_use]
pub fn to_json(clashes: &Clashes) -> Json {
    clashes.iter().map(|(openid, userids)| json!({"openid": openid, "userids": userids})).collect()
}
