//! Distinct events, and a client that sends them over many connections.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use wecom_dirsync::demo::sender::contact_event;
use wecom_dirsync::wecom::callback::envelope::callback;

use super::daemon::{CORP, crypt};

pub const CREATE_TIME: i64 = 1_700_000_000;

/// The longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest time for all.
const LIMIT: Duration = Duration::from_secs(600);

/// Userid, name, departments, mobile, position, email, status, and where it leads, as event `n` tells them.
pub fn member(n: usize) -> [String; 8] {
    let (name, mobile, email) = (format!("张{n}"), format!("138{n:08}"), format!("u{n}@example.com"));
    [format!("user{n}"), name, "1,2".into(), mobile, "工程师".into(), email, "4".into(), "0,1".into()]
}

/// A member joins.
pub fn event(n: usize) -> String {
    let [userid, name, departments, mobile, position, email, status, leads] = member(n);
    let inner = format!(
        "<UserID>{userid}</UserID><Name>{name}</Name><Department>{departments}</Department><Mobile>{mobile}</Mobile>\
         <Position>{position}</Position><Email>{email}</Email><Status>{status}</Status><IsLeaderInDept>{leads}</IsLeaderInDept>"
    );
    contact_event(CORP, CREATE_TIME, "create_user", &inner)
}

/// Requests, encrypted beforehand so that the driver costs the machine as little as possible.
pub fn requests(path: &str, events: Range<usize>) -> Vec<Vec<u8>> {
    let crypt = crypt();
    let request = |n| {
        let encrypted = crypt.encrypt(event(n).as_bytes(), [1; 16]).unwrap();
        let body = callback(CORP, &encrypted, "");
        let signature = crypt.sign("1", "2", &encrypted);
        let length = body.len();
        format!("POST {path}?msg_signature={signature}&timestamp=1&nonce=2 HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}")
            .into_bytes()
    };
    events.map(request).collect()
}

/// Sends all requests over kept-alive connections; how long each took, in ascending order, and all together. Every
/// answer must be 200 and `success`.
pub fn load(address: SocketAddr, senders: usize, requests: &[Vec<u8>]) -> (Vec<Duration>, Duration) {
    let next = AtomicUsize::new(0);
    let all_begun = Instant::now();
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let send = || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let (mut times, mut answer) = (Vec::new(), [0; 1024]);
            while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                let begun = Instant::now();
                stream.write_all(request).unwrap();
                let mut got = 0;
                while !answer[..got].ends_with(b"\r\n\r\nsuccess") {
                    let count = stream.read(&mut answer[got..]).unwrap();
                    assert!(count > 0, "{}", String::from_utf8_lossy(&answer[..got]));
                    got += count;
                }
                assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer[..got]));
                times.push(begun.elapsed());
                assert!(all_begun.elapsed() < LIMIT, "too slow: {} answers on a connection", times.len());
            }
            times
        };
        let threads: Vec<_> = (0..senders).map(|_| scope.spawn(send)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let took = all_begun.elapsed();
    times.sort_unstable();
    (times, took)
}

/// Of times in ascending order.
pub fn percentile(times: &[Duration], share: f64) -> Duration {
    times[((times.len() - 1) as f64 * share) as usize]
}

/// How often a second one page can be written and synced.
pub fn fdatasyncs(folder: &Path) -> f64 {
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
