//! How often WeCom may be called: never more than so many times in any minute, and evenly.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A minute as WeCom counts it, with a second to spare for what the network delays.
const WINDOW: Duration = Duration::from_secs(61);

/// Who goes first when calls are short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Something has just happened that this call is about.
    Now,
    /// It may wait a little: leaves a reserve for what is urgent.
    Later,
}

/// The limiter of all API calls together. Pure: the time is given.
#[derive(Debug)]
pub struct Pace {
    per_minute: usize,
    /// Calls of the last window, oldest first.
    calls: VecDeque<Instant>,
    /// Calls that may be made at once now; grows with time up to `burst`.
    ready: f64,
    burst: f64,
    since: Instant,
}

impl Pace {
    /// At most `per_minute` calls (1 at least) in any minute.
    #[must_use]
    pub fn new(per_minute: u32, now: Instant) -> Self {
        let per_minute = per_minute.max(1);
        let burst = f64::from((per_minute / 10).max(1));
        let calls = VecDeque::new();
        Self {
            per_minute: usize::try_from(per_minute).unwrap_or(usize::MAX),
            calls,
            ready: burst,
            burst,
            since: now,
        }
    }

    /// Counts a call that is made now.
    ///
    /// # Errors
    /// How long to wait before asking again, if it may not be made now.
    pub fn take(&mut self, now: Instant, urgency: Urgency) -> Result<(), Duration> {
        while self.calls.front().is_some_and(|call| now.saturating_duration_since(*call) >= WINDOW) {
            self.calls.pop_front();
        }
        if self.calls.len() >= self.per_minute
            && let Some(oldest) = self.calls.front()
        {
            return Err((*oldest + WINDOW).saturating_duration_since(now));
        }
        // Exact up to 2^52 calls a minute.
        #[allow(clippy::cast_precision_loss)]
        let per_second = self.per_minute as f64 / 60.0;
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        self.ready = (self.ready + passed * per_second).min(self.burst);
        self.since = now;
        let needed = match urgency {
            Urgency::Now => 1.0,
            Urgency::Later => 1.0_f64.max(self.burst / 2.0),
        };
        // A whole call's worth may be missing a rounding error.
        if self.ready + 1e-9 < needed {
            let wait = (needed - self.ready) / per_second;
            return Err(Duration::from_secs_f64(wait).max(Duration::from_millis(1)));
        }
        self.ready -= 1.0;
        self.calls.push_back(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Calls as fast as it may for `seconds`; when each was made, in milliseconds.
    fn run(pace: &mut Pace, start: Instant, seconds: u64, urgency: Urgency) -> Vec<u128> {
        let (mut now, mut made) = (start, Vec::new());
        while now < start + Duration::from_secs(seconds) {
            match pace.take(now, urgency) {
                Ok(()) => made.push(now.duration_since(start).as_millis()),
                Err(wait) => now += wait,
            }
        }
        made
    }

    proptest! {
        #[test]
        fn no_minute_ever_has_more_calls_than_allowed(per_minute in 1u32..400) {
            let start = Instant::now();
            let made = run(&mut Pace::new(per_minute, start), start, 300, Urgency::Now);
            let limit = usize::try_from(per_minute).unwrap();
            for (i, first) in made.iter().enumerate() {
                let within = made[i..].iter().take_while(|t| **t < first + 60_000).count();
                prop_assert!(within <= limit, "{within} > {limit}");
            }
            prop_assert!(made.len() >= limit * 4, "only {} calls in five minutes", made.len());
        }
    }

    #[test]
    fn what_can_wait_leaves_a_reserve_for_what_is_urgent() {
        let start = Instant::now();
        let mut pace = Pace::new(600, start);
        while pace.take(start, Urgency::Later).is_ok() {}
        let urgent = (0..100).filter(|_| pace.take(start, Urgency::Now).is_ok()).count();
        assert!((25..=30).contains(&urgent), "{urgent}");
    }
}
