//! Converts userids to openids: at once for members that an event names, else when a member is due.
//!
//! A member stays due in the database until WeCom's answer is committed; which members are being converted is known
//! in memory only. After a crash they are converted again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::api_observer::{collect_calls, submit_calls};
use super::threads::Threads;
use super::{CHECK_DATABASE, Shared, StartError};
use crate::config;
use crate::directory::openid::Backoff;
use crate::directory::{UnixSeconds, UserId};
use crate::store::openids::{
    ConversionClaim, ConversionOutcome, Due, claim, due_members, earliest_due, record_conversion,
};
use crate::store::{Connection, StoreError};
use crate::unix_time::unix_now;
use crate::wecom::api::errcode::{Reaction, reaction};
use crate::wecom::api::rate_limiter::Priority;
use crate::wecom::api::{Api, ApiError, NoAnswer, SecretKind};

/// Due members that one query reads.
const BATCH: usize = 256;
/// Members named by events that are kept in memory; more are found in the database.
const MAX_URGENT: usize = 10_000;
/// Members with a postponed call that are kept in memory.
const MAX_POSTPONED: usize = 10_000;
/// Interval of checks while calls are paused or the database cannot be read.
const BLOCKED_CHECK: Duration = Duration::from_secs(5);

/// Converts, and is woken for members that became due.
pub(crate) struct Converter {
    shared: Shared,
    backoff: Backoff,
    /// Age at which an openid is requested again; zero: never.
    recheck_after: Duration,
    /// Held during queries, so replies of the writer must not lock it.
    queue: Mutex<Queue>,
    inbox: Mutex<Inbox>,
    wakeup: Condvar,
}

/// Members from other threads, until a worker moves them to the queue.
#[derive(Default)]
struct Inbox {
    urgent: Vec<UserId>,
    /// Whether members may have become due in the database.
    check: bool,
    /// Counts the additions; a worker sleeps only while it stays the same.
    generation: u64,
}

struct Queue {
    /// Members that an event named just now.
    urgent: VecDeque<UserId>,
    /// Members that the last query found due.
    due: VecDeque<UserId>,
    /// Due members to convert after all others, and the earliest time for each: WeCom was busy, or did not answer. In
    /// memory only, because it is no failed attempt of the member.
    postponed: HashMap<UserId, Instant>,
    in_flight: HashSet<UserId>,
    /// Time of the next query for due members.
    check_at: Instant,
    /// Whether the database cannot be read, which was logged.
    is_failing: bool,
    reader: Connection,
}

struct Job {
    member: UserId,
    claim: ConversionClaim,
    priority: Priority,
}

