//! Turns userids into openids: at once when an event speaks of a member, else when the member is due.
//!
//! What is being asked is known in memory only. In the database a member stays due until WeCom's answer
//! is committed, so after a crash it is simply asked again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::store::Connection;
use crate::unix_time::unix_now;

use super::threads::Threads;
use super::{CHECK_DATABASE, Shared, StartError};
use crate::config;
use crate::directory::openid::Backoff;
use crate::directory::{UnixSeconds, UserId};
use crate::store::StoreError;
use crate::store::openids::{
    ConversionClaim, ConversionOutcome, Due, claim, due_members, earliest_due, record_conversion,
};
use crate::wecom::api::errcode::{Reaction, reaction};
use crate::wecom::api::rate_limiter::Priority;
use crate::wecom::api::{Api, ApiError, NoAnswer, SecretKind};

/// Due members that one look at the database takes.
const BATCH: usize = 256;
/// Members that events have spoken of and that wait in memory; more are found in the database.
const URGENT: usize = 10_000;
/// Members that are put off in memory.
const LATER: usize = 10_000;
/// While calls are paused, or the database cannot be read, it is looked so often whether that is over.
const LOOK_WHEN_HINDERED: Duration = Duration::from_secs(5);
/// How long a verdict's commit may take before it is handed in again.
const PATIENCE: Duration = Duration::from_secs(4);

struct Work {
    /// Members that an event spoke of just now.
    urgent: VecDeque<UserId>,
    /// Members found due.
    due: VecDeque<UserId>,
    /// Due members to ask after all others, and the earliest time for each: WeCom was busy, or did not answer at all. In
    /// memory only, because it is no failed attempt of the member.
    later: HashMap<UserId, Instant>,
    /// Being asked about.
    in_flight: HashSet<UserId>,
    /// When to look for more.
    look_at: Instant,
    /// The database could not be looked at, which has been told.
    in_trouble: bool,
    reader: Connection,
}

/// Wakes the workers for members that an event spoke of.
pub struct Converter {
    shared: Shared,
    backoff: Backoff,
    /// Age at which an openid is requested again; zero: never.
    recheck_after: Duration,
    work: Mutex<Work>,
    wake: Condvar,
}

impl Converter {
    /// Starts `[openid] workers` threads; `None` if conversions are off or no app_secret is set.
    pub(super) fn start(
        settings: &config::Openid,
        shared: &Shared,
        threads: &mut Threads,
    ) -> Result<Option<Arc<Self>>, StartError> {
        if !settings.enabled || !shared.client.has_secret(SecretKind::App) {
            return Ok(None);
        }
        let work = Work {
            urgent: VecDeque::new(),
            due: VecDeque::new(),
            later: HashMap::new(),
            in_flight: HashSet::new(),
            look_at: Instant::now(),
            in_trouble: false,
            reader: shared.reader()?,
        };
        let converter = Arc::new(Self {
            shared: shared.clone(),
            backoff: Backoff { first: settings.retry_first, max: settings.retry_max },
            recheck_after: settings.recheck_after,
            work: Mutex::new(work),
            wake: Condvar::new(),
        });
        for n in 0..settings.workers {
            let converter = Arc::clone(&converter);
            threads.spawn(format!("convert-{n}"), move || converter.run())?;
        }
        Ok(Some(converter))
    }

    fn due(&self, now: UnixSeconds) -> Due {
        let seconds = |wait: Duration| i64::try_from(wait.as_secs()).unwrap_or(i64::MAX);
        let age = seconds(self.recheck_after);
        let longest = seconds(self.backoff.max.saturating_add(Duration::from_secs(60)));
        Due { now, latest: now.plus(longest), recheck_before: (age > 0).then(|| now.plus(-age)) }
    }

    /// An event spoke of these members: they go first.
    pub fn wake_for(&self, members: Vec<UserId>) {
        if members.is_empty() {
            return;
        }
        let mut work = self.lock();
        for member in members {
            if work.urgent.len() < URGENT {
                work.urgent.push_back(member);
            } else {
                work.look_at = Instant::now();
            }
        }
        drop(work);
        self.wake.notify_all();
    }

    /// Somebody may have become due otherwise.
    pub fn look(&self) {
        self.lock().look_at = Instant::now();
        self.wake.notify_all();
    }

