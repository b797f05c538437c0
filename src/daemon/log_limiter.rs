//! Keeps what strangers cause from flooding the log: the first is told at once, then a count a minute.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const QUIET: Duration = Duration::from_secs(60);

/// One kind of log line.
#[derive(Debug, Default)]
pub struct LogLimiter(Mutex<(Option<Instant>, u64)>);

impl LogLimiter {
    /// Whether to tell now; if so, how many were kept back since the last.
    pub fn tell(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0.is_some_and(|last| now.saturating_duration_since(last) < QUIET) {
            state.1 += 1;
            return None;
        }
        let kept_back = state.1;
        *state = (Some(now), 0);
        Some(kept_back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_and_the_rest_are_counted() {
        let throttle = LogLimiter::default();
        let now = Instant::now();
        assert_eq!(throttle.tell(now), Some(0));
        assert_eq!(throttle.tell(now), None);
        assert_eq!(throttle.tell(now + QUIET / 2), None);
        assert_eq!(throttle.tell(now + QUIET), Some(2));
    }
}
