//! Files, secrets and terminals: what the daemon accepts as its own, and what it prints of foreign text.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{Lab, Settings, text};
use rusqlite::Connection;
use wecom_dirsync::store::open::{open_in_memory, open_writer};
use wecom_dirsync::store::queries::table;

/// Writes a row without the daemon: the directory accepts such names from every source.
fn insert_member(db: &Connection, userid: &str, name: &str) {
    db.execute(
        "INSERT INTO members (userid, name, openid_state, openid_next_attempt_at, openid_revision, details_state,
             created_at, updated_at, event_time) VALUES (?1, ?2, 'pending', 7, 1, 'known', 0, 0, 0)",
        [userid, name],
    )
    .unwrap();
}

#[test]
fn no_command_sends_a_name_raw_to_the_terminal() {
    let lab = Lab::idle(Settings::default());
    let db = open_writer(&lab.database(), 0o600).unwrap();
    let name = "张\u{1b}[31m三\u{9b}2J\u{202e}x\u{2028}\r\ny";
    insert_member(&db, "a", name);
    let fields = serde_json::json!({"name": [null, name]}).to_string();
    db.execute(
        "INSERT INTO changes (at, entity, key, action, fields) VALUES (1, 'member', 'a', 'created', ?1)",
        [&fields],
    )
    .unwrap();
    drop(db);
    for command in [
        &["member", "a"][..],
        &["changes"],
        &["export", "--format", "ndjson"],
        &["export", "--format", "csv"],
        &["status"],
        &["status", "--json"],
    ] {
        let output = lab.command(command);
        assert!(output.status.success(), "{output:?}");
        let shown = text(&output.stdout);
        let raw = |c: char| (c.is_control() && c != '\n' && c != '\r') || "\u{202e}\u{2028}".contains(c);
        assert!(!shown.contains(raw), "{command:?}: {shown:?}");
    }
    let member = text(&lab.command(&["member", "a"]).stdout);
    assert!(member.contains("张\\u{1b}[31m三\\u{9b}2J\\u{202e}x\\u{2028}\\r\\ny"), "{member}");
    let line = text(&lab.command(&["export", "--format", "ndjson"]).stdout);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&line).unwrap()["name"],
        name,
        "the same JSON value"
    );
    let csv = text(&lab.command(&["export", "--format", "csv"]).stdout);
    assert!(csv.contains("\r\ny\""), "line ends stay in a cell: {csv:?}");
}

fn departments(db: &Connection, rows: &[(i64, i64)]) {
    for (id, parent) in rows {
        db.execute(
            "INSERT INTO departments (id, name, parent_id, created_at, updated_at, event_time) VALUES (?1, 'd' || ?1, ?2, 0, 0, 0)",
            [id, parent],
        )
        .unwrap();
    }
}

#[test]
fn department_tree_shows_every_department_once() {
    let db = open_in_memory().unwrap();
    departments(&db, &[(1, 0), (2, 1), (3, 3), (4, 5), (5, 4), (6, 5), (7, 6), (8, 99), (9, 10), (10, 1)]);
    db.execute("UPDATE departments SET deleted_at = 5 WHERE id = 10", []).unwrap();
    // A chain of 1,000 below department 1.
    let chain: Vec<_> = (1000..2000).map(|id| (id, if id == 1000 { 1 } else { id - 1 })).collect();
    departments(&db, &chain);
    let rows = table(&db, "SELECT id, path, depth FROM department_tree ORDER BY id").unwrap();
    assert_eq!(rows.len() - 1, 9 + 1000);
    let path = |id: &str| rows.iter().find(|row| row[0] == id).unwrap()[1].clone();
    for (id, expected) in [
        ("1", "d1"),
        ("2", "d1/d2"),
        ("3", "(cycle)/../d3"),
        ("4", "(cycle)/../d4"),
        ("5", "(cycle)/../d5"),
        ("7", "(cycle)/../d7"),
        ("8", "d8"),
        ("9", "d9"),
        ("1999", "(too deep)/../d1999"),
    ] {
        assert_eq!(path(id), expected);
    }
    assert!(path("1063").starts_with("d1/d1000/") && path("1064").starts_with("(too deep)/.."));
    assert_eq!(rows.iter().find(|row| row[0] == "1999").unwrap()[2], "1000");
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// What `run` says of a database that it must refuse, without a trace.
fn refused(lab: &Lab, expected: &str) {
    let (before, mode_before) = (names(lab.folder.path()), mode(&lab.database()));
    for command in ["run", "status"] {
        let output = lab.command(&[command]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stderr).contains(expected), "{expected}: {output:?}");
    }
    assert_eq!((names(lab.folder.path()), mode(&lab.database())), (before, mode_before));
}

