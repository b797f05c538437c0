//! The gate alone: which connection it closes at its limits, and that a client within the limits is always served.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use common::eventually;
use wecom_dirsync::gate::{Gate, Limits, Routes, bind, private_server};

/// A gate whose server answers one request after the other, `pause` after it has received it.
struct Lab {
    gate: Gate,
    http: Arc<tiny_http::Server>,
    server: JoinHandle<()>,
}

impl Lab {
    fn new(limits: Limits, in_flight: usize, pause: Duration) -> Self {
        let (http, upstreams) = private_server(in_flight, &std::env::temp_dir()).unwrap();
        let http = Arc::new(http);
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let gate = Gate::start(listener, Routes::new().with("/callback", &["POST"]), limits, upstreams, None)
            .unwrap();
        let served = Arc::clone(&http);
        let server = std::thread::spawn(move || {
            while let Ok(mut request) = served.recv() {
                std::thread::sleep(pause);
                let _ = request.as_reader().read_to_end(&mut Vec::new());
                let _ = request.respond(tiny_http::Response::from_string("success"));
            }
        });
        Self { gate, http, server }
    }

    fn address(&self) -> SocketAddr {
        self.gate.local_addr()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
        stream
    }

    fn buffered(&self) -> usize {
        self.gate.stats().snapshot().buffered
    }

    fn end(self) {
        self.gate.stop(Duration::from_secs(1));
        self.http.unblock();
        self.server.join().unwrap();
    }
}

fn post(body: usize) -> Vec<u8> {
    let body = "x".repeat(body);
    format!("POST /callback HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

/// Everything that the client receives until the connection is closed.
fn answer(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn pipelining_clients_hold_little_memory_and_evict_no_other_client() {
    let limits = Limits { max_buffered: 64 * 1024, ..Limits::default() };
    let lab = Lab::new(limits, 1, Duration::from_millis(5));
    let (first, rest) = (post(10), post(2000));
    let mut patient = lab.connect();
    patient.write_all(&first[..30]).unwrap();
    let pipelining: Vec<_> = (0..40)
        .map(|_| {
            let mut stream = lab.connect();
            stream.set_nonblocking(true).unwrap();
            let keeping = String::from_utf8(rest.clone()).unwrap().replace("Connection: close\r\n", "");
            let _ = stream.write(keeping.repeat(30).as_bytes());
            stream
        })
        .collect();
    eventually("all are connected", || lab.gate.stats().snapshot().open == 41);
    std::thread::sleep(Duration::from_millis(300));
    assert!(lab.buffered() <= 41 * 3 * 4096, "{} bytes are held", lab.buffered());
    patient.write_all(&first[30..]).unwrap();
    assert!(answer(patient).ends_with("success"));
    drop(pipelining);
    lab.end();
}

#[test]
fn a_refused_client_holds_no_memory() {
    let lab = Lab::new(Limits::default(), 1, Duration::ZERO);
    let endless = format!("POST /callback HTTP/1.1\r\na: {}", "b".repeat(60_000));
    let refused: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = lab.connect();
            stream.write_all(endless.as_bytes()).unwrap();
            stream
        })
        .collect();
    eventually("all are refused", || lab.gate.stats().snapshot().refused_with(431) == 20);
    assert_eq!((lab.gate.stats().snapshot().open, lab.buffered()), (20, 0));
    for stream in refused {
        assert!(answer(stream).starts_with("HTTP/1.1 431 "));
    }
    lab.end();
}

#[test]
fn the_largest_complete_requests_are_refused_at_the_memory_bound() {
    let limits = Limits { max_buffered: 1024 * 1024, ..Limits::default() };
    let lab = Lab::new(limits, 1, Duration::from_millis(100));
    let large: Vec<_> = (1..=40)
        .map(|n| {
            let mut stream = lab.connect();
            stream.write_all(&post(200_000)).unwrap();
            eventually("it is read", || lab.gate.stats().snapshot().forwarded == n);
            stream
        })
        .collect();
    assert!(lab.buffered() <= 1024 * 1024, "{} bytes are held", lab.buffered());
    let mut small = lab.connect();
    small.write_all(&post(1000)).unwrap();
    assert!(answer(small).ends_with("success"));
    let answers: Vec<String> = large.into_iter().map(answer).collect();
    let refused = answers.iter().filter(|text| text.starts_with("HTTP/1.1 503 ")).count();
    let answered = answers.iter().filter(|text| text.ends_with("success")).count();
    assert_eq!(refused + answered, 40);
    assert!((3..=20).contains(&answered), "{answered} were answered");
    lab.end();
}

#[test]
fn the_oldest_large_incomplete_requests_are_evicted_at_the_memory_bound_and_small_ones_are_not() {
    let limits = Limits { max_buffered: 1024 * 1024, ..Limits::default() };
    let lab = Lab::new(limits, 1, Duration::ZERO);
    let (small, large) = (post(1000), post(200_000));
    let begin = |request: &[u8]| {
        let mut stream = lab.connect();
        stream.write_all(&request[..request.len() - 10]).unwrap();
        stream
    };
    let mut patient = begin(&small);
    let stalled: Vec<_> = (0..20).map(|_| begin(&large)).collect();
    eventually("some are evicted", || lab.gate.stats().snapshot().evicted >= 14);
    assert!(lab.buffered() <= 1024 * 1024, "{} bytes are held", lab.buffered());
    patient.write_all(b"xxxxxxxxxx").unwrap();
    assert!(answer(patient).ends_with("success"));
    drop(stalled);
    lab.end();
}
