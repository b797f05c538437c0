//! Attributes a failed call to its item, to one API, or to all calls. Pure; no clock.
//!
//! An unusable answer counts against its item. Unusable answers about different items in a row, with no success
//! between, open the circuit breaker.

use std::collections::HashMap;

use super::endpoints::{Api, SecretKind};
use crate::directory::{DepartmentId, TagId, UserId};

/// The item that a call concerns.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Item {
    Member(UserId),
    Department(DepartmentId),
    Tag(TagId),
    /// No single item: a listing.
    Listing(Api),
}

/// To what a failure is attributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attribution {
    /// The item backs off; no breaker opens.
    Item,
    /// The breaker opens for this API with this secret.
    Api,
    /// The breaker opens for all calls.
    All,
}

/// Different items in a row, over all APIs, that open the breaker for all calls.
const ITEMS_IN_A_ROW: usize = 2;
/// Different items in a row of one API that open it for that API: calls of others may succeed in between.
const ITEMS_OF_AN_API: usize = 5;
/// Different items in a row with the same unknown errcode that open it for the API.
const UNKNOWN_IN_A_ROW: usize = 5;
/// Attempts per item while WeCom is busy (errcode -1).
const BUSY_TRIES: u32 = 3;
/// Items that [`FailureTracker::history`] keeps at most.
const MAX_HISTORY: usize = 10_000;

#[derive(Debug, Default)]
struct ItemHistory {
    /// Attempts answered with -1 since the last other answer.
    busy: u32,
    /// The last call got no answer at all.
    unanswered: bool,
    /// Another item was answered since.
    others_answered: bool,
}

/// Failures since the last success.
#[derive(Debug, Default)]
pub(super) struct FailureTracker {
    in_a_row: Vec<Item>,
    of_api: HashMap<(Api, SecretKind), Vec<Item>>,
    unknown: (i64, Vec<Item>),
    history: HashMap<Item, ItemHistory>,
    /// Whether `history` has an item whose last call was not answered.
    has_unanswered: bool,
}

impl FailureTracker {
    /// Records a usable answer, even one that refuses all calls of this kind.
    pub(super) fn reached(&mut self, api: Api, secret: SecretKind, item: &Item) {
        self.in_a_row.clear();
        self.of_api.remove(&(api, secret));
        self.history.remove(item);
        if std::mem::take(&mut self.has_unanswered) {
            let unanswered = self.history.values_mut().filter(|history| history.unanswered);
            unanswered.for_each(|history| history.others_answered = true);
        }
    }

    /// Records an answer about the item, even a refusal. `unknown` is an errcode that this program does not know;
    /// returns whether that many different items got it in a row that it is not theirs.
    pub(super) fn answered(
        &mut self,
        api: Api,
        secret: SecretKind,
        item: &Item,
        unknown: Option<i64>,
    ) -> bool {
        self.reached(api, secret, item);
        let Some(errcode) = unknown else {
            self.unknown.1.clear();
            return false;
        };
        if self.unknown.0 != errcode {
            self.unknown = (errcode, Vec::new());
        }
        add(&mut self.unknown.1, item, UNKNOWN_IN_A_ROW) >= UNKNOWN_IN_A_ROW
    }

    /// Records an answer that cannot be used, and attributes it.
    pub(super) fn unusable(&mut self, api: Api, secret: SecretKind, item: &Item) -> Attribution {
        self.history.remove(item);
        let in_a_row = add(&mut self.in_a_row, item, ITEMS_IN_A_ROW);
        let of_api = add(self.of_api.entry((api, secret)).or_default(), item, ITEMS_OF_AN_API);
        if in_a_row >= ITEMS_IN_A_ROW {
            Attribution::All
        } else if of_api >= ITEMS_OF_AN_API {
            Attribution::Api
        } else {
            Attribution::Item
        }
    }

    /// Records errcode -1. Returns the number of attempts, or `None` if none is left, which the caller records as
    /// [`FailureTracker::unusable`] in turn.
    pub(super) fn busy(&mut self, item: &Item) -> Option<u32> {
        let history = self.history(item);
        history.busy += 1;
        (history.busy < BUSY_TRIES).then_some(history.busy)
    }