/// When a member is converted again.
enum Requeue {
    /// At the time in the database.
    WhenDue,
    /// At once: an event named the member during the call.
    Now,
    /// At this time, after all others.
    At(Instant),
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
        let queue = Queue {
            urgent: VecDeque::new(),
            due: VecDeque::new(),
            postponed: HashMap::new(),
            in_flight: HashSet::new(),
            check_at: Instant::now(),
            is_failing: false,
            reader: shared.reader()?,
        };
        let converter = Arc::new(Self {
            shared: shared.clone(),
            backoff: Backoff { first: settings.retry_first, max: settings.retry_max },
            recheck_after: settings.recheck_after,
            queue: Mutex::new(queue),
            inbox: Mutex::default(),
            wakeup: Condvar::new(),
        });
        for n in 0..settings.workers {
            let converter = Arc::clone(&converter);
            threads.spawn(format!("convert-{n}"), move || converter.work())?;
        }
        Ok(Some(converter))
    }

    /// Converts these members before all others.
    pub(crate) fn convert_now(&self, members: Vec<UserId>) {
        if !members.is_empty() {
            self.notify(|inbox| {
                let room = MAX_URGENT.saturating_sub(inbox.urgent.len());
                inbox.check |= members.len() > room;
                inbox.urgent.extend(members.into_iter().take(room));
            });
        }
    }

    /// Checks the database for due members.
    pub(crate) fn check(&self) {
        self.notify(|inbox| inbox.check = true);
    }

    /// Wakes all workers after the shutdown signal.
    pub(super) fn wake_all(&self) {
        self.notify(|_| {});
    }

    fn notify(&self, change: impl FnOnce(&mut Inbox)) {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut inbox);
        inbox.generation = inbox.generation.wrapping_add(1);
        drop(inbox);
        self.wakeup.notify_all();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn due(&self, now: UnixSeconds) -> Due {
        let seconds = |wait: Duration| i64::try_from(wait.as_secs()).unwrap_or(i64::MAX);
        let age = seconds(self.recheck_after);
        let longest = seconds(self.backoff.max.saturating_add(Duration::from_secs(60)));
        Due { now, latest: now.plus(longest), recheck_before: (age > 0).then(|| now.plus(-age)) }
    }

    fn work(&self) {
        while let Some(Job { member, claim, priority }) = self.next() {
            let requeue = self.convert(&claim, priority);
            let mut queue = self.queue();
            queue.in_flight.remove(&member);
            // The answer may have made this member due before all others.
            queue.check_at = Instant::now();
            match requeue {
                Requeue::At(at) if queue.postponed.len() < MAX_POSTPONED => {
                    queue.postponed.insert(member, at);
                }
                Requeue::Now => queue.urgent.push_front(member),
                Requeue::At(_) | Requeue::WhenDue => {}
            }
        }
    }

    /// Waits for the next member; `None` after the shutdown signal.
    fn next(&self) -> Option<Job> {
        while !self.shared.shutdown.is_triggered() {
            let mut queue = self.queue();
            let generation = queue.receive(&self.inbox);
            let now = Instant::now();
            let wait_until = match self.shared.client.blocked_until(Api::ConvertToOpenid, SecretKind::App) {
                Some(until) => until.min(now + BLOCKED_CHECK),
                None => match queue.next(self.due(unix_now()), now) {
                    Ok(job) => return Some(job),
                    Err(at) => at,
                },
            };
            drop(queue);
            let wait = wait_until.saturating_duration_since(now).max(Duration::from_millis(1));
            let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
            drop(self.wakeup.wait_timeout_while(inbox, wait, |inbox| inbox.generation == generation));
        }
        None
    }

    /// Calls WeCom, and commits its answer together with the record of the call.
    fn convert(&self, claim: &ConversionClaim, priority: Priority) -> Requeue {
        let userid = &claim.userid;
        let (answer, calls) = collect_calls(|| self.shared.client.convert_to_openid(userid, priority));
        let outcome = match answer {
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
            // Not this member's failure: it stays due.
            Err(ApiError::NoAnswer(reason)) => {
                submit_calls(&self.shared.writer, calls);
                return match reason {
                    NoAnswer::Failed(at, _) | NoAnswer::Later(at) => Requeue::At(at),
                    NoAnswer::Paused(..)
                    | NoAnswer::RateLimited(_)
                    | NoAnswer::Stopped
                    | NoAnswer::NoSecret => Requeue::WhenDue,
                };
            }
        };
        log::debug!("conversion userid={userid} outcome={}", in_short(&outcome));
        let (claim, backoff, random) = (claim.clone(), self.backoff, fastrand::f64());
        let (answered_at, moment) =
            (self.shared.client.clock().estimate().now, self.shared.client.clock().moment());
        let written = self.shared.commit(calls, move |connection| {
            record_conversion(connection, &claim, &outcome, answered_at, backoff, moment, random)
        });
        match written {
            Ok(false) => Requeue::Now,
            Ok(true) | Err(StoreError::Closed) => Requeue::WhenDue,
            Err(error) => {
                log::error!("WeCom's answer cannot be stored: {error}");
                // The member is still due, and must not be converted without a break.
                let _ = self.shared.shutdown.sleep(Duration::from_secs(60));
                Requeue::WhenDue
            }
        }
    }
}

fn in_short(outcome: &ConversionOutcome) -> String {
    match outcome {
        ConversionOutcome::Openid(_) => "openid".into(),
        ConversionOutcome::NotYet { errcode: None, .. } => "unusable".into(),
        ConversionOutcome::NotYet { errcode: Some(errcode), .. } => format!("not yet ({errcode})"),
        ConversionOutcome::Never { errcode, .. } => format!("never ({errcode})"),
    }
}

