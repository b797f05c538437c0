//! The other side of a service under test (`packaging/test/service`): WeCom's API behind TLS with a name server for its
//! name, and senders of callbacks. It knows only the keys below, which are of no account.
//!
//!     service_peer api FOLDER            writes ca.pem, secrets and keys to FOLDER, and serves until it is killed
//!     service_peer verify URL            saves the URL as WeCom's console does
//!     service_peer event URL USERID      one event: the member joins
//!     service_peer load URL SECONDS FILE events of four senders, each over a connection of its own; FILE gets the
//!                                        acknowledged userids
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use wecom_dirsync::demo::sender::{Sender, contact_event};
use wecom_dirsync::demo::standin::{StandIn, User};
use wecom_dirsync::unix_time::unix_now;
use wecom_dirsync::wecom::callback::crypt::{Crypt, EncodingAesKey};

const CORP: &str = "wx5823bf96d3bd56c7";
const TOKEN: &str = "QDG6eK";
const KEY: &str = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C";
/// The API's name, which only the name server here knows.
const NAME: &str = "wecom.test";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["api", folder] => serve_api(Path::new(folder)),
        ["verify", url] => {
            let reply = sender(url).verify("1616140317555161061").unwrap();
            report(reply == (200, "1616140317555161061".into()), &format!("{reply:?}"))
        }
        ["event", url, userid] => {
            let reply = sender(url).send(&joins(userid)).unwrap();
            report(reply == (200, "success".into()), &format!("{reply:?}"))
        }
        ["load", url, seconds, file] => load(url, seconds.parse().unwrap(), Path::new(file)),
        _ => report(false, "usage: service_peer api|verify|event|load .."),
    }
}

fn report(is_good: bool, what: &str) -> ExitCode {
    println!("{what}");
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn sender(url: &str) -> Sender {
    Sender::new(url, Crypt::new(TOKEN, EncodingAesKey::parse(KEY).unwrap(), CORP), CORP)
}

fn joins(userid: &str) -> String {
    let inner = format!("<UserID>{userid}</UserID><Department>1</Department>");
    contact_event(CORP, unix_now().0, "create_user", &inner)
}

/// WeCom's API at `https://wecom.test:PORT`; every member of the company has an openid.
fn serve_api(folder: &Path) -> ExitCode {
    let stand_in = StandIn::start().unwrap();
    let (app, contacts) = stand_in.company(|company| {
        for n in 0..20 {
            let userid = format!("u{n}");
            let openid = Some(format!("openid-{userid}"));
            company.put(User {
                name: userid.clone(),
                userid,
                departments: vec![1],
                visible: true,
                openid,
                ..User::default()
            });
        }
        (company.app_secret.clone(), company.contacts_secret.clone())
    });
    let plain = stand_in.base_url().trim_start_matches("http://").to_owned();
    let (authority, config) = certificates();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(name_server);
    for (name, text) in [
        ("ca.pem", authority.as_str()),
        ("app_secret", &app),
        ("contacts_secret", &contacts),
        ("token", TOKEN),
        ("encoding_aes_key", KEY),
        ("corp_id", CORP),
        ("api_base", &format!("https://{NAME}:{port}")),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    for client in listener.incoming().map_while(Result::ok) {
        let (config, plain) = (Arc::clone(&config), plain.clone());
        std::thread::spawn(move || relay(config, client, &plain));
    }
    ExitCode::FAILURE
}

/// A certificate authority in PEM, and a server's configuration with a certificate of it.
fn certificates() -> (String, Arc<rustls::ServerConfig>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec![NAME.to_owned()]).unwrap().signed_by(&own, &issuer).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.serialize_der()));
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    (authority.pem(), Arc::new(config.with_single_cert(vec![certificate.der().clone()], key).unwrap()))
}

