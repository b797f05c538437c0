//! From a member's first event to its openid, with everything that WeCom may say in between.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::common::{self, CORP, Lab, Settings, assert_prompt, eventually, now, text};
use wecom_dirsync::demo::sender::Sender;
use wecom_dirsync::demo::standin::Fault;
use wecom_dirsync::wecom::callback::crypt::{Crypt, EncodingAesKey};

const CONVERT: &str = "user/convert_to_openid";

fn fast() -> Settings<'static> {
    Settings { openid: "retry_first = 1s\nretry_max = 1s", ..Settings::default() }
}

#[test]
fn a_new_member_is_pending_with_a_due_time_and_converted_when_an_update_names_it() {
    let lab = Lab::plain();
    lab.hire("zhangsan");
    lab.wait_for("SELECT openid_errcode FROM members WHERE userid = 'zhangsan'", "43004");
    assert_eq!(lab.state("zhangsan"), "pending");
    let due: i64 = lab.value("SELECT openid_next_attempt_at FROM members").parse().unwrap();
    assert!((now() + 40..=now() + 61).contains(&due), "{due}");
    assert_eq!(lab.value("SELECT openid_attempts FROM members"), "1");

    lab.stand_in.company(|company| company.sign_in("zhangsan", "o-1"));
    let begun = Instant::now();
    lab.event(now(), "update_user", "<UserID>zhangsan</UserID><Status>1</Status>");
    lab.wait_for("SELECT openid FROM members", "o-1");
    assert_prompt(begun.elapsed(), Duration::from_secs(2));
    assert_eq!(lab.state("zhangsan"), "converted");
    assert_eq!(lab.value("SELECT openid_errcode FROM members"), "null");
    assert_eq!(lab.value("SELECT fields FROM changes WHERE action = 'openid'"), r#"{"openid":[null,"o-1"]}"#);
}

#[test]
fn without_any_event_the_periodic_retry_converts() {
    let lab = Lab::new(fast());
    lab.hire("lisi");
    lab.wait_for("SELECT openid_attempts >= 2 FROM members", "1");
    lab.stand_in.company(|company| company.sign_in("lisi", "o-2"));
    lab.wait_for("SELECT openid FROM members", "o-2");
}

#[test]
fn triggers_of_the_apps_callback_try_at_once() {
    let key = "kWxPEV2UEDyxWpmPdKC3F4dgPDmOvfKX1HGnEUDS1aR";
    let more = format!("[callback.app]\npath = /app\ntoken = App1\nencoding_aes_key = {key}\n");
    let lab = Lab::new(Settings { more: &more, ..Settings::default() });
    let app =
        Sender::new(&lab.url("/app"), Crypt::new("App1", EncodingAesKey::parse(key).unwrap(), CORP), CORP);
    for (n, event) in ["subscribe", "enter_agent"].iter().enumerate() {
        let userid = format!("user{n}");
        lab.hire(&userid);
        lab.wait_for(&format!("SELECT openid_errcode FROM members WHERE userid = '{userid}'"), "43004");
        lab.stand_in.company(|company| company.sign_in(&userid, &format!("o-{n}")));
        let message = format!(
            "<xml><ToUserName>{CORP}</ToUserName><FromUserName>{userid}</FromUserName><CreateTime>{}</CreateTime>\
             <MsgType>event</MsgType><Event>{event}</Event><AgentID>1</AgentID></xml>",
            now()
        );
        assert_eq!(app.send(&message).unwrap().0, 200);
        lab.wait_for(&format!("SELECT openid FROM members WHERE userid = '{userid}'"), &format!("o-{n}"));
    }
    let unknown =
        "<xml><FromUserName>stranger</FromUserName><CreateTime>5</CreateTime><Event>subscribe</Event></xml>";
    assert_eq!(app.send(unknown).unwrap().0, 200);
    assert_eq!(lab.value("SELECT outcome FROM events ORDER BY seq DESC LIMIT 1"), "ignored");
    assert_eq!(lab.value("SELECT count(*) FROM members"), "2");
}

#[test]
fn after_kill_9_everything_is_there_and_the_retry_goes_on() {
    let mut lab = Lab::new(fast());
    for n in 0..20 {
        lab.hire(&format!("user{n}"));
    }
    // Killed while WeCom is being asked: what was in flight is due again.
    lab.stand_in.fail(Some(CONVERT), Fault::Hang, 2);
    let calls = lab.stand_in.count(CONVERT);
    assert!(lab.stand_in.wait_for(common::PATIENCE, |all| all.len() > calls + 2));
    lab.kill();
    assert_eq!(
        lab.value(
            "SELECT count(*) FROM members WHERE openid_state = 'pending' AND openid_next_attempt_at > 0"
        ),
        "20"
    );
    lab.stand_in.mend();
    lab.stand_in
        .company(|company| (0..20).for_each(|n| company.sign_in(&format!("user{n}"), &format!("o-{n}"))));
    lab.start();
    lab.wait_for("SELECT count(*) FROM members WHERE openid_state = 'converted'", "20");
    assert_eq!(lab.value("PRAGMA integrity_check"), "ok");
    assert_eq!(lab.value("SELECT count(*) FROM events"), "20");
}

#[test]
fn a_token_that_dies_early_is_fetched_anew_once_for_all_and_costs_no_attempt() {
    for errcode in [42001, 40014] {
        let lab = Lab::new(Settings {
            openid: "max_concurrent_calls = 8\nretry_first = 1s\nretry_max = 1s",
            ..Settings::default()
        });
        for n in 0..16 {
            lab.hire(&format!("user{n}"));
        }
        lab.wait_for("SELECT count(*) FROM members WHERE openid_errcode = 43004", "16");
        assert_eq!(lab.stand_in.count("gettoken"), 1);
        lab.stand_in.company(|company| {
            company.kill_tokens(errcode);
            (0..16).for_each(|n| company.sign_in(&format!("user{n}"), &format!("o-{n}")));
        });
        lab.wait_for("SELECT count(*) FROM members WHERE openid_state = 'converted'", "16");
        assert_eq!(lab.stand_in.count("gettoken"), 2, "{errcode}: one new token for all threads");
        let counted = lab.value(&format!("SELECT count(*) FROM members WHERE openid_errcode = {errcode}"));
        assert_eq!(counted, "0");
        assert!(!lab.log().contains("paused"), "{}", lab.log());
    }
}

/// An operator's problem: everything is paused, said once, counted against nobody; and passes by itself.
#[test]
fn an_address_that_is_not_allowed_and_a_used_up_quota_pause_all_and_resume_by_themselves() {
    let cases = [(60020, "trusted IPs"), (45009, "passes by itself")];
    std::thread::scope(|scope| {
        for (errcode, advice) in cases {
            scope.spawn(move || {
                // Both pause for a minute.
                let lab = Lab::new(Settings { speed: 8, ..Settings::default() });
                let errmsg = "not allow to access from your ip, hint: [1], from ip: 198.51.100.7, more info"
                    .to_owned();
                lab.stand_in.fail(Some(CONVERT), Fault::Refusal(errcode, errmsg), usize::MAX);
                for n in 0..10 {
                    lab.hire(&format!("user{n}"));
                }
                lab.wait_for("SELECT count(*) FROM daemon_state WHERE name = 'pauses'", "1");
                lab.event(now(), "update_user", "<UserID>user3</UserID><Status>1</Status>");
                let log = lab.log();
                let lines: Vec<_> = log.lines().filter(|line| line.contains("paused")).collect();
                assert_eq!(lines.len(), 1, "{log}");
                assert!(lines[0].contains(&errcode.to_string()) && lines[0].contains(advice), "{log}");
                assert!(lines[0].contains("198.51.100.7"), "{log}");
                assert!(lab.stand_in.count(CONVERT) <= 2, "nobody is asked about any more");
                assert_eq!(lab.value("SELECT sum(openid_attempts) FROM members"), "0");
                assert_eq!(lab.value("SELECT count(*) FROM members WHERE openid_errcode IS NOT NULL"), "0");
                let status = text(&lab.command(&["status"]).stdout);
                assert!(status.contains("PAUSED") && status.contains(&errcode.to_string()), "{status}");

                lab.stand_in.mend();
                lab.stand_in
                    .company(|company| (0..10).for_each(|n| company.sign_in(&format!("user{n}"), "o")));
                let calls = lab.stand_in.count(CONVERT);
                let resumed = lab.stand_in.wait_for(Duration::from_secs(20), |all| {
                    all.iter().filter(|call| call.api == CONVERT).count() >= calls + 10
                });
                assert!(resumed, "{}", lab.log());
                lab.wait_for("SELECT count(*) FROM members WHERE openid_state = 'converted'", "10");
                assert!(lab.log().contains("resumed"), "{}", lab.log());
                lab.wait_for("SELECT value FROM daemon_state WHERE name = 'pauses'", "[]");
            });
        }
    });
}

#[test]
fn a_wrong_secret_is_said_once_and_not_tried_again_quickly() {
    let lab = Lab::plain();
    lab.stand_in.company(|company| company.app_secret = "another".into());
    lab.hire("a");
    eventually("the pause is logged", || lab.log().contains("paused"));
    for n in 0..5 {
        lab.hire(&format!("b{n}"));
    }
    assert_eq!(lab.stand_in.count("gettoken"), 1);
    assert_eq!(lab.stand_in.count(CONVERT), 0);
    let log = lab.log();
    assert_eq!(log.matches("paused").count(), 1, "{log}");
    assert!(log.contains("[ERROR]") && log.contains("corp_id and the secret"), "{log}");
    assert_eq!(lab.value("SELECT sum(openid_attempts) FROM members"), "0");
}

#[test]
fn after_silence_or_unusable_answers_the_member_is_converted_in_the_end() {
    let faults = [
        Fault::HttpStatus(500),
        Fault::HttpStatus(302),
        Fault::Reset,
        Fault::Garbage,
        Fault::Truncated,
        Fault::Empty,
        Fault::Errcode(-1),
    ];
    std::thread::scope(|scope| {
        for fault in faults {
            scope.spawn(move || {
                let lab = Lab::new(fast());
                lab.stand_in.fail(Some(CONVERT), fault.clone(), 2);
                lab.stand_in.company(|company| {
                    company.hire("a");
                    company.sign_in("a", "o-a");
                });
                lab.event(now(), "create_user", "<UserID>a</UserID>");
                lab.wait_for("SELECT openid FROM members", "o-a");
                assert_eq!(lab.stand_in.count(CONVERT), 3, "{fault:?}");
            });
        }
    });
}

#[test]
fn a_slow_answer_is_given_up_and_callbacks_do_not_wait_for_it() {
    let lab = Lab::new(Settings { wecom: "timeout = 1s", ..Settings::default() });
    lab.stand_in.fail(Some(CONVERT), Fault::Hang, 2);
    for n in 0..4 {
        lab.hire(&format!("user{n}"));
    }
    let begun = Instant::now();
    lab.event(now(), "create_user", "<UserID>quick</UserID>");
    assert_prompt(begun.elapsed(), Duration::from_millis(500));
    lab.wait_for("SELECT count(*) FROM members WHERE openid_errcode = 43004", "4");
    assert!(lab.log().contains("no answer in time"), "{}", lab.log());
}

#[test]
fn a_member_that_wecom_does_not_know_fails_until_something_names_it_or_retry_is_asked() {
    let lab = Lab::plain();
    for (n, _) in ["update_user", "retry"].iter().enumerate() {
        lab.event(now(), "create_user", &format!("<UserID>ghost{n}</UserID>"));
        lab.wait_for(&format!("SELECT openid_state FROM members WHERE userid = 'ghost{n}'"), "failed");
    }
    assert_eq!(
        lab.value(
            "SELECT count(*) FROM members WHERE openid_errcode = 60111 AND openid_next_attempt_at IS NULL"
        ),
        "2"
    );
    lab.stand_in.company(|company| {
        for n in 0..2 {
            company.hire(&format!("ghost{n}"));
            company.sign_in(&format!("ghost{n}"), &format!("o-{n}"));
        }
    });
    lab.event(now(), "update_user", "<UserID>ghost0</UserID><Status>1</Status>");
    lab.wait_for("SELECT openid FROM members WHERE userid = 'ghost0'", "o-0");
    let retry = lab.command(&["retry", "GHOST1"]);
    assert_eq!(retry.status.code(), Some(0), "{retry:?}");
    lab.wait_for("SELECT openid FROM members WHERE userid = 'ghost1'", "o-1");
}

#[test]
fn an_unknown_errcode_is_the_members_problem_until_everybody_has_it() {
    // An answer about details would begin the count again.
    let (openid, more) = ("max_concurrent_calls = 1", "[details]\nfetch = never\n");
    let lab = Lab::new(Settings { openid, more, ..Settings::default() });
    lab.stand_in.fail(Some(CONVERT), Fault::Errcode(99999), usize::MAX);
    for n in 0..10 {
        lab.hire(&format!("user{n}"));
    }
    eventually("the pause is logged", || lab.log().contains("paused"));
    assert_eq!(lab.value("SELECT count(*) FROM members WHERE openid_errcode = 99999"), "4");
    // Different ones; the first may be asked about once more if its event's reply comes after the call.
    let asked: BTreeSet<_> = lab.stand_in.calls().into_iter().filter_map(|call| call.userid).collect();
    assert_eq!(asked.len(), 5, "{asked:?}");
}

#[test]
fn calls_stay_within_the_configured_pace() {
    let begun = Instant::now();
    let lab = Lab::new(Settings { wecom: "calls_per_minute = 30", ..fast() });
    for n in 0..40 {
        lab.hire(&format!("user{n}"));
    }
    std::thread::sleep(Duration::from_secs(4));
    let calls = lab.stand_in.calls().len();
    let (seconds, burst) = (begun.elapsed().as_secs(), 3);
    let most = burst + usize::try_from(seconds).unwrap() / 2 + 1;
    assert!((3..=most).contains(&calls), "{calls} calls in {seconds} s at 30 a minute");
}

#[test]
fn an_answer_for_a_former_bearer_of_the_userid_does_not_count() {
    let lab = Lab::plain();
    lab.stand_in.company(|company| {
        company.hire("wang");
        company.sign_in("wang", "o-former");
    });
    lab.stand_in.fail(Some(CONVERT), Fault::Delay(Duration::from_secs(2)), 1);
    let t = now();
    lab.event(t, "create_user", "<UserID>wang</UserID>");
    assert!(lab.stand_in.wait_for(common::PATIENCE, |all| all.iter().any(|call| call.api == CONVERT)));
    lab.event(t + 1, "delete_user", "<UserID>wang</UserID>");
    lab.event(t + 2, "create_user", "<UserID>wang</UserID>");
    lab.stand_in.company(|company| company.hire("wang"));
    lab.wait_for("SELECT openid_errcode FROM members", "43004");
    assert_eq!(lab.state("wang"), "pending");
    assert_eq!(lab.value("SELECT count(*) FROM changes WHERE action = 'openid'"), "0");
}

#[test]
fn an_update_that_comes_while_wecom_is_being_asked_is_not_waited_for_longer() {
    let lab = Lab::plain();
    // The answer to the first question is from before the member signed in.
    lab.stand_in.fail(Some(CONVERT), Fault::Delay(Duration::from_millis(500)), 1);
    lab.hire("a");
    assert!(lab.stand_in.wait_for(common::PATIENCE, |all| all.iter().any(|call| call.api == CONVERT)));
    lab.stand_in.company(|company| company.sign_in("a", "o-a"));
    let begun = Instant::now();
    lab.event(now(), "update_user", "<UserID>a</UserID><Status>1</Status>");
    lab.wait_for("SELECT openid FROM members", "o-a");
    assert_prompt(begun.elapsed(), Duration::from_secs(2));
}

#[test]
fn trouble_with_the_token_itself_does_not_keep_the_daemon_busy() {
    for errcode in [45009, 99999, -1] {
        let lab = Lab::plain();
        lab.stand_in.fail(Some("gettoken"), Fault::Errcode(errcode), usize::MAX);
        for n in 0..4 {
            lab.hire(&format!("user{n}"));
        }
        eventually("the pause is logged", || lab.log().contains("paused"));
        let before = lab.processor_time();
        std::thread::sleep(Duration::from_secs(1));
        let ticks = ((lab.processor_time() - before) * 100.0).round();
        assert!(ticks < 20.0, "{errcode}: {ticks} ticks of a hundred in a second");
        assert!(lab.stand_in.count("gettoken") <= 4, "{errcode}: {}", lab.stand_in.count("gettoken"));
        assert_eq!(lab.log().matches("paused").count(), 1, "{}", lab.log());
    }
}
