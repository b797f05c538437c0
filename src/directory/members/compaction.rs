//! Compaction: a snapshot replaces the older facts of a group.

use std::collections::BTreeSet;

use super::group::{fold, sort};
use super::record::{MemberFact, Record};
use crate::directory::entity::{SNAPSHOT, compaction_cut};
use crate::directory::fact::Fact;
use crate::directory::ids::UserId;
use crate::directory::time::{Rank, Stamp, UnixSeconds};

/// A group whose older facts are replaced by a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct Compacted {
    /// The snapshot's facts and all newer facts.
    pub records: Vec<Record>,
    /// The last second that the snapshot covers.
    pub up_to: UnixSeconds,
    /// Whether renames up to `up_to` still connect names, because newer facts use a former name.
    pub keeps_ties: bool,
}

/// Replaces the older facts by a snapshot: for each member, the smallest list of facts that folds to it, under its present
/// name. `None` if no compaction is due. Former names that no newer fact uses are dropped and become independent names.
///
/// Newer facts fold to the same result as before. A later arrival that is older than the snapshot folds against it in any
/// order alike, but possibly wrongly, because the snapshot lacks former names and holders; the API then decides
/// ([`is_below_snapshot`](crate::directory::entity::is_below_snapshot)).
#[must_use]
pub fn compact<'a>(records: impl IntoIterator<Item = &'a Record>) -> Option<Compacted> {
    let mut sorted: Vec<&Record> = records.into_iter().collect();
    sort(&mut sorted);
    let stamps: Vec<Stamp> = sorted.iter().map(|record| record.stamp).collect();
    let names = sorted.iter().map(|record| record.userid()).collect::<BTreeSet<_>>().len();
    let (old, recent) = sorted.split_at(compaction_cut(&stamps, names)?);
    let compacted = snapshot_of(old, recent)?;
    (compacted.records.len() < sorted.len()).then_some(compacted)
}

/// As [`compact`], of all facts at any number and age: the facts of each member are under its present name afterwards.
#[must_use]
pub fn snapshot<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<Record> {
    let mut sorted: Vec<&Record> = records.into_iter().collect();
    sort(&mut sorted);
    snapshot_of(&sorted, &[]).map_or_else(Vec::new, |compacted| compacted.records)
}

pub(super) fn snapshot_of(old: &[&Record], recent: &[&Record]) -> Option<Compacted> {
    let up_to = old.last()?.stamp.second;
    let group = fold(old.iter().copied());
    let mut snapshot: Vec<(UserId, Stamp, MemberFact)> = Vec::new();
    for member in group.members.values() {
        let facts = member.snapshot().into_iter();
        snapshot.extend(facts.map(|(stamp, fact)| (member.userid.clone(), stamp, fact)));
    }
    let mut unclaimed = group.unclaimed.clone();
    unclaimed.retain(|name, (at, answer)| group.lost_holder(name, *at, answer).is_none());
    snapshot.extend(
        unclaimed
            .iter()
            .map(|(name, (stamp, answer))| (name.clone(), *stamp, MemberFact::Answered(answer.clone()))),
    );
    let is_used = |name: &UserId| {
        recent.iter().any(|record| {
            let to = if let MemberFact::Renamed(to, _) = record.member_fact() { Some(to) } else { None };
            record.userid() == name || to == Some(name)
        })
    };
    let mut keeps_ties = false;
    for (name, (to, since)) in &group.aliases {
        if is_used(name) {
            keeps_ties = true;
            let stamp = Stamp::new(up_to, Rank::Converted);
            snapshot.push((name.clone(), stamp, MemberFact::FormerName(to.clone(), *since)));
        } else if !group.members.contains_key(name) {
            // A name without a holder: a late fact must not create one.
            let claimed_at = unclaimed.get(name).map(|(at, answer)| answer.claimed_at(*at));
            let second = claimed_at.map_or(up_to, |claimed_at| claimed_at.min(up_to));
            let stamp = Stamp::new(second, Rank::Deleted);
            snapshot.push((name.clone(), stamp, MemberFact::Entity(Fact::Deleted)));
        }
    }
    for (name, (left_at, _)) in &group.left_at {
        if !group.aliases.contains_key(name) && !group.members.contains_key(name) {
            snapshot.push((name.clone(), *left_at, MemberFact::Entity(Fact::Absent)));
        }
    }
    let snapshot = snapshot.into_iter().zip(SNAPSHOT..);
    let snapshot =
        snapshot.map(|((userid, stamp, fact), arrival)| Record { stamp, arrival, fact: (userid, fact) });
    let records = snapshot.chain(recent.iter().map(|record| (*record).clone())).collect();
    Some(Compacted { records, up_to, keeps_ties })
}
