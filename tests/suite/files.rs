//! The database as a file that others can reach: foreign files, second daemons, modes, readers that hold locks, older
//! copies.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::{CORP, Lab, Settings, binary, eventually, now, text};
use wecom_dirsync::demo::sender::contact_event;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn beside(lab: &Lab, suffix: &str) -> PathBuf {
    lab.folder.path().join(format!("directory.db{suffix}"))
}

/// A second daemon on this database path: what it says, unless it runs on.
fn second_daemon(lab: &Lab, database: &Path) -> Output {
    let ini = std::fs::read_to_string(lab.ini()).unwrap();
    let ini = format!("{ini}\n[database]\npath = {}\n", database.display());
    let file = lab.folder.path().join("second.ini");
    std::fs::write(&file, ini).unwrap();
    let mut child = Command::new(binary())
        .arg("run")
        .arg("-c")
        .arg(&file)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(12) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    child.wait_with_output().unwrap()
}

#[test]
fn a_path_to_anything_but_our_own_database_is_refused_and_leaves_no_trace() {
    let lab = Lab::idle(Settings::default());
    let at = |name: &str| lab.folder.path().join(name);
    std::fs::create_dir(at("things")).unwrap();
    let things = |name: &str| at("things").join(name);
    std::fs::write(things("text"), "hello").unwrap();
    let other = rusqlite::Connection::open(things("other.db")).unwrap();
    other.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    std::fs::create_dir(things("folder")).unwrap();
    assert!(Command::new("mkfifo").arg(things("pipe")).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(things("socket")).unwrap();
    let listed = || {
        let entries = std::fs::read_dir(at("things")).unwrap();
        let mut all: Vec<_> =
            entries.map(|e| (e.as_ref().unwrap().path(), mode(&e.unwrap().path()))).collect();
        all.sort();
        all
    };
    let before = listed();
    for name in ["text", "other.db", "folder", "pipe", "socket"] {
        let output = second_daemon(&lab, &things(name));
        assert_eq!(output.status.code(), Some(78), "{name}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(name), "{}", text(&output.stderr));
        assert_eq!(listed(), before, "{name}");
    }
    let device = (mode(Path::new("/dev/null")), Path::new("/dev/null.lock").exists());
    let output = second_daemon(&lab, Path::new("/dev/null"));
    assert!(text(&output.stderr).contains("a device"), "{}", text(&output.stderr));
    assert_eq!((mode(Path::new("/dev/null")), Path::new("/dev/null.lock").exists()), device);
}

#[test]
fn a_second_daemon_is_refused_under_whatever_name() {
    let lab = Lab::plain();
    let folder = lab.folder.path().join("elsewhere");
    std::fs::create_dir(&folder).unwrap();
    let link = folder.join("link.db");
    std::os::unix::fs::symlink(lab.database(), &link).unwrap();
    let refused = |path: &Path| {
        let output = second_daemon(&lab, path);
        // A restart helps when the other daemon ends, and not while the file has two names.
        let expected = if path.ends_with("hard.db") { 78 } else { 1 };
        assert_eq!(output.status.code(), Some(expected), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    assert!(refused(&lab.database()).contains("another wecom-dirsync"));
    assert!(refused(&link).contains("another wecom-dirsync"));
    // The lock file is gone: the database itself is locked, too.
    std::fs::remove_file(beside(&lab, ".lock")).unwrap();
    assert!(refused(&lab.database()).contains(&format!("process {}", lab.pid())));
    let hard = folder.join("hard.db");
    std::fs::hard_link(lab.database(), &hard).unwrap();
    assert!(refused(&hard).contains("hard links"));
    std::fs::remove_file(&hard).unwrap();
    // The first one goes on.
    lab.event(now(), "create_user", "<UserID>a</UserID><Name>a</Name>");
}

#[test]
fn the_mode_is_set_at_every_start_and_the_lock_file_is_its_owners() {
    let mut lab = Lab::idle(Settings { more: "[database]\nmode = 0640\n", ..Settings::default() });
    lab.start();
    let modes = |lab: &Lab| ["", "-wal", "-shm", ".lock"].map(|suffix| mode(&beside(lab, suffix)));
    lab.event(now(), "create_user", "<UserID>a</UserID><Name>a</Name>");
    assert_eq!(modes(&lab), [0o640, 0o640, 0o640, 0o600]);
    lab.kill();
    for suffix in ["", "-wal", "-shm", ".lock"] {
        std::fs::set_permissions(beside(&lab, suffix), Permissions::from_mode(0o644)).unwrap();
    }
    let ini = std::fs::read_to_string(lab.ini()).unwrap();
    std::fs::write(lab.ini(), ini.replace("mode = 0640", "mode = 0600")).unwrap();
    lab.start();
    assert_eq!(modes(&lab), [0o600; 4]);
}

/// A Python process that holds a lock on a byte of a file, until it is killed.
struct Reader(std::process::Child);

impl Reader {
    fn lock(file: &Path, byte: u64, as_user: Option<u32>) -> Self {
        let code = format!(
            "import fcntl, os, sys, time\n\
             fd = os.open(sys.argv[1], os.O_RDONLY)\n\
             if {as_user} >= 0: os.setgroups([]); os.setgid(65534); os.setuid({as_user})\n\
             if {byte} < 1000: fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, {byte})\n\
             else: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n\
             print('held', flush=True)\n\
             time.sleep(600)\n",
            as_user = as_user.map_or(-1, i64::from),
        );
        let mut child =
            Command::new("python3").args(["-c", &code]).arg(file).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
        assert_eq!(line.trim(), "held");
        Self(child)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const WHOLE: u64 = 5000;

fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok();
    if !found {
        println!("skipped: there is no python3");
    }
    found
}

#[test]
fn a_reader_that_holds_sqlites_lock_is_named() {
    if !has_python() {
        return;
    }
    let lab = Lab::plain();
    lab.event(now(), "create_user", "<UserID>a</UserID><Name>a</Name>");
    let reader = Reader::lock(&beside(&lab, "-shm"), 120, None);
    let begun = Instant::now();
    let event = contact_event(CORP, now(), "create_user", "<UserID>b</UserID>");
    assert_eq!(lab.sender().send(&event).unwrap().0, 503);
    assert!((3..6).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    eventually("the process is named", || {
        lab.log().contains(&format!("process {} (python3)", reader.0.id()))
    });
    drop(reader);
    assert_eq!(lab.sender().send(&event).unwrap(), (200, "success".into()));
}

#[test]
fn a_lock_of_another_user_does_not_keep_the_daemon_from_starting() {
    let is_root = text(&Command::new("id").arg("-u").output().unwrap().stdout).trim() == "0";
    if !has_python() || !is_root {
        println!("skipped: it takes root");
        return;
    }
    let mut lab = Lab::plain();
    lab.kill();
    // Left over from a version that made it readable.
    std::fs::set_permissions(beside(&lab, ".lock"), Permissions::from_mode(0o644)).unwrap();
    let on_lock_file = Reader::lock(&beside(&lab, ".lock"), WHOLE, Some(65534));
    let on_database = Reader::lock(&lab.database(), WHOLE, Some(65534));
    lab.start();
    lab.event(now(), "create_user", "<UserID>a</UserID><Name>a</Name>");
    assert!(lab.log().contains("of another user has locked this file"), "{}", lab.log());
    drop((on_lock_file, on_database));
    // A second daemon is refused all the same.
    assert_eq!(second_daemon(&lab, &lab.database()).status.code(), Some(1));
}

#[test]
fn a_reader_sees_that_the_daemon_runs() {
    let lab = Lab::idle(Settings { more: "[database]\nmode = 0644\n", ..Settings::default() });
    let mut lab = lab;
    lab.start();
    // As for somebody who may not open the lock file.
    let file = File::open(lab.database()).unwrap();
    assert!(file.try_lock_shared().is_err());
    let status = text(&lab.command(&["status"]).stdout);
    assert!(status.contains("running since") && !status.contains("not running"), "{status}");
}

fn changes(lab: &Lab, since: &str) -> (Option<i32>, String, String) {
    let output = lab.command(&["changes", "--since", since]);
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn epoch(lab: &Lab) -> String {
    let status = lab.status();
    status["epoch"].as_str().unwrap().to_owned()
}

#[test]
fn after_an_older_copy_is_put_back_the_change_feed_begins_a_new_epoch() {
    let mut lab = Lab::plain();
    for n in 0..5 {
        lab.event(now(), "create_user", &format!("<UserID>a{n}</UserID><Name>a</Name>"));
    }
    let first = epoch(&lab);
    let (code, lines, _) = changes(&lab, "0");
    assert_eq!(code, Some(0));
    for line in lines.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["epoch"], *first, "{line}");
    }
    lab.terminate();
    let copy = std::fs::read(lab.database()).unwrap();

    lab.start();
    assert_eq!(epoch(&lab), first, "a restart is none");
    for n in 0..5 {
        lab.event(now(), "create_user", &format!("<UserID>b{n}</UserID><Name>b</Name>"));
    }
    let last: i64 = lab.value("SELECT max(seq) FROM changes").parse().unwrap();
    eventually("the number is noted", || {
        std::fs::read_to_string(beside(&lab, ".lock")).unwrap().contains(&format!("{first} {last}"))
    });
    let mut follower = Command::new(binary())
        .args(["changes", "--follow", "--since", &(last - 1).to_string(), "-c"])
        .arg(lab.ini())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let out = follower.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
    assert!(line.contains(&format!("\"seq\":{last},")), "it follows: {line}");
    lab.kill();
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(beside(&lab, suffix));
    }
    // As cp does it: into the same file.
    std::fs::write(lab.database(), &copy).unwrap();
    lab.start();
    let second = epoch(&lab);
    assert_ne!(first, second);
    assert!(lab.log().contains("older copy"), "{}", lab.log());

    let (code, out, err) = changes(&lab, &format!("{first}:{last}"));
    assert_eq!((code, out.as_str()), (Some(3), ""), "{err}");
    assert!(err.contains("older copy") && err.contains(&second), "{err}");
    assert_eq!(changes(&lab, &format!("{second}:3")).0, Some(0));
    assert_eq!(changes(&lab, &format!("{second}:999999")).0, Some(3));
    assert_eq!(changes(&lab, "3").0, Some(0));
    assert_eq!(changes(&lab, "999999").0, Some(3));
    assert_eq!(changes(&lab, ":3").0, Some(2), "usage");
    eventually("the follower ends", || follower.try_wait().unwrap().is_some());
    assert_eq!(follower.wait().unwrap().code(), Some(3));
    lab.terminate();
    lab.start();
    assert_eq!(epoch(&lab), second);
}
