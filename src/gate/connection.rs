//! State machine of one client connection: its socket, its phase, its deadline and its unsent output.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::limits::Limits;
use super::nonblocking::{FIRST_CONNECTION, Interest, Output, Poller, read_available};
use super::refusal::{Observer, Refusal, RefusedRequest};
use super::request_reader::{Progress, Request, RequestReader, SMALL};
use super::response::{self, Response};
use super::routes::Routes;
use super::stats::GateStats;
use super::upstream::Exchange;

/// Time and bytes for a client to receive its response and close, after the gate has closed its side.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// What all connections of a gate have in common.
pub(super) struct Shared {
    pub(super) routes: Routes,
    pub(super) limits: Limits,
    pub(super) stats: Arc<GateStats>,
    pub(super) observer: Option<Arc<dyn Observer>>,
}

/// What a connection is doing.
#[derive(Debug)]
enum Phase {
    /// Kept alive; no request has begun.
    Idle,
    /// A request is incomplete, or the connection is new.
    Reading,
    /// The request is complete and waits for an upstream.
    Queued(Request),
    /// An upstream handles the request, whose `wire` is taken.
    Answering(Request),
    /// The response is not sent completely.
    Writing { keep_alive: bool },
    /// The response is sent and the gate's side is closed. Input is discarded, because closing with unread input would
    /// reset the connection before the client has read the response.
    Lingering { room: usize },
}

/// Order in which connections are closed for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EvictionRank {
    Lingering,
    Idle,
    Reading,
}

/// The connection has ended: the caller drops it, which closes its socket.
#[derive(Debug)]
pub(super) struct Closed;

impl From<io::Error> for Closed {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// Bytes that a connection holds, by the memory bound that applies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// Of an incomplete request, and of pipelined ones behind a complete one.
    pub(super) incomplete: usize,
    /// Of a complete request that waits for an upstream.
    pub(super) queued: usize,
}

pub(super) struct Connection {
    /// Distinguishes connections that use the same slot one after the other.
    pub(super) id: u64,
    stream: TcpStream,
    interest: Interest,
    reader: RequestReader,
    output: Output,
    phase: Phase,
    /// When the phase began. For `Answering`: when the request was complete.
    pub(super) since: Instant,
    pub(super) deadline: Instant,
}

impl Connection {
    pub(super) fn new(id: u64, stream: TcpStream, peer: SocketAddr, limits: &Limits) -> Self {
        let since = Instant::now();
        Self {
            id,
            stream,
            interest: Interest::new(),
            reader: RequestReader::new(peer),
            output: Output::default(),
            phase: Phase::Reading,
            since,
            deadline: since + limits.request_deadline,
        }
    }

    pub(super) fn memory(&self) -> Memory {
        let queued = if let Phase::Queued(request) = &self.phase { request.wire.len() } else { 0 };
        Memory { incomplete: self.reader.memory(), queued }
    }

    /// Whether all connections of this kind share one allowance of reads per turn.
    pub(super) fn is_large(&self) -> bool {
        matches!(self.phase, Phase::Lingering { .. }) || self.reader.memory() > SMALL
    }

    /// `None`: the request is complete, so its client gets a response.
    pub(super) fn eviction_rank(&self) -> Option<EvictionRank> {
        match self.phase {
            Phase::Lingering { .. } => Some(EvictionRank::Lingering),
            Phase::Idle => Some(EvictionRank::Idle),
            Phase::Reading => Some(EvictionRank::Reading),
            Phase::Queued(_) | Phase::Answering(_) | Phase::Writing { .. } => None,
        }
    }

    /// Registers the socket for the events that the phase waits for.
    pub(super) fn register(&mut self, poller: &Poller, slot: usize) -> Result<(), Closed> {
        let wanted = match self.phase {
            Phase::Idle | Phase::Reading | Phase::Lingering { .. } => Interest::READ,
            Phase::Writing { .. } => Interest::WRITE,
            Phase::Queued(_) | Phase::Answering(_) => Interest::NONE,
        };
        Ok(self.interest.set(poller, &self.stream, FIRST_CONNECTION + slot as u64, wanted)?)
    }

    /// Reads once into `buffer`, or writes, and acts on the result.
    pub(super) fn on_ready(&mut self, shared: &Shared, buffer: &mut [u8]) -> Result<(), Closed> {
        match &mut self.phase {
            Phase::Idle | Phase::Reading => self.receive(shared, buffer),
            Phase::Writing { keep_alive } => {
                let keep_alive = *keep_alive;
                self.flush(shared, keep_alive)
            }
            Phase::Lingering { room } => {
                let count = read_available(&mut self.stream, buffer)?.unwrap_or(0);
                *room = room.checked_sub(count).ok_or(Closed)?;
                Ok(())
            }
            Phase::Queued(_) | Phase::Answering(_) => Ok(()),
        }
    }

