//! The client connections of a gate, their totals, and the queue of complete requests.
//!
//! Every change of a connection goes through [`Connections::update`], which keeps totals and queue correct. Everything
//! else (the next deadline, the eviction victim) is a scan of the slots, made only when one is needed.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use super::connection::{Closed, Connection, EvictionRank, Memory};
use super::limits::Limits;
use super::nonblocking::Poller;
use super::request_reader::SMALL;
use super::upstream::Exchange;

pub(super) struct Connections {
    slots: Vec<Option<Connection>>,
    free: Vec<usize>,
    next_id: u64,
    memory: Memory,
    /// Bound of each total of `memory`, in bytes.
    bound: usize,
    /// Not later than the deadline of any connection.
    earliest_deadline: Option<Instant>,
    /// Slot and id of connections whose request waits for an upstream, in order of arrival. Entries of others are stale.
    queue: VecDeque<(usize, u64)>,
}

impl Connections {
    pub(super) fn new(bound: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            next_id: 0,
            memory: Memory::default(),
            bound,
            earliest_deadline: None,
            queue: VecDeque::new(),
        }
    }

    pub(super) fn set_bound(&mut self, bound: usize) {
        self.bound = bound;
    }

    pub(super) fn open(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Bytes of incomplete and of queued requests.
    pub(super) fn buffered(&self) -> usize {
        self.memory.incomplete + self.memory.queued
    }

    pub(super) fn get(&self, slot: usize) -> Option<&Connection> {
        self.slots.get(slot).and_then(Option::as_ref)
    }

    pub(super) fn insert(&mut self, poller: &Poller, stream: TcpStream, peer: SocketAddr, limits: &Limits) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.next_id += 1;
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(Connection::new(self.next_id, stream, peer, limits));
        }
        self.update(poller, slot, |_| Ok(()));
    }

    pub(super) fn close(&mut self, poller: &Poller, slot: usize) {
        self.update(poller, slot, |_| Err(Closed));
    }

    /// Changes the connection in this slot, if there is one. Afterwards it is registered for the events of its phase, or
    /// removed if it has ended.
    pub(super) fn update(
        &mut self,
        poller: &Poller,
        slot: usize,
        change: impl FnOnce(&mut Connection) -> Result<(), Closed>,
    ) {
        let Some(place) = self.slots.get_mut(slot) else { return };
        let Some(connection) = place else { return };
        let before = connection.memory();
        let result = change(connection).and_then(|()| connection.register(poller, slot));
        let after = if result.is_ok() { connection.memory() } else { Memory::default() };
        self.memory.incomplete = self.memory.incomplete + after.incomplete - before.incomplete;
        self.memory.queued = self.memory.queued + after.queued - before.queued;
        if before.queued == 0 && after.queued > 0 {
            self.queue.push_back((slot, connection.id));
        }
        if result.is_err() {
            *place = None;
            self.free.push(slot);
            return;
        }
        let deadline = connection.deadline;
        self.earliest_deadline = Some(self.earliest_deadline.map_or(deadline, |other| other.min(deadline)));
    }

    /// When to call [`Connections::expired`] next.
    pub(super) fn earliest_deadline(&self) -> Option<Instant> {
        self.earliest_deadline
    }

    /// Slots of the connections whose deadline has passed.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<usize> {
        if self.earliest_deadline.is_none_or(|earliest| earliest > now) {
            return Vec::new();
        }
        let deadlines = self.iter().map(|(_, connection)| connection.deadline);
        self.earliest_deadline = deadlines.filter(|deadline| *deadline > now).min();
        let expired = self.iter().filter(|(_, connection)| connection.deadline <= now);
        expired.map(|(slot, _)| slot).collect()
    }

    /// The connection to close for a new one: the lowest rank, and in it the longest in its phase.
    pub(super) fn eviction_victim(&self) -> Option<usize> {
        let ranked = self.iter().filter_map(|(slot, it)| Some((it.eviction_rank()?, it.since, slot)));
        ranked.min().map(|(_, _, slot)| slot)
    }

    /// While incomplete requests exceed their bound: the oldest large one. All small ones together stay small.
    pub(super) fn incomplete_victim(&self) -> Option<usize> {
        if self.memory.incomplete <= self.bound {
            return None;
        }
        let large = self.iter().filter(|(_, connection)| {
            connection.eviction_rank() == Some(EvictionRank::Reading)
                && connection.memory().incomplete > SMALL
        });
        large.min_by_key(|(_, connection)| connection.since).map(|(slot, _)| slot)
    }

    /// While queued requests and those in transit to tiny_http exceed their bound: the largest queued one. Events are
    /// small, and a small request is never refused for its memory.
    pub(super) fn queued_victim(&self, in_transit: usize) -> Option<usize> {
        if self.memory.queued + in_transit <= self.bound {
            return None;
        }
        let sizes = self.iter().map(|(slot, connection)| (connection.memory().queued, slot));
        sizes.max().filter(|(bytes, _)| *bytes > SMALL).map(|(_, slot)| slot)
    }

    /// Takes the next request from the queue that may be sent now. A large request waits while others are in transit,
    /// and small ones overtake it; with `prefers_small`, they overtake every large request.
    pub(super) fn take_queued(
        &mut self,
        poller: &Poller,
        in_transit: usize,
        prefers_small: bool,
    ) -> Option<(Vec<u8>, Exchange)> {
        let queued = |slot, id| self.get(slot).filter(|it| it.id == id).map_or(0, |it| it.memory().queued);
        let small = self.queue.iter().position(|(slot, id)| (1..=SMALL).contains(&queued(*slot, *id)));
        let mut index = small.filter(|_| prefers_small).unwrap_or(0);
        while let Some((slot, id)) = self.queue.get(index).copied() {
            let bytes = self.get(slot).filter(|it| it.id == id).map_or(0, |it| it.memory().queued);
            if bytes > 0 && !may_send(bytes, in_transit, self.bound) {
                index += 1;
                continue;
            }
            self.queue.remove(index);
            if bytes > 0 {
                let mut taken = None;
                self.update(poller, slot, |connection| {
                    taken = connection.take_queued(slot);
                    Ok(())
                });
                return taken;
            }
        }
        None
    }

    /// Slots of the connections that close when the gate stops.
    pub(super) fn without_complete_request(&self) -> Vec<usize> {
        let closed =
            self.iter().filter(|(_, connection)| connection.eviction_rank() > Some(EvictionRank::Lingering));
        closed.map(|(slot, _)| slot).collect()
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &Connection)> {
        self.slots.iter().enumerate().filter_map(|(slot, place)| Some((slot, place.as_ref()?)))
    }
}

