//! Fetches the fields of members with user/get: since 2022 an event carries little more than the userid.
//!
//! The database has the members whose details are due, or refused by WeCom (`denied`). Refused ones are fetched again only
//! after an event about the member, or after the next comparison.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::api_observer::{collect_calls, submit_calls};
use super::calls::{Backlog, Caller, Claim, Outcome};
use super::wakeup::Wakeup;
use super::{COMMIT_TIMEOUT, Shared};
use crate::directory::openid::Backoff;
use crate::directory::{Fields, MemberField, UserId};
use crate::store::details::{
    DetailsClaim, details_due, details_sample, move_details, record_denied, record_details,
};
use crate::store::observations::Effect;
use crate::store::openids::ApiCall;
use crate::store::state::{DETAILS_DENIED, DRIFT, Drift};
use crate::store::{Connection, StoreError};
use crate::unix_time::unix_now;
use crate::wecom::api::errcode::{Reaction, Reason, reaction};
use crate::wecom::api::rate_limiter::Priority;
use crate::wecom::api::{Admission, Api, ApiError, Dated, Entry, NoAnswer, SecretKind};

/// Wait after news: events often come in pairs, and an answer must be newer than both.
const SETTLE: Duration = Duration::from_secs(2);
/// Longest interval between checks of the database.
const CHECK: Duration = Duration::from_secs(60);
/// Due members that one query reads.
const BATCH: usize = 256;
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

/// Fetches details that are due; other threads report when they may be.
pub(crate) struct Details {
    shared: Shared,
    news: Mutex<News>,
    /// Whether the app may not call user/get, as [`DETAILS_DENIED`]. Held while members move between the states.
    denied: Mutex<bool>,
    sample: Mutex<Option<Sample>>,
    wakeup: Wakeup,
}

/// News from other threads, until the dispatcher takes them.
#[derive(Default)]
struct News {
    is_due: bool,
    is_compared: bool,
    /// When members that events named may be fetched, while they have to wait for [`SETTLE`].
    settled_at: Option<Instant>,
}

/// Members whose fields are known and are fetched nevertheless, to see how exact the directory is.
struct Sample {
    left: HashSet<UserId>,
    drift: Drift,
}

impl Claim for DetailsClaim {
    fn userid(&self) -> &UserId {
        &self.userid
    }
}

impl Details {
    pub(super) fn new(shared: &Shared, reader: &Connection, wakeup: &Wakeup) -> crate::store::Result<Self> {
        Ok(Self {
            shared: shared.clone(),
            // An operator who restarts the daemon may have granted the permission.
            news: Mutex::new(News { is_compared: true, ..News::default() }),
            denied: Mutex::new(DETAILS_DENIED.get(reader)?.is_some()),
            sample: Mutex::default(),
            wakeup: wakeup.clone(),
        })
    }

    /// Checks for due details, after 2 s.
    pub(crate) fn check(&self) {
        lock(&self.news).is_due = true;
        self.wakeup.notify();
    }

    /// A comparison has ended: details may be due, and denied ones are tried again.
    pub(crate) fn compared(&self) {
        lock(&self.news).is_compared = true;
        self.check();
    }

    /// Commits the answer together with the record of the call.
    fn known(
        &self,
        claim: &DetailsClaim,
        answer: Dated<(UserId, Fields<MemberField>)>,
        calls: Vec<ApiCall>,
    ) -> Result<Effect, StoreError> {
        let (claim, moment) = (claim.clone(), self.shared.client.clock().moment());
        let Dated { value: (_, fields), at } = answer;
        let effect = self
            .shared
            .commit(calls, move |connection| record_details(connection, &claim, &fields, at, moment))?;
        self.allowed_again()?;
        Ok(effect)
    }

