//! The admin listener: `/healthz` and `/metrics` for monitoring.
//!
//! A gate of its own bounds the clients. Behind it, one thread dispatches requests and one answers each kind: a slow count
//! does not delay `/healthz`, and a locked database does not delay `/metrics`. All of them sleep until a request arrives.

mod exposition;
mod health;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use crate::store::Connection;
use tiny_http::{Header, Request, Response};

use super::callbacks::Callbacks;
use super::threads::Threads;
use super::{Shared, StartError};
use crate::gate::{self, Gate, Limits, Routes};
use crate::store::{StoreError, open_reader};
use exposition::Exposition;
use health::Health;

const HEALTH: &str = "/healthz";
const METRICS: &str = "/metrics";

/// Requests behind the gate at a time.
const IN_FLIGHT: usize = 4;
/// Client connections at a time.
const CONNECTIONS: usize = 256;
/// In-flight requests and connections where descriptors are few.
const FEW: (usize, usize) = (2, 8);
/// Descriptors of this part: three for each request, its sockets, two database connections.
pub(super) const DESCRIPTORS: usize = 3 * IN_FLIGHT + CONNECTIONS + 16;
/// Wait for a lock that blocks readers, which few programs hold.
const READ_TIMEOUT: Duration = Duration::from_millis(250);

pub(crate) struct Admin {
    gate: Gate,
    http: Arc<tiny_http::Server>,
    threads: Threads,
}

impl Admin {
    /// Listens on this address; nothing is answered yet.
    pub(super) fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
        gate::bind(address).map_err(|error| StartError::ListenAdmin { address, error })
    }

    /// Starts to answer on `listener`. `compares`: a comparison follows when a callback was refused.
    pub(super) fn start(
        listener: TcpListener,
        shared: &Shared,
        callbacks: &Callbacks,
        compares: bool,
    ) -> Result<Self, StartError> {
        let database = &shared.database;
        let health = Health::new(
            shared.writer.clone(),
            callbacks.gate_stats(),
            Arc::clone(&shared.metrics),
            compares,
            reader(database)?,
        );
        let exposition = Exposition::new(
            Arc::clone(&shared.metrics),
            callbacks.gate_stats(),
            shared.client.clock().clone(),
            (reader(database)?, database.clone()),
        );
        let (in_flight, max_connections) =
            if callbacks.has_few_descriptors() { FEW } else { (IN_FLIGHT, CONNECTIONS) };

        let folder = database.parent().unwrap_or(Path::new("."));
        let (http, upstreams) = gate::private_server(in_flight, folder)?;
        let http = Arc::new(http);
        let methods = ["GET", "HEAD"];
        let routes = Routes::new().with(HEALTH, &methods).with(METRICS, &methods);
        let gate = Gate::start(listener, routes, limits(max_connections), upstreams, None)?;

        let (to_health, of_health) = channel();
        let (to_metrics, of_metrics) = channel();
        let server = Arc::clone(&http);
        let mut threads = Threads::default();
        threads.spawn("admin-health", move || answer_health(health, &of_health))?;
        threads.spawn("admin-metrics", move || answer_metrics(exposition, &of_metrics))?;
        threads.spawn("admin", move || dispatch(&server, &to_health, &to_metrics))?;
        Ok(Self { gate, http, threads })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.gate.local_addr()
    }

    /// Ends the listener within `timeout`. Requests that wait for the database then are not answered.
    pub(crate) fn stop(self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        self.gate.stop(timeout);
        self.http.unblock();
        self.threads.join_until(deadline);
    }
}

fn limits(max_connections: usize) -> Limits {
    Limits {
        max_connections,
        max_head: 8 * 1024,
        max_body: 1024,
        // Pipelined requests count, too.
        max_buffered: 4 * 1024 * 1024,
        request_deadline: Duration::from_secs(5),
        // Prometheus scrapes over a kept connection, usually every minute.
        idle_timeout: Duration::from_secs(300),
        // Prometheus itself gives up after 10 s.
        answer_deadline: Duration::from_secs(9),
        // An answer fits into the socket's buffer, so only a client that reads none of many is late.
        write_deadline: Duration::from_secs(2),
        proxy_protocol: false,
    }
}

/// A connection with a short lock timeout and a small cache.
fn reader(database: &Path) -> Result<Connection, StoreError> {
    let connection = open_reader(database)?;
    connection.limit(READ_TIMEOUT, 256)?;
    Ok(connection)
}

/// Passes each request to the thread of its kind, until the server is unblocked.
fn dispatch(server: &tiny_http::Server, health: &Sender<Request>, metrics: &Sender<Request>) {
    while let Ok(request) = server.recv() {
        let path = request.url().split('?').next().unwrap_or_default();
        let lane = match path {
            HEALTH => health,
            METRICS => metrics,
            _ => {
                // The gate lets no other path in.
                respond(request, 404, "text/plain; charset=utf-8", "not found\n".into());
                continue;
            }
        };
        if lane.send(request).is_err() {
            log::error!("admin: a thread has ended in a panic; please report this");
        }
    }
}

fn answer_health(mut health: Health, requests: &Receiver<Request>) {
    while let Ok(first) = requests.recv() {
        let status = health.status();
        // Requests that arrived meanwhile get the same answer.
        for request in std::iter::once(first).chain(requests.try_iter()) {
            respond(request, status.code, "text/plain; charset=utf-8", status.text.clone());
        }
    }
}

fn answer_metrics(mut exposition: Exposition, requests: &Receiver<Request>) {
    while let Ok(request) = requests.recv() {
        match exposition.text() {
            Ok(text) => respond(request, 200, exposition::CONTENT_TYPE, text),
            Err(error) => {
                log::error!("admin: the metrics cannot be written: {error}; please report this");
                respond(request, 500, "text/plain; charset=utf-8", "internal error\n".into());
            }
        }
    }
}

fn respond(request: Request, status: u16, content_type: &str, body: String) {
    let mut response = Response::from_data(body.into_bytes()).with_status_code(status);
    for (name, value) in [("Content-Type", content_type), ("Cache-Control", "no-store")] {
        response = match Header::from_bytes(name, value) {
            Ok(header) => response.with_header(header),
            Err(()) => response,
        };
    }
    if let Err(error) = request.respond(response) {
        log::debug!("admin: an answer could not be sent: {error}");
    }
}
