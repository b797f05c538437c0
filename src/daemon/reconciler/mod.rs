//! Compares the directory with WeCom and repairs it: regularly, on triggers, and for commands.
//!
//! One thread, hence one comparison at a time; commands wait in a queue.

mod api_reader;
pub mod report;
mod run;
mod schedule;
pub mod triggers;
mod write_batch;

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::store::Connection;
use report::Report;
pub use run::Engine;
use schedule::Situation;
use triggers::ReconcileUpdate;
pub use triggers::{ReconcileCommand, ReconcileRequest};

use super::threads::Threads;
use super::{ApiWorkers, CHECK_DATABASE, Shared, StartError};
use crate::config;
use crate::directory::UnixSeconds;
use crate::directory::comparison::Guard;
use crate::store::StoreError;
use crate::store::reconciles::{
    ReconcileOutcome, begin_reconcile, finish_reconcile, last_reconciles, retry_failed,
};
use crate::store::state::{
    RECONCILE_PROGRESS, ReconcileProgress, reconcile_request, request_reconcile, settle_reconcile_request,
};
use crate::unix_time::unix_now;
use crate::wecom::api::{ApiObserver, SecretKind};

/// Minimum interval between checks for triggers.
const LOOKS_APART: Duration = Duration::from_secs(1);
/// Interval of the progress that clients see.
const LIVE_EVERY: Duration = Duration::from_millis(200);
/// After trouble with the database.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// How long a commit may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// Lines in the log while a long comparison is under way.
const LOG_EVERY: Duration = Duration::from_secs(30);
/// Progress in the database.
const SHOW_EVERY: Duration = Duration::from_secs(1);
/// Members that are made due again at a time.
const BATCH: usize = 2000;

/// The thread that compares.
pub struct Reconciler {
    shared: Shared,
    workers: ApiWorkers,
    reader: Connection,
    settings: config::Reconcile,
}

impl Reconciler {
    /// Starts the thread; false if there is no contacts_secret, so that nothing can be compared.
    pub(super) fn start(
        settings: &config::Reconcile,
        shared: &Shared,
        workers: &ApiWorkers,
        threads: &mut Threads,
    ) -> Result<bool, StartError> {
        if !shared.client.has_secret(SecretKind::Contacts) {
            return Ok(false);
        }
        let (reader, settings) = (shared.reader()?, settings.clone());
        let reconciler = Self { shared: shared.clone(), workers: workers.clone(), reader, settings };
        threads.spawn("reconcile", move || reconciler.work())?;
        Ok(true)
    }

    fn work(&self) {
        let mut failures = 0;
        let mut complained = false;
        let mut deletions_held = false;
        loop {
            let looked = Instant::now();
            match self.look(&mut failures, &mut deletions_held) {
                Ok(wait) => {
                    complained = false;
                    self.shared.triggers.wakeup.wait(wait);
                }
                Err(StoreError::Closed) => return,
                Err(error) => {
                    if !std::mem::replace(&mut complained, true) {
                        log::warn!("comparisons are put off: {error}");
                    }
                    let _ = self.shared.shutdown.sleep(TRY_AGAIN);
                }
            }
            // ReconcileTriggers may come by the thousand.
            if self.shared.shutdown.sleep(LOOKS_APART.saturating_sub(looked.elapsed())) {
                return;
            }
        }
    }

    /// Does what is due; when to look again.
    fn look(&self, failures: &mut u32, deletions_held: &mut bool) -> Result<Duration, StoreError> {
        if *deletions_held && self.shared.client.clock().estimate().contradiction.is_none() {
            *deletions_held = false;
            self.shared.triggers.request("the clocks agree again, after deletions were held");
        }
        if let Some(reason) = self.shared.triggers.take() {
            let written = reason.clone();
            let done = self
                .shared
                .writer
                .run(PATIENCE, move |connection| request_reconcile(connection, &written, unix_now()));
            if done.is_err() {
                self.shared.triggers.request(reason);
            }
            done?;
        }
        if let Some(command) = self.shared.triggers.next_command() {
            let report = self.compare(command.request, "the reconcile command", Some(&command));
            let update = match &report {
                Ok(report) => ReconcileUpdate::Report(report.to_json(command.request.dry_run)),
                Err(error) => ReconcileUpdate::Failed(format!("the comparison failed: {error}")),
            };
            (command.update)(update);
            *deletions_held |= report?.deletions_held;
            *failures = 0;
            return Ok(Duration::ZERO);
        }
        if !self.settings.enabled {
            return Ok(CHECK_DATABASE);
        }
        let now = unix_now();
        let (last, done) = last_reconciles(&self.reader)?;
        let due = reconcile_request(&self.reader)?;
        let situation = Situation {
            last_ended: last.and_then(|last| last.finished_at),
            last_done: done.as_ref().and_then(|done| done.finished_at),
            failures: *failures,
            requested_at: due.as_ref().map(|due| UnixSeconds(due.since)),
        };
        let next = schedule::next(situation, self.settings.every, now);
        if next > now {
            let left = Duration::from_secs(u64::try_from(next.since(now)).unwrap_or(u64::MAX));
            return Ok(left.min(CHECK_DATABASE));
        }
        let why = due.as_ref().map(|due| due.reason.as_str());
        let why = why.unwrap_or(if done.is_none() { "first fill" } else { "it is time" });
        let report = self.compare(ReconcileRequest::default(), why, None)?;
        *deletions_held = report.deletions_held;
        *failures = if report.outcome == ReconcileOutcome::Failed { failures.saturating_add(1) } else { 0 };
        Ok(Duration::ZERO)
    }

