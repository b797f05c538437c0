//! CircuitBreaker: what nobody is to call now, because it is not a member's problem.
//!
//! In memory only: after a restart everything is tried again, as an operator who has just mended
//! something would expect. Pure: the time is given.

use std::time::{Duration, Instant};

use super::endpoints::{Api, SecretKind};
use super::errcode::Reason;
use crate::directory::UnixSeconds;

/// What a pause holds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Every call.
    All,
    /// Every call with this secret.
    Secret(SecretKind),
    /// This API with this secret.
    Api(Api, SecretKind),
}

impl Scope {
    /// What a reason holds back.
    #[must_use]
    pub fn of(reason: Reason, api: Api, secret: SecretKind) -> Self {
        match reason {
            Reason::Concurrency | Reason::Network => Self::All,
            // Without a token nothing can be called with this secret.
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

/// One pause.
#[derive(Debug, Clone)]
pub struct Pause {
    /// What it holds back.
    pub scope: Scope,
    /// The API that met the trouble.
    pub api: Api,
    /// Why.
    pub reason: Reason,
    /// WeCom's errcode, if it answered.
    pub errcode: Option<i64>,
    /// WeCom's errmsg, or what the network said.
    pub errmsg: String,
    /// What to do about it.
    pub advice: &'static str,
    /// When the trouble began.
    pub since: UnixSeconds,
    /// When one call tries again.
    pub until_clock: UnixSeconds,
    until: Instant,
    times: u32,
    /// One call is out to see whether the trouble is over.
    probing: bool,
}

/// All pauses.
#[derive(Debug, Default)]
pub struct CircuitBreaker(Vec<Pause>);

/// Trouble, as a call met it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Why.
    pub reason: Reason,
    /// WeCom's errcode, if it answered.
    pub errcode: Option<i64>,
    /// WeCom's errmsg, or what the network said.
    pub errmsg: String,
    /// What to do about it; none: what its reason says.
    pub advice: Option<&'static str>,
    /// What it holds back; none: what its reason says.
    pub scope: Option<Scope>,
}

impl Trouble {
    /// Trouble that WeCom's answer tells of.
    #[must_use]
    pub fn told(reason: Reason, errcode: i64, errmsg: String) -> Self {
        Self { reason, errcode: Some(errcode), errmsg, advice: None, scope: None }
    }
}

/// How long a probe may take before another goes out; longer than any call's time-out.
const PROBE: Duration = Duration::from_secs(90);
/// How soon to ask again while a probe is under way: it may end at any moment.
const PROBE_LOOK: Duration = Duration::from_millis(200);

impl Pause {
    /// When to ask again whether calls may be made.
    fn ask_again(&self, now: Instant) -> Instant {
        if self.probing { self.until.min(now + PROBE_LOOK) } else { self.until }
    }
}

impl CircuitBreaker {
    /// Whether this call may be made now. After a pause's time one call is let through, to see.
    ///
    /// # Errors
    /// When to ask again, and what is the matter.
    pub fn admit(&mut self, api: Api, secret: SecretKind, now: Instant) -> Result<(), (Instant, Reason)> {
        let concerned = self.0.iter_mut().filter(|p| p.scope.covers(api, secret));
        Self::probe(concerned.collect(), now)
    }

    /// The same for a call that another one needs, which was admitted and may be a probe itself.
    ///
    /// # Errors
    /// When to ask again, and what is the matter.
    pub fn admit_within(
        &mut self,
        api: Api,
        secret: SecretKind,
        now: Instant,
    ) -> Result<(), (Instant, Reason)> {
        let concerned = self.0.iter_mut().filter(|p| p.scope.covers(api, secret) && !p.probing);
        Self::probe(concerned.collect(), now)
    }

    fn probe(mut concerned: Vec<&mut Pause>, now: Instant) -> Result<(), (Instant, Reason)> {
        if let Some(latest) = concerned.iter().max_by_key(|pause| pause.until)
            && latest.until > now
        {
            return Err((latest.ask_again(now), latest.reason));
        }
        for pause in &mut concerned {
            pause.probing = true;
            pause.until = now + PROBE;
        }
        Ok(())
    }

    /// When this call may be made, without claiming to make it.
    #[must_use]
    pub fn blocked_until(&self, api: Api, secret: SecretKind, now: Instant) -> Option<Instant> {
        let concerned = self.0.iter().filter(|pause| pause.scope.covers(api, secret));
        let latest = concerned.max_by_key(|pause| pause.until).filter(|pause| pause.until > now);
        latest.map(|pause| pause.ask_again(now))
    }

    /// A call met trouble. Returns the pause if it is new, to be told of once.
    pub fn begin(
        &mut self,
        (api, secret): (Api, SecretKind),
        trouble: &Trouble,
        (now, clock): (Instant, UnixSeconds),
    ) -> Option<Pause> {
        let scope = trouble.scope.unwrap_or_else(|| Scope::of(trouble.reason, api, secret));
        let (first, longest) = trouble.reason.pause_seconds();
        let known = self.0.iter_mut().find(|p| p.scope == scope && p.reason == trouble.reason);
        let (pause, is_new) = match known {
            // Others that were under way when the pause began do not make it longer.
            Some(pause) if pause.until > now && !pause.probing => return None,
            Some(pause) => (pause, false),
            None => {
                self.0.push(Pause {
                    scope,
                    api,
                    reason: trouble.reason,
                    errcode: trouble.errcode,
                    errmsg: String::new(),
                    advice: trouble.reason.advice(),
                    since: clock,
                    until_clock: clock,
                    until: now,
                    times: 0,
                    probing: false,
                });
                (self.0.last_mut()?, true)
            }
        };
        let seconds = first.saturating_mul(1 << pause.times.min(20)).min(longest);
        pause.times = pause.times.saturating_add(1);
        pause.probing = false;
        pause.errcode = trouble.errcode;
        pause.errmsg.clone_from(&trouble.errmsg);
        pause.advice = trouble.advice.unwrap_or(trouble.reason.advice());
        pause.until = now + Duration::from_secs(seconds);
        pause.until_clock = clock.plus(i64::try_from(seconds).unwrap_or(i64::MAX));
        is_new.then(|| pause.clone())
    }

    /// A call went well, or failed for the member's own sake: what it had to wait for is over.
    /// Returns those pauses.
    pub fn over(&mut self, api: Api, secret: SecretKind) -> Vec<Pause> {
        // A token is given to any address: that tells nothing of whether the APIs are.
        self.end(api, secret, |pause| api != Api::GetToken || pause.api == api)
    }

    /// WeCom refused a call for another reason: it is reachable, and that is all that is known.
    /// Returns the pauses that are over.
    pub fn reached(&mut self, api: Api, secret: SecretKind) -> Vec<Pause> {
        self.end(api, secret, |pause| pause.reason == Reason::Network)
    }

    fn end(&mut self, api: Api, secret: SecretKind, tells: impl Fn(&Pause) -> bool) -> Vec<Pause> {
        let is_over = |p: &Pause| p.probing && p.scope.covers(api, secret) && tells(p);
        let (over, on) = std::mem::take(&mut self.0).into_iter().partition(is_over);
        self.0 = on;
        over
    }

    /// Whether a call of this kind is the probe of a pause of this reason.
    #[must_use]
    pub fn is_probing(&self, api: Api, secret: SecretKind, reason: Reason) -> bool {
        self.0.iter().any(|p| p.probing && p.reason == reason && p.scope.covers(api, secret))
    }

    /// Releases the half-open slot: the probe was not sent, or proved nothing.
    pub fn not_probed(&mut self, api: Api, secret: SecretKind, now: Instant) {
        for pause in self.0.iter_mut().filter(|p| p.probing && p.scope.covers(api, secret)) {
            pause.probing = false;
            pause.until = now;
        }
    }

    /// All that are in force.
    pub fn iter(&self) -> impl Iterator<Item = &Pause> {
        self.0.iter()
    }

    /// Whether calls must go one at a time for now.
    #[must_use]
    pub fn one_at_a_time(&self) -> bool {
        self.0.iter().any(|pause| pause.reason == Reason::Concurrency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: (Api, SecretKind) = (Api::ConvertToOpenid, SecretKind::App);
    const CLOCK: UnixSeconds = UnixSeconds(1_700_000_000);

    fn trouble(reason: Reason) -> Trouble {
        Trouble::told(reason, 1, "x".into())
    }

    #[test]
    fn a_pause_is_told_once_holds_all_back_and_lets_one_call_try_when_it_is_time() {
        let now = Instant::now();
        let mut pauses = CircuitBreaker::default();
        assert!(pauses.begin(CALL, &trouble(Reason::Address), (now, CLOCK)).is_some());
        assert!(pauses.begin(CALL, &trouble(Reason::Address), (now, CLOCK)).is_none());
        assert!(pauses.admit(Api::UserGet, SecretKind::App, now).is_err());
        assert!(pauses.admit(Api::UserListId, SecretKind::Contacts, now).is_ok());

        let later = now + Duration::from_secs(60);
        assert!(pauses.admit(CALL.0, CALL.1, later).is_ok());
        assert!(pauses.admit(CALL.0, CALL.1, later).is_err(), "only one may try");
        assert_eq!(pauses.over(CALL.0, CALL.1).len(), 1);
        assert!(pauses.admit(CALL.0, CALL.1, later).is_ok());
    }

    #[test]
    fn whoever_waits_for_a_probe_asks_again_soon() {
        let now = Instant::now();
        let mut pauses = CircuitBreaker::default();
        pauses.begin(CALL, &trouble(Reason::Network), (now, CLOCK));
        let later = now + Duration::from_secs(1);
        assert!(pauses.admit(CALL.0, CALL.1, later).is_ok());
        let (again, _) = pauses.admit(Api::UserGet, CALL.1, later).unwrap_err();
        assert_eq!(again, later + PROBE_LOOK);
        assert_eq!(pauses.blocked_until(Api::UserGet, CALL.1, later), Some(again));
        assert!(pauses.admit(Api::UserGet, CALL.1, again).is_err(), "it is still under way");
    }

    #[test]
    fn a_pause_grows_while_the_trouble_lasts_and_is_not_told_again() {
        let mut now = Instant::now();
        let mut pauses = CircuitBreaker::default();
        let mut waits = Vec::new();
        for _ in 0..6 {
            pauses.begin(CALL, &trouble(Reason::Address), (now, CLOCK));
            let (until, _) = pauses.admit(CALL.0, CALL.1, now).unwrap_err();
            waits.push(until.duration_since(now).as_secs());
            now = until;
            assert!(pauses.admit(CALL.0, CALL.1, now).is_ok());
        }
        assert_eq!(waits, [60, 120, 240, 480, 600, 600]);
    }

    #[test]
    fn a_probe_that_needs_a_token_first_does_not_stand_in_its_own_way() {
        let now = Instant::now();
        let mut pauses = CircuitBreaker::default();
        pauses.begin(CALL, &trouble(Reason::Address), (now, CLOCK));
        let later = now + Duration::from_secs(61);
        assert!(pauses.admit(CALL.0, CALL.1, later).is_ok());
        assert!(pauses.admit_within(Api::GetToken, CALL.1, later).is_ok());
        assert!(
            pauses.over(Api::GetToken, CALL.1).is_empty(),
            "a token does not show that the address is allowed"
        );
        assert_eq!(pauses.over(CALL.0, CALL.1).len(), 1);
    }

    #[test]
    fn without_a_token_everything_with_that_secret_waits() {
        let now = Instant::now();
        for reason in [Reason::Quota, Reason::Permission, Reason::Unknown, Reason::Secret] {
            let mut pauses = CircuitBreaker::default();
            pauses.begin((Api::GetToken, SecretKind::App), &trouble(reason), (now, CLOCK));
            assert!(pauses.blocked_until(CALL.0, CALL.1, now).is_some(), "{reason:?}");
            assert!(pauses.blocked_until(Api::UserListId, SecretKind::Contacts, now).is_none(), "{reason:?}");
        }
    }

    #[test]
    fn a_call_that_was_under_way_does_not_end_a_pause() {
        let now = Instant::now();
        let mut pauses = CircuitBreaker::default();
        pauses.begin(CALL, &trouble(Reason::Quota), (now, CLOCK));
        assert!(pauses.over(CALL.0, CALL.1).is_empty());
        assert!(pauses.admit(CALL.0, CALL.1, now).is_err());
    }
}
