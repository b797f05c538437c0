//! The admin listener: /healthz tells the truth, /metrics has the contract's names and the right figures, and
//! neither waits for anybody.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::http::ask;
use crate::common::{self, CORP, Lab, PATIENCE, Settings, assert_prompt, binary, eventually, now, text};
use crate::exposition::Exposition;
use wecom_dirsync::demo::sender::{Sender, contact_event};
use wecom_dirsync::demo::standin::{Call, Fault};
use wecom_dirsync::wecom::callback::crypt::{Crypt, EncodingAesKey};

const CONVERT: &str = "user/convert_to_openid";

fn watched() -> Settings<'static> {
    Settings { admin: "127.0.0.1:0", ..Settings::default() }
}

fn address(lab: &Lab) -> SocketAddr {
    lab.admin.expect("the admin listener is on")
}

fn metrics(lab: &Lab) -> Exposition {
    let answer = ask(address(lab), "GET", "/metrics");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.head.contains("\r\nContent-Type: text/plain; version=0.0.4\r\n"), "{}", answer.head);
    Exposition::read(&answer.body)
}

#[test]
fn healthz_is_503_while_the_database_is_locked_and_says_why_and_metrics_do_not_wait() {
    let lab = Lab::new(watched());
    let address = address(&lab);
    let well = ask(address, "GET", "/healthz");
    assert_eq!((well.status, well.body.as_str()), (200, "ok\n"));
    assert!(well.head.contains("\r\nCache-Control: no-store"), "{}", well.head);

    let shell = lab.locked();
    // The report of the last second may still be given, and a busy writer may not have found the lock within 2 s.
    let mut ill = ask(address, "GET", "/healthz");
    eventually("it is noticed and named", || {
        let is_named = ill.body.starts_with("failing: the database is locked by another program");
        if !is_named {
            ill = ask(address, "GET", "/healthz");
        }
        is_named
    });
    assert_eq!(ill.status, 503, "{}", ill.body);
    assert_prompt(ill.took, Duration::from_millis(2600));
    // Somebody else is told the same while the next probe waits for the lock, and the metrics come at once.
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..4).map(|_| scope.spawn(|| ask(address, "GET", "/healthz"))).collect();
        for _ in 0..20 {
            let answer = ask(address, "GET", "/metrics");
            assert_eq!(answer.status, 200);
            assert_prompt(answer.took, Duration::from_secs(1));
        }
        assert!(waiting.into_iter().all(|thread| thread.join().unwrap().status == 503));
    });
    shell.execute_batch("ROLLBACK").unwrap();
    eventually("it is well again", || ask(address, "GET", "/healthz").status == 200);
}

#[test]
fn what_is_asked_without_need_costs_nothing() {
    let lab = Lab::new(watched());
    let address = address(&lab);
    let wal = || std::fs::metadata(lab.folder.path().join("directory.db-wal")).unwrap().len();
    let (before, begun) = (wal(), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    assert_eq!(ask(address, "GET", "/healthz").status, 200);
                }
            });
        }
    });
    let probes = begun.elapsed().as_secs() + 2;
    // A probe changes one row of one page.
    let frames = (wal() - before) / 4096;
    assert!((1..=probes * 2).contains(&frames), "{frames} pages written for 400 questions in {probes} s");

    // And nobody wakes who is not asked.
    let switches = || -> Vec<(String, String)> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", lab.pid())).unwrap();
        let of_task = |task: std::fs::DirEntry| {
            let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let status = read("status");
            let count = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"));
            (read("comm").trim().to_owned(), format!("{:?} {count:?}", task.file_name()))
        };
        let all = tasks.map(|task| of_task(task.unwrap()));
        let mut all: Vec<_> = all.filter(|(name, _)| name.starts_with("admin") || name == "gate").collect();
        all.sort();
        all
    };
    let mut last = switches();
    assert_eq!(last.iter().filter(|(name, _)| name.starts_with("admin")).count(), 3, "{last:?}");
    eventually("two quiet seconds", || {
        std::thread::sleep(Duration::from_secs(2));
        std::mem::replace(&mut last, switches()) == last
    });
}

