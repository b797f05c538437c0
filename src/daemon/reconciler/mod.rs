//! Compares the directory with WeCom and merges the differences: regularly, on triggers, and for commands.
//!
//! One thread, hence one comparison at a time; commands wait in a queue.

mod api_reader;
pub(crate) mod report;
mod run;
mod schedule;
pub(crate) mod triggers;
mod write_batch;

use std::cell::Cell;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use report::Report;
pub(crate) use run::Comparison;
use schedule::History;
use triggers::ReconcileUpdate;
pub(crate) use triggers::{ReconcileCommand, ReconcileRequest};

use super::threads::Threads;
use super::{CHECK_DATABASE, COMMIT_TIMEOUT, MemberCalls, Shared, StartError};
use crate::config;
use crate::directory::UnixSeconds;
use crate::directory::comparison::Guard;
use crate::store::reconciles::{
    ReconcileOutcome, begin_reconcile, finish_reconcile, last_reconciles, retry_failed,
};
use crate::store::state::{
    RECONCILE_PROGRESS, ReconcileProgress, reconcile_request, request_reconcile, settle_reconcile_request,
};
use crate::store::{Connection, StoreError};
use crate::unix_time::unix_now;
use crate::wecom::api::{ApiObserver, SecretKind};

/// Minimum interval between checks, because triggers may come by the thousand.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// Wait after an error of the database.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// Interval of the progress that clients of the control socket see.
const SEND_PROGRESS: Duration = Duration::from_millis(200);
/// Interval of the progress in the database.
const STORE_PROGRESS: Duration = Duration::from_secs(1);
/// Interval of the progress in the log.
const LOG_PROGRESS: Duration = Duration::from_secs(30);
/// Failed members that one commit makes due again.
const BATCH: usize = 2000;

pub(crate) struct Reconciler {
    shared: Shared,
    calls: MemberCalls,
    reader: Connection,
    settings: ReconcileSettings,
}

/// The settings of comparisons, which a reload replaces.
#[derive(Debug, Clone)]
pub(crate) struct ReconcileSettings(Arc<Mutex<config::Reconcile>>);

impl ReconcileSettings {
    pub(super) fn new(settings: &config::Reconcile) -> Self {
        Self(Arc::new(Mutex::new(settings.clone())))
    }

