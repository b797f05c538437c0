//! One openid on several present members: it belongs to one person, so one of the userids is wrong, or a person has two.
//! Payments would go astray. Each clash is logged once, shown until it is resolved, and its members are asked for again.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};
use serde_json::{Value as Json, json};

use super::state::{get_state, set_state};
use crate::directory::UnixSeconds;

/// In `daemon_state`: the clashes that were found and are not resolved, openid -> userids.
const CLASHES: &str = "openid_clashes";

/// Userids that a log line names.
const NAMED: usize = 10;

/// Clashes: openid, and the userids of the present members that have it.
pub(crate) type Clashes = BTreeMap<String, Vec<String>>;

/// The clashes that are not resolved.
pub(crate) fn clashes(connection: &Connection) -> rusqlite::Result<Clashes> {
    let found = get_state(connection, CLASHES)?.map(|(_, clashes)| clashes);
    Ok(found.and_then(|clashes| serde_json::from_value(clashes).ok()).unwrap_or_default())
}

/// Present members with this openid, in order of userid.
pub(crate) fn members_with(connection: &Connection, openid: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare_cached(
        "SELECT userid FROM members WHERE openid = ?1 AND deleted_at IS NULL ORDER BY userid",
    )?;
    let found = statement.query_map([openid], |row| row.get(0))?;
    found.collect()
}

/// A member has this openid now: looks for others that have it, too. Each member of a clash is asked for again once: those
/// that were in it before have been, so that many members with one openid cost one more call each.
pub(super) fn look_for(connection: &Connection, openid: &str, now: UnixSeconds) -> rusqlite::Result<()> {
    let members = members_with(connection, openid)?;
    if members.len() < 2 {
        return Ok(());
    }
    let mut known = clashes(connection)?;
    let before = known.get(openid).map_or(&[][..], Vec::as_slice);
    let added: Vec<&str> =
        members.iter().filter(|userid| !before.contains(userid)).map(String::as_str).collect();
    if added.is_empty() {
        return Ok(());
    }
    log::warn!(
        "openid clash: userids={} have the same openid={openid}; they are asked for again. If it stays, find out which \
         of them the person uses, and remove the other in WeCom's admin console",
        named(&added, before)
    );
    // A converted member with a next attempt is asked for again then, independent of the age of its openid.
    let mut make_due = connection.prepare_cached(
        "UPDATE members SET openid_next_attempt_at = ?2 WHERE userid = ?1 AND deleted_at IS NULL",
    )?;
    for userid in added {
        make_due.execute(params![userid, now.0])?;
    }
    known.insert(openid.to_owned(), members);
    write(connection, &known, now)
}

/// The members of a clash for a log line, in order of userid: `added` before others if there are too many to name.
fn named(added: &[&str], before: &[String]) -> String {
    let present = added.iter().copied().chain(before.iter().map(String::as_str));
    let mut shown: Vec<&str> = present.take(NAMED).collect();
    shown.sort_unstable();
    let more = (added.len() + before.len()).saturating_sub(shown.len());
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    shown.join(",") + &rest
}

/// Members were deleted, renamed, respelled, or got other openids: forgets the clashes that this resolved.
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
pub(crate) fn to_json(clashes: &Clashes) -> Json {
    clashes.iter().map(|(openid, userids)| json!({"openid": openid, "userids": userids})).collect()
}
