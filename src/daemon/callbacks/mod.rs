//! The callback listener: the gate, the workers that decrypt and parse, and the responder.

mod endpoint;
mod event_clock;
mod large_events;
mod server;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

pub use endpoint::{CallbackError, Endpoint, Received};

use super::gate_observer::GateObserver;
use super::refusals::Refusals;
use super::threads::Threads;
use super::wakeup::Wakeup;
use super::{MemberCalls, Shared, StartError};
use crate::config::{Config, Keys, Previous};
use crate::gate::{Budget, Gate, GateProbe, GateStats, Limits, Routes, ServerProbe, Upstream};
use crate::wecom::callback::crypt::Crypt;
use event_clock::EventClock;
use server::Server;

/// Requests that may be with the workers and the writer at the same time, and share a commit.
const IN_FLIGHT: usize = 32;
/// Client connections at a time.
const CONNECTIONS: usize = 4096;
/// Descriptors for the database, the log, API calls, the control socket and what the runtime needs.
const RESERVED_DESCRIPTORS: usize = 96;

pub(crate) struct Callbacks {
    gate: Gate,
    server: Arc<Server>,
    threads: Threads,
    workers: usize,
    has_few_descriptors: bool,
    server_probe: Option<ServerProbe>,
}

/// The callback URLs and their keys, as configured.
pub(super) fn endpoints(config: &Config) -> Result<Vec<Endpoint>, StartError> {
    let crypts = |keys: &Keys, previous: &Previous, receive_id: &str| -> Result<Vec<Crypt>, StartError> {
        let crypt =
            |keys: &Keys| keys.crypt(receive_id).map_err(|error| StartError::Config(error.to_string()));
        keys.with(previous).iter().map(crypt).collect()
    };
    let callback = &config.callback;
    let keys = crypts(&callback.keys, &callback.previous, &callback.receive_id)?;
    let mut endpoints = vec![Endpoint { path: callback.path.clone(), keys, app: false }];
    if let Some(app) = &config.app_callback {
        let keys = crypts(&app.keys, &app.previous, &app.receive_id)?;
        endpoints.push(Endpoint { path: app.path.clone(), keys, app: true });
    }
    Ok(endpoints)
}

impl Callbacks {
    /// Starts to answer. `reserved`: descriptors that the admin listener needs. The thread that records refusals is
    /// added to `threads`, as it ends after the workers.
    pub(super) fn start(
        config: &Config,
        (endpoints, passed): (Vec<Endpoint>, Option<TcpListener>),
        (shared, calls): (&Shared, &MemberCalls),
        reserved: usize,
        threads: &mut Threads,
    ) -> Result<Self, StartError> {
        let settings = &config.callback;
        let listener = listener(config, passed)?;
        let wanted = Budget { max_connections: CONNECTIONS, max_in_flight: IN_FLIGHT };
        let budget = crate::gate::descriptor_budget(wanted, RESERVED_DESCRIPTORS + reserved);
        let folder = shared.database.parent().unwrap_or(Path::new("."));
        // One more, which no client's request uses.
        let (http, mut upstreams) = crate::gate::private_server(budget.max_in_flight + 1, folder)?;
        let server_probe = upstreams.pop().map(Upstream::into_probe).transpose()?;
        let routes = endpoints.iter().fold(Routes::new(), |r, e| r.with_callback(&e.path, &["GET", "POST"]));
        let routes = match &settings.probe_path {
            Some(path) => routes.with_probe(path),
            None => routes,
        };
        let refusals =
            Refusals::start(&endpoints, Arc::clone(&shared.metrics), shared.writer.clone(), threads)?;
        let server = Arc::new(Server {
            http,
            endpoints: RwLock::new(endpoints.into()),
            corp_id: config.wecom.corp_id.clone(),
            event_clock: EventClock::new(shared.client.clock().clone()),
            shared: shared.clone(),
            calls: calls.clone(),
            refusals: Arc::clone(&refusals),
            large_events: Wakeup::default(),
        });
        let large_events = {
            let (shared, calls, wakeup) = (shared.clone(), calls.clone(), server.large_events.clone());
            move || large_events::run(&shared, &calls, &wakeup)
        };
        threads.spawn("large-events", large_events)?;
        let threads = Server::start(&server, settings.threads)?;
        let limits = Limits {
            max_connections: budget.max_connections,
            max_body: settings.max_body,
            proxy_protocol: settings.proxy_protocol,
            ..Limits::default()
        };
        let observer = GateObserver::new(refusals, Arc::clone(&shared.metrics), Arc::clone(&shared.triggers));
        let gate = Gate::start(listener, routes, limits, upstreams, Some(Arc::new(observer)))?;
        let has_few_descriptors = budget != wanted;
        Ok(Self { gate, server, threads, workers: settings.threads, has_few_descriptors, server_probe })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.gate.local_addr()
    }

    pub(super) fn gate_stats(&self) -> Arc<GateStats> {
        self.gate.stats()
    }

    /// Whether the system grants fewer descriptors than the listener wants.
    pub(super) fn has_few_descriptors(&self) -> bool {
        self.has_few_descriptors
    }

    /// Whether the gate, a worker or the responder has ended by itself.
    pub(super) fn is_broken(&self) -> bool {
        self.gate.is_finished() || self.threads.has_ended()
    }

    /// Accepts other keys and another length of bodies from the next request on.
    pub(super) fn reload(&self, endpoints: Vec<Endpoint>, max_body: usize) {
        *self.server.endpoints.write().unwrap_or_else(PoisonError::into_inner) = endpoints.into();
        self.gate.set_max_body(max_body);
    }

    /// Probes of the gate, and of workers and responder; the latter once.
    pub(super) fn probes(&mut self) -> Option<(GateProbe, ServerProbe)> {
        Some((self.gate.probe(), self.server_probe.take()?))
    }

    /// Answers the accepted requests and ends; what is not answered at `deadline` stays unanswered.
    pub(super) fn stop(self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        self.gate.stop(left.saturating_sub(Duration::from_millis(500)));
        // Each call ends one worker.
        (0..self.workers).for_each(|_| self.server.http.unblock());
        self.threads.join_until(deadline.checked_sub(Duration::from_millis(300)).unwrap_or(deadline));
        self.server.refusals.end();
        self.server.large_events.notify();
    }
}

/// The socket that systemd passed; else a new one.
fn listener(config: &Config, passed: Option<TcpListener>) -> Result<TcpListener, StartError> {
    let address = config.callback.listen;
    let Some(listener) = passed else {
        return crate::gate::bind(address).map_err(|error| StartError::Listen { address, error });
    };
    let passed = listener.local_addr()?;
    log::info!("listening on {passed}, the socket that was handed over");
    if config.callback.is_listen_set && passed != address {
        log::warn!("{}", config.ignored_listen(&passed.to_string()));
    }
    Ok(listener)
}
