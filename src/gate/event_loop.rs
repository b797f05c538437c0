//! The gate's thread: each turn waits for ready descriptors, serves them, accepts, and enforces deadlines.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::Control;
use super::connection::{Closed, Connection, Shared};
use super::connections::Connections;
use super::nonblocking::{FIRST_CONNECTION, FIRST_UPSTREAM, Interest, LISTENER, Poller, Token, WAKER};
use super::refusal::Refusal;
use super::response::Response;
use super::upstream::{Exchange, Upstream};

/// Connections accepted per turn, so that a flood of new ones does not delay the present ones.
const ACCEPTS_PER_TURN: usize = 256;
/// Pause after accept() has failed for lack of resources and no eviction has helped.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the number of connections stays reduced after accept() has failed.
const REDUCED_FOR: Duration = Duration::from_secs(60);
/// Bytes read from one connection per turn.
const READ_SIZE: usize = 16 * 1024;
/// Large connections served per turn, so that they do not delay the small ones.
const LARGE_PER_TURN: usize = 64;

pub(super) struct EventLoop {
    poller: Poller,
    /// `None` once the gate stops.
    listener: Option<TcpListener>,
    listener_interest: Interest,
    shared: Shared,
    /// `None` in place of an upstream that was lost.
    upstreams: Vec<Option<Upstream>>,
    connections: Connections,
    buffer: Vec<u8>,
    /// Number of connections for now, and until when, after accept() has failed for lack of resources.
    reduced: Option<(usize, Instant)>,
    /// When the paused listener accepts again.
    accept_pause: Option<Instant>,
    control: Arc<Control>,
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        // In `drop`, so that a panic of the thread sets it too.
        self.shared.stats.ended.store(true, Relaxed);
    }
}

impl EventLoop {
    pub(super) fn new(
        listener: TcpListener,
        shared: Shared,
        upstreams: Vec<Upstream>,
        control: Arc<Control>,
    ) -> io::Result<Self> {
        let poller = Poller::new()?;
        listener.set_nonblocking(true)?;
        let mut listener_interest = Interest::new();
        listener_interest.set(&poller, &listener, LISTENER, Interest::READ)?;
        Interest::new().set(&poller, &control.waker, WAKER, Interest::READ)?;
        let mut upstreams: Vec<_> = upstreams.into_iter().map(Some).collect();
        for (index, upstream) in upstreams.iter_mut().flatten().enumerate() {
            upstream.register(&poller, index)?;
        }
        shared.stats.upstreams.store(upstreams.len(), Relaxed);
        Ok(Self {
            poller,
            listener: Some(listener),
            listener_interest,
            connections: Connections::new(shared.limits.memory_bound()),
            shared,
            upstreams,
            buffer: vec![0; READ_SIZE],
            reduced: None,
            accept_pause: None,
            control,
        })
    }

    /// Serves until the gate is stopped, or until polling fails.
    pub(super) fn run(&mut self) {
        let mut ready = Vec::new();
        loop {
            let stop_at = self.control.deadline.get().copied();
            let wake_at = [self.connections.earliest_deadline(), self.accept_pause, stop_at];
            let wake_at = wake_at.into_iter().flatten().min();
            let timeout = wake_at.map(|at| at.saturating_duration_since(Instant::now()));
            if let Err(error) = self.poller.wait(timeout, &mut ready) {
                log::error!("gate: polling failed, callbacks are no longer received: {error}");
                return;
            }
            if ready.contains(&WAKER) {
                self.control.waker.reset();
                self.shared.limits.max_body = self.control.max_body.load(Relaxed);
                self.connections.set_bound(self.shared.limits.memory_bound());
                self.control.answer_probe();
            }
            self.serve(&ready);
            let now = Instant::now();
            if self.accept_pause.take_if(|until| *until <= now).is_some() {
                self.set_listening(true);
            }
            if ready.contains(&LISTENER) {
                self.accept(now);
            }
            for slot in self.connections.expired(now) {
                self.update(slot, |connection, shared| connection.on_deadline(shared));
            }
            let buffered = self.connections.buffered() + self.in_transit();
            self.shared.stats.buffered.store(buffered, Relaxed);
            self.shared.stats.open.store(self.connections.open(), Relaxed);
            if let Some(deadline) = self.control.deadline.get().copied() {
                self.stop_listening();
                if self.connections.open() == 0 || deadline <= now {
                    return;
                }
            }
        }
    }

