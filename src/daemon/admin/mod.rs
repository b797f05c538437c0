//! The admin listener: `/healthz` and `/metrics`, for whoever watches over the service.
//!
//! The same gate as for callbacks stands in front, so a client that stalls costs a descriptor and nobody's
//! time. Behind it, one thread sorts requests and one answers each kind: a slow count does not hold up
//! `/healthz`, and a locked database does not hold up `/metrics`. None of them wakes without being asked.

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
/// The same where descriptors are few.
const FEW: (usize, usize) = (2, 8);
/// What this part takes of the process's descriptors: three for each request, its sockets, two databases.
pub(super) const DESCRIPTORS: usize = 3 * IN_FLIGHT + CONNECTIONS + 16;
/// For a reader's lock, which only another program's unusual doings can hold.
const READ_PATIENCE: Duration = Duration::from_millis(250);

/// The admin listener at work.
pub struct Admin {
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
        let health = Health::new(shared, callbacks.gate_stats(), compares, reader(database)?);
        let exposition = Exposition::new(
            Arc::clone(&shared.metrics),
            callbacks.gate_stats(),
            shared.client.clock().clone(),
            reader(database)?,
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
        threads.spawn("admin", move || sort(&server, &to_health, &to_metrics))?;
        Ok(Self { gate, http, threads })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.gate.local_addr()
    }

    /// Ends it within `patience`. What still waits for the database then is left without an answer.
    pub fn stop(self, patience: Duration) {
        let deadline = Instant::now() + patience;
        self.gate.stop(patience);
        self.http.unblock();
        self.threads.join_until(deadline);
    }
}

fn limits(max_connections: usize) -> Limits {
    Limits {
        max_connections,
        max_head: 8 * 1024,
        max_body: 1024,
        // What a client sends ahead while it is being answered counts too.
        max_buffered: 4 * 1024 * 1024,
        request_deadline: Duration::from_secs(5),
        // Prometheus asks again over the same connection, usually within a minute.
        idle_timeout: Duration::from_secs(300),
        // Prometheus itself gives up after 10 s.
        answer_deadline: Duration::from_secs(9),
        // An answer fits into the socket's buffer; only a client that reads none of many can be late.
        write_deadline: Duration::from_secs(2),
        proxy_protocol: false,
    }
}

/// A connection that answers at once or not at all, and remembers little.
fn reader(database: &Path) -> Result<Connection, StoreError> {
    let connection = open_reader(database)?;
    connection.busy_timeout(READ_PATIENCE)?;
    connection.pragma_update(None, "cache_size", -256)?;
    Ok(connection)
}

/// Hands each request to the thread of its kind, until the server is told to stop.
fn sort(server: &tiny_http::Server, health: &Sender<Request>, metrics: &Sender<Request>) {
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

fn answer_health(mut health: Health, asked: &Receiver<Request>) {
    while let Ok(first) = asked.recv() {
        let report = health.report();
        // Whoever asked meanwhile gets the same answer.
        for request in std::iter::once(first).chain(asked.try_iter()) {
            respond(request, report.status, "text/plain; charset=utf-8", report.text.clone());
        }
    }
}

fn answer_metrics(mut exposition: Exposition, asked: &Receiver<Request>) {
    while let Ok(request) = asked.recv() {
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
