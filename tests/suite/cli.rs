//! The commands as an operator meets them: exit codes, what is printed, and that no secret ever is.

use std::process::Command;
use std::time::Duration;

use crate::common::load::Acknowledged;
use crate::common::{self, Lab, Settings, assert_prompt, binary, eventually, now, signal, text};
use wecom_dirsync::demo::standin::Fault;

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(binary()).args(arguments).current_dir(folder.path()).output().unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn usage_errors_are_2_and_help_and_version_are_0() {
    for arguments in
        [&["fly"][..], &[], &["run", "--loud"], &["member"], &["retry"], &["retry", "a", "--all"], &["send"]]
    {
        let (code, _, errors) = run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {errors}");
    }
    for command in [
        "", "run", "check", "status", "member", "members", "retry", "changes", "export", "init", "send",
        "demo",
    ] {
        let arguments: Vec<&str> = [command, "--help"].into_iter().filter(|a| !a.is_empty()).collect();
        let (code, help, _) = run(&arguments);
        assert_eq!(code, Some(0), "{command}");
        assert!(help.contains("Usage: wecom-dirsync"), "{help}");
    }
    // A release build adds the commit.
    let version = format!("wecom-dirsync {}", env!("CARGO_PKG_VERSION"));
    assert!(run(&["--version"]).1.starts_with(&version));
}

#[test]
fn usage_errors_escape_control_characters() {
    for arguments in
        [&["fl\u{1b}[31my\r\n"][..], &["run", "--lo\u{9b}ud"], &["changes", "--since", "\u{1b}]0;x\u{7}"]]
    {
        let (code, _, errors) = run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {errors}");
        assert!(!errors.contains(|c: char| c.is_control() && c != '\n'), "{errors:?}");
        assert!(errors.contains("\\u{"), "{errors}");
    }
}

