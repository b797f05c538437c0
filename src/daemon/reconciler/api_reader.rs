//! Asking WeCom during a comparison: waiting for what passes by itself, going without what is not allowed.

use std::fmt;
use std::time::{Duration, Instant};

use super::write_batch::Stopped;
use crate::directory::UserId;
use crate::shutdown::Shutdown;
use crate::store::StoreError;
use crate::wecom::api::errcode::{Reason, is_unknown_member};
use crate::wecom::api::rate_limiter::Priority;
use crate::wecom::api::{ApiError, Dated};
use crate::wecom::api::{ApiObserver, Client, NoAnswer, SecretKind};

/// Tries of one question whose answers cannot be used.
const TRIES: u32 = 3;
/// Wait after the first of them; doubles.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// A comparison waits for the network so long; then the next one tries again.
const NETWORK_PATIENCE: Duration = Duration::from_secs(40);
/// A pause may end earlier than it says.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// A comparison waits for limits of WeCom's that pass by themselves so long; one by the hour included.
const LIMITS_PASS: Duration = Duration::from_secs(70 * 60);

/// Why a comparison ends early.
pub(super) enum End {
    /// The program is ending.
    Stopped,
    /// It is no use to go on; what the operator should know.
    Failed(String),
}

impl From<Stopped> for End {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<crate::store::Error> for End {
    fn from(error: crate::store::Error) -> Self {
        Self::Failed(StoreError::from(error).to_string())
    }
}

/// Why WeCom does not show something; the comparison goes on without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) errcode: Option<i64>,
    text: String,
    /// Whether everything of the kind is refused, not only this one.
    pub(super) is_for_all: bool,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errcode {
            Some(errcode) => write!(f, "errcode {errcode}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// Whether somebody is there.
pub(super) enum Existence {
    Gone,
    There,
    Unclear(Refusal),
}

/// Asks.
pub(super) struct Ask<'a, L> {
    pub(super) client: &'a Client<L>,
    pub(super) shutdown: &'a Shutdown,
}

impl<L: ApiObserver> Ask<'_, L> {
    /// Asks until there is an answer, or it is clear that there will be none.
    pub(super) fn about<T>(
        &self,
        question: impl Fn() -> Result<Dated<T>, ApiError>,
    ) -> Result<Result<Dated<T>, Refusal>, End> {
        let begun = Instant::now();
        let mut tries = 0;
        loop {
            let (until, reason) = match question() {
                Ok(seen) => return Ok(Ok(seen)),
                Err(ApiError::Refused { errcode, errmsg }) => {
                    return Ok(Err(Refusal { errcode: Some(errcode), text: errmsg, is_for_all: false }));
                }
                Err(ApiError::NoAnswer(NoAnswer::Stopped)) => return Err(End::Stopped),
                Err(ApiError::NoAnswer(NoAnswer::RateLimited(wait))) => {
                    if self.shutdown.sleep(wait) {
                        return Err(End::Stopped);
                    }
                    continue;
                }
                Err(ApiError::NoAnswer(NoAnswer::NoSecret)) => {
                    let text = "the secret for it is not configured".to_owned();
                    return Ok(Err(Refusal { errcode: None, text, is_for_all: true }));
                }
                Err(ApiError::Unusable { errcode, what }) => {
                    tries += 1;
                    // What WeCom itself says it says again.
                    if tries >= TRIES || errcode == Some(0) {
                        return Ok(Err(Refusal {
                            errcode: errcode.filter(|code| *code != 0),
                            text: what,
                            is_for_all: false,
                        }));
                    }
                    if self.shutdown.sleep(TRY_AGAIN * (1 << (tries - 1))) {
                        return Err(End::Stopped);
                    }
                    continue;
                }
                Err(ApiError::NoAnswer(NoAnswer::Later(until))) => {
                    if self.shutdown.sleep(until.saturating_duration_since(Instant::now())) {
                        return Err(End::Stopped);
                    }
                    continue;
                }
                Err(ApiError::NoAnswer(
                    NoAnswer::Paused(until, reason) | NoAnswer::Failed(until, reason),
                )) => (until, reason),
            };
            match reason {
                Reason::Permission => {
                    let text = "this secret may not call the API; the log says which".to_owned();
                    return Ok(Err(Refusal { errcode: None, text, is_for_all: true }));
                }
                Reason::Licence => {
                    let text = format!("the licence does not cover this API: {}", reason.advice());
                    return Ok(Err(Refusal { errcode: None, text, is_for_all: true }));
                }
                // Only what this secret would show is missing; the other one may still be allowed everything.
                Reason::Secret | Reason::Address => {
                    let text =
                        format!("WeCom refuses this secret ({}): {}", reason.as_str(), reason.advice());
                    return Ok(Err(Refusal { errcode: None, text, is_for_all: true }));
                }
                Reason::Network | Reason::Unknown if begun.elapsed() < NETWORK_PATIENCE => {}
                Reason::Quota | Reason::Concurrency if begun.elapsed() < LIMITS_PASS => {}
                _ => return Err(self.failed(reason)),
            }
            let wait = until.saturating_duration_since(Instant::now());
            if self.shutdown.sleep(wait.clamp(Duration::from_millis(10), LOOK_AGAIN)) {
                return Err(End::Stopped);
            }
        }
    }

    fn failed(&self, reason: Reason) -> End {
        let (what, advice) =
            self.client.why_paused(reason).unwrap_or_else(|| (String::new(), reason.advice()));
        let colon = if what.is_empty() { "" } else { ": " };
        End::Failed(format!("WeCom cannot be asked ({}){colon}{what}; {advice}", reason.as_str()))
    }

    /// Asks for a member by name, with the secret that sees most first. An app is told of whoever is outside its
    /// visible range that there is no such member, so contacts sync is asked, too, where it may be.
    pub(super) fn for_member(&self, userid: &UserId) -> Result<Existence, End> {
        let (mut refused, mut is_unknown) = (None, false);
        for secret in [SecretKind::App, SecretKind::Contacts] {
            if !self.client.has_secret(secret) {
                continue;
            }
            match self.about(|| self.client.user_get(userid, secret, Priority::Reconcile))? {
                Ok(_) => return Ok(Existence::There),
                Err(refusal) if refusal.errcode.is_some_and(is_unknown_member) => is_unknown = true,
                Err(refusal) => {
                    // If one secret is refused everything and the other only this member, others may fare better.
                    let is_for_all = refusal.is_for_all
                        && refused.as_ref().is_none_or(|former: &Refusal| former.is_for_all);
                    refused = Some(Refusal { is_for_all, ..refusal });
                }
            }
        }
        // Another secret that may not ask about anybody takes nothing from that.
        if is_unknown && refused.as_ref().is_none_or(|refusal: &Refusal| refusal.is_for_all) {
            return Ok(Existence::Gone);
        }
        Ok(Existence::Unclear(refused.unwrap_or_else(|| Refusal {
            errcode: None,
            text: "no secret is configured".into(),
            is_for_all: true,
        })))
    }
}
