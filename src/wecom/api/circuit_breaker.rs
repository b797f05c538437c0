//! Circuit breaker: stops calls that fail for a reason that is not their item's.
//!
//! States per scope and reason: closed (no entry), open (a [`Pause`] until an instant), half-open (one probe is under
//! way). Many calls are in flight when a breaker opens; only its probe, known by its [`Ticket`], closes or reopens it. In
//! memory only: after a restart all is closed, since an operator restarts after a correction. Pure; the caller passes the
//! time.

use std::time::{Duration, Instant};

use super::endpoints::{Api, SecretKind};
use super::errcode::Reason;
use crate::directory::UnixSeconds;

/// The calls that a pause stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Every call of the client.
    All,
    /// Every call with this secret.
    Secret(SecretKind),
    /// This API with this secret.
    Api(Api, SecretKind),
}

impl Scope {
    /// The scope of a failure of this call for this reason.
    fn of(reason: Reason, api: Api, secret: SecretKind) -> Self {
        match reason {
            Reason::Concurrency | Reason::Network => Self::All,
            // Without a token no API can be called with this secret.
            _ if api == Api::GetToken => Self::Secret(secret),
            Reason::Secret | Reason::Address => Self::Secret(secret),
            Reason::Permission | Reason::Licence | Reason::Quota | Reason::Unknown => Self::Api(api, secret),
        }
    }

    fn covers(self, api: Api, secret: SecretKind) -> bool {
        match self {
            Self::All => true,
            Self::Secret(paused) => paused == secret,
            Self::Api(paused_api, paused) => paused_api == api && paused == secret,
        }
    }
}

/// Identifies an admitted call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// An open or half-open breaker.
#[derive(Debug, Clone)]
pub struct Pause {
    pub(crate) scope: Scope,
    /// The API whose call failed first.
    api: Api,
    pub(crate) reason: Reason,
    /// `None` if WeCom did not answer.
    pub(crate) errcode: Option<i64>,
    /// WeCom's errmsg, else the network error.
    pub(crate) errmsg: String,
    /// What the operator should do.
    pub(crate) advice: &'static str,
    /// When it opened, by the local clock.
    pub(crate) since: UnixSeconds,
    /// When the next probe is allowed, by the local clock.
    pub(crate) until_clock: UnixSeconds,
    until: Instant,
    /// How often it opened in a row; each time doubles the pause.
    openings: u32,
    /// The call under way that decides; `None`: the breaker is open.
    probe: Option<Ticket>,
}

/// A failure that opens the breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) reason: Reason,
    pub(super) errcode: Option<i64>,
    pub(super) errmsg: String,
    /// Replaces the reason's own advice.
    pub(super) advice: Option<&'static str>,
    /// Replaces the reason's own scope.
    pub(super) scope: Option<Scope>,
}

impl Failure {
    /// A failure that WeCom's errcode states.
    pub(super) fn of_errcode(reason: Reason, errcode: i64, errmsg: String) -> Self {
        Self { reason, errcode: Some(errcode), errmsg, advice: None, scope: None }
    }
}

/// After this time a probe counts as lost and another is allowed; exceeds every call timeout.
const PROBE_TIMEOUT: Duration = Duration::from_secs(90);
/// How soon to call again while a probe is under way: it may end at any moment.
const PROBE_POLL: Duration = Duration::from_millis(200);

impl Pause {
    /// Whether its pause is the first, not that after a failed probe.
    pub(super) fn is_first(&self) -> bool {
        self.openings == 1
    }

    fn retry_at(&self, now: Instant) -> Instant {
        if self.probe.is_some() { self.until.min(now + PROBE_POLL) } else { self.until }
    }
}

/// All breakers that are not closed, at most one per scope and reason.
#[derive(Debug, Default)]
pub(super) struct CircuitBreaker {
    pauses: Vec<Pause>,
    /// The number of tickets so far.
    tickets: u64,
}

