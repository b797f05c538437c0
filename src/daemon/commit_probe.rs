//! Tries whether an event can be made durable now, by a commit through the writer.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use crate::store::state::PROBE;
use crate::store::{Connection, StoreError, Writer};
use crate::unix_time::unix_now;

/// What the writer answers to a probe.
#[derive(Debug)]
pub(super) enum CommitAnswer {
    Committed,
    /// The writer works, and the storage refuses.
    Refused(StoreError),
    /// The writer's thread has ended.
    Ended,
    /// No answer in time.
    Silent,
}

/// A job that changes the database.
fn job() -> impl FnMut(&Connection) -> Result<(), StoreError> + Send + 'static {
    // SQLite writes and syncs only a value that differs.
    let random = fastrand::u64(..);
    move |connection| PROBE.set(connection, unix_now(), &random)
}

/// Commits, and waits for the writer's reply.
pub(super) fn commit(writer: &Writer, timeout: Duration) -> Result<(), StoreError> {
    writer.run(timeout, job())
}

/// At most one commit is outstanding.
pub(super) struct CommitProbe {
    writer: Writer,
    in_flight: Option<Receiver<Result<(), StoreError>>>,
}

impl CommitProbe {
    pub(super) fn new(writer: Writer) -> Self {
        Self { writer, in_flight: None }
    }

    /// Submits a commit with this deadline, unless one is outstanding. A late reply is discarded.
    pub(super) fn send(&mut self, timeout: Duration) {
        let earlier = self.in_flight.take();
        self.in_flight = earlier.filter(|answer| matches!(answer.try_recv(), Err(TryRecvError::Empty)));
        if self.in_flight.is_some() {
            return;
        }
        let (sender, receiver) = sync_channel(1);
        self.writer.submit(Instant::now() + timeout, job(), move |result| {
            let _ = sender.send(result);
        });
        self.in_flight = Some(receiver);
    }

    /// Waits for the answer until `deadline`.
    pub(super) fn receive(&mut self, deadline: Instant) -> CommitAnswer {
        let Some(answer) = self.in_flight.take() else { return CommitAnswer::Silent };
        match answer.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Ok(())) => CommitAnswer::Committed,
            Ok(Err(StoreError::Closed)) | Err(RecvTimeoutError::Disconnected) => CommitAnswer::Ended,
            Ok(Err(error)) => CommitAnswer::Refused(error),
            Err(RecvTimeoutError::Timeout) => {
                self.in_flight = Some(answer);
                CommitAnswer::Silent
            }
        }
    }
}
