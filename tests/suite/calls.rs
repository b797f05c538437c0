//! Many calls in flight: as many as the pace needs, no more than are allowed, and with them the same order, pauses and
//! attributions as with one.

use std::time::{Duration, Instant};

use crate::common::{Lab, PATIENCE, Settings, assert_prompt, eventually, now};
use wecom_dirsync::demo::standin::{Call, Fault, User};

const CONVERT: &str = "user/convert_to_openid";
const DETAILS: &str = "user/get";
const NO_DETAILS: &str = "[details]\nfetch = never\n";

/// A lab whose daemon does not run yet, and which has this many members, who signed in.
fn lab(members: usize, latency: u64, settings: Settings<'_>) -> Lab {
    let lab = Lab::idle(Settings { reconcile: true, ..settings });
    lab.stand_in.company(|company| {
        for n in 0..members {
            let userid = format!("user{n:04}");
            company.put(User {
                userid: userid.clone(),
                departments: vec![1],
                visible: true,
                ..User::default()
            });
            company.sign_in(&userid, &format!("o-{n}"));
        }
    });
    lab.stand_in.set_latency(Duration::from_millis(latency));
    lab
}

fn of(calls: &[Call], api: &str) -> Vec<Call> {
    calls.iter().filter(|call| call.api == api).cloned().collect()
}

fn peak(calls: &[Call]) -> usize {
    calls.iter().map(|call| call.in_flight).max().unwrap_or(0)
}

/// The most calls in any two seconds.
fn busiest(calls: &[Call]) -> usize {
    let within =
        |i: usize| calls[i..].iter().take_while(move |call| call.at - calls[i].at < Duration::from_secs(2));
    (0..calls.len()).map(|i| within(i).count()).max().unwrap_or(0)
}

fn known(lab: &Lab, members: usize) {
    let sql = "SELECT count(*) FROM members WHERE openid_state = 'converted' AND details_state = 'known'";
    lab.wait_for(sql, &members.to_string());
}

#[test]
fn the_pace_and_not_the_number_of_threads_bounds_conversions_and_details() {
    let mut lab = lab(160, 80, Settings { wecom: "calls_per_minute = 3000", ..Settings::default() });
    lab.start();
    known(&lab, 160);
    let calls = lab.stand_in.calls();
    for api in [CONVERT, DETAILS] {
        let calls = of(&calls, api);
        // 50 a second, 80 ms each
        assert!((4..=32).contains(&peak(&calls)), "{api}: {} in flight", peak(&calls));
        let allowed = 100;
        assert!(busiest(&calls) * 11 >= allowed * 10, "{api}: {} in two seconds", busiest(&calls));
    }
    // The burst comes on top of the even rate.
    assert!(busiest(&calls) <= 100 + 60, "{}", busiest(&calls));
}

#[test]
fn with_a_limit_of_one_no_two_calls_are_ever_in_flight() {
    let settings = Settings {
        wecom: "calls_per_minute = 100000",
        openid: "max_concurrent_calls = 1",
        ..Settings::default()
    };
    let mut lab = lab(30, 10, settings);
    lab.start();
    for n in 0..10 {
        lab.hire(&format!("new{n}"));
        lab.stand_in.company(|company| company.sign_in(&format!("new{n}"), &format!("o-new{n}")));
        lab.event(now(), "update_user", &format!("<UserID>new{n}</UserID><Status>1</Status>"));
    }
    known(&lab, 40);
    assert_eq!(peak(&lab.stand_in.calls()), 1);
}

#[test]
fn a_refusal_of_concurrent_calls_halves_them_and_counts_against_nobody() {
    let settings = Settings { wecom: "calls_per_minute = 5000", more: NO_DETAILS, ..Settings::default() };
    let mut lab = lab(300, 100, settings);
    lab.start();
    let many = |calls: &[Call]| calls.iter().any(|call| call.in_flight >= 6);
    assert!(lab.stand_in.wait_for(PATIENCE, many), "{}", peak(&lab.stand_in.calls()));
    // As WeCom does: all that are in flight together are refused.
    lab.stand_in.fail(Some(CONVERT), Fault::Errcode(45033), usize::MAX);
    // From then on only the probe is sent, 2 s later.
    eventually("the number is lowered", || lab.log().contains("in flight are limited to"));
    lab.stand_in.mend();
    lab.wait_for("SELECT count(*) FROM members WHERE openid_state = 'converted'", "300");
    let log = lab.log();
    assert_eq!(log.matches("in flight are limited to").count(), 1, "halved once: {log}");
    let limit = log.split("in flight are limited to ").nth(1).unwrap().split(' ').next().unwrap();
    let limit: usize = limit.parse().unwrap();
    let calls = of(&lab.stand_in.calls(), CONVERT);
    assert!(calls.iter().filter(|call| call.errcode == Some(45033)).count() > 1);
    let refused = calls.iter().rposition(|call| call.errcode == Some(45033)).unwrap();
    let after: Vec<Call> = calls[refused + 1..]
        .iter()
        .filter(|call| call.at - calls[refused].at > Duration::from_secs(1))
        .cloned()
        .collect();
    assert_eq!(after[0].in_flight, 1, "the probe goes alone");
    assert!(after.len() > 100 && peak(&after) <= limit, "{} of {limit} in flight", peak(&after));
    assert!(peak(&after) > 1 && limit < peak(&calls), "{limit} of {}", peak(&calls));
    assert_eq!(lab.value("SELECT max(openid_attempts) FROM members"), "0");
}

