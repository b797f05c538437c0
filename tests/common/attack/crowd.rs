//! Many hostile clients on one thread. Whoever is put out comes back.

use std::collections::{BTreeSet, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::hostile::{Kind, Script, Then, scripts};

/// New connections a second, so that this program is not what keeps the machine busy.
const CONNECTS: f64 = 4000.0;
/// A client drips at one turn of so many, that is once a second.
const TURNS: usize = 50;
const TURN: Duration = Duration::from_millis(20);

/// The clients at work.
pub struct Crowd {
    shared: Arc<Shared>,
    hangs_up: bool,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    silent: AtomicBool,
    gone: AtomicBool,
    made: AtomicU64,
    answered: AtomicU64,
    statuses: Mutex<BTreeSet<u16>>,
}

impl Crowd {
    pub fn start(address: SocketAddr, kind: Kind, connections: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let mut clients = Clients::new(address, kind, connections, Arc::clone(&shared));
        let thread = std::thread::spawn(move || clients.run());
        Self { shared, hangs_up: kind.is_answered(), thread }
    }

    /// The end of the attack: nobody says anything more, and nobody comes back.
    pub fn fall_silent(&self) {
        self.shared.silent.store(true, Relaxed);
        self.shared.gone.store(self.hangs_up, Relaxed);
    }

    /// All go; connections made, answers that were got, and their statuses.
    pub fn disperse(self) -> (u64, u64, BTreeSet<u16>) {
        self.shared.silent.store(true, Relaxed);
        self.shared.gone.store(true, Relaxed);
        self.thread.join().unwrap();
        let statuses = self.shared.statuses.lock().unwrap().clone();
        (self.shared.made.load(Relaxed), self.shared.answered.load(Relaxed), statuses)
    }
}

struct Client {
    stream: TcpStream,
    /// How much of what it is saying now is sent.
    sent: usize,
    opened: bool,
}

struct Clients {
    poll: Poll,
    address: SocketAddr,
    scripts: Vec<Script>,
    clients: Vec<Option<Client>>,
    absent: VecDeque<usize>,
    /// Those who pour and have not been stopped by a full buffer: no event will wake them.
    hungry: Vec<usize>,
    scratch: Vec<u8>,
    shared: Arc<Shared>,
}

impl Clients {
    fn new(address: SocketAddr, kind: Kind, connections: usize, shared: Arc<Shared>) -> Self {
        Self {
            poll: Poll::new().unwrap(),
            address,
            scripts: scripts(kind),
            clients: (0..connections).map(|_| None).collect(),
            absent: (0..connections).collect(),
            hungry: Vec::new(),
            scratch: vec![0; 64 * 1024],
            shared,
        }
    }

    fn run(&mut self) {
        let mut events = Events::with_capacity(1024);
        let (begun, mut turn) = (Instant::now(), 0);
        while !self.shared.gone.load(Relaxed) {
            let wait = (begun + TURN * (turn + 1)).saturating_duration_since(Instant::now());
            let wait = if self.hungry.is_empty() { wait } else { Duration::ZERO };
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other.unwrap(),
            }
            let hungry = std::mem::take(&mut self.hungry);
            events.iter().map(|event| event.token().0).chain(hungry).for_each(|n| self.ready(n));
            if self.shared.silent.load(Relaxed) {
                continue;
            }
            self.come_back(begun.elapsed().as_secs_f64() * CONNECTS);
            if begun.elapsed() >= TURN * (turn + 1) {
                turn += 1;
                for n in (turn as usize % TURNS..self.clients.len()).step_by(TURNS) {
                    self.drip(n);
                }
            }
        }
    }

    fn come_back(&mut self, allowed: f64) {
        // Not all that was missed is made up for at once.
        for _ in 0..200 {
            let made = self.shared.made.load(Relaxed);
            if made as f64 >= allowed {
                return;
            }
            let Some(n) = self.absent.pop_front() else { return };
            let mut stream = connect(self.address);
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(n), interest).unwrap();
            self.clients[n] = Some(Client { stream, sent: 0, opened: false });
            self.shared.made.store(made + 1, Relaxed);
        }
    }

    fn ready(&mut self, n: usize) {
        let alive = self.read(n).and_then(|answered| self.speak(n, answered));
        if alive.is_none() && self.clients[n].take().is_some() {
            self.absent.push_back(n);
        }
    }

    /// Whether an answer has come; nothing if the connection is closed.
    fn read(&mut self, n: usize) -> Option<bool> {
        let client = self.clients[n].as_mut()?;
        let mut answered = false;
        if matches!(self.scripts[n % self.scripts.len()].then, Then::Pour(_)) {
            return Some(false);
        }
        loop {
            match client.stream.read(&mut self.scratch) {
                Ok(0) => return None,
                Ok(count) => {
                    self.shared.answered.fetch_add(1, Relaxed);
                    self.shared.statuses.lock().unwrap().extend(status(&self.scratch[..count]));
                    answered = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(answered),
                Err(error) if error.kind() == ErrorKind::NotConnected => return Some(answered),
                Err(_) => return None,
            }
        }
    }

    /// Sends what is to be sent now; nothing if the connection is closed, or is to be.
    fn speak(&mut self, n: usize, answered: bool) -> Option<()> {
        let client = self.clients[n].as_mut()?;
        let Script { opening, then } = &self.scripts[n % self.scripts.len()];
        if self.shared.silent.load(Relaxed) {
            return Some(());
        }
        if answered && matches!(then, Then::Repeat) {
            (client.sent, client.opened) = (0, false);
        }
        if !client.opened {
            if !push(client, opening)? {
                return Some(());
            }
            (client.sent, client.opened) = (0, true);
        }
        match then {
            // At once, if it is connected at all.
            Then::Reset => client.stream.peer_addr().is_err().then_some(()),
            Then::Pour(bytes) => {
                if push(client, bytes)? {
                    client.sent = 0;
                    self.hungry.push(n);
                }
                Some(())
            }
            _ => Some(()),
        }
    }

    fn drip(&mut self, n: usize) {
        let Some(client) = self.clients[n].as_mut().filter(|client| client.opened) else { return };
        if let Then::Drip(bytes) = self.scripts[n % self.scripts.len()].then {
            // Whether it fails is seen by the next event.
            let _ = client.stream.write(&bytes[client.sent % bytes.len()..][..1]);
            client.sent += 1;
        }
    }
}

/// The status of an answer that begins here.
fn status(bytes: &[u8]) -> Option<u16> {
    let digits = bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Writes as much as is taken; whether that was all, or nothing if the connection is closed.
fn push(client: &mut Client, bytes: &[u8]) -> Option<bool> {
    while client.sent < bytes.len() {
        match client.stream.write(&bytes[client.sent..]) {
            Ok(count) => client.sent += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                return Some(false);
            }
            Err(_) => return None,
        }
    }
    Some(true)
}

/// Begins to connect. When it is closed, it is reset, so that no port is kept for a minute.
fn connect(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    // A client that reads nothing shall block its server soon.
    socket.set_recv_buffer_size(4096).unwrap();
    let _ = socket.connect(&address.into());
    TcpStream::from_std(socket.into())
}
