//! One openid on several members, and the view of departments that hides none.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::common::{Lab, Settings, eventually, now, text};

const CONVERT: &str = "user/convert_to_openid";

fn clashes(lab: &Lab) -> serde_json::Value {
    let status = lab.status();
    status["openid_clashes"].clone()
}

#[test]
fn a_clash_is_logged_once_shown_and_asked_about_again_once() {
    let lab = Lab::plain();
    for userid in ["first", "second", "other"] {
        lab.stand_in.company(|company| {
            company.hire(userid);
            company.sign_in(userid, if userid == "other" { "o-2" } else { "o-1" });
        });
        lab.event(now(), "create_user", &format!("<UserID>{userid}</UserID><Department>1</Department>"));
    }
    lab.wait_for("SELECT count(*) FROM members WHERE openid_state = 'converted'", "3");
    eventually("both are asked again", || {
        lab.asked(CONVERT, "first") == 2 && lab.asked(CONVERT, "second") == 2
    });
    lab.wait_for("SELECT count(*) FROM members WHERE openid_next_attempt_at IS NOT NULL", "0");
    assert_eq!(lab.asked(CONVERT, "other"), 1);
    assert_eq!(lab.log().matches("openid clash: userids=first,second").count(), 1, "{}", lab.log());
    assert_eq!(clashes(&lab), serde_json::json!([{"openid": "o-1", "userids": ["first", "second"]}]));
    let status = text(&lab.command(&["status"]).stdout);
    assert!(status.contains("OPENID CLASH   first and second have the same openid o-1"), "{status}");
    let member = text(&lab.command(&["member", "second"]).stdout);
    assert!(member.contains("first and second have this openid"), "{member}");
    assert_eq!(lab.value("SELECT group_concat(userid) FROM openid_clashes"), "first,second");

    // Resolved by a deletion, and again by the next holder of the userid.
    lab.event(now() + 1, "delete_user", "<UserID>second</UserID>");
    eventually("it is resolved", || clashes(&lab) == serde_json::json!([]));
    assert_eq!(lab.value("SELECT count(*) FROM openid_clashes"), "0");
    lab.event(now() + 2, "create_user", "<UserID>second</UserID><Department>1</Department>");
    eventually("it recurs", || clashes(&lab) != serde_json::json!([]));
    assert_eq!(lab.log().matches("openid clash: userids=first,second").count(), 2, "{}", lab.log());
    // WeCom tells another openid when it is asked again: that resolves it, too.
    lab.stand_in.company(|company| company.sign_in("second", "o-3"));
    lab.event(now() + 3, "delete_user", "<UserID>second</UserID>");
    lab.event(now() + 4, "create_user", "<UserID>second</UserID><Department>1</Department>");
    lab.wait_for("SELECT openid FROM members WHERE userid = 'second'", "o-3");
    assert_eq!(clashes(&lab), serde_json::json!([]));
}

#[test]
fn many_members_with_one_openid_cost_a_bounded_number_of_calls_and_little_log() {
    const MEMBERS: usize = 150;
    let lab = Lab::new(Settings { openid: "max_concurrent_calls = 1", ..Settings::default() });
    for number in 0..MEMBERS {
        let userid = format!("m{number:03}");
        lab.stand_in.company(|company| {
            company.hire(&userid);
            company.sign_in(&userid, "o-same");
        });
        lab.event(now(), "create_user", &format!("<UserID>{userid}</UserID><Department>1</Department>"));
        lab.wait_for(&format!("SELECT openid FROM members WHERE userid = '{userid}'"), "o-same");
    }
    eventually("nobody is due", || {
        lab.value("SELECT count(*) FROM members WHERE openid_next_attempt_at IS NOT NULL") == "0"
    });
    let calls: usize = (0..MEMBERS).map(|number| lab.asked(CONVERT, &format!("m{number:03}"))).sum();
    let log = lab.log();
    let bytes: usize = log.lines().filter(|line| line.contains("openid clash")).map(str::len).sum();
    assert!(calls <= 2 * MEMBERS, "{calls} calls");
    assert!(bytes <= 400 * MEMBERS, "{bytes} bytes of log");
}

#[test]
fn a_clash_whose_members_give_no_openid_any_more_is_not_asked_about_for_ever() {
    let lab = Lab::new(Settings { openid: "retry_first = 1s\nretry_max = 1s", ..Settings::default() });
    for userid in ["first", "second"] {
        lab.stand_in.company(|company| {
            company.hire(userid);
            company.sign_in(userid, "o-1");
        });
    }
    lab.event(now(), "create_user", "<UserID>first</UserID><Department>1</Department>");
    lab.wait_for("SELECT openid FROM members WHERE userid = 'first'", "o-1");
    // From now on WeCom tells no openid of the first one.
    lab.stand_in.company(|company| company.user_mut("first").unwrap().openid = None);
    lab.event(now(), "create_user", "<UserID>second</UserID><Department>1</Department>");
    eventually("the first one is asked again", || lab.asked(CONVERT, "first") >= 2);
    // A member who has not signed in yet is asked every second meanwhile.
    lab.hire("waits");
    lab.event(now(), "create_user", "<UserID>waits</UserID><Department>1</Department>");
    eventually("others are asked five times", || lab.asked(CONVERT, "waits") >= 5);
    assert_eq!(lab.asked(CONVERT, "first"), 2);
    assert_eq!(lab.value("SELECT openid FROM members WHERE userid = 'first'"), "o-1");
}

