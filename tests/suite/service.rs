//! What a service manager sees of the daemon: readiness, status line, watchdog, the socket that it passes, exit statuses,
//! reload, and the journal's priorities. `packaging/test/service` tries the same in a booted systemd.

use std::fs::{File, Permissions};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::{self, CORP, Lab, Settings, crypt, eventually, now, shim, signal, text};
use rusqlite::Connection;
use wecom_dirsync::demo::sender::{Sender, contact_event};
use wecom_dirsync::demo::standin::Fault;
use wecom_dirsync::wecom::callback::crypt::{Crypt, EncodingAesKey};

/// A key of a later rotation.
const NEW_KEY: &str = "kWxPEV2UEDyxWpmPdKC3F4dgPDmOvfKX1HGnEUDS1aR";
/// `WatchdogSec` of these tests.
const WATCHDOG: Duration = Duration::from_secs(3);

/// The service manager's end of `$NOTIFY_SOCKET`.
struct Manager(Arc<Mutex<Vec<(Instant, String)>>>);

impl Manager {
    /// Has the command notify it. The thread that listens ends with the test.
    fn of(lab: &Lab, command: &mut Command) -> Self {
        let path = lab.folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&heard);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer) {
                let lines = String::from_utf8_lossy(&buffer[..length]).into_owned();
                all.lock().unwrap().extend(lines.lines().map(|line| (Instant::now(), line.to_owned())));
            }
        });
        Self(heard)
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|(_, line)| line.clone()).collect()
    }

    fn count(&self, line: &str) -> usize {
        self.lines().iter().filter(|heard| *heard == line).count()
    }

    fn status(&self) -> String {
        let last = self.lines().into_iter().rfind(|line| line.starts_with("STATUS="));
        last.unwrap_or_default()
    }

    fn status_becomes(&self, part: &str) {
        eventually(part, || self.status().contains(part));
    }

    /// Whether the watchdog was answered in time for as long as `time`.
    fn stays_answered(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while Instant::now() < until {
            let last =
                self.0.lock().unwrap().iter().rfind(|(_, line)| line == "WATCHDOG=1").map(|(at, _)| *at);
            if last.is_none_or(|at| at.elapsed() > WATCHDOG) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

/// A lab under a service manager, on a disk whose state the test sets.
fn supervised(settings: Settings<'_>) -> (Lab, Manager) {
    let mut lab = Lab::idle(settings);
    let mut command = lab.prepared(&["run"]);
    disk_is(&lab, "well");
    command.env("LD_PRELOAD", shim("disk")).env("DISK_FAULT", lab.folder.path().join("disk-fault"));
    let manager = Manager::of(&lab, &mut command);
    lab.start_as(command);
    (lab, manager)
}

fn disk_is(lab: &Lab, fault: &str) {
    let new = lab.folder.path().join("new");
    std::fs::write(&new, fault).unwrap();
    std::fs::rename(new, lab.folder.path().join("disk-fault")).unwrap();
}

fn edit(lab: &Lab, change: impl Fn(String) -> String) {
    let text = std::fs::read_to_string(lab.ini()).unwrap();
    std::fs::write(lab.ini(), change(text)).unwrap();
}

/// The sender's status, with these keys.
fn send_with(lab: &Lab, token: &str, key: &str) -> u16 {
    let crypt = Crypt::new(token, EncodingAesKey::parse(key).unwrap(), CORP);
    let event = contact_event(CORP, now(), "delete_user", "<UserID>a</UserID>");
    Sender::new(&lab.url("/callback"), crypt, CORP).send(&event).unwrap().0
}

/// Runs the daemon until it fails.
fn failing_run(lab: &Lab, change: impl FnOnce(&mut Command)) -> Output {
    let mut command = lab.prepared(&["run"]);
    change(command.stdin(Stdio::null()));
    command.output().unwrap()
}

#[test]
fn it_is_ready_when_callbacks_are_answered_and_tells_its_state_until_it_stops() {
    let (mut lab, manager) = supervised(Settings::default());
    eventually("ready", || manager.count("READY=1") == 1);
    manager.status_becomes("members 0, pending 0, last event never");
    lab.hire("a");
    manager.status_becomes("members 1, pending 1, last event 20");
    lab.stand_in.fail(None, Fault::Errcode(60020), 1000);
    lab.hire("b");
    manager.status_becomes("paused: all API calls with app_secret (address, errcode 60020)");
    assert!(manager.stays_answered(WATCHDOG + WATCHDOG / 3), "{:?}", manager.lines());
    lab.terminate();
    eventually("stopping", || manager.count("STOPPING=1") == 1);
}

#[test]
fn a_storage_that_refuses_is_shown_and_no_reason_to_be_killed() {
    let (lab, manager) = supervised(Settings::default());
    lab.event(now(), "delete_user", "<UserID>a</UserID>");
    let shell = Connection::open(lab.database()).unwrap();
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    manager.status_becomes("FAILING: the database is locked");
    assert!(manager.stays_answered(WATCHDOG + WATCHDOG / 3), "{:?}", manager.lines());
    shell.execute_batch("ROLLBACK").unwrap();
    manager.status_becomes("STATUS=members 0");
    for (fault, told) in
        [("full", "FAILING: the disk is full"), ("broken", "FAILING: the disk of the database fails")]
    {
        disk_is(&lab, fault);
        manager.status_becomes(told);
        assert!(manager.stays_answered(WATCHDOG + WATCHDOG / 3), "{:?}", manager.lines());
        disk_is(&lab, "well");
        manager.status_becomes("STATUS=members 0");
    }
}

#[test]
fn a_writer_that_hangs_gets_no_watchdog_until_it_answers() {
    let (lab, manager) = supervised(Settings::default());
    eventually("watchdog", || manager.count("WATCHDOG=1") > 1);
    disk_is(&lab, "hangs");
    manager.status_becomes("NO ANSWER from writer");
    let before = manager.count("WATCHDOG=1");
    eventually("the log names it", || lab.log().contains("no answer within 0.75 s from: writer"));
    assert!(!manager.stays_answered(WATCHDOG + WATCHDOG / 3), "{:?}", manager.lines());
    assert_eq!(manager.count("WATCHDOG=1"), before);
    disk_is(&lab, "well");
    eventually("watchdog again", || manager.count("WATCHDOG=1") > before + 1);
    manager.status_becomes("STATUS=members 0");
    let probes = lab.command(&["status", "--json"]);
    assert!(probes.status.success(), "{probes:?}");
}

#[test]
fn probes_are_no_callbacks() {
    let (lab, manager) = supervised(Settings { admin: "127.0.0.1:0", ..Settings::default() });
    eventually("watchdog", || manager.count("WATCHDOG=1") > 2);
    let metrics = ureq::get(format!("http://{}/metrics", lab.admin.unwrap())).call().unwrap();
    let metrics = metrics.into_body().read_to_string().unwrap();
    let counted = metrics.lines().filter(|line| line.starts_with("wecom_dirsync_callbacks_total"));
    assert!(counted.clone().count() > 5 && counted.clone().all(|line| line.ends_with(" 0")), "{metrics}");
    // A client cannot send one.
    let answer = lab.raw(b"GET server-probe HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 40"), "{answer}");
}

/// A shell that starts the command with this listener as the socket of the service manager.
fn with_socket(listener: &TcpListener, lab: &Lab) -> Command {
    rustix::io::fcntl_setfd(listener, rustix::io::FdFlags::empty()).unwrap();
    let mut shell = Command::new("bash");
    let fd = listener.as_raw_fd();
    let run = format!("exec 3<&{fd}; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" run -c \"$1\"");
    shell.args(["-c", &run, common::binary()]).arg(lab.ini());
    shell
}

#[test]
fn a_setting_that_the_passed_socket_replaces_is_a_warning_with_the_drop_in() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut lab = Lab::idle(Settings::default());
    lab.start_as(with_socket(&listener, &lab));
    assert_eq!(lab.address, listener.local_addr().unwrap());
    let log = lab.log();
    assert!(log.contains("[callback] listen 127.0.0.1:0 has no effect"), "{log}");
    assert!(log.contains("[Socket], ListenStream= and ListenStream=127.0.0.1:0"), "{log}");
    lab.kill();
    edit(&lab, |ini| ini.replace("listen = 127.0.0.1:0\n", ""));
    lab.start_as(with_socket(&listener, &lab));
    assert!(!lab.log().contains("has no effect"), "{}", lab.log());
}

