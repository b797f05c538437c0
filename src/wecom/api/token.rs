//! Access tokens: one per secret, fetched once for all threads (doc 91039).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::answer::{Answer, ApiError, ApiObserver, NoAnswer};
use super::circuit_breaker::{Failure, Ticket};
use super::client::{Client, lock, paused};
use super::endpoints::{Api, SecretKind};
use super::errcode::{Reaction, Reason, reaction};
use super::json;
use super::rate_limiter::Priority;
use crate::wecom::query::url_encode;

/// Shortest use of a token, against an expires_in that is too short: WeCom answers an errcode once it is invalid.
const MIN_LIFETIME: Duration = Duration::from_secs(60);
/// Longest use of a token in seconds, against an expires_in that is too long.
const MAX_LIFETIME: u64 = 7 * 24 * 3600;
/// A token's lifetime in seconds if the answer does not state it (doc 91039).
const DEFAULT_LIFETIME: u64 = 7200;
/// Tokens within [`RENEWAL_WINDOW`] that are too many: something invalidates each soon after WeCom issues it.
const MAX_RENEWALS: usize = 5;
const RENEWAL_WINDOW: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct Token {
    text: String,
    renew_at: Instant,
}

/// Reads the answer of gettoken: the token, and its lifetime in seconds.
pub(super) fn read(answer: &Answer) -> Result<(String, u64), String> {
    let token = answer.json.get("access_token");
    let text = token.and_then(Json::as_str).unwrap_or_default();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the answer has no access_token".into());
    }
    let lifetime = answer
        .json
        .get("expires_in")
        .and_then(json::integer)
        .and_then(|lifetime| u64::try_from(lifetime).ok());
    Ok((text.to_owned(), lifetime.unwrap_or(DEFAULT_LIFETIME)))
}

/// The cached token of one secret.
#[derive(Default)]
pub(super) struct TokenCell {
    token: Option<Token>,
    /// When the last tokens were fetched, at most [`MAX_RENEWALS`].
    fetched: VecDeque<Instant>,
}

impl TokenCell {
    /// The cached token, unless it is due for renewal.
    fn fresh(&self, now: Instant) -> Option<&str> {
        self.token.as_ref().filter(|token| token.renew_at > now).map(|token| token.text.as_str())
    }

    /// Caches a token that was fetched at `now` with a lifetime of `expires_in` seconds.
    fn put(&mut self, text: String, expires_in: u64, now: Instant) {
        // Renewed five minutes before its end, or after nine tenths of a short lifetime.
        let margin = (expires_in / 10).min(300);
        let lifetime =
            Duration::from_secs(expires_in.saturating_sub(margin).min(MAX_LIFETIME)).max(MIN_LIFETIME);
        self.token = Some(Token { text, renew_at: now + lifetime });
        self.fetched.push_back(now);
        if self.fetched.len() > MAX_RENEWALS {
            self.fetched.pop_front();
        }
    }

    /// Drops the token that WeCom refused, unless another thread has already replaced it.
    pub(super) fn invalidate(&mut self, refused: &str) {
        self.token.take_if(|token| token.text == refused);
    }

    /// Whether the last tokens were fetched so often that another would not last either.
    fn too_often(&self, now: Instant) -> bool {
        let oldest = self.fetched.front().filter(|_| self.fetched.len() >= MAX_RENEWALS);
        oldest.is_some_and(|oldest| now.saturating_duration_since(*oldest) < RENEWAL_WINDOW)
    }
}

