//! `/healthz`: tries whether an event can be made durable now, by a commit through the writer.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::store::Connection;

use crate::daemon::commit_probe::{CommitAnswer, CommitProbe};
use crate::daemon::metrics::Metrics;
use crate::gate::GateStats;
use crate::store::queries::local_time;
use crate::store::reconciles::{ReconcileOutcome, last_reconciles};
use crate::store::state::{PAUSES, PauseState};
use crate::store::{StoreError, Writer};

/// A commit that takes longer counts as failed.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(2);
/// Additional wait for the writer's error.
const MARGIN: Duration = Duration::from_millis(200);
/// Lifetime of a status, and so the minimum interval between two commits.
const LIFETIME: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HealthStatus {
    /// The HTTP status, 200 or 503.
    pub(super) code: u16,
    /// `ok`, or `failing: ` and the reason; then a line for each remark.
    pub(super) text: String,
}

/// Checks the health, at most once a second.
pub(super) struct Health {
    gate: Arc<GateStats>,
    metrics: Arc<Metrics>,
    /// Whether a comparison follows when a callback was refused.
    compares: bool,
    reader: Connection,
    probe: CommitProbe,
    last: Option<(Instant, HealthStatus)>,
}

impl Health {
    pub(super) fn new(
        writer: Writer,
        gate: Arc<GateStats>,
        metrics: Arc<Metrics>,
        compares: bool,
        reader: Connection,
    ) -> Self {
        Self { probe: CommitProbe::new(writer), gate, metrics, compares, reader, last: None }
    }

    /// The status, at most a second old. Takes little more than two seconds.
    pub(super) fn status(&mut self) -> HealthStatus {
        if let Some((at, status)) = &self.last
            && at.elapsed() < LIFETIME
        {
            return status.clone();
        }
        let found = self.gate_failure().map_or_else(|| self.try_commit(), Err);
        let mut remarks = remarks(&self.reader).unwrap_or_else(|error| {
            vec![format!("the database cannot be read: {}", one_line(&StoreError::from(error).to_string()))]
        });
        remarks.extend(self.refused());
        let status = status(found, &remarks);
        self.last = Some((Instant::now(), status.clone()));
        status
    }

    /// The line about callbacks that were answered with 503 within the last hour.
    fn refused(&self) -> Option<String> {
        let (count, last) = self.metrics.unavailable.get(Instant::now())?;
        let plural = if count == 1 { "callback" } else { "callbacks" };
        let at = local_time(&self.reader, last).unwrap_or_else(|_| last.0.to_string());
        let compared =
            last_reconciles(&self.reader).ok().and_then(|(latest, _)| latest).is_some_and(|latest| {
                latest.finished_at.is_some()
                    && latest.outcome == ReconcileOutcome::Ok
                    && latest.started_at > last
            });
        let then = match (self.compares, compared) {
            (_, true) => "a comparison has repaired what was missed",
            (true, false) => "a comparison follows",
            (false, false) => "no comparison follows, as [reconcile] is off or contacts_secret is not set",
        };
        Some(format!("refused: {count} {plural} with 503 in the last hour, last at {at}; {then}"))
    }

    fn gate_failure(&self) -> Option<String> {
        let gate = self.gate.snapshot();
        if gate.ended {
            return Some("the part that takes callbacks has ended; restart the service".into());
        }
        (gate.upstreams == 0)
            .then(|| "the part that answers callbacks cannot be reached; restart the service".into())
    }

    fn try_commit(&mut self) -> Result<(), String> {
        self.probe.send(COMMIT_TIMEOUT);
        match self.probe.receive(Instant::now() + COMMIT_TIMEOUT + MARGIN) {
            CommitAnswer::Committed => Ok(()),
            CommitAnswer::Refused(error) => Err(one_line(&error.to_string())),
            CommitAnswer::Ended => {
                Err("the part that writes to the database has ended; restart the service".into())
            }
            CommitAnswer::Silent => Err(format!(
                "no commit within {} s: the writer is busy, or the disk is slow or stuck",
                COMMIT_TIMEOUT.as_secs()
            )),
        }
    }
}

fn status(found: Result<(), String>, remarks: &[String]) -> HealthStatus {
    let (code, mut text) = match found {
        Ok(()) => (200, "ok\n".to_owned()),
        Err(why) => (503, format!("failing: {why}\n")),
    };
    for remark in remarks {
        let _ = writeln!(text, "{remark}");
    }
    HealthStatus { code, text }
}

