//! Workers decrypt and parse callbacks; the responder answers after the commit.
//!
//! A worker does not wait for the commit. The writer gets the event together with the request to answer, so that more
//! events than workers can share a commit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tiny_http::{Header, Method, Request, Response};

use super::endpoint::{CallbackError, Endpoint, Received};
use super::event_clock::EventClock;
use crate::daemon::metrics::Metrics;
use crate::daemon::refusals::{self, Refusals, Refused};
use crate::daemon::threads::Threads;
use crate::daemon::wakeup::Wakeup;
use crate::daemon::{MemberCalls, Shared};
use crate::gate::{self, PEER_HEADER, SERVER_PROBE};
use crate::store::{Applied, NewEvent, StoreError, apply_event, record_invalid};
use crate::text::printable;
use crate::unix_time::unix_now;

/// Time from the arrival of an event to its commit. WeCom hangs up after 5 s.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(4);

pub(super) struct Server {
    /// The server behind the gate.
    pub(super) http: tiny_http::Server,
    /// Replaced as a whole when keys are changed.
    pub(super) endpoints: RwLock<Arc<[Endpoint]>>,
    pub(super) corp_id: String,
    pub(super) event_clock: EventClock,
    pub(super) shared: Shared,
    pub(super) calls: MemberCalls,
    pub(super) refusals: Arc<Refusals>,
    pub(super) large_events: Wakeup,
}

/// A request and the answer to it.
struct Answer {
    request: Request,
    status: u16,
    body: Vec<u8>,
}

fn respond_all(ready: &Receiver<Answer>, metrics: &Metrics) {
    while let Ok(Answer { request, status, body }) = ready.recv() {
        // A probe is no callback.
        if request.url() != SERVER_PROBE {
            metrics.answered(status, *request.method() == Method::Get, 1);
        }
        if status == 503 {
            metrics.unavailable.note(Instant::now(), unix_now());
        }
        let mut response = Response::from_data(body).with_status_code(status);
        response.add_header(header("Content-Type", "text/plain; charset=utf-8"));
        if status == 503 {
            response.add_header(header("Retry-After", "5"));
        }
        if let Err(error) = request.respond(response) {
            log::debug!("an answer could not be sent: {error}");
        }
    }
}

fn header(name: &str, value: &str) -> Header {
    // Both are literals of this file.
    #[allow(clippy::expect_used)]
    Header::from_bytes(name, value).expect("a literal header is valid")
}

impl Server {
    /// Starts `workers` workers and the responder, which ends after the last reply of the writer.
    pub(super) fn start(server: &Arc<Self>, workers: usize) -> std::io::Result<Threads> {
        let mut threads = Threads::default();
        let (answers, ready) = channel();
        for n in 0..workers {
            let (server, answers) = (Arc::clone(server), answers.clone());
            threads.spawn(format!("callback-{n}"), move || server.serve(&answers))?;
        }
        let metrics = Arc::clone(&server.shared.metrics);
        threads.spawn("respond", move || respond_all(&ready, &metrics))?;
        Ok(threads)
    }

    fn serve(&self, answers: &Sender<Answer>) {
        loop {
            match self.http.recv() {
                Ok(request) => self.handle_or_survive(request, answers),
                // Unblocked by the stop.
                Err(_) => return,
            }
        }
    }

    /// A panic costs one request, which tiny_http answers with 500.
    fn handle_or_survive(&self, request: Request, answers: &Sender<Answer>) {
        let (client, url) = (Client::of(&request), request.url().to_owned());
        let handled = catch_unwind(AssertUnwindSafe(|| self.handle(request, answers)));
        if handled.is_err() {
            let refused = client.refused(500, refusals::CRASH, &url);
            self.refusals.note(&refused, &"this program failed on the request");
            self.shared.triggers.request("a callback could not be handled");
        }
    }

    fn handle(&self, mut request: Request, answers: &Sender<Answer>) {
        let arrived = Instant::now();
        // Read the body first: tiny_http must not answer before it. The gate has limited its length.
        let mut body = Vec::new();
        if let Err(error) = request.as_reader().read_to_end(&mut body) {
            // The gate sends whole requests, so the connection between it and this server failed.
            let (client, url) = (Client::of(&request), request.url().to_owned());
            send(answers, request, 400, b"bad request\n");
            let cause = gate::Refusal::BadRequest.cause();
            return self.refusals.note(&client.refused(400, cause, &url), &error);
        }
        if request.url() == SERVER_PROBE {
            return send(answers, request, 204, b"");
        }
        let url = request.url().to_owned();
        let (path, query) = url.split_once('?').unwrap_or((&url, ""));
        let endpoints = Arc::clone(&self.endpoints.read().unwrap_or_else(PoisonError::into_inner));
        let Some(endpoint) = endpoints.iter().find(|endpoint| endpoint.path == path) else {
            return send(answers, request, 404, b"not found\n");
        };
        match request.method() {
            Method::Get => match endpoint.verify(query) {
                Ok(text) => {
                    log::info!("URL verified path={path} client={}", Client::of(&request));
                    send(answers, request, 200, &text);
                }
                Err(refusal) => self.refuse(request, refusal, answers),
            },
            // POST: the gate refuses every other method.
            _ => match endpoint.receive(query, &body, &self.corp_id, unix_now()) {
                Ok(received) => self.store(request, received, arrived, answers),
                Err(refusal) => self.refuse(request, refusal, answers),
            },
        }
    }

