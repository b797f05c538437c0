//! The queue of one API: its backlog, its calls in flight, and the part that knows what is due.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::backlog::{Backlog, Claim, Outcome};
use super::worker_pool::WorkerPool;
use super::{BLOCKED_CHECK, Shared};
use crate::daemon::wakeup::Wakeup;
use crate::store::{Connection, StoreError};
use crate::wecom::api::rate_limiter::Priority;
use crate::wecom::api::{Admission, Api};

/// Wait of a member whose answer cannot be stored: it must not be called about without a break.
const NOT_STORED: Duration = Duration::from_secs(60);

/// A part that calls one API for single members. [`Caller::call`] runs on the threads of the pool, the rest on the
/// dispatcher's thread.
pub(in crate::daemon) trait Caller: Send + Sync + 'static {
    type Claim: Claim;
    const API: Api;
    /// Of urgent members, and of the others.
    const PRIORITIES: (Priority, Priority);

    /// Takes over the news from other threads.
    fn receive(&self, reader: &Connection, backlog: &mut Backlog<Self::Claim>, now: Instant);

    /// Adds due members to the empty backlog; returns the time of the next query, if there are none.
    fn find(
        &self,
        reader: &Connection,
        backlog: &mut Backlog<Self::Claim>,
        now: Instant,
    ) -> crate::store::Result<Instant>;

    /// Calls WeCom, and commits the answer. `tries` is the number of answers that count against the member.
    fn call(&self, claim: &Self::Claim, tries: u32, admission: Admission) -> Result<Outcome, StoreError>;
}

/// A queue, without its types of members.
pub(super) trait CallQueue: Send {
    fn api(&self) -> Api;
    fn in_flight(&self) -> usize;
    /// Takes over the ended calls.
    fn receive_ended(&mut self, now: Instant);
    /// The priority of the next call, else the time of the next attempt to find one.
    fn next(&mut self, reader: &Connection, now: Instant) -> Result<Priority, Instant>;
    /// Makes the next call on a thread of the pool.
    fn start(&mut self, admission: Admission, pool: &mut WorkerPool);
}

type Ended<C> = (<C as Caller>::Claim, Outcome);

pub(super) struct Queue<C: Caller> {
    caller: Arc<C>,
    shared: Shared,
    wakeup: Wakeup,
    backlog: Backlog<C::Claim>,
    ended: Sender<Ended<C>>,
    outcomes: Receiver<Ended<C>>,
    /// Whether the database cannot be read, which was logged.
    is_failing: bool,
}

impl<C: Caller> Queue<C> {
    /// `wakeup` wakes the dispatcher.
    pub(super) fn new(caller: Arc<C>, shared: &Shared, wakeup: &Wakeup) -> Self {
        let (ended, outcomes) = channel();
        Self {
            caller,
            shared: shared.clone(),
            wakeup: wakeup.clone(),
            backlog: Backlog::new(Instant::now()),
            ended,
            outcomes,
            is_failing: false,
        }
    }

    fn find(&mut self, reader: &Connection, now: Instant) {
        let found = self.caller.find(reader, &mut self.backlog, now);
        let next = found.as_ref().map_or(now + BLOCKED_CHECK, |next| *next);
        self.backlog.check_at = match self.backlog.next_wait(now) {
            Some(wait) if self.backlog.is_empty() => next.min(wait),
            None if self.backlog.is_empty() => next,
            _ => now,
        };
        let was_failing = std::mem::replace(&mut self.is_failing, found.is_err());
        if let Err(error) = found
            && !was_failing
        {
            log::error!("cannot look for members that are due: {}", error);
        }
    }
}

impl<C: Caller> CallQueue for Queue<C> {
    fn api(&self) -> Api {
        C::API
    }

    fn in_flight(&self) -> usize {
        self.backlog.in_flight()
    }

    fn receive_ended(&mut self, now: Instant) {
        for (claim, outcome) in self.outcomes.try_iter() {
            self.backlog.finish(claim, outcome, now);
        }
    }

    fn next(&mut self, reader: &Connection, now: Instant) -> Result<Priority, Instant> {
        self.caller.receive(reader, &mut self.backlog, now);
        if self.backlog.is_empty() && self.backlog.check_at <= now {
            self.find(reader, now);
        }
        match self.backlog.next_is_urgent() {
            Some(true) => Ok(C::PRIORITIES.0),
            Some(false) => Ok(C::PRIORITIES.1),
            None => Err(self.backlog.check_at),
        }
    }

    fn start(&mut self, admission: Admission, pool: &mut WorkerPool) {
        let Some((claim, tries)) = self.backlog.take() else { return };
        let (caller, shared, wakeup) = (Arc::clone(&self.caller), self.shared.clone(), self.wakeup.clone());
        let ended = self.ended.clone();
        pool.run(Box::new(move || {
            let begun = Instant::now();
            // A panic must not leave the member in flight for ever; the log has it.
            let called = catch_unwind(AssertUnwindSafe(|| caller.call(&claim, tries, admission)));
            let wait = Outcome::Wait { until: Instant::now() + NOT_STORED, tries };
            let outcome = match called {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(StoreError::Closed)) => Outcome::Unanswered,
                Ok(Err(error)) => {
                    log::error!("WeCom's answer about userid={} cannot be stored: {error}", claim.userid());
                    wait
                }
                Err(_) => wait,
            };
            if outcome == Outcome::Answered {
                shared.client.answered_in(begun.elapsed());
            }
            // Fails only after the dispatcher has ended.
            let _ = ended.send((claim, outcome));
            wakeup.notify();
        }));
    }
}