#[test]
fn the_metrics_tell_the_story_with_the_contracts_names() {
    let begun = now();
    let lab = Lab::new(watched());
    let fresh = metrics(&lab);
    for result in ["success", "verified", "bad_request", "forbidden", "unavailable", "length", "not_found"] {
        assert_eq!(fresh.value("wecom_dirsync_callbacks_total", &[("result", result)]), 0.0);
    }
    assert_eq!(fresh.value("wecom_dirsync_oldest_pending_seconds", &[]), 0.0);
    assert_eq!(fresh.get("wecom_dirsync_last_event_timestamp_seconds", &[]), None);

    assert_eq!(lab.sender().verify("hello").unwrap().0, 200);
    for userid in ["a", "b", "c"] {
        lab.hire(userid);
    }
    lab.wait_for("SELECT count(*) FROM members WHERE openid_errcode = 43004", "3");
    lab.stand_in.company(|company| company.sign_in("b", "o-b"));
    let update = contact_event(CORP, now(), "update_user", "<UserID>b</UserID><Status>1</Status>");
    for _ in 0..2 {
        assert_eq!(lab.sender().send(&update).unwrap().0, 200);
    }
    lab.wait_for("SELECT openid FROM members WHERE userid = 'b'", "o-b");
    lab.stand_in.company(|company| company.dismiss("c"));
    lab.event(now(), "update_user", "<UserID>c</UserID><Status>1</Status>");
    lab.wait_for("SELECT openid_state FROM members WHERE userid = 'c'", "failed");
    lab.event(now(), "a_type_of_tomorrow", "<UserID>a</UserID>");
    let stranger = Crypt::new("other", EncodingAesKey::parse(common::KEY).unwrap(), CORP);
    assert_eq!(Sender::new(&lab.url("/callback"), stranger, CORP).send(&update).unwrap().0, 403);
    for bad in ["GET /callback", "GET /elsewhere", "PUT /callback", "POST /callback"] {
        lab.raw(format!("{bad} HTTP/1.1\r\nConnection: close\r\n\r\n").as_bytes());
    }

    // A count of the members is good for 20 times as long as it took, which on a busy machine is long.
    let is_counted = |told: &Exposition| {
        ["pending", "converted", "failed"]
            .iter()
            .all(|state| told.value("wecom_dirsync_members", &[("openid_state", state)]) == 1.0)
    };
    let mut told = metrics(&lab);
    eventually("the members are counted", || {
        if !is_counted(&told) {
            told = metrics(&lab);
        }
        is_counted(&told)
    });
    let results = [
        ("success", 7.0),
        ("verified", 1.0),
        ("forbidden", 1.0),
        ("bad_request", 1.0),
        ("not_found", 1.0),
        ("method_not_allowed", 1.0),
        ("length", 1.0),
        ("timeout", 0.0),
        ("unavailable", 0.0),
        ("error", 0.0),
    ];
    for (result, count) in results {
        assert_eq!(told.value("wecom_dirsync_callbacks_total", &[("result", result)]), count, "{result}");
    }
    assert_eq!(told.sum("wecom_dirsync_callbacks_total"), 13.0, "no other results");
    // All but the three that the gate answers by itself.
    assert_eq!(told.value("wecom_dirsync_callback_duration_seconds_count", &[]), 10.0);
    let sum = told.value("wecom_dirsync_callback_duration_seconds_sum", &[]);
    assert!(sum > 0.0 && sum < 10.0 * PATIENCE.as_secs_f64(), "{sum}");
    assert_eq!(told.value("wecom_dirsync_callback_duration_seconds_bucket", &[("le", "5")]), 10.0);

    for (change_type, outcome, count) in [
        ("create_user", "applied", 3.0),
        ("update_user", "applied", 2.0),
        ("update_user", "duplicate", 1.0),
        ("other", "ignored", 1.0),
    ] {
        let labels = [("change_type", change_type), ("outcome", outcome)];
        assert_eq!(told.value("wecom_dirsync_events_total", &labels), count, "{labels:?}");
    }
    assert_eq!(told.sum("wecom_dirsync_events_total"), 7.0);
    assert_eq!(
        told.value("wecom_dirsync_api_calls_total", &[("api", "gettoken"), ("errcode", "0")]),
        1.0,
        "one token"
    );
    // An event's member is asked about once more if the reply to the event comes after the call.
    for (errcode, members) in [(43004, 3), (0, 1), (60111, 1)] {
        let calls = lab.stand_in.calls();
        let is_such = |call: &&Call| call.api == CONVERT && call.errcode == Some(errcode);
        let answered = calls.iter().filter(is_such).count();
        assert!((members..=2 * members).contains(&answered), "{errcode}: {answered}");
        let labels = [("api", CONVERT), ("errcode", &errcode.to_string())];
        assert_eq!(told.value("wecom_dirsync_api_calls_total", &labels), answered as f64, "{labels:?}");
    }
    let since_begin = (now() - begun) as f64;
    assert!(told.value("wecom_dirsync_oldest_pending_seconds", &[]) <= since_begin);
    let last_event = told.value("wecom_dirsync_last_event_timestamp_seconds", &[]);
    assert!((begun as f64..=now() as f64).contains(&last_event), "{last_event}");
    assert_eq!(told.value("wecom_dirsync_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);

    // Nothing that the contract does not name, and all of it but what is not there without a comparison.
    let types: Vec<_> = told.types.iter().map(|(name, kind)| (name.as_str(), kind.as_str())).collect();
    let expected = [
        ("process_cpu_seconds_total", "counter"),
        ("process_max_fds", "gauge"),
        ("process_open_fds", "gauge"),
        ("process_resident_memory_bytes", "gauge"),
        ("process_start_time_seconds", "gauge"),
        ("process_threads", "gauge"),
        ("process_virtual_memory_bytes", "gauge"),
        ("wecom_dirsync_api_calls_total", "counter"),
        ("wecom_dirsync_api_paused", "gauge"),
        ("wecom_dirsync_build_info", "gauge"),
        ("wecom_dirsync_callback_duration_seconds", "histogram"),
        ("wecom_dirsync_callbacks_total", "counter"),
        ("wecom_dirsync_clock_offset_seconds", "gauge"),
        ("wecom_dirsync_comparison_blocked", "gauge"),
        ("wecom_dirsync_database_bytes", "gauge"),
        ("wecom_dirsync_events_total", "counter"),
        ("wecom_dirsync_last_event_timestamp_seconds", "gauge"),
        ("wecom_dirsync_members", "gauge"),
        ("wecom_dirsync_oldest_pending_seconds", "gauge"),
        ("wecom_dirsync_refusals_total", "counter"),
        ("wecom_dirsync_wal_bytes", "gauge"),
    ];
    let types: Vec<_> = types.into_iter().filter(|(name, _)| !name.contains("last_reconcile")).collect();
    assert_eq!(types, expected);
}

#[test]
fn a_callback_that_could_not_be_made_durable_counts_as_unavailable() {
    let lab = Lab::new(watched());
    let _shell = lab.locked();
    let event = contact_event(CORP, now(), "create_user", "<UserID>a</UserID>");
    assert_eq!(lab.sender().send(&event).unwrap().0, 503);
    let told = metrics(&lab);
    assert_eq!(told.value("wecom_dirsync_callbacks_total", &[("result", "unavailable")]), 1.0);
    assert_eq!(told.sum("wecom_dirsync_events_total"), 0.0, "nothing was made durable");
    assert_eq!(told.value("wecom_dirsync_callback_duration_seconds_bucket", &[("le", "2")]), 0.0);
    assert_eq!(told.value("wecom_dirsync_callback_duration_seconds_bucket", &[("le", "5")]), 1.0);
}

#[test]
fn a_pause_is_shown_with_its_reason_and_does_not_make_it_unhealthy() {
    let lab = Lab::new(watched());
    let paused =
        |reason: &str| metrics(&lab).value("wecom_dirsync_api_paused", &[("reason", reason)]) as u8 == 1;
    // Until it is shown: an answer about details would end the pause.
    lab.stand_in.fail(Some(CONVERT), Fault::Reset, usize::MAX);
    lab.hire("a");
    eventually("the network's trouble is shown", || paused("network"));
    assert!(!paused("address"));
    lab.stand_in.mend();
    eventually("its end is shown", || !paused("network"));
    let lost = [("api", CONVERT), ("errcode", "none")];
    assert!(metrics(&lab).value("wecom_dirsync_api_calls_total", &lost) >= 1.0);

    lab.stand_in.fail(Some(CONVERT), Fault::Refusal(60020, "not allow to access from your ip".into()), 9);
    lab.hire("b");
    eventually("the address's trouble is shown", || paused("address"));
    let mut reasons = metrics(&lab).label_values("wecom_dirsync_api_paused", "reason").join(" ");
    assert_eq!(reasons, "address concurrency licence network permission quota secret unknown");
    reasons.clear();
    eventually("/healthz names it", || {
        reasons = ask(address(&lab), "GET", "/healthz").body;
        reasons.lines().count() == 2
    });
    assert!(reasons.starts_with("ok\npaused: "), "{reasons}");
    assert!(reasons.contains("60020") && reasons.contains("企业可信IP"), "{reasons}");
    assert_eq!(ask(address(&lab), "GET", "/healthz").status, 200);

    // None of the secrets is told to whoever asks.
    let shown = reasons + &ask(address(&lab), "GET", "/metrics").body;
    let app_secret = lab.stand_in.company(|company| company.app_secret.clone());
    for secret in [common::TOKEN, common::KEY, &app_secret] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn only_two_paths_only_to_be_read() {
    let lab = Lab::new(watched());
    let address = address(&lab);
    for path in ["/healthz", "/metrics", "/healthz?verbose=1"] {
        let (get, head) = (ask(address, "GET", path), ask(address, "HEAD", path));
        assert_eq!((get.status, head.status), (200, 200), "{path}");
        assert!(!get.body.is_empty() && head.body.is_empty(), "{path}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let answer = ask(address, method, path);
            assert_eq!(answer.status, 405, "{method} {path}");
            assert!(answer.head.contains("\r\nAllow: GET, HEAD\r\n"), "{}", answer.head);
        }
    }
    for path in ["/", "/callback", "/healthz/", "/metricsx", "//metrics"] {
        assert_eq!(ask(address, "GET", path).status, 404, "{path}");
    }
    // And the callback listener has neither.
    for path in ["/healthz", "/metrics"] {
        assert_eq!(ask(lab.address, "GET", path).status, 404, "{path}");
    }
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"\x16\x03\x01\x02\x00\x01").unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[test]
fn clients_that_stall_keep_nobody_waiting() {
    let lab = Lab::new(watched());
    let address = address(&lab);
    let mut stalled: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(address).unwrap()).collect();
    for (n, stream) in stalled.iter_mut().enumerate() {
        // Nothing; a part of a head; a whole request whose answer is never read.
        let sent = ["", "GET /metrics HTTP/1.1\r\nHos", "GET /metrics HTTP/1.1\r\n\r\n"][n % 3];
        // The oldest are closed to make room.
        let _ = stream.write_all(sent.as_bytes());
    }
    // More answers, of which none is read, than any socket's buffer takes.
    let many = "GET /metrics HTTP/1.1\r\n\r\n".repeat(20_000);
    for _ in 0..10 {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        let _ = stream.write_all(many.as_bytes());
        stalled.push(stream);
    }
    for path in ["/healthz", "/metrics"] {
        for _ in 0..10 {
            let answer = ask(address, "GET", path);
            assert_eq!(answer.status, 200, "{path}");
            assert_prompt(answer.took, Duration::from_secs(1));
        }
    }
    lab.event(now(), "delete_user", "<UserID>a</UserID>");
}

#[test]
fn it_is_off_when_listen_is_empty_and_ends_with_the_daemon_when_it_is_on() {
    let lab = Lab::plain();
    assert!(lab.log().contains(" admin=off "), "{}", lab.log());
    let tasks = std::fs::read_dir(format!("/proc/{}/task", lab.pid())).unwrap();
    let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
    assert!(names.into_iter().all(|name| !name.starts_with("admin")));

    let mut lab = Lab::new(watched());
    let address = address(&lab);
    // One that is kept open, one that waits for a locked database.
    let _shell = lab.locked();
    let mut open: Vec<_> = (0..2).map(|_| TcpStream::connect(address).unwrap()).collect();
    open[0].write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    open[1].write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
    let mut first = [0; 12];
    open[0].read_exact(&mut first).unwrap();
    let (code, took) = lab.terminate();
    assert_eq!(code, Some(0));
    assert_prompt(took, Duration::from_secs(5));
}

#[test]
fn an_address_in_use_is_an_error_that_names_the_setting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let lab = Lab::idle(Settings { admin: &address, ..Settings::default() });
    let output = lab.command(&["run"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    let line = errors.lines().find(|line| line.contains(&format!("cannot listen on {address}"))).unwrap();
    assert!(line.contains("[admin] listen") && line.contains("empty"), "{errors}");
}

#[test]
fn with_few_descriptors_both_listeners_serve() {
    let mut lab = Lab::idle(watched());
    let mut command = Command::new("sh");
    let run = format!("ulimit -n 64; exec {} run -c {}", binary(), lab.ini().display());
    command.args(["-c", &run]);
    lab.start_as(command);
    let address = address(&lab);
    let flood = |address| -> Vec<TcpStream> {
        (0..100)
            .filter_map(|_| TcpStream::connect(address).ok())
            .map(|mut stream| {
                let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHos");
                stream
            })
            .collect()
    };
    let floods = (flood(address), flood(lab.address));
    assert_eq!(ask(address, "GET", "/healthz").status, 200);
    assert!(metrics(&lab).value("wecom_dirsync_build_info", &[("version", env!("CARGO_PKG_VERSION"))]) > 0.0);
    lab.event(now(), "delete_user", "<UserID>a</UserID>");
    drop(floods);
}

#[test]
#[ignore = "takes a release build to mean anything; --nocapture prints what was measured"]
fn a_million_members_are_counted_without_harm() {
    for (what, pending) in [("one in ten pending", "n % 10 = 0"), ("all pending", "1")] {
        let mut lab = Lab::idle(Settings { openid: "enabled = no", ..watched() });
        let db = wecom_dirsync::store::open_writer(&lab.database(), 0o600).unwrap();
        db.script(&format!(
            "WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < 999999)
             INSERT INTO members (userid, name, mobile, position, email, openid, openid_state,
                 openid_next_attempt_at, openid_revision, details_state, created_at, updated_at, event_time)
             SELECT 'user' || n, '张' || n, '138' || n, '工程师', 'user' || n || '@example.com',
                 iif({pending}, NULL, 'oDjGHs-1yCnGrRovBj2yHij' || n), iif({pending}, 'pending', 'converted'),
                 iif({pending}, 1700000000 + n * 7919 % 86400, NULL), n, 'known', 1700000000 + n, 0, 0 FROM n"
        ))
        .unwrap();
        drop(db);
        lab.start();
        let address = address(&lab);
        let first = ask(address, "GET", "/metrics");
        let told = Exposition::read(&first.body);
        assert_eq!(told.sum("wecom_dirsync_members"), 1_000_000.0);
        // Somebody who asks without end, for three seconds, while callbacks come.
        let (begun, cpu, mut times, mut acknowledged) =
            (Instant::now(), lab.processor_time(), Vec::new(), Vec::new());
        while begun.elapsed() < Duration::from_secs(3) {
            times.push(ask(address, "GET", "/metrics").took);
            let sent = Instant::now();
            lab.event(now(), "delete_user", &format!("<UserID>x{}</UserID>", times.len()));
            acknowledged.push(sent.elapsed());
        }
        times.sort_unstable();
        acknowledged.sort_unstable();
        eprintln!(
            "1,000,000 members, {what}: first /metrics {:?}; then {} in 3 s, median {:?}, longest {:?}; \
             callbacks beside it: median {:?}, longest {:?}; CPU of the daemon {:.2} s; resident {}",
            first.took,
            times.len(),
            times[times.len() / 2],
            times[times.len() - 1],
            acknowledged[acknowledged.len() / 2],
            acknowledged[acknowledged.len() - 1],
            lab.processor_time() - cpu,
            resident(&lab)
        );
        assert!(first.took < Duration::from_secs(5), "{:?}", first.took);
        assert!(times[times.len() / 2] < Duration::from_millis(50), "{times:?}");
    }
}

fn resident(lab: &Lab) -> String {
    let status = std::fs::read_to_string(format!("/proc/{}/status", lab.pid())).unwrap();
    status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default().to_owned()
}