#[test]
fn clients_of_the_passed_socket_wait_for_the_next_daemon_but_not_for_valid_settings() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut lab = Lab::idle(Settings::default());
    lab.start_as(with_socket(&listener, &lab));
    lab.kill();
    let event = contact_event(CORP, now(), "delete_user", "<UserID>a</UserID>");
    let waiting = Sender::new(&lab.url("/callback"), crypt(), CORP);
    let waiting = std::thread::spawn(move || waiting.send(&event));
    lab.start_as(with_socket(&listener, &lab));
    assert_eq!(waiting.join().unwrap(), Ok((200, "success".to_owned())));
    lab.kill();
    edit(&lab, |ini| ini + "[log]\nlevle = info\n");
    let _client = TcpStream::connect(lab.address).unwrap();
    let output = with_socket(&listener, &lab).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    listener.set_nonblocking(true).unwrap();
    let waits = listener.accept();
    assert!(waits.is_err(), "a client that waits would start the service again and again: {waits:?}");
}

#[test]
fn the_exit_status_tells_whether_a_restart_can_help() {
    let lab = Lab::idle(Settings::default());
    let folder = lab.folder.path();
    let good = std::fs::read_to_string(lab.ini()).unwrap();
    // Root may read everything.
    let is_root = rustix::process::geteuid().is_root();
    let as_nobody = |command: &mut Command| {
        if is_root {
            command.uid(65534).gid(65534);
        }
    };
    let fails = |expected: i32, told: &str, ini: &str| {
        std::fs::write(lab.ini(), ini).unwrap();
        for command in ["run", "check"] {
            let mut command = lab.prepared(&[command]);
            as_nobody(&mut command);
            let output = command.output().unwrap();
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(expected), "{told}: {said}");
            assert!(said.contains(told), "{told}: {said}");
        }
    };
    std::fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    let database = |path: &str| format!("{good}[database]\npath = {path}\n");
    let own = folder.join("own");
    std::fs::create_dir(&own).unwrap();
    std::fs::set_permissions(&own, Permissions::from_mode(0o777)).unwrap();
    let in_own = database("own/directory.db");
    fails(78, "[log] has no key levle", &format!("{good}[log]\nlevle = info\n"));
    fails(78, "cannot be read", &good.replace("\ntoken = ", "\ntoken_file = none #"));
    fails(78, "folder", &database("none/directory.db"));
    let denied = if is_root { "directory.db" } else { "/root/directory.db" };
    fails(77, "the database", &database(denied));
    std::fs::write(own.join("text.db"), "hello").unwrap();
    fails(78, "not a database", &database("own/text.db"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap();
    fails(1, "this port", &in_own.replace("listen = 127.0.0.1:0", &format!("listen = {port}")));
    std::fs::write(lab.ini(), &in_own).unwrap();
    let newer = own.join("newer.db");
    drop(wecom_dirsync::store::open_writer(&newer, 0o666).unwrap());
    Connection::open(&newer).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    if is_root {
        std::os::unix::fs::chown(&newer, Some(65534), Some(65534)).unwrap();
    }
    fails(78, "install the newer version", &database("own/newer.db"));
    // The INI itself, last.
    std::fs::set_permissions(lab.ini(), Permissions::from_mode(0o000)).unwrap();
    let mut command = lab.prepared(&["run"]);
    as_nobody(&mut command);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(77), "{output:?}");
}

