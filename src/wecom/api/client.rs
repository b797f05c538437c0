//! WeCom's API client, shared by all threads: token, rate limit, circuit breaker and retries.
//!
//! A caller learns only what concerns its item, or that it has to wait.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::admission::Entry;
use super::answer::{Answer, ApiError, ApiObserver, ApiOutcome, CallRecord, Dated, NoAnswer};
use super::circuit_breaker::{CircuitBreaker, Failure, Scope, Ticket};
use super::concurrency::Concurrency;
use super::endpoints::{Api, SecretKind};
use super::errcode::{Reaction, Reason, reaction};
use super::failure_tracker::{Attribution, FailureTracker, Item};
use super::network::{ExchangeError, Network};
use super::rate_limiter::{Priority, RateLimiter};
use super::token::TokenCell;
use super::transport::Transport;
use crate::directory::UserId;
use crate::shutdown::Shutdown;
use crate::unix_time::unix_now;
use crate::wecom::clock::SharedClock;
use crate::wecom::query::url_encode;
use crate::wecom::redact::{Redactor, secrets_of_url};

#[derive(Clone)]
pub(crate) struct Settings {
    /// Such as `https://qyapi.weixin.qq.com`, without a trailing slash.
    pub(crate) api_base: String,
    pub(crate) network: Network,
    pub(crate) corp_id: String,
    pub(crate) app_secret: Option<String>,
    pub(crate) contacts_secret: Option<String>,
    /// Redacts every text of answers and errors.
    pub(crate) redactor: Redactor,
    /// Bounds one call, from name resolution to the last byte.
    pub(crate) timeout: Duration,
    /// Limit for all APIs together.
    pub(crate) calls_per_minute: u32,
    /// Limit of calls about single members that are in flight; `None` follows pace and latency.
    pub(crate) max_concurrent_calls: Option<usize>,
    /// Reads the Date header of answers, and stamps them.
    pub(crate) clock: SharedClock,
}

/// The API client; threads share it by reference.
pub struct Client<L> {
    pub(super) settings: Settings,
    transport: Transport,
    pub(super) observer: L,
    pub(super) shutdown: Shutdown,
    pub(super) rate_limiter: Mutex<RateLimiter>,
    /// In the order of [`SecretKind`].
    pub(super) secrets: RwLock<[Option<String>; 2]>,
    pub(super) breaker: Mutex<CircuitBreaker>,
    failures: Mutex<FailureTracker>,
    pub(super) concurrency: Mutex<Concurrency>,
    tokens: [Mutex<TokenCell>; 2],
}

pub(super) struct Call<'a> {
    pub(super) api: Api,
    pub(super) secret: SecretKind,
    pub(super) item: Item,
    /// Query parameters after the access_token, from `&` on.
    pub(super) query: &'a str,
    /// GET without, POST with one.
    pub(super) body: Option<&'a Json>,
}

impl<L: ApiObserver> Client<L> {
    /// Creates a client; makes no call yet.
    pub(crate) fn new(mut settings: Settings, observer: L, shutdown: Shutdown) -> Self {
        settings.redactor.add_secrets(secrets_of_url(&settings.api_base));
        Self {
            secrets: RwLock::new([settings.app_secret.take(), settings.contacts_secret.take()]),
            transport: Transport::new(settings.timeout, settings.network.clone(), settings.clock.clone()),
            rate_limiter: Mutex::new(RateLimiter::new(settings.calls_per_minute, Instant::now())),
            breaker: Mutex::default(),
            failures: Mutex::default(),
            concurrency: Mutex::new(Concurrency::new(
                settings.max_concurrent_calls,
                settings.calls_per_minute,
            )),
            tokens: Default::default(),
            settings,
            observer,
            shutdown,
        }
    }

    /// Counts calls of a previous run against the rate limit; `calls` holds their ages, oldest first.
    pub(crate) fn called_before(&self, calls: impl IntoIterator<Item = (Api, Duration)>) {
        lock(&self.rate_limiter).called_before(calls, Instant::now());
    }

    pub(crate) fn clock(&self) -> &SharedClock {
        &self.settings.clock
    }

    /// errmsg and advice of a pause for this reason.
    pub(crate) fn why_paused(&self, reason: Reason) -> Option<(String, &'static str)> {
        let breaker = lock(&self.breaker);
        let pause = breaker.pauses().iter().find(|pause| pause.reason == reason)?;
        Some((pause.errmsg.clone(), pause.advice))
    }

    /// Redacts a text that may contain parts of an answer, for the log and the database.
    pub(crate) fn clean(&self, text: &str) -> String {
        self.settings.redactor.clean(text)
    }

    pub(crate) fn has_secret(&self, secret: SecretKind) -> bool {
        self.secret(secret).is_some()
    }