    /// Records a call without any answer. Returns whether the item is to blame: its last two calls got no answer,
    /// while other items were answered in between; otherwise the network is.
    pub(super) fn unanswered(&mut self, item: &Item) -> bool {
        let history = self.history(item);
        let is_of_item = history.unanswered && history.others_answered;
        (history.unanswered, history.others_answered) = (!is_of_item, false);
        if !is_of_item {
            self.has_unanswered = true;
            add(&mut self.in_a_row, item, ITEMS_IN_A_ROW);
        }
        is_of_item
    }

    fn history(&mut self, item: &Item) -> &mut ItemHistory {
        if !self.history.contains_key(item) && self.history.len() >= MAX_HISTORY {
            self.history.clear();
        }
        self.history.entry(item.clone()).or_default()
    }
}

/// Adds an item that is not in the list, up to `limit` items; returns their number.
fn add(items: &mut Vec<Item>, item: &Item, limit: usize) -> usize {
    if items.len() < limit && !items.contains(item) {
        items.push(item.clone());
    }
    items.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: SecretKind = SecretKind::App;

    fn member(name: &str) -> Item {
        Item::Member(UserId::parse(name).unwrap())
    }

    #[test]
    fn one_item_never_opens_the_breaker_and_two_different_ones_do() {
        let mut tracker = FailureTracker::default();
        for _ in 0..100 {
            assert_eq!(tracker.unusable(Api::UserGet, APP, &member("a")), Attribution::Item);
            assert_eq!(tracker.unusable(Api::ConvertToOpenid, APP, &member("A")), Attribution::Item);
        }
        assert_eq!(tracker.unusable(Api::UserGet, APP, &member("b")), Attribution::All);
        assert_eq!(
            tracker.unusable(Api::UserGet, APP, &member("b")),
            Attribution::All,
            "until a call succeeds"
        );
        tracker.answered(Api::TagList, SecretKind::Contacts, &Item::Listing(Api::TagList), None);
        assert_eq!(tracker.unusable(Api::UserGet, APP, &member("b")), Attribution::Item);
    }

    #[test]
    fn an_api_that_fails_for_five_items_is_paused_although_others_work() {
        let mut tracker = FailureTracker::default();
        let opened: Vec<Attribution> = ["a", "b", "c", "d", "e"]
            .iter()
            .map(|name| {
                tracker.answered(Api::ConvertToOpenid, APP, &member(name), None);
                tracker.unusable(Api::UserGet, APP, &member(name))
            })
            .collect();
        assert_eq!(opened[..4], [Attribution::Item; 4]);
        assert_eq!(opened[4], Attribution::Api);
    }

    #[test]
    fn a_missing_answer_is_the_networks_fault_unless_others_are_answered() {
        let mut tracker = FailureTracker::default();
        let (a, b) = (member("a"), member("b"));
        assert!(!tracker.unanswered(&a));
        assert!(!tracker.unanswered(&a), "no other item was answered meanwhile");
        tracker.answered(Api::UserGet, APP, &b, None);
        assert!(tracker.unanswered(&a));
        assert!(!tracker.unanswered(&a), "the item is blamed once");
        tracker.answered(Api::UserGet, APP, &a, None);
        tracker.answered(Api::UserGet, APP, &b, None);
        assert!(!tracker.unanswered(&a), "its own answer clears its history");
    }

    #[test]
    fn a_busy_item_is_tried_three_times() {
        let mut tracker = FailureTracker::default();
        let a = member("a");
        assert_eq!([tracker.busy(&a), tracker.busy(&a), tracker.busy(&a)], [Some(1), Some(2), None]);
        tracker.unusable(Api::UserGet, APP, &a);
        assert_eq!(tracker.busy(&a), Some(1));
    }

    #[test]
    fn an_unknown_errcode_concerns_the_api_once_five_different_items_get_it() {
        let mut tracker = FailureTracker::default();
        let answered = |tracker: &mut FailureTracker, name: &str, code| {
            tracker.answered(Api::UserGet, APP, &member(name), Some(code))
        };
        for _ in 0..20 {
            assert!(!answered(&mut tracker, "a", 99999));
        }
        for name in ["b", "c", "d"] {
            assert!(!answered(&mut tracker, name, 99999));
        }
        assert!(answered(&mut tracker, "e", 99999));
        assert!(!answered(&mut tracker, "e", 99998));
    }
}
