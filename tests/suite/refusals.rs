//! Every refusal leaves a trace with cause and remedy, and no flood of them fills the log, the database or the
//! time of legitimate callbacks.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::common::http::{Answer, ask, post, signed};
use crate::common::{CORP, KEY, Lab, Settings, TOKEN, assert_prompt, crypt, eventually, now, text};
use wecom_dirsync::demo::sender::{Sender, contact_event};
use wecom_dirsync::wecom::callback::crypt::{Crypt, EncodingAesKey};
use wecom_dirsync::wecom::query::url_encode;

const OTHER_KEY: &str = "kWxPEV2UEDyxWpmPdKC3F4dgPDmOvfKX1HGnEUDS1aR";

fn keys(token: &str, key: &str, id: &str) -> Crypt {
    Crypt::new(token, EncodingAesKey::parse(key).unwrap(), id)
}

/// A verification of a URL as the console sends it, signed and encrypted so.
fn verification(path: &str, crypt: &Crypt, plain: &[u8]) -> String {
    let encrypted = crypt.encrypt(plain, [5; 16]).unwrap();
    let (signature, echostr) = (crypt.sign("1", "2", &encrypted), url_encode(&encrypted));
    format!(
        "GET {path}?msg_signature={signature}&timestamp=1&nonce=2&echostr={echostr} HTTP/1.1\r\nConnection: close\r\n\r\n"
    )
}

/// The bytes of an event as WeCom posts it.
fn posted(crypt: &Crypt, message: &str) -> Vec<u8> {
    let (query, body) = signed(crypt, message);
    post(&format!("/callback?{query}"), &body)
}

