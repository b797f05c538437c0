//! How a call passes circuit breaker, token and rate limiter.
//!
//! Calls about members are admitted first and then given a thread, so that no thread waits for the rate limiter with a
//! call that others should precede. The thread of a comparison waits itself.

use std::time::{Duration, Instant};

use super::answer::{ApiError, ApiObserver, NoAnswer};
use super::circuit_breaker::Ticket;
use super::client::{Client, lock, paused};
use super::endpoints::{Api, SecretKind};
use super::rate_limiter::Priority;

/// Age at which the rate limiter counts an admitted call once more: it waited for a token, and WeCom counts it when it
/// arrives.
const MAX_ADMISSION_AGE: Duration = Duration::from_secs(1);

/// A call that circuit breaker and rate limiter have admitted and counted.
#[derive(Debug)]
pub(crate) struct Admission {
    ticket: Ticket,
    at: Instant,
}

/// How a call passes circuit breaker and rate limiter.
#[derive(Debug)]
pub(crate) enum Entry {
    /// Both have admitted it.
    Admitted(Admission),
    /// Its thread waits for the rate limiter.
    Waiting(Priority),
}

impl<L: ApiObserver> Client<L> {
    /// Admits a call about a member, or returns when to ask again.
    pub(crate) fn admit(
        &self,
        api: Api,
        secret: SecretKind,
        priority: Priority,
    ) -> Result<Admission, Instant> {
        let at = Instant::now();
        let ticket = lock(&self.breaker).admit(api, secret, at).map_err(|(until, _)| until)?;
        let acquired = lock(&self.rate_limiter).try_acquire(at, api, priority);
        acquired.map(|()| Admission { ticket, at }).map_err(|wait| {
            self.release_probe(ticket);
            at + wait
        })
    }

    /// The most calls about members that may be in flight now.
    pub(crate) fn max_concurrent_calls(&self) -> usize {
        lock(&self.concurrency).limit(Instant::now())
    }

    /// Takes note of how long a call about a member and the commit of its answer took.
    pub(crate) fn answered_in(&self, took: Duration) {
        lock(&self.concurrency).answered(took);
    }

    /// Passes circuit breaker, token and rate limiter, in this order: a token may take time. Returns the access_token.
    pub(super) fn enter(
        &self,
        (api, secret): (Api, SecretKind),
        entry: Entry,
    ) -> Result<(Ticket, String), ApiError> {
        let (ticket, priority, counted_at) = match entry {
            Entry::Admitted(Admission { ticket, at }) => (ticket, Priority::Now, Some(at)),
            Entry::Waiting(priority) => (self.pass_breaker(api, secret)?, priority, None),
        };
        let token = self.token(secret, ticket);
        let is_counted = counted_at.is_some_and(|at| at.elapsed() <= MAX_ADMISSION_AGE);
        let acquired = token.and_then(|token| {
            if !is_counted {
                self.acquire(api, priority)?;
            }
            Ok(token)
        });
        acquired.map(|token| (ticket, token)).inspect_err(|_| self.release_probe(ticket))
    }

    fn pass_breaker(&self, api: Api, secret: SecretKind) -> Result<Ticket, ApiError> {
        if self.shutdown.is_triggered() {
            return Err(ApiError::NoAnswer(NoAnswer::Stopped));
        }
        if self.secret(secret).is_none() {
            return Err(ApiError::NoAnswer(NoAnswer::NoSecret));
        }
        lock(&self.breaker).admit(api, secret, Instant::now()).map_err(paused)
    }

    pub(super) fn release_probe(&self, ticket: Ticket) {
        lock(&self.breaker).release_probe(ticket, Instant::now());
    }

    /// Waits until the rate limit allows the call.
    pub(super) fn acquire(&self, api: Api, priority: Priority) -> Result<(), ApiError> {
        loop {
            let acquired = lock(&self.rate_limiter).try_acquire(Instant::now(), api, priority);
            let Err(wait) = acquired else { return Ok(()) };
            if self.shutdown.sleep(wait) {
                return Err(ApiError::NoAnswer(NoAnswer::Stopped));
            }
        }
    }
}