/// Pauses and an unsuccessful comparison: they do not make the status 503.
fn remarks(connection: &Connection) -> crate::store::Result<Vec<String>> {
    let mut remarks = pauses(connection)?;
    if let (Some(last), _) = last_reconciles(connection)?
        && !matches!(last.outcome, ReconcileOutcome::Ok | ReconcileOutcome::Running)
    {
        remarks.push(one_line(&format!("comparison {}: {}", last.outcome.as_str(), last.note)));
    }
    Ok(remarks)
}

fn pauses(connection: &Connection) -> crate::store::Result<Vec<String>> {
    let in_words = |pause: &PauseState| {
        let PauseState { what, reason, errcode, errmsg, advice, .. } = pause;
        let errcode = errcode.map_or_else(String::new, |code| format!("errcode {code}, "));
        one_line(&format!("paused: {what} ({reason}): {errcode}{errmsg}; {advice}"))
    };
    Ok(PAUSES.get(connection)?.iter().flat_map(|(_, all)| all).map(in_words).collect())
}

/// Joins the lines of a foreign text.
fn one_line(text: &str) -> String {
    text.split(char::is_control).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::UnixSeconds;
    use crate::gate::{self, Gate, Limits, Routes};
    use crate::store::observations::Effect;
    use crate::store::open::open_in_memory;
    use crate::store::reconciles::{begin_reconcile, finish_reconcile};

    #[test]
    fn a_pause_is_one_line_also_with_line_breaks() {
        let db = open_in_memory().unwrap();
        assert_eq!(remarks(&db).unwrap(), Vec::<String>::new());
        let pause = PauseState {
            what: "all API calls with app_secret".into(),
            reason: "address".into(),
            errcode: Some(60020),
            errmsg: "not allow\r\nto access".into(),
            since: 1,
            until: 2,
            advice: "add it".into(),
        };
        PAUSES.set(&db, UnixSeconds(1), &vec![pause]).unwrap();
        let expected =
            "paused: all API calls with app_secret (address): errcode 60020, not allow to access; add it";
        assert_eq!(remarks(&db).unwrap(), [expected]);
        let seq = begin_reconcile(&db, "test", UnixSeconds(1)).unwrap();
        let blocked = (ReconcileOutcome::Blocked, 5, Effect::default());
        finish_reconcile(&db, seq, blocked, "nothing is deleted", UnixSeconds(2)).unwrap();
        assert_eq!(remarks(&db).unwrap(), [expected, "comparison blocked: nothing is deleted"]);
        assert_eq!(
            status(Err("disk".into()), &["b".into()]),
            HealthStatus { code: 503, text: "failing: disk\nb\n".into() }
        );
    }

    #[test]
    fn every_probe_writes_to_the_disk_however_fast_they_follow() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("directory.db");
        let (writer, _thread) = Writer::start(crate::store::open_writer(&path, 0o600).unwrap()).unwrap();
        let looker = crate::store::open_reader(&path).unwrap();
        let version = || looker.data_version().unwrap();
        let mut health = Health::new(
            writer,
            Arc::default(),
            Arc::default(),
            true,
            crate::store::open_reader(&path).unwrap(),
        );
        for _ in 0..5 {
            let before = version();
            assert_eq!(health.try_commit(), Ok(()));
            assert_ne!(version(), before, "nothing was written");
        }
    }

    #[test]
    fn an_ended_writer_or_gate_is_named() {
        let (writer, thread) = Writer::start(open_in_memory().unwrap()).unwrap();
        let gate = Arc::new(GateStats::default());
        let mut health =
            Health::new(writer.clone(), Arc::clone(&gate), Arc::default(), true, open_in_memory().unwrap());
        let status = health.status();
        assert_eq!(status.code, 503, "no connection to the server behind the gate");
        assert!(status.text.contains("answers callbacks"), "{}", status.text);

        let listener = gate::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (_server, upstreams) = gate::private_server(1, &std::env::temp_dir()).unwrap();
        let running = Gate::start(listener, Routes::new(), Limits::default(), upstreams, None).unwrap();
        health.gate = running.stats();
        assert_eq!(health.gate_failure(), None);
        running.stop(Duration::ZERO);
        assert!(health.gate_failure().unwrap().contains("takes callbacks has ended"));

        writer.close();
        assert!(thread.join_within(Duration::from_secs(5)));
        assert!(health.try_commit().unwrap_err().contains("writes to the database has ended"));
    }
}
