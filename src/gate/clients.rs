//! All clients of a gate: who has which slot, whose time runs out next, and who goes when there is no room.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::client::{Class, Client, Phase};
use super::memory::{MODEST, Memory};

/// The clients, and everything that is kept in step with their phases.
pub(super) struct Clients {
    slots: Vec<Option<Client>>,
    free: Vec<usize>,
    open: usize,
    next_id: u64,
    /// Every client by its deadline.
    deadlines: BTreeSet<(Instant, usize)>,
    /// Those that may be evicted, by class, the longest in it first.
    evictable: [BTreeSet<(Instant, usize)>; 3],
    pub(super) memory: Memory,
}

impl Clients {
    pub(super) fn new(memory: Memory) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            open: 0,
            next_id: 0,
            deadlines: BTreeSet::new(),
            evictable: Default::default(),
            memory,
        }
    }

    /// How many there are.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// The slot that the next one gets.
    pub(super) fn vacant(&self) -> usize {
        self.free.last().copied().unwrap_or(self.slots.len())
    }

    /// Takes one in; its slot is what [`Clients::vacant`] said.
    pub(super) fn admit(
        &mut self,
        stream: mio::net::TcpStream,
        peer: SocketAddr,
        now: Instant,
        time: Duration,
    ) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.next_id += 1;
        self.open += 1;
        let client = Client::new(self.next_id, stream, peer, now, now + time);
        self.enlist(client, slot);
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, slot: usize) -> Option<Client> {
        let client = self.slots.get_mut(slot).and_then(Option::take)?;
        self.forget(&client, slot);
        self.memory.grown(client.counted, 0);
        self.free.push(slot);
        self.open = self.open.saturating_sub(1);
        Some(client)
    }

    /// Puts one into a phase, for `time` at most.
    pub(super) fn enter(&mut self, slot: usize, phase: Phase, time: Duration) {
        let Some(mut client) = self.slots.get_mut(slot).and_then(Option::take) else { return };
        self.forget(&client, slot);
        client.since = Instant::now();
        client.deadline = client.since + time;
        client.phase = phase;
        self.enlist(client, slot);
        self.count(slot);
    }

    /// Counts what one holds now.
    pub(super) fn count(&mut self, slot: usize) {
        let Some(client) = self.slots.get_mut(slot).and_then(Option::as_mut) else { return };
        let held = client.inbound.held();
        self.memory.grown(client.counted, held);
        client.counted = held;
        let greedy = held > MODEST && client.phase.class() == Class::Unfinished;
        self.memory.set_greedy(client.since, slot, greedy);
        if let Phase::Queued(request) = &client.phase {
            self.memory.enqueued(slot, request.wire.len());
        }
    }

    /// Takes the complete request of one that waits, as it goes to the server now: its bytes, and whether the answer has
    /// none.
    pub(super) fn dispatch(&mut self, slot: usize) -> Option<(Vec<u8>, bool)> {
        let client = self.slots.get_mut(slot).and_then(Option::as_mut)?;
        let Phase::Queued(request) = &mut client.phase else { return None };
        self.memory.dequeued(slot, request.wire.len());
        let (wire, bodiless) = (std::mem::take(&mut request.wire), request.answer_bodiless);
        // Class and deadline stay: the time counts from the complete request.
        let glimpse = std::mem::take(&mut request.glimpse);
        client.phase = Phase::Answering { keep_alive: request.keep_alive, glimpse };
        Some((wire, bodiless))
    }

    fn enlist(&mut self, client: Client, slot: usize) {
        self.deadlines.insert((client.deadline, slot));
        if let Some(class) = self.evictable.get_mut(client.phase.class() as usize) {
            class.insert((client.since, slot));
        }
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(client);
        }
    }

    fn forget(&mut self, client: &Client, slot: usize) {
        self.deadlines.remove(&(client.deadline, slot));
        if let Some(class) = self.evictable.get_mut(client.phase.class() as usize) {
            class.remove(&(client.since, slot));
        }
        self.memory.set_greedy(client.since, slot, false);
        if let Phase::Queued(request) = &client.phase {
            self.memory.dequeued(slot, request.wire.len());
        }
    }

    /// Who has this slot.
    pub(super) fn at(&mut self, slot: usize) -> Option<&mut Client> {
        self.slots.get_mut(slot).and_then(Option::as_mut)
    }

    /// Who had this slot then, if still there.
    pub(super) fn same(&mut self, slot: usize, id: u64) -> Option<&mut Client> {
        self.at(slot).filter(|client| client.id == id)
    }

    /// When the first one's time runs out.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// One whose time has run out.
    pub(super) fn expired(&self, now: Instant) -> Option<usize> {
        self.deadlines.first().filter(|(at, _)| *at <= now).map(|(_, slot)| *slot)
    }

    /// Who makes room: whoever is done, else the longest idle, else who has kept us waiting the longest.
    pub(super) fn first_to_go(&self) -> Option<usize> {
        self.evictable.iter().find_map(|class| class.first()).map(|(_, slot)| *slot)
    }

    /// Those whose request is not complete.
    pub(super) fn without_request(&self) -> Vec<usize> {
        [Class::Idle, Class::Unfinished]
            .into_iter()
            .filter_map(|class| self.evictable.get(class as usize))
            .flat_map(|class| class.iter().map(|(_, slot)| *slot))
            .collect()
    }
}