#[test]
fn check_accepts_a_byte_order_mark_and_refuses_placeholders() {
    let check = |mark: &str, token: &str| {
        let folder = tempfile::tempdir().unwrap();
        let ini = format!(
            "[wecom]\ncorp_id = ww1\n[callback]\ntoken = {token}\nencoding_aes_key = {}\n",
            common::KEY
        );
        std::fs::write(folder.path().join("sync.ini"), format!("{mark}{ini}")).unwrap();
        let output = Command::new(binary()).arg("check").current_dir(folder.path()).output().unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    for mark in ["", "\u{feff}", "\u{feff}; a comment\r\n"] {
        assert_eq!(check(mark, common::TOKEN).0, Some(0), "the official sample is accepted");
    }
    for token in ["example", "dummy", "test", "123456", "changeme"] {
        let (code, shown) = check("", token);
        assert_eq!(code, Some(78), "{token}: {shown}");
        assert!(
            shown.contains("sync.ini:4: [callback] token: is a placeholder") && !shown.contains(token),
            "{shown}"
        );
    }
}

#[test]
fn check_prints_no_password_of_a_url() {
    let folder = tempfile::tempdir().unwrap();
    let example = include_str!("../../sync.example.ini");
    let ini = example.replace("# proxy =", "proxy = http://user:hush@proxy.example:3128");
    let ini = ini
        + "[notify]\nrobot_webhook = https://h/send?key=hush\nheartbeat_url = https://user:hush@h/x?key=hush\n";
    std::fs::write(folder.path().join("sync.ini"), &ini).unwrap();
    let output = Command::new(binary()).arg("check").current_dir(folder.path()).output().unwrap();
    let shown = text(&output.stdout) + &text(&output.stderr);
    assert!(
        output.status.success() && shown.contains("proxy = http://user:***@proxy.example:3128"),
        "{shown}"
    );
    assert!(shown.contains("heartbeat_url = [redacted]") && !shown.contains("hush"), "{shown}");
}

#[test]
fn a_wrong_configuration_is_78_with_one_line_for_each_error() {
    let folder = tempfile::tempdir().unwrap();
    let ini = folder.path().join("sync.ini");
    std::fs::write(
        &ini,
        "[wecom]\ncorp_id = ww1\nthreds = 4\n[callback]\ntoken = T\nencoding_aes_key = short-secret\n",
    )
    .unwrap();
    for command in [&["run"][..], &["check"], &["status"], &["member", "a"], &["retry", "--all"]] {
        let mut arguments = vec![command[0], "-c", ini.to_str().unwrap()];
        arguments.extend(&command[1..]);
        let (code, output, errors) = run(&arguments);
        assert_eq!((code, output.as_str()), (Some(78), ""), "{command:?}");
        let lines: Vec<_> = errors.lines().collect();
        assert_eq!(lines.len(), 2, "{errors}");
        assert!(lines[0].contains("sync.ini:3: [wecom] has no key threds; did you mean"), "{errors}");
        assert!(
            lines[1].contains("sync.ini:6: [callback] encoding_aes_key: is 12 characters long"),
            "{errors}"
        );
        assert!(!errors.contains("short-secret"), "{errors}");
    }
    let (code, _, errors) = run(&["check", "-c", "nowhere.ini"]);
    assert_eq!(code, Some(78));
    assert!(errors.contains("nowhere.ini: cannot be read"), "{errors}");
    let (code, _, errors) = run(&["check"]);
    assert_eq!(code, Some(78));
    assert!(errors.contains("neither ./sync.ini nor /etc/wecom-dirsync/sync.ini"), "{errors}");
}

#[test]
fn what_fails_otherwise_is_1_and_says_what_to_do() {
    let mut lab = Lab::idle(Settings::default());
    for command in
        [&["status"][..], &["member", "a"], &["retry", "--all"], &["changes"], &["export", "--format", "csv"]]
    {
        let output = lab.command(command);
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        assert!(text(&output.stderr).contains("there is no database yet"), "{output:?}");
    }
    lab.start();
    let output = lab.command(&["member", "nobody"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("nobody: the database has no such member"), "{output:?}");
    let second = lab.command(&["run"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("another wecom-dirsync works with this database"), "{second:?}");
    let output = lab.command(&["retry", "nobody"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("nobody"), "{output:?}");
}

#[test]
fn a_port_that_is_taken_is_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let lab = Lab::idle(Settings::default());
    let ini = std::fs::read_to_string(lab.ini()).unwrap().replace("127.0.0.1:0", &address);
    std::fs::write(lab.ini(), ini).unwrap();
    let output = lab.command(&["run"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&format!("cannot listen on {address}")), "{output:?}");
}

#[test]
fn files_that_are_not_ours_or_too_new_are_refused_untouched() {
    let lab = Lab::idle(Settings::default());
    let cases = [
        ("CREATE TABLE t (a)", "not a database of wecom-dirsync"),
        ("PRAGMA application_id = 1464095609; PRAGMA user_version = 99; CREATE TABLE t (a)", "has schema 99"),
    ];
    for (sql, expected) in cases {
        let _ = std::fs::remove_file(lab.database());
        rusqlite::Connection::open(lab.database()).unwrap().execute_batch(sql).unwrap();
        let before = std::fs::read(lab.database()).unwrap();
        for (command, code) in [("run", 78), ("check", 78), ("status", 1)] {
            let output = lab.command(&[command]);
            assert_eq!(output.status.code(), Some(code), "{command}");
            assert!(text(&output.stderr).contains(expected), "{output:?}");
        }
        assert_eq!(std::fs::read(lab.database()).unwrap(), before);
    }
    std::fs::write(
        lab.database(),
        "this is no database, but a text that is long enough to have been one".repeat(20),
    )
    .unwrap();
    let output = lab.command(&["run"]);
    assert!(text(&output.stderr).contains("not a database of wecom-dirsync"), "{output:?}");
}

#[test]
fn the_example_is_accepted_by_check_as_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("sync.ini"), include_str!("../../sync.example.ini")).unwrap();
    let output = Command::new(binary()).arg("check").current_dir(folder.path()).output().unwrap();
    let shown = text(&output.stderr);
    assert!(
        shown.lines().all(|line| line.contains("cannot listen")),
        "another program may use its ports: {shown}"
    );
    let shown = text(&output.stdout);
    assert!(shown.contains("the configuration is valid") && shown.contains("retry_max = 1d"), "{shown}");
}

#[test]
fn status_counts_and_says_whether_the_daemon_runs() {
    let mut lab = Lab::plain();
    lab.hire("a");
    lab.hire("b");
    lab.stand_in.company(|company| company.sign_in("b", "o-b"));
    lab.event(now(), "update_user", "<UserID>b</UserID><Status>1</Status>");
    lab.wait_for("SELECT count(*) FROM members WHERE openid_state = 'converted'", "1");
    let json = lab.status();
    assert_eq!(json["members"]["pending"], 1);
    assert_eq!(json["members"]["converted"], 1);
    assert_eq!(json["running"], true);
    assert_eq!(json["pid"], lab.pid());
    assert_eq!(json["events"], 3);
    let shown = text(&lab.command(&["status"]).stdout);
    assert!(shown.contains("running since") && shown.contains("pending      1"), "{shown}");
    lab.terminate();
    let shown = text(&lab.command(&["status"]).stdout);
    assert!(shown.contains("not running"), "{shown}");
}

#[test]
fn member_shows_the_history_in_order() {
    let lab = Lab::plain();
    lab.hire("ZhangSan");
    lab.wait_for("SELECT openid_errcode FROM members", "43004");
    lab.stand_in.company(|company| company.hire("zs"));
    lab.event(now(), "update_user", "<UserID>zhangsan</UserID><NewUserID>zs</NewUserID><Name>张三</Name>");
    let shown = text(&lab.command(&["member", "zhangsan"]).stdout);
    let mut from = 0;
    for part in [
        "zs\n",
        "formerly zhangsan",
        "张三",
        "pending",
        "history",
        "create_user: applied",
        "created",
        "update_user: applied",
        "renamed",
    ] {
        let found = shown[from..].find(part);
        assert!(found.is_some(), "{part} is not there, or not in its place:\n{shown}");
        if part == "history" {
            from += found.unwrap();
        }
    }
    assert!(shown.contains("43004") && !shown.contains("revision"), "{shown}");
}

#[test]
fn sigterm_ends_cleanly_in_time_even_while_wecom_hangs() {
    let mut lab = Lab::plain();
    lab.stand_in.fail(None, Fault::Hang, usize::MAX);
    lab.hire("a");
    assert!(lab.stand_in.wait_for(common::PATIENCE, |calls| !calls.is_empty()));
    let (code, took) = lab.terminate();
    assert_eq!(code, Some(0));
    assert_prompt(took, Duration::from_secs(5));
    assert!(lab.log().contains("stopped"), "{}", lab.log());
    let wal = lab.folder.path().join("directory.db-wal");
    assert!(std::fs::metadata(wal).map_or(0, |m| m.len()) == 0, "the database is closed");
    assert_eq!(lab.state("a"), "pending");
}

#[test]
fn sigterm_under_load_loses_nothing_that_was_acknowledged() {
    let mut lab = Lab::plain();
    let (url, acknowledged) = (lab.url("/callback"), Acknowledged::default());
    let mut ended = (None, Duration::MAX);
    acknowledged.until(&url, 8, Duration::ZERO, || {
        eventually("some hundred events are in", || {
            lab.value("SELECT count(*) FROM events").parse::<i32>().unwrap() > 300
        });
        ended = lab.terminate();
    });
    let (code, took) = ended;
    assert_eq!(code, Some(0));
    assert_prompt(took, Duration::from_secs(5));
    assert!(acknowledged.count() > 300);
    assert_eq!(acknowledged.lost(&lab.db()).unwrap(), 0);
}

#[test]
fn sigint_ends_it() {
    let lab = Lab::plain();
    lab.event(now(), "delete_user", "<UserID>a</UserID>");
    signal(lab.pid(), "INT");
    eventually("the log tells of the end", || lab.log().contains("stopped"));
}

#[test]
fn no_secret_is_found_anywhere() {
    let openid = "retry_first = 1s\nretry_max = 1s";
    let more = "[log]\nlevel = trace";
    let mut lab = Lab::new(Settings { more, openid, speed: 3, ..Settings::default() });
    lab.hire("a");
    lab.wait_for("SELECT openid_errcode FROM members", "43004");
    // A gateway that echoes what it was sent, and everything that can go wrong.
    let secret = lab.stand_in.company(|company| company.app_secret.clone());
    let token = lab.stand_in.calls().iter().map(|call| call.token.clone()).find(|t| !t.is_empty()).unwrap();
    lab.stand_in.fail(None, Fault::Refusal(99999, format!("echo {secret} {token}")), 1);
    for fault in [Fault::HttpStatus(502), Fault::Reset, Fault::Garbage, Fault::Truncated] {
        lab.stand_in.fail(None, fault, 1);
    }
    for n in 0..3 {
        lab.hire(&format!("b{n}"));
    }
    let _ = lab.raw(b"POST /callback?msg_signature=0&timestamp=1&nonce=2 HTTP/1.0\r\nContent-Length: 50\r\n\r\n<xml><Encrypt><![CDATA[abcdabcd]]></Encrypt></xml>");
    lab.wait_for("SELECT count(*) FROM members WHERE openid_errcode = 43004", "4");
    let arguments = std::fs::read(format!("/proc/{}/cmdline", lab.pid())).unwrap();
    let mut shown = vec![("arguments", arguments)];
    for command in [
        &["check"][..],
        &["status"],
        &["status", "--json"],
        &["member", "b0"],
        &["changes"],
        &["export", "--format", "ndjson"],
    ] {
        let output = lab.command(command);
        assert!(output.status.success(), "{command:?}: {output:?}");
        shown.push(("output", [output.stdout, output.stderr].concat()));
    }
    lab.terminate();
    shown.push(("log", lab.log().into_bytes()));
    shown.push(("database", std::fs::read(lab.database()).unwrap()));
    assert!(
        text(&shown[shown.len() - 2].1).contains("api=user/convert_to_openid"),
        "the log is at trace level"
    );
    assert!(text(&shown[shown.len() - 1].1).contains("echo [redacted] [redacted]"), "WeCom's texts are kept");
    for (place, bytes) in shown {
        for secret in [secret.as_str(), token.as_str(), common::KEY, common::TOKEN] {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} is in the {place}: {}", text(&bytes));
        }
    }
}

