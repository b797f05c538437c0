//! One client of the control socket: its bounded input, its output, its deadline.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::protocol::Response;
use crate::gate::nonblocking::{Interest, Poller, Token};

/// Longest request, in bytes, without its line break.
pub(super) const MAX_REQUEST: usize = 64 * 1024;
/// From the connection to the whole request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// For a client to take the output that waits.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the daemon expects of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its request, before the deadline.
    Request,
    /// To wait for the report of its comparison.
    Reconcile,
    /// To stay subscribed to changes.
    Follow,
    /// To take the rest of the output; the connection is closed then.
    Close,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// No whole request yet, or nothing new.
    Incomplete,
    /// The request, without its line break.
    Line(Vec<u8>),
    /// The request is longer than [`MAX_REQUEST`], or more than one line.
    Invalid,
    /// The client closed the connection, or sent bytes after its request.
    Closed,
}

pub(super) struct Connection {
    stream: UnixStream,
    token: Token,
    interest: Interest,
    /// Effective user of the peer when it connected; `None` if unknown.
    pub(super) uid: Option<u32>,
    pub(super) phase: Phase,
    /// A comparison that waits in the queue holds a weak reference to it.
    pub(super) alive: Arc<()>,
    input: Vec<u8>,
    output: Vec<u8>,
    deadline: Option<Instant>,
}

impl Connection {
    /// Registers `stream`, which does not block, with `poller`.
    pub(super) fn new(
        stream: UnixStream,
        uid: Option<u32>,
        token: Token,
        poller: &Poller,
        now: Instant,
    ) -> io::Result<Self> {
        let mut interest = Interest::new();
        interest.set(poller, &stream, token, Interest::READ)?;
        Ok(Self {
            stream,
            token,
            interest,
            uid,
            phase: Phase::Request,
            alive: Arc::default(),
            input: Vec::new(),
            output: Vec::new(),
            deadline: Some(now + REQUEST_TIMEOUT),
        })
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether a response would have to wait for the client to take an earlier one.
    pub(super) fn is_behind(&self) -> bool {
        !self.output.is_empty()
    }

    /// Reads until the request is whole, or nothing more is there.
    pub(super) fn read(&mut self) -> Input {
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) if self.phase == Phase::Close => return Input::Incomplete,
                Ok(0) => return Input::Closed,
                Ok(_) if self.phase != Phase::Request => return Input::Closed,
                Ok(length) => self.input.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Input::Incomplete,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return Input::Closed,
            }
            match self.input.iter().position(|byte| *byte == b'\n') {
                Some(end) if end <= MAX_REQUEST && end + 1 == self.input.len() => {
                    self.input.truncate(end);
                    return Input::Line(std::mem::take(&mut self.input));
                }
                None if self.input.len() <= MAX_REQUEST => {}
                _ => return Input::Invalid,
            }
        }
    }

    /// Queues a response; `last`: the connection is closed after it.
    pub(super) fn respond(&mut self, response: &Response, last: bool) {
        match serde_json::to_writer(&mut self.output, response) {
            Ok(()) => self.output.push(b'\n'),
            Err(error) => log::error!("control: a response cannot be written: {error}; please report this"),
        }
        if last {
            self.phase = Phase::Close;
        }
    }

    /// Sends what the client takes; false if the connection is over.
    pub(super) fn write(&mut self, poller: &Poller, now: Instant) -> bool {
        let mut sent = 0;
        while sent < self.output.len() {
            match self.stream.write(&self.output[sent..]) {
                Ok(length) => sent += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.output.drain(..sent);
        if self.phase != Phase::Request {
            let waiting = self.deadline.filter(|_| sent == 0);
            self.deadline = self.is_behind().then(|| waiting.unwrap_or(now + WRITE_TIMEOUT));
        }
        // What a client sends after its request, its end included, is not read, and would be reported for ever.
        let read = if self.phase == Phase::Close { Interest::NONE } else { Interest::READ };
        let write = if self.is_behind() { Interest::WRITE } else { Interest::NONE };
        self.interest.set(poller, &self.stream, self.token, read | write).is_ok()
            && (self.is_behind() || self.phase != Phase::Close)
    }
}
