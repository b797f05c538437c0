//! What the service manager (systemd) learns: readiness, a status line, and signs of life for its watchdog.
//!
//! A sign of life proves that the gate, a worker, the responder and the writer answer in time. A refusal by the storage
//! (locked, full, read-only) is an answer: a restart would not help, so it is shown instead.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::commit_probe::{CommitAnswer, CommitProbe};
use super::threads::Threads;
use super::wakeup::Wakeup;
use super::{Shared, StartError};
use crate::directory::openid::OpenidState;
use crate::gate::{GateProbe, ServerProbe};
use crate::shutdown::Shutdown;
use crate::store::monitor::{last_event, members_by_state};
use crate::store::queries::local_time;
use crate::store::state::PauseState;
use crate::store::{Connection, StoreError};

/// Longest interval between two status lines, and so between two probes.
const INTERVAL: Duration = Duration::from_secs(10);
/// Of the watchdog's time, the part until the next probe, and the part for its answers. Together they leave a quarter.
const PARTS: u32 = 4;
/// Longest status line, in characters: `systemctl status` shows it on one line.
const MAX_STATUS: usize = 500;

/// Sends states to the service manager, if there is one (`$NOTIFY_SOCKET`).
pub(crate) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("the service manager cannot be notified: {error}");
    }
}

/// Begins a reload; [`ready`] ends it. The time is what `Type=notify-reload` expects.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

pub(crate) fn ready() {
    notify(&[NotifyState::Ready]);
}

pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// The handle to the supervisor's thread; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Supervision {
    notice: Arc<Mutex<Option<String>>>,
    wakeup: Wakeup,
}

impl Supervision {
    /// Replaces the notice at the beginning of the status line, and shows it now.
    pub(crate) fn set_notice(&self, notice: Option<String>) {
        *self.notice.lock().unwrap_or_else(PoisonError::into_inner) = notice;
        self.wakeup.notify();
    }

    /// Has the thread notice the shutdown.
    pub(super) fn wake(&self) {
        self.wakeup.notify();
    }

    /// Starts the thread `supervisor`, if a service manager listens.
    pub(super) fn start(
        &self,
        shared: &Shared,
        probes: Option<(GateProbe, ServerProbe)>,
        threads: &mut Threads,
    ) -> Result<(), StartError> {
        let (Some((gate, server)), Some(_)) = (probes, std::env::var_os("NOTIFY_SOCKET")) else {
            return Ok(());
        };
        let watchdog = sd_notify::watchdog_enabled();
        let part = watchdog.map_or(INTERVAL, |time| time / PARTS);
        let supervisor = Supervisor {
            supervision: self.clone(),
            gate,
            server,
            commit: CommitProbe::new(shared.writer.clone()),
            reader: shared.reader()?,
            shared: shared.clone(),
            has_watchdog: watchdog.is_some(),
            interval: INTERVAL.min(part),
            patience: part.max(Duration::from_millis(100)),
        };
        threads.spawn("supervisor", move || supervisor.work())?;
        Ok(())
    }
}

struct Supervisor {
    supervision: Supervision,
    gate: GateProbe,
    server: ServerProbe,
    commit: CommitProbe,
    reader: Connection,
    shared: Shared,
    has_watchdog: bool,
    interval: Duration,
    /// Time for the answers to probes.
    patience: Duration,
}

/// The answers to one round of probes.
#[derive(Debug, Default)]
struct Answers {
    /// Parts without an answer in time.
    silent: Vec<&'static str>,
    /// Why the storage refuses commits.
    refused: Option<StoreError>,
}

impl Supervisor {
    fn work(mut self) {
        let (mut shown, mut were_silent) = (String::new(), Vec::new());
        let shutdown: Shutdown = self.shared.shutdown.clone();
        while !shutdown.is_triggered() {
            let begun = Instant::now();
            let answers = self.probe();
            if shutdown.is_triggered() {
                return;
            }
            if answers.silent.is_empty() && self.has_watchdog {
                notify(&[NotifyState::Watchdog]);
            }
            if answers.silent != were_silent {
                log_silence(&answers.silent, self.patience);
                were_silent.clone_from(&answers.silent);
            }
            let status = self.status(&answers);
            if status != shown {
                notify(&[NotifyState::Status(&status)]);
                shown = status;
            }
            self.supervision.wakeup.wait(self.interval.saturating_sub(begun.elapsed()));
        }
    }

