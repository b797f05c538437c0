//! The control socket: commands wake the converter, request comparisons, and follow changes through it.
//!
//! One thread serves all clients by readiness and sleeps while none of them acts. Clients cannot exhaust it: their
//! number, the length of a request and the time for it are bounded, and output is skipped for a client that does not
//! read.

mod client;
mod connection;
mod protocol;
mod socket;

use std::collections::HashMap;
use std::io::{self, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use log::LevelFilter;
use rustix::event::epoll::EventFlags;
use rustix::net::sockopt::socket_peercred;

pub(crate) use client::ControlClient;
use connection::{Connection, Input, MAX_REQUEST, Phase};
pub(crate) use protocol::{Request, Response};
use socket::ControlSocket;

use super::log_limiter::LogLimiter;
use super::reconciler::triggers::{ReconcileCommand, ReconcileUpdate};
use super::threads::Threads;
use super::{MemberCalls, Shared as Parts};
use crate::gate::nonblocking::{FIRST_CONNECTION, Interest, LISTENER, Poller, Token, WAKER, Waker};
use crate::store::epoch::last_change;
use crate::store::writer::Committed;

const MAX_CONNECTIONS: usize = 16;
/// Clients that may stay subscribed to changes; the others are left to short requests.
const MAX_FOLLOWERS: usize = 12;
/// Wait after `accept` failed, as the system has no descriptor left.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// What other threads share with the control thread.
struct Signals {
    waker: Waker,
    followers: AtomicUsize,
    last_change: AtomicI64,
    stopping: AtomicBool,
}

impl Signals {
    fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            log::error!("control: the thread cannot be woken: {error}");
        }
    }
}

/// The bound socket, before the parts that it controls run.
pub(crate) struct ControlEndpoint {
    socket: ControlSocket,
    poller: Poller,
    signals: Arc<Signals>,
}

impl ControlEndpoint {
    /// Binds the socket of this database, whose lock the caller holds; `None` if no place for it is usable.
    pub(crate) fn bind(database: &Path) -> io::Result<Option<Self>> {
        let Some(socket) = ControlSocket::bind(database) else { return Ok(None) };
        let (poller, waker) = (Poller::new()?, Waker::new()?);
        Interest::new().set(&poller, &waker, WAKER, Interest::READ)?;
        let (followers, last_change, stopping) = Default::default();
        Ok(Some(Self {
            socket,
            poller,
            signals: Arc::new(Signals { waker, followers, last_change, stopping }),
        }))
    }

    /// Absolute path of the socket.
    pub(crate) fn path(&self) -> &str {
        self.socket.path()
    }

    /// Notifies subscribers of changes; for the writer.
    pub(crate) fn commit_observer(&self) -> Committed {
        let signals = Arc::clone(&self.signals);
        Box::new(move |connection| {
            if signals.followers.load(SeqCst) == 0 {
                return;
            }
            match last_change(connection) {
                Ok(last) if signals.last_change.swap(last, SeqCst) == last => {}
                Ok(_) => signals.wake(),
                Err(error) => log::debug!("control: the last change cannot be read: {error}"),
            }
        })
    }

    /// Starts the thread `control`; connections that were made before wait for it.
    pub(super) fn start(self, parts: &Parts, calls: &MemberCalls, can_compare: bool) -> io::Result<Control> {
        let signals = Arc::clone(&self.signals);
        let mut listening = Interest::new();
        listening.set(&self.poller, &self.socket.listener, LISTENER, Interest::READ)?;
        let (responses, waiting) = channel();
        let server = Server {
            socket: self.socket,
            listening,
            poller: self.poller,
            signals: self.signals,
            parts: parts.clone(),
            calls: calls.clone(),
            can_compare,
            clients: HashMap::new(),
            next_client: FIRST_CONNECTION,
            responses,
            waiting,
            announced: 0,
            accept_again: None,
            accept_errors: LogLimiter::default(),
        };
        let mut thread = Threads::default();
        thread.spawn("control", move || server.run())?;
        Ok(Control { signals, thread })
    }
}