    /// Ends a phase whose time has passed.
    pub(super) fn on_deadline(&mut self, shared: &Shared) -> Result<(), Closed> {
        match self.phase {
            Phase::Reading if self.reader.has_content() => self.refuse(shared, Refusal::Timeout),
            Phase::Queued(_) | Phase::Answering(_) => {
                shared.stats.deadline_missed.fetch_add(1, Relaxed);
                shared.stats.answered.record(self.since.elapsed());
                self.refuse(shared, Refusal::Deadline)
            }
            _ => Err(Closed),
        }
    }

    /// Takes the queued request for an upstream. The deadline stays.
    pub(super) fn take_queued(&mut self, slot: usize) -> Option<(Vec<u8>, Exchange)> {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Queued(mut request) => {
                let wire = std::mem::take(&mut request.wire);
                let exchange =
                    Exchange { slot, connection_id: self.id, is_head_request: request.is_head_request };
                self.phase = Phase::Answering(request);
                Some((wire, exchange))
            }
            other => {
                self.phase = other;
                None
            }
        }
    }

    /// Sends the response to the request that was taken.
    pub(super) fn deliver(
        &mut self,
        shared: &Shared,
        response: Result<Response, Refusal>,
        is_stopping: bool,
    ) -> Result<(), Closed> {
        // The gate may have answered the request itself by now.
        let Phase::Answering(request) = &self.phase else { return Ok(()) };
        let keep_alive = request.keep_alive && !is_stopping;
        match response {
            Err(refusal) => self.refuse(shared, refusal),
            Ok(response) => {
                shared.stats.answered.record(self.since.elapsed());
                self.respond(shared, response.relay(keep_alive), keep_alive)
            }
        }
    }

    /// Answers the request with an error and closes the connection.
    pub(super) fn refuse(&mut self, shared: &Shared, refusal: Refusal) -> Result<(), Closed> {
        shared.stats.refused(refusal);
        self.report(shared, refusal);
        self.respond(shared, response::refusal(refusal, &shared.routes), false)
    }

    fn enter(&mut self, phase: Phase, time: Duration) {
        self.phase = phase;
        self.since = Instant::now();
        self.deadline = self.since + time;
    }

    fn receive(&mut self, shared: &Shared, buffer: &mut [u8]) -> Result<(), Closed> {
        let wanted = self.reader.wanted().clamp(1, buffer.len());
        let buffer = buffer.get_mut(..wanted).unwrap_or_default();
        match read_available(&mut self.stream, buffer) {
            Ok(None) => return Ok(()),
            Ok(Some(count)) => self.reader.feed(buffer.get(..count).unwrap_or_default()),
            Err(_) => {
                // A request whose body is incomplete may have been an event.
                if self.reader.lacks_body() {
                    self.report(shared, Refusal::ClientClosed);
                }
                return Err(Closed);
            }
        }
        self.advance(shared)
    }

    /// Acts on the bytes that were received.
    fn advance(&mut self, shared: &Shared) -> Result<(), Closed> {
        if matches!(self.phase, Phase::Idle) && self.reader.has_begun() {
            self.enter(Phase::Reading, shared.limits.request_deadline);
        }
        match self.reader.advance(&shared.routes, &shared.limits) {
            Progress::Incomplete => Ok(()),
            Progress::ExpectsContinue => {
                self.output.queue(response::CONTINUE.to_vec());
                // A socket without room for 25 bytes is not worth waiting for.
                if self.output.flush(&mut self.stream)? { Ok(()) } else { Err(Closed) }
            }
            Progress::Complete(request) => {
                shared.stats.forwarded.fetch_add(1, Relaxed);
                self.enter(Phase::Queued(request), shared.limits.answer_deadline);
                Ok(())
            }
            Progress::Probe { is_head_request } => {
                self.respond(shared, response::probe(is_head_request), false)
            }
            Progress::Refused(refusal) => self.refuse(shared, refusal),
        }
    }

    fn respond(&mut self, shared: &Shared, bytes: Vec<u8>, keep_alive: bool) -> Result<(), Closed> {
        self.output.queue(bytes);
        if !keep_alive {
            self.reader.clear();
        }
        self.enter(Phase::Writing { keep_alive }, shared.limits.write_deadline);
        self.flush(shared, keep_alive)
    }

    fn flush(&mut self, shared: &Shared, keep_alive: bool) -> Result<(), Closed> {
        if !self.output.flush(&mut self.stream)? {
            return Ok(());
        }
        if keep_alive {
            self.enter(Phase::Idle, shared.limits.idle_timeout);
            // A pipelined request may already be complete.
            return self.advance(shared);
        }
        self.stream.shutdown(Shutdown::Write)?;
        self.enter(Phase::Lingering { room: LINGER_BYTES }, LINGER);
        Ok(())
    }

    fn report(&self, shared: &Shared, refusal: Refusal) {
        let Some(observer) = &shared.observer else { return };
        let request = match &self.phase {
            Phase::Queued(request) | Phase::Answering(request) => request.summary.clone(),
            _ => self.reader.summary(),
        };
        let peer = self.reader.peer();
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        observer.refused(&RefusedRequest { refusal, peer, request });
    }
}