    fn refused(
        &self,
        claim: &DetailsClaim,
        errcode: i64,
        tries: u32,
        calls: Vec<ApiCall>,
    ) -> Result<Outcome, StoreError> {
        let (is_known, tries) = (reaction(errcode) == Reaction::Never, tries.saturating_add(1));
        if !is_known && tries < UNKNOWN_TRIES {
            submit_calls(&self.shared.writer, calls);
            return Ok(Outcome::Wait { until: Instant::now() + UNKNOWN_WAIT, tries });
        }
        let claim = claim.clone();
        self.shared.commit(calls, move |connection| record_denied(connection, &claim, unix_now()))?;
        if is_known {
            // WeCom refuses this member only, so the app may call the API.
            self.allowed_again()?;
        }
        Ok(Outcome::Answered)
    }

    fn no_answer(&self, reason: NoAnswer, tries: u32) -> Result<Outcome, StoreError> {
        if let NoAnswer::Paused(_, pause) | NoAnswer::Failed(_, pause) = reason
            && matches!(pause, Reason::Permission | Reason::Licence)
        {
            self.denied_for_all()?;
        }
        Ok(match reason {
            NoAnswer::Later(until) | NoAnswer::Failed(until, _) => Outcome::Wait { until, tries },
            NoAnswer::Paused(..) | NoAnswer::Stopped | NoAnswer::NoSecret => Outcome::Unanswered,
        })
    }

    /// Marks all due details as denied: the app may not call user/get.
    fn denied_for_all(&self) -> Result<(), StoreError> {
        let mut denied = lock(&self.denied);
        if !std::mem::replace(&mut *denied, true) {
            log::warn!(
                "details of members stay unknown, because the app may not call user/get; all else goes on"
            );
        }
        self.shared.commit(Vec::new(), |connection| DETAILS_DENIED.set(connection, unix_now(), &true))?;
        self.move_all("due", "denied")
    }

    fn allowed_again(&self) -> Result<(), StoreError> {
        let mut denied = lock(&self.denied);
        if !std::mem::replace(&mut *denied, false) {
            return Ok(());
        }
        log::info!("the app may call user/get again; details are fetched");
        self.shared.commit(Vec::new(), |connection| DETAILS_DENIED.remove(connection))?;
        self.move_all("denied", "due")
    }

    fn move_all(&self, from: &'static str, to: &'static str) -> Result<(), StoreError> {
        let mut after = Some(String::new());
        while let Some(last) = after {
            after = self.shared.commit(Vec::new(), move |connection| {
                move_details(connection, (from, to), &last, MOVE_BATCH)
            })?;
        }
        Ok(())
    }

    /// Has one denied member fetched, if all are denied.
    fn try_denied(&self) {
        // While it is locked, members are moving anyway.
        if self.denied.try_lock().is_ok_and(|denied| *denied) {
            let probe = |connection: &Connection| move_details(connection, ("denied", "due"), "", 1);
            if let Err(error) = self.shared.writer.run(COMMIT_TIMEOUT, probe) {
                log::error!("details: {error}");
            }
        }
    }

    /// Begins the daily sample, if it is due; its members. The number of differences shows how exact the directory is;
    /// they are repaired.
    fn begin_sample(
        &self,
        reader: &Connection,
        backlog: &Backlog<DetailsClaim>,
    ) -> crate::store::Result<Vec<DetailsClaim>> {
        let now = unix_now();
        let last = DRIFT.get(reader)?.map(|(at, _)| at);
        if last.is_some_and(|at| (0..SAMPLE_EVERY).contains(&now.since(at))) {
            return Ok(Vec::new());
        }
        let mut members = details_sample(reader, SAMPLE, fastrand::i64)?;
        members.retain(|member| backlog.may_call(member, Instant::now()));
        let left: HashSet<UserId> = members.iter().map(|member| member.userid.clone()).collect();
        let drift = Drift { asked: left.len(), different: 0 };
        *lock(&self.sample) = Some(Sample { left, drift }).filter(|sample| !sample.left.is_empty());
        Ok(members)
    }

