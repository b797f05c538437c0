//! Starts and joins the threads of the daemon.

use std::io;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// Interval of the checks whether a thread has ended.
const CHECK: Duration = Duration::from_millis(2);

/// Threads that are joined together.
#[derive(Default)]
pub(crate) struct Threads(Vec<JoinHandle<()>>);

impl Threads {
    /// Starts a thread of this name, which `ps -L` and panics show.
    pub(crate) fn spawn(
        &mut self,
        name: impl Into<String>,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        self.0.push(Builder::new().name(name.into()).spawn(work)?);
        Ok(())
    }

    /// Whether a thread has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.iter().any(JoinHandle::is_finished)
    }

    /// Joins the threads that end before `deadline`, and leaves the others behind. Panics are logged.
    pub(crate) fn join_until(self, deadline: Instant) {
        for thread in self.0 {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(CHECK);
            }
            if !thread.is_finished() {
                continue;
            }
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                log::error!("thread {name} ended in a panic; please report this");
            }
        }
    }
}