#[test]
fn what_is_not_a_file_of_ours_is_refused_without_a_trace() {
    let lab = Lab::idle(Settings::default());
    let path = lab.database();
    let command = |program: &str, arguments: &[&str]| {
        std::process::Command::new(program).args(arguments).arg(&path).status().unwrap()
    };
    std::fs::create_dir(&path).unwrap();
    refused(&lab, "a directory");
    std::fs::remove_dir(&path).unwrap();
    assert!(command("mkfifo", &["-m", "0644"]).success());
    refused(&lab, "a FIFO");
    std::fs::remove_file(&path).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    refused(&lab, "a socket");
    drop(socket);
    std::fs::remove_file(&path).unwrap();
    // Another program's database, which would be given a WAL.
    let foreign = Connection::open(&path).unwrap();
    foreign.execute_batch("CREATE TABLE t (a)").unwrap();
    foreign.pragma_update(None, "journal_mode", "WAL").unwrap();
    drop(foreign);
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    refused(&lab, "not a database of wecom-dirsync");
    std::fs::write(&path, "a text").unwrap();
    refused(&lab, "not a database of wecom-dirsync");
    std::fs::remove_file(&path).unwrap();
    drop(open_writer(&path, 0o644).unwrap());
    std::fs::hard_link(&path, lab.folder.path().join("other.db")).unwrap();
    refused(&lab, "2 names");
}

#[test]
fn a_device_keeps_its_mode() {
    let lab = Lab::idle(Settings::default());
    let mut command = std::process::Command::new("mknod");
    command.args(["-m", "0666"]).arg(lab.database()).args(["c", "1", "3"]);
    if !command.output().is_ok_and(|output| output.status.success()) {
        return; // Only root makes devices.
    }
    refused(&lab, "a device");
}