    /// Takes a call into the sample, if the member is in it. `None`: there was no answer, and another sample follows.
    fn sampled(&self, userid: &UserId, effect: Option<Effect>) -> Result<(), StoreError> {
        let mut sample = lock(&self.sample);
        let Some(Sample { left, drift }) = sample.as_mut().filter(|sample| sample.left.contains(userid))
        else {
            return Ok(());
        };
        left.remove(userid);
        if effect.is_some_and(|effect| !effect.is_none()) {
            drift.different += 1;
            log::warn!("the daily sample found userid={userid} different; it is repaired");
        }
        if !left.is_empty() && effect.is_some() {
            return Ok(());
        }
        let Some(Sample { drift, .. }) = sample.take().filter(|_| effect.is_some()) else { return Ok(()) };
        log::info!("daily sample: {} of {} members were different", drift.different, drift.asked);
        self.shared.commit(Vec::new(), move |connection| DRIFT.set(connection, unix_now(), &drift))
    }
}

impl Caller for Details {
    type Claim = DetailsClaim;
    const API: Api = Api::UserGet;
    /// Members that just changed precede those of a company that is new here.
    const PRIORITIES: (Priority, Priority) = (Priority::Details, Priority::Fill);

    fn receive(&self, _: &Connection, backlog: &mut Backlog<DetailsClaim>, now: Instant) {
        let mut news = lock(&self.news);
        if std::mem::take(&mut news.is_due) {
            news.settled_at.get_or_insert(now + SETTLE);
        }
        let is_settled = news.settled_at.take_if(|at| *at <= now).is_some();
        let (is_compared, settled_at) = (std::mem::take(&mut news.is_compared), news.settled_at);
        drop(news);
        if is_compared {
            self.try_denied();
        }
        if is_settled {
            backlog.refresh(now);
        }
        backlog.check_at = settled_at.map_or(backlog.check_at, |at| at.min(backlog.check_at));
    }

    fn find(
        &self,
        reader: &Connection,
        backlog: &mut Backlog<DetailsClaim>,
        now: Instant,
    ) -> crate::store::Result<Instant> {
        let settled_at = lock(&self.news).settled_at;
        let due = details_due(reader, BATCH + backlog.unavailable())?;
        let (named, others): (Vec<_>, Vec<_>) = due.into_iter().partition(|claim| claim.is_named);
        backlog.add(false, others, now);
        if settled_at.is_none() {
            backlog.add(true, named, now);
            if backlog.is_empty() && backlog.in_flight() == 0 {
                let members = self.begin_sample(reader, backlog)?;
                backlog.add(true, members, now);
            }
        }
        Ok(settled_at.unwrap_or(now + CHECK))
    }

    fn call(&self, claim: &DetailsClaim, tries: u32, admission: Admission) -> Result<Outcome, StoreError> {
        let (client, userid) = (&self.shared.client, &claim.userid);
        let entry = Entry::Admitted(admission);
        let (answer, calls) = collect_calls(|| client.user_get(userid, SecretKind::App, entry));
        log::debug!("details userid={userid} known={}", answer.is_ok());
        let (outcome, effect) = match answer {
            Ok(answer) => (Outcome::Answered, Some(self.known(claim, answer, calls)?)),
            Err(ApiError::Refused { errcode, .. }) => {
                (self.refused(claim, errcode, tries, calls)?, Some(Effect::default()))
            }
            Err(ApiError::Unusable { what, .. }) => {
                submit_calls(&self.shared.writer, calls);
                let tries = tries.saturating_add(1);
                let wait = UNUSABLE.wait(tries, fastrand::f64());
                log::warn!(
                    "details userid={userid} try={tries}: {what}; this member is asked for again in {} s, the others go on",
                    wait.as_secs()
                );
                (Outcome::Wait { until: Instant::now() + wait, tries }, Some(Effect::default()))
            }
            Err(ApiError::NoAnswer(reason)) => {
                submit_calls(&self.shared.writer, calls);
                (self.no_answer(reason, tries)?, None)
            }
        };
        self.sampled(userid, effect)?;
        Ok(outcome)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
