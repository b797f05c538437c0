//! Clashes of many members, and clashes whose members WeCom does not tell the openids of any more.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{Lab, Settings, eventually, now};

const CONVERT: &str = "user/convert_to_openid";

fn asked(lab: &Lab, userid: &str) -> usize {
    let calls = lab.stand_in.calls();
    calls.iter().filter(|call| call.api == CONVERT && call.userid.as_deref() == Some(userid)).count()
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
    let calls: usize = (0..MEMBERS).map(|number| asked(&lab, &format!("m{number:03}"))).sum();
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
    eventually("the first one is asked again", || asked(&lab, "first") >= 2);
    // A member who has not signed in yet is asked every second meanwhile.
    lab.hire("waits");
    lab.event(now(), "create_user", "<UserID>waits</UserID><Department>1</Department>");
    eventually("others are asked five times", || asked(&lab, "waits") >= 5);
    assert_eq!(asked(&lab, "first"), 2);
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
    eventually("both are asked again", || asked(&lab, "first") == 2 && asked(&lab, "second") == 2);
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
