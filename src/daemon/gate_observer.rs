//! The daemon's observer of its gate: logs and counts refused requests, and requests a comparison if an event may be
//! lost.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::metrics::Metrics;
use super::reconciler::triggers::ReconcileTriggers;
use super::refusals::{Refusals, Refused};
use crate::gate::{Observer, Refusal, RefusedRequest, without_slash};
use crate::unix_time::unix_now;

/// Minimum interval between comparisons because of incomplete requests, because any client can send such requests.
const POSSIBLE_LOSS_INTERVAL: Duration = Duration::from_secs(3600);

/// Observer of the gate for callbacks.
pub(crate) struct GateObserver {
    refusals: Arc<Refusals>,
    metrics: Arc<Metrics>,
    triggers: Arc<ReconcileTriggers>,
    last_possible_loss: Mutex<Option<Instant>>,
}

/// Whether an event of WeCom may be lost.
#[derive(Debug, PartialEq, Eq)]
enum Loss {
    /// The request is no event, or WeCom repeats it in the same form and the gate refuses it again.
    No,
    /// The request was complete and looked like an event.
    Likely,
    /// The request was incomplete and looked like an event.
    Possible,
}

impl GateObserver {
    /// Creates an observer that reports to the daemon's shared parts.
    #[must_use]
    pub(crate) fn new(
        refusals: Arc<Refusals>,
        metrics: Arc<Metrics>,
        triggers: Arc<ReconcileTriggers>,
    ) -> Self {
        Self { refusals, metrics, triggers, last_possible_loss: Mutex::default() }
    }

    fn loss(&self, refused: &RefusedRequest) -> Loss {
        let request = &refused.request;
        let path = without_slash(&request.path);
        if request.method != "POST" || !self.refusals.paths().iter().any(|known| known == path) {
            return Loss::No;
        }
        match refused.refusal {
            Refusal::Deadline | Refusal::Memory | Refusal::NoUpstream | Refusal::BadGateway => Loss::Likely,
            // WeCom closes the connection after 5 s. A path that loses large packets stops all three attempts.
            Refusal::Timeout | Refusal::ClientClosed if request.is_signed => Loss::Possible,
            _ => Loss::No,
        }
    }

    fn may_request(&self, now: Instant) -> bool {
        let mut last = self.last_possible_loss.lock().unwrap_or_else(PoisonError::into_inner);
        let may_request =
            last.is_none_or(|last| now.saturating_duration_since(last) >= POSSIBLE_LOSS_INTERVAL);
        if may_request {
            *last = Some(now);
        }
        may_request
    }
}

impl Observer for GateObserver {
    fn refused(&self, refused: &RefusedRequest) {
        let status = refused.refusal.status();
        if status == 503 {
            self.metrics.unavailable.note(Instant::now(), unix_now());
        }
        match self.loss(refused) {
            Loss::Likely => self.triggers.request("a callback had to be refused"),
            Loss::Possible if self.may_request(Instant::now()) => {
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

    fn observer() -> GateObserver {
        GateObserver::new(
            Arc::new(Refusals::new(vec!["/callback".into()], Arc::default())),
            Arc::default(),
            Arc::default(),
        )
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
    fn an_event_may_be_lost_if_a_post_to_a_callback_is_not_answered() {
        let observer = observer();
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
                observer.loss(&refused(refusal, method, path, is_signed)),
                loss,
                "{refusal:?} {method} {path}"
            );
        }
    }

    #[test]
    fn incomplete_requests_cause_one_comparison_an_hour() {
        let (observer, now) = (observer(), Instant::now());
        assert!(
            observer.may_request(now)
                && !observer.may_request(now)
                && observer.may_request(now + POSSIBLE_LOSS_INTERVAL)
        );
        let timeout = refused(Refusal::Timeout, "POST", "/callback", true);
        observer.refused(&timeout);
        assert_eq!(observer.triggers.take(), None);
        observer.refused(&refused(Refusal::Deadline, "POST", "/callback", false));
        assert!(observer.triggers.take().is_some());
        assert_eq!(observer.metrics.unavailable.get(Instant::now()).map(|(count, _)| count), Some(1));
    }
}
