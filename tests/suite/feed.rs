//! The change feed and the export as their consumers meet them, and the directory under concurrent senders.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::common::{self, CORP, Lab, Settings, assert_prompt, binary, concurrently, crypt, now, text};
use crate::events::{self, Scale, Scratch, deliver, directory, make};
use crate::replica::Replica;
use fastrand::Rng;
use wecom_dirsync::demo::sender::Sender;

fn without_conversion() -> Settings<'static> {
    Settings { openid: "enabled = no", ..Settings::default() }
}

#[test]
fn followers_hear_of_each_change_within_a_second_and_across_restarts() {
    let mut lab = Lab::new(without_conversion());
    lab.event(now(), "create_user", "<UserID>before</UserID><Name>张三</Name>");
    let mut follower = Command::new(binary())
        .args(["changes", "--follow", "--since", "0", "-c"])
        .arg(lab.ini())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, lines) = channel();
    let out = follower.stdout.take().unwrap();
    std::thread::spawn(move || {
        BufReader::new(out).lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)))
    });
    let expect = |key: &str| -> serde_json::Value {
        let begun = Instant::now();
        let line = lines.recv_timeout(common::PATIENCE).unwrap();
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(json["key"], key);
        if key != "before" {
            assert_prompt(begun.elapsed(), Duration::from_secs(1));
        }
        json
    };
    let first = expect("before");
    assert_eq!(first["seq"], 1);
    assert_eq!(first["entity"], "member");
    assert_eq!(first["action"], "created");
    assert_eq!(first["fields"]["name"], serde_json::json!([null, "张三"]));
    lab.event(now(), "create_user", "<UserID>during</UserID>");
    expect("during");
    lab.terminate();
    lab.start();
    lab.event(now(), "create_user", "<UserID>after</UserID>");
    expect("after");
    follower.kill().unwrap();
    follower.wait().unwrap();
    let rest = text(&lab.command(&["changes", "--since", "2"]).stdout);
    assert_eq!(rest.lines().count(), 1);
    assert!(rest.contains("\"key\":\"after\""), "{rest}");
}

