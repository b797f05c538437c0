//! Openids that are known from elsewhere, merged as WeCom's answers are.

use super::Result;
use super::clashes::members_with;
use super::connection::{Connection, values};
use super::member_merge::add_member_fact;
use crate::directory::clock::Moment;
use crate::directory::members::{Answer, Conversion, MemberFact};
use crate::directory::{Source, UnixSeconds, UserId};

/// What happens to one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Imported {
    /// The member receives the openid.
    New,
    /// The member has this openid.
    Known,
    /// The directory has no present member of this userid.
    UnknownUserid,
    /// The member has this other openid, which stays.
    HasAnother(String),
    /// These present members have the openid.
    HeldBy(Vec<String>),
}

/// Adds an openid to a member without one; with `dry_run`, only states what would happen. The fact is about the member that
/// holds the userid now: an event that arrives later and is older takes it into account.
pub(crate) fn import_openid(
    connection: &Connection,
    userid: &UserId,
    openid: &str,
    dry_run: bool,
    now: UnixSeconds,
) -> Result<Imported> {
    let Some((known, event_time)) = stored(connection, userid)? else { return Ok(Imported::UnknownUserid) };
    match known {
        Some(known) if known == openid => return Ok(Imported::Known),
        Some(known) => return Ok(Imported::HasAnother(known)),
        None => {}
    }
    let holders = members_with(connection, openid)?;
    if !holders.is_empty() {
        return Ok(Imported::HeldBy(holders));
    }
    if !dry_run {
        let answered_at = now.max(event_time);
        let asked_before = answered_at.since(event_time);
        let answer = Answer { asked_before, conversion: Conversion::Openid(openid.to_owned()) };
        let fact = MemberFact::Answered(answer);
        add_member_fact(connection, userid, Source::Api(answered_at), fact, Moment::from(now))?;
        if stored(connection, userid)?.and_then(|(known, _)| known).as_deref() != Some(openid) {
            // The name changes its holder in this second.
            return Ok(Imported::UnknownUserid);
        }
    }
    Ok(Imported::New)
}

/// Openid and time of the newest fact of a present member.
fn stored(connection: &Connection, userid: &UserId) -> Result<Option<(Option<String>, UnixSeconds)>> {
    connection.row(
        "SELECT openid, event_time FROM members WHERE userid = ?1 AND deleted_at IS NULL",
        values![userid.as_str()],
        |row| Ok((row.get(0)?, UnixSeconds(row.get(1)?))),
    )
}
