//! How many calls about single members may be in flight: as many as the pace needs at the present latency, and fewer after
//! WeCom refuses concurrent calls (45033). Pure; the caller passes the time.

use std::time::{Duration, Instant};

use super::rate_limiter::API_PER_MINUTE;

/// Most calls in flight that can be configured.
pub(crate) const MAX_CONCURRENT_CALLS: usize = 64;
/// Most calls in flight that `auto` chooses, as a slow WeCom must not be loaded without bound.
const MAX_AUTO: usize = 32;
/// Calls in flight per call that the average latency needs: latency varies.
const MARGIN: f64 = 1.25;
/// Average before the first answer, whose call is slow: it resolves a name, connects and fetches a token.
const FIRST_LATENCY: Duration = Duration::from_millis(100);
/// Share of the newest call in the average latency.
const WEIGHT: f64 = 1.0 / 32.0;
/// After a refusal, the limit rises by one call per this time.
const RECOVERY: Duration = Duration::from_secs(60);

/// Little's law: calls in flight are pace times latency. One more keeps a single slow call from stopping all others.
fn needed(calls_per_minute: u32, latency: Duration) -> usize {
    // Conversions and details are two APIs, each with a limit of its own.
    let per_minute =
        u32::try_from(2 * API_PER_MINUTE).map_or(calls_per_minute, |max| calls_per_minute.min(max));
    let in_flight = f64::from(per_minute) / 60.0 * latency.as_secs_f64() * MARGIN;
    // A cast of a float saturates.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let in_flight = in_flight.ceil().max(1.0) as usize;
    in_flight.saturating_add(1).min(MAX_AUTO)
}

/// The limit of calls in flight.
#[derive(Debug)]
pub(super) struct Concurrency {
    /// `None`: as many as needed.
    configured: Option<usize>,
    calls_per_minute: u32,
    /// Exponentially weighted average. `None`: there was no answer yet, so one call goes first and shows whether calls are
    /// allowed.
    latency: Option<Duration>,
    /// The limit after the last refusal, and when that was.
    lowered: Option<(usize, Instant)>,
}

impl Concurrency {
    /// `configured` is a fixed limit; `None` follows pace and latency.
    pub(super) fn new(configured: Option<usize>, calls_per_minute: u32) -> Self {
        Self { configured, calls_per_minute, latency: None, lowered: None }
    }

    /// Changes limit and pace; the latency stays known.
    pub(super) fn configure(&mut self, configured: Option<usize>, calls_per_minute: u32) {
        (self.configured, self.calls_per_minute) = (configured, calls_per_minute);
    }

    /// Takes the duration of a call into the average.
    pub(super) fn answered(&mut self, took: Duration) {
        let average = self.latency.unwrap_or(FIRST_LATENCY);
        self.latency = Some(average.mul_f64(1.0 - WEIGHT) + took.mul_f64(WEIGHT));
    }

    /// Halves the limit, because WeCom refuses this many concurrent calls. Returns the new one.
    pub(super) fn refused(&mut self, now: Instant) -> usize {
        let limit = (self.limit(now) / 2).max(1);
        self.lowered = Some((limit, now));
        limit
    }

    /// The most calls in flight at `now`, at least 1.
    pub(super) fn limit(&self, now: Instant) -> usize {
        let auto = || self.latency.map_or(1, |latency| needed(self.calls_per_minute, latency));
        let limit = self.configured.unwrap_or_else(auto);
        let recovered = |(lowered, at): (usize, Instant)| {
            let steps = now.saturating_duration_since(at).as_secs() / RECOVERY.as_secs();
            lowered.saturating_add(usize::try_from(steps).unwrap_or(usize::MAX))
        };
        self.lowered.map_or(limit, |lowered| limit.min(recovered(lowered)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn calls_in_flight_are_pace_times_latency_with_a_margin() {
        for (per_minute, latency, expected) in [
            // 6.7 in flight
            (5000, 80, 10),
            (5000, 1, 2),
            (5000, 200, 22),
            (3000, 80, 6),
            (30, 80, 2),
            (1, 0, 2),
            // Two APIs of 8000 a minute, also where more is configured
            (1_000_000, 80, 28),
            (5000, 60_000, MAX_AUTO),
        ] {
            assert_eq!(needed(per_minute, millis(latency)), expected, "{per_minute} {latency}");
        }
    }

    #[test]
    fn one_call_goes_before_the_others() {
        let now = Instant::now();
        let mut concurrency = Concurrency::new(None, 5000);
        assert_eq!(concurrency.limit(now), 1);
        concurrency.answered(Duration::from_secs(3));
        assert!((10..MAX_AUTO).contains(&concurrency.limit(now)), "{concurrency:?}");
    }

    #[test]
    fn a_refusal_halves_the_limit_which_recovers_by_one_a_minute() {
        let now = Instant::now();
        let mut concurrency = Concurrency::new(None, 5000);
        (0..1000).for_each(|_| concurrency.answered(millis(80)));
        assert_eq!(concurrency.limit(now), 10);
        let limits: Vec<usize> = (0..5).map(|_| concurrency.refused(now)).collect();
        assert_eq!(limits, [5, 2, 1, 1, 1]);
        let limits: Vec<usize> = [0, 59, 60, 300, 86_400]
            .iter()
            .map(|s| concurrency.limit(now + Duration::from_secs(*s)))
            .collect();
        assert_eq!(limits, [1, 1, 2, 6, 10]);
    }

    #[test]
    fn a_fixed_limit_does_not_follow_the_latency() {
        let now = Instant::now();
        let mut concurrency = Concurrency::new(Some(1), 1_000_000);
        (0..100).for_each(|_| concurrency.answered(Duration::from_secs(10)));
        assert_eq!(concurrency.limit(now), 1);
        assert_eq!(Concurrency::new(Some(64), 1).limit(now), 64);
    }

    proptest! {
        /// With this many calls in flight, threads never bound what the pace allows.
        #[test]
        fn enough_calls_are_in_flight_for_the_pace_unless_the_cap_binds(per_minute in 1u32..16_000, ms in 0u64..20_000) {
            let limit = needed(per_minute, millis(ms));
            prop_assert!((1..=MAX_AUTO).contains(&limit));
            let possible = limit as f64 * 60_000.0 / ms.max(1) as f64;
            prop_assert!(limit == MAX_AUTO || possible >= f64::from(per_minute) * MARGIN, "{limit}: {possible}");
        }

        #[test]
        fn the_average_follows_the_latency(calls in proptest::collection::vec(0u64..10_000, 1..50)) {
            let mut concurrency = Concurrency::new(None, 5000);
            calls.iter().for_each(|ms| concurrency.answered(millis(*ms)));
            prop_assert!(concurrency.latency.unwrap() <= millis(*calls.iter().max().unwrap()).max(FIRST_LATENCY));
            (0..500).for_each(|_| concurrency.answered(millis(80)));
            prop_assert!(concurrency.latency.unwrap().abs_diff(millis(80)) < millis(2), "{concurrency:?}");
        }
    }
}
