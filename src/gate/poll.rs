//! The gate's loop: readiness in, reads, writes and deadlines out.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Token};

use super::Signal;
use super::answer;
use super::backend::{Backend, Job, Link, Outcome};
use super::client::{Class, Client, Moved, Phase};
use super::clients::Clients;
use super::conn::{Rules, Step};
use super::limits::Limits;
use super::memory::Memory;
use super::observer::{Observer, Refused};
use super::refusal::Refusal;
use super::routes::Routes;
use super::stats::GateStats;

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
/// The first token of the connections to the server; the clients' follow.
const LINKS: usize = 2;

/// Connections taken in at one turn, so that a flood of them does not starve those who are in.
const ACCEPTS_A_TURN: usize = 256;
/// After accept() failed for want of something, and there was nobody to put out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long no more connections are held than there were descriptors for.
const SCARCE_FOR: Duration = Duration::from_secs(60);
/// Read from one client at one turn, so that one who sends much does not starve the others.
const READ_A_TURN: usize = 16 * 1024;
/// Read at one turn from all together who have sent more than what is modest. The others are not kept
/// waiting by them, however many they are.
const READ_OF_GREEDY: usize = 1024 * 1024;
/// How long and how much a client may still send after its answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

pub(super) struct Poll {
    poll: mio::Poll,
    listener: Option<mio::net::TcpListener>,
    rules: Rules,
    limits: Limits,
    links: Vec<Option<Link>>,
    idle_links: Vec<usize>,
    /// Clients whose request is complete, in order, by slot and id.
    queue: VecDeque<(usize, u64)>,
    clients: Clients,
    /// Those who may have sent more than was read, in the order in which they go on; no event will tell.
    unread: VecDeque<usize>,
    /// What is left of [`READ_OF_GREEDY`].
    greedy_left: usize,
    scratch: Vec<u8>,
    accept_at: Option<Instant>,
    /// How many connections there can be for now, as accept() has failed, and until when that is believed.
    scarce: Option<(usize, Instant)>,
    stats: Arc<GateStats>,
    observer: Option<Arc<dyn Observer>>,
    signal: Arc<Signal>,
    stopping: bool,
}

impl Drop for Poll {
    fn drop(&mut self) {
        // However the thread ends, by a panic too.
        self.stats.ended.store(true, Relaxed);
    }
}