#[test]
fn each_cause_of_a_failed_start_is_logged_once_an_hour() {
    let lab = Lab::idle(Settings::default());
    let runtime = lab.folder.path().join("runtime");
    std::fs::create_dir(&runtime).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("listen = {}", taken.local_addr().unwrap());
    edit(&lab, |ini| ini.replacen("listen = 127.0.0.1:0", &port, 1));
    let fail = || {
        let begun = Instant::now();
        let output = failing_run(&lab, |command| {
            command.env("RUNTIME_DIRECTORY", &runtime);
        });
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        (text(&output.stderr).lines().filter(|line| line.contains("cannot listen")).count(), begun.elapsed())
    };
    assert_eq!(fail().0, 1);
    let (lines, took) = fail();
    assert!(lines == 0 && took >= Duration::from_secs(1), "{lines} {took:?}");
    drop(taken);
    let mut command = lab.prepared(&["run"]);
    let mut lab = lab;
    command.env("RUNTIME_DIRECTORY", &runtime);
    lab.start_as(command);
    let left: Vec<_> = std::fs::read_dir(&runtime).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["control.sock"], "a start that succeeds forgets the failures");
}

#[test]
fn commands_that_need_no_secret_work_without_one() {
    let mut lab = Lab::new(Settings::default());
    lab.hire("a");
    lab.terminate();
    edit(&lab, |ini| {
        let lines = ini.lines().map(|line| match line.split_once(" = ") {
            Some((key @ ("app_secret" | "token" | "encoding_aes_key"), _)) => format!("{key}_file = none\n"),
            _ => format!("{line}\n"),
        });
        lines.collect()
    });
    for command in
        [&["status"][..], &["member", "a"], &["changes"], &["export", "--format", "csv"], &["retry", "a"]]
    {
        let output = lab.command(command);
        assert!(output.status.success(), "{command:?}: {output:?}");
    }
    assert!(!text(&lab.command(&["status"]).stdout).contains("app_secret is not set"));
    assert_eq!(lab.command(&["check"]).status.code(), Some(78));
    assert_eq!(lab.command(&["reconcile"]).status.code(), Some(78));
}