    pub(super) fn secret(&self, secret: SecretKind) -> Option<String> {
        self.secrets.read().unwrap_or_else(PoisonError::into_inner)[secret as usize].clone()
    }

    /// Makes a call, with token, rate limit, circuit breaker and retry. `parse` extracts the value from an answer of
    /// errcode 0, or describes what is wrong with it.
    pub(super) fn call<T>(
        &self,
        call: &Call<'_>,
        entry: Entry,
        parse: impl Fn(&Answer) -> Result<T, String>,
    ) -> ApiOutcome<T> {
        let (api, secret) = (call.api, call.secret);
        let (mut entry, mut renewed) = (entry, false);
        loop {
            let (ticket, token) = self.enter((api, secret), entry)?;
            let parameters = format!("access_token={}{}", url_encode(&token), call.query);
            let userid = match &call.item {
                Item::Member(userid) => Some(userid),
                _ => None,
            };
            let (answer, parsed) = match self.exchange(api, userid, &parameters, call.body, &parse) {
                Ok(answered) => answered,
                Err(error) => return Err(self.failed(call, ticket, error)),
            };
            let (errcode, errmsg) = (answer.errcode, answer.errmsg);
            match (reaction(errcode), parsed) {
                (Reaction::Done, Ok(value)) => {
                    self.answered(call, ticket, None);
                    return Ok(Dated { value, at: answer.asked_at });
                }
                // WeCom answered about a listing or a tag: what is missing there does not point to a gateway.
                (Reaction::Done, Err(what)) if !matches!(call.item, Item::Member(_)) => {
                    self.answered(call, ticket, None);
                    return Err(ApiError::Unusable { errcode: Some(0), what });
                }
                (Reaction::Done, Err(what)) => return Err(self.unusable(call, ticket, Some(0), what, None)),
                (Reaction::RenewToken, _) if !renewed => {
                    // What has been admitted once precedes the others.
                    (renewed, entry) = (true, Entry::Waiting(Priority::Now));
                    lock(self.token_cell(secret)).invalidate(&token);
                    self.release_probe(ticket);
                }
                (Reaction::RenewToken, _) => {
                    let errmsg = format!("a fresh access_token is refused: {errmsg}");
                    return Err(self.refused(
                        call,
                        ticket,
                        &Failure::of_errcode(Reason::Unknown, errcode, errmsg),
                    ));
                }
                (Reaction::Busy, _) => {
                    let tries = lock(&self.failures).busy(&call.item);
                    let Some(tries) = tries else {
                        return Err(self.unusable(call, ticket, Some(errcode), errmsg, None));
                    };
                    self.release_probe(ticket);
                    let wait = Duration::from_millis(200 << tries.min(10));
                    return Err(ApiError::NoAnswer(NoAnswer::Later(Instant::now() + wait)));
                }
                (Reaction::NotYet | Reaction::Never, _) => {
                    self.answered(call, ticket, None);
                    return Err(ApiError::Refused { errcode, errmsg });
                }
                (Reaction::Pause(reason), _) => {
                    return Err(self.refused(call, ticket, &Failure::of_errcode(reason, errcode, errmsg)));
                }
                (Reaction::Unknown, _) if self.answered(call, ticket, Some(errcode)) => {
                    return Err(self.refused(
                        call,
                        ticket,
                        &Failure::of_errcode(Reason::Unknown, errcode, errmsg),
                    ));
                }
                (Reaction::Unknown, _) => return Err(ApiError::Refused { errcode, errmsg }),
            }
        }
    }

    pub(super) fn token_cell(&self, secret: SecretKind) -> &Mutex<TokenCell> {
        &self.tokens[secret as usize]
    }

    /// Makes one HTTP exchange and reports it to the observer. All texts it returns are redacted.
    pub(super) fn exchange<T>(
        &self,
        api: Api,
        userid: Option<&UserId>,
        parameters: &str,
        body: Option<&Json>,
        parse: impl Fn(&Answer) -> Result<T, String>,
    ) -> Result<(Answer, Result<T, String>), ExchangeError> {
        let begun = Instant::now();
        let redactor = &self.settings.redactor;
        let url = format!("{}/cgi-bin/{}?{parameters}", self.settings.api_base, api.path());
        let outcome = match self.transport.exchange(&url, body) {
            Ok(mut answer) => {
                answer.errmsg = redactor.clean(&answer.errmsg);
                let parsed = match answer.errcode {
                    0 => parse(&answer).map_err(|what| redactor.clean(&what)),
                    _ => Err(String::new()),
                };
                Ok((answer, parsed))
            }
            Err(error) => Err(ExchangeError { what: redactor.clean(&error.what), ..error }),
        };
        let (errcode, errmsg) = match &outcome {
            Ok((answer, Err(what))) if answer.errcode == 0 => (Some(0), what.clone()),
            Ok((answer, _)) => (Some(answer.errcode), answer.errmsg.clone()),
            Err(error) => (None, error.what.clone()),
        };
        let took = begun.elapsed();
        self.observer.called(CallRecord { api, userid: userid.cloned(), errcode, errmsg, took });
        outcome
    }