/// The log's lines about this cause.
fn lines(lab: &Lab, cause: &str) -> Vec<String> {
    let wanted = format!(" cause={cause} ");
    lab.log().lines().filter(|line| line.contains(&wanted)).map(str::to_owned).collect()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[test]
fn every_cause_has_its_line_its_row_and_its_remedy() {
    let lab = Lab::new(Settings { callback: "max_body = 4KiB", ..Settings::default() });
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nConnection: close\r\n\r\n");
    let to_callback = |lines: &str| format!("POST /callback HTTP/1.1\r\n{lines}\r\n\r\n");
    let to_signed = |body: &str| post("/callback?msg_signature=1&timestamp=1&nonce=2", body);
    let delete = contact_event(CORP, 1, "delete_user", "<UserID>a</UserID>");
    let cases: Vec<(&str, &str, Vec<u8>, &[&str])> = vec![
        ("404", "not_found", get("/callbac").into(), &["/callback"]),
        ("405", "method", "PUT /callback HTTP/1.1\r\n\r\n".into(), &["GET", "POST"]),
        ("411", "no_length", to_callback("Host: x").into(), &["proxy"]),
        ("411", "transfer_coding", to_callback("Transfer-Encoding: gzip").into(), &["chunked"]),
        ("413", "too_large", to_callback("Content-Length: 4097").into(), &["max_body"]),
        ("417", "expectation", to_callback("Content-Length: 1\r\nExpect: tea").into(), &["Expect"]),
        ("431", "head_too_large", get(&format!("/callback?{}", "a".repeat(20_000))).into(), &["16 KiB"]),
        ("400", "framing", to_callback("Content-Length: -1").into(), &["Content-Length"]),
        ("400", "chunk", to_callback("Transfer-Encoding: chunked\r\n\r\nzz").into(), &["chunked"]),
        ("400", "bad_request", b"hello\r\n\r\n".to_vec(), &["HTTP"]),
        ("400", "tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), &["TLS", "http://"]),
        ("400", "http2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), &["HTTP/1.1"]),
        ("400", "proxy_header", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n".to_vec(), &["proxy_protocol = yes"]),
        ("400", "parameters", get("/callback?echostr=1").into(), &["msg_signature"]),
        ("400", "no_echostr", get("/callback?msg_signature=1&timestamp=1&nonce=2").into(), &["echostr"]),
        ("400", "envelope", to_signed("hello\n"), &["XML"]),
        ("403", "signature", posted(&keys("Other", KEY, CORP), &delete), &["token"]),
        ("403", "decryption", posted(&keys(TOKEN, OTHER_KEY, CORP), &delete), &["encoding_aes_key"]),
        ("403", "receive_id", posted(&keys(TOKEN, KEY, "wwother"), &delete), &["receive_id", "corp_id"]),
    ];
    for (expected, cause, request, words) in &cases {
        let answer = lab.raw(request);
        // Which of the 403s is named may differ where a wrong key decrypts to noise.
        assert!(status(&answer) == *expected, "{cause}: {answer}");
        eventually(cause, || !lines(&lab, cause).is_empty());
        let told = lines(&lab, cause);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].contains(&format!("status={expected} ")) && told[0].contains("client=127.0.0.1:"),
            "{told:?}"
        );
        let advice = told[0].split("advice=").nth(1).unwrap();
        assert!(words.iter().all(|word| advice.contains(word)), "{cause}: {advice}");
    }
    lab.wait_for("SELECT count(DISTINCT cause) FROM refusals", &cases.len().to_string());
    let shown = text(&lab.command(&["status"]).stdout);
    let json = lab.status();
    let rows = json["refusals"].as_array().unwrap();
    for (_, cause, _, words) in &cases {
        assert!(shown.contains(&format!("1 x {cause} at ")), "{cause}: {shown}");
        let row = rows.iter().find(|row| row["cause"] == *cause).unwrap();
        assert_eq!(row["count"], 1, "{row}");
        assert!((now() - row["last_at"].as_i64().unwrap()).abs() < 120, "{row}");
        assert!(words.iter().all(|word| row["advice"].as_str().unwrap().contains(word)), "{row}");
        assert!(row["last_client"].as_str().unwrap().starts_with("127.0.0.1:"), "{row}");
    }
}

#[test]
fn a_repetition_is_counted_and_other_causes_are_told_at_once() {
    let lab = Lab::plain();
    // First without parameters; then an administrator saves the URL, with a wrong key, then a wrong token.
    assert_eq!(status(&lab.raw(b"GET /callback HTTP/1.0\r\n\r\n")), "400");
    for _ in 0..3 {
        assert_eq!(status(&lab.raw(b"GET /callback HTTP/1.0\r\n\r\n")), "400");
    }
    for crypt in [keys(TOKEN, OTHER_KEY, CORP), keys("Other", KEY, CORP), keys(TOKEN, KEY, "wwother")] {
        for _ in 0..2 {
            let answer = lab.raw(verification("/callback", &crypt, b"123").as_bytes());
            assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
        }
    }
    lab.raw(verification("/calback", &crypt(), b"123").as_bytes());
    lab.raw(verification("/calback", &crypt(), b"123").as_bytes());
    eventually("all verifications are told", || {
        ["decryption", "signature", "receive_id", "not_found"]
            .iter()
            .all(|cause| lines(&lab, cause).len() == 2)
    });
    assert_eq!(lines(&lab, "parameters").len(), 1);
    for (cause, word) in
        [("decryption", "encoding_aes_key"), ("signature", "token"), ("receive_id", "receive_id")]
    {
        assert!(lines(&lab, cause)[0].split("advice=").nth(1).unwrap().contains(word), "{cause}");
    }
    lab.wait_for("SELECT count FROM refusals WHERE cause = 'parameters'", "4");
    for secret in [TOKEN, KEY, OTHER_KEY] {
        assert!(!lab.log().contains(secret), "{}", lab.log());
    }
}

#[test]
fn a_scanner_fills_neither_log_nor_table_and_what_it_sends_is_escaped() {
    let lab = Lab::plain();
    // Enough for any mechanism to be overrun.
    for n in 0..600 {
        let path = format!("/scan{n}/{}", "x".repeat(n));
        lab.raw(format!("GET {path} HTTP/1.0\r\nX-Forwarded-For: 203.0.113.{}\r\n\r\n", n % 250).as_bytes());
    }
    lab.raw("GET /\u{1b}[31m\u{202e}red\u{7} HTTP/1.0\r\nX-Forwarded-For: a\u{1b}[2Jb\tc\r\n\r\n".as_bytes());
    lab.wait_for("SELECT sum(count) FROM refusals", "601");
    let log = lab.log();
    assert!(lines(&lab, "not_found").len() <= 20, "{}", lines(&lab, "not_found").len());
    assert!(log.len() < 20_000, "{} bytes", log.len());
    assert!(lab.value("SELECT count(*) FROM refusals").parse::<u32>().unwrap() <= 20);
    assert_eq!(lab.value("SELECT count FROM refusals WHERE path = '(other)' AND cause = 'not_found'"), "590");
    let shown = text(&lab.command(&["status"]).stdout);
    let rows = lab.value("SELECT group_concat(path || last_client, ' ') FROM refusals");
    for text in [&log, &shown, &rows] {
        assert!(!text.contains(['\u{1b}', '\u{202e}', '\u{7}']), "{text:?}");
    }
    assert!(rows.contains("203.0.113.") && rows.contains(" via 127.0.0.1:"), "{rows}");
}

#[test]
fn a_flood_of_refusals_is_written_about_once_a_second_and_delays_no_callback() {
    // Nothing else is written meanwhile: neither API calls nor what they find.
    let more = "[details]\nfetch = never\n";
    let lab = Lab::new(Settings { openid: "enabled = no", more, ..Settings::default() });
    lab.event(now(), "create_user", "<UserID>first</UserID>");
    let done = AtomicBool::new(false);
    let (mut writes, mut slowest, begun) = (0, Duration::ZERO, Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    lab.raw(b"GET /nowhere HTTP/1.0\r\n\r\n");
                }
            });
        }
        let db = lab.db();
        let version = || db.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0)).unwrap();
        let mut last = version();
        while begun.elapsed() < Duration::from_secs(4) {
            std::thread::sleep(Duration::from_millis(5));
            let now = version();
            writes += u32::from(now != last);
            last = now;
        }
        for n in 0..20 {
            let sent = Instant::now();
            lab.event(now(), "create_user", &format!("<UserID>m{n}</UserID>"));
            slowest = slowest.max(sent.elapsed());
        }
        done.store(true, Relaxed);
    });
    assert!((1..=6).contains(&writes), "{writes} writes in 4 s");
    assert_prompt(slowest, Duration::from_millis(1500));
    let counted = || lab.value("SELECT sum(count) FROM refusals").parse::<u64>().unwrap();
    eventually("all are counted", || counted() > 100);
}

