//! Files, secrets and terminals: what the daemon accepts as its own, and what it prints of foreign text.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

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

#[allow(dead_code)]
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