    /// Closes the listener and every connection whose request is incomplete. The others get their response.
    fn stop_listening(&mut self) {
        if self.listener.take().is_some() {
            self.accept_pause = None;
            for slot in self.connections.without_complete_request() {
                self.connections.close(&self.poller, slot);
            }
        }
    }

    fn serve(&mut self, ready: &[Token]) {
        let mut large = Vec::new();
        for token in ready {
            if let Some(slot) = index(*token, FIRST_CONNECTION) {
                if self.connections.get(slot).is_some_and(Connection::is_large) {
                    large.push(slot);
                } else {
                    self.serve_connection(slot);
                }
            } else if let Some(index) = index(*token, FIRST_UPSTREAM) {
                self.with_upstream(index, Upstream::on_ready);
                self.dispatch();
                self.bound_memory();
            }
        }
        // The oldest first: if all advanced together, they would exceed the memory bound before one is complete.
        large.sort_by_key(|slot| self.connections.get(*slot).map(|connection| connection.since));
        for slot in large.into_iter().take(LARGE_PER_TURN) {
            self.serve_connection(slot);
        }
    }

    fn serve_connection(&mut self, slot: usize) {
        let buffer = &mut self.buffer;
        self.connections.update(&self.poller, slot, |connection| connection.on_ready(&self.shared, buffer));
        self.dispatch();
        self.bound_memory();
    }

    fn update(&mut self, slot: usize, change: impl FnOnce(&mut Connection, &Shared) -> Result<(), Closed>) {
        self.connections.update(&self.poller, slot, |connection| change(connection, &self.shared));
    }

    /// Evicts incomplete requests and refuses queued ones while they exceed their bounds.
    fn bound_memory(&mut self) {
        while let Some(slot) = self.connections.incomplete_victim() {
            self.evict(slot);
        }
        while let Some(slot) = self.connections.queued_victim(self.in_transit()) {
            self.update(slot, |connection, shared| connection.refuse(shared, Refusal::Memory));
        }
    }

    fn evict(&mut self, slot: usize) {
        self.shared.stats.evicted.fetch_add(1, Relaxed);
        self.connections.close(&self.poller, slot);
    }

    // ---- accepting ----

    fn set_listening(&mut self, is_listening: bool) {
        let Some(listener) = &self.listener else { return };
        let wanted = if is_listening { Interest::READ } else { Interest::NONE };
        if let Err(error) = self.listener_interest.set(&self.poller, listener, LISTENER, wanted) {
            log::error!("gate: the listener cannot be polled: {error}");
        }
    }

