//! Asks user/get for members whose fields are not known: since 2022 an event tells hardly more than the userid.
//!
//! Whose details are due stands in the database, the newest news first. So does WeCom's refusal: a member, or all
//! of them, is `denied` then, and asked for again only when something speaks of it, or at the next comparison.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::store::Connection;

use super::threads::Threads;
use super::{Shared, StartError};
use crate::directory::UserId;
use crate::directory::openid::Backoff;
use crate::store::StoreError;
use crate::store::details::{
    DetailsClaim, details_due, details_sample, move_details, record_denied, record_details,
};
use crate::store::observations::Effect;
use crate::store::state::{DETAILS_DENIED, DRIFT, Drift};
use crate::unix_time::unix_now;
use crate::wecom::api::errcode::Reason;
use crate::wecom::api::rate_limiter::Priority;
use crate::wecom::api::{ApiError, Dated, NoAnswer, SecretKind};

/// News that are so fresh are waited for: events often come in pairs, and an answer must be newer than both.
const SETTLE: Duration = Duration::from_secs(2);
/// The database is looked at so often when nothing wakes.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Members looked up at a time.
const BATCH: usize = 100;
/// Members that are moved from one state to another at a time.
const MOVED: usize = 2000;
/// A member whom WeCom answers with something unknown is asked for again after this ..
const UNKNOWN_WAIT: Duration = Duration::from_secs(300);
/// .. so often.
const UNKNOWN_TRIES: u32 = 3;
/// A member whose answer cannot be used is asked for again after this, doubling up to a day.
const UNUSABLE: Backoff = Backoff { first: Duration::from_secs(60), max: Duration::from_secs(86_400) };
/// Members whose waits are remembered.
const WAITING: usize = 10_000;
/// How long a commit may take before it is handed in again.
const PATIENCE: Duration = Duration::from_secs(4);

/// Members in the daily sample.
const SAMPLE: usize = 20;
/// The sample is taken so often (seconds).
const SAMPLE_EVERY: i64 = 86_400;

#[derive(Default)]
struct Signals {
    woken: bool,
    compared: bool,
}

/// Wakes the worker.
#[derive(Default)]
pub struct DetailsWorker {
    signals: Mutex<Signals>,
    wake: Condvar,
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
        let details = Details { shared: shared.clone(), reader: shared.reader()? };
        let worker = Arc::new(Self::default());
        let waker = Arc::clone(&worker);
        threads.spawn("details", move || details.work(&waker))?;
        Ok(Some(worker))
    }

    /// Something was said of members whose details may be due.
    pub fn wake(&self) {
        self.signal(|signals| signals.woken = true);
    }

    /// The directory was compared: members came to light, and who was refused may be asked for again.
    pub fn compared(&self) {
        self.signal(|signals| (signals.woken, signals.compared) = (true, true));
    }

    fn signal(&self, set: impl FnOnce(&mut Signals)) {
        set(&mut self.signals.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_all();
    }

    fn is_woken(&self) -> bool {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner).woken
    }

    fn wait(&self, time: Duration) -> Signals {
        let signals = self.signals.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.wake.wait_timeout_while(signals, time, |signals| !signals.woken);
        std::mem::take(&mut *waited.unwrap_or_else(PoisonError::into_inner).0)
    }
}

/// The thread's own state.
struct Details {
    shared: Shared,
    reader: Connection,
}

/// Why the round ends.
enum End {
    Stopped,
    /// Try again then.
    Wait(Duration),
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Closed => Self::Stopped,
            error => {
                log::error!("details: {error}");
                Self::Wait(LOOK_AGAIN)
            }
        }
    }
}

impl From<crate::store::Error> for End {
    fn from(error: crate::store::Error) -> Self {
        StoreError::from(error).into()
    }
}

/// Members who are due and wait: others go first. In memory, so after a restart each is asked for once.
#[derive(Default)]
struct Waiting(HashMap<UserId, Wait>);

struct Wait {
    /// Earliest time of the next call.
    at: Instant,
    /// The member as it was at the last call. News of the member change it and end the wait.
    asked: DetailsClaim,
    /// Answers that count against the member.
    tries: u32,
}

impl Waiting {
    fn tries(&self, asked: &DetailsClaim) -> u32 {
        self.0.get(&asked.userid).filter(|wait| wait.asked == *asked).map_or(0, |wait| wait.tries)
    }