impl<L: ApiObserver> Client<L> {
    /// The secret's token. The first caller fetches it while the others wait. A failure opens the circuit breaker for
    /// all calls with the secret.
    pub(super) fn token(&self, secret: SecretKind, ticket: Ticket) -> Result<String, ApiError> {
        let api = Api::GetToken;
        let mut cell = lock(self.token_cell(secret));
        if let Some(token) = cell.fresh(Instant::now()) {
            return Ok(token.to_owned());
        }
        if self.shutdown.is_triggered() {
            return Err(ApiError::NoAnswer(NoAnswer::Stopped));
        }
        // The thread that held the lock before may have failed to fetch one.
        lock(&self.breaker).admit_within(ticket, (api, secret), Instant::now()).map_err(paused)?;
        let failed = |failure: &Failure| self.open_breaker(ticket, (api, secret), failure);
        if cell.too_often(Instant::now()) {
            let errmsg = "WeCom refuses each access_token soon after giving it".into();
            let reason = Reason::Unknown;
            return Err(failed(&Failure { reason, errcode: None, errmsg, advice: None, scope: None }));
        }
        // All calls with the secret wait for it.
        self.acquire(api, Priority::Now)?;
        let Some(corp_secret) = self.secret(secret) else {
            return Err(ApiError::NoAnswer(NoAnswer::NoSecret));
        };
        let corp_id = url_encode(&self.settings.corp_id);
        let parameters = format!("corpid={corp_id}&corpsecret={}", url_encode(&corp_secret));
        let (answer, parsed) = self
            .exchange(api, None, &parameters, None, read)
            .map_err(|error| failed(&error.into_failure()))?;
        let (errcode, errmsg) = (answer.errcode, answer.errmsg);
        let (reason, errmsg) = match (reaction(errcode), parsed) {
            (Reaction::Done, Ok((token, expires_in))) => {
                self.settings.redactor.add_token(&token);
                cell.put(token.clone(), expires_in, Instant::now());
                self.close_breaker(ticket, api);
                return Ok(token);
            }
            (Reaction::Done, Err(what)) => (Reason::Network, what),
            (Reaction::Busy, _) => (Reason::Network, errmsg),
            (Reaction::Pause(reason), _) => (reason, errmsg),
            // gettoken is about no member: each refusal concerns all calls with the secret.
            _ => (Reason::Unknown, errmsg),
        };
        Err(failed(&Failure::of_errcode(reason, errcode, errmsg)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_before_it_expires() {
        let now = Instant::now();
        let mut cell = TokenCell::default();
        cell.put("a".into(), 7200, now);
        assert!(cell.fresh(now + Duration::from_secs(6899)).is_some());
        assert!(cell.fresh(now + Duration::from_secs(6900)).is_none());
    }

    #[test]
    fn a_token_is_used_for_at_least_a_minute_and_at_most_a_week() {
        let now = Instant::now();
        for expires_in in [0, 1, 59, 66, u64::MAX] {
            let mut cell = TokenCell::default();
            cell.put("b".into(), expires_in, now);
            assert!(cell.fresh(now + Duration::from_secs(59)).is_some(), "{expires_in}");
            assert!(cell.fresh(now + Duration::from_secs(MAX_LIFETIME)).is_none(), "{expires_in}");
        }
    }

    #[test]
    fn an_invalid_life_is_replaced_by_the_default() {
        let answer = |expires_in: Json| {
            let body = serde_json::json!({"access_token": "t", "expires_in": expires_in}).to_string();
            read(&Answer::read(body.as_bytes(), crate::directory::UnixSeconds(0)).unwrap()).unwrap().1
        };
        for (given, lifetime) in
            [(7200.into(), 7200), ("7200".into(), 7200), (0.into(), 0), (Json::from(7e3), 7000)]
        {
            assert_eq!(answer(given), lifetime);
        }
        for invalid in [Json::from(-1), Json::Null, "soon".into(), Json::from(1e300), Json::from(vec![1])] {
            assert_eq!(answer(invalid), DEFAULT_LIFETIME);
        }
        for none in [
            r#"{"errcode":0}"#,
            r#"{"access_token":""}"#,
            r#"{"access_token":7}"#,
            "{\"access_token\":\"a b\"}",
        ] {
            let answer = Answer::read(none.as_bytes(), crate::directory::UnixSeconds(0)).unwrap();
            assert!(read(&answer).is_err(), "{none}");
        }
    }

    #[test]
    fn five_tokens_in_a_minute_are_too_many() {
        let now = Instant::now();
        let mut cell = TokenCell::default();
        for n in 0..5 {
            assert!(!cell.too_often(now), "{n}");
            cell.put(n.to_string(), 7200, now);
        }
        assert!(cell.too_often(now + Duration::from_secs(59)));
        assert!(!cell.too_often(now + Duration::from_secs(60)));
    }

    #[test]
    fn a_refusal_of_an_old_token_does_not_drop_the_new_one() {
        let now = Instant::now();
        let mut cell = TokenCell::default();
        cell.put("old".into(), 7200, now);
        cell.invalidate("old");
        cell.put("new".into(), 7200, now);
        cell.invalidate("old");
        assert_eq!(cell.fresh(now), Some("new"));
    }
}
