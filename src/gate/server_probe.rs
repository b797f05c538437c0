//! A sign of life from the threads behind the gate, over a connection that no client uses.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::response;

/// The request target of probes. No client reaches it: a route begins with a slash.
pub const SERVER_PROBE: &str = "server-probe";

/// Sends requests that one of tiny_http's receivers has to answer.
#[derive(Debug)]
pub struct ServerProbe {
    stream: UnixStream,
    received: Vec<u8>,
    /// Whether a request has no complete answer yet.
    is_outstanding: bool,
}

impl ServerProbe {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        Ok(Self { stream, received: Vec::new(), is_outstanding: false })
    }

    /// Sends a request, unless the last one is unanswered.
    ///
    /// # Errors
    /// The server has closed the connection, or does not read from it.
    pub fn send(&mut self) -> io::Result<()> {
        if self.is_outstanding {
            return Ok(());
        }
        self.stream.set_write_timeout(Some(Duration::from_secs(1)))?;
        write!(
            self.stream,
            "GET {SERVER_PROBE} HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"
        )?;
        self.is_outstanding = true;
        Ok(())
    }

    /// Waits for the answer until `deadline`.
    ///
    /// # Errors
    /// There is none by then, or the server has closed the connection.
    pub fn receive(&mut self, deadline: Instant) -> io::Result<()> {
        let mut buffer = [0; 512];
        while response::parse(&self.received, false).map_err(io::Error::other)?.is_none() {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left))?;
            let count = self.stream.read(&mut buffer)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.received.extend_from_slice(buffer.get(..count).unwrap_or_default());
        }
        self.received.clear();
        self.is_outstanding = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::private_server;

    #[test]
    fn a_late_answer_belongs_to_the_probe_that_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let (server, mut upstreams) = private_server(1, folder.path()).unwrap();
        let mut probe = upstreams.pop().unwrap().into_probe().unwrap();
        let soon = || Instant::now() + Duration::from_millis(30);
        probe.send().unwrap();
        assert!(probe.receive(soon()).is_err());
        let request = server.recv().unwrap();
        assert_eq!(request.url(), SERVER_PROBE);
        probe.send().unwrap();
        assert!(server.recv_timeout(Duration::from_millis(30)).unwrap().is_none(), "one at a time");
        request.respond(tiny_http::Response::empty(204)).unwrap();
        probe.receive(Instant::now() + Duration::from_secs(5)).unwrap();
        probe.send().unwrap();
        assert!(server.recv().is_ok());
    }
}
