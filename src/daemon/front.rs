//! What the daemon does about requests that the gate refused: trace, count, and compare where an event may
//! have been lost.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::metrics::Metrics;
use super::reconciler::triggers::ReconcileTriggers;
use super::refusals::{Refusals, Refused};
use crate::gate::{Observer, Refusal, RefusedRequest, without_slash};
use crate::unix_time::unix_now;

/// Minimum interval between comparisons because of incomplete requests: a stranger can send such requests without end.
const UNSURE_APART: Duration = Duration::from_secs(3600);

/// The daemon's observer of its gate.
pub(crate) struct Front {
    refusals: Arc<Refusals>,
    metrics: Arc<Metrics>,
    triggers: Arc<ReconcileTriggers>,
    last_unsure: Mutex<Option<Instant>>,
}

/// Whether WeCom's event may have been lost.
#[derive(Debug, PartialEq, Eq)]
enum Loss {
    /// It was not one, or WeCom sends it again in the same form and is refused again.
    No,
    /// The request was complete and looked like one.
    Likely,
    /// The request was incomplete and looked like one.
    Possible,
}

impl Front {
    /// An observer that reports to these.
    #[must_use]
    pub(crate) fn new(
        refusals: Arc<Refusals>,
        metrics: Arc<Metrics>,
        triggers: Arc<ReconcileTriggers>,
    ) -> Self {
        Self { refusals, metrics, triggers, last_unsure: Mutex::default() }
    }

    fn loss(&self, refused: &RefusedRequest) -> Loss {
        let request = &refused.request;
        let path = without_slash(&request.path);
        if request.method != "POST" || !self.refusals.paths().iter().any(|known| known == path) {
            return Loss::No;
        }
        match refused.refusal {
            Refusal::Deadline | Refusal::Memory | Refusal::NoUpstream | Refusal::BadGateway => Loss::Likely,
            // WeCom hangs up after 5 s. A path that loses large packets stops all of its three tries.
            Refusal::Timeout | Refusal::ClientClosed if request.is_signed => Loss::Possible,
            _ => Loss::No,
        }
    }

    fn is_time(&self, now: Instant) -> bool {
        let mut last = self.last_unsure.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = last.is_none_or(|last| now.saturating_duration_since(last) >= UNSURE_APART);
        if is_time {
            *last = Some(now);
        }
        is_time
    }
}

impl Observer for Front {
    fn refused(&self, refused: &RefusedRequest) {
        let status = refused.refusal.status();
        if status == 503 {
            self.metrics.unavailable.note(Instant::now(), unix_now());
        }
        match self.loss(refused) {
            Loss::Likely => self.triggers.request("a callback had to be refused"),
            Loss::Possible if self.is_time(Instant::now()) => {
                self.triggers.request("a callback did not arrive completely");
            }
            Loss::Possible | Loss::No => {}
        }
        let request = &refused.request;
        let refusal = Refused {
            status,
            cause: refused.refusal.cause(),
            path: &request.path,
            is_signed: request.is_signed,
            is_verification: request.is_verification,
            peer: &refused.peer.to_string(),
            forwarded_for: request.forwarded_for.as_deref(),
        };
        self.refusals.note(&refusal, &refused.refusal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::RequestSummary;

    fn front() -> Front {
        Front::new(Arc::new(Refusals::new(vec!["/callback".into()])), Arc::default(), Arc::default())
    }

    fn refused(refusal: Refusal, method: &str, path: &str, is_signed: bool) -> RefusedRequest {
        let request = RequestSummary {
            method: method.into(),
            path: path.into(),
            is_signed,
            ..RequestSummary::default()
        };
        RefusedRequest { refusal, peer: "192.0.2.7:81".parse().unwrap(), request }
    }

    #[test]
    fn an_event_may_be_lost_where_a_post_to_a_callback_was_not_answered() {
        let front = front();
        for (refusal, method, path, is_signed, loss) in [
            (Refusal::Deadline, "POST", "/callback", true, Loss::Likely),
            (Refusal::Memory, "POST", "/callback/", false, Loss::Likely),
            (Refusal::NoUpstream, "POST", "/callback", true, Loss::Likely),
            (Refusal::BadGateway, "POST", "/callback", true, Loss::Likely),
            (Refusal::BadGateway, "GET", "/callback", true, Loss::No),
            (Refusal::Timeout, "POST", "/callback", true, Loss::Possible),
            (Refusal::ClientClosed, "POST", "/callback", true, Loss::Possible),
            (Refusal::Timeout, "POST", "/callback", false, Loss::No),
            (Refusal::Timeout, "POST", "/elsewhere", true, Loss::No),
            (Refusal::TooLarge, "POST", "/callback", true, Loss::No),
        ] {
            assert_eq!(
                front.loss(&refused(refusal, method, path, is_signed)),
                loss,
                "{refusal:?} {method} {path}"
            );
        }
    }

    #[test]
    fn half_requests_bring_one_comparison_an_hour() {
        let (front, now) = (front(), Instant::now());
        assert!(front.is_time(now) && !front.is_time(now) && front.is_time(now + UNSURE_APART));
        let timeout = refused(Refusal::Timeout, "POST", "/callback", true);
        front.refused(&timeout);
        assert_eq!(front.triggers.take(), None);
        front.refused(&refused(Refusal::Deadline, "POST", "/callback", false));
        assert!(front.triggers.take().is_some());
        assert_eq!(front.metrics.unavailable.get(Instant::now()).map(|(count, _)| count), Some(1));
    }
}