impl CircuitBreaker {
    /// Admits a call unless a breaker is open. If the pause is over, the breaker becomes half-open and the admitted
    /// call is its probe. The error is when to call again, and why.
    pub(super) fn admit(
        &mut self,
        api: Api,
        secret: SecretKind,
        now: Instant,
    ) -> Result<Ticket, (Instant, Reason)> {
        let ticket = Ticket(self.tickets);
        self.admit_if(ticket, now, |pause| pause.scope.covers(api, secret))?;
        self.tickets += 1;
        Ok(ticket)
    }

    /// The same for a call that an admitted call needs first. Half-open breakers do not stop it, because the admitted
    /// call may be their probe.
    pub(super) fn admit_within(
        &mut self,
        ticket: Ticket,
        (api, secret): (Api, SecretKind),
        now: Instant,
    ) -> Result<(), (Instant, Reason)> {
        self.admit_if(ticket, now, |pause| pause.scope.covers(api, secret) && pause.probe.is_none())
    }

    fn admit_if(
        &mut self,
        ticket: Ticket,
        now: Instant,
        concerns: impl Fn(&Pause) -> bool,
    ) -> Result<(), (Instant, Reason)> {
        let mut concerned: Vec<&mut Pause> = self.pauses.iter_mut().filter(|pause| concerns(pause)).collect();
        if let Some(latest) = concerned.iter().max_by_key(|pause| pause.until)
            && latest.until > now
        {
            return Err((latest.retry_at(now), latest.reason));
        }
        for pause in &mut concerned {
            pause.probe = Some(ticket);
            pause.until = now + PROBE_TIMEOUT;
        }
        Ok(())
    }

    /// When to call again, if a breaker stops this call now. Changes nothing.
    pub(super) fn open_until(&self, api: Api, secret: SecretKind, now: Instant) -> Option<Instant> {
        let concerned = self.pauses.iter().filter(|pause| pause.scope.covers(api, secret));
        let latest = concerned.max_by_key(|pause| pause.until).filter(|pause| pause.until > now);
        latest.map(|pause| pause.retry_at(now))
    }

    /// When to call again, if a breaker for this reason opened during this call, which is not its probe.
    pub(super) fn opened_during(
        &self,
        ticket: Ticket,
        (api, secret): (Api, SecretKind),
        reason: Reason,
        now: Instant,
    ) -> Option<Instant> {
        let mut pauses = self.pauses.iter().filter(|p| p.reason == reason && p.scope.covers(api, secret));
        pauses.find(|pause| pause.probe != Some(ticket)).map(|pause| pause.retry_at(now))
    }

    /// Opens a breaker after a failed call, or opens it again for longer after a failed probe; returns it. `None`: it
    /// opened during the call, which is not its probe and does not extend the pause.
    pub(super) fn open(
        &mut self,
        ticket: Ticket,
        (api, secret): (Api, SecretKind),
        failure: &Failure,
        (now, clock): (Instant, UnixSeconds),
    ) -> Option<&Pause> {
        let scope = failure.scope.unwrap_or_else(|| Scope::of(failure.reason, api, secret));
        let (first, longest) = failure.reason.pause_seconds();
        let known = self.pauses.iter().position(|p| p.scope == scope && p.reason == failure.reason);
        let index = known.unwrap_or(self.pauses.len());
        if known.is_none() {
            self.pauses.push(Pause {
                scope,
                api,
                reason: failure.reason,
                errcode: failure.errcode,
                errmsg: String::new(),
                advice: failure.reason.advice(),
                since: clock,
                until_clock: clock,
                until: now,
                openings: 0,
                probe: Some(ticket),
            });
        }
        let pause = self.pauses.get_mut(index).filter(|pause| pause.probe == Some(ticket))?;
        let seconds = first.saturating_mul(1 << pause.openings.min(20)).min(longest);
        pause.openings = pause.openings.saturating_add(1);
        pause.probe = None;
        pause.errcode = failure.errcode;
        pause.errmsg.clone_from(&failure.errmsg);
        pause.advice = failure.advice.unwrap_or(failure.reason.advice());
        pause.until = now + Duration::from_secs(seconds);
        pause.until_clock = clock.plus(i64::try_from(seconds).unwrap_or(i64::MAX));
        Some(pause)
    }

