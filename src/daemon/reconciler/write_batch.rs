//! Writing what a comparison found: in batches through the writer, so that callbacks come in between.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use crate::directory::UnixSeconds;
use crate::shutdown::Shutdown;
use crate::store::observations::{Effect, Observation, Since, observe};
use crate::store::{StoreError, Writer};
use crate::wecom::clock::SharedClock;

/// Observations in one piece of work: some 50 ms, which a callback may have to wait.
const BATCH: usize = 1000;
/// A piece of work that the database does not take within this is handed in again.
const PATIENCE: Duration = Duration::from_secs(4);

/// The program is ending.
pub(super) struct Stopped;

type Batch = Arc<Vec<(Observation, UnixSeconds)>>;
type Written = Result<Done, StoreError>;

/// What a batch came to.
#[derive(Default)]
struct Done {
    effect: Effect,
    /// Subjects whose repairs had no effect, although nothing newer was told of them.
    hidden: Vec<String>,
}

/// What repairs are written with.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) writer: &'a Writer,
    pub(super) clock: &'a SharedClock,
    /// The moment when the comparison began.
    pub(super) since: Since,
}

/// Hands observations to the writer, one batch ahead of what is committed.
pub(super) struct Repairs<'a> {
    target: Option<Target<'a>>,
    shutdown: &'a Shutdown,
    batch: Vec<(Observation, UnixSeconds)>,
    under_way: Option<(Batch, Receiver<Written>)>,
    done: Done,
}

impl<'a> Repairs<'a> {
    /// Without a target nothing is written.
    pub(super) fn new(target: Option<Target<'a>>, shutdown: &'a Shutdown) -> Self {
        Self { target, shutdown, batch: Vec::new(), under_way: None, done: Done::default() }
    }

    /// What was observed at `at` on WeCom's clock.
    pub(super) fn add(&mut self, observation: Observation, at: UnixSeconds) -> Result<(), Stopped> {
        if self.target.is_none() {
            return Ok(());
        }
        self.batch.push((observation, at));
        if self.batch.len() >= BATCH { self.hand_in() } else { Ok(()) }
    }

    /// Waits until all is committed.
    pub(super) fn flush(&mut self) -> Result<(), Stopped> {
        if !self.batch.is_empty() {
            self.hand_in()?;
        }
        self.wait()
    }

    /// What the committed batches came to.
    pub(super) fn effect(&self) -> Effect {
        self.done.effect
    }

    /// Subjects whose repairs had no effect, although nothing newer was told of them since the comparison began.
    pub(super) fn hidden(&self) -> &[String] {
        &self.done.hidden
    }

    fn hand_in(&mut self) -> Result<(), Stopped> {
        self.wait()?;
        let batch = Arc::new(std::mem::take(&mut self.batch));
        if let Some(target) = self.target {
            let written = submit(target, &batch);
            self.under_way = Some((batch, written));
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), Stopped> {
        let (Some((batch, mut written)), Some(target)) = (self.under_way.take(), self.target) else {
            return Ok(());
        };
        loop {
            match written.recv().unwrap_or(Err(StoreError::Closed)) {
                Ok(done) => {
                    self.done.effect.add(done.effect);
                    self.done.hidden.extend(done.hidden);
                    return Ok(());
                }
                Err(StoreError::Closed) => return Err(Stopped),
                Err(error) if error.is_of_the_data() && batch.len() == 1 => {
                    log::error!(
                        "comparison: passed over, because it cannot be stored: {:?}: {error}",
                        batch[0].0
                    );
                    return Ok(());
                }
                Err(error) if error.is_of_the_data() => {
                    // One of them: by itself it does not keep the others out.
                    for one in batch.iter() {
                        let one = Arc::new(vec![one.clone()]);
                        self.under_way = Some((Arc::clone(&one), submit(target, &one)));
                        self.wait()?;
                    }
                    return Ok(());
                }
                // The writer tells the operator; what was found does not go stale so soon.
                Err(_) if self.shutdown.sleep(Duration::from_secs(1)) => return Err(Stopped),
                Err(_) => written = submit(target, &batch),
            }
        }
    }
}

fn submit(target: Target<'_>, batch: &Batch) -> Receiver<Written> {
    let (sender, receiver) = sync_channel(1);
    let batch = Arc::clone(batch);
    let (moment, since) = (target.clock.moment(), target.since);
    target.writer.submit(
        Instant::now() + PATIENCE,
        move |connection| {
            let mut done = Done::default();
            for (observation, at) in batch.iter() {
                let observed = observe(connection, observation, *at, moment)?;
                done.effect.add(observed.effect);
                if !observed.holds && !observation.has_news_since(connection, since)? {
                    done.hidden.push(observation.subject());
                }
            }
            Ok(done)
        },
        move |written| {
            // Whoever asked may have been stopped.
            let _ = sender.send(written);
        },
    );
    receiver
}
