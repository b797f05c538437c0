//! `[notify]`: the right notice once, through stand-ins that enforce what a WeCom group robot documents: 20 messages a
//! minute, 4,096 bytes of markdown, HTTP status 200 also for a refusal. The real robot is untried.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::{Lab, Settings, eventually, text};
use serde_json::{Value as Json, json};
use wecom_dirsync::demo::standin::Fault;

const KEY: &str = "693axxx6-7aoc-4bc4-97a0-0ec2sifa5aaa";

/// A request's target and body, and when it arrived.
type Requests = Arc<Mutex<Vec<(String, String, Instant)>>>;

/// A web server that keeps all requests and answers each.
fn server(answer: impl Fn(&str, &str) -> String + Send + Sync + 'static) -> (SocketAddr, Requests) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Requests::default();
    let (kept, answer) = (Arc::clone(&requests), Arc::new(answer));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
            std::thread::spawn(move || serve(stream, &kept, &*answer));
        }
    });
    (address, requests)
}

fn serve(mut stream: TcpStream, kept: &Requests, answer: &dyn Fn(&str, &str) -> String) {
    loop {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte).unwrap_or(0) == 0 {
                return;
            }
            head.push(byte[0]);
        }
        let head = text(&head);
        let length = head.to_ascii_lowercase();
        let length =
            length.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).unwrap();
        let (target, body) = (head.split(' ').nth(1).unwrap().to_owned(), text(&body));
        kept.lock().unwrap().push((target.clone(), body.clone(), Instant::now()));
        if stream.write_all(answer(&target, &body).as_bytes()).is_err() {
            return;
        }
    }
}

