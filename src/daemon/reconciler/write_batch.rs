//! Writes the observations of a comparison in batches, so that events are committed in between.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use crate::daemon::COMMIT_TIMEOUT;
use crate::directory::UnixSeconds;
use crate::shutdown::Shutdown;
use crate::store::news::Since;
use crate::store::observations::{Effect, Observation, observe};
use crate::store::{StoreError, Writer};
use crate::wecom::clock::SharedClock;

/// Observations in a batch, some 10 ms: a callback may wait for one batch.
const BATCH: usize = 250;

/// The shutdown signal ended the writes.
pub(super) struct Stopped;

type Batch = Arc<Vec<(Observation, UnixSeconds)>>;
#[derive(Default)]
struct Written {
    effect: Effect,
    /// Subjects whose observations had no effect, without newer events that explain it.
    ineffective: Vec<String>,
}

#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) writer: &'a Writer,
    pub(super) clock: &'a SharedClock,
    /// The beginning of the comparison.
    pub(super) since: Since,
}

/// Collects observations; the next batch fills while the writer commits one.
pub(super) struct BatchWriter<'a> {
    target: Option<Target<'a>>,
    shutdown: &'a Shutdown,
    batch: Vec<(Observation, UnixSeconds)>,
    in_flight: Option<(Batch, Receiver<Result<Written, StoreError>>)>,
    written: Written,
}

impl<'a> BatchWriter<'a> {
    /// Discards all observations if there is no target.
    pub(super) fn new(target: Option<Target<'a>>, shutdown: &'a Shutdown) -> Self {
        Self { target, shutdown, batch: Vec::new(), in_flight: None, written: Written::default() }
    }

    /// Adds an observation of `at` on WeCom's clock.
    pub(super) fn add(&mut self, observation: Observation, at: UnixSeconds) -> Result<(), Stopped> {
        if self.target.is_none() {
            return Ok(());
        }
        self.batch.push((observation, at));
        if self.batch.len() >= BATCH { self.submit_batch() } else { Ok(()) }
    }

    /// Waits until all observations are committed.
    pub(super) fn flush(&mut self) -> Result<(), Stopped> {
        if !self.batch.is_empty() {
            self.submit_batch()?;
        }
        self.wait()
    }

    /// The effect of the committed batches.
    pub(super) fn effect(&self) -> Effect {
        self.written.effect
    }

    /// Subjects whose observations had no effect, without events since the comparison began that explain it.
    pub(super) fn ineffective(&self) -> &[String] {
        &self.written.ineffective
    }

    fn submit_batch(&mut self) -> Result<(), Stopped> {
        self.wait()?;
        let batch = Arc::new(std::mem::take(&mut self.batch));
        if let Some(target) = self.target {
            let written = submit(target, &batch);
            self.in_flight = Some((batch, written));
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), Stopped> {
        let (Some((batch, mut written)), Some(target)) = (self.in_flight.take(), self.target) else {
            return Ok(());
        };
        loop {
            match written.recv().unwrap_or(Err(StoreError::Closed)) {
                Ok(done) => {
                    self.written.effect.add(done.effect);
                    self.written.ineffective.extend(done.ineffective);
                    return Ok(());
                }
                Err(StoreError::Closed) => return Err(Stopped),
                Err(error) if error.is_of_the_data() && batch.len() == 1 => {
                    log::error!(
                        "comparison: an observation is skipped, because it cannot be stored: {:?}: {error}",
                        batch[0].0
                    );
                    return Ok(());
                }
                Err(error) if error.is_of_the_data() => {
                    // One observation cannot be stored; batches of one let the others be committed.
                    for one in batch.iter() {
                        let one = Arc::new(vec![one.clone()]);
                        self.in_flight = Some((Arc::clone(&one), submit(target, &one)));
                        self.wait()?;
                    }
                    return Ok(());
                }
                // The writer logs the error; observations do not become stale within a second.
                Err(_) if self.shutdown.sleep(Duration::from_secs(1)) => return Err(Stopped),
                Err(_) => written = submit(target, &batch),
            }
        }
    }
}

fn submit(target: Target<'_>, batch: &Batch) -> Receiver<Result<Written, StoreError>> {
    let (sender, receiver) = sync_channel(1);
    let batch = Arc::clone(batch);
    let (moment, since) = (target.clock.moment(), target.since);
    target.writer.submit(
        Instant::now() + COMMIT_TIMEOUT,
        move |connection| {
            let mut done = Written::default();
            for (observation, at) in batch.iter() {
                let observed = observe(connection, observation, *at, moment)?;
                done.effect.add(observed.effect);
                if !observed.holds && !observation.has_news_since(connection, since)? {
                    done.ineffective.push(observation.subject());
                }
            }
            Ok(done)
        },
        move |written| {
            // The comparison may have ended.
            let _ = sender.send(written);
        },
    );
    receiver
}
