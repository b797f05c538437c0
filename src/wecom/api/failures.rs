//! Whose fault a failed call is: one item's, everybody's, or one API's. Pure; no clock.
//!
//! An answer that arrived and cannot be used counts against its item. Different items that fail in a row, with no success
//! between, open the circuit breaker for everyone.

use std::collections::HashMap;

use super::endpoints::{Api, SecretKind};
use crate::directory::{DepartmentId, TagId, UserId};

/// What a call is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Item {
    /// A member, whichever API is called.
    Member(UserId),
    /// A department.
    Department(DepartmentId),
    /// A tag.
    Tag(TagId),
    /// A call that is about no single item: a listing.
    Listing(Api),
}

/// For whom the circuit breaker opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opens {
    /// For no call: the item backs off.
    Nobody,
    /// For one API with one secret: other APIs work.
    Api,
    /// For everyone.
    All,
}

/// Different items in a row, over all APIs, that open the breaker for everyone.
const ITEMS_IN_A_ROW: usize = 2;
/// Different items in a row of one API that open it for that API: calls of others may succeed in between.
const ITEMS_OF_AN_API: usize = 5;
/// Different items in a row with the same unknown errcode that pause the API.
const UNKNOWN_IN_A_ROW: usize = 5;
/// Tries of one item while WeCom is busy (errcode -1).
const BUSY_TRIES: u32 = 3;
/// Items whose failures are remembered.
const REMEMBERED: usize = 10_000;

#[derive(Debug, Default)]
struct Past {
    /// Tries that WeCom answered with -1, since the last other answer.
    busy: u32,
    /// The last call got no answer at all.
    unanswered: bool,
    /// Since then another item got one.
    others_answered: bool,
}

/// Failures since the last success, by item.
#[derive(Debug, Default)]
pub(super) struct Failures {
    row: Vec<Item>,
    of_api: HashMap<(Api, SecretKind), Vec<Item>>,
    unknown: (i64, Vec<Item>),
    past: HashMap<Item, Past>,
    /// Whether some item of `past` waits to hear that others are answered.
    unanswered: bool,
}

impl Failures {
    /// An answer arrived that says something, if only that WeCom refuses all calls of this kind.
    pub(super) fn reached(&mut self, api: Api, secret: SecretKind, item: &Item) {
        self.row.clear();
        self.of_api.remove(&(api, secret));
        self.past.remove(item);
        if std::mem::take(&mut self.unanswered) {
            self.past
                .values_mut()
                .filter(|past| past.unanswered)
                .for_each(|past| past.others_answered = true);
        }
    }

    /// An answer arrived that tells of the item, be it a refusal. `unknown` is its errcode if this program does not know it;
    /// returns whether so many different items got that errcode in a row that it is not theirs.
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
        add(&mut self.unknown.1, item, UNKNOWN_IN_A_ROW);
        self.unknown.1.len() >= UNKNOWN_IN_A_ROW
    }

    /// An answer arrived that cannot be used: it counts against its item.
    pub(super) fn unusable(&mut self, api: Api, secret: SecretKind, item: &Item) -> Opens {
        self.past.remove(item);
        add(&mut self.row, item, ITEMS_IN_A_ROW);
        let of_api = self.of_api.entry((api, secret)).or_default();
        add(of_api, item, ITEMS_OF_AN_API);
        if self.row.len() >= ITEMS_IN_A_ROW {
            Opens::All
        } else if of_api.len() >= ITEMS_OF_AN_API {
            Opens::Api
        } else {
            Opens::Nobody
        }
    }

    /// WeCom is busy. Whether the item has tries left; if not, this counts as [`Failures::unusable`].
    pub(super) fn busy(&mut self, item: &Item) -> Option<u32> {
        let past = self.past(item);
        past.busy += 1;
        (past.busy < BUSY_TRIES).then_some(past.busy)
    }

    /// No answer came at all. That is the network's fault, and opens the breaker for everyone: except for an item whose
    /// last call got none either, while others were answered in between. True: it is this item's own fault.
    pub(super) fn unanswered(&mut self, item: &Item) -> bool {
        let past = self.past(item);
        let is_its_own = past.unanswered && past.others_answered;
        (past.unanswered, past.others_answered) = (!is_its_own, false);
        if !is_its_own {
            self.unanswered = true;
            add(&mut self.row, item, ITEMS_IN_A_ROW);
        }
        is_its_own
    }

    fn past(&mut self, item: &Item) -> &mut Past {
        if !self.past.contains_key(item) && self.past.len() >= REMEMBERED {
            self.past.clear();
        }
        self.past.entry(item.clone()).or_default()
    }
}

