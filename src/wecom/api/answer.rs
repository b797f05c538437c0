//! The result of an API call (an answer, a refusal, or no answer), and the listener for calls and pauses.

use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::circuit_breaker::Pause;
use super::endpoints::Api;
use super::errcode::Reason;
use super::json;
use crate::directory::{UnixSeconds, UserId};

/// An answer that can be understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// WeCom's errcode; 0 if the answer had none.
    pub errcode: i64,
    /// WeCom's errmsg.
    pub errmsg: String,
    /// The whole answer.
    pub json: Json,
    /// When the question was sent, on WeCom's clock (by the HTTP Date header; this machine's without one): what
    /// happened later is not in the answer.
    pub asked_at: UnixSeconds,
}

impl Answer {
    /// Reads the body of an answer to a question of `asked_at`; see [`json::parse`] for what is accepted.
    ///
    /// # Errors
    /// Why it cannot be understood.
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

/// What WeCom showed, and as of when.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen<T> {
    /// It.
    pub what: T,
    /// When it was asked for, on WeCom's clock.
    pub at: UnixSeconds,
}

/// Why WeCom showed nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotSeen {
    /// There is no such thing, or not yet, or this secret may not see it.
    Refused {
        /// WeCom's errcode.
        errcode: i64,
        /// WeCom's errmsg.
        errmsg: String,
    },
    /// What came for this one item cannot be used; others may fare better. The item backs off.
    Unusable {
        /// WeCom's errcode, if there was one.
        errcode: Option<i64>,
        /// What is wrong with the answer.
        what: String,
    },
    /// There is no answer now.
    NoAnswer(NoAnswer),
}

/// Why a call has no answer for its caller. It counts against no item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// Calls of this kind are paused, and for what; try again then. Nothing was sent.
    Paused(Instant, Reason),
    /// This call met the trouble for which calls are paused now. The next one, then, should be for another item.
    Failed(Instant, Reason),
    /// WeCom is busy with this item: try it again then, others at once.
    Later(Instant),
    /// Others go first; only for [`Priority::Fill`](super::rate_limiter::Priority), whose caller may have something better to ask.
    Crowded(Duration),
    /// The daemon is ending.
    Stopped,
    /// This secret is not configured.
    NoSecret,
}

/// How a call ended, for the record.
#[derive(Debug, Clone)]
pub struct Record {
    /// Which.
    pub api: Api,
    /// The member it was about.
    pub userid: Option<UserId>,
    /// WeCom's errcode, if it answered.
    pub errcode: Option<i64>,
    /// WeCom's errmsg, or what went wrong; secrets redacted.
    pub errmsg: String,
    /// How long it took.
    pub took: Duration,
}

/// Is called for each API call and each change of the pauses.
pub trait ApiObserver: Send + Sync {
    /// A call was made.
    fn called(&self, record: Record);
    /// A pause began (true) or ended.
    fn paused(&self, pause: &Pause, begins: bool);
    /// The pauses in force changed: these are all.
    fn pauses(&self, all: &[Pause]);
}
