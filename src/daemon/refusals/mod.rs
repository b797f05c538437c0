//! Refused requests: a line in the log, a row in the table `refusals`, and the remedy for each.
//!
//! A thread writes the rows, at most once a second however many refusals there are; while nothing is refused,
//! it sleeps.

pub mod advice;
mod ledger;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::callbacks::Endpoint;
use super::threads::Threads;
use super::wakeup::Wakeup;
use crate::store::Writer;
use crate::store::refusals::record_refusals;
use crate::unix_time::unix_now;
use ledger::{Ledger, short};

pub use ledger::Refused;

/// The cause of a 503 by the server: the event could not be committed.
pub const STORAGE: &str = "storage";
/// The cause of a 500: a worker panicked.
pub const CRASH: &str = "crash";

/// Between two writes.
const PAUSE: Duration = Duration::from_secs(1);
/// After a write that failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(15);
/// For one write.
const PATIENCE: Duration = Duration::from_secs(5);
/// The thread waits for its wakeup in any case.
const SLEEP: Duration = Duration::from_secs(24 * 3600);

/// Counts and logs the refusals of all threads.
pub struct Refusals {
    paths: Vec<String>,
    ledger: Mutex<Ledger>,
    news: Wakeup,
    ends: Wakeup,
    ending: AtomicBool,
}

impl Refusals {
    /// `paths`: the configured callback paths.
    #[must_use]
    pub fn new(paths: Vec<String>) -> Self {
        let ledger = Mutex::new(Ledger::new(paths.clone()));
        Self {
            paths,
            ledger,
            news: Wakeup::default(),
            ends: Wakeup::default(),
            ending: AtomicBool::new(false),
        }
    }

    /// Starts the thread that writes the table.
    pub(super) fn start(
        endpoints: &[Endpoint],
        writer: Writer,
        threads: &mut Threads,
    ) -> std::io::Result<Arc<Self>> {
        let refusals = Arc::new(Self::new(endpoints.iter().map(|endpoint| endpoint.path.clone()).collect()));
        let recorder = Arc::clone(&refusals);
        threads.spawn("refusals", move || recorder.write(&writer))?;
        Ok(refusals)
    }

    /// The configured callback paths.
    #[must_use]
    pub fn paths(&self) -> &[String] {
        &self.paths
    }

    /// Counts a refusal, and logs it unless this cause was logged at this path within the last minute.
    pub fn note(&self, refused: &Refused<'_>, why: &dyn std::fmt::Display) {
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
                "callback refused: so many requests with msg_signature and echostr within a minute that \
                 the next ones are only counted; status shows the counts"
            );
        }
    }

    /// Lets the thread write what is left and end.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Release);
        self.news.notify();
        self.ends.notify();
    }

    fn write(&self, writer: &Writer) {
        loop {
            let ending = self.ending.load(Ordering::Acquire);
            let rows = self.lock().take();
            let mut pause = PAUSE;
            if !rows.is_empty() {
                let to_write = rows.clone();
                let patience = if ending { PAUSE } else { PATIENCE };
                let written = writer.run(patience, move |connection| record_refusals(connection, &to_write));
                if let Err(error) = written {
                    log::debug!("refusals could not be recorded: {error}");
                    self.lock().put_back(rows);
                    pause = PAUSE_AFTER_FAILURE;
                }
            }
            if ending {
                return;
            }
            self.ends.wait(pause);
            if !self.lock().has_news() {
                self.news.wait(SLEEP);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
