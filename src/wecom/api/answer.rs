//! The outcome of an API call (a value, a refusal, or no answer), and the observer of calls and pauses.

use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::circuit_breaker::Pause;
use super::endpoints::Api;
use super::errcode::Reason;
use super::json;
use crate::directory::{UnixSeconds, UserId};

/// A JSON object that WeCom answered, with its errcode.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// 0 if the answer has none.
    pub errcode: i64,
    /// Empty if the answer has none.
    pub errmsg: String,
    /// The whole body, errcode and errmsg included.
    pub json: Json,
    /// When the request was sent, on WeCom's clock: from the HTTP Date header, else the local clock.
    /// Later changes are not in the answer.
    pub asked_at: UnixSeconds,
}

impl Answer {
    /// Parses a response body with [`json::parse`]. The error states why the body is unusable.
    pub fn read(body: &[u8], asked_at: UnixSeconds) -> Result<Self, String> {
        let json = json::parse(body)?;
        if !json.is_object() {
            return Err("the answer is not a JSON object".into());
        }
        let errcode = match json.get("errcode") {
            None | Some(Json::Null) => 0,
            Some(code) => json::integer(code).ok_or_else(|| {
                format!("the answer's errcode is not a number: {}", json::shown(Some(code)))
            })?,
        };
        let errmsg = json.get("errmsg").and_then(Json::as_str).unwrap_or("").to_owned();
        Ok(Self { errcode, errmsg, json, asked_at })
    }
}

/// A value from the API, and when it was requested, on WeCom's clock.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Dated<T> {
    pub(crate) value: T,
    pub(crate) at: UnixSeconds,
}

/// What an API call returns to its caller.
pub(crate) type ApiOutcome<T> = Result<Dated<T>, ApiError>;

/// Why an API call returns no value, by what the caller can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ApiError {
    /// WeCom refused this item: it does not exist, is not ready yet, or is outside the secret's range.
    Refused { errcode: i64, errmsg: String },
    /// The answer about this item cannot be used; other items may succeed. The item backs off.
    Unusable { errcode: Option<i64>, what: String },
    /// There is no answer now; the item is not to blame.
    NoAnswer(NoAnswer),
}

/// Why a call has no answer now. It does not count as a failed attempt of its item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// The circuit breaker is open until this instant. No request was sent.
    Paused(Instant, Reason),
    /// This call opened the circuit breaker until this instant. The next probe should be for another item.
    Failed(Instant, Reason),
    /// WeCom is busy with this item: retry it at this instant, others at once.
    Later(Instant),
    /// The daemon is shutting down.
    Stopped,
    /// The call's secret is not configured.
    NoSecret,
}

/// One API call that was sent, for logs, metrics and the table `api_calls`.
#[derive(Debug, Clone)]
pub struct CallRecord {
    pub(crate) api: Api,
    /// The member that the call was about, if it was about one.
    pub(crate) userid: Option<UserId>,
    /// `None` if no usable answer arrived.
    pub(crate) errcode: Option<i64>,
    /// WeCom's errmsg, else the failure in words; secrets redacted.
    pub(crate) errmsg: String,
    pub(crate) took: Duration,
}

/// Receives each API call and each change of the circuit breaker. Its methods must not block.
pub trait ApiObserver: Send + Sync {
    /// Called after each request, successful or not.
    fn called(&self, record: CallRecord);
    /// Called once when a pause begins (`begins`) and once when it ends.
    fn paused(&self, pause: &Pause, begins: bool);
    /// Called with all pauses in force after each change.
    fn pauses(&self, all: &[Pause]);
}
