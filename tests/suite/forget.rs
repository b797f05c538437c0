//! `forget`: nothing of the person is left in any file, and nothing comes back.

use std::path::Path;

use crate::common::{CORP, Lab, Settings, now, text};
use crate::replica::Replica;
use wecom_dirsync::demo::sender::contact_event;

fn lab() -> Lab {
    Lab::new(Settings { openid: "enabled = no", ..Settings::default() })
}

fn forget(lab: &Lab, userid: &str) -> (Option<i32>, String) {
    let output = lab.command(&["forget", userid]);
    (output.status.code(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
}

/// The names of the database's files that contain the text in any case.
fn files_with(folder: &Path, needle: &str) -> Vec<String> {
    let needle = needle.to_lowercase();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let bytes = if name.starts_with("directory.db") && entry.file_type().unwrap().is_file() {
            std::fs::read(entry.path()).unwrap().to_ascii_lowercase()
        } else {
            continue;
        };
        if memchr::memmem::find(&bytes, needle.as_bytes()).is_some() {
            found.push(name);
        }
    }
    found
}

const PERSON: [&str; 6] =
    ["zhang.wei77", "former.wei77", "张伟七七", "13877777777", "wei77@example.org", "o-wei77"];

/// A member that was renamed, tagged and led others, and has departed; among 200 others. Returns all messages about it.
fn departed(lab: &Lab) -> Vec<String> {
    let at = now() - 1000;
    let mut messages = Vec::new();
    let mut send = |later: i64, change_type: &str, inner: &str| {
        let event = contact_event(CORP, at + later, change_type, inner);
        assert_eq!(lab.sender().send(&event).unwrap(), (200, "success".into()));
        messages.push(event);
    };
    for n in 0..100 {
        send(
            0,
            "create_user",
            &format!("<UserID>other{n}</UserID><Name>n{n}</Name><Department>1</Department>"),
        );
    }
    send(
        1,
        "create_user",
        "<UserID>former.wei77</UserID><Name>张伟七七</Name><Mobile>13877777777</Mobile><Email>wei77@example.org</Email>\
         <Department>1</Department>",
    );
    send(2, "update_user", "<UserID>former.wei77</UserID><NewUserID>Zhang.Wei77</NewUserID>");
    send(3, "update_user", "<UserID>other1</UserID><DirectLeader>other2,zhang.wei77</DirectLeader>");
    send(3, "update_user", "<UserID>other2</UserID><DirectLeader>zhang.wei77</DirectLeader>");
    send(4, "update_tag", "<TagId>7</TagId><AddUserItems>other3,zhang.wei77,other4</AddUserItems>");
    send(5, "update_tag", "<TagId>8</TagId><AddUserItems>zhang.wei77</AddUserItems>");
    for n in 0..40 {
        send(6 + n, "update_user", &format!("<UserID>zhang.wei77</UserID><Position>wei77 p{n}</Position>"));
    }
    let csv = lab.folder.path().join("openids.csv");
    std::fs::write(&csv, "zhang.wei77,o-wei77\n").unwrap();
    assert!(lab.command(&["import-openids", csv.to_str().unwrap()]).status.success());
    send(1100, "delete_user", "<UserID>zhang.wei77</UserID>");
    send(1101, "update_tag", "<TagId>7</TagId><DelUserItems>other4,zhang.wei77</DelUserItems>");
    for n in 0..100 {
        send(60, "update_user", &format!("<UserID>other{n}</UserID><Position>p</Position>"));
    }
    // Repetitions have rows of their own.
    send(1, "create_user", "<UserID>another</UserID>");
    let db = rusqlite::Connection::open(lab.database()).unwrap();
    db.execute_batch(
        "INSERT INTO api_calls (at, api, userid, errmsg, millis) VALUES (1, 'user/get', 'Zhang.Wei77', 'zhang.wei77', 1);
         INSERT INTO reconciles (started_at, reason, outcome, note) VALUES (1, 'test', 'ok', 'kept (other1, zhang.wei77).');
         INSERT INTO refusals VALUES ('not_found', '/zhang.wei77', 1, 1, 1, '192.0.2.1');",
    )
    .unwrap();
    messages
}

#[test]
fn nothing_of_a_forgotten_person_is_left_and_the_others_keep_everything() {
    let lab = lab();
    departed(&lab);
    let summary = "SELECT count(*) || ' ' || max(seq) || ' ' || (SELECT count(*) || ' ' || max(seq) FROM changes) FROM events";
    let numbers = lab.value(summary);
    assert!(PERSON.iter().all(|trace| !files_with(lab.folder.path(), trace).is_empty()));
    let (code, said) = forget(&lab, "zhang.wei77");
    assert_eq!(code, Some(0), "{said}");
    for trace in PERSON {
        assert_eq!(files_with(lab.folder.path(), trace), Vec::<String>::new(), "{trace}");
    }
    assert!(said.contains("forgotten: former.wei77, zhang.wei77"), "{said}");
    assert!(said.contains("not erased: backups"), "{said}");
    assert_eq!(lab.value(summary), numbers, "rows keep their numbers");
    assert_eq!(lab.value("SELECT group_concat(userid) FROM tag_members"), "other3");
    assert_eq!(lab.value("SELECT direct_leader FROM members WHERE userid = 'other1'"), "other2");
    assert_eq!(lab.value("SELECT direct_leader FROM members WHERE userid = 'other2'"), "");
    assert_eq!(lab.value("SELECT note FROM reconciles WHERE reason = 'test'"), "kept (other1, (forgotten)).");
    let payload = "SELECT payload LIKE '%other3,other4%' FROM events WHERE change_type = 'update_tag' ORDER BY seq LIMIT 1";
    assert_eq!(lab.value(payload), "1");
    let check = lab.command(&["check", "--database"]);
    assert!(check.status.success(), "{}", text(&check.stdout));
    Replica::assert_feed_equals_tables(&lab.db().into());

    // A consumer between the erased changes gets exit code 3, one after them does not, and one from the beginning misses nothing.
    let since = |seq: &str| lab.command(&["changes", "--since", seq]).status.code();
    let erased = said.split("change #").nth(1).unwrap().split(' ').next().unwrap();
    assert_eq!([since("0"), since("105"), since(erased)], [Some(0), Some(3), Some(0)]);
    let (code, said) = forget(&lab, "zhang.wei77");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("was forgotten before"), "{said}");
}