/// Adds a different item; no more than needed are kept.
fn add(row: &mut Vec<Item>, item: &Item, enough: usize) {
    if row.len() < enough && !row.contains(item) {
        row.push(item.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: SecretKind = SecretKind::App;

    fn member(name: &str) -> Item {
        Item::Member(UserId::parse(name).unwrap())
    }

    #[test]
    fn one_item_alone_never_opens_the_breaker_and_two_different_ones_do() {
        let mut failures = Failures::default();
        for _ in 0..100 {
            assert_eq!(failures.unusable(Api::UserGet, APP, &member("a")), Opens::Nobody);
            assert_eq!(failures.unusable(Api::ConvertToOpenid, APP, &member("A")), Opens::Nobody);
        }
        assert_eq!(failures.unusable(Api::UserGet, APP, &member("b")), Opens::All);
        assert_eq!(
            failures.unusable(Api::UserGet, APP, &member("b")),
            Opens::All,
            "until something succeeds"
        );
        failures.answered(Api::TagList, SecretKind::Contacts, &Item::Listing(Api::TagList), None);
        assert_eq!(failures.unusable(Api::UserGet, APP, &member("b")), Opens::Nobody);
    }

    #[test]
    fn an_api_that_fails_for_five_items_is_paused_although_others_work() {
        let mut failures = Failures::default();
        let opened: Vec<Opens> = ["a", "b", "c", "d", "e"]
            .iter()
            .map(|name| {
                failures.answered(Api::ConvertToOpenid, APP, &member(name), None);
                failures.unusable(Api::UserGet, APP, &member(name))
            })
            .collect();
        assert_eq!(opened[..4], [Opens::Nobody; 4]);
        assert_eq!(opened[4], Opens::Api);
    }

    #[test]
    fn silence_is_the_networks_fault_unless_only_one_item_meets_it() {
        let mut failures = Failures::default();
        let (a, b) = (member("a"), member("b"));
        assert!(!failures.unanswered(&a));
        assert!(!failures.unanswered(&a), "nobody else was answered meanwhile");
        failures.answered(Api::UserGet, APP, &b, None);
        assert!(failures.unanswered(&a));
        assert!(!failures.unanswered(&a), "counted once: it starts anew");
        failures.answered(Api::UserGet, APP, &a, None);
        failures.answered(Api::UserGet, APP, &b, None);
        assert!(!failures.unanswered(&a), "its own success ends the suspicion");
    }

    #[test]
    fn a_busy_answer_is_tried_three_times() {
        let mut failures = Failures::default();
        let a = member("a");
        assert_eq!([failures.busy(&a), failures.busy(&a), failures.busy(&a)], [Some(1), Some(2), None]);
        failures.unusable(Api::UserGet, APP, &a);
        assert_eq!(failures.busy(&a), Some(1));
    }

    #[test]
    fn an_unknown_errcode_is_everybodys_only_if_five_different_items_get_it() {
        let mut failures = Failures::default();
        let answered = |failures: &mut Failures, name: &str, code| {
            failures.answered(Api::UserGet, APP, &member(name), Some(code))
        };
        for _ in 0..20 {
            assert!(!answered(&mut failures, "a", 99999));
        }
        for name in ["b", "c", "d"] {
            assert!(!answered(&mut failures, name, 99999));
        }
        assert!(answered(&mut failures, "e", 99999));
        assert!(!answered(&mut failures, "e", 99998));
    }
}
