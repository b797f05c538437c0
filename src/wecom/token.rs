//! Access tokens: one per secret, fetched once for all threads (doc 91039).

use std::time::{Duration, Instant};

/// A token in the cache.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) text: String,
    /// When to fetch another rather than use this one.
    renew_at: Instant,
}

/// The cached token of one secret.
#[derive(Default)]
pub(super) struct TokenCell(Option<Token>);

impl TokenCell {
    /// The token, unless it is time to fetch another.
    pub(super) fn fresh(&self, now: Instant) -> Option<&Token> {
        self.0.as_ref().filter(|token| token.renew_at > now)
    }

    /// A token that was fetched at `now` and is good for `expires_in` seconds.
    pub(super) fn put(&mut self, text: String, expires_in: u64, now: Instant) -> Token {
        // Five minutes before its end; of one that lives shortly, a tenth before.
        let margin = (expires_in / 10).min(300);
        let life = Duration::from_secs(expires_in.saturating_sub(margin).min(7 * 24 * 3600));
        let token = Token { text, renew_at: now + life };
        self.0 = Some(token.clone());
        token
    }

    /// WeCom refused `refused`. If another thread has fetched a new one meanwhile, that one stays.
    pub(super) fn invalidate(&mut self, refused: &str) {
        if self.0.as_ref().is_some_and(|token| token.text == refused) {
            self.0 = None;
        }
    }

    /// Whether there is a token, of whatever age: for keeping it out of texts.
    pub(super) fn text(&self) -> Option<&str> {
        self.0.as_ref().map(|token| token.text.as_str())
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
        cell.put("b".into(), 0, now);
        assert!(cell.fresh(now).is_none());
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
