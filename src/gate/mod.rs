//! The front door: takes client connections, reads each request whole, within bounds of size and time,
//! and only then passes it to the tiny_http server behind it, over connections that are always there.
//!
//! tiny_http gives every connection a thread for as long as the client likes, reads bodies without a
//! time-out, and its accept loop ends at the first error. Behind this gate it meets none of that: it sees
//! complete requests of bounded size, composed anew, over a fixed number of local connections. One
//! thread, readiness-driven, serves all clients; what a client costs before its request is complete is a
//! descriptor and the bytes that it sent, and the oldest incomplete ones go when there are too many.

mod answer;
mod backend;
mod chunked;
mod client;
mod clients;
mod conn;
mod glimpse;
mod head;
mod limits;
mod memory;
mod observer;
mod opening;
mod poll;
mod refusal;
mod routes;
mod stats;
mod times;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use backend::{Backend, private_server};
pub use glimpse::Glimpse;
pub use head::{Head, PEER_HEADER, parse as parse_head};
pub use limits::{Budget, Limits, bind, descriptor_budget};
pub use observer::{Observer, Refused};
pub use refusal::Refusal;
pub use routes::Routes;
pub(crate) use routes::without_slash;
pub use stats::{GateSnapshot, GateStats};
pub use times::TimesSnapshot;

/// A gate at work.
pub struct Gate {
    address: SocketAddr,
    stats: Arc<GateStats>,
    signal: Arc<Signal>,
    waker: mio::Waker,
    thread: JoinHandle<()>,
}

/// Tells the gate's thread to end.
#[derive(Default)]
struct Signal {
    given: AtomicBool,
    deadline: Mutex<Option<Instant>>,
}

impl Signal {
    fn deadline(&self) -> Option<Instant> {
        // The flag spares the lock at every turn of the loop.
        if !self.given.load(Ordering::Acquire) {
            return None;
        }
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    /// Starts to serve: `routes` admits requests from `listener` to `backend`, and `observer` is called for each
    /// refused request.
    ///
    /// # Errors
    /// If the system refuses what it takes: polling, or a thread.
    pub fn start(
        listener: TcpListener,
        routes: Routes,
        limits: Limits,
        backend: Backend,
        observer: Option<Arc<dyn Observer>>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let stats = Arc::new(GateStats::default());
        let signal = Arc::new(Signal::default());
        let (mut poll, waker) = poll::Poll::new(
            listener,
            routes,
            limits,
            backend,
            observer,
            Arc::clone(&stats),
            Arc::clone(&signal),
        )?;
        let thread = std::thread::Builder::new().name("gate".into()).spawn(move || poll.run())?;
        Ok(Self { address, stats, signal, waker, thread })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> Arc<GateStats> {
        Arc::clone(&self.stats)
    }

    /// Whether its thread has ended, which it does only when it is told to, or when polling fails.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Takes no more connections, answers what was completely received, and ends: after `grace` in any
    /// case.
    pub fn stop(self, grace: Duration) {
        *self.signal.deadline.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + grace);
        self.signal.given.store(true, Ordering::Release);
        if let Err(error) = self.waker.wake() {
            log::error!("gate: cannot be told to stop: {error}");
            return;
        }
        if self.thread.join().is_err() {
            log::error!("gate: ended in a panic; please report this");
        }
    }
}