    /// All parts are asked at the same time.
    fn probe(&mut self) -> Answers {
        let deadline = Instant::now() + self.patience;
        let left = || deadline.saturating_duration_since(Instant::now());
        // Half of the time, so that a lock is reported before the writer counts as silent.
        self.commit.send(self.patience / 2);
        let gate = self.gate.send();
        let sent = self.server.send();
        let mut answers = Answers::default();
        if gate.recv_timeout(left()).is_err() {
            answers.silent.push("gate");
        }
        if sent.and_then(|()| self.server.receive(deadline)).is_err() {
            answers.silent.push("workers");
        }
        match self.commit.receive(deadline) {
            CommitAnswer::Committed => {}
            CommitAnswer::Refused(error) => answers.refused = Some(error),
            CommitAnswer::Ended | CommitAnswer::Silent => answers.silent.push("writer"),
        }
        answers
    }

    fn status(&self, answers: &Answers) -> String {
        let notice = self.supervision.notice.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let facts = facts(&self.reader)
            .unwrap_or_else(|error| format!("the database cannot be read: {}", StoreError::from(error)));
        status_line(notice, answers, &self.shared.metrics.pauses(), &facts)
    }
}

fn log_silence(silent: &[&str], patience: Duration) {
    if silent.is_empty() {
        log::info!("all parts of the service answer again");
    } else {
        log::error!(
            "no answer within {} s from: {}; unless it answers, the service manager restarts the service",
            patience.as_secs_f32(),
            silent.join(", ")
        );
    }
}

/// Members, pending conversions, and the last event.
fn facts(reader: &Connection) -> crate::store::Result<String> {
    let counts = members_by_state(reader)?;
    let members: i64 = counts.iter().map(|(_, count)| count).sum();
    let pending: i64 =
        counts.iter().filter(|(state, _)| *state == OpenidState::Pending).map(|(_, count)| count).sum();
    let last = match last_event(reader)? {
        Some(at) => local_time(reader, at)?,
        None => "never".to_owned(),
    };
    Ok(format!("members {members}, pending {pending}, last event {last}"))
}

/// What needs the operator comes first.
fn status_line(notice: Option<String>, answers: &Answers, pauses: &[PauseState], facts: &str) -> String {
    let silent =
        (!answers.silent.is_empty()).then(|| format!("NO ANSWER from {}", answers.silent.join(", ")));
    let refused =
        answers.refused.as_ref().map(|error| format!("FAILING: {error}; callbacks are answered with 503"));
    let paused = pauses.iter().map(|PauseState { what, reason, errcode, .. }| {
        let errcode = errcode.map_or_else(String::new, |code| format!(", errcode {code}"));
        format!("paused: {what} ({reason}{errcode})")
    });
    let parts = silent.into_iter().chain(refused).chain(notice).chain(paused).chain([facts.to_owned()]);
    let line = parts.collect::<Vec<_>>().join("; ");
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_STATUS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_the_operator_comes_first_on_one_line() {
        let answers = Answers { silent: vec!["writer"], refused: Some(StoreError::Full) };
        let pause = PauseState {
            what: "all API calls with app_secret".into(),
            reason: "address".into(),
            errcode: Some(60020),
            errmsg: "hush".into(),
            since: 1,
            until: 2,
            advice: "add it".into(),
        };
        let line = status_line(Some("reload failed:\nx".into()), &answers, &[pause], "members 1");
        assert_eq!(
            line,
            "NO ANSWER from writer; FAILING: the disk is full; make room on the file system of the database; callbacks \
             are answered with 503; reload failed: x; paused: all API calls with app_secret (address, errcode 60020); \
             members 1"
        );
        assert_eq!(status_line(None, &Answers::default(), &[], "members 1"), "members 1");
    }
}
