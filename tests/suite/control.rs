//! The control socket as its clients meet it: commands, followers, strangers, garbage, and a daemon that is gone.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{Lab, Settings, binary, eventually, now, text};
use serde_json::{Value as Json, json};
use wecom_dirsync::demo::standin::Fault;

/// Compares on demand only, after the first fill.
fn lab() -> Lab {
    let lab = Lab::idle(Settings { reconcile: true, ..Settings::default() });
    lab.stand_in.company(|company| (0..3).for_each(|n| company.hire(&format!("user{n}"))));
    lab
}

fn started() -> Lab {
    let mut lab = lab();
    lab.start();
    lab.wait_for_first_comparison();
    lab
}

fn path(lab: &Lab) -> PathBuf {
    lab.value("SELECT value ->> 'control' FROM daemon_state WHERE name = 'daemon'").into()
}

/// A client that takes 10 s at most for each of its reads.
fn connect(lab: &Lab) -> UnixStream {
    let stream = UnixStream::connect(path(lab)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// Sends bytes; all that the daemon answers until it closes.
fn exchange(lab: &Lab, bytes: &[u8]) -> String {
    let mut stream = connect(lab);
    // The daemon may have refused before all is sent.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    text(&answer)
}

fn request(lab: &Lab, request: &Json) -> Json {
    serde_json::from_str(&exchange(lab, format!("{request}\n").as_bytes())).unwrap()
}

fn comparisons(lab: &Lab) -> usize {
    lab.log().matches("compared with WeCom").count()
}

#[test]
fn two_commands_at_once_each_get_their_own_report() {
    let lab = started();
    let output = std::thread::scope(|scope| {
        let both = [["--dry-run", "--json"], ["--json", "--allow-deletes=1"]].map(|arguments| {
            let arguments: Vec<&str> = ["reconcile"].into_iter().chain(arguments).collect();
            let lab = &lab;
            scope.spawn(move || lab.command(&arguments))
        });
        both.map(|thread| thread.join().unwrap())
    });
    let dry: Vec<Json> = output
        .iter()
        .map(|output| {
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            serde_json::from_slice::<Json>(&output.stdout).unwrap()["dry_run"].clone()
        })
        .collect();
    assert_eq!(dry, [json!(true), json!(false)]);
    assert_eq!(comparisons(&lab), 3);
}

#[test]
fn a_client_sees_progress_before_its_report() {
    let lab = started();
    let answer =
        exchange_open(&lab, &json!({"command": "reconcile", "dry_run": true, "allow_deletes": null}));
    let kinds: Vec<String> = answer
        .lines()
        .map(|line| match serde_json::from_str::<Json>(line).unwrap() {
            Json::String(kind) => kind,
            object => object.as_object().unwrap().keys().next().unwrap().clone(),
        })
        .collect();
    assert_eq!(kinds.first().map(String::as_str), Some("accepted"), "{answer}");
    assert_eq!(kinds.last().map(String::as_str), Some("report"), "{answer}");
    assert!(kinds[1..kinds.len() - 1].iter().all(|kind| kind == "progress") && kinds.len() > 2, "{answer}");
}

/// As [`exchange`], and keeps its own side of the connection open.
fn exchange_open(lab: &Lab, request: &Json) -> String {
    let mut stream = connect(lab);
    stream.write_all(format!("{request}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_request_whose_client_is_gone_before_its_turn_is_dropped() {
    let lab = started();
    lab.stand_in.company(|company| (0..3).for_each(|n| company.dismiss(&format!("user{n}"))));
    // Triggers are checked once a second, so both wait together.
    let mut first = connect(&lab);
    first.write_all(b"{\"command\":\"reconcile\",\"dry_run\":true}\n").unwrap();
    let mut gone = connect(&lab);
    gone.write_all(b"{\"command\":\"reconcile\",\"dry_run\":false,\"allow_deletes\":3}\n").unwrap();
    drop(gone);
    first.read_to_string(&mut String::new()).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(
        lab.log().matches("comparing with WeCom: the reconcile command\n").count(),
        0,
        "{}",
        lab.log()
    );
    assert_eq!(lab.value("SELECT count(*) FROM members WHERE deleted_at IS NULL"), "3");
}

#[test]
fn the_log_level_is_set_until_the_restart_and_pauses_are_listed() {
    let mut lab = started();
    assert_eq!(request(&lab, &json!({"command": "pauses"})), json!({"pauses": []}));
    assert_eq!(request(&lab, &json!({"command": "log_level"})), json!({"log_level": "info"}));
    assert!(!lab.log().contains("event event="), "{}", lab.log());
    assert_eq!(
        request(&lab, &json!({"command": "log_level", "set": "debug"})),
        json!({"log_level": "debug"})
    );
    lab.hire("loud");
    eventually("debug lines", || lab.log().contains("subject=\"loud\""));
    let refused = request(&lab, &json!({"command": "log_level", "set": "all"}));
    assert!(refused["error"].as_str().unwrap().contains("trace"), "{refused}");
    lab.stand_in.company(|company| company.app_secret = "changed".into());
    lab.hire("paused");
    eventually("a pause", || request(&lab, &json!({"command": "pauses"}))["pauses"][0]["reason"].is_string());
    lab.terminate();
    lab.start();
    assert_eq!(request(&lab, &json!({"command": "log_level"})), json!({"log_level": "info"}));
}

#[test]
fn garbage_is_refused_and_costs_nobody_else() {
    let lab = started();
    for garbage in [
        &b"\n"[..],
        b"hello\n",
        b"{}\n",
        b"{\"command\":\"format\"}\n",
        b"{\"command\":\"reconcile\"}\n",
        b"\xff\xfe\x00\n",
        b"{\"command\":\"reconcile\",\"dry_run\":true,\"allow_deletes\":-1}\n",
    ] {
        let answer = exchange(&lab, garbage);
        assert!(answer.starts_with("{\"error\":\"not a request"), "{garbage:?}: {answer}");
    }
    let deep = [b"{\"command\":".repeat(5000), b"\n".to_vec()].concat();
    assert!(exchange(&lab, &deep).contains("not a request"));
    // Longer than a request may be: the connection ends, with or without the reason.
    let long = vec![b' '; 1024 * 1024];
    let answer = exchange(&lab, &long);
    assert!(answer.is_empty() || answer.contains("at most 65536 bytes"), "{answer}");
    // One connection carries one request.
    assert!(exchange(&lab, b"{\"command\":\"changes\"}\n{}\n").contains("one line"));
    let mut follower = connect(&lab);
    follower.write_all(b"{\"command\":\"changes\"}\n").unwrap();
    let mut first = [0; 14];
    follower.read_exact(&mut first).unwrap();
    assert_eq!(text(&first), "{\"changes\":0}\n");
    follower.write_all(b"more").unwrap();
    assert_eq!(follower.read(&mut first).unwrap_or(0), 0);
    assert_eq!(lab.command(&["reconcile", "--dry-run"]).status.code(), Some(0));
    assert_eq!(comparisons(&lab), 2);
}

#[test]
fn silent_clients_are_bounded_in_number_and_time() {
    let lab = started();
    let begun = Instant::now();
    let mut silent: Vec<UnixStream> = (0..16).map(|_| connect(&lab)).collect();
    silent[0].write_all(b"{\"command\":").unwrap();
    eventually("one too many", || {
        exchange(&lab, b"{\"command\":\"pauses\"}\n").contains("too many connections")
    });
    for stream in &mut silent {
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "it is closed without an answer");
    }
    assert!((4..9).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(request(&lab, &json!({"command": "pauses"})), json!({"pauses": []}));
}

#[test]
fn followers_leave_room_for_commands_and_those_who_do_not_read_lose_nothing() {
    let lab = started();
    let subscribe = || {
        let mut stream = connect(&lab);
        stream.write_all(b"{\"command\":\"changes\"}\n").unwrap();
        let mut answer = [0; 64];
        let length = stream.read(&mut answer).unwrap();
        (stream, text(&answer[..length]))
    };
    let mut followers: Vec<_> = (0..12).map(|_| subscribe()).collect();
    // A notice of what the first comparison committed may follow at once.
    let is_subscribed = |answer: &String| answer.starts_with("{\"changes\":0}\n");
    assert!(followers.iter().all(|(_, answer)| is_subscribed(answer)), "{followers:?}");
    assert!(subscribe().1.contains("follow the changes already"));
    assert_eq!(lab.command(&["reconcile", "--dry-run"]).status.code(), Some(0));
    for n in 0..20 {
        lab.event(now(), "create_user", &format!("<UserID>new{n}</UserID>"));
    }
    let last = lab.value("SELECT max(seq) FROM changes");
    for (stream, _) in &mut followers {
        let mut seen = String::new();
        while !seen.contains(&format!("{{\"changes\":{last}}}\n")) {
            let mut chunk = [0; 512];
            let length = stream.read(&mut chunk).unwrap();
            assert!(length > 0, "{seen}");
            seen.push_str(&text(&chunk[..length]));
        }
    }
}

/// The output of a Python script that runs as nobody; `None` where the test cannot become that user.
fn as_nobody(script: &str, arguments: &[&str]) -> Option<String> {
    let script = format!("import os\nos.setgroups([]); os.setgid(65534); os.setuid(65534)\n{script}");
    match Command::new("python3").args(["-c", &script]).args(arguments).output() {
        Ok(output) if output.status.success() => Some(text(&output.stdout)),
        other => {
            eprintln!("skipped: it takes root and python3: {other:?}");
            None
        }
    }
}

#[test]
fn another_user_can_neither_connect_nor_write() {
    let lab = started();
    let socket = path(&lab);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let script = "import socket, sys\n\
                  for line in sys.argv[2:]:\n\
                  \x20   s = socket.socket(socket.AF_UNIX)\n\
                  \x20   try: s.connect(sys.argv[1])\n\
                  \x20   except OSError as e: print(type(e).__name__); continue\n\
                  \x20   s.sendall(line.encode() + b'\\n')\n\
                  \x20   print(s.makefile().readline().strip())\n";
    let requests = [
        r#"{"command":"retry"}"#,
        r#"{"command":"reconcile","dry_run":true}"#,
        r#"{"command":"log_level","set":"off"}"#,
        r#"{"command":"log_level"}"#,
        r#"{"command":"pauses"}"#,
    ];
    std::fs::set_permissions(lab.folder.path(), Permissions::from_mode(0o755)).unwrap();
    let arguments: Vec<&str> = std::iter::once(socket.to_str().unwrap()).chain(requests).collect();
    let Some(closed) = as_nobody(script, &arguments) else { return };
    assert_eq!(closed, "PermissionError\n".repeat(5));
    // Even if somebody opens the socket to all.
    std::fs::set_permissions(&socket, Permissions::from_mode(0o666)).unwrap();
    let open = as_nobody(script, &arguments).unwrap();
    let lines: Vec<&str> = open.lines().collect();
    assert!(lines[..3].iter().all(|line| line.contains("only root and the daemon's user")), "{open}");
    assert_eq!(lines[3..], [r#"{"log_level":"info"}"#, r#"{"pauses":[]}"#], "{open}");
    assert_eq!(comparisons(&lab), 1);
}

#[test]
fn a_path_that_is_too_long_falls_back_to_a_private_directory() {
    let mut lab = lab();
    let folder = lab.folder.path().join("d".repeat(110));
    std::fs::create_dir(&folder).unwrap();
    lab.set_database(folder.join("directory.db"));
    lab.start();
    lab.wait_for_first_comparison();
    assert!(lab.log().contains("a socket has at most 107"), "{}", lab.log());
    let socket = path(&lab);
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(socket.parent().unwrap()), mode(&socket)), (0o700, 0o600));
    assert_eq!(lab.command(&["reconcile", "--dry-run"]).status.code(), Some(0));
    lab.terminate();
    assert!(!socket.parent().unwrap().exists());
}

#[test]
fn the_runtime_directory_holds_the_socket_if_there_is_one() {
    let mut lab = lab();
    let runtime = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary());
    command.arg("run").arg("-c").arg(lab.ini()).env("RUNTIME_DIRECTORY", runtime.path());
    lab.start_as(command);
    assert_eq!(path(&lab), runtime.path().join("control.sock"));
    assert_eq!(lab.command(&["reconcile", "--dry-run"]).status.code(), Some(0));
}

#[test]
fn a_daemon_that_is_gone_is_noticed_and_its_socket_is_no_obstacle() {
    let mut lab = started();
    let socket = path(&lab);
    // It stops in the middle of a comparison.
    lab.stand_in.fail(Some("user/list_id"), Fault::Delay(Duration::from_secs(8)), 1);
    let waiting = {
        let mut command = Command::new(binary());
        command.args(["reconcile", "-c"]).arg(lab.ini());
        command.stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    eventually("it compares", || lab.log().contains("comparing with WeCom: the reconcile command"));
    lab.kill();
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("the daemon ended during the comparison"),
        "{}",
        text(&output.stderr)
    );
    assert!(socket.exists(), "it was killed");
    let retry = lab.command(&["retry", "--all"]);
    assert!(text(&retry.stdout).contains("the daemon is not running"), "{}", text(&retry.stdout));
    lab.start();
    assert_eq!(path(&lab), socket);
    assert_eq!(request(&lab, &json!({"command": "log_level"})), json!({"log_level": "info"}));
    lab.terminate();
    assert!(!socket.exists());
}
