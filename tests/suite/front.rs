//! What proxies and load balancers in front of the callback port do to requests: accepted where the signature
//! can judge, refused where two programs could disagree about a request's end.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::Duration;

use crate::common::http::{exchange, signed};
use crate::common::{CORP, KEY, Lab, Settings, TOKEN, binary, crypt, eventually, now, text};
use wecom_dirsync::demo::sender::{Sender, contact_event};
use wecom_dirsync::wecom::callback::crypt::{Crypt, EncodingAesKey};

const OTHER_KEY: &str = "kWxPEV2UEDyxWpmPdKC3F4dgPDmOvfKX1HGnEUDS1aR";

fn creation(userid: &str) -> String {
    contact_event(CORP, now(), "create_user", &format!("<UserID>{userid}</UserID><Name>{userid}</Name>"))
}

/// A chunked POST of this event, in chunks of this size.
fn chunked(event: &str, size: usize, more: &str) -> Vec<u8> {
    let (query, body) = signed(&crypt(), event);
    let mut request =
        format!("POST /callback?{query} HTTP/1.1\r\nHost: x\r\n{more}Transfer-Encoding: chunked\r\n\r\n")
            .into_bytes();
    for chunk in body.as_bytes().chunks(size) {
        request.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
        request.extend_from_slice(chunk);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    request
}

fn plain(event: &str, more: &str) -> Vec<u8> {
    let (query, body) = signed(&crypt(), event);
    let length = body.len();
    format!("POST /callback?{query} HTTP/1.1\r\nHost: x\r\n{more}Content-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

const CLOSE: &str = "Connection: close\r\n";

fn stored(lab: &Lab, userid: &str) -> bool {
    lab.value(&format!("SELECT count(*) FROM members WHERE userid = '{userid}'")) == "1"
}

#[test]
fn chunked_events_are_accepted_however_they_are_cut() {
    let lab = Lab::plain();
    let two = [chunked(&creation("first"), 100, ""), chunked(&creation("second"), 7, CLOSE)].concat();
    let answer = exchange(lab.address, &[&two]);
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 2, "two on one connection: {answer}");
    let bytes = chunked(&creation("drip"), 64, CLOSE);
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert!(exchange(lab.address, &single).ends_with("success"));
    let waits = chunked(&creation("waits"), 1000, "Connection: close\r\nExpect: 100-continue\r\n");
    let head = waits.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let mut stream = TcpStream::connect(lab.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    stream.write_all(&waits[..head]).unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(&waits[head..]).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("success"), "{answer}");
    let dressed = text(&chunked(&creation("dressed"), 5000, CLOSE))
        .replacen("\r\n\r\n", "\r\n\r\n0001;name=\"va l\"\r\n<\r\n", 1)
        .replace("0\r\n\r\n", "000;last\r\nX-Sum: 1\r\nX-Other:\t2\r\n\r\n");
    // The first byte moved into a chunk of its own.
    let (head, rest) = dressed.split_once("<\r\n").unwrap();
    let (size, rest) = rest.split_once("\r\n<").unwrap();
    let size = usize::from_str_radix(size, 16).unwrap() - 1;
    let dressed = format!("{head}<\r\n{size:x}\r\n{rest}");
    assert!(exchange(lab.address, &[dressed.as_bytes()]).ends_with("success"));
    for userid in ["first", "second", "drip", "waits", "dressed"] {
        assert!(stored(&lab, userid), "{userid}");
    }
}

#[test]
fn a_chunked_body_may_be_as_long_as_max_body_and_no_longer() {
    let lab = Lab::new(Settings { callback: "max_body = 8KiB", ..Settings::default() });
    let pad = |n: usize| creation("fits").replace("</xml>", &format!("<Pad>{}</Pad></xml>", "p".repeat(n)));
    let length = |n: usize| signed(&crypt(), &pad(n)).1.len();
    // The longest that fits; base64 and padding make it grow in steps.
    let most = (0..8192).rev().find(|n| length(*n) <= 8192).unwrap();
    assert!(exchange(lab.address, &[&chunked(&pad(most), 900, CLOSE)]).ends_with("success"));
    let answer = exchange(lab.address, &[&chunked(&pad(most + 64), 900, CLOSE)]);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let announced = b"POST /callback HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2001\r\n";
    assert!(exchange(lab.address, &[announced]).starts_with("HTTP/1.1 413 "), "before the data has come");
    lab.wait_for("SELECT count FROM refusals WHERE cause = 'too_large'", "2");
}

#[test]
fn a_request_whose_end_is_ambiguous_is_refused_and_nothing_behind_it_is_read() {
    let lab = Lab::plain();
    let smuggled = text(&plain(&creation("smuggled"), CLOSE));
    let body = "5\r\n<xml>\r\n0\r\n\r\n";
    for (lines, body, status) in [
        ("Transfer-Encoding: chunked\r\nContent-Length: 4", body, "400"),
        ("Content-Length: 15\r\nTransfer-Encoding: chunked", body, "400"),
        ("Content-Length: 5\r\nContent-Length: 6", "<xml>", "400"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", body, "411"),
        ("Transfer-Encoding: identity, chunked", body, "411"),
        ("Transfer-Encoding: \x0bchunked", body, "4"),
        ("Transfer-Encoding:\r\n chunked", body, "400"),
        ("Transfer-Encoding: chunked", "5\n<xml>\r\n0\r\n\r\n", "400"),
        ("Transfer-Encoding: chunked", "5\r\n<xml>X\r\n0\r\n\r\n", "400"),
        ("Transfer-Encoding: chunked", "0x5\r\n<xml>\r\n0\r\n\r\n", "400"),
        ("Transfer-Encoding: chunked", "-5\r\n<xml>\r\n0\r\n\r\n", "400"),
        ("Transfer-Encoding: chunked", "5\r\n<xml>\r\n0\r\nno colon\r\n\r\n", "400"),
        ("Transfer-Encoding: chunked", "ffffffffffffffffffff\r\n<xml>", "413"),
    ] {
        let request = format!("POST /callback HTTP/1.1\r\nHost: x\r\n{lines}\r\n\r\n{body}{smuggled}");
        let answer = exchange(lab.address, &[request.as_bytes()]);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{lines} {body:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{lines} {body:?}: {answer}");
    }
    assert!(!stored(&lab, "smuggled"));
}

#[test]
fn a_slash_at_the_end_of_the_path_makes_no_difference() {
    for callback in ["", "path = /callback/"] {
        let lab = Lab::new(Settings { callback, ..Settings::default() });
        for path in ["/callback", "/callback/"] {
            let sender = Sender::new(&lab.url(path), crypt(), CORP);
            assert_eq!(sender.verify("123").unwrap(), (200, "123".into()), "{callback} {path}");
            assert_eq!(sender.send(&creation("a")).unwrap(), (200, "success".into()), "{callback} {path}");
        }
        assert_eq!(Sender::new(&lab.url("/callback//"), crypt(), CORP).verify("1").unwrap().0, 404);
    }
}

#[test]
fn a_probe_is_answered_and_tells_nothing_even_while_the_database_is_locked() {
    let lab = Lab::new(Settings { callback: "probe_path = /ping", ..Settings::default() });
    let _shell = lab.locked();
    for (request, body) in [
        ("GET /ping HTTP/1.1\r\nHost: x\r\n\r\n", "\r\n\r\nok\n"),
        ("GET /ping/?a=b HTTP/1.0\r\n\r\n", "\r\n\r\nok\n"),
        ("HEAD /ping HTTP/1.1\r\nHost: x\r\n\r\n", "\r\n\r\n"),
    ] {
        let answer = exchange(lab.address, &[request.as_bytes()]);
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(body), "{request}: {answer}");
        assert!(!answer.to_lowercase().contains("wecom") && !answer.contains("Server:"), "{answer}");
    }
    let answer = exchange(lab.address, &[b"POST /ping HTTP/1.1\r\nContent-Length: 0\r\n\r\n"]);
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("Allow: GET, HEAD\r\n"), "{answer}");
    assert!(!lab.log().contains("cause=not_found"), "{}", lab.log());
    assert!(
        exchange(Lab::plain().address, &[b"GET /ping HTTP/1.0\r\n\r\n"]).starts_with("HTTP/1.1 404 "),
        "none by default"
    );
}

#[test]
fn a_probe_path_that_is_a_callback_is_a_configuration_error() {
    for probe in ["/callback", "/callback/", "/app"] {
        let callback = format!("probe_path = {probe}");
        let more = format!("[callback.app]\npath = /app/\ntoken = T1\nencoding_aes_key = {KEY}\n");
        let lab = Lab::idle(Settings { callback: &callback, more: &more, ..Settings::default() });
        let output = lab.command(&["check"]);
        assert_eq!(output.status.code(), Some(78), "{probe}");
        let told = text(&output.stderr);
        assert!(told.contains("sync.ini:") && told.contains("probe_path"), "{told}");
    }
}

/// A PROXY protocol header of version 2.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, block].concat()
}

#[test]
fn a_proxy_header_names_the_client_in_either_version_and_in_pieces() {
    let lab = Lab::new(Settings { callback: "proxy_protocol = yes", speed: 4, ..Settings::default() });
    let v4 = [203, 0, 113, 9, 10, 0, 0, 1, 0x30, 0x39, 0, 80];
    let v6 =
        [&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7][..], &[0; 16], &[0, 7, 0, 8]].concat();
    let with_tlv = [&v4[..], &[3, 0, 4, 1, 2, 3, 4]].concat();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("v1 TCP4", b"PROXY TCP4 203.0.113.8 10.0.0.1 12345 80\r\n".to_vec(), "203.0.113.8:12345"),
        ("v1 TCP6", b"PROXY TCP6 2001:db8::6 ::1 6 8\r\n".to_vec(), "[2001:db8::6]:6"),
        ("v1 UNKNOWN", b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        ("v2 TCP4", v2(0x21, 0x11, &v4), "203.0.113.9:12345"),
        ("v2 TCP6", v2(0x21, 0x21, &v6), "[2001:db8::7]:7"),
        ("v2 with TLVs", v2(0x21, 0x11, &with_tlv), "203.0.113.9:12345"),
        ("v2 LOCAL", v2(0x20, 0, &[]), "127.0.0.1"),
    ];
    for (n, (what, header, client)) in cases.iter().enumerate() {
        let event = plain(&creation(&format!("m{n}")), CLOSE);
        let whole = [&header[..], &event].concat();
        let single: Vec<&[u8]> = whole.chunks(3).collect();
        for pieces in [vec![&whole[..]], single] {
            assert!(exchange(lab.address, &pieces).ends_with("success"), "{what}");
        }
        let wrong = [&header[..], b"GET /nowhere HTTP/1.0\r\n\r\n"].concat();
        assert!(exchange(lab.address, &[&wrong]).starts_with("HTTP/1.1 404 "), "{what}");
        let last = "SELECT last_client FROM refusals WHERE cause = 'not_found'";
        eventually(what, || lab.value(last).starts_with(client));
    }
    let never = plain(&creation("never"), CLOSE);
    let forged = text(&never).replace("Host: x", "X-Gate-Peer: 1.2.3.4:5");
    let late = [b"\r\nPROXY TCP4 203.0.113.8 10.0.0.1 12345 80\r\n", &never[..]].concat();
    let bad = [b"PROXY TCP4 300.0.113.8 10.0.0.1 12345 80\r\n", &never[..]].concat();
    let long = [&v2(0x21, 0x11, &[0; 60_000])[..], &never].concat();
    let short = [&v2(0x21, 0x21, &v4)[..], &never].concat();
    for request in [never, forged.into_bytes(), late, bad, long, short] {
        let answer = exchange(lab.address, &[&request]);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    lab.wait_for("SELECT sum(count) FROM refusals WHERE cause = 'no_proxy_header'", "6");
    assert!(!stored(&lab, "never"));
}

#[test]
fn a_proxy_header_is_part_of_the_time_that_a_request_may_take() {
    let lab = Lab::new(Settings { callback: "proxy_protocol = yes", speed: 4, ..Settings::default() });
    let answer = lab.nudged(|| exchange(lab.address, &[b"PROXY TCP4 203.0."]));
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    lab.event_through(b"PROXY UNKNOWN\r\n", &plain(&creation("next"), CLOSE));
}

impl Lab {
    /// Sends this behind that, which must be acknowledged.
    fn event_through(&self, header: &[u8], request: &[u8]) {
        let answer = exchange(self.address, &[header, request]);
        assert!(answer.ends_with("success"), "{answer}");
    }
}

#[test]
fn former_token_or_key_alone_is_enough_and_the_app_has_its_own_receive_id() {
    let keys = |token: &str, key: &str, id: &str| Crypt::new(token, EncodingAesKey::parse(key).unwrap(), id);
    let cases = [
        ("token_previous = Old1".to_owned(), vec![("Old1", KEY)], vec![("Old1", OTHER_KEY)]),
        (format!("encoding_aes_key_previous = {OTHER_KEY}"), vec![(TOKEN, OTHER_KEY)], vec![("Old1", KEY)]),
        (
            format!("token_previous = Old1\nencoding_aes_key_previous = {OTHER_KEY}"),
            vec![("Old1", KEY), (TOKEN, OTHER_KEY), ("Old1", OTHER_KEY)],
            vec![("Old2", KEY)],
        ),
    ];
    for (previous, accepted, refused) in cases {
        // The same for both callbacks.
        let app = format!(
            "[callback.app]\npath = /app\ntoken = {TOKEN}\nencoding_aes_key = {KEY}\n{previous}\nreceive_id = suite1\n"
        );
        let lab = Lab::new(Settings { callback: &previous, more: &app, ..Settings::default() });
        for (path, id, other_id) in [("/callback", CORP, "suite1"), ("/app", "suite1", CORP)] {
            let status = |token: &str, key: &str, id: &str| {
                Sender::new(&lab.url(path), keys(token, key, id), CORP).verify("1").unwrap().0
            };
            assert_eq!(status(TOKEN, KEY, id), 200, "{path} {previous}");
            assert_eq!(status(TOKEN, KEY, other_id), 403, "{path} {previous}");
            assert!(accepted.iter().all(|(token, key)| status(token, key, id) == 200), "{path} {previous}");
            assert!(refused.iter().all(|(token, key)| status(token, key, id) >= 400), "{path} {previous}");
        }
        let output = Command::new(binary()).args(["check", "-c"]).arg(lab.ini()).output().unwrap();
        assert!(output.status.success() && !text(&output.stdout).contains("Old1"), "{output:?}");
    }
}

#[test]
fn a_client_that_hangs_up_in_the_middle_costs_nothing_and_is_told() {
    let lab = Lab::plain();
    let request = chunked(&creation("half"), 50, "");
    let mut stream = TcpStream::connect(lab.address).unwrap();
    stream.write_all(&request[..request.len() - 20]).unwrap();
    stream.shutdown(Shutdown::Both).unwrap();
    lab.wait_for("SELECT path FROM refusals WHERE cause = 'hung_up'", "/callback");
    assert!(!stored(&lab, "half"));
}