/// Whether a request of this length may be sent while `in_transit` bytes of others are.
fn may_send(bytes: usize, in_transit: usize, bound: usize) -> bool {
    bytes <= SMALL || in_transit == 0 || in_transit + bytes <= bound
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::connection::Shared;
    use crate::gate::routes::Routes;
    use std::io::Write;
    use std::net::TcpListener;
    use std::sync::Arc;

    struct Fixture {
        connections: Connections,
        poller: Poller,
        shared: Shared,
        clients: Vec<TcpStream>,
    }

    impl Fixture {
        fn new(bound: usize) -> Self {
            let (routes, limits) = (Routes::new().with("/", &["POST"]), Limits::default());
            let shared = Shared { routes, limits, stats: Arc::default(), observer: None };
            let (connections, poller) = (Connections::new(bound), Poller::new().unwrap());
            Self { connections, poller, shared, clients: Vec::new() }
        }

        /// Opens a connection that has sent `sent` of `length` bytes of body. Slots are numbered in order.
        fn open(&mut self, length: usize, sent: usize) {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (stream, peer) = listener.accept().unwrap();
            let head = format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
            let request = [head.as_bytes(), &vec![b'x'; sent]].concat();
            client.write_all(&request).unwrap();
            self.connections.insert(&self.poller, stream, peer, &self.shared.limits);
            for part in request.chunks(SMALL) {
                let mut buffer = vec![0; part.len()];
                self.connections.update(&self.poller, self.clients.len(), |connection| {
                    connection.on_ready(&self.shared, &mut buffer)
                });
            }
            self.clients.push(client);
        }

        /// Slot of the next queued request that is sent.
        fn next(&mut self, in_transit: usize) -> Option<usize> {
            self.connections.take_queued(&self.poller, in_transit, false).map(|(_, exchange)| exchange.slot)
        }
    }

    #[test]
    fn the_oldest_large_incomplete_request_is_the_victim_and_a_small_one_never_is() {
        let mut fixture = Fixture::new(15_000);
        fixture.open(3000, 1000);
        fixture.open(9000, 8000);
        fixture.open(9000, 8000);
        assert_eq!(fixture.connections.incomplete_victim(), Some(1));
        fixture.connections.close(&fixture.poller, 1);
        assert_eq!(fixture.connections.incomplete_victim(), None);
        fixture.connections.close(&fixture.poller, 2);
        fixture.connections.bound = 500;
        assert!(fixture.connections.buffered() > 500);
        assert_eq!(fixture.connections.incomplete_victim(), None);
    }

    #[test]
    fn the_largest_queued_request_is_the_victim_and_a_small_one_never_is() {
        let mut fixture = Fixture::new(17_000);
        fixture.open(5000, 5000);
        fixture.open(8000, 8000);
        fixture.open(1000, 1000);
        let connections = &mut fixture.connections;
        assert_eq!((connections.queued_victim(0), connections.queued_victim(4000)), (None, Some(1)));
        connections.close(&fixture.poller, 1);
        connections.close(&fixture.poller, 0);
        assert_eq!(connections.queued_victim(50_000), None);
        assert_eq!((fixture.next(0), fixture.next(0)), (Some(2), None), "closed ones leave the queue");
    }

    #[test]
    fn a_large_request_waits_for_others_in_transit_and_small_ones_overtake_it() {
        let mut fixture = Fixture::new(17_000);
        fixture.open(9000, 9000);
        fixture.open(1000, 1000);
        assert_eq!((fixture.next(12_000), fixture.next(12_000)), (Some(1), None));
        assert_eq!((fixture.next(5000), fixture.next(0)), (Some(0), None));
        fixture.open(9000, 9000);
        fixture.open(1000, 1000);
        let first = fixture.connections.take_queued(&fixture.poller, 0, true);
        assert_eq!(first.map(|(_, exchange)| exchange.slot), Some(3), "small requests are preferred");
        for (bytes, in_transit, sent) in
            [(5000, 5000, true), (5000, 5001, false), (SMALL, 90_000, true), (90_000, 0, true)]
        {
            assert_eq!(may_send(bytes, in_transit, 10_000), sent, "{bytes} {in_transit}");
        }
    }
}
