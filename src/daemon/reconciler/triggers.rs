//! What a comparison is for: reasons for which the directory may lack something, and commands.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::daemon::wakeup::Wakeup;
use crate::directory::UnixSeconds;
use crate::store::Connection;
use crate::store::state::{DAEMON, ReconcileProgress, STOPPED};

/// Seconds without a daemon after which an event may be lost: WeCom delivers three times, some 5 s apart.
const DELIVERY_TIME: i64 = 15;
/// Members that WeCom does not know, within [`BURST_TIME`], which cause a comparison.
const BURST: u32 = 5;
const BURST_TIME: Duration = Duration::from_secs(600);
/// Minimum interval between such comparisons: each tries the same members again, and WeCom refuses them again.
const BURST_INTERVAL: Duration = Duration::from_secs(86_400);

/// The arguments of a requested comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct ReconcileRequest {
    /// Whether to compare without writing the differences.
    pub dry_run: bool,
    /// Deletions that are allowed beyond `max_delete_percent`; no more than this number.
    pub allow_deletes: Option<usize>,
}

/// A request that waits for its comparison.
pub(crate) struct ReconcileCommand {
    pub request: ReconcileRequest,
    /// Takes updates on the comparing thread; must not block.
    pub update: Box<dyn Fn(ReconcileUpdate) + Send>,
    /// Dead once the client has disconnected; the request is dropped then.
    pub requested_by: Weak<()>,
}

/// An update for the client of a [`ReconcileCommand`].
#[derive(Debug, Clone)]
pub(crate) enum ReconcileUpdate {
    /// The progress of the comparison under way, perhaps of an earlier request.
    Progress(ReconcileProgress),
    /// The report, the last update.
    Report(Json),
    /// No report, as the database failed; the last update.
    Failed(String),
}

#[derive(Default)]
struct State {
    reason: Option<String>,
    commands: VecDeque<ReconcileCommand>,
    refusals: u32,
    first_refusal: Option<Instant>,
    last_burst: Option<Instant>,
}

/// Triggers that are not in the database yet: the database may be what fails.
#[derive(Default)]
pub(crate) struct ReconcileTriggers {
    state: Mutex<State>,
    /// Notified for each trigger and command.
    pub wakeup: Wakeup,
}

impl ReconcileTriggers {
    /// Requests a comparison; the first reason is kept until it is taken.
    pub(crate) fn request(&self, reason: impl Into<String>) {
        self.lock().reason.get_or_insert_with(|| reason.into());
        self.wakeup.notify();
    }

    /// Takes the reason, to write it to the database.
    pub(crate) fn take(&self) -> Option<String> {
        self.lock().reason.take()
    }

    pub(crate) fn enqueue(&self, command: ReconcileCommand) {
        self.lock().commands.push_back(command);
        self.wakeup.notify();
    }

    /// Takes the oldest command whose client still waits.
    pub(crate) fn next_command(&self) -> Option<ReconcileCommand> {
        let mut state = self.lock();
        std::iter::from_fn(|| state.commands.pop_front())
            .find(|command| command.requested_by.strong_count() > 0)
    }

    /// Shows the progress of the comparison under way to the clients that wait for another one.
    pub(crate) fn show(&self, progress: &ReconcileProgress) {
        for command in &self.lock().commands {
            (command.update)(ReconcileUpdate::Progress(progress.clone()));
        }
    }

    /// Counts a member that WeCom does not know; a burst of them requests a comparison.
    pub(crate) fn refused_for_good(&self, now: Instant) {
        let mut state = self.lock();
        if state.first_refusal.is_none_or(|first| now.saturating_duration_since(first) > BURST_TIME) {
            state.first_refusal = Some(now);
            state.refusals = 0;
        }
        state.refusals += 1;
        let is_recent = |burst: Instant| now.saturating_duration_since(burst) < BURST_INTERVAL;
        if state.refusals >= BURST && !state.last_burst.is_some_and(is_recent) {
            state.last_burst = Some(now);
            drop(state);
            self.request("WeCom does not know many members");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why callbacks may have been missed before this start, by the state that the last run left.
pub(crate) fn before_start(
    connection: &Connection,
    now: UnixSeconds,
) -> crate::store::Result<Option<String>> {
    if DAEMON.get(connection)?.is_some() {
        return Ok(Some("the daemon ended without notice".into()));
    }
    let stopped = STOPPED.get(connection)?.map(|(at, _)| now.since(at));
    Ok(stopped
        .filter(|away| *away > DELIVERY_TIME || *away < 0)
        .map(|away| format!("the daemon did not run for {away} s")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_unknown_members_requests_one_comparison_a_day() {
        let (triggers, now) = (ReconcileTriggers::default(), Instant::now());
        for _ in 0..4 {
            triggers.refused_for_good(now);
        }
        assert_eq!(triggers.take(), None);
        triggers.refused_for_good(now + BURST_TIME * 2);
        assert_eq!(triggers.take(), None, "too long ago to be one burst");
        for _ in 0..20 {
            triggers.refused_for_good(now + BURST_TIME * 2);
        }
        assert!(triggers.take().is_some());
        for _ in 0..20 {
            triggers.refused_for_good(now + BURST_TIME * 4);
        }
        assert_eq!(triggers.take(), None);
        for _ in 0..20 {
            triggers.refused_for_good(now + BURST_TIME * 2 + BURST_INTERVAL);
        }
        assert!(triggers.take().is_some());
    }

    #[test]
    fn the_first_reason_stays_until_it_is_taken() {
        let triggers = ReconcileTriggers::default();
        triggers.request("a");
        triggers.request("b");
        assert_eq!(triggers.take().as_deref(), Some("a"));
        assert_eq!(triggers.take(), None);
    }
}