#[test]
fn what_its_own_daemon_holds_is_no_error_of_check() {
    let mut lab = Lab::new(Settings { admin: "127.0.0.1:0", ..Settings::default() });
    let (callbacks, admin) = (lab.address, lab.admin.unwrap());
    edit(&lab, |ini| {
        let ini = ini.replacen("listen = 127.0.0.1:0", &format!("listen = {callbacks}"), 1);
        ini.replacen("listen = 127.0.0.1:0", &format!("listen = {admin}"), 1)
    });
    let output = lab.command(&["check"]);
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).contains("the daemon runs, and holds the lock"), "{output:?}");
    lab.terminate();
    let _taken = TcpListener::bind(admin).unwrap();
    let output = lab.command(&["check"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("[admin] listen"), "{output:?}");
}

#[test]
fn a_reload_changes_keys_level_and_limits_without_losing_a_request() {
    let (lab, manager) = supervised(Settings::default());
    assert_eq!(send_with(&lab, "NewToken", NEW_KEY), 403);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (sender, stopped) = (lab.sender(), Arc::clone(&stop));
    let load = std::thread::spawn(move || {
        let mut sent = 0;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            let event = contact_event(CORP, now(), "create_user", &format!("<UserID>r{sent}</UserID>"));
            assert_eq!(sender.send(&event).unwrap().0, 200);
            sent += 1;
        }
        sent
    });
    edit(&lab, |ini| {
        let old =
            format!("token_previous = {}\nencoding_aes_key_previous = {}\n", common::TOKEN, common::KEY);
        let ini = ini.replace(
            &format!("\ntoken = {}", common::TOKEN),
            &format!("\n{old}max_body = 1KiB\ntoken = NewToken"),
        );
        ini.replace(
            &format!("\nencoding_aes_key = {}", common::KEY),
            &format!("\nencoding_aes_key = {NEW_KEY}"),
        ) + "[log]\nlevel = debug\n"
    });
    signal(lab.pid(), "HUP");
    eventually("reloaded", || lab.log().contains("reloaded: changed"));
    assert_eq!(send_with(&lab, "NewToken", NEW_KEY), 200);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let sent: usize = load.join().unwrap();
    lab.wait_for("SELECT count(*) FROM members", &sent.to_string());
    let log = lab.log();
    for name in ["[callback] token,", "[callback] encoding_aes_key,", "[callback] max_body", "[log] level"] {
        assert!(log.contains(name), "{name}: {log}");
    }
    assert!(log.contains("[DEBUG]"), "{log}");
    let long = contact_event(CORP, now(), "delete_user", &format!("<UserID>{}</UserID>", "a".repeat(1024)));
    assert_eq!(lab.sender().send(&long).unwrap().0, 413);
    // The form that Type=notify-reload expects.
    let lines = manager.lines();
    let reloading = lines.iter().position(|line| line == "RELOADING=1").unwrap();
    assert!(lines[reloading + 1].starts_with("MONOTONIC_USEC="), "{lines:?}");
    assert!(lines[reloading..].contains(&"READY=1".to_owned()), "{lines:?}");
    for secret in [NEW_KEY, "NewToken"] {
        assert!(!log.contains(secret) && !lines.iter().any(|line| line.contains(secret)));
    }
}

