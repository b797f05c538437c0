//! The server behind the gate and the connections to it.
//!
//! tiny_http gives each connection a thread for as long as it lives, and its accept thread dies
//! of any error. So it gets a fixed number of connections, all at the start, through a socket
//! that is gone before the first client comes.

use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::answer::{self, Arrived};

/// The length of `sun_path`, less the terminating zero.
const MAX_SOCKET_PATH: usize = 107;

/// What a fresh connection may take to prove that the server answers on it.
const PROBE_TIME: Duration = Duration::from_secs(5);

/// The connections to a [`private_server`], for the gate.
#[derive(Debug)]
pub struct Backend {
    pub(super) streams: Vec<UnixStream>,
}

/// A tiny_http server that only the gate can reach, and the connections to it.
///
/// The socket lies in a fresh directory of mode 0700 under the temporary directory, or under
/// `fallback_dir` where that cannot be used, and both are removed before this returns. Nothing
/// may receive from the server before.
pub fn private_server(connections: usize, fallback_dir: &Path) -> io::Result<(tiny_http::Server, Backend)> {
    let mut last = None;
    for parent in [std::env::temp_dir().as_path(), fallback_dir, Path::new("/tmp")] {
        match SocketDir::create(parent) {
            Ok(dir) => return connect(&dir, connections),
            Err(error) => {
                let text = format!("{}: {error}", parent.display());
                last = Some(io::Error::new(error.kind(), text));
            }
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

/// A directory for one socket; gone when dropped.
struct SocketDir {
    dir: PathBuf,
    socket: PathBuf,
    listener: UnixListener,
}

impl SocketDir {
    fn create(parent: &Path) -> io::Result<SocketDir> {
        let dir = parent.join(format!(".wecom-gate-{:012x}", fastrand::u64(..1 << 48)));
        // The socket's name is random too: tiny_http unlinks this path once more when its server
        // is dropped, and must not hit what somebody else put there meanwhile.
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

fn connect(dir: &SocketDir, connections: usize) -> io::Result<(tiny_http::Server, Backend)> {
    // The server's accept thread panics when it cannot duplicate a descriptor, so make sure
    // beforehand that there are enough of them.
    let spare: io::Result<Vec<UnixListener>> =
        (0..connections.saturating_mul(3).saturating_add(2)).map(|_| dir.listener.try_clone()).collect();
    drop(spare?);

    let server =
        tiny_http::Server::from_listener(dir.listener.try_clone()?, None).map_err(io::Error::other)?;
    let mut streams = Vec::with_capacity(connections);
    for _ in 0..connections {
        let stream = UnixStream::connect(&dir.socket)?;
        probe(&server, &stream)?;
        stream.set_read_timeout(None)?;
        stream.set_nonblocking(true)?;
        streams.push(stream);
    }
    Ok((server, Backend { streams }))
}

/// One request and answer over a fresh connection.
///
/// Not only a proof: tiny_http may queue a connection for a thread that another, made a moment
/// earlier, is about to occupy for good. After the round trip the thread is bound.
fn probe(server: &tiny_http::Server, mut stream: &UnixStream) -> io::Result<()> {
    stream.write_all(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n")?;
    let request = server.recv_timeout(PROBE_TIME)?.ok_or(io::ErrorKind::TimedOut)?;
    request.respond(tiny_http::Response::empty(204))?;
    stream.set_read_timeout(Some(PROBE_TIME))?;
    let mut answer = Vec::new();
    let mut chunk = [0; 512];
    loop {
        match answer::parse(&answer, false) {
            Arrived::Whole { end, .. } if end == answer.len() => return Ok(()),
            Arrived::Part => {}
            Arrived::Whole { .. } | Arrived::Broken => {
                return Err(io::Error::other("the server behind the gate does not answer"));
            }
        }
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(chunk.get(..count).unwrap_or_default());
    }
}

/// Whom an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) slot: usize,
    pub(super) client: u64,
    pub(super) bodiless: bool,
}

/// What came of an event on a connection to the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing to tell yet.
    Pending,
    /// The answer to this job: its head for [`answer::relay`], and its body.
    Answered(Job, Vec<u8>, Vec<u8>),
    /// The connection is of no more use; this job, if any, gets no answer.
    Lost(Option<Job>, &'static str),
}

/// One connection to the server.
#[derive(Debug)]
pub(super) struct Link {
    stream: mio::net::UnixStream,
    out: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    job: Option<Job>,
}

impl Link {
    pub(super) fn new(stream: UnixStream) -> Link {
        Link {
            stream: mio::net::UnixStream::from_std(stream),
            out: Vec::new(),
            sent: 0,
            input: Vec::new(),
            job: None,
        }
    }

    pub(super) fn source(&mut self) -> &mut mio::net::UnixStream {
        &mut self.stream
    }

    /// Whether it can take a request: the last one is answered, and was taken whole.
    pub(super) fn idle(&self) -> bool {
        self.job.is_none() && self.out.is_empty()
    }

    /// Bytes of a request that it has taken and not passed on yet.
    pub(super) fn holds(&self) -> usize {
        self.out.len()
    }

    /// Sends a request; only when idle.
    pub(super) fn send(&mut self, wire: Vec<u8>, job: Job) -> Outcome {
        self.out = wire;
        self.sent = 0;
        self.job = Some(job);
        self.write()
    }

    /// Goes on after an event.
    pub(super) fn ready(&mut self, scratch: &mut [u8]) -> Outcome {
        if let lost @ Outcome::Lost(..) = self.write() {
            return lost;
        }
        loop {
            match self.stream.read(scratch) {
                Ok(0) => return self.lost("closed by the server"),
                Ok(count) => {
                    let fresh = scratch.get(..count).unwrap_or_default();
                    self.input.extend_from_slice(fresh);
                    if self.input.len() > answer::MAX_ANSWER.saturating_mul(2) {
                        return self.lost("answer too long");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return self.lost("read failed"),
            }
        }
        self.parse()
    }

    fn parse(&mut self) -> Outcome {
        let Some(job) = self.job else {
            return if self.input.is_empty() {
                Outcome::Pending
            } else {
                self.lost("spoke without being asked")
            };
        };
        if self.input.is_empty() {
            return Outcome::Pending;
        }
        match answer::parse(&self.input, job.bodiless) {
            Arrived::Part => Outcome::Pending,
            Arrived::Broken => self.lost("answer without a known length"),
            Arrived::Whole { head, body_at, end } => {
                if self.input.len() > end {
                    return self.lost("answer longer than announced");
                }
                let mut body = std::mem::take(&mut self.input);
                body.drain(..body_at.min(body.len()));
                self.job = None;
                Outcome::Answered(job, head, body)
            }
        }
    }

    fn write(&mut self) -> Outcome {
        while self.sent < self.out.len() {
            match self.stream.write(self.out.get(self.sent..).unwrap_or_default()) {
                Ok(0) => return self.lost("closed by the server"),
                Ok(count) => self.sent = self.sent.saturating_add(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Outcome::Pending;
                }
                Err(_) => return self.lost("write failed"),
            }
        }
        self.out = Vec::new();
        self.sent = 0;
        Outcome::Pending
    }

    fn lost(&mut self, why: &'static str) -> Outcome {
        Outcome::Lost(self.job.take(), why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_private_servers_socket_is_gone_and_every_connection_has_its_thread() {
        let dir = tempfile::tempdir().unwrap();
        let (server, backend) = private_server(12, dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let path = format!("{}", server.server_addr());
        assert!(!path.is_empty());
        // All at once: none waits for another's thread.
        for mut stream in &backend.streams {
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        }
        let requests: Vec<_> = (0..12).map(|_| server.recv_timeout(PROBE_TIME).unwrap().unwrap()).collect();
        assert_eq!(requests.len(), 12);
    }

    #[test]
    fn a_socket_path_that_is_too_long_is_refused_and_leaves_nothing() {
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
