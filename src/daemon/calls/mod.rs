//! Calls about single members: conversions and details. One thread, the dispatcher, decides which call is next, and makes
//! it on a thread of a pool once circuit breaker, rate limiter and the limit of calls in flight admit it.
//!
//! A member stays due in the database until WeCom's answer is committed; which members are in flight is known in memory
//! only. After a crash they are called about again.

mod backlog;
mod queue;
mod worker_pool;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::converter::Converter;
use super::details::Details;
use super::threads::Threads;
use super::wakeup::Wakeup;
use super::{CHECK_DATABASE, Shared, StartError};
use crate::config::Config;
use crate::store::Connection;
use crate::wecom::api::SecretKind;
use crate::wecom::api::rate_limiter::Priority;
pub(super) use backlog::{Backlog, Claim, Outcome};
pub(super) use queue::Caller;
use queue::{CallQueue, Queue};
use worker_pool::WorkerPool;

/// Interval of checks while calls are paused, which may end early, or the database cannot be read.
const BLOCKED_CHECK: Duration = Duration::from_secs(5);

/// The parts that call WeCom for single members.
#[derive(Clone, Default)]
pub(crate) struct MemberCalls {
    /// `None` if nothing is converted.
    pub converter: Option<Arc<Converter>>,
    /// `None` if no details are fetched.
    pub details: Option<Arc<Details>>,
    /// Wakes the dispatcher.
    wakeup: Wakeup,
}

impl MemberCalls {
    /// Starts the dispatcher, unless there is nothing to call or no app_secret.
    pub(super) fn start(config: &Config, shared: &Shared, threads: &mut Threads) -> Result<Self, StartError> {
        if !shared.client.has_secret(SecretKind::App) {
            return Ok(Self::default());
        }
        let (reader, wakeup) = (shared.reader()?, Wakeup::default());
        let converter = config.openid.enabled.then(|| Converter::new(&config.openid, shared, &wakeup));
        let details = config.fetch_details.then(|| Details::new(shared, &reader, &wakeup)).transpose();
        let details = details?;
        let (converter, details) = (converter.map(Arc::new), details.map(Arc::new));
        let mut queues: Vec<Box<dyn CallQueue>> = Vec::new();
        if let Some(converter) = &converter {
            queues.push(Box::new(Queue::new(Arc::clone(converter), shared, &wakeup)));
        }
        if let Some(details) = &details {
            queues.push(Box::new(Queue::new(Arc::clone(details), shared, &wakeup)));
        }
        if !queues.is_empty() {
            let (shared, wakeup) = (shared.clone(), wakeup.clone());
            let dispatcher =
                Dispatcher { shared, reader, queues, pool: WorkerPool::default(), wakeup, last: 0 };
            threads.spawn("calls", move || dispatcher.work())?;
        }
        Ok(Self { converter, details, wakeup })
    }

    /// Wakes the dispatcher after the shutdown signal.
    pub(super) fn wake(&self) {
        self.wakeup.notify();
    }
}

struct Dispatcher {
    shared: Shared,
    reader: Connection,
    queues: Vec<Box<dyn CallQueue>>,
    pool: WorkerPool,
    wakeup: Wakeup,
    /// Index of the queue that made the last call.
    last: usize,
}

impl Dispatcher {
    fn work(mut self) {
        while !self.shared.shutdown.is_triggered() {
            let until = self.dispatch();
            self.wakeup.wait(until.saturating_duration_since(Instant::now()));
        }
        // Answers that arrive in time are still committed.
        while self.in_flight() > 0 {
            self.wakeup.wait(CHECK_DATABASE);
            self.queues.iter_mut().for_each(|queue| queue.receive_ended(Instant::now()));
        }
    }

    fn in_flight(&self) -> usize {
        self.queues.iter().map(|queue| queue.in_flight()).sum()
    }

    /// Makes the calls that are due and admitted; returns when to look again, unless woken.
    fn dispatch(&mut self) -> Instant {
        loop {
            let now = Instant::now();
            let (mut look_at, mut due) = (now + CHECK_DATABASE, Vec::new());
            for (index, queue) in self.queues.iter_mut().enumerate() {
                queue.receive_ended(now);
                match queue.next(&self.reader, now) {
                    Ok(priority) => {
                        due.push((rank(priority), index == self.last, index, priority, queue.api()))
                    }
                    Err(at) => look_at = look_at.min(at),
                }
            }
            // The end of a call wakes this thread.
            if self.in_flight() >= self.shared.client.max_concurrent_calls()
                || self.shared.shutdown.is_triggered()
            {
                return look_at;
            }
            if !due.is_empty() {
                look_at = look_at.min(now + BLOCKED_CHECK);
            }
            due.sort_unstable_by_key(|(rank, was_last, index, ..)| (*rank, *was_last, *index));
            let admitted = due.into_iter().find_map(|(.., index, priority, api)| {
                let admission = self.shared.client.admit(api, SecretKind::App, priority);
                let admission = admission.inspect_err(|at| look_at = look_at.min(*at)).ok()?;
                Some((index, admission))
            });
            let Some((index, admission)) = admitted else { return look_at };
            if let Some(queue) = self.queues.get_mut(index) {
                queue.start(admission, &mut self.pool);
            }
            self.last = index;
        }
    }
}

/// The order in which calls are offered to the rate limiter. Queues of one rank take turns.
fn rank(priority: Priority) -> u8 {
    match priority {
        Priority::Now => 0,
        Priority::Conversion | Priority::Details | Priority::Reconcile => 1,
        Priority::Fill => 2,
    }
}