#[test]
fn a_clash_goes_by_the_present_spelling_of_a_userid_and_is_not_told_again_for_it() {
    let lab = Lab::plain();
    for userid in ["first", "second"] {
        lab.stand_in.company(|company| {
            company.hire(userid);
            company.sign_in(userid, "o-1");
        });
        lab.event(now(), "create_user", &format!("<UserID>{userid}</UserID><Department>1</Department>"));
    }
    eventually("both are asked again", || {
        lab.asked(CONVERT, "first") == 2 && lab.asked(CONVERT, "second") == 2
    });
    lab.event(now() + 1, "update_user", "<UserID>second</UserID><NewUserID>SECOND</NewUserID>");
    lab.wait_for("SELECT userid FROM members WHERE userid = 'second' COLLATE NOCASE", "SECOND");
    let status = lab.command(&["status", "--json"]).stdout;
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    let expected = serde_json::json!([{"openid": "o-1", "userids": ["SECOND", "first"]}]);
    let mut found = status["openid_clashes"].clone();
    if let Some(userids) = found[0]["userids"].as_array_mut() {
        userids.sort_by_key(ToString::to_string);
    }
    assert_eq!(found, expected);
    assert_eq!(lab.log().matches("openid clash: ").count(), 1, "{}", lab.log());
}

#[test]
fn the_department_tree_hides_no_department_and_marks_cycles_and_depth() {
    let lab = Lab::plain();
    let mut parents = BTreeMap::from([
        (1, 0),
        (2, 1),
        (3, 2),
        // Its own parent, and one below.
        (10, 10),
        (11, 10),
        // A cycle of three, and a chain hanging off it.
        (20, 22),
        (21, 20),
        (22, 21),
        (23, 20),
        (24, 23),
        // A parent that nobody knows.
        (30, 999),
        (31, 30),
    ]);
    parents.extend((1000..2000).map(|id| (id, if id == 1000 { 1 } else { id - 1 })));
    let db = rusqlite::Connection::open(lab.database()).unwrap();
    let insert = |id: i64, parent: i64, deleted: Option<i64>| {
        db.execute(
            "INSERT INTO departments (id, name, parent_id, created_at, updated_at, event_time, deleted_at)
             VALUES (?1, 'd' || ?1, ?2, 0, 0, 0, ?3)",
            rusqlite::params![id, parent, deleted],
        )
        .unwrap();
    };
    db.execute_batch("BEGIN").unwrap();
    parents.iter().for_each(|(id, parent)| insert(*id, *parent, None));
    // Below one that was deleted.
    insert(40, 1, Some(5));
    insert(41, 40, None);
    db.execute_batch("COMMIT").unwrap();
    parents.insert(41, 40);

    let begun = Instant::now();
    let mut query = db.prepare("SELECT id, path, depth FROM department_tree").unwrap();
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    let rows: Vec<(i64, String, Option<i64>)> = rows.collect::<Result<_, _>>().unwrap();
    assert!(begun.elapsed().as_secs() < 1, "{:?}", begun.elapsed());
    let mut ids: Vec<i64> = rows.iter().map(|row| row.0).collect();
    ids.sort_unstable();
    assert_eq!(ids, parents.keys().copied().collect::<Vec<_>>(), "each exactly once");
    let row = |id: i64| rows.iter().find(|row| row.0 == id).map(|row| (row.1.as_str(), row.2)).unwrap();
    assert_eq!(row(3), ("d1/d2/d3", Some(2)));
    assert_eq!(row(10), ("(cycle)/d10", Some(0)));
    assert_eq!(row(11), ("(cycle)/d10/d11", Some(1)));
    assert_eq!(row(20), ("(cycle)/d22/d20", None));
    assert_eq!(row(24), ("(cycle)/d23/d24", None));
    assert_eq!(row(31), ("d30/d31", Some(1)));
    assert_eq!(row(41), ("d41", Some(0)));
    assert_eq!(row(1063).1, Some(64));
    assert!(row(1063).0.starts_with("d1/d1000/") && row(1063).0.ends_with("/d1063"));
    assert_eq!(row(1064), ("(too deep)/d1064", Some(65)));
    assert_eq!(row(1999), ("(too deep)/d1999", Some(1000)));
}
