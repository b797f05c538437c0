//! Access tokens: one per secret, fetched once for all threads (doc 91039).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::answer::Answer;
use super::json;

/// A token is used for at least so long, whatever WeCom says of its life: it tells by an errcode if it is no good.
const SHORTEST: Duration = Duration::from_secs(60);
/// The same for the longest, in seconds; WeCom's live for two hours.
const LONGEST: u64 = 7 * 24 * 3600;
/// A token's life in seconds, if WeCom does not say (doc 91039).
const USUAL: u64 = 7200;
/// So many tokens within [`OFTEN_WITHIN`] are too many: something takes each away soon after it is given.
const OFTEN: usize = 5;
const OFTEN_WITHIN: Duration = Duration::from_secs(60);

/// A token in the cache.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) text: String,
    /// When to fetch another rather than use this one.
    renew_at: Instant,
}

/// What gettoken answered: the token, and its life in seconds.
pub(super) fn read(answer: &Answer) -> Result<(String, u64), String> {
    let token = answer.json.get("access_token");
    let text = token.and_then(Json::as_str).unwrap_or_default();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the answer has no access_token".into());
    }
    let life =
        answer.json.get("expires_in").and_then(json::integer).and_then(|life| u64::try_from(life).ok());
    Ok((text.to_owned(), life.unwrap_or(USUAL)))
}

/// The cached token of one secret.
#[derive(Default)]
pub(super) struct TokenCell {
    token: Option<Token>,
    /// When the last ones were fetched.
    fetched: VecDeque<Instant>,
}

impl TokenCell {
    /// The token, unless it is time to fetch another.
    pub(super) fn fresh(&self, now: Instant) -> Option<&Token> {
        self.token.as_ref().filter(|token| token.renew_at > now)
    }

    /// A token that was fetched at `now` and is good for `expires_in` seconds.
    pub(super) fn put(&mut self, text: String, expires_in: u64, now: Instant) -> Token {
        // Five minutes before its end; of one that lives shortly, a tenth before.
        let margin = (expires_in / 10).min(300);
        let life = Duration::from_secs(expires_in.saturating_sub(margin).min(LONGEST)).max(SHORTEST);
        let token = Token { text, renew_at: now + life };
        self.token = Some(token.clone());
        self.fetched.push_back(now);
        if self.fetched.len() > OFTEN {
            self.fetched.pop_front();
        }
        token
    }

    /// WeCom refused `refused`. If another thread has fetched a new one meanwhile, that one stays.
    pub(super) fn invalidate(&mut self, refused: &str) {
        if self.token.as_ref().is_some_and(|token| token.text == refused) {
            self.token = None;
        }
    }

    /// Whether tokens have been fetched so often lately that another would not last either.
    pub(super) fn too_often(&self, now: Instant) -> bool {
        let oldest = self.fetched.front().filter(|_| self.fetched.len() >= OFTEN);
        oldest.is_some_and(|oldest| now.saturating_duration_since(*oldest) < OFTEN_WITHIN)
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
    fn a_token_is_used_for_a_minute_at_least_whatever_life_it_is_given() {
        let now = Instant::now();
        for expires_in in [0, 1, 59, 66, u64::MAX] {
            let mut cell = TokenCell::default();
            cell.put("b".into(), expires_in, now);
            assert!(cell.fresh(now + Duration::from_secs(59)).is_some(), "{expires_in}");
            assert!(cell.fresh(now + Duration::from_secs(LONGEST)).is_none(), "{expires_in}");
        }
    }

    #[test]
    fn a_life_that_makes_no_sense_is_the_usual_one() {
        let answer = |expires_in: Json| {
            let body = serde_json::json!({"access_token": "t", "expires_in": expires_in}).to_string();
            read(&Answer::read(body.as_bytes(), crate::directory::UnixSeconds(0)).unwrap()).unwrap().1
        };
        for (given, life) in
            [(7200.into(), 7200), ("7200".into(), 7200), (0.into(), 0), (Json::from(7e3), 7000)]
        {
            assert_eq!(answer(given), life);
        }
        for nonsense in [Json::from(-1), Json::Null, "soon".into(), Json::from(1e300), Json::from(vec![1])] {
            assert_eq!(answer(nonsense), USUAL);
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
        assert_eq!(cell.fresh(now).map(|t| t.text.as_str()), Some("new"));
    }
}