    fn accept(&mut self, now: Instant) {
        if self.reduced.take_if(|(_, until)| *until <= now).is_some() {
            log::info!("gate: the number of connections is no longer reduced");
        }
        for n in 0..ACCEPTS_PER_TURN {
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok((stream, peer)) => {
                    self.shared.stats.accepted.fetch_add(1, Relaxed);
                    let limit = self.reduced.map_or(self.shared.limits.max_connections, |(limit, _)| limit);
                    if (self.connections.open() < limit || self.make_room())
                        && stream.set_nonblocking(true).is_ok()
                    {
                        // Without waiting to fill a packet: a response is one small write.
                        let _ = stream.set_nodelay(true);
                        self.connections.insert(&self.poller, stream, peer, &self.shared.limits);
                    }
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::Interrupted
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::ConnectionReset => {}
                    // accept(2) takes a descriptor before it looks for a client: without a free one it fails although no
                    // client waits. The poller reports a client that does.
                    _ if n > 0 => return,
                    _ => return self.reduce_connections(&error, now),
                },
            }
        }
    }

    /// Reacts to a lack of descriptors or memory: allows fewer connections for a while and evicts one.
    fn reduce_connections(&mut self, error: &io::Error, now: Instant) {
        self.shared.stats.accept_errors.fetch_add(1, Relaxed);
        let limit = self.connections.open().saturating_sub(1).max(1);
        let is_first = self.reduced.replace((limit, now + REDUCED_FOR)).is_none();
        if is_first {
            log::warn!(
                "gate: cannot take connections for now: {error}; allows {limit} connections for {} s",
                REDUCED_FOR.as_secs()
            );
        }
        let has_room = self.make_room();
        if !(has_room && is_first) {
            self.set_listening(false);
            self.accept_pause = Some(now + ACCEPT_PAUSE);
        }
    }

    /// Evicts a connection; false if every client waits for a response.
    fn make_room(&mut self) -> bool {
        let victim = self.connections.eviction_victim();
        if let Some(slot) = victim {
            self.evict(slot);
        }
        victim.is_some()
    }

    // ---- upstreams ----

    /// Bytes of requests that tiny_http has not received completely.
    fn in_transit(&self) -> usize {
        self.upstreams.iter().flatten().map(Upstream::in_transit).sum()
    }

    /// Sends queued requests to idle upstreams.
    fn dispatch(&mut self) {
        loop {
            let idle = self.upstreams.iter().position(|place| place.as_ref().is_some_and(Upstream::is_idle));
            if idle.is_none() && self.upstreams.iter().any(Option::is_some) {
                return;
            }
            // Every second upstream prefers small requests: events do not wait for a queue of large requests, and large
            // requests do not wait for ever.
            let (in_transit, prefers_small) = (self.in_transit(), idle.is_some_and(|index| index % 2 == 0));
            let Some((wire, exchange)) =
                self.connections.take_queued(&self.poller, in_transit, prefers_small)
            else {
                return;
            };
            match idle {
                Some(index) => self.with_upstream(index, |upstream, _| {
                    upstream.send(wire, exchange)?;
                    Ok(None)
                }),
                None => self.deliver(exchange, Err(Refusal::NoUpstream)),
            }
        }
    }

    /// Runs `action` on an upstream, delivers its response and registers it for its next events. An upstream that fails
    /// is dropped, and its client gets a 502.
    fn with_upstream(
        &mut self,
        index: usize,
        action: impl FnOnce(&mut Upstream, &mut [u8]) -> Result<Option<(Exchange, Response)>, &'static str>,
    ) {
        let Some(place) = self.upstreams.get_mut(index) else { return };
        let Some(upstream) = place else { return };
        let result = action(upstream, &mut self.buffer).and_then(|delivery| {
            upstream.register(&self.poller, index).map_err(|_| "cannot be polled")?;
            Ok(delivery)
        });
        match result {
            Ok(None) => {}
            Ok(Some((exchange, response))) => self.deliver(exchange, Ok(response)),
            Err(failure) => {
                log::error!("gate: lost a connection to tiny_http: {failure}; please report this");
                let exchange = upstream.take_exchange();
                *place = None;
                self.shared.stats.upstreams.fetch_sub(1, Relaxed);
                if let Some(exchange) = exchange {
                    self.deliver(exchange, Err(Refusal::BadGateway));
                }
            }
        }
    }

    fn deliver(&mut self, exchange: Exchange, response: Result<Response, Refusal>) {
        let is_stopping = self.listener.is_none();
        self.update(exchange.slot, |connection, shared| {
            // The slot may belong to a later connection by now.
            if connection.id != exchange.connection_id {
                return Ok(());
            }
            connection.deliver(shared, response, is_stopping)
        });
    }
}

/// The index of a token that is not below `first`.
fn index(token: Token, first: Token) -> Option<usize> {
    token.checked_sub(first).and_then(|index| usize::try_from(index).ok())
}