    fn put(&mut self, asked: &DetailsClaim, at: Instant, tries: u32) {
        if self.0.len() >= WAITING {
            // Most of them have been answered, or are gone.
            let now = Instant::now();
            self.0.retain(|_, wait| wait.at > now);
        }
        if self.0.len() < WAITING || self.0.contains_key(&asked.userid) {
            self.0.insert(asked.userid.clone(), Wait { at, asked: asked.clone(), tries });
        }
    }

    fn remove(&mut self, asked: &DetailsClaim) {
        self.0.remove(&asked.userid);
    }

    /// The due members whose wait is over or that have none; those without a wait first.
    fn order(&mut self, due: Vec<DetailsClaim>, now: Instant) -> Vec<DetailsClaim> {
        let (mut first, mut last) = (Vec::new(), Vec::new());
        for asked in due {
            match self.0.get(&asked.userid).filter(|wait| wait.asked == asked) {
                None => first.push(asked),
                Some(wait) if wait.at <= now => last.push(asked),
                Some(_) => {}
            }
        }
        first.append(&mut last);
        first
    }

    /// Time until the next wait ends.
    fn next(&self, now: Instant) -> Option<Duration> {
        let future = self.0.values().map(|wait| wait.at).filter(|at| *at > now);
        future.min().map(|at| at.saturating_duration_since(now))
    }
}

