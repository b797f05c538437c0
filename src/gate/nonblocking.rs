//! Nonblocking I/O: level-triggered epoll, single reads, and output that waits for its socket.
//!
//! epoll reports a descriptor at every wait for as long as it is ready. The event loop may therefore read a part and
//! leave the rest to the next turn.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

/// Events that one wait returns at most.
const EVENTS_PER_WAIT: usize = 1024;

/// Identifies a registered descriptor: the listener, the waker, an upstream or, from `FIRST_CONNECTION` on, a slot.
pub(crate) type Token = u64;
pub(crate) const LISTENER: Token = 0;
pub(crate) const WAKER: Token = 1;
pub(crate) const FIRST_UPSTREAM: Token = 2;
pub(crate) const FIRST_CONNECTION: Token = 1 << 32;

#[derive(Debug)]
pub(crate) struct Poller(OwnedFd);

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Waits until a descriptor is ready or `timeout` passes, rounded up to milliseconds; a signal ends the wait too.
    /// `ready` is overwritten.
    pub(crate) fn wait(&self, timeout: Option<Duration>, ready: &mut Vec<Token>) -> io::Result<()> {
        ready.clear();
        // Rounding down would poll without waiting during the last millisecond.
        let millis =
            timeout.map(|timeout| timeout.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i64);
        let timeout =
            millis.map(|millis| Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 });
        let mut events = [MaybeUninit::<Event>::uninit(); EVENTS_PER_WAIT];
        match epoll::wait(&self.0, &mut events, timeout.as_ref()) {
            Ok((events, _)) => ready.extend(events.iter().map(|event| event.data.u64())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// The events that epoll reports for one descriptor. With no interest the descriptor is not registered at all, since
/// epoll reports errors and hang-ups of every registered one.
#[derive(Debug)]
pub(crate) struct Interest(EventFlags);

impl Interest {
    pub(crate) const NONE: EventFlags = EventFlags::empty();
    pub(crate) const READ: EventFlags = EventFlags::IN;
    pub(crate) const WRITE: EventFlags = EventFlags::OUT;

    pub(crate) fn new() -> Self {
        Self(Self::NONE)
    }

    /// Changes the registration of `source` if `wanted` differs. Closing `source` removes it.
    pub(crate) fn set(
        &mut self,
        poller: &Poller,
        source: impl AsFd,
        token: Token,
        wanted: EventFlags,
    ) -> io::Result<()> {
        let data = EventData::new_u64(token);
        match (self.0.is_empty(), wanted.is_empty()) {
            _ if self.0 == wanted => {}
            (true, _) => epoll::add(&poller.0, source, data, wanted)?,
            (false, true) => epoll::delete(&poller.0, source)?,
            (false, false) => epoll::modify(&poller.0, source, data, wanted)?,
        }
        self.0 = wanted;
        Ok(())
    }
}

/// An eventfd that interrupts [`Poller::wait`].
#[derive(Debug)]
pub(crate) struct Waker(OwnedFd);

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(crate) fn wake(&self) -> io::Result<()> {
        rustix::io::write(&self.0, &1_u64.to_ne_bytes())?;
        Ok(())
    }

    /// Ends the readiness, which otherwise lasts.
    pub(crate) fn reset(&self) {
        // An error means that nothing woke since the last reset.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Reads once; `None` if nothing has arrived. The end of the stream is the error `UnexpectedEof`.
pub(crate) fn read_available(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => return Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// Bytes that a socket has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Output {
    bytes: Vec<u8>,
    sent: usize,
}

impl Output {
    pub(crate) fn queue(&mut self, mut bytes: Vec<u8>) {
        if self.bytes.is_empty() {
            self.bytes = bytes;
        } else {
            self.bytes.append(&mut bytes);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes of memory, the sent part included.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Writes as much as the socket takes; true if nothing is left.
    pub(crate) fn flush(&mut self, stream: &mut impl Write) -> io::Result<bool> {
        while let Some(rest) = self.bytes.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        *self = Self::default();
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_ready_descriptor_is_reported_until_it_is_read_or_no_longer_wanted() {
        let (poller, mut interest, mut ready) = (Poller::new().unwrap(), Interest::new(), Vec::new());
        let (mut near, mut far) = UnixStream::pair().unwrap();
        let token = FIRST_CONNECTION + 70_000;
        far.write_all(b"ab").unwrap();
        interest.set(&poller, &near, token, Interest::READ).unwrap();
        for _ in 0..2 {
            poller.wait(None, &mut ready).unwrap();
            assert_eq!(ready, [token]);
            assert_eq!(read_available(&mut near, &mut [0]).unwrap(), Some(1));
        }
        poller.wait(Some(Duration::from_micros(1)), &mut ready).unwrap();
        assert_eq!(ready, [0; 0]);
        interest.set(&poller, &near, token, Interest::NONE).unwrap();
        drop(far);
        poller.wait(Some(Duration::ZERO), &mut ready).unwrap();
        assert_eq!(ready, [0; 0], "an unregistered descriptor reports no hang-up");
        interest.set(&poller, &near, token, Interest::WRITE).unwrap();
        poller.wait(None, &mut ready).unwrap();
        assert_eq!(ready, [token]);
        assert_eq!(read_available(&mut near, &mut [0]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
