//! Compares the directory with WeCom and repairs it: when it is time, when there are triggers, when somebody asks.
//!
//! One thread, hence one comparison at a time. The command beside the daemon leaves its wish in the database and
//! waits there for the report.

mod api_reader;
pub mod report;
mod run;
mod schedule;
pub mod triggers;
mod write_batch;

use std::cell::Cell;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::store::Connection;
use crate::unix_time::unix_now;
use serde_json::{Value as Json, json};

use report::Report;
pub use run::{Engine, Progress};
use schedule::Situation;

use super::api_observer::ApiRecorder;
use super::converter::Converter;
use super::details::DetailsWorker;
use super::reconciler::triggers::ReconcileTriggers;
use crate::config;
use crate::directory::comparison::Guard;
use crate::shutdown::Shutdown;
use crate::store::reconciles::{
    ReconcileOutcome, begin_reconcile, finish_reconcile, last_reconciles, retry_failed,
};
use crate::store::state::{
    forget_old, reconcile_request, request_reconcile, settle_reconcile_request, take_first,
};
use crate::store::{StoreError, Writer, set_state};
use crate::wecom::api::{ApiObserver, Client};

/// It is not looked for wishes and triggers more often than this.
const LOOKS_APART: Duration = Duration::from_secs(1);
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

/// Wishes and reports in `daemon_state`, with an id of the asker's behind.
pub const WISH: &str = "reconcile_wish:";
/// See [`WISH`].
pub const REPORT: &str = "reconcile_report:";
/// Where it shows how far it is.
pub const PROGRESS: &str = "reconcile_progress";

/// What somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wish {
    /// Only the plan.
    pub dry_run: bool,
    /// So many deletions, and no more.
    pub allow_deletes: Option<usize>,
}

impl Wish {
    /// As it is left in the database.
    #[must_use]
    pub fn to_json(self) -> Json {
        json!({"dry_run": self.dry_run, "allow_deletes": self.allow_deletes})
    }

    fn from_json(json: &Json) -> Self {
        let allow = json.get("allow_deletes").and_then(Json::as_u64);
        Self {
            dry_run: json.get("dry_run").and_then(Json::as_bool).unwrap_or(true),
            allow_deletes: allow.and_then(|n| usize::try_from(n).ok()),
        }
    }
}

/// What makes comparisons.
pub struct Reconciler {
    /// To ask WeCom.
    pub client: Arc<Client<ApiRecorder>>,
    /// To repair.
    pub writer: Writer,
    /// To look.
    pub reader: Connection,
    /// Ends it.
    pub shutdown: Shutdown,
    /// `[reconcile]`
    pub settings: config::Reconcile,
    /// What may have been missed; its wakeup is what this thread waits for.
    pub triggers: Arc<ReconcileTriggers>,
    /// Told of members that may have become due.
    pub converter: Option<Arc<Converter>>,
    /// Told of members that came to light.
    pub details: Option<Arc<DetailsWorker>>,
    /// How often the database is looked at when nothing calls: the clock may have been set.
    pub look_again: Duration,
}

