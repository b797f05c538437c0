//! Limits a log line that strangers can cause to one a minute.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(60);

/// The last time of one kind of log line, and the number of lines suppressed since.
#[derive(Debug, Default)]
pub(crate) struct LogLimiter(Mutex<(Option<Instant>, u64)>);

impl LogLimiter {
    /// The number of suppressed lines if a line may be logged now; `None` suppresses this one, too.
    pub(crate) fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            state.1 += 1;
            return None;
        }
        let suppressed = state.1;
        *state = (Some(now), 0);
        Some(suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_admitted_and_the_rest_are_counted() {
        let limiter = LogLimiter::default();
        let now = Instant::now();
        assert_eq!(limiter.admit(now), Some(0));
        assert_eq!(limiter.admit(now), None);
        assert_eq!(limiter.admit(now + INTERVAL / 2), None);
        assert_eq!(limiter.admit(now + INTERVAL), Some(2));
    }
}
