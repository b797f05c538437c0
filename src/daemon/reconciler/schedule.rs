//! The time of the next comparison. Pure.

use std::time::Duration;

use crate::directory::UnixSeconds;

/// Seconds from the first trigger to the comparison: triggers mostly come in numbers.
const GATHER: i64 = 5;
/// Minimum seconds between the end of a comparison and the next one that a trigger causes.
const TRIGGERED_INTERVAL: i64 = 60;
/// Seconds to wait after a failed comparison; doubles with each failure.
const FAILED_FIRST: i64 = 60;
/// The longest such wait, in seconds.
const FAILED_MAX: i64 = 3600;

/// Earlier comparisons and the request for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct History {
    /// End of the last comparison, of any outcome.
    pub(super) last_ended: Option<UnixSeconds>,
    /// End of the last comparison that was ok, partial or blocked.
    pub(super) last_done: Option<UnixSeconds>,
    /// Comparisons in a row that failed.
    pub(super) failures: u32,
    /// Time of the first trigger since the last comparison.
    pub(super) requested_at: Option<UnixSeconds>,
}

pub(super) fn next(history: History, every: Duration, now: UnixSeconds) -> UnixSeconds {
    let every = i64::try_from(every.as_secs()).unwrap_or(i64::MAX);
    // After the clock was set back, a time in the future must not postpone the comparison for years.
    let past = |at: UnixSeconds| if at > now { UnixSeconds(i64::MIN) } else { at };
    let regular = history.last_done.map_or(now, |at| past(at).plus(every));
    let ended = history.last_ended.map(past);
    if history.failures > 0 {
        let wait = FAILED_FIRST.saturating_mul(1 << (history.failures - 1).min(10)).min(FAILED_MAX);
        return ended.map_or(now, |at| at.plus(wait));
    }
    match history.requested_at {
        Some(since) => {
            let soon = past(since).plus(GATHER);
            regular.min(soon.max(ended.map_or(soon, |at| at.plus(TRIGGERED_INTERVAL))))
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
        assert_eq!(next(History::default(), DAY, NOW), NOW);
        let done = History { last_ended: Some(NOW), last_done: Some(NOW), ..History::default() };
        assert_eq!(next(done, DAY, NOW), NOW.plus(86_400));
    }

    #[test]
    fn triggers_bring_a_comparison_soon_but_not_all_the_time() {
        let long_ago = Some(NOW.plus(-5000));
        let requested = History {
            last_ended: long_ago,
            last_done: long_ago,
            requested_at: Some(NOW),
            ..History::default()
        };
        assert_eq!(next(requested, DAY, NOW), NOW.plus(5));
        let just_done = History { last_ended: Some(NOW), last_done: Some(NOW), ..requested };
        assert_eq!(next(just_done, DAY, NOW), NOW.plus(60));
    }

    #[test]
    fn failures_are_retried_after_growing_waits() {
        let failed = |failures| History { last_ended: Some(NOW), failures, ..History::default() };
        let waits: Vec<i64> = (1..9).map(|n| next(failed(n), DAY, NOW).since(NOW)).collect();
        assert_eq!(waits, [60, 120, 240, 480, 960, 1920, 3600, 3600]);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_put_it_off() {
        let future = Some(NOW.plus(9_999_999));
        let done = History { last_ended: future, last_done: future, ..History::default() };
        assert!(next(done, DAY, NOW) <= NOW);
    }
}