#[test]
fn an_invalid_ini_keeps_the_settings_and_what_needs_a_restart_is_named() {
    let (lab, manager) = supervised(Settings::default());
    edit(&lab, |ini| ini + "[log]\nlevle = info\n");
    signal(lab.pid(), "HUP");
    manager.status_becomes("RELOAD FAILED, the former settings stay");
    assert!(manager.status().contains("has no key levle"), "{}", manager.status());
    eventually("ready again", || manager.count("READY=1") == 2);
    lab.event(now(), "delete_user", "<UserID>a</UserID>");
    edit(&lab, |ini| ini.replace("levle", "level").replace("[openid]\n", "[openid]\nenabled = no\n"));
    signal(lab.pid(), "HUP");
    manager.status_becomes("STATUS=restart to use [openid] enabled; ");
    assert!(lab.log().contains("reload: restart to use [openid] enabled"), "{}", lab.log());
    edit(&lab, |ini| ini.replace("enabled = no\n", ""));
    signal(lab.pid(), "HUP");
    manager.status_becomes("STATUS=members");
    edit(&lab, |ini| ini.replace(CORP, "wx0000"));
    signal(lab.pid(), "HUP");
    manager.status_becomes("[wecom] corp_id has changed; restart");
    lab.event(now(), "delete_user", "<UserID>a</UserID>");
}

#[test]
fn a_corrected_secret_is_used_at_once() {
    let (lab, manager) = supervised(Settings::default());
    let secret =
        lab.stand_in.company(|company| std::mem::replace(&mut company.app_secret, "Another1".into()));
    lab.stand_in.company(|company| company.hire("a"));
    lab.hire("a");
    manager.status_becomes("paused: all API calls with app_secret (secret");
    lab.stand_in.company(|company| company.sign_in("a", "openid-a"));
    edit(&lab, |ini| ini.replace(&secret, "Another1"));
    signal(lab.pid(), "HUP");
    lab.wait_for("SELECT openid FROM members", "openid-a");
    manager.status_becomes("STATUS=members 1, pending 0");
    assert!(!lab.log().contains("Another1") && !lab.log().contains(&secret), "{}", lab.log());
}