#[test]
fn two_paths_of_one_database_do_not_give_two_daemons() {
    let lab = Lab::plain();
    let link = lab.folder.path().join("link.db");
    std::os::unix::fs::symlink(lab.database(), &link).unwrap();
    let ini = std::fs::read_to_string(lab.ini()).unwrap() + "[database]\npath = link.db\n";
    std::fs::write(lab.ini(), ini).unwrap();
    let output = lab.command(&["run"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("another wecom-dirsync works with this database"), "{output:?}");
}

#[test]
fn the_mode_applies_to_all_files_at_every_start() {
    let mut lab = Lab::new(Settings { more: "[database]\nmode = 0644", ..Settings::default() });
    lab.event(common::now(), "create_user", "<UserID>a</UserID>");
    let all = ["directory.db", "directory.db-wal", "directory.db-shm", "directory.db.lock"];
    let modes = |lab: &Lab| all.map(|name| mode(&lab.folder.path().join(name)));
    assert_eq!(modes(&lab), [0o644, 0o644, 0o644, 0o600]);
    lab.kill();
    std::fs::set_permissions(lab.folder.path().join("directory.db.lock"), Permissions::from_mode(0o644))
        .unwrap();
    let ini = std::fs::read_to_string(lab.ini()).unwrap().replace("mode = 0644", "mode = 0600");
    std::fs::write(lab.ini(), ini).unwrap();
    lab.start();
    assert_eq!(modes(&lab), [0o600; 4]);
}

#[test]
fn the_log_names_the_process_that_locks_the_database() {
    let mut lab = Lab::plain();
    let other = Connection::open(lab.database()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let event =
        wecom_dirsync::demo::sender::contact_event(common::CORP, 5, "create_user", "<UserID>a</UserID>");
    assert_eq!(lab.sender().send(&event).unwrap().0, 503);
    let holder = format!("locked by another program: process {}", std::process::id());
    common::eventually("the log names the process", || lab.log().contains(&holder));
    assert_eq!(lab.log().matches(&holder).count(), 1, "{}", lab.log());
    lab.kill();
    // Nor does a start hang or end without a word.
    let output = lab.command(&["run"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&holder), "{output:?}");
}

#[test]
fn secrets_that_wecom_never_issues_are_refused_without_showing_them() {
    let folder = tempfile::tempdir().unwrap();
    let (ini, file) = (folder.path().join("sync.ini"), folder.path().join("app"));
    let check = |wecom: &str, content: &[u8]| {
        let keys = format!("[callback]\ntoken = {}\nencoding_aes_key = {}\n", common::TOKEN, common::KEY);
        std::fs::write(&ini, format!("[wecom]\ncorp_id = ww1\n{wecom}\n{keys}")).unwrap();
        std::fs::write(&file, content).unwrap();
        let output =
            std::process::Command::new(common::binary()).arg("check").arg("-c").arg(&ini).output().unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let by_file = "app_secret_file = app";
    for good in ["\u{feff}Hq2Wd8Pz\r\n", "  Hq2Wd8Pz\u{3000}\n\n"] {
        assert_eq!(check(by_file, good.as_bytes()).0, Some(0), "{good:?}");
    }
    for bad in ["", "\n", "'Hq2Wd8Pz'", "“Hq2Wd8Pz”", "Hq2\u{200b}Wd8Pz", "YOUR_SECRET", "Hq2Wd8Pz#钥"] {
        let (code, said) = check(by_file, bad.as_bytes());
        assert_eq!(code, Some(78), "{bad:?}: {said}");
        assert!(said.contains("sync.ini:3: [wecom] app_secret"), "{said}");
        assert!(!said.contains("Hq2"), "{said}");
    }
    let (code, said) = check(by_file, b"\xff\xfeH\0q\0");
    assert!(code == Some(78) && said.contains("UTF-16"), "{said}");
    let (code, said) = check(by_file, &[b'a'; 100_000]);
    assert!(code == Some(78) && said.contains("larger than"), "{said}");
    let (code, said) = check("app_secret_file = .", b"");
    assert!(code == Some(78) && said.contains("a directory"), "{said}");
    let (code, said) = check("app_secret = Hq2Wd8Pz\ncontacts_secret = Hq2Wd8Pz", b"");
    assert!(code == Some(78) && said.contains("app_secret and contacts_secret are the same"), "{said}");
    assert!(!said.contains("Hq2"), "{said}");
    std::fs::set_permissions(&ini, Permissions::from_mode(0o644)).unwrap();
    let (code, said) = check("api_base = http://wecom.example\napp_secret = Hq2Wd8Pz", b"");
    assert!(code == Some(0) && said.contains("every user") && said.contains("unencrypted"), "{said}");
}

#[test]
fn an_older_copy_put_back_begins_another_epoch_and_consumers_are_told() {
    let mut lab = Lab::new(Settings { openid: "enabled = no", ..Settings::default() });
    let epoch = |lab: &Lab| -> String {
        let status: serde_json::Value =
            serde_json::from_slice(&lab.command(&["status", "--json"]).stdout).unwrap();
        status["epoch"].as_str().unwrap().to_owned()
    };
    lab.event(common::now(), "create_user", "<UserID>a</UserID>");
    let first = epoch(&lab);
    let copy = lab.folder.path().join("copy.db");
    lab.db().execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    lab.event(common::now(), "create_user", "<UserID>b</UserID>");
    lab.terminate();
    lab.start();
    assert_eq!(epoch(&lab), first, "a restart changes nothing");
    lab.event(common::now(), "create_user", "<UserID>c</UserID>");
    let line = text(&lab.command(&["changes", "--since", &format!("{first}:2")]).stdout);
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((line["seq"].as_i64(), line["epoch"].as_str()), (Some(3), Some(first.as_str())));
    let gone = |lab: &Lab, since: &str, expected: &str| {
        let output = lab.command(&["changes", "--since", since]);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 0), "{output:?}");
        assert!(text(&output.stderr).contains(expected), "{output:?}");
    };
    gone(&lab, "99", "an older copy");
    let mut follower = std::process::Command::new(common::binary());
    let follower = follower.args(["changes", "--follow", "--since", "3", "-c"]).arg(lab.ini());
    let mut follower = follower.stdout(std::process::Stdio::null()).spawn().unwrap();
    lab.kill();
    for name in ["directory.db-wal", "directory.db-shm"] {
        std::fs::remove_file(lab.folder.path().join(name)).unwrap();
    }
    std::fs::rename(&copy, lab.database()).unwrap();
    lab.start();
    assert!(lab.log().contains("an older copy of the database was put back"), "{}", lab.log());
    assert_ne!(epoch(&lab), first);
    gone(&lab, &format!("{first}:1"), "not ");
    assert_eq!(
        lab.command(&["changes", "--since", "1"]).status.code(),
        Some(0),
        "a number alone still works"
    );
    assert_eq!(lab.command(&["changes", "--since", "x:y"]).status.code(), Some(2));
    let mut code = None;
    common::eventually("the follower ends", || {
        code = follower.try_wait().unwrap();
        code.is_some()
    });
    assert_eq!(code.unwrap().code(), Some(3));
    let second = epoch(&lab);
    lab.kill();
    lab.start();
    assert_eq!(epoch(&lab), second, "once for each copy");
}

#[test]
fn one_openid_of_two_members_is_told_once_and_asked_again_once() {
    let lab = Lab::plain();
    for userid in ["a", "b"] {
        lab.stand_in.company(|company| {
            company.hire(userid);
            company.sign_in(userid, "o-same");
        });
        lab.event(common::now(), "create_user", &format!("<UserID>{userid}</UserID>"));
    }
    lab.wait_for("SELECT userids FROM openid_clashes", "a, b");
    lab.wait_for("SELECT count(*) FROM api_calls WHERE api LIKE '%convert_to_openid'", "4");
    lab.wait_for("SELECT count(*) FROM openid_rechecks", "0");
    lab.event(common::now(), "create_user", "<UserID>c</UserID>");
    assert_eq!(lab.log().matches("belongs to several members: userids=a,b").count(), 1, "{}", lab.log());
    let status = lab.command(&["status", "--json"]).stdout;
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(status["openid_clashes"][0]["userids"], serde_json::json!(["a", "b"]));
    assert!(text(&lab.command(&["status"]).stdout).contains("OPENID CLASH   a, b"));
    assert!(text(&lab.command(&["member", "b"]).stdout).contains("openid_clash             a, b"));
    lab.event(common::now() + 1, "delete_user", "<UserID>b</UserID>");
    lab.wait_for("SELECT count(*) FROM clashing_openids", "0");
}