#[test]
fn refusals_survive_a_stop_right_after_them_and_a_locked_database() {
    let mut lab = Lab::plain();
    let shell = lab.locked();
    lab.raw(b"GET /early HTTP/1.0\r\n\r\n");
    shell.execute_batch("ROLLBACK").unwrap();
    lab.raw(b"GET /late HTTP/1.0\r\n\r\n");
    assert_eq!(lab.terminate().0, Some(0));
    assert_eq!(lab.value("SELECT sum(count) FROM refusals"), "2");
}

fn admin(lab: &Lab, path: &str) -> Answer {
    ask(lab.admin.expect("the admin listener is on"), "GET", path)
}

/// A lab that has made its first comparison.
fn comparing(speed: u32) -> Lab {
    // Without conversions: members that WeCom does not know would be another reason to compare.
    let (openid, admin) = ("enabled = no", "127.0.0.1:0");
    let settings = Settings { reconcile: true, openid, admin, speed, ..Settings::default() };
    let mut lab = Lab::idle(settings);
    lab.stand_in.company(|company| company.hire("zhangsan"));
    lab.start();
    lab.wait_for_first_comparison();
    lab
}

#[test]
fn every_503_is_counted_stands_in_healthz_and_brings_a_comparison() {
    let lab = comparing(1);
    assert!(!admin(&lab, "/healthz").body.contains("refused:"));
    let shell = lab.locked();
    // More than the server takes at a time: some are refused by it, the others by the gate.
    std::thread::scope(|scope| {
        let events: Vec<_> = (0..44)
            .map(|n| {
                let event = contact_event(CORP, now(), "create_user", &format!("<UserID>u{n}</UserID>"));
                let sender = lab.sender();
                scope.spawn(move || sender.send(&event).unwrap().0)
            })
            .collect();
        assert!(events.into_iter().all(|event| event.join().unwrap() == 503));
    });
    let causes = |lab: &Lab| ["storage", "deadline"].map(|cause| lines(lab, cause).len());
    assert_eq!(causes(&lab), [1, 1], "{}", lab.log());
    shell.execute_batch("ROLLBACK").unwrap();

    let metrics = admin(&lab, "/metrics").body;
    let wanted = "wecom_dirsync_callbacks_total{result=\"unavailable\"} ";
    let count: f64 = metrics.split(wanted).nth(1).unwrap().lines().next().unwrap().parse().unwrap();
    assert!(count >= 44.0, "{count}");
    let mut health = String::new();
    eventually("it is healthy again", || {
        let answer = admin(&lab, "/healthz");
        health = answer.body;
        answer.status == 200
    });
    assert!(
        health.contains("\nrefused: 4") && health.contains(" callbacks with 503 in the last hour, last at 2"),
        "{health}"
    );
    lab.wait_for(
        "SELECT count(*) FROM refusals WHERE cause IN ('storage', 'deadline') AND path = '/callback'",
        "2",
    );
    lab.wait_for("SELECT sum(count) >= 44 FROM refusals WHERE cause IN ('storage', 'deadline')", "1");
    let due = "SELECT value FROM daemon_state WHERE name = 'comparison_due'";
    let made = "SELECT count(*) FROM reconciles WHERE reason LIKE '%refused%'";
    eventually("a comparison is due or made", || {
        lab.value(due).contains("refused") || lab.value(made) == "1"
    });
}

#[test]
fn a_refusal_by_the_admin_listener_is_not_one_of_a_callback() {
    let lab = Lab::new(Settings { admin: "127.0.0.1:0", ..Settings::default() });
    assert_eq!(admin(&lab, "/nowhere").status, 404);
    lab.raw(b"GET /marker HTTP/1.0\r\n\r\n");
    lab.wait_for("SELECT group_concat(path) FROM refusals", "/marker");
}

#[test]
fn a_post_that_never_ends_is_told_and_brings_a_comparison() {
    let lab = comparing(4);
    let request = posted(&crypt(), &contact_event(CORP, now(), "create_user", "<UserID>a</UserID>"));
    let answer = lab.nudged(|| lab.raw(&request[..request.len() - 10]));
    assert_eq!(status(&answer), "408", "{answer}");
    assert_eq!(lines(&lab, "timeout").len(), 1);
    let due = "SELECT value FROM daemon_state WHERE name = 'comparison_due'";
    let made = "SELECT count(*) FROM reconciles WHERE reason LIKE '%arrive%'";
    eventually("a comparison is due or made", || lab.value(due).contains("arrive") || lab.value(made) == "1");
    let _ = Sender::new(&lab.url("/callback"), crypt(), CORP).verify("1").unwrap();
}