#[test]
fn an_event_that_changes_nothing_writes_nothing_to_the_feed() {
    let lab = Lab::new(without_conversion());
    lab.event(100, "create_user", "<UserID>a</UserID><Name>x</Name>");
    lab.event(100, "create_user", "<UserID>a</UserID><Name>x</Name>");
    lab.event(101, "update_user", "<UserID>A</UserID><Name>x</Name>");
    lab.event(50, "update_user", "<UserID>a</UserID><Name>old</Name>");
    let changes = lab.value("SELECT group_concat(action || ' ' || fields) FROM changes");
    assert_eq!(
        lab.value("SELECT group_concat(outcome) FROM (SELECT outcome FROM events ORDER BY seq)"),
        "applied,duplicate,applied,stale"
    );
    assert_eq!(changes, r#"created {"name":[null,"x"],"userid":[null,"a"]},updated {"userid":["a","A"]}"#);
}

#[test]
fn a_contradiction_within_one_second_goes_by_content_and_makes_the_details_due() {
    let lab = Lab::new(without_conversion());
    lab.event(100, "create_user", "<UserID>a</UserID><Name>one</Name>");
    assert_eq!(lab.value("SELECT details_state FROM members"), "known");
    lab.event(101, "update_user", "<UserID>a</UserID><Name>two</Name>");
    assert_eq!(lab.value("SELECT details_state FROM members"), "known");
    lab.event(101, "update_user", "<UserID>a</UserID><Name>three</Name>");
    assert_eq!(
        lab.value("SELECT name || ' ' || details_state FROM members"),
        "two due",
        "in every order of arrival"
    );
}

#[test]
fn a_re_created_member_starts_afresh() {
    let lab = Lab::plain();
    lab.stand_in.company(|company| {
        company.hire("a");
        company.sign_in("a", "o-former");
    });
    lab.event(
        1000,
        "create_user",
        "<UserID>a</UserID><Name>former</Name><Mobile>1</Mobile><Department>1</Department>",
    );
    lab.wait_for("SELECT openid FROM members", "o-former");
    lab.stand_in.company(|company| company.hire("a"));
    lab.event(1010, "delete_user", "<UserID>a</UserID>");
    assert_eq!(lab.value("SELECT deleted_at FROM members"), "1010");
    lab.event(1005, "update_user", "<UserID>a</UserID><Name>late</Name>");
    assert_eq!(lab.value("SELECT deleted_at FROM members"), "1010", "a late update does not revive");
    lab.event(1020, "create_user", "<UserID>a</UserID><Department>2</Department>");
    lab.wait_for("SELECT openid_errcode FROM members WHERE deleted_at IS NULL", "43004");
    assert_eq!(
        lab.value(
            "SELECT coalesce(name, '-') || coalesce(mobile, '-') || coalesce(openid, '-') FROM members"
        ),
        "---"
    );
    assert_eq!(lab.value("SELECT group_concat(department_id) FROM member_departments"), "2");
}

#[test]
fn a_rename_carries_everything_along_and_the_old_userid_still_reaches_it() {
    let lab = Lab::plain();
    lab.stand_in.company(|company| {
        company.hire("a");
        company.sign_in("a", "o-1");
    });
    let t = now();
    lab.event(t, "create_user", "<UserID>a</UserID><Name>x</Name><Department>1,2</Department>");
    lab.event(t, "update_tag", "<TagId>7</TagId><AddUserItems>a</AddUserItems>");
    lab.wait_for("SELECT openid FROM members", "o-1");
    lab.event(t + 1, "update_user", "<UserID>a</UserID><NewUserID>b</NewUserID>");
    lab.event(t + 2, "update_user", "<UserID>a</UserID><Position>boss</Position>");
    assert_eq!(lab.value("SELECT userid || name || position || openid FROM members"), "bxbosso-1");
    assert_eq!(lab.value("SELECT count(*) FROM members"), "1");
    assert_eq!(lab.value("SELECT group_concat(userid || department_id) FROM member_departments"), "b1,b2");
    assert_eq!(lab.value("SELECT userid FROM tag_members WHERE tag_id = 7"), "b");
    assert_eq!(lab.value("SELECT old_userid || new_userid FROM renames"), "ab");
}

#[test]
fn a_batch_job_makes_a_comparison_due() {
    let lab = Lab::new(without_conversion());
    let event = "<xml><ToUserName>c</ToUserName><FromUserName>sys</FromUserName><CreateTime>5</CreateTime><MsgType>event</MsgType>\
                 <Event>batch_job_result</Event><BatchJob><JobId>j1</JobId><JobType>replace_user</JobType><ErrCode>0</ErrCode>\
                 <ErrMsg>ok</ErrMsg></BatchJob></xml>";
    assert_eq!(lab.sender().send(event).unwrap().0, 200);
    assert!(text(&lab.command(&["status"]).stdout).contains("batch job replace_user"));
}

#[test]
fn exports_have_one_row_for_each_present_member() {
    let lab = Lab::new(without_conversion());
    lab.event(5, "create_party", "<Id>1</Id><Name>总部</Name>");
    lab.event(5, "create_party", "<Id>2</Id><Name>研发</Name><ParentId>1</ParentId>");
    lab.event(6, "create_user", "<UserID>a</UserID><Name>张三, 经理</Name><Mobile>+86138</Mobile><Department>2,1</Department><IsLeaderInDept>1,0</IsLeaderInDept>");
    lab.event(6, "create_user", "<UserID>b</UserID><Name>=cmd()</Name>");
    lab.event(6, "create_user", "<UserID>gone</UserID>");
    lab.event(7, "delete_user", "<UserID>gone</UserID>");
    let csv = text(&lab.command(&["export", "--format", "csv"]).stdout);
    let lines: Vec<_> = csv.split("\r\n").collect();
    assert!(lines[0].starts_with("\u{feff}userid,name,departments,leads,"), "{csv}");
    assert!(lines[1].starts_with("a,\"张三, 经理\",\"总部/研发; 总部\",总部/研发,"), "{csv}");
    assert!(lines[1].contains("\"'+86138\""), "{csv}");
    assert!(lines[2].starts_with("b,\"'=cmd()\","), "{csv}");
    assert_eq!(lines.len(), 4, "{csv}");
    let ndjson = text(&lab.command(&["export", "--format", "ndjson"]).stdout);
    let first: serde_json::Value = serde_json::from_str(ndjson.lines().next().unwrap()).unwrap();
    assert_eq!(first["departments"], serde_json::json!(["总部/研发", "总部"]));
    assert_eq!(first["leads"], serde_json::json!(["总部/研发"]));
    assert_eq!(ndjson.lines().count(), 2);
    assert_eq!(lab.value("SELECT path FROM department_tree WHERE id = 2"), "总部/研发");
    assert_eq!(lab.value("SELECT departments FROM active_members WHERE userid = 'a'"), "研发 (leads), 总部");
}

#[test]
fn eight_senders_at_once_in_any_order_end_in_the_same_directory() {
    let scale = Scale { members: 30, departments: 10, tags: 4, events: 400 };
    concurrently(0..3, |seed| {
        let mut rng = Rng::with_seed(seed);
        let made = make(&mut rng, scale, seed == 0);
        let expected = Scratch::new();
        for event in &made {
            deliver(&expected, &event.xml());
        }
        let lab = Lab::new(without_conversion());
        let mut messages: Vec<String> = made.iter().map(events::Made::xml).collect();
        messages.extend(made.iter().filter(|_| rng.bool()).map(events::Made::xml));
        messages.extend(made.iter().filter(|_| rng.bool()).map(events::Made::xml_of_another_url));
        rng.shuffle(&mut messages);
        std::thread::scope(|scope| {
            for part in messages.chunks(messages.len().div_ceil(8)) {
                let url = lab.url("/callback");
                scope.spawn(move || {
                    let sender = Sender::new(&url, crypt(), CORP);
                    part.iter().for_each(|message| assert_eq!(sender.send(message).unwrap().0, 200));
                });
            }
        });
        let found = lab.db().into();
        assert_eq!(directory(&found, false), directory(&expected, false), "seed {seed}");
        assert_eq!(
            Replica::of_feed(&found).comparable(),
            Replica::of_tables(&found).comparable(),
            "seed {seed}"
        );
    });
}

#[test]
fn a_replica_of_the_feed_that_the_command_prints_has_the_rows_of_the_directory() {
    let scale = Scale { members: 20, departments: 6, tags: 3, events: 300 };
    concurrently(10..14, |seed| {
        let mut rng = Rng::with_seed(seed);
        let mut made = make(&mut rng, scale, seed % 2 == 0);
        rng.shuffle(&mut made);
        // Fetched details, and the daily sample of them, are changes at any time.
        let lab = Lab::new(Settings { more: "[details]\nfetch = never\n", ..Settings::default() });
        lab.stand_in.company(|company| {
            for n in 0..20 {
                company.hire(&format!("user{n}"));
                company.sign_in(&format!("user{n}"), &format!("o-{n}"));
            }
        });
        let sender = lab.sender();
        made.iter().for_each(|event| assert_eq!(sender.send(&event.xml()).unwrap().0, 200));
        lab.wait_for("SELECT count(*) FROM members WHERE openid IS NULL AND deleted_at IS NULL", "0");
        let feed = text(&lab.command(&["changes"]).stdout);
        let found = lab.db().into();
        assert_eq!(
            Replica::of_lines(&feed).comparable(),
            Replica::of_tables(&found).comparable(),
            "seed {seed}"
        );
    });
}
