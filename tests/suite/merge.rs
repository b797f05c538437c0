//! Histories in which the order of arrival once decided, each through the database: tags, listings, openids, one second,
//! and long histories of renamed members.

use std::time::Duration;

use crate::common::on_all_processors;
use crate::events::{self, Scratch, deliver, directory};
use crate::replica::Replica;
use fastrand::Rng;
use wecom_dirsync::demo::sender::contact_event;
use wecom_dirsync::directory::diff::Entity;
use wecom_dirsync::directory::openid::Backoff;
use wecom_dirsync::directory::{DepartmentId, Fields, MemberField, TagId, UnixSeconds, UserId, Value};
use wecom_dirsync::store::Connection;
use wecom_dirsync::store::ConversionOutcome;
use wecom_dirsync::store::observations::{Observation, observe};
use wecom_dirsync::store::openids::{ConversionClaim, claim, record_conversion};

const T: i64 = 1_700_000_000;
const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

fn userid(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

/// One step of a history; times are seconds after [`T`].
#[derive(Debug, Clone)]
enum Step {
    Event(i64, &'static str, String),
    Observed(i64, Observation),
}

fn event(at: i64, change_type: &'static str, elements: &[(&str, &str)]) -> Step {
    let inner = elements.iter().map(|(name, value)| format!("<{name}>{value}</{name}>")).collect();
    Step::Event(at, change_type, inner)
}

fn create(at: i64, name: &str) -> Step {
    event(at, "create_user", &[("UserID", name), ("Name", name), ("Department", "1")])
}

fn rename(at: i64, from: &str, to: &str) -> Step {
    event(at, "update_user", &[("UserID", from), ("NewUserID", to)])
}

fn delete(at: i64, name: &str) -> Step {
    event(at, "delete_user", &[("UserID", name)])
}

fn apply(db: &Connection, step: &Step) {
    match step {
        Step::Event(at, change_type, inner) => {
            deliver(db, &contact_event(events::CORP, T + at, change_type, inner));
        }
        Step::Observed(at, observation) => {
            observe(db, observation, UnixSeconds(T + at), NOW).unwrap();
        }
    }
}

fn text(db: &Connection, sql: &str) -> String {
    let rows = wecom_dirsync::store::queries::table(db, sql).unwrap();
    rows[1..].iter().map(|row| row.join(" ")).collect::<Vec<_>>().join("; ")
}

fn record(db: &Connection, claim: &ConversionClaim, at: i64, outcome: &ConversionOutcome) -> bool {
    let backoff = Backoff { first: Duration::from_secs(60), max: Duration::from_secs(60) };
    let call = UnixSeconds(T + at);
    record_conversion(db, claim, outcome, call, backoff, NOW.into(), 0.0).unwrap()
}

fn convert(db: &Connection, name: &str, at: i64, openid: &str) {
    let claim = claim(db, &userid(name), None, NOW).unwrap().unwrap();
    assert!(record(db, &claim, at, &ConversionOutcome::Openid(openid.into())));
}

/// Every order of `0..n`.
fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for shorter in permutations(n - 1) {
        for place in 0..n {
            let mut order = shorter.clone();
            order.insert(place, n - 1);
            all.push(order);
        }
    }
    all
}

/// Applies the steps in every order, and expects the same directory and a feed that rebuilds it.
fn same_in_every_order(steps: &[Step]) -> String {
    let mut expected: Option<String> = None;
    for order in permutations(steps.len()) {
        let db = Scratch::new();
        for n in &order {
            apply(&db, &steps[*n]);
        }
        let found = directory(&db, false);
        assert_eq!(Replica::of_feed(&db).comparable(), Replica::of_tables(&db).comparable(), "{order:?}");
        match &expected {
            None => expected = Some(found),
            Some(expected) => assert_eq!(&found, expected, "{order:?} of {steps:#?}"),
        }
    }
    expected.unwrap()
}

#[test]
fn within_one_second_the_order_of_arrival_does_not_matter() {
    let update = |name: &str, value: &str| {
        event(5, "update_user", &[("UserID", name), ("Name", value), ("Position", value)])
    };
    same_in_every_order(&[create(5, "a"), update("a", "x"), update("a", "y")]);
    same_in_every_order(&[create(1, "a"), delete(5, "a"), create(5, "a")]);
    same_in_every_order(&[create(1, "a"), update("a", "x"), delete(5, "a")]);
    same_in_every_order(&[create(1, "a"), rename(5, "a", "b"), rename(5, "a", "c"), delete(5, "b")]);
    let tag = |items: &str, which: &'static str| event(5, "update_tag", &[("TagId", "1"), (which, items)]);
    same_in_every_order(&[
        create(1, "a"),
        tag("a", "AddUserItems"),
        tag("a", "DelUserItems"),
        tag("a", "AddUserItems"),
    ]);
    let party =
        |change_type, name: &str| event(5, change_type, &[("Id", "7"), ("Name", name), ("ParentId", "1")]);
    same_in_every_order(&[
        party("create_party", "p"),
        party("update_party", "q"),
        party("update_party", "r"),
        event(5, "delete_party", &[("Id", "7")]),
    ]);
}

#[test]
fn a_contradiction_within_one_second_is_settled_by_the_api() {
    let db = Scratch::new();
    apply(&db, &event(1, "create_user", &[("UserID", "a"), ("Name", "x"), ("Department", "1")]));
    assert_eq!(text(&db, "SELECT details_state FROM members"), "known");
    apply(&db, &event(1, "update_user", &[("UserID", "a"), ("Name", "y")]));
    assert_eq!(text(&db, "SELECT name, details_state FROM members"), "y due");
    apply(&db, &event(9, "update_tag", &[("TagId", "1"), ("AddUserItems", "a")]));
    assert_eq!(text(&db, "SELECT count(*) FROM daemon_state WHERE name = 'comparison_due'"), "0");
    apply(&db, &event(9, "update_tag", &[("TagId", "1"), ("DelUserItems", "a")]));
    assert_eq!(text(&db, "SELECT count(*) FROM daemon_state WHERE name = 'comparison_due'"), "1");
}

#[test]
fn a_late_event_adds_nobody_to_a_tag_that_was_deleted_since() {
    let name = || Observation::Tag(TagId(1), "t".into());
    let steps = [
        create(1, "a"),
        Step::Observed(1000, name()),
        Step::Observed(1002, Observation::TagAbsent(TagId(1))),
        Step::Observed(1007, name()),
        event(1001, "update_tag", &[("TagId", "1"), ("AddUserItems", "a"), ("AddPartyItems", "3")]),
    ];
    let found = same_in_every_order(&steps);
    assert!(found.contains("1|t|"), "{found}");
    let db = Scratch::new();
    steps.iter().for_each(|step| apply(&db, step));
    assert_eq!(
        text(&db, "SELECT (SELECT count(*) FROM tag_members), (SELECT count(*) FROM tag_departments)"),
        "0 0"
    );
}

#[test]
fn an_event_older_than_the_last_complete_listing_adds_nothing_that_it_lacked() {
    let db = Scratch::new();
    apply(&db, &create(1, "a"));
    let listed = Fields::from([(MemberField::Department, Value::Ids(vec![1]))]);
    apply(&db, &Step::Observed(100, Observation::Member(userid("b"), listed)));
    for kind in [Entity::Member, Entity::Department, Entity::Tag] {
        apply(&db, &Step::Observed(100, Observation::Complete(kind)));
    }
    apply(&db, &create(50, "late"));
    apply(&db, &event(50, "create_party", &[("Id", "7"), ("Name", "late")]));
    // A deletion that the listing disproves ends the former existence only.
    apply(&db, &delete(60, "a"));
    let present = "SELECT userid FROM members WHERE deleted_at IS NULL ORDER BY userid";
    assert_eq!(text(&db, present), "a; b");
    assert_eq!(text(&db, "SELECT count(*) FROM departments WHERE deleted_at IS NULL"), "0");
    assert_eq!(
        text(&db, "SELECT count(*) FROM daemon_state WHERE name = 'comparison_due'"),
        "1",
        "asked again"
    );
    // What is newer than the listing counts.
    apply(&db, &create(100, "new"));
    assert_eq!(text(&db, present), "a; b; new");

    apply(&db, &Step::Observed(200, Observation::Tag(TagId(1), "t".into())));
    apply(&db, &Step::Observed(200, Observation::TagMember(TagId(1), userid("a"), true)));
    apply(&db, &Step::Observed(200, Observation::TagContentComplete(TagId(1))));
    apply(&db, &event(150, "update_tag", &[("TagId", "1"), ("AddUserItems", "b"), ("DelUserItems", "a")]));
    assert_eq!(text(&db, "SELECT userid FROM tag_members"), "a");
}

#[test]
fn an_openid_stays_with_its_person_through_a_late_rename() {
    let db = Scratch::new();
    apply(&db, &create(10, "c"));
    let asked = claim(&db, &userid("c"), None, NOW).unwrap().unwrap();
    let not_yet = ConversionOutcome::NotYet { errcode: Some(43004), errmsg: String::new() };
    assert!(record(&db, &asked, 11, &not_yet));
    apply(&db, &create(30, "c"));
    convert(&db, "c", 35, "o-next");
    let inner = "<UserID>c</UserID><NewUserID>f1</NewUserID>";
    let applied = deliver(&db, &contact_event(events::CORP, T + 20, "update_user", inner));
    assert_eq!(applied.to_convert, [userid("f1")], "the converter is woken for it");
    let members = "SELECT userid, openid_state, coalesce(openid, '-') FROM members ORDER BY userid";
    assert_eq!(text(&db, members), "c converted o-next; f1 pending -");
    assert_eq!(
        text(&db, "SELECT count(*) FROM members WHERE openid_next_attempt_at <= 1800000000"),
        "1",
        "f1 is due"
    );
    Replica::assert_feed_equals_tables(&db);
}

#[test]
fn a_refusal_stays_with_its_person_through_a_late_rename() {
    let db = Scratch::new();
    apply(&db, &create(10, "c"));
    let asked = claim(&db, &userid("c"), None, NOW).unwrap().unwrap();
    let never = ConversionOutcome::Never { errcode: 60111, errmsg: "userid not found".into() };
    assert!(record(&db, &asked, 11, &never));
    assert_eq!(text(&db, "SELECT openid_state FROM members"), "failed");
    apply(&db, &create(30, "c"));
    apply(&db, &delete(40, "c"));
    apply(&db, &rename(20, "c", "f1"));
    let present = "SELECT userid, openid_state, openid_next_attempt_at FROM members WHERE deleted_at IS NULL";
    assert_eq!(text(&db, present), "f1 pending 1800000000");
}

#[test]
fn the_cost_of_a_renamed_member_with_many_events_is_bounded() {
    let db = Scratch::new();
    apply(&db, &create(0, "old"));
    apply(&db, &rename(1, "old", "new"));
    let mut most = 0;
    for n in 0..2_000 {
        let value = n.to_string();
        let name = if n % 10 == 9 { "old" } else { "new" };
        apply(&db, &event(2 + n, "update_user", &[("UserID", name), ("Position", &value)]));
        let facts: usize = text(&db, "SELECT count(*) FROM member_facts").parse().unwrap();
        most = most.max(facts);
    }
    assert!(most <= 300, "{most} facts");
    assert_eq!(
        text(&db, "SELECT userid, position FROM members WHERE deleted_at IS NULL").split("; ").count(),
        1
    );
    let mut most = 0;
    for n in 2_000..3_000 {
        let value = n.to_string();
        apply(&db, &event(2 + n, "update_user", &[("UserID", "new"), ("Position", &value)]));
        most = most.max(text(&db, "SELECT count(*) FROM member_facts").parse().unwrap());
    }
    assert_eq!(text(&db, "SELECT userid, position FROM members WHERE deleted_at IS NULL"), "new 2999");
    let kept: usize = text(&db, "SELECT count(*) FROM member_facts").parse().unwrap();
    assert!(kept <= 290, "{kept} facts of at most {most}");
}

/// Random sets of events and API answers, also of equal seconds, in random orders.
fn random_sets(sets: u64) {
    on_all_processors(0..sets, |seed| {
        let mut rng = Rng::with_seed(seed);
        let steps: Vec<Step> = (0..rng.usize(2..10)).map(|_| any_step(&mut rng)).collect();
        let mut order: Vec<usize> = (0..steps.len()).collect();
        let mut expected: Option<String> = None;
        for _ in 0..4 {
            rng.shuffle(&mut order);
            let db = Scratch::new();
            order.iter().for_each(|n| apply(&db, &steps[*n]));
            let found = directory(&db, false);
            assert_eq!(
                Replica::of_feed(&db).comparable(),
                Replica::of_tables(&db).comparable(),
                "{seed} {order:?} {steps:#?}"
            );
            match &expected {
                None => expected = Some(found),
                Some(expected) => assert_eq!(&found, expected, "{seed} {order:?} of {steps:#?}"),
            }
        }
    });
}

fn any_step(rng: &mut Rng) -> Step {
    let at = rng.i64(0..6);
    let name = |rng: &mut Rng| ["a", "b", "c"][rng.usize(0..3)].to_owned();
    let value = |rng: &mut Rng| rng.u32(0..3).to_string();
    let (userid_, other, value) = (name(rng), name(rng), value(rng));
    match rng.u32(0..14) {
        0 | 1 => create(at, &userid_),
        2 | 3 => {
            event(at, "update_user", &[("UserID", &userid_), ("Position", &value), ("Department", &value)])
        }
        4 => delete(at, &userid_),
        5 => rename(at, &userid_, &other),
        6 | 7 => {
            let which = ["AddUserItems", "DelUserItems"][rng.usize(0..2)];
            event(at, "update_tag", &[("TagId", "1"), (which, &userid_), ("AddPartyItems", "7")])
        }
        8 => Step::Observed(at, Observation::MemberAbsent(userid(&userid_))),
        9 => {
            let fields = Fields::from([(MemberField::Position, Value::text(&value))]);
            Step::Observed(at, Observation::Member(userid(&userid_), fields))
        }
        10 => Step::Observed(at, Observation::Tag(TagId(1), value)),
        11 => Step::Observed(at, Observation::DepartmentAbsent(DepartmentId(7))),
        12 => event(at, "create_party", &[("Id", "7"), ("Name", &value)]),
        _ => event(at, "update_party", &[("Id", "7"), ("Name", &value), ("ParentId", &value)]),
    }
}

#[test]
fn random_sets_with_equal_seconds_end_in_the_same_directory() {
    random_sets(1_500);
}

#[test]
#[ignore = "the long form"]
fn random_sets_with_equal_seconds_end_in_the_same_directory_100_000() {
    random_sets(100_000);
}
