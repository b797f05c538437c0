//! Fetches the fields of members with user/get: since 2022 an event carries little more than the userid.
//!
//! The database has the members whose details are due, or refused by WeCom (`denied`). Refused ones are fetched again only
//! after an event about the member, or after the next comparison.

mod waiting;

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::api_observer::{collect_calls, submit_calls};
use super::threads::Threads;
use super::{COMMIT_TIMEOUT, Shared, StartError};
use crate::directory::openid::Backoff;
use crate::store::details::{
    DetailsClaim, details_due, details_sample, move_details, record_denied, record_details,
};
use crate::store::observations::Effect;
use crate::store::state::{DETAILS_DENIED, DRIFT, Drift};
use crate::store::{Connection, StoreError};
use crate::unix_time::unix_now;
use crate::wecom::api::errcode::{Reaction, Reason, reaction};
use crate::wecom::api::rate_limiter::Priority;
use crate::wecom::api::{ApiError, Dated, NoAnswer, SecretKind};
use waiting::Waiting;

/// Wait after a wake-up: events often come in pairs, and an answer must be newer than both.
const SETTLE: Duration = Duration::from_secs(2);
/// Longest interval between checks of the database.
const CHECK: Duration = Duration::from_secs(60);
/// Due members that one query reads.
const BATCH: usize = 100;
/// Members that one commit moves from one state to another.
const MOVE_BATCH: usize = 2000;
/// Wait after an answer with an errcode without a known meaning.
const UNKNOWN_WAIT: Duration = Duration::from_secs(300);
/// Such answers in a row after which a member counts as denied.
const UNKNOWN_TRIES: u32 = 3;
/// Wait after an answer that cannot be used.
const UNUSABLE: Backoff = Backoff { first: Duration::from_secs(60), max: Duration::from_secs(86_400) };

/// Members in the daily sample.
const SAMPLE: usize = 20;
/// Interval of samples, in seconds.
const SAMPLE_EVERY: i64 = 86_400;

#[derive(Default)]
struct Signals {
    is_woken: bool,
    is_compared: bool,
}

/// The handle that wakes the thread.
#[derive(Default)]
pub(crate) struct DetailsWorker {
    signals: Mutex<Signals>,
    wakeup: Condvar,
}

impl DetailsWorker {
    /// Starts the thread; `None` if `[details] fetch` is never or no app_secret is set.
    pub(super) fn start(
        is_enabled: bool,
        shared: &Shared,
        threads: &mut Threads,
    ) -> Result<Option<Arc<Self>>, StartError> {
        if !is_enabled || !shared.client.has_secret(SecretKind::App) {
            return Ok(None);
        }
        let fetcher = Fetcher { shared: shared.clone(), reader: shared.reader()? };
        let worker = Arc::new(Self::default());
        let signals = Arc::clone(&worker);
        threads.spawn("details", move || fetcher.work(&signals))?;
        Ok(Some(worker))
    }

    /// Checks for due details, after 2 s.
    pub(crate) fn wake(&self) {
        self.signal(|signals| signals.is_woken = true);
    }

    /// A comparison has ended: details may be due, and denied ones are tried again.
    pub(crate) fn compared(&self) {
        self.signal(|signals| *signals = Signals { is_woken: true, is_compared: true });
    }

    fn signal(&self, set: impl FnOnce(&mut Signals)) {
        set(&mut self.signals.lock().unwrap_or_else(PoisonError::into_inner));
        self.wakeup.notify_all();
    }

    fn is_woken(&self) -> bool {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner).is_woken
    }

    fn wait(&self, time: Duration) -> Signals {
        let signals = self.signals.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.wakeup.wait_timeout_while(signals, time, |signals| !signals.is_woken);
        std::mem::take(&mut *waited.unwrap_or_else(PoisonError::into_inner).0)
    }
}

/// Why a round ends before all due members were fetched.
enum Interruption {
    Shutdown,
    /// The next round may begin after this time.
    Wait(Duration),
}

