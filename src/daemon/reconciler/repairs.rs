//! Writing what a comparison found: in batches through the writer, so that callbacks come in between.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use crate::directory::UnixSeconds;
use crate::stop::Stop;
use crate::store::observed::{Effect, Observation, observe};
use crate::store::{StoreError, Writer};
use crate::wecom::api::clock;

/// Observations in one piece of work: some 50 ms, which a callback may have to wait.
const BATCH: usize = 1000;
/// A piece of work that the database does not take within this is handed in again.
const PATIENCE: Duration = Duration::from_secs(4);

/// The program is ending.
pub(super) struct Stopped;

type Batch = Arc<Vec<(Observation, UnixSeconds)>>;
type Written = Result<Effect, StoreError>;

/// Hands observations to the writer, one batch ahead of what is committed.
pub(super) struct Repairs<'a> {
    writer: Option<&'a Writer>,
    stop: &'a Stop,
    batch: Vec<(Observation, UnixSeconds)>,
    under_way: Option<(Batch, Receiver<Written>)>,
    effect: Effect,
}

impl<'a> Repairs<'a> {
    /// Without a writer nothing is written.
    pub(super) fn new(writer: Option<&'a Writer>, stop: &'a Stop) -> Self {
        Self { writer, stop, batch: Vec::new(), under_way: None, effect: Effect::default() }
    }

    /// What was observed at `at` on WeCom's clock.
    pub(super) fn add(&mut self, observation: Observation, at: UnixSeconds) -> Result<(), Stopped> {
        if self.writer.is_none() {
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
        self.effect
    }

    fn hand_in(&mut self) -> Result<(), Stopped> {
        self.wait()?;
        let batch = Arc::new(std::mem::take(&mut self.batch));
        if let Some(writer) = self.writer {
            let written = submit(writer, &batch);
            self.under_way = Some((batch, written));
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), Stopped> {
        let (Some((batch, mut written)), Some(writer)) = (self.under_way.take(), self.writer) else {
            return Ok(());
        };
        loop {
            match written.recv().unwrap_or(Err(StoreError::Closed)) {
                Ok(effect) => {
                    self.effect.add(effect);
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
                        self.under_way = Some((Arc::clone(&one), submit(writer, &one)));
                        self.wait()?;
                    }
                    return Ok(());
                }
                // The writer tells the operator; what was found does not go stale so soon.
                Err(_) if self.stop.sleep(Duration::from_secs(1)) => return Err(Stopped),
                Err(_) => written = submit(writer, &batch),
            }
        }
    }
}

fn submit(writer: &Writer, batch: &Batch) -> Receiver<Written> {
    let (sender, receiver) = sync_channel(1);
    let batch = Arc::clone(batch);
    writer.submit(
        Instant::now() + PATIENCE,
        move |connection| {
            let now = clock();
            let mut effect = Effect::default();
            for (observation, at) in batch.iter() {
                effect.add(observe(connection, observation, *at, now)?);
            }
            Ok(effect)
        },
        move |written| {
            // Whoever asked may have been stopped.
            let _ = sender.send(written);
        },
    );
    receiver
}
