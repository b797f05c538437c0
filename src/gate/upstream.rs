//! tiny_http behind the gate, and the connections to it.
//!
//! tiny_http gives each connection a thread for as long as it lives, and its accept thread ends at the first error. It
//! therefore gets a fixed number of connections at the start, through a socket that is removed before the first
//! client is accepted.

use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::nonblocking::{FIRST_UPSTREAM, Interest, Output, Poller, read_available};
use super::response::{self, Response};
use super::server_probe::ServerProbe;

/// Length of `sun_path` without its terminating zero, in bytes.
const MAX_SOCKET_PATH: usize = 107;

/// Time for the first response of tiny_http on a new connection.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts a tiny_http server that only the gate can reach, with this number of upstreams. Nothing may receive from
/// the server before this returns.
///
/// The socket lies in a new directory of mode 0700 under the temporary directory, else under `fallback_dir`, else under
/// `/tmp`. Socket and directory are removed before this returns.
pub fn private_server(
    connections: usize,
    fallback_dir: &Path,
) -> io::Result<(tiny_http::Server, Vec<Upstream>)> {
    let mut failure = io::ErrorKind::NotFound.into();
    for parent in [std::env::temp_dir().as_path(), fallback_dir, Path::new("/tmp")] {
        match SocketDir::create(parent) {
            Ok(dir) => return connect(&dir, connections),
            Err(error) => failure = io::Error::new(error.kind(), format!("{}: {error}", parent.display())),
        }
    }
    Err(failure)
}

/// A directory with one listening socket, removed on drop.
struct SocketDir {
    dir: PathBuf,
    socket: PathBuf,
    listener: UnixListener,
}

impl SocketDir {
    fn create(parent: &Path) -> io::Result<SocketDir> {
        let dir = parent.join(format!(".wecom-gate-{:012x}", fastrand::u64(..1 << 48)));
        // tiny_http unlinks this path again when its server is dropped. The random name makes sure that no other file
        // has it by then.
        let socket = dir.join(format!("{:08x}", fastrand::u32(..)));
        if socket.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "path too long for a socket"));
        }
        std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
        match UnixListener::bind(&socket) {
            Ok(listener) => Ok(SocketDir { dir, socket, listener }),
            Err(error) => {
                let _ = std::fs::remove_dir(&dir);
                Err(error)
            }
        }
    }
}

impl Drop for SocketDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
        if let Err(error) = std::fs::remove_dir(&self.dir) {
            log::warn!("cannot remove {}: {error}", self.dir.display());
        }
    }
}

fn connect(dir: &SocketDir, connections: usize) -> io::Result<(tiny_http::Server, Vec<Upstream>)> {
    // tiny_http's accept thread panics if it cannot duplicate a descriptor, so check beforehand that enough are free.
    let spare: io::Result<Vec<UnixListener>> =
        (0..connections.saturating_mul(3).saturating_add(2)).map(|_| dir.listener.try_clone()).collect();
    drop(spare?);

    let server =
        tiny_http::Server::from_listener(dir.listener.try_clone()?, None).map_err(io::Error::other)?;
    let connect_one = |_| {
        let stream = UnixStream::connect(&dir.socket)?;
        probe(&server, &stream)?;
        stream.set_nonblocking(true)?;
        Ok(Upstream {
            stream,
            interest: Interest::new(),
            output: Output::default(),
            input: Vec::new(),
            exchange: None,
        })
    };
    let upstreams = (0..connections).map(connect_one).collect::<io::Result<_>>()?;
    Ok((server, upstreams))
}

/// Sends one request over a new connection and receives the response.
///
/// The round trip binds a thread of tiny_http to the connection. Without it, tiny_http may queue the connection for a
/// thread that a connection of a moment earlier occupies permanently.
fn probe(server: &tiny_http::Server, mut stream: &UnixStream) -> io::Result<()> {
    stream.write_all(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n")?;
    let request = server.recv_timeout(PROBE_TIMEOUT)?.ok_or(io::ErrorKind::TimedOut)?;
    request.respond(tiny_http::Response::empty(204))?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    let (mut received, mut buffer) = (Vec::new(), [0; 512]);
    while response::parse(&received, false).map_err(io::Error::other)?.is_none() {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        received.extend_from_slice(buffer.get(..count).unwrap_or_default());
    }
    Ok(())
}

/// The client whose request an upstream handles.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exchange {
    pub(super) slot: usize,
    pub(super) connection_id: u64,
    pub(super) is_head_request: bool,
}