/// One request over TLS: the stand-in closes the connection after its answer.
fn relay(config: Arc<rustls::ServerConfig>, client: TcpStream, plain: &str) {
    let mut client = rustls::StreamOwned::new(rustls::ServerConnection::new(config).unwrap(), client);
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    let is_complete = |request: &[u8]| {
        let text = String::from_utf8_lossy(request).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
        let length = head.split("content-length:").nth(1).and_then(|rest| rest.lines().next());
        body.len() >= length.map_or(0, |length| length.trim().parse().unwrap())
    };
    while !is_complete(&request) {
        match client.read(&mut buffer) {
            Ok(count @ 1..) => request.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&request).replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let mut server = TcpStream::connect(plain).unwrap();
    server.write_all(head.as_bytes()).unwrap();
    let _ = server.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = server.read_to_end(&mut answer);
    let _ = client.write_all(&answer);
    client.conn.send_close_notify();
    let _ = client.flush();
}

/// Answers every question for an IPv4 address with 127.0.0.1, on port 53 of 127.0.0.1.
fn name_server() {
    let Ok(socket) = UdpSocket::bind("127.0.0.1:53") else { return };
    let mut buffer = [0; 512];
    while let Ok((length, client)) = socket.recv_from(&mut buffer) {
        // A header of 12 bytes, then the name in labels, type and class.
        let Some(end) = buffer[..length].iter().skip(12).position(|byte| *byte == 0).map(|at| 12 + at + 5)
        else {
            continue;
        };
        if end > length {
            continue;
        }
        let is_ipv4 = buffer[end - 4..end - 2] == [0, 1];
        let mut answer = buffer[..2].to_vec();
        answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_ipv4), 0, 0, 0, 0]);
        answer.extend_from_slice(&buffer[12..end]);
        if is_ipv4 {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
        }
        let _ = socket.send_to(&answer, client);
    }
}

/// What became of the events of one sender.
#[derive(Default)]
struct Counts {
    acknowledged: Vec<String>,
    refused: usize,
    unavailable: usize,
    /// No answer at all, as after kill -9; WeCom sends such an event again.
    unanswered: Vec<String>,
    slowest: Duration,
}

/// Prints the sums; fails if a connection was refused.
fn load(url: &str, seconds: u64, file: &Path) -> ExitCode {
    let until = Instant::now() + Duration::from_secs(seconds);
    let begun = unix_now().0;
    let send_all = |who: usize| {
        let mut counts = Counts::default();
        let mut n = 0;
        while Instant::now() < until {
            n += 1;
            let userid = format!("load{begun}-{who}-{n}");
            let sent = Instant::now();
            // A new one each time has no connection left from before.
            match sender(url).send(&joins(&userid)) {
                Ok((200, _)) => counts.acknowledged.push(userid),
                Ok(_) => counts.unavailable += 1,
                Err(error) if error.to_lowercase().contains("refused") => counts.refused += 1,
                Err(error) => counts.unanswered.push(error),
            }
            counts.slowest = counts.slowest.max(sent.elapsed());
            std::thread::sleep(Duration::from_millis(10));
        }
        counts
    };
    let all: Vec<Counts> = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..4).map(|who| scope.spawn(move || send_all(who))).collect();
        senders.into_iter().map(|sender| sender.join().unwrap()).collect()
    });
    let sum = |of: fn(&Counts) -> usize| all.iter().map(of).sum::<usize>();
    let refused = sum(|counts| counts.refused);
    println!(
        "acknowledged={} refused={refused} unavailable={} unanswered={} slowest_ms={}",
        sum(|counts| counts.acknowledged.len()),
        sum(|counts| counts.unavailable),
        sum(|counts| counts.unanswered.len()),
        all.iter().map(|counts| counts.slowest.as_millis()).max().unwrap_or(0),
    );
    for error in all.iter().flat_map(|counts| &counts.unanswered).take(3) {
        println!("  unanswered: {error}");
    }
    let userids: Vec<&str> = all.iter().flat_map(|counts| &counts.acknowledged).map(String::as_str).collect();
    std::fs::write(file, userids.join("\n") + "\n").unwrap();
    if refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