    /// Closes the breakers whose probe this call is, after it succeeded or failed for its own item. Returns them.
    pub(super) fn close(&mut self, ticket: Ticket, api: Api) -> Vec<Pause> {
        // WeCom issues tokens to any address: a token does not prove that the APIs can be called.
        self.close_if(ticket, |pause| api != Api::GetToken || pause.api == api)
    }

    /// Closes its breakers for network failures: WeCom answered, though with another error. Returns them.
    pub(super) fn close_network(&mut self, ticket: Ticket) -> Vec<Pause> {
        self.close_if(ticket, |pause| pause.reason == Reason::Network)
    }

    fn close_if(&mut self, ticket: Ticket, proves: impl Fn(&Pause) -> bool) -> Vec<Pause> {
        self.pauses.extract_if(.., |pause| pause.probe == Some(ticket) && proves(pause)).collect()
    }

    /// Closes the breakers of this secret, which was replaced. Returns them.
    pub(super) fn forget(&mut self, replaced: SecretKind) -> Vec<Pause> {
        let concerns = |scope: Scope| match scope {
            Scope::All => false,
            Scope::Secret(secret) | Scope::Api(_, secret) => secret == replaced,
        };
        self.pauses.extract_if(.., |pause| concerns(pause.scope)).collect()
    }

    /// Whether this call is the probe of a breaker for this reason.
    pub(super) fn is_probe(&self, ticket: Ticket, reason: Reason) -> bool {
        self.pauses.iter().any(|pause| pause.probe == Some(ticket) && pause.reason == reason)
    }

    /// Releases the half-open slot unused: the probe was not sent, or proved nothing.
    pub(super) fn release_probe(&mut self, ticket: Ticket, now: Instant) {
        for pause in self.pauses.iter_mut().filter(|pause| pause.probe == Some(ticket)) {
            pause.probe = None;
            pause.until = now;
        }
    }