impl Details {
    fn work(&self, worker: &DetailsWorker) {
        let mut waiting = Waiting::default();
        // Whoever restarts has usually just mended something.
        let mut try_denied = true;
        loop {
            let wait = match self.round(worker, &mut waiting, std::mem::take(&mut try_denied)) {
                Ok(()) => waiting.next(Instant::now()).unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN),
                Err(End::Wait(time)) => time.min(LOOK_AGAIN),
                Err(End::Stopped) => return,
            };
            let signals = worker.wait(wait);
            try_denied = signals.compared;
            if self.shared.shutdown.sleep(if signals.woken { SETTLE } else { Duration::ZERO }) {
                return;
            }
        }
    }

    /// Asks for everybody who is due, and takes the daily sample when it is time.
    fn round(&self, worker: &DetailsWorker, waiting: &mut Waiting, try_denied: bool) -> Result<(), End> {
        if try_denied && DETAILS_DENIED.get(&self.reader)?.is_some() {
            self.shared
                .writer
                .run(PATIENCE, |connection| move_details(connection, ("denied", "due"), "", 1))?;
        }
        loop {
            let now = Instant::now();
            let due = waiting.order(details_due(&self.reader, BATCH + waiting.0.len())?, now);
            if due.is_empty() {
                break;
            }
            for asked in due {
                self.ask(&asked, priority(&asked), waiting)?;
                if worker.is_woken() {
                    // Whoever just changed comes first.
                    break;
                }
            }
        }
        self.sample(waiting)
    }

    /// Asks for one member; what it came to.
    fn ask(&self, asked: &DetailsClaim, priority: Priority, waiting: &mut Waiting) -> Result<Effect, End> {
        if self.shared.shutdown.is_triggered() {
            return Err(End::Stopped);
        }
        let answer = self.shared.client.user_get(&asked.userid, SecretKind::App, priority);
        log::debug!("details userid={} known={}", asked.userid, answer.is_ok());
        match answer {
            Ok(Dated { value: (_, fields), at }) => {
                waiting.remove(asked);
                let effect = {
                    let (asked, moment) = (asked.clone(), self.shared.client.clock().moment());
                    self.write(move |connection| record_details(connection, &asked, &fields, at, moment))?
                };
                self.allowed_again()?;
                Ok(effect)
            }
            Err(ApiError::NoAnswer(NoAnswer::Stopped)) => Err(End::Stopped),
            // Whoever just changed may wake this thread meanwhile.
            Err(ApiError::NoAnswer(NoAnswer::RateLimited(wait))) => Err(End::Wait(wait)),
            Err(ApiError::NoAnswer(NoAnswer::NoSecret)) => Err(End::Wait(LOOK_AGAIN)),
            Err(ApiError::NoAnswer(NoAnswer::Later(at))) => {
                waiting.put(asked, at, waiting.tries(asked));
                Ok(Effect::default())
            }
            Err(ApiError::NoAnswer(
                no_answer @ (NoAnswer::Paused(until, reason) | NoAnswer::Failed(until, reason)),
            )) => {
                if matches!(no_answer, NoAnswer::Failed(..)) {
                    waiting.put(asked, until, waiting.tries(asked));
                }
                if matches!(reason, Reason::Permission | Reason::Licence) {
                    self.denied_for_all()?;
                }
                Err(End::Wait(
                    until.saturating_duration_since(Instant::now()).max(Duration::from_millis(100)),
                ))
            }
            Err(ApiError::Refused { errcode, .. }) => {
                let is_known = crate::wecom::api::errcode::reaction(errcode)
                    == crate::wecom::api::errcode::Reaction::Never;
                let tries = waiting.tries(asked) + 1;
                if is_known || tries >= UNKNOWN_TRIES {
                    waiting.remove(asked);
                    let asked = asked.clone();
                    self.write(move |connection| record_denied(connection, &asked, unix_now()))?;
                    if is_known {
                        // Refused for its own sake: then the app may call it.
                        self.allowed_again()?;
                    }
                } else {
                    waiting.put(asked, Instant::now() + UNKNOWN_WAIT, tries);
                }
                Ok(Effect::default())
            }
            Err(ApiError::Unusable { what, .. }) => {
                let tries = waiting.tries(asked).saturating_add(1);
                let wait = UNUSABLE.wait(tries, fastrand::f64());
                log::warn!(
                    "details userid={} try={tries}: {what}; this member is asked for again in {} s, the others go on",
                    asked.userid,
                    wait.as_secs()
                );
                waiting.put(asked, Instant::now() + wait, tries);
                Ok(Effect::default())
            }
        }
    }

    /// The app may not call user/get: nobody is asked for until something speaks of a member, or the next
    /// comparison.
    fn denied_for_all(&self) -> Result<(), End> {
        let first = DETAILS_DENIED.get(&self.reader)?.is_none();
        if first {
            log::warn!(
                "details of members stay unknown, because the app may not call user/get; all else goes on"
            );
        }
        self.write(|connection| DETAILS_DENIED.set(connection, unix_now(), &true))?;
        self.move_all("due", "denied")
    }

    fn allowed_again(&self) -> Result<(), End> {
        if DETAILS_DENIED.get(&self.reader)?.is_none() {
            return Ok(());
        }
        log::info!("the app may call user/get again; details are asked for");
        self.write(|connection| DETAILS_DENIED.remove(connection))?;
        self.move_all("denied", "due")
    }

    fn move_all(&self, from: &'static str, to: &'static str) -> Result<(), End> {
        let mut after = Some(String::new());
        while let Some(last) = after {
            after = self.write(move |connection| move_details(connection, (from, to), &last, MOVED))?;
        }
        Ok(())
    }

    /// Asks for some members once a day whose fields are known. How many were different tells how exact the
    /// directory is; it is repaired by the way.
    fn sample(&self, waiting: &mut Waiting) -> Result<(), End> {
        let now = unix_now();
        let last = DRIFT.get(&self.reader)?.map(|(at, _)| at);
        if last.is_some_and(|at| (0..SAMPLE_EVERY).contains(&now.since(at))) {
            return Ok(());
        }
        let sample = details_sample(&self.reader, SAMPLE, fastrand::i64)?;
        if sample.is_empty() {
            return Ok(());
        }
        let (asked, mut different) = (sample.len(), 0);
        for member in sample {
            if !self.ask(&member, Priority::Details, waiting)?.is_none() {
                different += 1;
                log::warn!("the daily sample found userid={} different; it is repaired", member.userid);
            }
        }
        log::info!("daily sample: {different} of {asked} members were different");
        self.write(move |connection| DRIFT.set(connection, unix_now(), &Drift { asked, different }))
    }

    /// Writes, however long the database takes: what WeCom answered is not asked for again.
    fn write<T: Send + 'static>(
        &self,
        work: impl Fn(&Connection) -> crate::store::Result<T> + Send + Clone + 'static,
    ) -> Result<T, End> {
        loop {
            match self.shared.writer.run(PATIENCE, work.clone()) {
                Ok(done) => return Ok(done),
                Err(StoreError::Closed) => return Err(End::Stopped),
                Err(error) if error.is_of_the_data() => return Err(error.into()),
                Err(_) if self.shared.shutdown.sleep(Duration::from_secs(1)) => return Err(End::Stopped),
                Err(_) => {}
            }
        }
    }
}

/// Members that just changed come before those of a company that is new here.
fn priority(asked: &DetailsClaim) -> Priority {
    if asked.is_named { Priority::Details } else { Priority::Fill }
}
