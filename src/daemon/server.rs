//! The threads that answer callbacks: crypto and parsing on a few workers, the answer after the commit.
//!
//! A worker does not wait for the commit. It hands the event to the writer together with the request that
//! is to be answered, so that many events can share one commit however few workers there are; the
//! responder sends the answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tiny_http::{Header, Method, Request, Response};

use super::callback::{Endpoint, Received, Refusal};
use super::converter::Converter;
use super::details::DetailsWorker;
use super::event_clock::EventClock;
use super::metrics::Metrics;
use super::reconciler::triggers::ReconcileTriggers;
use super::refusals::{self, Refusals, Refused};
use crate::gate::{self, PEER_HEADER};
use crate::store::{Applied, NewEvent, StoreError, Writer, apply_event, record_invalid};
use crate::text::printable;
use crate::wecom::api::clock;

/// From the arrival of an event to its commit. WeCom hangs up after 5 s.
const COMMIT_WITHIN: Duration = Duration::from_secs(4);

/// What the workers share.
pub struct Server {
    /// Behind the gate.
    pub http: tiny_http::Server,
    /// The callback URLs.
    pub endpoints: Vec<Endpoint>,
    /// Our own company.
    pub corp_id: String,
    /// Stamps events.
    pub event_clock: EventClock,
    /// Where events go.
    pub writer: Writer,
    /// Whom to tell of what was applied.
    pub wakers: Wakers,
    /// Counts answers and events.
    pub metrics: Arc<Metrics>,
    /// Counts and logs refused requests.
    pub refusals: Arc<Refusals>,
}

/// Who is to do something about events that were applied, or could not be.
#[derive(Clone)]
pub struct Wakers {
    /// For members without an openid.
    pub converter: Option<Arc<Converter>>,
    /// For members whose details are due.
    pub details: Option<Arc<DetailsWorker>>,
    /// For events that were refused.
    pub triggers: Arc<ReconcileTriggers>,
}

/// An answer that is ready.
struct Answer {
    request: Request,
    status: u16,
    body: Vec<u8>,
}

/// The threads of a server.
pub struct Threads {
    workers: Vec<JoinHandle<()>>,
    responder: JoinHandle<()>,
}

/// Starts `threads` workers and the responder.
///
/// # Errors
/// If a thread cannot be had.
pub fn start(server: &Arc<Server>, threads: usize) -> std::io::Result<Threads> {
    let (answers, ready) = channel();
    let metrics = Arc::clone(&server.metrics);
    let responder = std::thread::Builder::new().name("respond".into());
    let responder = responder.spawn(move || respond_all(&ready, &metrics))?;
    let workers = (0..threads).map(|n| {
        let (server, answers) = (Arc::clone(server), answers.clone());
        let name = format!("callback-{n}");
        std::thread::Builder::new().name(name).spawn(move || server.serve(&answers))
    });
    Ok(Threads { workers: workers.collect::<std::io::Result<_>>()?, responder })
}

impl Threads {
    /// Ends the workers and, when the writer has given its last reply, the responder. `patience` at most.
    pub fn stop(self, server: &Server, patience: Duration) {
        for _ in &self.workers {
            server.http.unblock();
        }
        let deadline = Instant::now() + patience;
        for thread in self.workers.into_iter().chain([self.responder]) {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
            if thread.is_finished() && thread.join().is_err() {
                log::error!("a thread that answers callbacks ended in a panic; please report this");
            }
        }
    }
}

