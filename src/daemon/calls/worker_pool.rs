//! Threads for calls: started on demand, ended when idle.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::Duration;

/// An idle thread ends after this time.
const MAX_IDLE: Duration = Duration::from_secs(10);
/// Enough for TLS, JSON and a commit, also in a build without optimisation.
const STACK: usize = 512 * 1024;

pub(super) type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    work: VecDeque<Work>,
    /// Threads that wait for work.
    idle: usize,
    is_closed: bool,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    wakeup: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pool; its owner bounds the work, and with it the threads. Idle threads end when it is dropped.
#[derive(Default)]
pub(super) struct WorkerPool {
    queue: Arc<Queue>,
    /// Whether the system refused the last thread, which was logged.
    is_failing: bool,
}

impl WorkerPool {
    /// Runs `work` on an idle thread, else on a new one; if the system refuses a thread, on the caller's own.
    pub(super) fn run(&mut self, work: Work) {
        let mut state = self.queue.lock();
        state.work.push_back(work);
        if state.work.len() <= state.idle {
            drop(state);
            return self.queue.wakeup.notify_one();
        }
        drop(state);
        let queue = Arc::clone(&self.queue);
        match Builder::new().name("call".into()).stack_size(STACK).spawn(move || serve(&queue)) {
            Ok(_) => self.is_failing = false,
            Err(error) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    log::warn!(
                        "no thread for another call of WeCom's API ({error}); fewer calls are made at a time; allow more threads (ulimit -u, TasksMax=)"
                    );
                }
                // A thread that became idle meanwhile may have taken it.
                let work = self.queue.lock().work.pop_back();
                work.into_iter().for_each(|work| work());
            }
        }
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        self.queue.lock().is_closed = true;
        self.queue.wakeup.notify_all();
    }
}

fn serve(queue: &Queue) {
    let mut state = queue.lock();
    loop {
        while let Some(work) = state.work.pop_front() {
            drop(state);
            work();
            state = queue.lock();
        }
        state.idle += 1;
        let is_idle = |state: &mut State| state.work.is_empty() && !state.is_closed;
        let waited = queue.wakeup.wait_timeout_while(state, MAX_IDLE, is_idle);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.idle -= 1;
        if state.work.is_empty() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread::ThreadId;

    use super::*;

    #[test]
    fn an_idle_thread_is_used_before_a_new_one_is_started() {
        let mut pool = WorkerPool::default();
        let (sender, done) = channel::<ThreadId>();
        let ran_by = |pool: &mut WorkerPool, times: usize| -> Vec<ThreadId> {
            let (release, gate) = (Arc::new(std::sync::Barrier::new(times + 1)), sender.clone());
            for _ in 0..times {
                let (release, gate) = (Arc::clone(&release), gate.clone());
                pool.run(Box::new(move || {
                    release.wait();
                    gate.send(std::thread::current().id()).unwrap();
                }));
            }
            release.wait();
            (0..times).map(|_| done.recv().unwrap()).collect()
        };
        let idle = |pool: &WorkerPool, threads| {
            while pool.queue.lock().idle < threads {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let first = ran_by(&mut pool, 1);
        idle(&pool, 1);
        let three = ran_by(&mut pool, 3);
        assert!(three.contains(&first[0]));
        idle(&pool, 3);
        assert!(ran_by(&mut pool, 2).iter().all(|thread| three.contains(thread)));
        let queue = Arc::downgrade(&pool.queue);
        drop(pool);
        while queue.strong_count() > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
