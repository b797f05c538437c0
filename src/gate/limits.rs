//! Limits on clients and requests, the listener, and the division of the process's descriptors.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};

/// Limits of one gate. Sizes are in bytes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Client connections that are open at the same time.
    pub max_connections: usize,
    /// Longest head of a request; a longer one is refused with 431.
    pub max_head: usize,
    /// Longest body of a request; a longer one is refused with 413.
    pub max_body: usize,
    /// Memory for incomplete requests of all connections, and as much again for complete ones.
    pub max_buffered: usize,
    /// From the first byte of a request (for a new connection, from accept) to its last.
    pub request_deadline: Duration,
    /// For a kept-alive connection without a request.
    pub idle_timeout: Duration,
    /// From the complete request to tiny_http's answer; then the gate answers 503.
    pub answer_deadline: Duration,
    /// From the answer to the moment when the client has received all of it.
    pub write_deadline: Duration,
    /// Whether every connection must begin with a PROXY protocol header, version 1 or 2.
    pub proxy_protocol: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_connections: 4096,
            max_head: 16 * 1024,
            max_body: 256 * 1024,
            max_buffered: 12 * 1024 * 1024,
            request_deadline: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            answer_deadline: Duration::from_millis(4_700),
            write_deadline: Duration::from_secs(10),
            proxy_protocol: false,
        }
    }
}

impl Limits {
    /// [`Limits::max_buffered`], but at least room for two requests of the greatest length.
    pub(super) fn memory_bound(&self) -> usize {
        self.max_buffered.max(2 * (self.max_body + self.max_head))
    }
}

/// Binds a listener for the gate, with SO_REUSEADDR for restarts and a backlog of 4096.
pub fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Numbers of connections that the process's descriptors allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Client connections that are open at the same time.
    pub max_connections: usize,
    /// Upstreams, and so requests that tiny_http handles at the same time.
    pub max_in_flight: usize,
}

/// Descriptors of an upstream: the gate's end, and tiny_http's end twice.
const PER_UPSTREAM: usize = 3;

/// Descriptors of listener, epoll, waker and tiny_http's listener, and one to accept with at the limit.
const OWN: usize = 5;

/// Raises the soft limit on descriptors to the need and divides the available ones. `reserve` is the share of the rest
/// of the process: database, logs, API calls, other gates.
///
/// The limit is not raised beyond the need, because child processes inherit it, and some of them close every possible
/// descriptor one by one.
pub fn descriptor_budget(wanted: Budget, reserve: usize) -> Budget {
    let Budget { max_connections, max_in_flight } = wanted;
    let need = max_connections + PER_UPSTREAM * max_in_flight + OWN + reserve;
    let limit = getrlimit(Resource::Nofile);
    let soft = limit.current.unwrap_or(u64::MAX);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let raised = soft.max(hard.min(need as u64));
    let is_raised = raised != soft
        && setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum }).is_ok();
    let available = usize::try_from(if is_raised { raised } else { soft }).unwrap_or(usize::MAX);
    let budget = divide(available, wanted, reserve);
    if budget != wanted {
        log::warn!(
            "descriptor limit {hard} allows connections={} of {max_connections} in_flight={} of {max_in_flight}; \
             raise LimitNOFILE",
            budget.max_connections,
            budget.max_in_flight,
        );
    }
    budget
}

fn divide(limit: usize, wanted: Budget, reserve: usize) -> Budget {
    let free = limit.saturating_sub(reserve.min(limit / 2)).saturating_sub(OWN);
    // Upstreams get at most half: a waiting client is better than a rejected one.
    let max_in_flight = (free / (2 * PER_UPSTREAM)).clamp(1, wanted.max_in_flight.max(1));
    let max_connections =
        free.saturating_sub(PER_UPSTREAM * max_in_flight).clamp(2, wanted.max_connections.max(2));
    Budget { max_connections, max_in_flight }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_are_divided_too() {
        let wanted = Budget { max_connections: 4096, max_in_flight: 16 };
        for (limit, connections, in_flight) in [
            (20_000, 4096, 16),
            (4096 + 48 + 5 + 64, 4096, 16),
            (1024, 907, 16),
            (256, 139, 16),
            (64, 15, 4),
            (40, 9, 2),
            (10, 2, 1),
            (0, 2, 1),
        ] {
            let expected = Budget { max_connections: connections, max_in_flight: in_flight };
            assert_eq!(divide(limit, wanted, 64), expected, "{limit}");
        }
    }

    #[test]
    fn a_bound_address_can_be_bound_again_at_once() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = first.local_addr().unwrap();
        drop(first);
        assert_eq!(bind(addr).unwrap().local_addr().unwrap(), addr);
    }
}
