//! Deletes by age, a piece at a time, while no callback waits.

use std::time::{Duration, Instant};

use super::threads::Threads;
use super::{COMMIT_TIMEOUT, Shared, StartError};
use crate::config;
use crate::directory::UnixSeconds;
use crate::store::retention::{
    Limits, departed_before, prune_calls, prune_changes, prune_events, record_size, remove_departed,
    remove_old_facts, rowless_before, shrink,
};
use crate::store::{Connection, StoreError};
use crate::unix_time::unix_now;

/// The first round waits for the callbacks that WeCom repeats after a start, and for the first readings of WeCom's clock.
const FIRST_ROUND: Duration = Duration::from_secs(15);
/// Interval of the rounds.
const INTERVAL: Duration = Duration::from_secs(3600);
/// Rounds from one search for facts without a row to the next: it reads all facts.
const ROUNDS_PER_SEARCH: u32 = 24;
/// Wait after a failure, and until two clocks agree.
const RETRY_AFTER: Duration = Duration::from_secs(15);
/// Pause between two pieces.
const PAUSE: Duration = Duration::from_millis(20);
/// A piece that other jobs have postponed for this long runs beside them, because they may never cease.
const MAX_POSTPONED: Duration = Duration::from_secs(30);

pub(super) struct Retention {
    shared: Shared,
    settings: config::Retention,
    reader: Connection,
}

impl Retention {
    /// Starts the thread.
    pub(super) fn start(
        settings: config::Retention,
        shared: &Shared,
        threads: &mut Threads,
    ) -> Result<(), StartError> {
        let retention = Self { shared: shared.clone(), settings, reader: shared.reader()? };
        Ok(threads.spawn("retention", move || retention.work())?)
    }

    fn work(&self) {
        let (mut wait, mut rounds) = (FIRST_ROUND, 0);
        while !self.shared.shutdown.sleep(wait) {
            let round = |limits| self.round(limits, rounds % ROUNDS_PER_SEARCH == 0);
            wait = match self.limits().map(round) {
                None => RETRY_AFTER,
                Some(Ok(())) => {
                    rounds = rounds.wrapping_add(1);
                    INTERVAL
                }
                Some(Err(StoreError::Closed)) => return,
                Some(Err(error)) => {
                    // The writer has logged the reason.
                    log::debug!("deletion by age is postponed: {error}");
                    RETRY_AFTER
                }
            };
        }
    }

    /// What is old; `None` while no two clocks agree, because a wrong clock would delete everything.
    fn limits(&self) -> Option<Limits> {
        let estimate = self.shared.client.clock().estimate();
        estimate.latest()?;
        let before = |now: UnixSeconds, age: Duration| {
            now.plus(i64::try_from(age.as_secs()).map_or(i64::MIN, |seconds| -seconds))
        };
        // Rows were stamped by this machine's clock, which may be wrong now.
        let local = unix_now().min(estimate.now);
        Some(Limits {
            events: before(local, self.settings.events),
            changes: before(local, self.settings.changes),
            deleted_members: before(estimate.now, self.settings.deleted_members),
        })
    }

    fn round(&self, limits: Limits, with_search: bool) -> Result<(), StoreError> {
        let mut after = 0;
        while let Some(next) = self.piece(move |connection| prune_events(connection, limits.events, after))? {
            after = next;
        }
        while self.piece(move |connection| prune_changes(connection, limits.changes))? {}
        while self.piece(move |connection| prune_calls(connection, limits.events))? {}
        let before = limits.deleted_members;
        loop {
            let members = departed_before(&self.reader, before)?;
            if members.is_empty() {
                break;
            }
            self.piece(move |connection| remove_departed(connection, &members, before))?;
        }
        if with_search {
            self.remove_rowless(before)?;
        }
        while self.piece(shrink)? {}
        self.piece(|connection| record_size(connection, unix_now()))
    }

    /// Removes old facts about names that no row has.
    fn remove_rowless(&self, before: UnixSeconds) -> Result<(), StoreError> {
        let mut after = String::new();
        loop {
            let names = rowless_before(&self.reader, before, &after)?;
            let Some(last) = names.last() else { return Ok(()) };
            last.as_str().clone_into(&mut after);
            self.piece(move |connection| remove_old_facts(connection, &names, before))?;
        }
    }

    /// Commits one piece as soon as nothing else waits for the writer.
    fn piece<T: Send + 'static>(
        &self,
        work: impl Fn(&Connection) -> Result<T, StoreError> + Send + Clone + 'static,
    ) -> Result<T, StoreError> {
        let begun = Instant::now();
        loop {
            if self.shared.shutdown.sleep(PAUSE) {
                return Err(StoreError::Closed);
            }
            let (work, writer) = (work.clone(), self.shared.writer.clone());
            let is_patient = begun.elapsed() < MAX_POSTPONED;
            // Checked by the writer's thread: callbacks may have come in between.
            let done = self.shared.writer.run(COMMIT_TIMEOUT, move |connection| {
                if is_patient && writer.waiting() > 1 { Ok(None) } else { work(connection).map(Some) }
            })?;
            if let Some(done) = done {
                return Ok(done);
            }
        }
    }
}
