//! New stamps for facts that were recorded while the estimate of WeCom's clock was wrong.
//!
//! A fact ahead of the latest plausible time hides all later facts. Its new stamp precedes the fact that is about to be
//! added and all facts that arrived later, so that later facts win. Restamped facts keep their order.

use std::collections::BTreeMap;

use super::clock::TOLERANCE;
use super::time::{Stamp, UnixSeconds};

/// A fact's stamp and its order of arrival.
pub(crate) type Place = (Stamp, i64);

/// Maps each implausible second to a plausible one. Ranks within a second stay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Restamped(BTreeMap<UnixSeconds, UnixSeconds>);

impl Restamped {
    /// The new stamp of a fact; the same if it is plausible.
    pub(crate) fn stamp(&self, stamp: Stamp) -> Stamp {
        self.0.get(&stamp.second).map_or(stamp, |second| Stamp::new(*second, stamp.rank))
    }
}

/// New stamps for the facts in `known` that are later than `latest`; `None` if all are plausible. `next` is the second of the
/// fact to add, if there is one.
pub(crate) fn restamp(known: &[Place], latest: UnixSeconds, next: Option<UnixSeconds>) -> Option<Restamped> {
    let (ahead, sane): (Vec<Place>, Vec<Place>) = known.iter().partition(|(stamp, _)| stamp.second > latest);
    if ahead.is_empty() {
        return None;
    }
    // An API answer has the number of the next event, which it precedes.
    let order = |(stamp, arrival): &Place| (*arrival, !stamp.is_observed());
    let mut first_arrivals = BTreeMap::new();
    for place in &ahead {
        let first = first_arrivals.entry(place.0.second).or_insert(order(place));
        *first = order(place).min(*first);
    }
    let mut seconds = BTreeMap::new();
    let mut before = latest.plus(-TOLERANCE);
    for (second, arrived) in first_arrivals.iter().rev() {
        let is_earlier = |place: &&Place| order(place) < *arrived;
        let floor = sane.iter().filter(is_earlier).map(|(stamp, _)| stamp.second).max();
        let floor = floor.unwrap_or(UnixSeconds(i64::MIN));
        let later = sane.iter().filter(|place| !is_earlier(place)).map(|(stamp, _)| stamp.second);
        // A later arrival with an older time is a late event, and does not bound this time.
        let later = later.chain(next).filter(|second| *second > floor).min();
        let room = later.map_or(before, |later| later.min(before)).plus(-1);
        before = room.max(floor).min(before);
        seconds.insert(*second, before);
    }
    Some(Restamped(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::time::Rank;
    use proptest::prelude::*;

    const LATEST: UnixSeconds = UnixSeconds(1_000_000);
    const NOW: i64 = 1_000_000 - TOLERANCE;

    fn event(second: i64, arrival: i64) -> Place {
        (Stamp::new(UnixSeconds(second), Rank::Updated), arrival)
    }

    fn observed(second: i64, arrival: i64) -> Place {
        (Stamp::new(UnixSeconds(second), Rank::Listed), arrival)
    }

    fn moved(known: &[Place], next: Option<i64>) -> Vec<i64> {
        let restamped = restamp(known, LATEST, next.map(UnixSeconds)).unwrap();
        known.iter().map(|(stamp, _)| restamped.stamp(*stamp).second.0).collect()
    }

    #[test]
    fn plausible_facts_stay() {
        assert_eq!(restamp(&[event(5, 1), event(1_000_000, 2)], LATEST, None), None);
        assert_eq!(restamp(&[], LATEST, None), None);
    }

    #[test]
    fn a_fact_ahead_comes_before_what_arrived_after_it() {
        assert_eq!(moved(&[event(9_000_000, 1)], None), [NOW - 1]);
        assert_eq!(moved(&[event(9_000_000, 1)], Some(NOW - 50)), [NOW - 51]);
        assert_eq!(moved(&[event(100, 1), event(9_000_000, 2), event(500, 3)], None), [100, 499, 500]);
        assert_eq!(moved(&[event(100, 1), event(9_000_000, 2), event(50, 3)], None), [100, NOW - 1, 50]);
        assert_eq!(moved(&[event(100, 1), event(9_000_000, 2)], Some(100)), [100, NOW - 1], "a late event");
        let asked_before = [observed(9_000_000, 7), event(500, 7)];
        assert_eq!(moved(&asked_before, None), [499, 500]);
    }

    #[test]
    fn facts_ahead_keep_their_order() {
        let known = [event(9_000_000, 1), event(9_000_500, 2), event(9_000_500, 3), event(9_900_000, 4)];
        assert_eq!(moved(&known, None), [NOW - 3, NOW - 2, NOW - 2, NOW - 1]);
        assert_eq!(moved(&known, Some(777)), [774, 775, 775, 776]);
    }

    proptest! {
        #[test]
        fn afterwards_all_are_plausible_and_sane_ones_untouched(
            places in proptest::collection::vec((0..2_000_000i64, 0..20i64, any::<bool>()), 0..20),
            next in proptest::option::of(0..NOW),
        ) {
            let known: Vec<Place> = places
                .into_iter()
                .map(|(second, arrival, is_event)| if is_event { event(second, arrival) } else { observed(second, arrival) })
                .collect();
            let Some(restamped) = restamp(&known, LATEST, next.map(UnixSeconds)) else { return Ok(()) };
            let mut after = known.clone();
            for place in &mut after {
                place.0 = restamped.stamp(place.0);
            }
            prop_assert_eq!(restamp(&after, LATEST, None), None);
            for (was, is) in known.iter().zip(&after) {
                prop_assert!(was.0.second > LATEST || was == is);
                prop_assert!(is.0.second <= LATEST);
                for (other_was, other_is) in known.iter().zip(&after) {
                    if was.0.second > LATEST && other_was.0.second > was.0.second {
                        prop_assert!(is.0.second <= other_is.0.second);
                    }
                }
            }
        }
    }
}
