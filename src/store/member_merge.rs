//! Merging facts about members: the rows of their group are compared and corrected first, then the fact is stored and the
//! changed rows are written.

use super::Result;
use super::connection::Connection;
use super::heal::{check_members, log_repairs};
use super::ledger::next_event;
use super::{facts, members};
use crate::directory::clock::Moment;
use crate::directory::diff::{DetailsAction, MemberMerge, Restamp, merge_into, restamp};
use crate::directory::fact::Source;
use crate::directory::members::{MemberFact, Record, fold, implied_by_listing};
use crate::directory::{UnixSeconds, UserId};

/// Restamps facts that are later than plausible, in memory and in the database, so that they do not hide a fact of `next`.
/// Returns the facts, and the members that become due.
pub(super) fn plausible_facts(
    connection: &Connection,
    userid: &UserId,
    known: Vec<Record>,
    next: UnixSeconds,
    moment: Moment,
) -> Result<(Vec<Record>, Vec<UserId>)> {
    let Some(restamped) = moment.latest.and_then(|latest| restamp(&known, latest, Some(next))) else {
        return Ok((known, Vec::new()));
    };
    log::debug!("userid={userid} had times ahead of WeCom's clock; they are corrected");
    let names = known.iter().map(Record::userid).collect();
    facts::replace(connection, &names, &restamped.records)?;
    let Restamp { records, writes, tags, changes } = restamped;
    let rows = members::Rows { writes: &writes, tags: &tags, changes: &changes, details: None };
    let due = members::write_rows(connection, rows, moment.local)?;
    Ok((records, due))
}

/// Merges a fact about a member: stores it and writes what differs. Returns the members that this made due besides.
pub(super) fn add_member_fact(
    connection: &Connection,
    userid: &UserId,
    source: Source,
    fact: MemberFact,
    moment: Moment,
) -> Result<(MemberMerge, Vec<UserId>)> {
    let known = facts::facts_tied_by(connection, userid, &fact)?;
    let (known, mut due) = plausible_facts(connection, userid, known, source.second(), moment)?;
    let names = known.iter().flat_map(Record::names).chain(std::iter::once(userid)).chain(fact.new_name());
    let names = names.cloned().collect();
    let checked = check_members(connection, &names, known, Some(moment.local))?;
    log_repairs(&checked.findings);
    due.extend(checked.due);
    let (mut known, mut before) = (checked.records, checked.state);
    if let Some(listing) = facts::later_listing(connection, "member", source.second(), moment)? {
        let implied = implied_by_listing(&known, userid, listing);
        if !implied.is_empty() {
            for fact in implied {
                facts::remember(connection, &known, &fact)?;
                known.push(fact);
            }
            before = fold(&known);
        }
    }
    let record = Record::new(userid.clone(), source, next_event(connection)?, fact);
    let mut merged = merge_into(&before, &known, source, record);
    if known.iter().any(|record| record.repeats(&merged.record)) {
        // A replay of an event whose row was pruned must request nothing again.
        merged.took_effect = false;
        merged.details = DetailsAction::Keep;
        return Ok((merged, due));
    }
    facts::remember(connection, &known, &merged.record)?;
    due.extend(members::write_merge(connection, &merged, moment.local)?);
    Ok((merged, due))
}
