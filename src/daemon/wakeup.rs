//! What a thread that waits for work is woken with.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// For one thread that waits; cheap to clone for those who ring. A ring that nobody waits for is kept for the
/// next wait.
#[derive(Debug, Clone, Default)]
pub struct Wakeup(Arc<(Mutex<bool>, Condvar)>);

impl Wakeup {
    /// Ends the wait.
    pub fn notify(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Waits until it is rung, for `time` at most.
    pub fn wait(&self, time: Duration) {
        let rung = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.1.wait_timeout_while(rung, time, |rung| !*rung);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}
