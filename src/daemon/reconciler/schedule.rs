//! When the next comparison is due. Pure.

use std::time::Duration;

use crate::directory::UnixSeconds;

/// ReconcileTriggers mostly come in numbers: the comparison waits for the first of them to be so old (seconds).
const GATHER: i64 = 5;
/// ReconcileTriggers do not bring comparisons more often than this (seconds).
const APART: i64 = 60;
/// A comparison that failed is tried again after this, doubling (seconds) ..
const FAILED_FIRST: i64 = 60;
/// .. up to this.
const FAILED_MAX: i64 = 3600;

/// What is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Situation {
    /// When the last comparison ended, however it did.
    pub(super) last_ended: Option<UnixSeconds>,
    /// When the last one ended that compared everything or nearly so, or was blocked.
    pub(super) last_done: Option<UnixSeconds>,
    /// How often in a row it failed.
    pub(super) failures: u32,
    /// Since when there are triggers.
    pub(super) requested_at: Option<UnixSeconds>,
}

/// When to compare next.
#[must_use]
pub(super) fn next(situation: Situation, every: Duration, now: UnixSeconds) -> UnixSeconds {
    let every = i64::try_from(every.as_secs()).unwrap_or(i64::MAX);
    // A clock that was set back must not put it off for years.
    let past = |at: UnixSeconds| if at > now { UnixSeconds(i64::MIN) } else { at };
    let regular = situation.last_done.map_or(now, |at| past(at).plus(every));
    let ended = situation.last_ended.map(past);
    if situation.failures > 0 {
        let wait = FAILED_FIRST.saturating_mul(1 << (situation.failures - 1).min(10)).min(FAILED_MAX);
        return ended.map_or(now, |at| at.plus(wait));
    }
    match situation.requested_at {
        Some(since) => {
            let soon = past(since).plus(GATHER);
            regular.min(soon.max(ended.map_or(soon, |at| at.plus(APART))))
        }
        None => regular,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_700_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn an_empty_directory_is_filled_at_once_and_compared_every_day() {
        assert_eq!(next(Situation::default(), DAY, NOW), NOW);
        let done = Situation { last_ended: Some(NOW), last_done: Some(NOW), ..Situation::default() };
        assert_eq!(next(done, DAY, NOW), NOW.plus(86_400));
    }

    #[test]
    fn doubts_bring_it_soon_but_not_all_the_time() {
        let long_ago = Some(NOW.plus(-5000));
        let requested = Situation {
            last_ended: long_ago,
            last_done: long_ago,
            requested_at: Some(NOW),
            ..Situation::default()
        };
        assert_eq!(next(requested, DAY, NOW), NOW.plus(5));
        let just_done = Situation { last_ended: Some(NOW), last_done: Some(NOW), ..requested };
        assert_eq!(next(just_done, DAY, NOW), NOW.plus(60));
    }

    #[test]
    fn failures_are_tried_again_with_growing_patience() {
        let failed = |failures| Situation { last_ended: Some(NOW), failures, ..Situation::default() };
        let waits: Vec<i64> = (1..9).map(|n| next(failed(n), DAY, NOW).since(NOW)).collect();
        assert_eq!(waits, [60, 120, 240, 480, 960, 1920, 3600, 3600]);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_put_it_off() {
        let future = Some(NOW.plus(9_999_999));
        let done = Situation { last_ended: future, last_done: future, ..Situation::default() };
        assert!(next(done, DAY, NOW) <= NOW);
    }
}
