//! Clashes: several present members with the same openid. An openid belongs to one person, so a userid is wrong or a person
//! has two; a payment would reach the wrong account. Each clash is logged once and shown until it is resolved, and the
//! openids of its members are requested again.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::Result;
use super::connection::{Connection, values};
use super::state::{get_state, set_state};
use crate::directory::UnixSeconds;

/// In `daemon_state`: unresolved clashes, openid to userids.
const CLASHES: &str = "openid_clashes";

/// Maximum number of userids in a log line.
const NAMED: usize = 10;

/// Openids with the userids of the present members that have them.
pub(crate) type Clashes = BTreeMap<String, Vec<String>>;

/// Reads the unresolved clashes from `daemon_state`.
pub(crate) fn clashes(connection: &Connection) -> Result<Clashes> {
    let found = get_state(connection, CLASHES)?.map(|(_, clashes)| clashes);
    Ok(found.and_then(|clashes| serde_json::from_value(clashes).ok()).unwrap_or_default())
}

/// Present members with this openid, in order of userid.
pub(crate) fn members_with(connection: &Connection, openid: &str) -> Result<Vec<String>> {
    connection.rows(
        "SELECT userid FROM members WHERE openid = ?1 AND deleted_at IS NULL ORDER BY userid",
        values![openid],
        |row| row.get(0),
    )
}

/// Detects a clash after a member received this openid. The openid of each member is requested again once, when the member
/// joins the clash, so that N members cost N calls.
pub(super) fn look_for(connection: &Connection, openid: &str, now: UnixSeconds) -> Result<()> {
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
        "openid clash: userids={} have the same openid={openid}, which is requested again. If the clash remains, find out \
         which of them the person uses, and remove the other in WeCom's admin console",
        named(&added, before)
    );
    // A converted member with a next attempt is converted again then, independent of the age of its openid.
    for userid in added {
        connection.execute(
            "UPDATE members SET openid_next_attempt_at = ?2 WHERE userid = ?1 AND deleted_at IS NULL",
            values![userid, now],
        )?;
    }
    known.insert(openid.to_owned(), members);
    write(connection, &known, now)
}

/// The members of a clash for a log line, in order of userid; `added` take precedence if there are more than [`NAMED`].
fn named(added: &[&str], before: &[String]) -> String {
    let present = added.iter().copied().chain(before.iter().map(String::as_str));
    let mut shown: Vec<&str> = present.take(NAMED).collect();
    shown.sort_unstable();
    let more = (added.len() + before.len()).saturating_sub(shown.len());
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    shown.join(",") + &rest
}

/// Removes resolved clashes, after members were deleted, renamed, respelled, or received other openids.
pub(super) fn review(connection: &Connection, now: UnixSeconds) -> Result<()> {
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

fn write(connection: &Connection, clashes: &Clashes, now: UnixSeconds) -> Result<()> {
    let value = (!clashes.is_empty()).then(|| json!(clashes));
    set_state(connection, CLASHES, now, value.as_ref())
}

/// A list of objects with `openid` and `userids`, for `status --json`.
pub(crate) fn to_json(clashes: &Clashes) -> Json {
    clashes.iter().map(|(openid, userids)| json!({"openid": openid, "userids": userids})).collect()
}
