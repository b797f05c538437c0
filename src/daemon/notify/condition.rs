//! The conditions of the service, and when their begin or end is a notice. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::messages::Text;
use crate::directory::UnixSeconds;
use crate::wecom::api::errcode::Reason;

/// Minimum interval between two notices of one condition and direction, in seconds.
const INTERVAL: i64 = 3600;
/// How long a pause that ends by itself lasts before it is worth a notice, in seconds.
const PASSES: i64 = 600;

/// A condition that needs an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// Events cannot be committed; callbacks get 503.
    NotDurable,
    /// Calls of WeCom's API are paused for this reason.
    Paused(Reason),
    /// The last comparison would delete more than allowed.
    Blocked,
    /// A member waits for its openid longer than `oldest_pending_over`.
    OldestPending,
    /// No event arrived for `no_event_for`.
    NoEvent,
    ClockOffset,
    OpenidClash,
}

impl Condition {
    /// The stable name, for scripts and for `daemon_state`.
    pub(super) fn name(self) -> String {
        match self {
            Self::NotDurable => "not_durable".into(),
            Self::Paused(reason) => format!("paused_{}", reason.as_str()),
            Self::Blocked => "blocked".into(),
            Self::OldestPending => "oldest_pending".into(),
            Self::NoEvent => "no_event".into(),
            Self::ClockOffset => "clock_offset".into(),
            Self::OpenidClash => "openid_clash".into(),
        }
    }

    /// How long the condition must hold before its notice, in seconds.
    fn patience(self) -> i64 {
        match self {
            Self::Paused(reason) if !reason.needs_operator() => PASSES,
            _ => 0,
        }
    }
}

/// A condition that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holds {
    pub(super) since: UnixSeconds,
    pub(super) text: Text,
}

/// A change of a condition, as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Notice {
    /// [`Condition::name`].
    pub(super) condition: String,
    /// Whether the condition begins to hold; else it has ended.
    pub(super) begins: bool,
    pub(super) at: i64,
    pub(super) text: Text,
}

/// The last notices of one condition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Announced {
    /// Whether the last notice was that it holds.
    active: bool,
    began_at: Option<i64>,
    ended_at: Option<i64>,
}

/// What was announced so far. It is stored, so that a restart repeats no notice and forgets no end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Announcements(BTreeMap<String, Announced>);

impl Announcements {
    /// The notices about what was observed: each condition with `None` if it does not hold. A condition that could not be
    /// observed is left out, and stays as it was announced.
    ///
    /// Of one condition, at most one beginning and one end an hour: what changes back meanwhile is not announced.
    pub(super) fn observe(
        &mut self,
        observed: &[(Condition, Option<Holds>)],
        now: UnixSeconds,
    ) -> Vec<Notice> {
        let notices =
            observed.iter().filter_map(|(condition, holds)| self.change(*condition, holds.as_ref(), now));
        notices.collect()
    }