impl From<StoreError> for Interruption {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Closed => Self::Shutdown,
            error => {
                log::error!("details: {error}");
                Self::Wait(CHECK)
            }
        }
    }
}

impl From<crate::store::Error> for Interruption {
    fn from(error: crate::store::Error) -> Self {
        StoreError::from(error).into()
    }
}

/// The state of the thread.
struct Fetcher {
    shared: Shared,
    reader: Connection,
}

impl Fetcher {
    fn work(&self, worker: &DetailsWorker) {
        let mut waiting = Waiting::default();
        // An operator who restarts the daemon may have granted the permission.
        let mut try_denied = true;
        loop {
            let wait = match self.round(worker, &mut waiting, std::mem::take(&mut try_denied)) {
                Ok(()) => waiting.next(Instant::now()).unwrap_or(CHECK).min(CHECK),
                Err(Interruption::Wait(time)) => time.min(CHECK),
                Err(Interruption::Shutdown) => return,
            };
            let signals = worker.wait(wait);
            try_denied = signals.is_compared;
            if self.shared.shutdown.sleep(if signals.is_woken { SETTLE } else { Duration::ZERO }) {
                return;
            }
        }
    }

    /// Fetches the details of all due members, and takes the daily sample if it is due.
    fn round(
        &self,
        worker: &DetailsWorker,
        waiting: &mut Waiting,
        try_denied: bool,
    ) -> Result<(), Interruption> {
        if try_denied && DETAILS_DENIED.get(&self.reader)?.is_some() {
            let probe = |connection: &Connection| move_details(connection, ("denied", "due"), "", 1);
            self.shared.writer.run(COMMIT_TIMEOUT, probe)?;
        }
        loop {
            let due = details_due(&self.reader, BATCH + waiting.len())?;
            let due = waiting.order(due, Instant::now());
            if due.is_empty() {
                break;
            }
            for claim in due {
                // Members that just changed precede those of a company that is new here.
                let priority = if claim.is_named { Priority::Details } else { Priority::Fill };
                self.fetch(&claim, priority, waiting)?;
                if worker.is_woken() {
                    break;
                }
            }
        }
        self.sample(waiting)
    }

    /// Fetches one member and commits the answer together with the record of the call; the effect on the directory.
    fn fetch(
        &self,
        claim: &DetailsClaim,
        priority: Priority,
        waiting: &mut Waiting,
    ) -> Result<Effect, Interruption> {
        if self.shared.shutdown.is_triggered() {
            return Err(Interruption::Shutdown);
        }
        let client = &self.shared.client;
        let (answer, calls) = collect_calls(|| client.user_get(&claim.userid, SecretKind::App, priority));
        log::debug!("details userid={} known={}", claim.userid, answer.is_ok());
        match answer {
            Ok(Dated { value: (_, fields), at }) => {
                waiting.remove(claim);
                let (claim, moment) = (claim.clone(), client.clock().moment());
                let effect = self.shared.commit(calls, move |connection| {
                    record_details(connection, &claim, &fields, at, moment)
                })?;
                self.allowed_again()?;
                return Ok(effect);
            }
            Err(ApiError::Refused { errcode, .. }) => {
                let is_known = reaction(errcode) == Reaction::Never;
                let tries = waiting.tries(claim) + 1;
                if is_known || tries >= UNKNOWN_TRIES {
                    waiting.remove(claim);
                    let claim = claim.clone();
                    self.shared
                        .commit(calls, move |connection| record_denied(connection, &claim, unix_now()))?;
                    if is_known {
                        // WeCom refuses this member only, so the app may call the API.
                        self.allowed_again()?;
                    }
                } else {
                    submit_calls(&self.shared.writer, calls);
                    waiting.put(claim, Instant::now() + UNKNOWN_WAIT, tries);
                }
            }
            Err(ApiError::Unusable { what, .. }) => {
                submit_calls(&self.shared.writer, calls);
                let tries = waiting.tries(claim).saturating_add(1);
                let wait = UNUSABLE.wait(tries, fastrand::f64());
                log::warn!(
                    "details userid={} try={tries}: {what}; this member is asked for again in {} s, the others go on",
                    claim.userid,
                    wait.as_secs()
                );
                waiting.put(claim, Instant::now() + wait, tries);
            }
            Err(ApiError::NoAnswer(reason)) => {
                submit_calls(&self.shared.writer, calls);
                self.no_answer(claim, reason, waiting)?;
            }
        }
        Ok(Effect::default())
    }

