//! The sign to stop, which every thread that waits can wait for.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Given once, seen by all; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// Gives the sign.
    pub fn give(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Whether it was given.
    #[must_use]
    pub fn given(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps for `time`, or until the sign is given; whether it was.
    #[must_use]
    pub fn sleep(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut given = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !*given {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            given = self.0.1.wait_timeout(given, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}
