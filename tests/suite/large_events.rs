//! An update_tag that names a whole company: nothing of it is lost, and other events do not wait for it.

use std::time::{Duration, Instant};

use crate::common::{CORP, Lab, Settings, eventually, now, value};
use crate::replica::Replica;
use wecom_dirsync::demo::sender::contact_event;

const MEMBERS: usize = 14_000;

fn lab() -> Lab {
    Lab::new(Settings { openid: "enabled = no", ..Settings::default() })
}

fn update_tag(at: i64, list: &str, userids: std::ops::Range<usize>) -> String {
    let names: Vec<String> = userids.map(|n| format!("u-{n:07}")).collect();
    contact_event(CORP, at, "update_tag", &format!("<TagId>7</TagId><{list}>{}</{list}>", names.join(",")))
}

const IN_TAG: &str = "SELECT count(*) FROM tag_members WHERE tag_id = 7";
const WAITING: &str = "SELECT count(*) FROM deferred_facts";

#[test]
fn other_events_do_not_wait_for_a_large_one() {
    let lab = lab();
    let sender = lab.sender();
    let begun = Instant::now();
    sender.send(&update_tag(now(), "AddUserItems", 0..MEMBERS)).unwrap();
    let acknowledged = begun.elapsed();
    let mut latencies = Vec::new();
    while lab.value(WAITING) != "0" {
        let inner = format!("<UserID>other{}</UserID><Name>n</Name>", latencies.len());
        let event = contact_event(CORP, now(), "create_user", &inner);
        let sent = Instant::now();
        sender.send(&event).unwrap();
        latencies.push(sent.elapsed());
    }
    let took = begun.elapsed();
    latencies.sort_unstable();
    let percentile = |of: usize| latencies[(latencies.len() - 1) * of / 100];
    eprintln!(
        "{MEMBERS} userids: acknowledged after {acknowledged:?}, merged after {took:?}; {} other events: p50 {:?}, p99 {:?}",
        latencies.len(),
        percentile(50),
        percentile(99)
    );
    assert_eq!(lab.value(IN_TAG), MEMBERS.to_string());
    assert!(latencies.len() > 10, "no event came in between");
    // Many times what a portion takes on a busy machine, and a small part of the whole.
    assert!(percentile(50) < (took / 5).max(Duration::from_millis(50)), "{:?} of {took:?}", percentile(50));
    Replica::assert_feed_equals_tables(&lab.db().into());
}

#[test]
fn a_daemon_that_is_killed_while_it_merges_goes_on_at_the_next_start() {
    let mut lab = lab();
    let at = now();
    lab.sender().send(&update_tag(at, "AddUserItems", 0..MEMBERS)).unwrap();
    let mut killed = 0;
    let mut rng = fastrand::Rng::with_seed(12);
    while lab.value(WAITING) != "0" && killed < 4 {
        std::thread::sleep(Duration::from_millis(rng.u64(1..60)));
        lab.kill();
        killed += 1;
        lab.start();
    }
    assert!(killed > 1, "the event was merged before the first kill");
    eventually("all is merged", || lab.value(WAITING) == "0");
    assert_eq!(lab.value(IN_TAG), MEMBERS.to_string());
    let lines = "SELECT count(*) FROM changes WHERE entity = 'tag' AND key = '7' AND fields LIKE '%u-%'";
    assert_eq!(lab.value(lines), MEMBERS.to_string(), "each member has one line in the change feed");
    Replica::assert_feed_equals_tables(&lab.db().into());
}

#[test]
fn later_events_win_also_while_an_earlier_large_one_is_being_merged() {
    let lab = lab();
    let at = now() - 100;
    let sender = lab.sender();
    sender.send(&update_tag(at, "AddUserItems", 0..3000)).unwrap();
    sender.send(&update_tag(at + 10, "DelUserItems", 2990..3000)).unwrap();
    sender.send(&update_tag(at + 20, "DelUserItems", 0..1000)).unwrap();
    // Older than both, and last to arrive.
    sender.send(&update_tag(at - 10, "DelUserItems", 0..2000)).unwrap();
    eventually("all is merged", || lab.value(WAITING) == "0");
    assert_eq!(lab.value(IN_TAG), "1990");
    let gone = "SELECT count(*) FROM tag_members WHERE userid < 'u-0001000' OR userid >= 'u-0002990'";
    assert_eq!(value(&lab.db(), gone), "0");
    let outcomes = "SELECT group_concat(DISTINCT outcome) FROM events";
    assert_eq!(lab.value(outcomes), "applied");
}