    pub(super) fn replace(&self, settings: &config::Reconcile) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = settings.clone();
    }

    fn get(&self) -> config::Reconcile {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The state between two checks.
#[derive(Default)]
struct CheckState {
    /// Comparisons in a row that failed.
    failures: u32,
    /// Whether the last comparison made no deletions because clocks contradict each other.
    deletions_held: bool,
    /// Whether the database fails, which was logged.
    is_failing: bool,
}

impl Reconciler {
    /// Starts the thread; false if there is no contacts_secret, so that nothing can be compared.
    pub(super) fn start(
        settings: &ReconcileSettings,
        shared: &Shared,
        calls: &MemberCalls,
        threads: &mut Threads,
    ) -> Result<bool, StartError> {
        if !shared.client.has_secret(SecretKind::Contacts) {
            return Ok(false);
        }
        let (reader, settings) = (shared.reader()?, settings.clone());
        let reconciler = Self { shared: shared.clone(), calls: calls.clone(), reader, settings };
        threads.spawn("reconcile", move || reconciler.work())?;
        Ok(true)
    }

    fn work(&self) {
        let mut state = CheckState::default();
        loop {
            let begun = Instant::now();
            match self.check(&mut state) {
                Ok(wait) => {
                    state.is_failing = false;
                    self.shared.triggers.wakeup.wait(wait);
                }
                Err(StoreError::Closed) => return,
                Err(error) => {
                    if !std::mem::replace(&mut state.is_failing, true) {
                        log::warn!("comparisons are postponed: {error}");
                    }
                    let _ = self.shared.shutdown.sleep(RETRY_AFTER);
                }
            }
            if self.shared.shutdown.sleep(MIN_INTERVAL.saturating_sub(begun.elapsed())) {
                return;
            }
        }
    }

    /// Compares if a command waits or a comparison is due; the wait until the next check.
    fn check(&self, state: &mut CheckState) -> Result<Duration, StoreError> {
        let Shared { client, writer, triggers, .. } = &self.shared;
        if state.deletions_held && client.clock().estimate().contradiction.is_none() {
            state.deletions_held = false;
            triggers.request("the clocks agree again, after deletions were held");
        }
        if let Some(reason) = triggers.take() {
            let written = reason.clone();
            writer
                .run(COMMIT_TIMEOUT, move |connection| request_reconcile(connection, &written, unix_now()))
                .inspect_err(|_| triggers.request(reason))?;
        }
        if let Some(command) = triggers.next_command() {
            let report = self.compare(command.request, "the reconcile command", Some(&command));
            let update = match &report {
                Ok(report) => ReconcileUpdate::Report(report.to_json(command.request.dry_run)),
                Err(error) => ReconcileUpdate::Failed(format!("the comparison failed: {error}")),
            };
            (command.update)(update);
            state.deletions_held |= report?.deletions_held;
            state.failures = 0;
            return Ok(Duration::ZERO);
        }
        if !self.settings.get().enabled {
            return Ok(CHECK_DATABASE);
        }
        let now = unix_now();
        let (last, done) = last_reconciles(&self.reader)?;
        let due = reconcile_request(&self.reader)?;
        let history = History {
            last_ended: last.and_then(|last| last.finished_at),
            last_done: done.as_ref().and_then(|done| done.finished_at),
            failures: state.failures,
            requested_at: due.as_ref().map(|due| UnixSeconds(due.since)),
        };
        let next = schedule::next(history, self.settings.get().every, now);
        if next > now {
            let left = Duration::from_secs(u64::try_from(next.since(now)).unwrap_or(u64::MAX));
            return Ok(left.min(CHECK_DATABASE));
        }
        let reason = due.as_ref().map(|due| due.reason.as_str());
        let reason = reason.unwrap_or(if done.is_none() { "first fill" } else { "it is time" });
        let report = self.compare(ReconcileRequest::default(), reason, None)?;
        state.deletions_held = report.deletions_held;
        state.failures =
            if report.outcome == ReconcileOutcome::Failed { state.failures.saturating_add(1) } else { 0 };
        Ok(Duration::ZERO)
    }

    /// Compares, and shows the progress to `command`, to the commands that wait, in the database and in the log.
    fn compare(
        &self,
        request: ReconcileRequest,
        reason: &str,
        command: Option<&ReconcileCommand>,
    ) -> Result<Report, StoreError> {
        log::info!("comparing with WeCom: {reason}{}", if request.dry_run { ", dry run" } else { "" });
        let [sent, stored] = [const { Cell::new(None::<Instant>) }; 2];
        let logged = Cell::new(Some(Instant::now()));
        let progress = |progress: ReconcileProgress| {
            let now = Instant::now();
            let is_time = |last: &Cell<Option<Instant>>, interval| {
                let is_time = last.get().is_none_or(|last| now.duration_since(last) >= interval);
                last.set(if is_time { Some(now) } else { last.get() });
                is_time
            };
            if is_time(&sent, SEND_PROGRESS) {
                if let Some(command) = command {
                    (command.update)(ReconcileUpdate::Progress(progress.clone()));
                }
                self.shared.triggers.show(&progress);
            }
            if is_time(&logged, LOG_PROGRESS) {
                let of = progress.of.map_or_else(String::new, |of| format!(" of {of}"));
                log::info!("comparing with WeCom: {}, {}{of}", progress.phase, progress.done);
            }
            if is_time(&stored, STORE_PROGRESS) {
                self.store_progress(Some(progress));
                self.check_conversions();
            }
        };
        let comparison = Comparison {
            client: &*self.shared.client,
            reader: &self.reader,
            writer: (!request.dry_run).then_some(&self.shared.writer),
            shutdown: &self.shared.shutdown,
            guard: Guard { percent: self.settings.get().max_delete_percent, allowed: request.allow_deletes },
            progress: &progress,
        };
        let report = compare(&comparison, reason);
        self.store_progress(None);
        let report = report?;
        self.check_conversions();
        if let Some(details) = self.calls.details.as_ref().filter(|_| !request.dry_run) {
            details.compared();
        }
        log_report(&report, request);
        Ok(report)
    }

    fn check_conversions(&self) {
        if let Some(converter) = &self.calls.converter {
            converter.check();
        }
    }

    /// Writes the progress to the database, for `status`.
    fn store_progress(&self, progress: Option<ReconcileProgress>) {
        self.shared.writer.submit(
            Instant::now() + COMMIT_TIMEOUT,
            move |connection| match &progress {
                Some(progress) => RECONCILE_PROGRESS.set(connection, unix_now(), progress),
                None => RECONCILE_PROGRESS.remove(connection),
            },
            |written| {
                if let Err(error) = written {
                    log::debug!("progress could not be recorded: {error}");
                }
            },
        );
    }
}

/// Compares once, and records the comparison unless it is a dry run. [`StoreError`]: recording failed.
pub(crate) fn compare<L: ApiObserver>(
    comparison: &Comparison<'_, L>,
    reason: &str,
) -> Result<Report, StoreError> {
    wait_for_another_second(comparison)?;
    let Some(writer) = comparison.writer else { return comparison.run() };
    let (began, reason) = (unix_now(), reason.to_owned());
    let seq = writer.run(COMMIT_TIMEOUT, move |connection| begin_reconcile(connection, &reason, began))?;
    let report = comparison.run()?;
    let (outcome, seen, effect, note) = (report.outcome, report.members_seen, report.effect, report.note());
    writer.run(COMMIT_TIMEOUT, move |connection| {
        finish_reconcile(connection, seq, (outcome, seen, effect), &note, unix_now())?;
        if outcome.reached_end() {
            settle_reconcile_request(connection, began)?;
        }
        Ok(())
    })?;
    if outcome.reached_end() {
        let retry = || writer.run(COMMIT_TIMEOUT, |connection| retry_failed(connection, BATCH, unix_now()));
        while retry()? == BATCH {}
    }
    Ok(report)
}

/// Waits until the second of the last comparison is over: in the same second of WeCom's clock, this comparison could not detect
/// the absence of a member that the last one observed.
fn wait_for_another_second<L: ApiObserver>(comparison: &Comparison<'_, L>) -> Result<(), StoreError> {
    let (last, _) = last_reconciles(comparison.reader)?;
    let Some(ended) = last.and_then(|last| last.finished_at) else { return Ok(()) };
    // One more second, because WeCom's seconds do not begin with this machine's.
    while (0..=1).contains(&unix_now().since(ended)) && !comparison.shutdown.sleep(Duration::from_millis(50))
    {
    }
    Ok(())
}

fn log_report(report: &Report, request: ReconcileRequest) {
    let level = match report.outcome {
        ReconcileOutcome::Blocked => log::Level::Error,
        ReconcileOutcome::Failed | ReconcileOutcome::Partial => log::Level::Warn,
        _ => log::Level::Info,
    };
    let (note, effect) = (report.note(), report.effect);
    let colon = if note.is_empty() { "" } else { ": " };
    let done = if request.dry_run {
        "nothing written".to_owned()
    } else {
        format!("created={} updated={} deleted={}", effect.created, effect.updated, effect.deleted)
    };
    log::log!(
        level,
        "compared with WeCom outcome={} members_listed={} {done}{colon}{note}",
        report.outcome.as_str(),
        report.members_seen
    );
}