#[test]
fn the_log_has_times_and_levels_and_goes_to_a_file_if_asked() {
    let lab = Lab::plain();
    for line in lab.log().lines() {
        let is_timed =
            line.starts_with("20") && ["[ERROR]", "[WARN]", "[INFO]"].iter().any(|l| line.contains(l));
        assert!(is_timed, "{line}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sync.log");
    let lab = Lab::idle(Settings::default());
    let ini = std::fs::read_to_string(lab.ini()).unwrap() + &format!("[log]\nfile = {}\n", path.display());
    std::fs::write(lab.ini(), ini).unwrap();
    let mut child = Command::new(binary()).args(["run", "-c"]).arg(lab.ini()).spawn().unwrap();
    eventually("the file says that the daemon is ready", || {
        std::fs::read_to_string(&path).is_ok_and(|log| log.contains("ready:"))
    });
    signal(child.id(), "TERM");
    assert!(child.wait().unwrap().success());
    let log = std::fs::read_to_string(&path).unwrap();
    assert!(log.lines().all(|line| line.starts_with("20")), "{log}");
}

#[test]
fn the_database_is_private_and_its_mode_is_the_configured_one() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |lab: &Lab| std::fs::metadata(lab.database()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&Lab::plain()), 0o600);
    let lab = Lab::new(Settings { more: "[database]\nmode = 0640", ..Settings::default() });
    lab.hire("a");
    assert_eq!(mode(&lab), 0o640);
    let wal =
        std::fs::metadata(lab.folder.path().join("directory.db-wal")).unwrap().permissions().mode() & 0o777;
    assert_eq!(wal, 0o640);
}