    /// Ends the waiting of all workers, after the sign to stop was given.
    pub fn wake_all(&self) {
        drop(self.lock());
        self.wake.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        while let Some((member, asked, priority)) = self.next() {
            let outcome = self.convert(&asked, priority);
            let mut work = self.lock();
            work.in_flight.remove(&member);
            // The answer may have made it due sooner than anybody else.
            work.look_at = Instant::now();
            match outcome {
                Outcome::Later(at) if work.later.len() < LATER => {
                    work.later.insert(member, at);
                }
                // An event came while WeCom was being asked: it wants to know again, now.
                Outcome::Outdated => work.urgent.push_front(member),
                Outcome::Later(_) | Outcome::Settled => {}
            }
        }
    }

    /// Waits for the next member; `None` when it is time to stop.
    fn next(&self) -> Option<(UserId, ConversionClaim, Priority)> {
        let mut work = self.lock();
        loop {
            if self.shared.shutdown.is_triggered() {
                return None;
            }
            let now = Instant::now();
            let paused = self.shared.client.blocked_until(Api::ConvertToOpenid, SecretKind::App);
            let wait_until = match paused {
                Some(until) => until.min(now + LOOK_WHEN_HINDERED),
                None => {
                    let due = self.due(unix_now());
                    if let Some(found) = work.take(due.recheck_before) {
                        return Some(found);
                    }
                    if work.look_at <= now {
                        match work.look(due) {
                            Ok(()) => {
                                work.in_trouble = false;
                                continue;
                            }
                            Err(error) => {
                                if !std::mem::replace(&mut work.in_trouble, true) {
                                    let error = StoreError::from(error);
                                    log::error!("cannot look for members that are due: {error}");
                                }
                                work.look_at = now + LOOK_WHEN_HINDERED;
                            }
                        }
                    }
                    match work.take_later(now, due.recheck_before) {
                        Ok(found) => return Some(found),
                        Err(at) => at.map_or(work.look_at, |at| at.min(work.look_at)),
                    }
                }
            };
            let wait = wait_until.saturating_duration_since(now).max(Duration::from_millis(1));
            work = self.wake.wait_timeout(work, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Asks WeCom and writes down what it said.
    fn convert(&self, asked: &ConversionClaim, priority: Priority) -> Outcome {
        let userid = &asked.userid;
        let verdict = match self.shared.client.convert_to_openid(userid, priority) {
            Ok(openid) => ConversionOutcome::Openid(openid.value),
            Err(ApiError::Refused { errcode, errmsg }) if reaction(errcode) == Reaction::Never => {
                self.shared.triggers.refused_for_good(Instant::now());
                ConversionOutcome::Never { errcode, errmsg }
            }
            Err(ApiError::Refused { errcode, errmsg }) => {
                ConversionOutcome::NotYet { errcode: Some(errcode), errmsg }
            }
            Err(ApiError::Unusable { errcode, what }) => {
                log::warn!(
                    "conversion userid={userid}: {what}; this member is tried again later, the others go on"
                );
                ConversionOutcome::NotYet { errcode: errcode.filter(|code| *code != 0), errmsg: what }
            }
            Err(ApiError::NoAnswer(NoAnswer::Failed(at, _) | NoAnswer::Later(at))) => {
                return Outcome::Later(at);
            }
            // Not this member's fault: it stays as it is, and is due.
            Err(ApiError::NoAnswer(
                NoAnswer::Paused(..) | NoAnswer::RateLimited(_) | NoAnswer::Stopped | NoAnswer::NoSecret,
            )) => return Outcome::Settled,
        };
        log::debug!("conversion userid={userid} verdict={}", in_short(&verdict));
        if self.record(asked, &verdict, self.shared.client.clock().estimate().now) {
            Outcome::Settled
        } else {
            Outcome::Outdated
        }
    }

    /// Writes what WeCom said, however long the database takes: an openid that is known is not asked for
    /// again only because of a lock. False if it no longer counts.
    fn record(&self, asked: &ConversionClaim, verdict: &ConversionOutcome, answered_at: UnixSeconds) -> bool {
        loop {
            let (asked, verdict, backoff, random) =
                (asked.clone(), verdict.clone(), self.backoff, fastrand::f64());
            let moment = self.shared.client.clock().moment();
            let written = self.shared.writer.run(PATIENCE, move |connection| {
                record_conversion(connection, &asked, &verdict, answered_at, backoff, moment, random)
            });
            match written {
                Ok(counted) => return counted,
                Err(StoreError::Closed) => return true,
                Err(error) if error.is_of_the_data() => {
                    log::error!("WeCom's answer cannot be stored: {error}");
                    // Else it would be asked again at once, and again.
                    let _ = self.shared.shutdown.sleep(Duration::from_secs(60));
                    return true;
                }
                Err(_) => {
                    if self.shared.shutdown.sleep(Duration::from_secs(1)) {
                        return true;
                    }
                }
            }
        }
    }
}

/// What becomes of a member that was asked about.
enum Outcome {
    /// The database says.
    Settled,
    /// The answer no longer counts: it is asked about again at once.
    Outdated,
    /// It is asked about again then, and others first.
    Later(Instant),
}

fn in_short(verdict: &ConversionOutcome) -> String {
    match verdict {
        ConversionOutcome::Openid(_) => "openid".into(),
        ConversionOutcome::NotYet { errcode: None, .. } => "unusable".into(),
        ConversionOutcome::NotYet { errcode: Some(errcode), .. } => format!("not yet ({errcode})"),
        ConversionOutcome::Never { errcode, .. } => format!("never ({errcode})"),
    }
}

impl Work {
    /// The next member that is (still) due and not being asked about.
    fn take(&mut self, recheck_before: Option<UnixSeconds>) -> Option<(UserId, ConversionClaim, Priority)> {
        loop {
            let (member, priority) = match self.urgent.pop_front() {
                Some(member) => (member, Priority::Now),
                None => (self.due.pop_front()?, Priority::Conversion),
            };
            // An event that came since has made the answer under way outdated; its thread finds that.
            if self.in_flight.contains(&member) {
                continue;
            }
            if priority == Priority::Now {
                self.later.remove(&member);
            } else if self.later.contains_key(&member) {
                continue;
            }
            if let Some(found) = self.claim(member, priority, recheck_before) {
                return Some(found);
            }
        }
    }

    /// The postponed member whose time came first, to be called when no other member is due; else the earliest time.
    fn take_later(
        &mut self,
        now: Instant,
        recheck_before: Option<UnixSeconds>,
    ) -> Result<(UserId, ConversionClaim, Priority), Option<Instant>> {
        loop {
            let first =
                self.later.iter().min_by_key(|(_, at)| **at).map(|(member, at)| (member.clone(), *at));
            let Some((member, at)) = first else { return Err(None) };
            if at > now {
                return Err(Some(at));
            }
            self.later.remove(&member);
            if !self.in_flight.contains(&member)
                && let Some(found) = self.claim(member, Priority::Conversion, recheck_before)
            {
                return Ok(found);
            }
        }
    }

    /// Takes this member on if it is due.
    fn claim(
        &mut self,
        member: UserId,
        priority: Priority,
        recheck_before: Option<UnixSeconds>,
    ) -> Option<(UserId, ConversionClaim, Priority)> {
        match claim(&self.reader, &member, recheck_before, unix_now()) {
            Ok(Some(asked)) => {
                self.in_flight.insert(member.clone());
                return Some((member, asked, priority));
            }
            Ok(None) => {}
            Err(error) => log::error!("cannot look up userid={member}: {error}"),
        }
        None
    }

    /// Finds who is due, or when somebody will be.
    fn look(&mut self, due: Due) -> crate::store::Result<()> {
        let now = due.now;
        let found = due_members(&self.reader, due, BATCH + self.in_flight.len() + self.later.len())?;
        let is_free = |member: &UserId| !self.in_flight.contains(member) && !self.later.contains_key(member);
        self.due.extend(found.into_iter().filter(is_free));
        let wait = if self.due.is_empty() {
            let seconds = earliest_due(&self.reader, now)?.map_or(i64::MAX, |due| due.since(now).max(1));
            Duration::from_secs(u64::try_from(seconds).unwrap_or(1)).min(CHECK_DATABASE)
        } else {
            Duration::ZERO
        };
        self.look_at = Instant::now() + wait;
        Ok(())
    }
}