    fn refuse(&self, request: Request, refusal: CallbackError, answers: &Sender<Answer>) {
        let (client, url, status) = (Client::of(&request), request.url().to_owned(), refusal.status());
        let text: &[u8] = if status == 403 { b"forbidden\n" } else { b"bad request\n" };
        send(answers, request, status, text);
        // After the answer, whose time must not depend on the cause: not every cause has a log line.
        self.refusals.note(&client.refused(status, refusal.cause(), &url), &refusal);
    }

    fn store(&self, request: Request, received: Received, arrived: Instant, answers: &Sender<Answer>) {
        let Received { mut event, invalid, skipped } = received;
        self.event_clock.stamp(&mut event);
        if let Some(reason) = invalid {
            log::warn!("invalid event, kept as invalid {}: {}", name(&event), printable(&reason));
        }
        if !skipped.is_empty() {
            let fields = skipped.join(" ");
            log::warn!("event has fields that cannot be read {}: {}", name(&event), printable(&fields));
        }
        let deadline = arrived + COMMIT_TIMEOUT;
        let (writer, to_apply) = (self.shared.writer.clone(), event.clone());
        let acknowledge = {
            let (answers, shared, calls) = (answers.clone(), self.shared.clone(), self.calls.clone());
            let (refusals, large_events) = (Arc::clone(&self.refusals), self.large_events.clone());
            move |request: Request, event: &NewEvent, result: Result<Applied, StoreError>| {
                if let Err(error) = &result {
                    let refused = Client::of(&request);
                    refusals.note(&refused.refused(503, refusals::STORAGE, request.url()), error);
                }
                if result.as_ref().is_ok_and(|applied| applied.is_deferred) {
                    large_events.notify();
                }
                acknowledge(request, event, result, (&shared, &calls), &answers);
            }
        };
        self.shared.writer.submit(
            deadline,
            move |connection| apply_event(connection, &to_apply),
            move |result| match result {
                Err(error) if error.is_of_the_data() => {
                    log::error!("event cannot be applied and is kept as invalid {}: {error}", name(&event));
                    let to_record = event.clone();
                    writer.submit(
                        deadline,
                        move |connection| record_invalid(connection, &to_record),
                        move |result| acknowledge(request, &event, result),
                    );
                }
                result => acknowledge(request, &event, result),
            },
        );
    }
}

/// Answers an event: `success` only if it is committed.
fn acknowledge(
    request: Request,
    event: &NewEvent,
    result: Result<Applied, StoreError>,
    (shared, calls): (&Shared, &MemberCalls),
    answers: &Sender<Answer>,
) {
    match result {
        Ok(applied) => {
            log::debug!("event {} outcome={}", name(event), applied.outcome.as_str());
            shared.metrics.event(&event.event, &event.change_type, applied.outcome);
            send(answers, request, 200, b"success");
            if let Some(converter) = &calls.converter {
                converter.convert_now(applied.to_convert);
            }
            if let Some(details) = calls.details.as_ref().filter(|_| applied.details_due) {
                details.check();
            }
        }
        Err(error) => {
            log::debug!("event refused for now {}: {error}", name(event));
            // WeCom's documents disagree on whether it sends a refused event again.
            shared.triggers.request("a callback had to be refused");
            send(answers, request, 503, b"try again later\n");
        }
    }
}

fn send(answers: &Sender<Answer>, request: Request, status: u16, body: &[u8]) {
    if answers.send(Answer { request, status, body: body.to_vec() }).is_err() {
        log::debug!("an answer is dropped, as the daemon ends");
    }
}

fn name(event: &NewEvent) -> String {
    let what = if event.change_type.is_empty() { &event.event } else { &event.change_type };
    format!("event={what:?} subject={:?}", event.subject)
}

/// The address of the peer, and the one that a reverse proxy forwards.
struct Client {
    peer: String,
    forwarded_for: Option<String>,
}

impl Client {
    fn of(request: &Request) -> Self {
        let header = |name: &'static str| {
            let found = request.headers().iter().rfind(|header| header.field.equiv(name));
            found.map(|header| header.value.as_str().to_owned())
        };
        Self { peer: header(PEER_HEADER).unwrap_or_default(), forwarded_for: header("X-Forwarded-For") }
    }

    fn refused<'a>(&'a self, status: u16, cause: &'static str, url: &'a str) -> Refused<'a> {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let is_signed = query.contains("msg_signature");
        Refused {
            status,
            cause,
            path,
            is_signed,
            is_verification: is_signed && query.contains("echostr"),
            peer: &self.peer,
            forwarded_for: self.forwarded_for.as_deref(),
        }
    }
}

impl std::fmt::Display for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.peer)?;
        match &self.forwarded_for {
            Some(forwarded) => write!(f, " forwarded_for={forwarded:?}"),
            None => Ok(()),
        }
    }
}