impl Poll {
    pub(super) fn new(
        listener: TcpListener,
        routes: Routes,
        limits: Limits,
        backend: Backend,
        observer: Option<Arc<dyn Observer>>,
        stats: Arc<GateStats>,
        signal: Arc<Signal>,
    ) -> io::Result<(Self, mio::Waker)> {
        let poll = mio::Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), WAKER)?;
        listener.set_nonblocking(true)?;
        let mut listener = mio::net::TcpListener::from_std(listener);
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let mut links = Vec::with_capacity(backend.streams.len());
        for stream in backend.streams {
            let mut link = Link::new(stream);
            let token = Token(LINKS + links.len());
            poll.registry().register(link.source(), token, Interest::READABLE | Interest::WRITABLE)?;
            links.push(Some(link));
        }
        stats.backends.store(links.len(), Relaxed);
        let rules = Rules {
            routes,
            max_head: limits.max_head,
            max_body: limits.max_body,
            proxy_protocol: limits.proxy_protocol,
        };
        // One request of the greatest length must have room in any case.
        let memory = Memory::new(limits.max_buffered.max(2 * (limits.max_body + limits.max_head)));
        let poll = Self {
            poll,
            listener: Some(listener),
            rules,
            limits,
            idle_links: (0..links.len()).rev().collect(),
            links,
            queue: VecDeque::new(),
            clients: Clients::new(memory),
            unread: VecDeque::new(),
            greedy_left: READ_OF_GREEDY,
            scratch: vec![0; READ_A_TURN],
            accept_at: None,
            scarce: None,
            stats,
            observer,
            signal,
            stopping: false,
        };
        Ok((poll, waker))
    }

    pub(super) fn run(&mut self) {
        let mut events = Events::with_capacity(1024);
        loop {
            let next = [self.clients.next_deadline(), self.accept_at, self.signal.deadline()];
            let next = next.into_iter().flatten().min();
            let wait = next.map(|at| at.saturating_duration_since(Instant::now()));
            let wait = if self.unread.is_empty() { wait } else { Some(Duration::ZERO) };
            match self.poll.poll(&mut events, wait) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    log::error!("gate: polling failed, no callbacks are taken any more: {error}");
                    return;
                }
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept_at = Some(Instant::now()),
                    WAKER => {}
                    Token(token) if token < LINKS + self.links.len() => self.link_ready(token - LINKS),
                    Token(token) => self.client_ready(token - LINKS - self.links.len()),
                }
            }
            self.read_on();
            let now = Instant::now();
            if self.accept_at.is_some_and(|at| at <= now) {
                self.accept(now);
            }
            self.expire(now);
            self.stats.buffered.store(self.clients.memory.held() + self.on_the_way(), Relaxed);
            if let Some(deadline) = self.signal.deadline() {
                self.begin_stopping();
                if self.clients.open() == 0 || deadline <= now {
                    return;
                }
            }
        }
    }

    fn begin_stopping(&mut self) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        self.accept_at = None;
        self.listener = None;
        for slot in self.clients.without_request() {
            self.close(slot);
        }
    }

    // ---- taking clients in ----

    fn accept(&mut self, now: Instant) {
        self.accept_at = None;
        if self.scarce.take_if(|(_, until)| *until <= now).is_some() {
            log::info!("gate: as many connections as before are taken again");
        }
        for _ in 0..ACCEPTS_A_TURN {
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok((stream, peer)) => {
                    self.stats.accepted.fetch_add(1, Relaxed);
                    self.admit(stream, peer, now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted
                            | io::ErrorKind::ConnectionAborted
                            | io::ErrorKind::ConnectionReset
                    ) => {}
                Err(error) => return self.live_with_few(&error, now),
            }
        }
        // There may be more: the next turn goes on.
        self.accept_at = Some(now);
    }

    /// What accept() wants is used up: there is room for fewer connections, one of which makes way for the next.
    fn live_with_few(&mut self, error: &io::Error, now: Instant) {
        self.stats.accept_errors.fetch_add(1, Relaxed);
        let room = self.clients.open().saturating_sub(1).max(1);
        let news = self.scarce.replace((room, now + SCARCE_FOR)).is_none();
        if news {
            log::warn!("gate: cannot take connections for now: {error}; {room} at a time for a while");
        }
        let pause = if self.evict() && news { Duration::ZERO } else { ACCEPT_PAUSE };
        self.accept_at = Some(now + pause);
    }

    fn admit(&mut self, mut stream: mio::net::TcpStream, peer: std::net::SocketAddr, now: Instant) {
        let room = self.scarce.map_or(self.limits.max_connections, |(room, _)| room);
        if self.clients.open() >= room && !self.evict() {
            return;
        }
        let slot = self.clients.vacant();
        let token = Token(LINKS + self.links.len() + slot);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut stream, token, interest) {
            log::warn!("gate: a connection cannot be polled: {error}");
            return;
        }
        // An answer is one small write: waiting to fill a packet would only delay it.
        let _ = stream.set_nodelay(true);
        self.clients.admit(stream, peer, now, self.limits.request_deadline);
        self.stats.open.store(self.clients.open(), Relaxed);
        self.receive(slot);
    }

    /// Makes room; whether there was somebody to go.
    fn evict(&mut self) -> bool {
        let Some(slot) = self.clients.first_to_go() else { return false };
        self.stats.evicted.fetch_add(1, Relaxed);
        self.close(slot);
        true
    }

    fn close(&mut self, slot: usize) {
        if let Some(mut client) = self.clients.remove(slot) {
            let _ = self.poll.registry().deregister(&mut client.stream);
            self.stats.open.store(self.clients.open(), Relaxed);
        }
    }

    // ---- clients ----

    fn client_ready(&mut self, slot: usize) {
        let Some(client) = self.clients.at(slot) else { return };
        match client.phase {
            Phase::Idle | Phase::Reading | Phase::Lingering { .. } => self.receive(slot),
            Phase::Writing { .. } => self.send(slot),
            Phase::Queued(_) | Phase::Answering { .. } => {}
        }
    }

    /// Goes on with those who have sent more than was read.
    fn read_on(&mut self) {
        self.greedy_left = READ_OF_GREEDY;
        for _ in 0..self.unread.len() {
            if self.greedy_left == 0 {
                return;
            }
            let Some(slot) = self.unread.pop_front() else { return };
            if let Some(client) = self.clients.at(slot) {
                client.in_line = false;
                self.client_ready(slot);
            }
        }
    }

    /// Lets a client go on later.
    fn read_later(&mut self, slot: usize) {
        if let Some(client) = self.clients.at(slot).filter(|client| !client.in_line) {
            client.in_line = true;
            self.unread.push_back(slot);
        }
    }

    /// Reads and acts on it until there is nothing more to read, or it is enough for this turn, or a request
    /// is complete.
    fn receive(&mut self, slot: usize) {
        let mut read = 0;
        while read < READ_A_TURN {
            let Some(client) = self.clients.at(slot) else { return };
            let greedy = client.is_greedy();
            if greedy && (client.in_line || self.greedy_left == 0) {
                break;
            }
            let mut scratch = std::mem::take(&mut self.scratch);
            let moved = self.clients.at(slot).map_or(Moved::Gone, |client| client.read(&mut scratch));
            self.scratch = scratch;
            match moved {
                Moved::Some(count) => {
                    read += count;
                    self.greedy_left -= if greedy { count.min(self.greedy_left) } else { 0 };
                }
                Moved::Gone => return self.hung_up(slot),
                Moved::Blocked | Moved::Finished => return,
            }
            if !self.act(slot) {
                return;
            }
        }
        self.read_later(slot);
    }

    /// Acts on what was received; whether to read on.
    fn act(&mut self, slot: usize) -> bool {
        let Some(client) = self.clients.at(slot) else { return false };
        match client.phase {
            Phase::Lingering { .. } => return true,
            Phase::Idle | Phase::Reading => {}
            _ => return false,
        }
        let step = client.inbound.step(&self.rules);
        let begins = matches!(client.phase, Phase::Idle) && client.inbound.begun();
        if begins && matches!(step, Step::More | Step::Continue) {
            self.clients.enter(slot, Phase::Reading, self.limits.request_deadline);
        } else {
            self.clients.count(slot);
        }
        match step {
            Step::More => {
                self.bound_memory();
                self.clients.at(slot).is_some()
            }
            Step::Continue => {
                let written = self.clients.at(slot).map_or(Moved::Gone, |client| {
                    client.owe(answer::CONTINUE);
                    client.write()
                });
                if written == Moved::Gone {
                    self.close(slot);
                    return false;
                }
                true
            }
            Step::Request(request) => {
                let Some(id) = self.clients.at(slot).map(|client| client.id) else { return false };
                self.stats.forwarded.fetch_add(1, Relaxed);
                self.clients.enter(slot, Phase::Queued(request), self.limits.answer_deadline);
                self.queue.push_back((slot, id));
                self.assign();
                self.bound_memory();
                false
            }
            Step::Probe { bodiless } => {
                self.answer(slot, answer::probe(bodiless), false);
                false
            }
            Step::Refuse(refusal) => {
                self.refuse(slot, refusal);
                false
            }
        }
    }

    /// Lets some go while all together hold too much.
    fn bound_memory(&mut self) {
        while let Some(slot) = self.clients.memory.too_greedy() {
            self.stats.evicted.fetch_add(1, Relaxed);
            self.close(slot);
        }
        while let Some(slot) = self.clients.memory.too_large(self.on_the_way()) {
            self.refuse(slot, Refusal::Memory);
        }
    }

    /// Bytes of requests that the server has not taken yet.
    fn on_the_way(&self) -> usize {
        self.links.iter().flatten().map(Link::holds).sum()
    }

    fn refuse(&mut self, slot: usize, refusal: Refusal) {
        self.stats.refused(refusal);
        self.tell(slot, refusal);
        let bytes = answer::refusal(refusal, &self.rules.routes);
        self.answer(slot, &bytes, false);
    }

    /// The client closed the connection. The observer is called if a body had begun: it may have been an event.
    fn hung_up(&mut self, slot: usize) {
        let lacks_body =
            |client: &mut Client| matches!(client.phase, Phase::Reading) && client.inbound.lacks_body();
        if self.clients.at(slot).is_some_and(lacks_body) {
            self.tell(slot, Refusal::HungUp);
        }
        self.close(slot);
    }

    fn tell(&mut self, slot: usize, refusal: Refusal) {
        let Some(observer) = &self.observer else { return };
        let Some(client) = self.clients.at(slot) else { return };
        let (peer, request) = (client.inbound.peer(), client.glimpse());
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        observer.refused(&Refused { refusal, peer, request });
    }

    fn answer(&mut self, slot: usize, bytes: &[u8], keep_alive: bool) {
        if let Some(client) = self.clients.at(slot) {
            client.owe(bytes);
            if !keep_alive {
                client.inbound.clear();
            }
        }
        self.clients.enter(slot, Phase::Writing { keep_alive }, self.limits.write_deadline);
        self.send(slot);
    }

    fn send(&mut self, slot: usize) {
        let Some(client) = self.clients.at(slot) else { return };
        let keep_alive = match client.phase {
            Phase::Writing { keep_alive } => keep_alive,
            _ => return,
        };
        match client.write() {
            Moved::Finished => {}
            Moved::Gone => return self.close(slot),
            Moved::Blocked | Moved::Some(_) => return,
        }
        if !keep_alive {
            if client.half_close() {
                self.clients.enter(slot, Phase::Lingering { room: LINGER_BYTES }, LINGER);
                self.receive(slot);
            } else {
                self.close(slot);
            }
            return;
        }
        if client.inbound.begun() {
            // The next request has come along with the last one.
            self.clients.enter(slot, Phase::Reading, self.limits.request_deadline);
            if !self.act(slot) {
                return;
            }
        } else {
            self.clients.enter(slot, Phase::Idle, self.limits.idle_timeout);
        }
        self.receive(slot);
    }

    fn expire(&mut self, now: Instant) {
        while let Some(slot) = self.clients.expired(now) {
            let Some(client) = self.clients.at(slot) else { return };
            let (begun, waited) = (client.inbound.says_something(), client.since.elapsed());
            match client.phase.class() {
                Class::Unfinished if begun => self.refuse(slot, Refusal::Timeout),
                Class::Busy if !matches!(client.phase, Phase::Writing { .. }) => {
                    self.stats.deadline_missed.fetch_add(1, Relaxed);
                    self.stats.answered.count(waited);
                    self.refuse(slot, Refusal::Deadline);
                }
                _ => self.close(slot),
            }
        }
    }

    // ---- the server behind the gate ----

    /// Gives waiting requests to idle connections to the server, in order; but large ones wait, and let others
    /// pass, while large ones are on their way.
    fn assign(&mut self) {
        let (mut place, mut on_the_way) = (0, self.on_the_way());
        while let Some((slot, id)) = self.queue.get(place).copied() {
            let client = self.clients.same(slot, id);
            let Some(Phase::Queued(request)) = client.map(|client| &client.phase) else {
                self.queue.remove(place);
                continue;
            };
            let bytes = request.wire.len();
            if !self.clients.memory.may_go(bytes, on_the_way) {
                place += 1;
                continue;
            }
            if self.links.iter().all(Option::is_none) {
                self.queue.remove(place);
                self.refuse(slot, Refusal::NoBackend);
                continue;
            }
            let Some(index) = self.idle_links.pop() else { return };
            self.queue.remove(place);
            on_the_way += bytes;
            self.hand_over(slot, id, index);
        }
    }

    fn hand_over(&mut self, slot: usize, id: u64, index: usize) {
        let Some((wire, bodiless)) = self.clients.dispatch(slot) else { return };
        let job = Job { slot, client: id, bodiless };
        if let Some(Some(link)) = self.links.get_mut(index) {
            let outcome = link.send(wire, job);
            self.link_outcome(index, outcome);
        }
    }

    fn link_ready(&mut self, index: usize) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let outcome = match self.links.get_mut(index) {
            Some(Some(link)) => link.ready(&mut scratch),
            _ => Outcome::Pending,
        };
        self.scratch = scratch;
        self.link_outcome(index, outcome);
    }

    fn link_outcome(&mut self, index: usize, outcome: Outcome) {
        match outcome {
            Outcome::Pending => {}
            Outcome::Answered(job, head, body) => {
                if self.links.get(index).and_then(Option::as_ref).is_some_and(Link::idle) {
                    self.idle_links.push(index);
                } else {
                    self.link_outcome(index, Outcome::Lost(None, "answered before it took the request"));
                }
                let client = self.clients.same(job.slot, job.client);
                if let Some((Phase::Answering { keep_alive, .. }, since)) =
                    client.map(|c| (&c.phase, c.since))
                {
                    let keep_alive = *keep_alive && !self.stopping;
                    self.stats.answered.count(since.elapsed());
                    let bytes = answer::relay(head, &body, keep_alive);
                    self.answer(job.slot, &bytes, keep_alive);
                }
                self.assign();
            }
            Outcome::Lost(job, why) => {
                log::error!("gate: a connection to the server behind it is lost: {why}; please report this");
                if let Some(mut link) = self.links.get_mut(index).and_then(Option::take) {
                    let _ = self.poll.registry().deregister(link.source());
                    self.stats.backends.fetch_sub(1, Relaxed);
                }
                self.idle_links.retain(|idle| *idle != index);
                if let Some(job) = job
                    && self.clients.same(job.slot, job.client).is_some()
                {
                    self.refuse(job.slot, Refusal::BadGateway);
                }
                self.assign();
            }
        }
    }
}
