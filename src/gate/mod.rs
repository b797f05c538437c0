//! Reverse proxy that limits every client before its request reaches tiny_http.
//!
//! tiny_http gives each connection a thread for as long as the client likes, reads bodies without a timeout, and
//! stops accepting at the first error. The gate therefore accepts the connections itself, reads each request whole
//! within bounds of size and time, and forwards it over a fixed number of local connections, the upstreams. One
//! thread serves all clients. An incomplete request costs one descriptor and the bytes that were received.
//!
//! - `event_loop` accepts clients, serves ready sockets, enforces deadlines and dispatches requests to the upstreams.
//! - `connection` is the state machine of one client; `connections` holds all of them, their totals and the queue.
//! - `request_reader` turns bytes into requests with `proxy_protocol`, `request_head` and `chunked`; no socket, no clock.
//! - `upstream`, `server_probe` and `response` are the side of tiny_http; `nonblocking` is epoll and socket I/O.
//! - `limits`, `routes`, `refusal`, `request_summary` and `stats` are what the daemon configures and observes.

mod chunked;
mod connection;
mod connections;
mod event_loop;
mod limits;
pub(crate) mod nonblocking;
mod proxy_protocol;
mod refusal;
mod request_head;
mod request_reader;
mod request_summary;
mod response;
mod routes;
mod server_probe;
mod stats;
mod upstream;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use event_loop::EventLoop;
use nonblocking::Waker;

pub use limits::{Budget, Limits, bind, descriptor_budget};
pub use refusal::{Observer, Refusal, RefusedRequest};
pub use request_head::{Head, PEER_HEADER, parse as parse_head};
pub use request_summary::RequestSummary;
pub use routes::Routes;
pub(crate) use routes::without_slash;
pub use server_probe::{SERVER_PROBE, ServerProbe};
pub use stats::{GateSnapshot, GateStats, LatencySnapshot};
pub use upstream::{Upstream, private_server};

/// Handle of a running gate. Dropping it leaves the gate running; call [`Gate::stop`].
pub struct Gate {
    address: SocketAddr,
    stats: Arc<GateStats>,
    control: Arc<Control>,
    thread: JoinHandle<()>,
}

/// Requests of other threads to the event loop.
struct Control {
    /// When the event loop ends at the latest; set once.
    deadline: OnceLock<Instant>,
    /// As in [`Limits::max_body`], which it replaces in the next turn.
    max_body: AtomicUsize,
    /// Gets an answer in the next turn.
    probe: Mutex<Option<SyncSender<()>>>,
    waker: Waker,
}

impl Control {
    fn answer_probe(&self) {
        if let Some(probe) = self.probe.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // The prober may have given up.
            let _ = probe.try_send(());
        }
    }
}

/// Asks the event loop for a sign of life.
pub struct GateProbe(Arc<Control>);

impl GateProbe {
    /// Wakes the event loop, whose next turn sends one message.
    pub fn send(&self) -> Receiver<()> {
        let (answer, answered) = sync_channel(1);
        *self.0.probe.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        if let Err(error) = self.0.waker.wake() {
            log::error!("gate: cannot wake the event loop: {error}");
        }
        answered
    }
}

impl Gate {
    /// Starts the gate's thread. `routes` selects the requests from `listener` that go on to `upstreams`; `observer`
    /// is called for each request that the gate refuses.
    ///
    /// # Errors
    /// The system provides no epoll instance, eventfd or thread.
    pub fn start(
        listener: TcpListener,
        routes: Routes,
        limits: Limits,
        upstreams: Vec<Upstream>,
        observer: Option<Arc<dyn Observer>>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let stats = Arc::new(GateStats::default());
        let control = Arc::new(Control {
            deadline: OnceLock::new(),
            max_body: AtomicUsize::new(limits.max_body),
            probe: Mutex::default(),
            waker: Waker::new()?,
        });
        let shared = connection::Shared { routes, limits, stats: Arc::clone(&stats), observer };
        let mut event_loop = EventLoop::new(listener, shared, upstreams, Arc::clone(&control))?;
        let thread = std::thread::Builder::new().name("gate".into()).spawn(move || event_loop.run())?;
        Ok(Self { address, stats, control, thread })
    }

    /// The listening address, with the port that the system chose if 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The live counters, readable from any thread.
    #[must_use]
    pub fn stats(&self) -> Arc<GateStats> {
        Arc::clone(&self.stats)
    }

    /// Changes [`Limits::max_body`] for requests that have not begun.
    pub fn set_max_body(&self, max_body: usize) {
        self.control.max_body.store(max_body, Relaxed);
        if let Err(error) = self.control.waker.wake() {
            log::error!("gate: cannot wake the event loop: {error}");
        }
    }

    /// A probe of the event loop.
    #[must_use]
    pub fn probe(&self) -> GateProbe {
        GateProbe(Arc::clone(&self.control))
    }

    /// Whether the thread has ended. It ends only after [`Gate::stop`], a polling error or a panic.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Accepts no more connections, answers the complete requests, and joins the thread. Remaining connections are
    /// closed after `grace`.
    pub fn stop(self, grace: Duration) {
        // Nothing else sets the deadline, because this consumes the handle.
        let _ = self.control.deadline.set(Instant::now() + grace);
        if let Err(error) = self.control.waker.wake() {
            log::error!("gate: cannot wake the event loop to stop it: {error}");
            return;
        }
        if self.thread.join().is_err() {
            log::error!("gate: the event loop ended in a panic; please report this");
        }
    }
}
