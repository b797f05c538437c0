//! The commands' side of the control socket.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::protocol::{Request, Response};
use super::socket::connect;
use crate::store::Connection;
use crate::store::state::DAEMON;

/// Time for the daemon to take a request.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to the daemon, with the one request that it carries.
pub(crate) struct ControlClient {
    stream: UnixStream,
    /// Received bytes of an incomplete line.
    buffer: Vec<u8>,
}

impl ControlClient {
    /// Sends `request` to the daemon that `database` names. [`ErrorKind::NotFound`]: it names none.
    pub(crate) fn request(database: &Connection, request: &Request) -> io::Result<Self> {
        let daemon = DAEMON.get(database).map_err(io::Error::other)?;
        let path = daemon.and_then(|(_, daemon)| daemon.control).ok_or(ErrorKind::NotFound)?;
        let mut stream = connect(Path::new(&path))?;
        stream.set_write_timeout(Some(SEND_TIMEOUT))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// The next response; `None` if none arrives within `timeout`, which is not zero. [`ErrorKind::UnexpectedEof`]: the
    /// daemon closed the connection.
    pub(crate) fn receive(&mut self, timeout: Duration) -> io::Result<Option<Response>> {
        self.stream.set_read_timeout(Some(timeout))?;
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.buffer.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