/// One connection to tiny_http. It carries one request at a time.
#[derive(Debug)]
pub struct Upstream {
    stream: UnixStream,
    interest: Interest,
    output: Output,
    input: Vec<u8>,
    exchange: Option<Exchange>,
}

impl Upstream {
    /// Uses the connection for probes instead of clients' requests.
    ///
    /// # Errors
    /// The socket cannot be made blocking.
    pub fn into_probe(self) -> io::Result<ServerProbe> {
        ServerProbe::new(self.stream)
    }

    /// Whether the last request was sent completely and answered.
    pub(super) fn is_idle(&self) -> bool {
        self.exchange.is_none() && self.output.is_empty()
    }

    /// The unanswered request; taken when the upstream is lost.
    pub(super) fn take_exchange(&mut self) -> Option<Exchange> {
        self.exchange.take()
    }

    /// Bytes of a request that tiny_http has not received completely.
    pub(super) fn in_transit(&self) -> usize {
        self.output.len()
    }

    /// Sends a request. The upstream must be idle.
    ///
    /// # Errors
    /// The upstream is lost; the text names the reason for the log.
    pub(super) fn send(&mut self, wire: Vec<u8>, exchange: Exchange) -> Result<(), &'static str> {
        self.output.queue(wire);
        self.exchange = Some(exchange);
        self.flush()
    }

    fn flush(&mut self) -> Result<(), &'static str> {
        self.output.flush(&mut self.stream).map(|_| ()).map_err(|_| "write failed")
    }

    /// Writes, and reads once.
    ///
    /// # Errors
    /// The upstream is lost; the text names the reason for the log.
    pub(super) fn on_ready(
        &mut self,
        buffer: &mut [u8],
    ) -> Result<Option<(Exchange, Response)>, &'static str> {
        self.flush()?;
        let Some(count) = read_available(&mut self.stream, buffer).map_err(|_| "closed by the server")?
        else {
            return Ok(None);
        };
        let Some(exchange) = self.exchange else { return Err("response without a request") };
        self.input.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let Some(response) = response::parse(&self.input, exchange.is_head_request)? else { return Ok(None) };
        if self.input.len() > response.len {
            return Err("response longer than its Content-Length");
        }
        if !self.output.is_empty() {
            return Err("response before the end of its request");
        }
        self.input = Vec::new();
        self.exchange = None;
        Ok(Some((exchange, response)))
    }

    /// Waits for input, and for room in the socket while output is queued.
    pub(super) fn register(&mut self, poller: &Poller, index: usize) -> io::Result<()> {
        let write = if self.output.is_empty() { Interest::NONE } else { Interest::WRITE };
        self.interest.set(poller, &self.stream, FIRST_UPSTREAM + index as u64, Interest::READ | write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_private_socket_is_removed_and_every_upstream_has_its_thread() {
        let dir = tempfile::tempdir().unwrap();
        let (server, upstreams) = private_server(12, dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let path = format!("{}", server.server_addr());
        assert!(!path.is_empty());
        // All at the same time: no upstream waits for another's thread.
        for upstream in upstreams {
            (&upstream.stream).write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        }
        let requests: Vec<_> =
            (0..12).map(|_| server.recv_timeout(PROBE_TIMEOUT).unwrap().unwrap()).collect();
        assert_eq!(requests.len(), 12);
    }

    #[test]
    fn a_socket_path_that_is_too_long_is_an_error_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(100));
        std::fs::create_dir(&long).unwrap();
        assert!(SocketDir::create(&long).is_err());
        assert_eq!(std::fs::read_dir(&long).unwrap().count(), 0);
        let made = SocketDir::create(dir.path()).unwrap();
        drop(made);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