    fn compare(
        &self,
        request: ReconcileRequest,
        reason: &str,
        command: Option<&ReconcileCommand>,
    ) -> Result<Report, StoreError> {
        log::info!("comparing with WeCom: {reason}{}", if request.dry_run { ", dry run" } else { "" });
        let (live, shown) = (Cell::new(None::<Instant>), Cell::new(None::<Instant>));
        let logged = Cell::new(Some(Instant::now()));
        let progress = |progress: ReconcileProgress| {
            let now = Instant::now();
            let is_time = |last: &Cell<Option<Instant>>, interval| {
                let is_time = last.get().is_none_or(|last| now.duration_since(last) >= interval);
                if is_time {
                    last.set(Some(now));
                }
                is_time
            };
            if is_time(&live, LIVE_EVERY) {
                if let Some(command) = command {
                    (command.update)(ReconcileUpdate::Progress(progress.clone()));
                }
                self.shared.triggers.show(&progress);
            }
            if is_time(&logged, LOG_EVERY) {
                let of = progress.of.map_or_else(String::new, |of| format!(" of {of}"));
                log::info!("comparing with WeCom: {}, {}{of}", progress.phase, progress.done);
            }
            if is_time(&shown, SHOW_EVERY) {
                self.show(Some(progress));
                self.members_may_be_due();
            }
        };
        let engine = Engine {
            client: &*self.shared.client,
            reader: &self.reader,
            writer: (!request.dry_run).then_some(&self.shared.writer),
            shutdown: &self.shared.shutdown,
            guard: Guard { percent: self.settings.max_delete_percent, allowed: request.allow_deletes },
            progress: &progress,
        };
        let report = compare(&engine, reason);
        self.show(None);
        let report = report?;
        self.members_may_be_due();
        if let Some(details) = self.workers.details.as_ref().filter(|_| !request.dry_run) {
            details.compared();
        }
        say(&report, request);
        Ok(report)
    }

    fn members_may_be_due(&self) {
        if let Some(converter) = &self.workers.converter {
            converter.look();
        }
    }

    /// Writes the progress to the database, for `status`.
    fn show(&self, progress: Option<ReconcileProgress>) {
        self.shared.writer.submit(
            Instant::now() + PATIENCE,
            move |connection| match &progress {
                Some(progress) => RECONCILE_PROGRESS.set(connection, unix_now(), progress),
                None => RECONCILE_PROGRESS.remove(connection),
            },
            |written| {
                if let Err(error) = written {
                    log::debug!("progress could not be shown: {error}");
                }
            },
        );
    }
}

/// Compares once, and records it; a dry run leaves no record.
///
/// # Errors
/// [`StoreError`]: it could not be recorded.
pub fn compare<L: ApiObserver>(engine: &Engine<'_, L>, reason: &str) -> Result<Report, StoreError> {
    wait_for_another_second(engine)?;
    let Some(writer) = engine.writer else { return engine.run() };
    let (began, reason) = (unix_now(), reason.to_owned());
    let seq = writer.run(PATIENCE, move |connection| begin_reconcile(connection, &reason, began))?;
    let report = engine.run()?;
    let (outcome, seen, effect, note) = (report.outcome, report.members_seen, report.effect, report.note());
    writer.run(PATIENCE, move |connection| {
        finish_reconcile(connection, seq, (outcome, seen, effect), &note, unix_now())?;
        if outcome.came_to_its_end() {
            settle_reconcile_request(connection, began)?;
        }
        Ok(())
    })?;
    if outcome.came_to_its_end() {
        // Members that WeCom refused for good get another chance.
        let batch = || writer.run(PATIENCE, |connection| retry_failed(connection, BATCH, unix_now()));
        while batch()? == BATCH {}
    }
    Ok(report)
}

/// Within one second of WeCom's clock nobody can tell what the last comparison saw from what this one sees: whoever was
/// seen then would not be missed now.
fn wait_for_another_second<L: ApiObserver>(engine: &Engine<'_, L>) -> Result<(), StoreError> {
    let (last, _) = last_reconciles(engine.reader)?;
    let Some(ended) = last.and_then(|last| last.finished_at) else { return Ok(()) };
    // Their seconds do not begin with ours.
    while (0..=1).contains(&unix_now().since(ended)) && !engine.shutdown.sleep(Duration::from_millis(50)) {}
    Ok(())
}

fn say(report: &Report, request: ReconcileRequest) {
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