pub(crate) struct Control {
    signals: Arc<Signals>,
    thread: Threads,
}

impl Control {
    /// Closes all connections, removes the socket and ends the thread.
    pub(crate) fn stop(self, deadline: Instant) {
        self.signals.stopping.store(true, SeqCst);
        self.signals.wake();
        self.thread.join_until(deadline);
    }
}

/// A response from another thread.
struct Queued {
    client: Token,
    response: Response,
    last: bool,
}

struct Server {
    socket: ControlSocket,
    /// Empty while `accept_again` is set, because epoll would report waiting clients without end.
    listening: Interest,
    poller: Poller,
    signals: Arc<Signals>,
    parts: Parts,
    calls: MemberCalls,
    can_compare: bool,
    clients: HashMap<Token, Connection>,
    /// By a number that is not reused for long, so a late response reaches no other client.
    next_client: Token,
    responses: Sender<Queued>,
    waiting: Receiver<Queued>,
    /// The last change in a notice to subscribers.
    announced: i64,
    accept_again: Option<Instant>,
    accept_errors: LogLimiter,
}

impl Server {
    fn run(mut self) {
        let mut ready = Vec::new();
        loop {
            let deadlines = self.clients.values().filter_map(Connection::deadline);
            let next = deadlines.chain(self.accept_again).min();
            let timeout = next.map(|at| at.saturating_duration_since(Instant::now()));
            if let Err(error) = self.poller.wait(timeout, &mut ready) {
                return log::error!(
                    "control: epoll: {error}; commands do not reach the daemon until its restart"
                );
            }
            if self.signals.stopping.load(SeqCst) {
                return;
            }
            let now = Instant::now();
            for token in &ready {
                match *token {
                    LISTENER => self.accept(now),
                    WAKER => self.signals.waker.reset(),
                    token => self.serve(token, now),
                }
            }
            if self.accept_again.is_some_and(|at| at <= now) {
                self.accept(now);
            }
            self.deliver(now);
            self.announce_changes(now);
            self.clients.retain(|_, client| client.deadline().is_none_or(|at| at > now));
            let followers = self.clients.values().filter(|client| client.phase == Phase::Follow).count();
            self.signals.followers.store(followers, SeqCst);
        }
    }

    fn accept(&mut self, now: Instant) {
        self.accept_again = None;
        self.listen_for(Interest::READ);
        loop {
            match self.socket.listener.accept() {
                Ok((stream, _)) => self.admit(stream, now),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(error) => {
                    if let Some(more) = self.accept_errors.admit(now) {
                        log::warn!("control: accept: {error} more_since_last={more}");
                    }
                    self.listen_for(Interest::NONE);
                    self.accept_again = Some(now + ACCEPT_AGAIN);
                    return;
                }
            }
        }
    }

    fn listen_for(&mut self, events: EventFlags) {
        if let Err(error) = self.listening.set(&self.poller, &self.socket.listener, LISTENER, events) {
            log::error!("control: epoll: {error}; commands do not reach the daemon until its restart");
        }
    }

    fn admit(&mut self, mut stream: UnixStream, now: Instant) {
        if self.clients.len() >= MAX_CONNECTIONS {
            let _ = stream.write_all(b"{\"error\":\"too many connections to the daemon; try again\"}\n");
            return;
        }
        let uid = socket_peercred(&stream).ok().map(|peer| peer.uid.as_raw());
        let number = self.next_client;
        self.next_client += 1;
        let client = stream
            .set_nonblocking(true)
            .and_then(|()| Connection::new(stream, uid, number, &self.poller, now));
        match client {
            Ok(client) => drop(self.clients.insert(number, client)),
            Err(error) => log::warn!("control: a client cannot be served: {error}"),
        }
    }

    fn serve(&mut self, number: Token, now: Instant) {
        let Some(mut client) = self.clients.remove(&number) else { return };
        let mut input = client.read();
        if matches!(input, Input::Line(_) | Input::Invalid) {
            match &input {
                Input::Line(line) => self.handle(line, number, &mut client),
                _ => {
                    let what = format!("a request is one line of at most {MAX_REQUEST} bytes");
                    client.respond(&Response::Error(what), true);
                }
            }
            // The client may have disconnected already; that is reported only once.
            input = client.read();
        }
        if client.write(&self.poller, now) && (input == Input::Incomplete || client.phase == Phase::Close) {
            self.clients.insert(number, client);
        }
    }

