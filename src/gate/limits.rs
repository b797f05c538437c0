//! How much the gate takes on, and how many descriptors there are for it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};

/// Bounds on clients and their requests.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Client connections open at a time.
    pub max_connections: usize,
    /// Bytes of a request's head.
    pub max_head: usize,
    /// Bytes of a request's body.
    pub max_body: usize,
    /// Bytes of requests not yet passed on, over all connections.
    pub max_buffered: usize,
    /// For a whole request, head and body, from its first byte (of a new connection: from accept).
    pub request_deadline: Duration,
    /// For a kept-alive connection on which nothing has begun.
    pub idle_timeout: Duration,
    /// From the complete request to the server's answer; then the gate answers 503.
    pub answer_deadline: Duration,
    /// For the client to take its answer.
    pub write_deadline: Duration,
    /// Whether every connection must begin with a PROXY protocol header (version 1 or 2).
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

/// A listener for the gate: address reusable at once after a restart, long backlog.
pub fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// What the process's descriptors suffice for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Client connections.
    pub max_connections: usize,
    /// Connections to the server behind the gate.
    pub max_in_flight: usize,
}

/// Descriptors of a connection to the server: the gate's end, and the server's end twice.
const PER_BACKEND: u64 = 3;

/// Listener, poll, waker, the server's listener, and one to accept with while full.
const OWN: u64 = 5;

/// Raises the soft limit on descriptors as far as needed, and divides what there is. `reserve` is
/// for the rest of the process: database, logs, API calls, other gates.
///
/// It is not raised beyond the need, since child processes inherit it, and some of them walk
/// through every possible descriptor.
pub fn descriptor_budget(wanted: Budget, reserve: usize) -> Budget {
    let need = (wanted.max_connections as u64)
        .saturating_add(PER_BACKEND.saturating_mul(wanted.max_in_flight as u64))
        .saturating_add(OWN)
        .saturating_add(reserve as u64);
    let limit = getrlimit(Resource::Nofile);
    let soft = limit.current.unwrap_or(u64::MAX);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let raised = soft.max(need.min(hard));
    let changed = raised != soft
        && setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum }).is_ok();
    let budget = divide(if changed { raised } else { soft }, wanted, reserve as u64);
    if budget != wanted {
        log::warn!(
            "descriptor limit {hard} allows connections={} of {} in_flight={} of {}; raise LimitNOFILE",
            budget.max_connections,
            wanted.max_connections,
            budget.max_in_flight,
            wanted.max_in_flight
        );
    }
    budget
}

fn divide(limit: u64, wanted: Budget, reserve: u64) -> Budget {
    let free = limit.saturating_sub(reserve.min(limit / 2)).saturating_sub(OWN);
    // At most half of them for the server's side: clients that wait are better than none let in.
    let in_flight = (free / (2 * PER_BACKEND)).clamp(1, (wanted.max_in_flight as u64).max(1));
    let connections = free
        .saturating_sub(PER_BACKEND.saturating_mul(in_flight))
        .clamp(2, (wanted.max_connections as u64).max(2));
    Budget {
        max_connections: usize::try_from(connections).unwrap_or(wanted.max_connections),
        max_in_flight: usize::try_from(in_flight).unwrap_or(wanted.max_in_flight),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_divided_and_few_still_do() {
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
            let budget = divide(limit, wanted, 64);
            assert_eq!((budget.max_connections, budget.max_in_flight), (connections, in_flight), "{limit}");
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
