//! Failed starts of the daemon, across restarts: each cause is logged once an hour, and each start waits longer before it
//! ends than the one before.
//!
//! The service manager starts the daemon again after half a second, and each client that waits at its socket starts it,
//! too. Without the wait, a cause that lasts would fill the journal with the service manager's own lines.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::unix_time::unix_now;

/// Seconds between two log lines of the same cause.
const LOG_INTERVAL: i64 = 3600;
/// The same for a cause that an operator has to remove: the next start is probably the operator's.
const OPERATOR_INTERVAL: i64 = 30;
/// The longest wait before a failed start ends, in seconds.
const MAX_WAIT: u64 = 10;
/// Causes that are remembered; texts that never recur must not pile up.
const MAX_CAUSES: usize = 20;
/// The name of the file in `$RUNTIME_DIRECTORY`, which the unit preserves over restarts.
const NAME: &str = "start-failures.json";

/// The failed starts since the last one that succeeded.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct StartFailures {
    count: u32,
    /// When each cause was last logged, in unix seconds.
    logged: BTreeMap<String, i64>,
}

/// What to do about a failed start.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) is_logged: bool,
    /// Wait before the process ends.
    pub(super) wait: Duration,
}

impl StartFailures {
    /// `None` without `$RUNTIME_DIRECTORY`: nobody starts the daemon again by itself.
    fn file() -> Option<PathBuf> {
        let all = std::env::var_os("RUNTIME_DIRECTORY")?;
        let first = std::env::split_paths(&all).next()?;
        first.is_absolute().then(|| first.join(NAME))
    }

    /// Counts a failed start. `may_pass`: it may succeed without an operator.
    pub(super) fn count(cause: &str, may_pass: bool) -> Verdict {
        let Some(file) = Self::file() else { return Verdict { is_logged: true, wait: Duration::ZERO } };
        let read = std::fs::read(&file).ok();
        let mut failures: Self = read.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
        let verdict =
            failures.add(cause, if may_pass { LOG_INTERVAL } else { OPERATOR_INTERVAL }, unix_now().0);
        // A start that cannot write here is logged each time.
        if let Ok(json) = serde_json::to_vec(&failures) {
            let _ = std::fs::write(&file, json);
        }
        verdict
    }

    /// Forgets all, because a start succeeded.
    pub(super) fn clear() {
        if let Some(file) = Self::file() {
            let _ = std::fs::remove_file(file);
        }
    }

    fn add(&mut self, cause: &str, interval: i64, now: i64) -> Verdict {
        // A time in the future is of a clock that was set back.
        self.logged.retain(|_, at| (0..LOG_INTERVAL).contains(&(now - *at)));
        let is_logged = self.logged.get(cause).is_none_or(|at| now - *at >= interval);
        if is_logged && self.logged.len() < MAX_CAUSES {
            self.logged.insert(cause.to_owned(), now);
        }
        let seconds = match self.count {
            0 => 0,
            count => MAX_WAIT.min(1 << (count - 1).min(10)),
        };
        self.count = self.count.saturating_add(1);
        Verdict { is_logged, wait: Duration::from_secs(seconds) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_logged_once_an_hour_and_the_waits_grow() {
        let mut failures = StartFailures::default();
        let mut add = |cause: &str, now| {
            let Verdict { is_logged, wait } = failures.add(cause, LOG_INTERVAL, now);
            (is_logged, wait.as_secs())
        };
        assert_eq!(add("full", 0), (true, 0));
        assert_eq!(add("full", 1), (false, 1));
        assert_eq!(add("taken", 2), (true, 2));
        assert_eq!(add("full", 3599), (false, 4));
        assert_eq!(add("full", 3600), (true, 8));
        assert_eq!(add("full", 100), (true, 10), "the clock was set back");
        let logged = [100, 129, 130].map(|now| failures.add("ini", OPERATOR_INTERVAL, now).is_logged);
        assert_eq!(logged, [true, false, true]);
    }
}