    fn handle(&self, line: &[u8], number: Token, client: &mut Connection) {
        let request: Request = match serde_json::from_slice(line) {
            Ok(request) => request,
            Err(error) => return client.respond(&Response::Error(format!("not a request: {error}")), true),
        };
        let is_trusted = client.uid.is_some_and(|uid| uid == 0 || uid == rustix::process::geteuid().as_raw());
        if request.is_privileged() && !is_trusted {
            let what = "only root and the daemon's user may send this request";
            return client.respond(&Response::Error(what.into()), true);
        }
        match request {
            Request::Retry => {
                if let Some(converter) = &self.calls.converter {
                    converter.check();
                }
                client.respond(&Response::Done, true);
            }
            Request::Pauses => client.respond(&Response::Pauses(self.parts.metrics.pauses()), true),
            Request::LogLevel { set } => client.respond(&log_level(set.as_deref()), true),
            Request::Changes => {
                let followers = self.clients.values().filter(|other| other.phase == Phase::Follow).count();
                if followers >= MAX_FOLLOWERS {
                    let what = format!("{MAX_FOLLOWERS} clients follow the changes already");
                    return client.respond(&Response::Error(what), true);
                }
                client.phase = Phase::Follow;
                // From now on commits are observed; what was committed before is in the database for the client.
                self.signals.followers.fetch_add(1, SeqCst);
                client.respond(&Response::Changes(0), false);
            }
            Request::Reconcile(request) => {
                if !self.can_compare {
                    let what =
                        "this daemon was started without contacts_secret; restart the daemon to compare";
                    return client.respond(&Response::Error(what.into()), true);
                }
                client.phase = Phase::Reconcile;
                client.respond(&Response::Accepted, false);
                let (responses, signals) = (self.responses.clone(), Arc::clone(&self.signals));
                let update = move |update: ReconcileUpdate| {
                    let (response, last) = match update {
                        ReconcileUpdate::Progress(progress) => (Response::Progress(progress), false),
                        ReconcileUpdate::Report(report) => (Response::Report(report), true),
                        ReconcileUpdate::Failed(what) => (Response::Error(what), true),
                    };
                    if responses.send(Queued { client: number, response, last }).is_ok() {
                        signals.wake();
                    }
                };
                let requested_by = Arc::downgrade(&client.alive);
                self.parts.triggers.enqueue(ReconcileCommand {
                    request,
                    update: Box::new(update),
                    requested_by,
                });
            }
        }
    }

    /// Sends the responses of other threads.
    fn deliver(&mut self, now: Instant) {
        while let Ok(Queued { client: number, response, last }) = self.waiting.try_recv() {
            let Some(client) = self.clients.get_mut(&number) else { continue };
            if last || !client.is_behind() {
                client.respond(&response, last);
            }
            if !client.write(&self.poller, now) {
                self.clients.remove(&number);
            }
        }
    }

    fn announce_changes(&mut self, now: Instant) {
        let last = self.signals.last_change.load(SeqCst);
        if std::mem::replace(&mut self.announced, last) == last {
            return;
        }
        self.clients.retain(|_, client| {
            if client.phase != Phase::Follow {
                return true;
            }
            // A client that has not taken the last notice yet will see this change, too.
            if !client.is_behind() {
                client.respond(&Response::Changes(last), false);
            }
            client.write(&self.poller, now)
        });
    }
}

/// Sets the log level, if one is given.
fn log_level(set: Option<&str>) -> Response {
    if let Some(text) = set {
        let Ok(level) = text.parse::<LevelFilter>() else {
            return Response::Error("the log level is off, error, warn, info, debug or trace".into());
        };
        log::info!("log level set to {level} until the next restart");
        log::set_max_level(level);
    }
    Response::LogLevel(log::max_level().as_str().to_lowercase())
}