    fn no_answer(
        &self,
        claim: &DetailsClaim,
        reason: NoAnswer,
        waiting: &mut Waiting,
    ) -> Result<(), Interruption> {
        match reason {
            NoAnswer::Stopped => Err(Interruption::Shutdown),
            // A wake-up for a member with a higher priority ends the wait.
            NoAnswer::RateLimited(wait) => Err(Interruption::Wait(wait)),
            NoAnswer::NoSecret => Err(Interruption::Wait(CHECK)),
            NoAnswer::Later(at) => {
                waiting.put(claim, at, waiting.tries(claim));
                Ok(())
            }
            NoAnswer::Paused(until, pause) | NoAnswer::Failed(until, pause) => {
                if matches!(reason, NoAnswer::Failed(..)) {
                    waiting.put(claim, until, waiting.tries(claim));
                }
                if matches!(pause, Reason::Permission | Reason::Licence) {
                    self.denied_for_all()?;
                }
                let wait = until.saturating_duration_since(Instant::now());
                Err(Interruption::Wait(wait.max(Duration::from_millis(100))))
            }
        }
    }

    /// Marks all due details as denied: the app may not call user/get.
    fn denied_for_all(&self) -> Result<(), Interruption> {
        if DETAILS_DENIED.get(&self.reader)?.is_none() {
            log::warn!(
                "details of members stay unknown, because the app may not call user/get; all else goes on"
            );
        }
        self.shared.commit(Vec::new(), |connection| DETAILS_DENIED.set(connection, unix_now(), &true))?;
        self.move_all("due", "denied")
    }

    fn allowed_again(&self) -> Result<(), Interruption> {
        if DETAILS_DENIED.get(&self.reader)?.is_none() {
            return Ok(());
        }
        log::info!("the app may call user/get again; details are fetched");
        self.shared.commit(Vec::new(), |connection| DETAILS_DENIED.remove(connection))?;
        self.move_all("denied", "due")
    }

    fn move_all(&self, from: &'static str, to: &'static str) -> Result<(), Interruption> {
        let mut after = Some(String::new());
        while let Some(last) = after {
            after = self.shared.commit(Vec::new(), move |connection| {
                move_details(connection, (from, to), &last, MOVE_BATCH)
            })?;
        }
        Ok(())
    }

    /// Once a day, fetches a sample of the members whose fields are known. The number of differences measures the drift of the
    /// directory; the differences are merged.
    fn sample(&self, waiting: &mut Waiting) -> Result<(), Interruption> {
        let now = unix_now();
        let last = DRIFT.get(&self.reader)?.map(|(at, _)| at);
        if last.is_some_and(|at| (0..SAMPLE_EVERY).contains(&now.since(at))) {
            return Ok(());
        }
        let sample = details_sample(&self.reader, SAMPLE, fastrand::i64)?;
        if sample.is_empty() {
            return Ok(());
        }
        let mut drift = Drift { asked: sample.len(), different: 0 };
        for member in sample {
            if !self.fetch(&member, Priority::Details, waiting)?.is_none() {
                drift.different += 1;
                log::warn!("the daily sample found userid={} different; it is repaired", member.userid);
            }
        }
        log::info!("daily sample: {} of {} members were different", drift.different, drift.asked);
        Ok(self.shared.commit(Vec::new(), move |connection| DRIFT.set(connection, unix_now(), &drift))?)
    }
}
