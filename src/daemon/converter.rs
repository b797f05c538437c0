//! Converts userids to openids: at once for members that an event names, else when a member is due.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::api_observer::{collect_calls, submit_calls};
use super::calls::{Backlog, Caller, Claim, Outcome};
use super::wakeup::Wakeup;
use super::{CHECK_DATABASE, Shared};
use crate::config;
use crate::directory::UserId;
use crate::directory::openid::Backoff;
use crate::store::openids::{
    ApiCall, ConversionClaim, ConversionOutcome, Due, claim, due_members, earliest_due, record_conversion,
};
use crate::store::{Connection, StoreError};
use crate::unix_time::unix_now;
use crate::wecom::api::errcode::{Reaction, reaction};
use crate::wecom::api::rate_limiter::Priority;
use crate::wecom::api::{Admission, Api, ApiError, Entry, NoAnswer};

/// Due members that one query reads.
const BATCH: usize = 256;
/// Members named by events that are kept in memory; more are found in the database.
const MAX_NAMED: usize = 10_000;

/// Converts the members that are due; other threads add members that events name.
pub(crate) struct Converter {
    shared: Shared,
    settings: Mutex<Settings>,
    inbox: Mutex<Inbox>,
    wakeup: Wakeup,
}

/// Settings that a reload replaces.
#[derive(Debug, Clone, Copy)]
struct Settings {
    backoff: Backoff,
    /// Age at which an openid is requested again; zero: never.
    recheck_after: Duration,
}

impl Settings {
    fn of(openid: &config::Openid) -> Self {
        let backoff = Backoff { first: openid.retry_first, max: openid.retry_max };
        Self { backoff, recheck_after: openid.recheck_after }
    }
}

/// News from other threads, until the dispatcher takes them.
#[derive(Default)]
struct Inbox {
    /// Members that an event named.
    named: VecDeque<UserId>,
    /// Whether members may have become due in the database.
    check: bool,
}

impl Claim for ConversionClaim {
    fn userid(&self) -> &UserId {
        &self.userid
    }
}

impl Converter {
    pub(super) fn new(settings: &config::Openid, shared: &Shared, wakeup: &Wakeup) -> Self {
        Self {
            shared: shared.clone(),
            settings: Mutex::new(Settings::of(settings)),
            inbox: Mutex::default(),
            wakeup: wakeup.clone(),
        }
    }

    /// Uses other settings from the next attempt on.
    pub(super) fn reload(&self, settings: &config::Openid) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = Settings::of(settings);
        self.check();
    }

    fn settings(&self) -> Settings {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Converts these members before all others.
    pub(crate) fn convert_now(&self, members: Vec<UserId>) {
        if members.is_empty() {
            return;
        }
        let mut inbox = self.inbox();
        let room = MAX_NAMED.saturating_sub(inbox.named.len());
        inbox.check |= members.len() > room;
        inbox.named.extend(members.into_iter().take(room));
        drop(inbox);
        self.wakeup.notify();
    }

    /// Checks the database for due members.
    pub(crate) fn check(&self) {
        self.inbox().check = true;
        self.wakeup.notify();
    }

    /// The writer's replies lock it, so no query may run meanwhile.
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn due(&self) -> Due {
        let seconds = |wait: Duration| i64::try_from(wait.as_secs()).unwrap_or(i64::MAX);
        let Settings { backoff, recheck_after } = self.settings();
        let (now, age) = (unix_now(), seconds(recheck_after));
        let longest = seconds(backoff.max.saturating_add(Duration::from_secs(60)));
        Due { now, latest: now.plus(longest), recheck_before: (age > 0).then(|| now.plus(-age)) }
    }

    fn commit(
        &self,
        claim: &ConversionClaim,
        outcome: ConversionOutcome,
        calls: Vec<ApiCall>,
    ) -> Result<Outcome, StoreError> {
        log::debug!("conversion userid={} outcome={}", claim.userid, in_short(&outcome));
        let (claim, backoff, random) = (claim.clone(), self.settings().backoff, fastrand::f64());
        let clock = self.shared.client.clock();
        let (answered_at, moment) = (clock.estimate().now, clock.moment());
        // An outdated answer does not count: the event that named the member during the call has it converted again.
        self.shared.commit(calls, move |connection| {
            record_conversion(connection, &claim, &outcome, answered_at, backoff, moment, random)
        })?;
        Ok(Outcome::Answered)
    }
}

impl Caller for Converter {
    type Claim = ConversionClaim;
    const API: Api = Api::ConvertToOpenid;
    const PRIORITIES: (Priority, Priority) = (Priority::Now, Priority::Conversion);

    fn receive(&self, reader: &Connection, backlog: &mut Backlog<ConversionClaim>, now: Instant) {
        let mut inbox = self.inbox();
        let count = inbox.named.len().min(BATCH.saturating_sub(backlog.urgent()));
        let named: Vec<UserId> = inbox.named.drain(..count).collect();
        let check = std::mem::take(&mut inbox.check);
        drop(inbox);
        if check {
            backlog.refresh(now);
        }
        let (due, mut in_flight) = (self.due(), Vec::new());
        for userid in named {
            if backlog.is_in_flight(&userid) {
                // The answer will be outdated.
                in_flight.push(userid);
                continue;
            }
            match claim(reader, &userid, due.recheck_before, due.now) {
                Ok(claim) => backlog.add(true, claim, now),
                Err(error) => log::error!("cannot look up userid={userid}: {error}"),
            }
        }
        if !in_flight.is_empty() {
            let mut inbox = self.inbox();
            in_flight.into_iter().rev().for_each(|userid| inbox.named.push_front(userid));
        }
    }

    fn find(
        &self,
        reader: &Connection,
        backlog: &mut Backlog<ConversionClaim>,
        now: Instant,
    ) -> crate::store::Result<Instant> {
        let due = self.due();
        backlog.add(false, due_members(reader, due, BATCH + backlog.unavailable())?, now);
        if !backlog.is_empty() {
            return Ok(now);
        }
        let seconds = earliest_due(reader, due.now)?.map_or(i64::MAX, |next| next.since(due.now).max(1));
        Ok(now + Duration::from_secs(u64::try_from(seconds).unwrap_or(1)).min(CHECK_DATABASE))
    }

    fn call(&self, claim: &ConversionClaim, tries: u32, admission: Admission) -> Result<Outcome, StoreError> {
        let (client, userid) = (&self.shared.client, &claim.userid);
        let (answer, calls) = collect_calls(|| client.convert_to_openid(userid, Entry::Admitted(admission)));
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
                return Ok(match reason {
                    NoAnswer::Failed(until, _) | NoAnswer::Later(until) => Outcome::Wait { until, tries },
                    NoAnswer::Paused(..) | NoAnswer::Stopped | NoAnswer::NoSecret => Outcome::Unanswered,
                });
            }
        };
        self.commit(claim, outcome, calls)
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