    pub(super) fn pauses(&self) -> &[Pause] {
        &self.pauses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: (Api, SecretKind) = (Api::ConvertToOpenid, SecretKind::App);
    const CLOCK: UnixSeconds = UnixSeconds(1_700_000_000);

    fn failure(reason: Reason) -> Failure {
        Failure::of_errcode(reason, 1, "x".into())
    }

    fn admit(breaker: &mut CircuitBreaker, now: Instant) -> Ticket {
        breaker.admit(CALL.0, CALL.1, now).unwrap()
    }

    /// A breaker that one call opened at `now`, and another call that was under way then.
    fn opened(reason: Reason, now: Instant) -> (CircuitBreaker, Ticket) {
        let mut breaker = CircuitBreaker::default();
        let (failed, under_way) = (admit(&mut breaker, now), admit(&mut breaker, now));
        assert!(breaker.open(failed, CALL, &failure(reason), (now, CLOCK)).is_some());
        (breaker, under_way)
    }

    #[test]
    fn a_breaker_opens_once_stops_its_scope_and_admits_one_probe_after_the_pause() {
        let now = Instant::now();
        let (mut breaker, under_way) = opened(Reason::Address, now);
        assert!(breaker.open(under_way, CALL, &failure(Reason::Address), (now, CLOCK)).is_none());
        assert!(breaker.admit(Api::UserGet, SecretKind::App, now).is_err());
        assert!(breaker.admit(Api::UserListId, SecretKind::Contacts, now).is_ok());

        let later = now + Duration::from_secs(60);
        let probe = admit(&mut breaker, later);
        assert!(breaker.admit(CALL.0, CALL.1, later).is_err(), "one probe at a time");
        assert_eq!(breaker.close(probe, CALL.0).len(), 1);
        admit(&mut breaker, later);
    }

    #[test]
    fn calls_poll_while_a_probe_is_under_way() {
        let now = Instant::now();
        let (mut breaker, _) = opened(Reason::Network, now);
        let later = now + Duration::from_secs(1);
        admit(&mut breaker, later);
        let (again, _) = breaker.admit(Api::UserGet, CALL.1, later).unwrap_err();
        assert_eq!(again, later + PROBE_POLL);
        assert_eq!(breaker.open_until(Api::UserGet, CALL.1, later), Some(again));
        assert!(breaker.admit(Api::UserGet, CALL.1, again).is_err(), "the probe is under way");
    }

    #[test]
    fn a_failed_probe_doubles_the_pause() {
        let mut now = Instant::now();
        let (mut breaker, mut waits) = (CircuitBreaker::default(), Vec::new());
        let mut probe = admit(&mut breaker, now);
        for _ in 0..6 {
            breaker.open(probe, CALL, &failure(Reason::Address), (now, CLOCK));
            let (until, _) = breaker.admit(CALL.0, CALL.1, now).unwrap_err();
            waits.push(until.duration_since(now).as_secs());
            now = until;
            probe = admit(&mut breaker, now);
        }
        assert_eq!(waits, [60, 120, 240, 480, 600, 600]);
    }

    #[test]
    fn a_probe_may_fetch_a_token_first() {
        let now = Instant::now();
        let (mut breaker, _) = opened(Reason::Address, now);
        let later = now + Duration::from_secs(61);
        let probe = admit(&mut breaker, later);
        assert!(breaker.admit_within(probe, (Api::GetToken, CALL.1), later).is_ok());
        let closed = breaker.close(probe, Api::GetToken);
        assert!(closed.is_empty(), "a token does not prove that the address is allowed");
        assert_eq!(breaker.close(probe, CALL.0).len(), 1);
    }

    #[test]
    fn without_a_token_all_calls_with_that_secret_are_stopped() {
        let now = Instant::now();
        for reason in [Reason::Quota, Reason::Permission, Reason::Unknown, Reason::Secret] {
            let mut breaker = CircuitBreaker::default();
            let call = admit(&mut breaker, now);
            breaker.open(call, (Api::GetToken, SecretKind::App), &failure(reason), (now, CLOCK));
            assert!(breaker.open_until(CALL.0, CALL.1, now).is_some(), "{reason:?}");
            assert!(breaker.open_until(Api::UserListId, SecretKind::Contacts, now).is_none(), "{reason:?}");
        }
    }

    /// Of many calls in flight, those admitted before the breaker opened end at any time after.
    #[test]
    fn only_the_probe_closes_reopens_or_releases_the_breaker() {
        let now = Instant::now();
        for reason in [Reason::Quota, Reason::Network, Reason::Concurrency] {
            let (mut breaker, under_way) = opened(reason, now);
            let (mut at, mut probe) = (now, None);
            // While it is open, when the pause is over, and while it is half-open.
            for _ in 0..3 {
                assert!(breaker.close(under_way, CALL.0).is_empty());
                assert!(breaker.close_network(under_way).is_empty());
                assert!(breaker.open(under_way, CALL, &failure(reason), (at, CLOCK)).is_none());
                breaker.release_probe(under_way, at);
                assert!(!breaker.is_probe(under_way, reason));
                assert!(breaker.opened_during(under_way, CALL, reason, at).is_some());
                if at > now {
                    probe = probe.or_else(|| Some(admit(&mut breaker, at)));
                }
                assert_eq!(breaker.admit(CALL.0, CALL.1, at).is_err(), at == now || probe.is_some());
                at = now + Duration::from_secs(60);
            }
            let probe = probe.unwrap();
            assert!(breaker.opened_during(probe, CALL, reason, at).is_none());
            assert_eq!(breaker.close(probe, CALL.0).len(), 1);
        }
    }
}
