//! Facts that a complete listing implies without a difference.

use std::collections::BTreeSet;

use super::group::fold;
use super::record::{MemberFact, Record};
use crate::directory::fact::CompleteListing;
use crate::directory::ids::UserId;

/// The facts that the last complete listing implies about `userid` and the names in `known`; none if `known` contains them.
/// Former names that lead to a member are left out.
#[must_use]
pub fn implied_by_listing(known: &[Record], userid: &UserId, listing: CompleteListing) -> Vec<Record> {
    if listing.is_explicit_in(known) {
        return Vec::new();
    }
    let group = fold(listing.known_before(known));
    let mut names: BTreeSet<&UserId> = known.iter().map(Record::userid).collect();
    names.insert(userid);
    let names = names.into_iter().filter(|name| !group.aliases.contains_key(*name));
    names
        .map(|name| {
            let (source, fact) = listing.implied(group.is_present(name));
            Record::new(name.clone(), source, listing.arrival, MemberFact::Entity(fact))
        })
        .collect()
}
