//! A load driver: sends distinct encrypted events to the real binary over many connections, compares every
//! acknowledgement with the database afterwards, and sets the rates beside what the parts allow in the
//! same run. Everything stays on 127.0.0.1.
//!
//!     cargo build --release && cargo run --release --example load -- 30000
//!
//! The argument is the number of events for each number of senders.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

#[path = "common/daemon.rs"]
mod daemon;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use daemon::{CORP, Daemon, KEY, TOKEN, crypt};
use wecom_dirsync::demo::sender::contact_event;
use wecom_dirsync::store::{Writer, apply_event, open_writer};
use wecom_dirsync::wecom::callback::envelope::callback;

fn main() {
    let events: usize = std::env::args().nth(1).map_or(30_000, |n| n.parse().expect("a number of events"));
    let folder = tempfile::tempdir().unwrap();
    println!("{events} events for each number of senders, one run\n");
    println!("alone: fdatasync of one page                {:>8.0}/s", fdatasyncs(folder.path()));
    println!("alone: merge and group commit, 64 waiting   {:>8.0}/s", commits(folder.path(), events));
    println!("alone: tiny_http, 64 connections            {:>8.0}/s\n", tiny_http_alone(events));
    println!("senders   events/s   p50 ms   p99 ms   max ms   cpu s   peak MiB   lost");
    for senders in [1, 16, 64] {
        let daemon = start(&folder.path().join(senders.to_string()));
        let events = if senders == 1 { events / 5 } else { events };
        let (mut times, took) = load(daemon.address, senders, events);
        times.sort_unstable();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
        let lost = events - count(&daemon);
        println!(
            "{senders:>7} {:>10.0} {:>8.2} {:>8.2} {:>8.2} {:>7.2} {:>10.1} {lost:>6}",
            events as f64 / took.as_secs_f64(),
            at(0.5),
            at(0.99),
            at(1.0),
            daemon.cpu(),
            daemon.peak_mib(),
        );
    }
}

fn event(n: usize) -> String {
    let inner = format!(
        "<UserID>user{n}</UserID><Name>张{n}</Name><Department>1,2</Department><Mobile>138{n:08}</Mobile>\
         <Position>工程师</Position><Email>u{n}@example.com</Email><Status>4</Status><IsLeaderInDept>0,1</IsLeaderInDept>"
    );
    contact_event(CORP, 1_700_000_000, "create_user", &inner)
}

/// Requests, encrypted beforehand so that the driver costs the machine as little as possible.
fn requests(events: usize) -> Vec<Vec<u8>> {
    let crypt = crypt();
    let request = |n| {
        let encrypted = crypt.encrypt(event(n).as_bytes(), [1; 16]).unwrap();
        let body = callback(CORP, &encrypted, "");
        let signature = crypt.sign("1", "2", &encrypted);
        let length = body.len();
        format!("POST /callback?msg_signature={signature}&timestamp=1&nonce=2 HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}")
            .into_bytes()
    };
    (0..events).map(request).collect()
}

/// Sends all events over kept-alive connections; how long each took, and all together.
fn load(address: SocketAddr, senders: usize, events: usize) -> (Vec<Duration>, Duration) {
    let requests = requests(events);
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    let times = std::thread::scope(|scope| {
        let send = || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            let (mut times, mut answer) = (Vec::new(), [0; 1024]);
            while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                let begun = Instant::now();
                stream.write_all(request).unwrap();
                let mut got = 0;
                while !answer[..got].ends_with(b"success") {
                    let count = stream.read(&mut answer[got..]).unwrap();
                    assert!(count > 0, "{}", String::from_utf8_lossy(&answer[..got]));
                    got += count;
                }
                times.push(begun.elapsed());
            }
            times
        };
        let threads: Vec<_> = (0..senders).map(|_| scope.spawn(send)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    (times, begun.elapsed())
}

fn start(folder: &Path) -> Daemon {
    let ini = format!(
        "[wecom]\ncorp_id = {CORP}\n[callback]\nlisten = 127.0.0.1:0\ntoken = {TOKEN}\nencoding_aes_key = {KEY}\n\
         [openid]\nenabled = no\n[admin]\nlisten =\n"
    );
    Daemon::start(folder, &ini)
}

/// Members whose creation was acknowledged and is there.
fn count(daemon: &Daemon) -> usize {
    let db = rusqlite::Connection::open(daemon.database()).unwrap();
    let sql = "SELECT count(*) FROM members JOIN events ON subject = userid AND outcome = 'applied'";
    let count: i64 = db.query_row(sql, [], |row| row.get(0)).unwrap();
    usize::try_from(count).unwrap()
}

fn fdatasyncs(folder: &Path) -> f64 {
    let mut file = File::create(folder.join("sync")).unwrap();
    file.write_all(&[0; 4096 * 64]).unwrap();
    let begun = Instant::now();
    let mut times = 0;
    while begun.elapsed() < Duration::from_secs(1) {
        std::os::unix::fs::FileExt::write_at(&file, &[1; 4096], 4096 * (times % 64)).unwrap();
        file.sync_data().unwrap();
        times += 1;
    }
    times as f64 / begun.elapsed().as_secs_f64()
}

/// The writer alone, with as many events waiting as 64 senders make.
fn commits(folder: &Path, events: usize) -> f64 {
    let (writer, thread) = Writer::start(open_writer(&folder.join("alone.db"), 0o600).unwrap()).unwrap();
    let keys = crypt();
    let endpoint =
        wecom_dirsync::daemon::callbacks::Endpoint { path: "/".into(), keys: vec![keys.clone()], app: false };
    let read = |n| {
        let encrypted = keys.encrypt(event(n).as_bytes(), [1; 16]).unwrap();
        let query = format!("msg_signature={}&timestamp=1&nonce=2", keys.sign("1", "2", &encrypted));
        let body = callback(CORP, &encrypted, "");
        endpoint.receive(&query, body.as_bytes(), CORP, wecom_dirsync::unix_time::unix_now()).unwrap().event
    };
    let waiting: Vec<_> = (0..events).map(read).collect();
    let (done, commits) = sync_channel::<bool>(events);
    let begun = Instant::now();
    let mut under_way = 0;
    for event in waiting {
        if under_way == 64 {
            assert!(commits.recv().unwrap());
            under_way -= 1;
        }
        let done = done.clone();
        let deadline = Instant::now() + Duration::from_secs(10);
        writer.submit(
            deadline,
            move |db| apply_event(db, &event),
            move |result| done.send(result.is_ok()).unwrap(),
        );
        under_way += 1;
    }
    for _ in 0..under_way {
        assert!(commits.recv().unwrap());
    }
    let rate = events as f64 / begun.elapsed().as_secs_f64();
    writer.close();
    assert!(thread.join_within(Duration::from_secs(10)));
    rate
}

/// tiny_http answering `success` to the same requests, with nothing before or behind it.
fn tiny_http_alone(events: usize) -> f64 {
    let server = std::sync::Arc::new(tiny_http::Server::http("127.0.0.1:0").unwrap());
    let address = server.server_addr().to_ip().unwrap();
    for _ in 0..4 {
        let server = server.clone();
        std::thread::spawn(move || {
            while let Ok(mut request) = server.recv() {
                let _ = request.as_reader().read_to_end(&mut Vec::new());
                let _ = request.respond(tiny_http::Response::from_string("success"));
            }
        });
    }
    let (times, took) = load(address, 64, events);
    times.len() as f64 / took.as_secs_f64()
}