/// A gateway that fails meets all calls in flight. Only the two calls that show it, and perhaps the probe, count against
/// their members.
#[test]
fn a_failing_gateway_backs_off_the_members_that_show_it_and_not_all_that_are_in_flight() {
    let settings = Settings {
        wecom: "calls_per_minute = 100000",
        openid: "max_concurrent_calls = 12",
        more: NO_DETAILS,
        ..Settings::default()
    };
    let mut lab = lab(200, 100, settings);
    lab.start();
    assert!(lab.stand_in.wait_for(PATIENCE, |calls| calls.iter().any(|call| call.in_flight >= 12)));
    lab.stand_in.fail(Some(CONVERT), Fault::HttpStatus(502), usize::MAX);
    // From then on only the probe is sent, a second later.
    eventually("the pause is logged", || lab.log().contains("all API calls paused"));
    lab.stand_in.mend();
    let backed_off = "SELECT count(*) FROM members WHERE openid_attempts > 0";
    eventually("all others are converted", || {
        let sql = "SELECT count(*) FROM members WHERE openid_state = 'pending' AND openid_attempts = 0";
        lab.stand_in.count(CONVERT) > 200 && lab.value(sql) == "0"
    });
    let backed_off: usize = lab.value(backed_off).parse().unwrap();
    assert!((2..=4).contains(&backed_off), "{backed_off}");
    assert_eq!(lab.log().matches("all API calls paused").count(), 1, "{}", lab.log());
}

#[test]
fn an_events_member_comes_before_a_thousand_queued_details_of_a_first_fill() {
    let mut lab = lab(0, 20, Settings { wecom: "calls_per_minute = 1200", ..Settings::default() });
    let db = wecom_dirsync::store::open_writer(&lab.database(), 0o600).unwrap();
    for n in 0..1000 {
        let sql = "INSERT INTO members (userid, openid, openid_state, openid_revision, openid_updated_at, details_state,
                       created_at, updated_at, event_time)
                   VALUES ('user' || ?1, 'o-' || ?1, 'converted', 1, 1, 'due', 1, 1, 1)";
        db.execute(sql, &[n.into()]).unwrap();
        lab.stand_in.company(|company| company.hire(&format!("user{n}")));
    }
    drop(db);
    let ini = std::fs::read_to_string(lab.ini()).unwrap();
    std::fs::write(lab.ini(), ini + "[reconcile]\nenabled = no\n").unwrap();
    lab.start();
    eventually("details are fetched", || lab.stand_in.count(DETAILS) > 30);
    lab.stand_in.company(|company| {
        company.hire("fresh");
        company.sign_in("fresh", "o-fresh");
    });
    let before = lab.stand_in.count(DETAILS);
    lab.event(now(), "create_user", "<UserID>fresh</UserID><Department>1</Department>");
    lab.wait_for("SELECT openid FROM members WHERE userid = 'fresh'", "o-fresh");
    let meanwhile = lab.stand_in.count(DETAILS) - before;
    assert!(meanwhile <= 10, "{meanwhile} details before the conversion");
    // Its details wait until a second event of the same member may have come.
    lab.wait_for("SELECT details_state FROM members WHERE userid = 'fresh'", "known");
    let details = of(&lab.stand_in.calls(), DETAILS);
    let place = details.iter().position(|call| call.userid.as_deref() == Some("fresh")).unwrap();
    assert!(place - before < 150, "{place} of 1000");
}

#[test]
fn the_shutdown_abandons_calls_in_flight_and_the_next_start_repeats_them() {
    let settings = Settings { openid: "max_concurrent_calls = 20", more: NO_DETAILS, ..Settings::default() };
    let mut lab = lab(20, 0, settings);
    lab.start();
    lab.wait_for("SELECT count(*) FROM members WHERE openid_state = 'converted'", "20");
    for n in 0..20 {
        lab.stand_in.company(|company| company.hire(&format!("new{n}")));
    }
    lab.stand_in.fail(Some(CONVERT), Fault::Hang, 20);
    for n in 0..20 {
        lab.event(now(), "create_user", &format!("<UserID>new{n}</UserID><Department>1</Department>"));
    }
    assert!(lab.stand_in.wait_for(PATIENCE, |calls| of(calls, CONVERT).len() == 40));
    let begun = Instant::now();
    let (code, _) = lab.terminate();
    assert_eq!(code, Some(0));
    assert_prompt(begun.elapsed(), Duration::from_secs(5));
    lab.stand_in.mend();
    lab.start();
    lab.wait_for("SELECT count(*) FROM members WHERE openid_errcode = 43004", "20");
}
