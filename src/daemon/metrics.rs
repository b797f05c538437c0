//! What the daemon counts from its start on: written by the running parts, read by the admin listener.
//!
//! The labels are bounded: what somebody else chooses (an event's type, an errcode) becomes `other` when
//! it is not known, or when there are too many.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use super::hour::LastHour;
use crate::gate::GateSnapshot;
use crate::store::Outcome;
use crate::store::state::PauseState;
use crate::wecom::api::errcode::Reason;

/// How a callback request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackResult {
    /// 200: the event is durable.
    Success,
    /// 200: the URL is ours.
    Verified,
    /// 400, 417, 431: not what WeCom sends.
    BadRequest,
    /// 403: not from WeCom, or not for us.
    Forbidden,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 408: not complete in time.
    Timeout,
    /// 411, 413: without a length, or too long.
    Length,
    /// 503: the event could not be made durable in time.
    Unavailable,
    /// 502, or what should not be: a fault of this program.
    Error,
}

impl CallbackResult {
    /// All results.
    pub const ALL: [Self; 10] = [
        Self::Success,
        Self::Verified,
        Self::BadRequest,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Timeout,
        Self::Length,
        Self::Unavailable,
        Self::Error,
    ];

    /// The label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Verified => "verified",
            Self::BadRequest => "bad_request",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Timeout => "timeout",
            Self::Length => "length",
            Self::Unavailable => "unavailable",
            Self::Error => "error",
        }
    }

    /// What an answer's status means; `verifies`: of a GET.
    #[must_use]
    pub fn of(status: u16, verifies: bool) -> Self {
        match status {
            200 if verifies => Self::Verified,
            200 => Self::Success,
            400 | 417 | 431 => Self::BadRequest,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            405 => Self::MethodNotAllowed,
            408 => Self::Timeout,
            411 | 413 => Self::Length,
            503 => Self::Unavailable,
            _ => Self::Error,
        }
    }
}

/// Kinds of events that are counted by name: ChangeType, or Event where that is empty.
const EVENTS: [&str; 11] = [
    "create_user",
    "update_user",
    "delete_user",
    "create_party",
    "update_party",
    "delete_party",
    "update_tag",
    "subscribe",
    "unsubscribe",
    "enter_agent",
    "batch_job_result",
];
/// What is not known or too many.
const OTHER: &str = "other";
/// Errcodes, of all APIs together, that are counted by number.
const ERRCODES: usize = 200;

/// The counters.
#[derive(Debug, Default)]
pub struct Metrics {
    answers: [AtomicU64; CallbackResult::ALL.len()],
    /// The last row is of other events.
    events: [[AtomicU64; Outcome::ALL.len()]; EVENTS.len() + 1],
    api_calls: Mutex<BTreeMap<(&'static str, String), u64>>,
    pauses: Mutex<Vec<PauseState>>,
    /// Callbacks that were answered with 503, by the server or by the gate.
    pub unavailable: LastHour,
}

impl Metrics {
    /// The server answered a callback request with this status.
    pub fn answered(&self, status: u16, verifies: bool) {
        let result = CallbackResult::of(status, verifies);
        for (_, count) in CallbackResult::ALL.iter().zip(&self.answers).filter(|(known, _)| **known == result)
        {
            count.fetch_add(1, Relaxed);
        }
    }

