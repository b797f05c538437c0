//! Wakes a thread that waits for work.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// For one waiting thread; clones share it. A notification without a waiting thread is kept for the next wait.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wakeup(Arc<(Mutex<bool>, Condvar)>);

impl Wakeup {
    pub(crate) fn notify(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Waits for a notification, for `time` at most.
    pub(crate) fn wait(&self, time: Duration) {
        let notified = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.1.wait_timeout_while(notified, time, |notified| !*notified);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}