impl Reconciler {
    /// Starts the thread.
    ///
    /// # Errors
    /// If no thread can be had.
    pub fn start(self) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("reconcile".into()).spawn(move || self.work())
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
                    self.triggers.wakeup.wait(wait);
                }
                Err(StoreError::Closed) => return,
                Err(error) => {
                    if !std::mem::replace(&mut complained, true) {
                        log::warn!("comparisons are put off: {error}");
                    }
                    let _ = self.shutdown.sleep(TRY_AGAIN);
                }
            }
            // ReconcileTriggers may come by the thousand.
            if self.shutdown.sleep(LOOKS_APART.saturating_sub(looked.elapsed())) {
                return;
            }
        }
    }

    /// Does what is due; when to look again.
    fn look(&self, failures: &mut u32, deletions_held: &mut bool) -> Result<Duration, StoreError> {
        if *deletions_held && self.client.clock().estimate().contradiction.is_none() {
            *deletions_held = false;
            self.triggers.request("the clocks agree again, after deletions were held");
        }
        if let Some(reason) = self.triggers.take() {
            let written = reason.clone();
            let done = self
                .writer
                .run(PATIENCE, move |connection| request_reconcile(connection, &written, unix_now()));
            if done.is_err() {
                self.triggers.request(reason);
            }
            done?;
        }
        // Asking first keeps an idle daemon from writing.
        let has_wish = self
            .reader
            .prepare_cached("SELECT 1 FROM daemon_state WHERE substr(name, 1, length(?1)) = ?1")?
            .exists([WISH])?;
        if has_wish {
            let wish = self.writer.run(PATIENCE, |connection| take_first(connection, WISH))?;
            if let Some((id, wish)) = wish {
                let wish = Wish::from_json(&wish);
                let report = self.compare(wish, "the reconcile command")?;
                *failures = 0;
                *deletions_held |= report.deletions_held;
                let json = report.to_json(wish.dry_run);
                self.writer.run(PATIENCE, move |connection| {
                    forget_old(connection, REPORT, unix_now())?;
                    set_state(connection, &format!("{REPORT}{id}"), unix_now(), Some(&json))
                })?;
                return Ok(Duration::ZERO);
            }
        }
        if !self.settings.enabled {
            return Ok(self.look_again);
        }
        let now = unix_now();
        let (last, done) = last_reconciles(&self.reader)?;
        let due = reconcile_request(&self.reader)?;
        let situation = Situation {
            last_ended: last.and_then(|last| last.finished_at),
            last_done: done.as_ref().and_then(|done| done.finished_at),
            failures: *failures,
            requested_at: due.as_ref().map(|(at, _)| *at),
        };
        let next = schedule::next(situation, self.settings.every, now);
        if next > now {
            let left = Duration::from_secs(u64::try_from(next.since(now)).unwrap_or(u64::MAX));
            return Ok(left.min(self.look_again));
        }
        let why = due.as_ref().and_then(|(_, why)| why.get("reason")).and_then(Json::as_str);
        let why = why.unwrap_or(if done.is_none() { "first fill" } else { "it is time" });
        let report = self.compare(Wish::default(), why)?;
        *deletions_held = report.deletions_held;
        *failures = if report.outcome == ReconcileOutcome::Failed { failures.saturating_add(1) } else { 0 };
        Ok(Duration::ZERO)
    }

    fn compare(&self, wish: Wish, reason: &str) -> Result<Report, StoreError> {
        log::info!("comparing with WeCom: {reason}{}", if wish.dry_run { ", dry run" } else { "" });
        let shown = Cell::new(None::<Instant>);
        let logged = Cell::new(Instant::now());
        let tell = |progress: Progress| {
            let now = Instant::now();
            if shown.get().is_none_or(|last| now.duration_since(last) >= SHOW_EVERY) {
                shown.set(Some(now));
                self.show(Some(progress));
                self.members_may_be_due();
            }
            if now.duration_since(logged.get()) >= LOG_EVERY {
                logged.set(now);
                let of = progress.of.map_or_else(String::new, |of| format!(" of {of}"));
                log::info!("comparing with WeCom: {}, {}{of}", progress.phase, progress.done);
            }
        };
        let engine = Engine {
            client: &*self.client,
            reader: &self.reader,
            writer: (!wish.dry_run).then_some(&self.writer),
            shutdown: &self.shutdown,
            guard: Guard { percent: self.settings.max_delete_percent, allowed: wish.allow_deletes },
            tell: &tell,
        };
        let report = compare(&engine, reason);
        self.show(None);
        let report = report?;
        self.members_may_be_due();
        if let Some(details) = self.details.as_ref().filter(|_| !wish.dry_run) {
            details.compared();
        }
        say(&report, wish);
        Ok(report)
    }

    fn members_may_be_due(&self) {
        if let Some(converter) = &self.converter {
            converter.look();
        }
    }

    /// Shows how far it is, for `status` and the command that waits.
    fn show(&self, progress: Option<Progress>) {
        let json = progress.map(|p| json!({"phase": p.phase, "done": p.done, "of": p.of}));
        self.writer.submit(
            Instant::now() + PATIENCE,
            move |connection| set_state(connection, PROGRESS, unix_now(), json.as_ref()),
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

fn say(report: &Report, wish: Wish) {
    let level = match report.outcome {
        ReconcileOutcome::Blocked => log::Level::Error,
        ReconcileOutcome::Failed | ReconcileOutcome::Partial => log::Level::Warn,
        _ => log::Level::Info,
    };
    let (note, effect) = (report.note(), report.effect);
    let colon = if note.is_empty() { "" } else { ": " };
    let done = if wish.dry_run {
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