    /// An event was committed.
    pub fn event(&self, event: &str, change_type: &str, outcome: Outcome) {
        let name = if change_type.is_empty() { event } else { change_type };
        let row = EVENTS.iter().position(|known| *known == name).unwrap_or(EVENTS.len());
        let row = self.events.get(row).into_iter().flatten();
        for (_, count) in Outcome::ALL.iter().zip(row).filter(|(known, _)| **known == outcome) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// WeCom's API was called; `None`: without an answer that could be read.
    pub fn api_call(&self, api: &'static str, errcode: Option<i64>) {
        let errcode = errcode.map_or_else(|| "none".to_owned(), |code| code.to_string());
        let mut calls = self.api_calls.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (api, errcode);
        let key =
            if calls.contains_key(&key) || calls.len() < ERRCODES { key } else { (api, OTHER.to_owned()) };
        *calls.entry(key).or_default() += 1;
    }

    /// Replaces the pauses in force.
    pub fn set_pauses(&self, pauses: Vec<PauseState>) {
        *self.pauses.lock().unwrap_or_else(PoisonError::into_inner) = pauses;
    }

    /// The pauses in force.
    #[must_use]
    pub fn pauses(&self) -> Vec<PauseState> {
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often each result was answered, by the server and by the gate before it. (A request that the
    /// gate gives up, and the server answers nevertheless, counts twice.)
    #[must_use]
    pub fn callbacks(&self, gate: &GateSnapshot) -> Vec<(CallbackResult, u64)> {
        let by_gate = |result| {
            let of_result =
                gate.refused.iter().filter(|(status, _)| CallbackResult::of(*status, false) == result);
            of_result.map(|(_, count)| count).sum::<u64>()
        };
        let counts = CallbackResult::ALL.iter().zip(&self.answers);
        counts.map(|(result, count)| (*result, count.load(Relaxed) + by_gate(*result))).collect()
    }

    /// Events that were committed: name, outcome, how many; only what has occurred.
    #[must_use]
    pub fn events(&self) -> Vec<(&'static str, Outcome, u64)> {
        let rows = EVENTS.iter().chain([&OTHER]).zip(&self.events);
        let cells = rows.flat_map(|(name, row)| {
            Outcome::ALL.iter().zip(row).map(|(outcome, count)| (*name, *outcome, count.load(Relaxed)))
        });
        cells.filter(|(_, _, count)| *count > 0).collect()
    }

    /// API calls: API, errcode, how many; only what has occurred.
    #[must_use]
    pub fn api_calls(&self) -> Vec<(&'static str, String, u64)> {
        let calls = self.api_calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().map(|((api, errcode), count)| (*api, errcode.clone(), *count)).collect()
    }

    /// Every reason to pause, and whether something is paused for it.
    #[must_use]
    pub fn paused(&self) -> [(Reason, bool); Reason::ALL.len()] {
        let pauses = self.pauses();
        Reason::ALL.map(|reason| (reason, pauses.iter().any(|pause| pause.reason == reason.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Subject;
    use crate::wecom::callback::message::read;

    #[test]
    fn every_event_that_is_counted_by_name_is_one_that_has_a_meaning() {
        for name in EVENTS {
            let (event, change_type) =
                if name.contains('_') && !["enter_agent", "batch_job_result"].contains(&name) {
                    ("change_contact", name)
                } else {
                    (name, "")
                };
            let xml = format!(
                "<xml><FromUserName>a</FromUserName><CreateTime>5</CreateTime><Event>{event}</Event>\
                 <ChangeType>{change_type}</ChangeType><UserID>a</UserID><Id>2</Id><TagId>3</TagId>\
                 <BatchJob><JobId>1</JobId><JobType>sync_user</JobType></BatchJob></xml>"
            );
            let meaning = read(xml.as_bytes(), "ww1").unwrap().meaning.unwrap();
            assert_ne!(meaning.subject, Subject::Other, "{name}");
        }
    }

    #[test]
    fn what_strangers_choose_does_not_make_labels_without_end() {
        let metrics = Metrics::default();
        for n in 0..1000 {
            metrics.event("change_contact", &format!("new_type_{n}"), Outcome::Ignored);
            metrics.api_call("user/get", Some(n));
        }
        metrics.api_call("user/get", Some(7));
        assert_eq!(metrics.events(), [("other", Outcome::Ignored, 1000)]);
        let calls = metrics.api_calls();
        assert_eq!(calls.len(), ERRCODES + 1);
        assert!(calls.contains(&("user/get", "7".into(), 2)));
        assert!(calls.contains(&("user/get", "other".into(), 800)));
    }

    #[test]
    fn the_gates_own_answers_are_counted_with_the_servers() {
        let metrics = Metrics::default();
        metrics.answered(200, false);
        metrics.answered(200, true);
        metrics.answered(404, false);
        let gate =
            GateSnapshot { refused: vec![(404, 2), (411, 3), (413, 4), (503, 5)], ..Default::default() };
        let counts: Vec<_> = metrics
            .callbacks(&gate)
            .into_iter()
            .map(|(r, n)| (r.as_str(), n))
            .filter(|(_, n)| *n > 0)
            .collect();
        let expected = [("success", 1), ("verified", 1), ("not_found", 3), ("length", 7), ("unavailable", 5)];
        assert_eq!(counts, expected);
    }
}
