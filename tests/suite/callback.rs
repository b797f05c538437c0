//! What a client of the callback listener sees: every answer of the contract, by the real binary.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::http::{post, signed};
use crate::common::{self, CORP, Lab, Settings, assert_prompt, binary, crypt, eventually, now};
use wecom_dirsync::demo::sender::{Sender, contact_event};
use wecom_dirsync::wecom::callback::crypt::{Crypt, EncodingAesKey};
use wecom_dirsync::wecom::query::url_encode;

fn delete_event() -> String {
    contact_event(CORP, 1_700_000_000, "delete_user", "<UserID>nobody</UserID>")
}

#[test]
fn the_example_configuration_answers_the_official_sample_and_nothing_else() {
    let example = include_str!("../../sync.example.ini");
    // Only the ports are others, as somebody may use these on this machine.
    let ini = ["8080", "9180"].iter().fold(example.to_owned(), |ini, port| {
        let listen = format!("# listen = 127.0.0.1:{port}");
        assert!(ini.contains(&listen), "{listen}");
        ini.replace(&listen, "listen = 127.0.0.1:0")
    });
    let mut lab = Lab::idle(Settings::default());
    std::fs::write(lab.ini(), ini).unwrap();
    lab.start();
    let echostr = "P9nAzCzyDtyTWESHep1vC5X9xho/qYX3Zpb4yKa9SKld1DsH3Iyt3tP3zNdtp+4RPcs8TgAE7OaBO+FZXvnaqQ==";
    let query = "msg_signature=5c45ff5e21c57e6ad56bac8758b79b1d9ac89fd3&timestamp=1409659589&nonce=263014780";
    for echostr in [url_encode(echostr), echostr.to_owned()] {
        let request = format!("GET /callback?{query}&echostr={echostr} HTTP/1.0\r\n\r\n");
        let answer = lab.raw(request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\n1616140317555161061"), "{answer}");
    }
}

#[test]
fn every_kind_of_bad_request_has_the_answer_of_the_contract() {
    let lab = Lab::new(Settings { callback: "max_body = 4KiB", ..Settings::default() });
    let (query, body) = signed(&crypt(), &delete_event());
    let good = format!("/callback?{query}");
    let other_key = Crypt::new(common::TOKEN, EncodingAesKey::parse(&"a".repeat(43)).unwrap(), CORP);
    let other_corp = Crypt::new(common::TOKEN, EncodingAesKey::parse(common::KEY).unwrap(), "wwother");
    let (key_query, key_body) = signed(&other_key, "x");
    let (corp_query, corp_body) = signed(&other_corp, &delete_event());
    let (text_query, text_body) = signed(&crypt(), "hello");
    let no_length = |target: &str, more: &str| {
        format!("POST {target} HTTP/1.1\r\nConnection: close\r\n{more}\r\n").into_bytes()
    };
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("an event", post(&good, &body), 200),
        ("another path", post("/elsewhere", &body), 404),
        ("another path, whatever else is wrong", no_length("/elsewhere", "Content-Length: x\r\n"), 404),
        ("the path with a slash", post(&format!("/callback/?{query}"), &body), 200),
        ("the path with two slashes", post(&format!("/callback//?{query}"), &body), 404),
        ("another method", b"PUT /callback HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec(), 405),
        ("no length", no_length(&good, ""), 411),
        ("another coding", no_length(&good, "Transfer-Encoding: gzip, chunked\r\n"), 411),
        (
            "chunked and a length",
            no_length(&good, "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
            400,
        ),
        ("a negative length", no_length(&good, "Content-Length: -1\r\n"), 400),
        ("a length that overflows", no_length(&good, "Content-Length: 99999999999999999999999\r\n"), 400),
        ("too long", no_length(&good, "Content-Length: 4097\r\n"), 413),
        ("no parameters", post("/callback", &body), 400),
        ("no nonce", post(&good.replace("&nonce=2", ""), &body), 400),
        ("no XML", post(&good, "hello"), 400),
        ("an empty body", post(&good, ""), 400),
        ("no Encrypt", post(&good, "<xml><A>1</A></xml>"), 400),
        ("deep XML", post(&good, &"<a>".repeat(1300)), 400),
        ("a forged signature", post(&good.replace("nonce=2", "nonce=3"), &body), 403),
        ("another signature, too short", post("/callback?msg_signature=a&timestamp=1&nonce=2", &body), 403),
        ("encrypted with another key", post(&format!("/callback?{key_query}"), &key_body), 403),
        ("for another company", post(&format!("/callback?{corp_query}"), &corp_body), 403),
        ("not XML once decrypted", post(&format!("/callback?{text_query}"), &text_body), 200),
        (
            "a verification without echostr",
            format!("GET {good} HTTP/1.1\r\nConnection: close\r\n\r\n").into_bytes(),
            400,
        ),
        (
            "a verification with a wrong signature",
            format!("GET {good}&echostr=abcd HTTP/1.1\r\nConnection: close\r\n\r\n").into_bytes(),
            403,
        ),
        ("not HTTP", b"hello\r\n\r\n".to_vec(), 400),
        (
            "an endless head",
            format!("GET /callback HTTP/1.1\r\na: {}\r\n", "b".repeat(70_000)).into_bytes(),
            431,
        ),
    ];
    for (what, request, status) in cases {
        let answer = lab.raw(&request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer}");
        match status {
            200 => assert!(answer.ends_with("\r\n\r\nsuccess"), "{answer}"),
            405 => assert!(answer.contains("\r\nAllow: GET, POST\r\n"), "{answer}"),
            _ => {}
        }
    }
    let stored = "SELECT count(*) FROM events WHERE outcome <> 'duplicate'";
    assert_eq!(lab.value(stored), "2", "only what was acknowledged is stored");
}

#[test]
fn an_answer_does_not_tell_which_part_of_a_forgery_was_wrong() {
    let lab = Lab::plain();
    let other_corp = Crypt::new(common::TOKEN, EncodingAesKey::parse(common::KEY).unwrap(), "wwother");
    let (query, body) = signed(&other_corp, &delete_event());
    let wrong_corp = lab.raw(&post(&format!("/callback?{query}"), &body));
    let wrong_signature = lab.raw(&post("/callback?msg_signature=0&timestamp=1&nonce=2", &body));
    let without_date =
        |answer: &str| answer.lines().filter(|l| !l.starts_with("Date:")).collect::<Vec<_>>().join("\n");
    assert_eq!(without_date(&wrong_corp), without_date(&wrong_signature));
}

#[test]
fn unknown_events_are_acknowledged_and_kept_and_broken_ones_too() {
    let lab = Lab::plain();
    let unknown = contact_event(CORP, 5, "paint_user", "<UserID>a</UserID>");
    for event in [unknown.as_str(), "<xml><Event>brand_new</Event><CreateTime>6</CreateTime></xml>"] {
        assert_eq!(lab.sender().send(event).unwrap().0, 200);
    }
    lab.event(7, "delete_user", "");
    lab.event(8, "create_user", "<UserID>张三</UserID>");
    let outcomes = "SELECT group_concat(outcome) FROM (SELECT outcome FROM events ORDER BY seq)";
    assert_eq!(lab.value(outcomes), "ignored,ignored,invalid,invalid");
    assert!(lab.log().contains("kept as invalid"), "{}", lab.log());
    assert_eq!(lab.value("SELECT payload FROM events WHERE seq = 1"), unknown);
}

#[test]
fn former_keys_and_the_apps_own_callback_are_accepted() {
    let new_key = "kWxPEV2UEDyxWpmPdKC3F4dgPDmOvfKX1HGnEUDS1aR";
    let callback = format!("token_previous = Old1\nencoding_aes_key_previous = {new_key}");
    let more = format!("[callback.app]\npath = /app\ntoken = App1\nencoding_aes_key = {new_key}\n");
    let lab = Lab::new(Settings { callback: &callback, more: &more, ..Settings::default() });
    let keys = |token: &str| Crypt::new(token, EncodingAesKey::parse(new_key).unwrap(), CORP);
    for (path, token) in [("/callback", "Old1"), ("/app", "App1")] {
        let sender = Sender::new(&lab.url(path), keys(token), CORP);
        assert_eq!(sender.verify("hello").unwrap(), (200, "hello".into()), "{path}");
    }
    let crossed = Sender::new(&lab.url("/callback"), keys("App1"), CORP);
    assert_eq!(crossed.verify("hello").unwrap().0, 403);
}

#[test]
fn stalled_and_dripping_clients_keep_nobody_waiting() {
    let speed = 3;
    let lab = Lab::new(Settings { speed, ..Settings::default() });
    let (query, body) = signed(&crypt(), &delete_event());
    let request = post(&format!("/callback?{query}"), &body);
    let connect = || TcpStream::connect(lab.address).unwrap();
    let mut stalled = Vec::new();
    for n in 0..20 {
        let mut stream = connect();
        // Half of them stop in the head, half in the body.
        let upto = if n % 2 == 0 { 20 } else { request.len() - 10 };
        stream.write_all(&request[..upto]).unwrap();
        stalled.push(stream);
    }
    let mut dripping: Vec<TcpStream> = (0..20).map(|_| connect()).collect();
    for byte in request.iter().take(30) {
        for stream in &mut dripping {
            stream.write_all(&[*byte]).unwrap();
        }
        let begun = Instant::now();
        lab.event(now(), "delete_user", &format!("<UserID>u{byte}</UserID>"));
        assert_prompt(begun.elapsed(), Duration::from_secs(1));
    }
    // A drip does not stretch the time that a request may take.
    let mut dripper = dripping.remove(0);
    dripper.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let begun = Instant::now();
    let mut answer = Vec::new();
    eventually("the dripping client is turned away", || {
        let _ = dripper.write_all(b"x");
        let mut chunk = [0; 512];
        if let Ok(count) = dripper.read(&mut chunk) {
            answer.extend_from_slice(&chunk[..count]);
        }
        !answer.is_empty() || begun.elapsed() > Duration::from_secs(15) / speed
    });
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 408 "), "{answer:?}");
    assert_prompt(begun.elapsed(), Duration::from_secs(12) / speed);
}

#[test]
fn with_few_descriptors_the_service_survives_being_flooded() {
    let mut lab = Lab::idle(Settings::default());
    let mut command = Command::new("sh");
    let run = format!("ulimit -n 64; exec {} run -c {}", binary(), lab.ini().display());
    command.args(["-c", &run]);
    lab.start_as(command);
    let flood: Vec<_> = (0..200).filter_map(|_| TcpStream::connect(lab.address).ok()).collect();
    for n in 0..20 {
        lab.event(now(), "delete_user", &format!("<UserID>u{n}</UserID>"));
    }
    drop(flood);
    lab.event(now(), "delete_user", "<UserID>after</UserID>");
}

#[test]
fn a_database_that_somebody_locks_is_waited_for_and_then_503() {
    let lab = Lab::plain();
    let shell = lab.locked();
    let begun = Instant::now();
    let event = contact_event(CORP, now(), "create_user", "<UserID>a</UserID>");
    let answer = lab.raw(&{
        let (query, body) = signed(&crypt(), &event);
        post(&format!("/callback?{query}"), &body)
    });
    let took = begun.elapsed();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: "), "{answer}");
    assert!(took > Duration::from_millis(3800), "{took:?}");
    assert_prompt(took, Duration::from_millis(4900));
    assert!(lab.log().contains("locked by another program"), "{}", lab.log());

    // Released in time, nobody notices.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| lab.sender().send(&event));
        std::thread::sleep(Duration::from_millis(500));
        shell.execute_batch("ROLLBACK").unwrap();
        assert_eq!(waiting.join().unwrap().unwrap(), (200, "success".into()));
    });
    assert_eq!(lab.value("SELECT count(*) FROM members"), "1");
}

#[test]
fn what_is_refused_is_logged_with_the_address_that_the_proxy_saw() {
    let lab = Lab::plain();
    let answer = lab.raw(
        b"GET /callback?msg_signature=x&timestamp=1&nonce=2&echostr=YQ%3D%3D HTTP/1.1\r\nHost: x\r\n\
          X-Forwarded-For: 203.0.113.9\r\nConnection: close\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    eventually("it is logged", || lab.log().contains("forwarded_for=\"203.0.113.9\""));
    assert!(lab.log().contains("client=127.0.0.1:"), "the proxy is named too: {}", lab.log());
}