impl Queue {
    /// Moves the added members to the queue; returns their generation.
    fn receive(&mut self, inbox: &Mutex<Inbox>) -> u64 {
        let mut inbox = inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_URGENT.saturating_sub(self.urgent.len());
        if std::mem::take(&mut inbox.check) || inbox.urgent.len() > room {
            self.check_at = Instant::now();
        }
        self.urgent.extend(std::mem::take(&mut inbox.urgent).into_iter().take(room));
        inbox.generation
    }

    /// The next member to convert, else the time of the next attempt to find one.
    fn next(&mut self, due: Due, now: Instant) -> Result<Job, Instant> {
        loop {
            if let Some(job) = self.take(due.recheck_before) {
                return Ok(job);
            }
            if self.check_at > now {
                break;
            }
            match self.find_due(due) {
                Ok(()) => self.is_failing = false,
                Err(error) => {
                    if !std::mem::replace(&mut self.is_failing, true) {
                        log::error!("cannot look for members that are due: {}", StoreError::from(error));
                    }
                    self.check_at = now + BLOCKED_CHECK;
                }
            }
        }
        self.take_postponed(now, due.recheck_before)
            .map_err(|at| at.map_or(self.check_at, |at| at.min(self.check_at)))
    }

    /// The next urgent or due member that is still due and not in flight.
    fn take(&mut self, recheck_before: Option<UnixSeconds>) -> Option<Job> {
        loop {
            let (member, priority) = match self.urgent.pop_front() {
                Some(member) => (member, Priority::Now),
                None => (self.due.pop_front()?, Priority::Conversion),
            };
            // If an event named the member during the call, the answer is outdated, and the worker requeues it.
            if self.in_flight.contains(&member) {
                continue;
            }
            if priority == Priority::Now {
                self.postponed.remove(&member);
            } else if self.postponed.contains_key(&member) {
                continue;
            }
            if let Some(job) = self.claim(member, priority, recheck_before) {
                return Some(job);
            }
        }
    }

    /// The postponed member with the earliest time that has passed; else the earliest time.
    fn take_postponed(
        &mut self,
        now: Instant,
        recheck_before: Option<UnixSeconds>,
    ) -> Result<Job, Option<Instant>> {
        loop {
            let first = self.postponed.iter().min_by_key(|(_, at)| **at);
            let (member, at) = first.map(|(member, at)| (member.clone(), *at)).ok_or(None)?;
            if at > now {
                return Err(Some(at));
            }
            self.postponed.remove(&member);
            if !self.in_flight.contains(&member)
                && let Some(job) = self.claim(member, Priority::Conversion, recheck_before)
            {
                return Ok(job);
            }
        }
    }

    /// Claims this member if it is due.
    fn claim(
        &mut self,
        member: UserId,
        priority: Priority,
        recheck_before: Option<UnixSeconds>,
    ) -> Option<Job> {
        let claim = claim(&self.reader, &member, recheck_before, unix_now())
            .inspect_err(|error| log::error!("cannot look up userid={member}: {error}"));
        let claim = claim.ok()??;
        self.in_flight.insert(member.clone());
        Some(Job { member, claim, priority })
    }

    /// Reads due members, or the time when the first will be due.
    fn find_due(&mut self, due: Due) -> crate::store::Result<()> {
        let now = due.now;
        let found = due_members(&self.reader, due, BATCH + self.in_flight.len() + self.postponed.len())?;
        let is_free =
            |member: &UserId| !self.in_flight.contains(member) && !self.postponed.contains_key(member);
        self.due.extend(found.into_iter().filter(is_free));
        let wait = if self.due.is_empty() {
            let seconds = earliest_due(&self.reader, now)?.map_or(i64::MAX, |due| due.since(now).max(1));
            Duration::from_secs(u64::try_from(seconds).unwrap_or(1)).min(CHECK_DATABASE)
        } else {
            Duration::ZERO
        };
        self.check_at = Instant::now() + wait;
        Ok(())
    }
}