    fn change(&mut self, condition: Condition, holds: Option<&Holds>, now: UnixSeconds) -> Option<Notice> {
        let lasting = holds.filter(|holds| now.since(holds.since) >= condition.patience());
        let name = condition.name();
        let before = self.0.get(&name).copied().unwrap_or_default();
        // A time ahead of now was stored before the clock was set back.
        let may = |last: Option<i64>| last.is_none_or(|last| !(0..INTERVAL).contains(&(now.0 - last)));
        let (after, text) = match (before.active, holds, lasting) {
            (false, _, Some(holds)) if may(before.began_at) => {
                (Announced { active: true, began_at: Some(now.0), ..before }, holds.text.clone())
            }
            (true, None, _) if may(before.ended_at) => {
                (Announced { active: false, ended_at: Some(now.0), ..before }, Text::ended(condition))
            }
            _ => return None,
        };
        self.0.insert(name.clone(), after);
        Some(Notice { condition: name, begins: after.active, at: now.0, text })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: UnixSeconds = UnixSeconds(1_700_000_000);

    fn holds(since: UnixSeconds) -> Option<Holds> {
        Some(Holds { since, text: Text { en: "en".into(), zh: "zh".into() } })
    }

    /// Whether each notice at these minutes begins; `None`: there is none.
    fn told(condition: Condition, steps: &[(i64, bool)]) -> Vec<Option<bool>> {
        let mut announcements = Announcements::default();
        let mut since = START;
        let mut held = false;
        let steps = steps.iter().map(|(minute, now_holds)| {
            let now = START.plus(minute * 60);
            if *now_holds && !held {
                since = now;
            }
            held = *now_holds;
            let observed = [(condition, now_holds.then(|| holds(since)).flatten())];
            let notices = announcements.observe(&observed, now);
            assert!(notices.len() < 2);
            notices.first().map(|notice| notice.begins)
        });
        steps.collect()
    }

    #[test]
    fn each_change_is_told_once() {
        let steps = [(0, false), (1, true), (2, true), (90, true), (91, false), (92, false), (200, true)];
        let expected = [None, Some(true), None, None, Some(false), None, Some(true)];
        assert_eq!(told(Condition::Blocked, &steps), expected);
    }

    #[test]
    fn what_flaps_is_told_once_an_hour_in_each_direction_and_the_last_state_is_not_lost() {
        let steps =
            [(0, true), (5, false), (10, true), (15, false), (20, true), (59, true), (60, true), (61, false)];
        let told = told(Condition::NotDurable, &steps);
        let expected = [Some(true), Some(false), None, None, None, None, Some(true), None];
        assert_eq!(told, expected);
        let steps = [(0, true), (5, false), (10, true), (15, false), (70, false)];
        assert_eq!(super::tests::told(Condition::NotDurable, &steps)[2..], [None, None, None]);
    }

    #[test]
    fn a_pause_that_ends_by_itself_is_told_after_ten_minutes_one_of_the_operator_at_once() {
        let steps = [(0, true), (9, true), (10, true), (11, false)];
        let network = told(Condition::Paused(Reason::Network), &steps);
        assert_eq!(network, [None, None, Some(true), Some(false)]);
        assert_eq!(told(Condition::Paused(Reason::Network), &[(0, true), (9, false), (10, true)]), [None; 3]);
        assert_eq!(told(Condition::Paused(Reason::Secret), &steps)[0], Some(true));
    }

    #[test]
    fn a_restart_repeats_nothing_and_forgets_no_end() {
        let mut announcements = Announcements::default();
        assert_eq!(announcements.observe(&[(Condition::Blocked, holds(START))], START).len(), 1);
        let stored = serde_json::to_string(&announcements).unwrap();
        let mut restarted: Announcements = serde_json::from_str(&stored).unwrap();
        assert_eq!(restarted, announcements);
        assert_eq!(restarted.observe(&[(Condition::Blocked, holds(START))], START.plus(9000)), []);
        assert_eq!(restarted.observe(&[], START.plus(9001)), [], "what cannot be observed stays as it was");
        let ended = restarted.observe(&[(Condition::Blocked, None)], START.plus(9002));
        assert_eq!(ended.iter().map(|notice| notice.begins).collect::<Vec<_>>(), [false]);
    }

    #[test]
    fn a_clock_that_is_set_back_silences_nothing() {
        let mut announcements = Announcements::default();
        let blocked = |since| [(Condition::Blocked, holds(since))];
        announcements.observe(&blocked(START), START);
        let before = START.plus(-86_400);
        assert_eq!(announcements.observe(&[(Condition::Blocked, None)], before).len(), 1);
        assert_eq!(announcements.observe(&blocked(before), before.plus(1)).len(), 1);
    }

    proptest! {
        #[test]
        fn no_hour_has_two_notices_of_one_direction(steps in proptest::collection::vec((1_i64..50, any::<bool>()), 1..60)) {
            let mut minute = 0;
            let steps: Vec<(i64, bool)> = steps.into_iter().map(|(after, holds)| { minute += after; (minute, holds) }).collect();
            let told = told(Condition::Blocked, &steps);
            let notices: Vec<(i64, bool)> =
                steps.iter().zip(&told).filter_map(|((minute, _), told)| Some((*minute, (*told)?))).collect();
            for direction in [true, false] {
                let minutes: Vec<i64> = notices.iter().filter(|(_, begins)| *begins == direction).map(|(minute, _)| *minute).collect();
                prop_assert!(minutes.windows(2).all(|pair| pair[1] - pair[0] >= 60), "{:?}", notices);
            }
            prop_assert!(notices.windows(2).all(|pair| pair[0].1 != pair[1].1), "{:?}", notices);
        }
    }
}
