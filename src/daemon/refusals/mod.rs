//! Refused requests: log lines, rows of the table `refusals`, and remedies.
//!
//! A thread writes the rows, at most once a second; it sleeps while nothing is refused.

pub(crate) mod advice;
mod ledger;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::callbacks::Endpoint;
use super::metrics::Metrics;
use super::threads::Threads;
use super::wakeup::Wakeup;
use crate::store::Writer;
use crate::store::refusals::record_refusals;
use crate::unix_time::unix_now;
use ledger::{Ledger, short};

pub(crate) use ledger::Refused;

/// The cause of a 503 by the server: the event could not be committed.
pub(crate) const STORAGE: &str = "storage";
/// The cause of a 500: a worker panicked.
pub(crate) const CRASH: &str = "crash";

/// Minimum interval between two writes.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// Wait after a write that failed.
const RETRY_AFTER: Duration = Duration::from_secs(15);
/// Time for one commit, except the last.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait without a refusal.
const SLEEP: Duration = Duration::from_secs(24 * 3600);

/// Counts and logs the refusals of all threads.
pub(crate) struct Refusals {
    paths: Vec<String>,
    metrics: Arc<Metrics>,
    ledger: Mutex<Ledger>,
    news: Wakeup,
    ends: Wakeup,
    ending: AtomicBool,
}

impl Refusals {
    /// `paths`: the configured callback paths.
    pub(crate) fn new(paths: Vec<String>, metrics: Arc<Metrics>) -> Self {
        let ledger = Mutex::new(Ledger::new(paths.clone()));
        Self {
            paths,
            metrics,
            ledger,
            news: Wakeup::default(),
            ends: Wakeup::default(),
            ending: AtomicBool::new(false),
        }
    }

    /// Starts the thread that writes the table.
    pub(super) fn start(
        endpoints: &[Endpoint],
        metrics: Arc<Metrics>,
        writer: Writer,
        threads: &mut Threads,
    ) -> std::io::Result<Arc<Self>> {
        let paths = endpoints.iter().map(|endpoint| endpoint.path.clone()).collect();
        let refusals = Arc::new(Self::new(paths, metrics));
        let recorder = Arc::clone(&refusals);
        threads.spawn("refusals", move || recorder.write(&writer))?;
        Ok(refusals)
    }

    pub(crate) fn paths(&self) -> &[String] {
        &self.paths
    }

    /// Counts a refusal, and logs it unless this cause was logged for this path within the last minute.
    pub(crate) fn note(&self, refused: &Refused<'_>, why: &dyn std::fmt::Display) {
        self.metrics.refused(refused.cause);
        let line = self.lock().note(refused, Instant::now(), unix_now());
        self.news.notify();
        let Some(line) = line else { return };
        let forwarded = refused
            .forwarded_for
            .map_or_else(String::new, |forwarded| format!(" forwarded_for=\"{}\"", short(forwarded)));
        log::warn!(
            "callback refused status={} cause={} path={} client={}{forwarded} why=\"{why}\" \
             more_since_last={} advice=\"{}\"",
            refused.status,
            refused.cause,
            line.path,
            if refused.peer.is_empty() { "-" } else { refused.peer },
            line.more,
            advice::remedy(refused.cause, &self.paths)
        );
        if line.is_last {
            log::warn!(
                "callback refused: too many requests with msg_signature and echostr within a minute; \
                 the next ones are only counted, and status shows the counts"
            );
        }
    }

    /// Has the thread write the remaining rows and end.
    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::Release);
        self.news.notify();
        self.ends.notify();
    }

    fn write(&self, writer: &Writer) {
        loop {
            let ending = self.ending.load(Ordering::Acquire);
            let rows = self.lock().take();
            let mut wait = WRITE_INTERVAL;
            if !rows.is_empty() {
                let to_write = rows.clone();
                let timeout = if ending { WRITE_INTERVAL } else { COMMIT_TIMEOUT };
                let written = writer.run(timeout, move |connection| record_refusals(connection, &to_write));
                if let Err(error) = written {
                    log::debug!("refusals could not be recorded: {error}");
                    self.lock().put_back(rows);
                    wait = RETRY_AFTER;
                }
            }
            if ending {
                return;
            }
            self.ends.wait(wait);
            if !self.lock().has_news() {
                self.news.wait(SLEEP);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
