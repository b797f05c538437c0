//! Counters since the start: the running parts write them, the admin listener reads them.
//!
//! Labels are bounded: an unknown event type becomes `other`, and so does an errcode beyond the first [`MAX_ERRCODES`].

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::hour::LastHour;
use super::refusals::advice;
use crate::store::EventOutcome;
use crate::store::state::PauseState;
use crate::wecom::api::errcode::Reason;

/// The results of callback requests.
const RESULTS: [&str; 10] = [
    "success",
    "verified",
    "bad_request",
    "forbidden",
    "not_found",
    "method_not_allowed",
    "timeout",
    "length",
    "unavailable",
    "error",
];

/// The result that a status stands for; `verifies`: the request was a GET.
fn result(status: u16, verifies: bool) -> &'static str {
    match status {
        200 if verifies => "verified",
        200 => "success",
        400 | 417 | 431 => "bad_request",
        403 => "forbidden",
        404 => "not_found",
        405 => "method_not_allowed",
        408 => "timeout",
        411 | 413 => "length",
        503 => "unavailable",
        _ => "error",
    }
}

/// Events that are counted by name: ChangeType, or Event if that is empty.
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
/// The label of all others.
const OTHER: &str = "other";
/// Pairs of API and errcode that are counted by number.
const MAX_ERRCODES: usize = 200;

/// The collectors, and the pauses in force.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    callbacks: IntCounterVec,
    events: IntCounterVec,
    api_calls: IntCounterVec,
    refusals: IntCounterVec,
    paused: IntGaugeVec,
    errcodes: Mutex<HashSet<(&'static str, Option<i64>)>>,
    pauses: Mutex<Vec<PauseState>>,
    /// Callbacks that the server or the gate answered with 503.
    pub(crate) unavailable: LastHour,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = valid(IntCounterVec::new(Opts::new(name, help), labels));
            valid(registry.register(Box::new(counter.clone())));
            counter
        };
        let callbacks = counter(
            "wecom_dirsync_callbacks_total",
            "Requests to the callback listener, by how they were answered.",
            &["result"],
        );
        for result in RESULTS {
            callbacks.with_label_values(&[result]);
        }
        let events = counter(
            "wecom_dirsync_events_total",
            "Events made durable, by ChangeType (or Event, where that is empty) and by what became of them.",
            &["change_type", "outcome"],
        );
        let api_calls = counter(
            "wecom_dirsync_api_calls_total",
            "Calls of WeCom's API, by errcode; none: without an answer that could be read.",
            &["api", "errcode"],
        );
        let refusals = counter(
            "wecom_dirsync_refusals_total",
            "Refused requests to the callback listener, by cause.",
            &["cause"],
        );
        for advice in advice::ALL {
            refusals.with_label_values(&[advice.cause]);
        }
        let help = "Whether calls of WeCom's API are paused for this reason.";
        let paused = valid(IntGaugeVec::new(Opts::new("wecom_dirsync_api_paused", help), &["reason"]));
        valid(registry.register(Box::new(paused.clone())));
        let (errcodes, pauses, unavailable) = Default::default();
        let metrics =
            Self { registry, callbacks, events, api_calls, refusals, paused, errcodes, pauses, unavailable };
        metrics.set_pauses(Vec::new());
        metrics
    }
}

/// For collectors whose names and labels are literals.
#[allow(clippy::expect_used)]
pub(super) fn valid<T>(collector: prometheus::Result<T>) -> T {
    collector.expect("literal names are valid and unique")
}

impl Metrics {
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Counts callback requests that were answered with this status; `verifies`: a GET.
    pub(crate) fn answered(&self, status: u16, verifies: bool, count: u64) {
        self.callbacks.with_label_values(&[result(status, verifies)]).inc_by(count);
    }

    pub(crate) fn event(&self, event: &str, change_type: &str, outcome: EventOutcome) {
        let name = if change_type.is_empty() { event } else { change_type };
        let name = EVENTS.into_iter().find(|known| *known == name).unwrap_or(OTHER);
        self.events.with_label_values(&[name, outcome.as_str()]).inc();
    }

    /// Counts a refused request; `cause` is one of [`advice::ALL`].
    pub(crate) fn refused(&self, cause: &str) {
        self.refusals.with_label_values(&[cause]).inc();
    }

    /// Counts an API call; `None`: it had no readable answer.
    pub(crate) fn api_call(&self, api: &'static str, errcode: Option<i64>) {
        let mut known = lock(&self.errcodes);
        let is_counted = known.contains(&(api, errcode)) || known.len() < MAX_ERRCODES;
        let label = match errcode.filter(|_| is_counted) {
            Some(errcode) => errcode.to_string(),
            None if is_counted => "none".to_owned(),
            None => OTHER.to_owned(),
        };
        if is_counted {
            known.insert((api, errcode));
        }
        drop(known);
        self.api_calls.with_label_values(&[api, &label]).inc();
    }

    /// Replaces the pauses in force.
    pub(crate) fn set_pauses(&self, pauses: Vec<PauseState>) {
        for reason in Reason::ALL.map(Reason::as_str) {
            let is_paused = pauses.iter().any(|pause| pause.reason == reason);
            self.paused.with_label_values(&[reason]).set(i64::from(is_paused));
        }
        *lock(&self.pauses) = pauses;
    }

    pub(crate) fn pauses(&self) -> Vec<PauseState> {
        lock(&self.pauses).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn the_number_of_labels_is_bounded() {
        let metrics = Metrics::default();
        for n in 0..1000 {
            metrics.event("change_contact", &format!("new_type_{n}"), EventOutcome::Ignored);
            metrics.api_call("user/get", Some(n));
        }
        metrics.api_call("user/get", Some(7));
        metrics.api_call("user/get", None);
        assert_eq!(metrics.events.with_label_values(&["other", "ignored"]).get(), 1000);
        let calls = |errcode| metrics.api_calls.with_label_values(&["user/get", errcode]).get();
        assert_eq!((calls("7"), calls("199"), calls("other")), (2, 1, 801));
        let series: usize = metrics.registry.gather().iter().map(|family| family.get_metric().len()).sum();
        let fixed = RESULTS.len() + Reason::ALL.len() + advice::ALL.len();
        assert_eq!(series, fixed + 1 + MAX_ERRCODES + 1);
    }
}
