//! Requests as bytes, and what comes back.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use wecom_dirsync::wecom::callback::crypt::Crypt;
use wecom_dirsync::wecom::callback::envelope::callback;

use super::{CORP, PATIENCE, text};

/// The signed query and the body of an event as WeCom posts it.
pub fn signed(crypt: &Crypt, message: &str) -> (String, String) {
    let encrypted = crypt.encrypt(message.as_bytes(), [3; 16]).unwrap();
    let signature = crypt.sign("1", "2", &encrypted);
    (format!("msg_signature={signature}&timestamp=1&nonce=2"), callback(CORP, &encrypted, ""))
}

pub fn post(target: &str, body: &str) -> Vec<u8> {
    let head =
        format!("POST {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}", body.len());
    format!("{head}\r\n\r\n{body}").into_bytes()
}

/// An answer of the admin listener.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
    pub took: Duration,
}

pub fn ask(address: SocketAddr, method: &str, path: &str) -> Answer {
    let begun = Instant::now();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let answer = exchange(address, &[request.as_bytes()]);
    let (head, body) =
        answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned(), took: begun.elapsed() }
}

/// Sends all pieces on one connection; what comes until the server closes it.
pub fn exchange(address: SocketAddr, pieces: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for piece in pieces {
        // A request that is refused may be closed before all of it is sent.
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    text(&answer)
}
