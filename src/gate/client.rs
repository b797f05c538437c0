//! One client's connection: its socket, what it has sent, and what it is owed.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Instant;

use super::conn::{Inbound, Request};
use super::glimpse::Glimpse;
use super::memory::MODEST;

/// What a connection is doing, which decides how long it may and whether it may be evicted.
#[derive(Debug)]
pub(super) enum Phase {
    /// Kept alive, nothing begun.
    Idle,
    /// A request is not complete yet; also a new connection that has not said anything.
    Reading,
    /// Its request is complete and waits for a connection to the server.
    Queued(Request),
    /// The server is at it.
    Answering {
        /// Whether the client keeps the connection afterwards.
        keep_alive: bool,
        /// What can be told of the request.
        glimpse: Glimpse,
    },
    /// The answer is on its way.
    Writing {
        /// Whether the client keeps the connection afterwards.
        keep_alive: bool,
    },
    /// Answered and closed for writing; what still comes is dropped, so that the client sees the answer
    /// and not a reset.
    Lingering {
        /// Bytes that may still come.
        room: usize,
    },
}

/// Which connections go first when there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Lingering = 0,
    Idle = 1,
    Unfinished = 2,
    /// Never evicted: somebody whose request is complete gets an answer.
    Busy = 3,
}

impl Phase {
    pub(super) fn class(&self) -> Class {
        match self {
            Self::Lingering { .. } => Class::Lingering,
            Self::Idle => Class::Idle,
            Self::Reading => Class::Unfinished,
            Self::Queued(_) | Self::Answering { .. } | Self::Writing { .. } => Class::Busy,
        }
    }
}

/// What came of reading or writing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// So many bytes came in.
    Some(usize),
    /// Nothing more for now.
    Blocked,
    /// All that was owed is written.
    Finished,
    /// The client is gone.
    Gone,
}

pub(super) struct Client {
    /// Tells apart the connections that use the same slot one after the other.
    pub(super) id: u64,
    pub(super) stream: mio::net::TcpStream,
    pub(super) inbound: Inbound,
    pub(super) phase: Phase,
    pub(super) deadline: Instant,
    /// When the phase began: the oldest go first.
    pub(super) since: Instant,
    /// Memory that was counted for it.
    pub(super) counted: usize,
    /// Whether it is among those who are read from later.
    pub(super) in_line: bool,
    out: Vec<u8>,
    sent: usize,
}

impl Client {
    pub(super) fn new(
        id: u64,
        stream: mio::net::TcpStream,
        peer: SocketAddr,
        now: Instant,
        deadline: Instant,
    ) -> Self {
        Self {
            id,
            stream,
            inbound: Inbound::new(peer),
            phase: Phase::Reading,
            deadline,
            since: now,
            counted: 0,
            in_line: false,
            out: Vec::new(),
            sent: 0,
        }
    }

    /// Whether it has sent more than clients do that are to be read at once.
    pub(super) fn is_greedy(&self) -> bool {
        matches!(self.phase, Phase::Lingering { .. }) || self.inbound.held() > MODEST
    }

    /// What can be told of the request that it waits for, or is sending.
    pub(super) fn glimpse(&self) -> Glimpse {
        match &self.phase {
            Phase::Queued(request) => request.glimpse.clone(),
            Phase::Answering { glimpse, .. } => glimpse.clone(),
            _ => self.inbound.glimpse(),
        }
    }

    /// Adds to what the client is owed.
    pub(super) fn owe(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Reads once; what came is in `inbound`, or dropped while lingering.
    pub(super) fn read(&mut self, scratch: &mut [u8]) -> Moved {
        let wanted = match self.phase {
            Phase::Lingering { .. } => scratch.len(),
            _ => self.inbound.wants().clamp(1, scratch.len()),
        };
        let scratch = scratch.get_mut(..wanted).unwrap_or_default();
        loop {
            match self.stream.read(scratch) {
                Ok(0) => return Moved::Gone,
                Ok(count) => {
                    if let Phase::Lingering { room } = &mut self.phase {
                        let Some(left) = room.checked_sub(count) else { return Moved::Gone };
                        *room = left;
                    } else {
                        self.inbound.feed(scratch.get(..count).unwrap_or_default());
                    }
                    return Moved::Some(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Moved::Blocked,
                Err(_) => return Moved::Gone,
            }
        }
    }

    /// Writes as much of what is owed as the client takes.
    pub(super) fn write(&mut self) -> Moved {
        while self.sent < self.out.len() {
            match self.stream.write(self.out.get(self.sent..).unwrap_or_default()) {
                Ok(0) => return Moved::Gone,
                Ok(count) => self.sent = self.sent.saturating_add(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Moved::Blocked,
                Err(_) => return Moved::Gone,
            }
        }
        self.out = Vec::new();
        self.sent = 0;
        Moved::Finished
    }

    /// Says that no more will be written; false if the client is gone already.
    pub(super) fn half_close(&self) -> bool {
        self.stream.shutdown(Shutdown::Write).is_ok()
    }
}