fn response(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// The texts of the messages that a robot took, with their times.
type Messages = Arc<Mutex<Vec<(String, Instant)>>>;

/// A WeCom group robot, as documented.
fn robot() -> (SocketAddr, Messages) {
    let taken = Messages::default();
    let messages = Arc::clone(&taken);
    let (address, _) = server(move |target, body| {
        let refuse = |errcode: i64, errmsg: &str| {
            response(200, &json!({"errcode": errcode, "errmsg": errmsg}).to_string())
        };
        if target != format!("/cgi-bin/webhook/send?key={KEY}") {
            return refuse(93000, "invalid webhook url, hint: [1]");
        }
        let message: Json = serde_json::from_str(body).unwrap();
        let content = message["markdown"]["content"].as_str().unwrap_or_default().to_owned();
        if message["msgtype"] != "markdown" || content.is_empty() {
            return refuse(40008, "invalid message type");
        }
        if content.len() > 4096 {
            return refuse(40058, "markdown.content exceed max length 4096");
        }
        let mut taken = messages.lock().unwrap();
        let minute = Duration::from_secs(60);
        if taken.iter().filter(|(_, at)| at.elapsed() < minute).count() >= 20 {
            return refuse(45009, "api freq out of limit");
        }
        taken.push((content, Instant::now()));
        response(200, r#"{"errcode":0,"errmsg":"ok"}"#)
    });
    (address, taken)
}

fn settings(notify: &str) -> Settings<'_> {
    Settings { more: notify, speed: 10, ..Settings::default() }
}

fn lab(notify: &str) -> Lab {
    Lab::new(settings(notify))
}

/// Condition and change of each JSON notice.
fn notices(requests: &Requests) -> Vec<(String, String)> {
    let requests = requests.lock().unwrap();
    let notice = |body: &str| -> (String, String) {
        let object: Json = serde_json::from_str(body).unwrap();
        assert!(
            object["text_zh"].as_str().is_some_and(|text| !text.is_empty()) && object["host"].is_string()
        );
        (object["condition"].as_str().unwrap().to_owned(), object["change"].as_str().unwrap().to_owned())
    };
    requests.iter().map(|(_, body, _)| notice(body)).collect()
}

fn pair(condition: &str, change: &str) -> (String, String) {
    (condition.to_owned(), change.to_owned())
}

#[test]
fn a_pause_is_told_once_through_every_channel_and_the_robot_is_told_in_chinese() {
    let (robot, messages) = robot();
    let (hook, requests) = server(|_, _| response(204, ""));
    let notify = format!(
        "[notify]\nrobot_webhook = http://{robot}/cgi-bin/webhook/send?key={KEY}\n\
         webhook_url = http://{hook}/hooks/T0000SECRETSECRET\n\
         on_change_command = cat >> \"$OUT\"\n"
    );
    let mut lab = Lab::idle(settings(&notify));
    let out = lab.folder.path().join("out");
    let mut command = lab.prepared(&["run"]);
    command.env("OUT", &out);
    lab.stand_in.fail(
        None,
        Fault::Refusal(60020, "not allow, from ip: 203.0.113.9, more info".into()),
        usize::MAX,
    );
    lab.start_as(command);
    lab.hire("a");
    eventually("the robot has a notice", || !messages.lock().unwrap().is_empty());
    eventually("the webhook has a notice", || !requests.lock().unwrap().is_empty());
    eventually("the command ran", || std::fs::read_to_string(&out).is_ok_and(|text| text.ends_with('\n')));
    let message = messages.lock().unwrap()[0].0.clone();
    for part in ["【异常】", "企业可信IP", "60020", "203.0.113.9", "处理："] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(notices(&requests), [pair("paused_address", "begins")]);
    let line: Json = serde_json::from_str(&std::fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!(line["condition"], "paused_address");
    // Some observations later there is still one message.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!((messages.lock().unwrap().len(), requests.lock().unwrap().len()), (1, 1));
    let shown = lab.log() + &text(&lab.command(&["check"]).stdout);
    for secret in [KEY, "T0000SECRETSECRET"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn events_that_cannot_be_made_durable_are_told_and_so_is_the_recovery_while_the_heartbeat_stops() {
    let (hook, requests) = server(|_, _| response(200, "ok"));
    let (heart, beats) = server(|_, _| response(200, "ok"));
    let lab = lab(&format!(
        "[notify]\nwebhook_url = http://{hook}/\nheartbeat_url = http://{heart}/ping\nheartbeat_every = 1s\n"
    ));
    let count = || beats.lock().unwrap().len();
    eventually("the heart beats", || count() > 2);
    assert!(beats.lock().unwrap().iter().all(|(target, body, _)| target == "/ping" && body.is_empty()));
    let shell = rusqlite::Connection::open(lab.database()).unwrap();
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    eventually("a notice arrives", || notices(&requests) == [pair("not_durable", "begins")]);
    let before = count();
    std::thread::sleep(Duration::from_secs(1));
    assert!(count() <= before + 1, "the heart beats although nothing can be made durable");
    shell.execute_batch("ROLLBACK").unwrap();
    eventually("a notice of the recovery arrives", || {
        notices(&requests) == [pair("not_durable", "begins"), pair("not_durable", "ends")]
    });
    let after = count();
    eventually("the heart beats again", || count() > after + 1);
}

#[test]
fn what_could_not_be_delivered_is_delivered_after_a_restart_and_nothing_is_repeated() {
    let status = Arc::new(AtomicU16::new(500));
    let answered = Arc::clone(&status);
    let (hook, requests) = server(move |_, _| response(answered.load(Ordering::SeqCst), ""));
    let notify = format!("[notify]\nwebhook_url = http://{hook}/\n");
    let mut lab = lab(&notify);
    lab.stand_in.fail(None, Fault::Errcode(40001), usize::MAX);
    lab.hire("a");
    eventually("it is tried", || !requests.lock().unwrap().is_empty());
    eventually("the failure is logged once", || {
        lab.log().contains("[notify] webhook_url: a notice is not delivered")
    });
    assert!(lab.log().contains("HTTP status 500"), "{}", lab.log());
    lab.kill();
    status.store(200, Ordering::SeqCst);
    requests.lock().unwrap().clear();
    lab.start();
    let expected = [pair("paused_secret", "begins")];
    eventually("it is delivered", || notices(&requests) == expected);
    // The pause begins anew with the first call, and was announced before.
    lab.wait_for("SELECT json_array_length(value) FROM daemon_state WHERE name = 'pauses'", "1");
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(notices(&requests), expected);
}

#[test]
fn a_robot_that_refuses_with_status_200_is_a_failure_and_its_key_stays_secret() {
    let (robot, messages) = robot();
    let wrong = KEY.replace("693a", "0000");
    let lab = lab(&format!("[notify]\nrobot_webhook = http://{robot}/cgi-bin/webhook/send?key={wrong}\n"));
    lab.stand_in.fail(None, Fault::Errcode(40001), usize::MAX);
    lab.hire("a");
    eventually("the refusal is logged", || lab.log().contains("errcode 93000: invalid webhook url"));
    assert!(messages.lock().unwrap().is_empty() && !lab.log().contains(&wrong), "{}", lab.log());
    assert_eq!(lab.log().matches("is not delivered").count(), 1);
}

#[test]
fn a_long_queue_reaches_the_robot_complete_in_order_and_within_its_limits() {
    let (robot, messages) = robot();
    let mut lab = Lab::idle(settings(&format!(
        "[notify]\nrobot_webhook = http://{robot}/cgi-bin/webhook/send?key={KEY}\n"
    )));
    lab.start();
    lab.kill();
    // As a daemon leaves it behind whose robot could not be reached for a while.
    let notices: Vec<Json> = (0..20)
        .map(|n| {
            let zh = format!("#{n:03}# {}", "字".repeat(300));
            json!({"condition": "blocked", "begins": n % 2 == 0, "at": n, "text": {"en": "x", "zh": zh}})
        })
        .collect();
    let value = json!({
        "announcements": {},
        "outbox": {"robot": {"notices": notices, "failures": 3, "next_at": 9_999_999_999_i64}},
    });
    rusqlite::Connection::open(lab.database())
        .unwrap()
        .execute(
            "INSERT OR REPLACE INTO daemon_state (name, at, value) VALUES ('notices', 1, ?1)",
            [value.to_string()],
        )
        .unwrap();
    lab.start();
    let all = || messages.lock().unwrap().iter().map(|(text, _)| text.clone()).collect::<String>();
    eventually("all notices arrive", || all().contains("#019#"));
    let all = all();
    let places: Vec<usize> = (0..20).map(|n| all.find(&format!("#{n:03}#")).unwrap()).collect();
    assert!(places.is_sorted(), "{places:?}");
    let messages = messages.lock().unwrap();
    assert_eq!(messages.len(), 5, "four of 900 bytes in each");
    assert!(messages.windows(2).all(|pair| pair[1].1 - pair[0].1 >= Duration::from_secs(2)));
}

#[test]
fn silence_and_long_waits_are_told_beyond_the_configured_times() {
    let (hook, requests) = server(|_, _| response(200, ""));
    let lab = lab(&format!(
        "[notify]\nwebhook_url = http://{hook}/\nno_event_for = 1s\noldest_pending_over = 1s\n"
    ));
    lab.hire("a");
    let expected = [pair("no_event", "begins"), pair("oldest_pending", "begins")];
    eventually("both notices arrive", || expected.iter().all(|notice| notices(&requests).contains(notice)));
}

#[test]
fn a_channel_that_hangs_delays_no_callback_and_no_stop() {
    let (hook, requests) = server(|_, _| {
        std::thread::sleep(Duration::from_secs(600));
        String::new()
    });
    let notify = format!("[notify]\nwebhook_url = http://{hook}/\non_change_command = sleep 30\n");
    let mut lab = lab(&notify);
    lab.stand_in.fail(None, Fault::Errcode(40001), usize::MAX);
    lab.hire("a");
    eventually("something is sent", || !requests.lock().unwrap().is_empty());
    let begun = Instant::now();
    for n in 0..20 {
        lab.event(crate::common::now(), "delete_user", &format!("<UserID>x{n}</UserID>"));
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let (code, took) = lab.terminate();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(6), "{took:?}");
}
