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
#[path = "common/events.rs"]
mod events;

use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use daemon::{CORP, Daemon, KEY, TOKEN, crypt};
use events::{event, fdatasyncs, load, percentile, requests};
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
        let (times, took) = load(daemon.address, senders, &requests("/callback", 0..events));
        let at = |share| percentile(&times, share).as_secs_f64() * 1000.0;
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
    let (times, took) = load(address, 64, &requests("/callback", 0..events));
    times.len() as f64 / took.as_secs_f64()
}
