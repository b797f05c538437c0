//! The shutdown signal, shared by all threads.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A one-shot signal; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shutdown(Arc<(Mutex<bool>, Condvar)>);

impl Shutdown {
    /// Starts the shutdown and wakes all sleepers.
    pub(crate) fn trigger(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    #[must_use]
    pub(crate) fn is_triggered(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps for `time` or until the shutdown; true if it has begun.
    #[must_use]
    pub(crate) fn sleep(&self, time: Duration) -> bool {
        let triggered = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.1.wait_timeout_while(triggered, time, |triggered| !*triggered);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