fn respond_all(ready: &Receiver<Answer>, metrics: &Metrics) {
    while let Ok(Answer { request, status, body }) = ready.recv() {
        metrics.answered(status, *request.method() == Method::Get);
        if status == 503 {
            metrics.unavailable.note(Instant::now(), clock());
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
    fn serve(&self, answers: &Sender<Answer>) {
        loop {
            match self.http.recv() {
                Ok(request) => self.handle_or_survive(request, answers),
                // Unblocked: it is time to stop.
                Err(_) => return,
            }
        }
    }

    /// A panic costs one request, which tiny_http answers with 500, and not the worker.
    fn handle_or_survive(&self, request: Request, answers: &Sender<Answer>) {
        let (client, url) = (Client::of(&request), request.url().to_owned());
        let handled = catch_unwind(AssertUnwindSafe(|| self.handle(request, answers)));
        if handled.is_err() {
            let refused = client.refused(500, refusals::CRASH, &url);
            self.refusals.note(&refused, &"this program failed on the request");
            self.wakers.triggers.request("a callback could not be handled");
        }
    }

    fn handle(&self, mut request: Request, answers: &Sender<Answer>) {
        let arrived = Instant::now();
        // Reads the whole body first, because tiny_http must not answer before it. The gate has limited its length.
        let mut body = Vec::new();
        if let Err(error) = request.as_reader().read_to_end(&mut body) {
            // The gate sends whole requests, so this is a fault between it and the server.
            let (client, url) = (Client::of(&request), request.url().to_owned());
            send(answers, request, 400, b"bad request\n");
            let cause = gate::Refusal::BadRequest.cause();
            return self.refusals.note(&client.refused(400, cause, &url), &error);
        }
        let url = request.url().to_owned();
        let (path, query) = url.split_once('?').unwrap_or((&url, ""));
        let Some(endpoint) = self.endpoints.iter().find(|endpoint| endpoint.path == path) else {
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
            _ => match endpoint.receive(query, &body, &self.corp_id, clock()) {
                Ok(received) => self.store(request, received, arrived, answers),
                Err(refusal) => self.refuse(request, refusal, answers),
            },
        }
    }

    fn refuse(&self, request: Request, refusal: Refusal, answers: &Sender<Answer>) {
        let (client, url, status) = (Client::of(&request), request.url().to_owned(), refusal.status());
        let text: &[u8] = if status == 403 { b"forbidden\n" } else { b"bad request\n" };
        send(answers, request, status, text);
        // After the answer: whether a line is written depends on the cause, and time must not tell it.
        self.refusals.note(&client.refused(status, refusal.cause(), &url), &refusal);
    }

    fn store(&self, request: Request, received: Received, arrived: Instant, answers: &Sender<Answer>) {
        let Received { mut event, complaint, passed_over } = received;
        self.event_clock.stamp(&mut event);
        if let Some(complaint) = complaint {
            log::warn!(
                "event makes no sense and is kept as invalid {}: {}",
                name(&event),
                printable(&complaint)
            );
        }
        if !passed_over.is_empty() {
            let fields = passed_over.join(" ");
            log::warn!("event has fields that make no sense {}: {}", name(&event), printable(&fields));
        }
        let deadline = arrived + COMMIT_WITHIN;
        let (writer, to_apply) = (self.writer.clone(), event.clone());
        let acknowledge = {
            let (answers, wakers) = (answers.clone(), self.wakers.clone());
            let (metrics, refusals) = (Arc::clone(&self.metrics), Arc::clone(&self.refusals));
            move |request: Request, event: &NewEvent, result: Result<Applied, StoreError>| {
                if let Err(error) = &result {
                    let refused = Client::of(&request);
                    refusals.note(&refused.refused(503, refusals::STORAGE, request.url()), error);
                }
                acknowledge(request, event, result, &wakers, &metrics, &answers);
            }
        };
        self.writer.submit(
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
    wakers: &Wakers,
    metrics: &Metrics,
    answers: &Sender<Answer>,
) {
    match result {
        Ok(applied) => {
            log::debug!("event {} outcome={}", name(event), applied.outcome.as_str());
            metrics.event(&event.event, &event.change_type, applied.outcome);
            send(answers, request, 200, b"success");
            if let Some(converter) = &wakers.converter {
                converter.wake_for(applied.to_convert);
            }
            if let Some(details) = wakers.details.as_ref().filter(|_| applied.details_due) {
                details.wake();
            }
        }
        Err(error) => {
            log::debug!("event refused for now {}: {error}", name(event));
            // WeCom's texts disagree on whether it sends a refused event again.
            wakers.triggers.request("a callback had to be refused");
            send(answers, request, 503, b"try again later\n");
        }
    }
}

fn send(answers: &Sender<Answer>, request: Request, status: u16, body: &[u8]) {
    if answers.send(Answer { request, status, body: body.to_vec() }).is_err() {
        log::debug!("an answer comes too late, the daemon is ending");
    }
}

fn name(event: &NewEvent) -> String {
    let what = if event.change_type.is_empty() { &event.event } else { &event.change_type };
    format!("event={what:?} subject={:?}", event.subject)
}

/// The client's address as the gate saw it and, behind a reverse proxy, as that one says.
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