    /// WeCom answered about this item. Returns whether its unknown errcode concerns the whole API.
    fn answered(&self, call: &Call<'_>, ticket: Ticket, unknown: Option<i64>) -> bool {
        let is_of_api = lock(&self.failures).answered(call.api, call.secret, &call.item, unknown);
        if !is_of_api {
            self.close_breaker(ticket, call.api);
        }
        is_of_api
    }

    /// WeCom refused for a reason that concerns no single item.
    fn refused(&self, call: &Call<'_>, ticket: Ticket, failure: &Failure) -> ApiError {
        lock(&self.failures).reached(call.api, call.secret, &call.item);
        let closed = lock(&self.breaker).close_network(ticket);
        closed.iter().for_each(|pause| self.observer.paused(pause, false));
        let error = self.open_breaker(ticket, (call.api, call.secret), failure);
        // The refusal proves nothing about other breakers whose probe this call was.
        self.release_probe(ticket);
        error
    }

    /// The exchange brought no usable answer.
    fn failed(&self, call: &Call<'_>, ticket: Ticket, error: ExchangeError) -> ApiError {
        if let Some(error) = self.failed_before(call, ticket) {
            return error;
        }
        if error.arrived || lock(&self.failures).unanswered(&call.item) {
            let advice = error.advice();
            return self.unusable(call, ticket, None, error.what, advice);
        }
        match self.open_breaker(ticket, (call.api, call.secret), &error.into_failure()) {
            ApiError::NoAnswer(NoAnswer::Paused(until, reason)) => {
                ApiError::NoAnswer(NoAnswer::Failed(until, reason))
            }
            error => error,
        }
    }

    /// The item backs off. The breaker opens too if other items failed alike, or if this call was its probe.
    fn unusable(
        &self,
        call: &Call<'_>,
        ticket: Ticket,
        errcode: Option<i64>,
        what: String,
        advice: Option<&'static str>,
    ) -> ApiError {
        if let Some(error) = self.failed_before(call, ticket) {
            return error;
        }
        let (of, reason) = ((call.api, call.secret), Reason::Network);
        let attribution = lock(&self.failures).unusable(call.api, call.secret, &call.item);
        let is_probe = lock(&self.breaker).is_probe(ticket, reason);
        if attribution != Attribution::Item || is_probe {
            let scope = (attribution == Attribution::Api).then_some(Scope::Api(call.api, call.secret));
            self.open_breaker(ticket, of, &Failure { reason, errcode, errmsg: what.clone(), advice, scope });
        }
        self.release_probe(ticket);
        ApiError::Unusable { errcode, what }
    }

    /// The outcome if the breaker opened for another call's network failure during this call: a call that was in flight
    /// when the network or a gateway failed says nothing about its item.
    fn failed_before(&self, call: &Call<'_>, ticket: Ticket) -> Option<ApiError> {
        let (of, reason) = ((call.api, call.secret), Reason::Network);
        let until = lock(&self.breaker).opened_during(ticket, of, reason, Instant::now())?;
        Some(ApiError::NoAnswer(NoAnswer::Failed(until, reason)))
    }

    pub(super) fn open_breaker(
        &self,
        ticket: Ticket,
        (api, secret): (Api, SecretKind),
        failure: &Failure,
    ) -> ApiError {
        let (now, clock) = (Instant::now(), unix_now());
        let mut breaker = lock(&self.breaker);
        if let Some(pause) = breaker.open(ticket, (api, secret), failure, (now, clock)) {
            if pause.is_first() {
                self.observer.paused(pause, true);
            }
            // Once for all calls in flight that are refused.
            if pause.reason == Reason::Concurrency {
                let limit = lock(&self.concurrency).refused(now);
                log::info!("calls of WeCom's API in flight are limited to {limit} for now");
            }
            self.observer.pauses(breaker.pauses());
        }
        paused((breaker.open_until(api, secret, now).unwrap_or(now), failure.reason))
    }

    pub(super) fn close_breaker(&self, ticket: Ticket, api: Api) {
        let mut breaker = lock(&self.breaker);
        let closed = breaker.close(ticket, api);
        closed.iter().for_each(|pause| self.observer.paused(pause, false));
        if !closed.is_empty() {
            self.observer.pauses(breaker.pauses());
        }
    }
}

pub(super) fn paused((until, reason): (Instant, Reason)) -> ApiError {
    ApiError::NoAnswer(NoAnswer::Paused(until, reason))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
