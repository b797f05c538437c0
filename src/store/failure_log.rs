//! The log of failures of the database.

use std::time::{Duration, Instant};

use super::error::StoreError;

/// Logs a failure of the database once, and its end once.
#[derive(Default)]
pub(super) struct FailureLog {
    since: Option<Instant>,
    /// Whether the present failure was logged.
    is_logged: bool,
    /// Logged failures with their times, so that a recurring failure does not fill the log.
    logged: Vec<(String, Instant)>,
}

/// Minimum interval between log lines of the same failure.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

impl FailureLog {
    pub(super) fn begin(&mut self, error: &StoreError) {
        let now = Instant::now();
        let text = error.to_string();
        // The process that holds a lock is not found each time.
        let failure = match error {
            StoreError::Locked | StoreError::LockedBy(_) => "locked",
            _ => &text,
        };
        if self.since.is_none() {
            self.logged.retain(|(_, at)| now.saturating_duration_since(*at) < LOG_INTERVAL);
        }
        self.since.get_or_insert(now);
        if self.logged.iter().all(|(known, _)| known != failure) {
            log::error!("{text}; callbacks are answered with 503 until then");
            self.logged.push((failure.to_owned(), now));
            self.is_logged = true;
        }
    }

    pub(super) fn end(&mut self) {
        if let Some(since) = self.since.take()
            && std::mem::take(&mut self.is_logged)
        {
            log::info!("the database takes writes again after {} s", since.elapsed().as_secs());
        }
    }
}