#[test]
fn a_credential_that_changed_on_disk_needs_a_restart() {
    let mut lab = Lab::idle(Settings::default());
    let credentials = lab.folder.path().join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    let source = lab.folder.path().join("token");
    std::fs::write(&source, common::TOKEN).unwrap();
    std::fs::write(credentials.join("token"), common::TOKEN).unwrap();
    edit(&lab, |ini| ini.replace(&format!("\ntoken = {}", common::TOKEN), "\ntoken_file = token"));
    let mut command = lab.prepared(&["run"]);
    command.env("CREDENTIALS_DIRECTORY", &credentials);
    lab.start_as(command);
    signal(lab.pid(), "HUP");
    eventually("reloaded", || lab.log().contains("reloaded: changed nothing"));
    assert!(!lab.log().contains("credentials at the start only"), "{}", lab.log());
    std::fs::write(&source, "NewToken").unwrap();
    signal(lab.pid(), "HUP");
    let told = "systemd passes credentials at the start only; restart to use the new [callback] token_file";
    eventually("it is logged", || lab.log().contains(told));
    assert_eq!(send_with(&lab, common::TOKEN, common::KEY), 200);
}

#[test]
fn lines_have_priorities_only_in_the_journal() {
    let lab = Lab::idle(Settings::default());
    let run = |stream: Option<String>| {
        let path = lab.folder.path().join("stderr");
        let file = File::create(&path).unwrap();
        let found = file.metadata().unwrap();
        let mut command = lab.prepared(&["run"]);
        let stream = stream.unwrap_or_else(|| format!("{}:{}", found.dev(), found.ino()));
        let mut child = command.env("JOURNAL_STREAM", stream).stderr(file).spawn().unwrap();
        let log = || std::fs::read_to_string(&path).unwrap();
        eventually("ready", || log().contains("ready:"));
        signal(child.id(), "TERM");
        assert!(child.wait().unwrap().success());
        log()
    };
    let has_priority =
        |line: &str| ["<3>", "<4>", "<6>", "<7>"].iter().any(|priority| line.starts_with(priority));
    let journal = run(None);
    assert!(journal.lines().all(|line| has_priority(line) && !line.contains("[INFO]")), "{journal}");
    // Inherited by a process whose standard error is something else.
    for stream in ["1:1", "", "x"] {
        let other = run(Some(stream.to_owned()));
        assert!(other.lines().all(|line| line.starts_with("20")), "{other}");
    }
    edit(&lab, |ini| ini + "[log]\nformat = json\n");
    for (stream, prefix) in [(Some(String::new()), ""), (None, "<")] {
        let log = run(stream);
        for line in log.lines() {
            assert!(
                line.starts_with(&format!("{prefix}{}", if prefix.is_empty() { "{" } else { "" })),
                "{line}"
            );
            let json: serde_json::Value = serde_json::from_str(&line[line.find('{').unwrap()..]).unwrap();
            assert!(json["time"].as_str().unwrap().ends_with('Z') && json["level"].is_string(), "{line}");
        }
        assert!(log.contains("\"message\":\"ready: version="), "{log}");
    }
    // Why a start fails is a line of the same form.
    edit(&lab, |ini| ini + "[database]\npath = none/a.db\n");
    let output = failing_run(&lab, |_| {});
    let line = text(&output.stderr);
    let json: serde_json::Value = serde_json::from_str(line.lines().last().unwrap()).unwrap();
    assert_eq!(json["level"], "error", "{line}");
}

#[test]
fn a_reload_opens_the_log_file_again() {
    let lab = Lab::idle(Settings::default());
    let path = lab.folder.path().join("sync.log");
    edit(&lab, |ini| ini + "[log]\nfile = sync.log\n");
    let mut command = lab.prepared(&["run"]);
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let log = || std::fs::read_to_string(&path).unwrap_or_default();
    eventually("ready", || log().contains("ready:"));
    let rotated = path.with_extension("1");
    std::fs::rename(&path, &rotated).unwrap();
    signal(child.id(), "HUP");
    eventually("the new file is written to", || log().contains("reloaded: changed nothing"));
    assert!(!std::fs::read_to_string(&rotated).unwrap().contains("reloaded"));
    signal(child.id(), "TERM");
    assert!(child.wait().unwrap().success());
    assert!(log().contains("stopped"));
}