#[test]
fn the_demo_prints_each_step_and_leaves_the_database() {
    let folder = tempfile::tempdir().unwrap();
    // A proxy in the environment does not come between the demo and itself.
    let mut command = Command::new(binary());
    command.arg("demo").env("HTTP_PROXY", "http://127.0.0.1:9").env("http_proxy", "http://127.0.0.1:9");
    let mut demo = || command.current_dir(folder.path()).output().unwrap();
    for _ in 0..2 {
        let output = demo();
        assert!(output.status.success(), "{output:?}");
        let story = text(&output.stdout);
        for part in [
            "verified",
            "create_user -> 200 success",
            "43004",
            "update_user -> 200 success",
            "has an openid",
            "sqlite3",
        ] {
            assert!(story.contains(part), "{part}: {story}");
        }
    }
    // Whatever is not a demo's is left alone.
    let lab = Lab::idle(Settings::default());
    let before = std::fs::read(lab.ini()).unwrap();
    let output = Command::new(binary()).arg("demo").arg(lab.folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("not a demo's"), "{output:?}");
    assert_eq!(std::fs::read(lab.ini()).unwrap(), before);
    let db = common::open(&folder.path().join("demo-wecom-dirsync/directory.db"));
    assert_eq!(
        common::value(&db, "SELECT openid_state FROM active_members WHERE userid = 'zhangsan'"),
        "has an openid"
    );
    assert_eq!(common::value(&db, "SELECT tried FROM pending_members WHERE userid = 'lisi'"), "1");
}

#[test]
fn a_socket_that_systemd_hands_over_is_used() {
    use std::os::fd::AsRawFd;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut lab = Lab::idle(Settings::default());
    let mut command = Command::new("bash");
    let run = format!(
        "exec 3<&{}; export LISTEN_FDS=1 LISTEN_PID=$$; exec {} run -c {}",
        listener.as_raw_fd(),
        binary(),
        lab.ini().display()
    );
    command.args(["-c", &run]);
    lab.start_as(command);
    assert_eq!(lab.address, address);
    lab.event(now(), "delete_user", "<UserID>a</UserID>");
}
