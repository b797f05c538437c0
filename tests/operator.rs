//! What an operator meets: secrets that cannot be right, and names that would command the terminal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use common::{Lab, Settings, text};
use rusqlite::Connection;
use wecom_dirsync::store::open::open_writer;

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