#[test]
fn a_replay_neither_revives_the_person_nor_stores_it_and_a_later_creation_does() {
    let mut lab = lab();
    let messages = departed(&lab);
    assert_eq!(forget(&lab, "zhang.wei77").0, Some(0));
    let members = "SELECT group_concat(userid || coalesce(direct_leader, '-')) FROM (SELECT * FROM members ORDER BY userid)";
    let (before, tags) =
        (lab.value(members), lab.value("SELECT group_concat(tag_id || userid) FROM tag_members"));
    let changes = lab.value("SELECT count(*) FROM changes");
    for restart in [false, true] {
        if restart {
            // The rows that recognise repetitions are gone, as after [retention] events.
            lab.terminate();
            rusqlite::Connection::open(lab.database()).unwrap().execute_batch("DELETE FROM events").unwrap();
            lab.start();
        }
        for message in messages.iter().chain(messages.iter().rev()) {
            assert_eq!(lab.sender().send(message).unwrap(), (200, "success".into()));
        }
        assert_eq!(lab.value(members), before);
        assert_eq!(lab.value("SELECT group_concat(tag_id || userid) FROM tag_members"), tags);
        assert_eq!(lab.value("SELECT count(*) FROM changes"), changes);
        for trace in PERSON {
            assert_eq!(files_with(lab.folder.path(), trace), Vec::<String>::new(), "{trace}");
        }
    }
    lab.event(now() + 250, "create_user", "<UserID>zhang.wei77</UserID><Name>returned</Name>");
    let returned = "SELECT name || coalesce(mobile, '-') || coalesce(openid, '-') FROM members
                    WHERE userid = 'zhang.wei77' AND deleted_at IS NULL";
    assert_eq!(lab.value(returned), "returned--");
    assert_eq!(lab.value("SELECT subject FROM events ORDER BY seq DESC LIMIT 1"), "zhang.wei77");
    assert!(lab.command(&["check", "--database"]).status.success());
}

#[test]
fn only_departed_people_are_forgotten() {
    let lab = lab();
    let at = now() - 100;
    lab.event(at, "create_user", "<UserID>here</UserID>");
    lab.event(at, "create_user", "<UserID>old</UserID>");
    lab.event(at + 1, "update_user", "<UserID>old</UserID><NewUserID>new</NewUserID>");
    for (userid, expected) in [
        ("here", "is present; only a departed member can be forgotten"),
        ("old", "is a former userid of new"),
        ("nobody", "no table names userid=nobody"),
        ("_x", "is not a userid"),
    ] {
        let (code, said) = forget(&lab, userid);
        assert_eq!(code, Some(1), "{userid}");
        assert!(said.contains(expected), "{said}");
    }
    assert_eq!(lab.value("SELECT count(*) FROM members WHERE deleted_at IS NULL"), "2");
}

#[test]
fn a_userid_that_another_person_has_now_keeps_what_is_that_persons() {
    let lab = lab();
    let at = now() - 100;
    lab.event(at, "create_user", "<UserID>desk</UserID><Name>FirstPerson</Name>");
    lab.event(at + 1, "update_user", "<UserID>desk</UserID><NewUserID>first.person</NewUserID>");
    lab.event(at + 2, "create_user", "<UserID>desk</UserID><Name>SecondPerson</Name>");
    lab.event(at + 3, "update_user", "<UserID>desk</UserID><Position>chief</Position>");
    lab.event(at + 4, "delete_user", "<UserID>first.person</UserID>");
    let (code, said) = forget(&lab, "first.person");
    assert_eq!(code, Some(0), "{said}");
    for trace in ["FirstPerson", "first.person"] {
        assert_eq!(files_with(lab.folder.path(), trace), Vec::<String>::new(), "{trace}");
    }
    assert_eq!(lab.value("SELECT userid || name || position FROM members"), "deskSecondPersonchief");
    assert_eq!(lab.value("SELECT group_concat(subject) FROM events WHERE subject <> ''"), "desk,desk");
    assert!(lab.command(&["check", "--database"]).status.success());
    Replica::assert_feed_equals_tables(&lab.db().into());
    lab.event(at, "create_user", "<UserID>desk</UserID><Name>FirstPerson</Name>");
    assert_eq!(lab.value("SELECT userid || name || position FROM members"), "deskSecondPersonchief");
    assert_eq!(files_with(lab.folder.path(), "FirstPerson"), Vec::<String>::new());
}
