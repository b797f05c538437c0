//! API calls of a comparison: waits for limits that pass, and goes on without what WeCom denies.

use std::fmt;
use std::time::{Duration, Instant};

use super::write_batch::Stopped;
use crate::directory::UserId;
use crate::shutdown::Shutdown;
use crate::store::StoreError;
use crate::wecom::api::errcode::{Reason, is_unknown_member};
use crate::wecom::api::rate_limiter::Priority;
use crate::wecom::api::{ApiError, ApiObserver, Client, Dated, Entry, NoAnswer, SecretKind};

/// Calls with an answer that cannot be used before the item is given up.
const TRIES: u32 = 3;
/// Wait after the first of them; doubles.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Longest wait for the network; the next comparison tries again.
const NETWORK_TIMEOUT: Duration = Duration::from_secs(40);
/// Interval of checks during a pause, which may end early.
const CHECK_PAUSE: Duration = Duration::from_secs(2);
/// Longest wait for WeCom's limits, of which the longest is by the hour.
const LIMITS_TIMEOUT: Duration = Duration::from_secs(70 * 60);

/// Why a comparison ends early.
pub(super) enum Abort {
    Shutdown,
    /// The reason, for the operator.
    Failed(String),
}

impl From<Stopped> for Abort {
    fn from(Stopped: Stopped) -> Self {
        Self::Shutdown
    }
}

impl From<StoreError> for Abort {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Why WeCom does not show an item; the comparison goes on without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Denial {
    pub(super) errcode: Option<i64>,
    text: String,
    /// Whether all items of the kind are denied.
    pub(super) is_for_all: bool,
}

impl Denial {
    fn of_all(text: String) -> Self {
        Self { errcode: None, text, is_for_all: true }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errcode {
            Some(errcode) => write!(f, "errcode {errcode}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// The existence of a member in WeCom.
pub(super) enum Existence {
    Absent,
    Present,
    Unknown(Denial),
}

pub(super) struct ApiReader<'a, L> {
    pub(super) client: &'a Client<L>,
    pub(super) shutdown: &'a Shutdown,
}

impl<L: ApiObserver> ApiReader<'_, L> {
    /// Repeats `call` until it has an answer or will have none.
    pub(super) fn read<T>(
        &self,
        call: impl Fn() -> Result<Dated<T>, ApiError>,
    ) -> Result<Result<Dated<T>, Denial>, Abort> {
        let begun = Instant::now();
        let mut tries = 0;
        loop {
            let no_answer = match call() {
                Ok(seen) => return Ok(Ok(seen)),
                Err(ApiError::Refused { errcode, errmsg }) => {
                    return Ok(Err(Denial { errcode: Some(errcode), text: errmsg, is_for_all: false }));
                }
                Err(ApiError::Unusable { errcode, what }) => {
                    tries += 1;
                    // With errcode 0 the answer is WeCom's own, and the next one would be the same.
                    if tries >= TRIES || errcode == Some(0) {
                        let errcode = errcode.filter(|code| *code != 0);
                        return Ok(Err(Denial { errcode, text: what, is_for_all: false }));
                    }
                    self.sleep(RETRY_AFTER * (1 << (tries - 1)))?;
                    continue;
                }
                Err(ApiError::NoAnswer(no_answer)) => no_answer,
            };
            let (until, reason) = match no_answer {
                NoAnswer::Stopped => return Err(Abort::Shutdown),
                NoAnswer::NoSecret => {
                    return Ok(Err(Denial::of_all("the secret for it is not configured".into())));
                }
                NoAnswer::Later(until) => {
                    self.sleep(until.saturating_duration_since(Instant::now()))?;
                    continue;
                }
                NoAnswer::Paused(until, reason) | NoAnswer::Failed(until, reason) => (until, reason),
            };
            let denial = match reason {
                Reason::Permission => "this secret may not call the API that the log names".to_owned(),
                Reason::Licence => format!("the licence does not cover this API: {}", reason.advice()),
                // The other secret may be allowed.
                Reason::Secret | Reason::Address => {
                    format!("WeCom refuses this secret ({}): {}", reason.as_str(), reason.advice())
                }
                Reason::Network | Reason::Unknown if begun.elapsed() < NETWORK_TIMEOUT => String::new(),
                Reason::Quota | Reason::Concurrency if begun.elapsed() < LIMITS_TIMEOUT => String::new(),
                _ => return Err(self.failed(reason)),
            };
            if !denial.is_empty() {
                return Ok(Err(Denial::of_all(denial)));
            }
            let wait = until.saturating_duration_since(Instant::now());
            self.sleep(wait.clamp(Duration::from_millis(10), CHECK_PAUSE))?;
        }
    }

    fn sleep(&self, wait: Duration) -> Result<(), Abort> {
        if self.shutdown.sleep(wait) { Err(Abort::Shutdown) } else { Ok(()) }
    }

    fn failed(&self, reason: Reason) -> Abort {
        let (what, advice) =
            self.client.why_paused(reason).unwrap_or_else(|| (String::new(), reason.advice()));
        let colon = if what.is_empty() { "" } else { ": " };
        Abort::Failed(format!("WeCom cannot be called ({}){colon}{what}; {advice}", reason.as_str()))
    }

    /// Whether a member exists. To an app, a member outside its visible range does not exist, so contacts sync is called too,
    /// if it is configured.
    pub(super) fn existence(&self, userid: &UserId) -> Result<Existence, Abort> {
        let (mut denied, mut is_unknown) = (None, false);
        for secret in [SecretKind::App, SecretKind::Contacts] {
            if !self.client.has_secret(secret) {
                continue;
            }
            match self.read(|| self.client.user_get(userid, secret, Entry::Waiting(Priority::Reconcile)))? {
                Ok(_) => return Ok(Existence::Present),
                Err(denial) if denial.errcode.is_some_and(is_unknown_member) => is_unknown = true,
                Err(denial) => {
                    // If one secret is denied only this member, the next member may be shown.
                    let is_for_all =
                        denial.is_for_all && denied.as_ref().is_none_or(|former: &Denial| former.is_for_all);
                    denied = Some(Denial { is_for_all, ..denial });
                }
            }
        }
        // A secret that is denied all members does not contradict the other's answer.
        if is_unknown && denied.as_ref().is_none_or(|denial: &Denial| denial.is_for_all) {
            return Ok(Existence::Absent);
        }
        let no_secret = || Denial::of_all("no secret is configured".into());
        Ok(Existence::Unknown(denied.unwrap_or_else(no_secret)))
    }
}
