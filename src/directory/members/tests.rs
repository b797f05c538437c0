use fastrand::Rng;

use super::compaction::snapshot_of;
use super::group::sort;
use super::*;
use crate::directory::fact::{CompleteListing, Fact, Presence, Source, TimedFields, timed};
use crate::directory::{Fields, MemberField, Rank, Stamp, TagId, UnixSeconds, UserId, Value};

const START: i64 = 1_600_000_000;

fn userid(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn named(name: &str) -> Fields<MemberField> {
    Fields::from([(MemberField::Name, Value::text(name))])
}

fn present(name: &str, kind: Presence, at: i64, value: &str) -> Record {
    let source = match kind {
        Presence::Listed => Source::Api(UnixSeconds(at)),
        _ => Source::Event(UnixSeconds(at)),
    };
    Record::new(userid(name), source, at, MemberFact::Entity(Fact::present(kind, source, &named(value))))
}

fn event(name: &str, at: i64, fact: MemberFact) -> Record {
    Record::new(userid(name), Source::Event(UnixSeconds(at)), at, fact)
}

fn renamed(name: &str, to: &str, at: i64) -> Record {
    event(name, at, MemberFact::Renamed(userid(to), TimedFields::new()))
}

fn deleted(name: &str, at: i64) -> Record {
    event(name, at, MemberFact::Entity(Fact::Deleted))
}

fn openid(name: &str, at: i64, openid: &str) -> Record {
    let conversion = Conversion::Openid(openid.into());
    event(name, at, MemberFact::Answered(Answer { asked_before: 0, conversion }))
}

fn openid_of(records: &[Record], name: &str) -> Option<String> {
    fold(records).members[&userid(name)].openid().map(str::to_owned)
}

#[test]
fn an_openid_belongs_to_the_holder_of_the_name_at_the_time() {
    let records = [
        present("c", Presence::Created, 10, "former"),
        present("c", Presence::Created, 30, "next"),
        openid("c", 35, "o-next"),
        renamed("c", "f1", 20),
    ];
    assert_eq!(openid_of(&records, "c").as_deref(), Some("o-next"));
    assert_eq!(openid_of(&records, "f1"), None);
}

#[test]
fn a_refusal_does_not_follow_a_member_that_an_event_names_later() {
    let refused = Answer { asked_before: 0, conversion: Conversion::Refused(60111, "not found".into()) };
    let records = [
        present("c", Presence::Created, 10, "a"),
        event("c", 11, MemberFact::Answered(refused)),
        present("c", Presence::Created, 30, "b"),
        deleted("c", 40),
        renamed("c", "f1", 20),
    ];
    let group = fold(&records);
    assert!(!group.members[&userid("f1")].is_refused());
    assert!(group.members[&userid("f1")].state.is_present());
}

#[test]
fn an_answer_while_the_name_changes_hands_counts_for_nobody() {
    let mut answer = openid("c", 31, "o");
    answer.fact.1 =
        MemberFact::Answered(Answer { asked_before: 2, conversion: Conversion::Openid("o".into()) });
    let records = [
        present("c", Presence::Created, 10, "a"),
        renamed("c", "d", 30),
        present("c", Presence::Created, 31, "b"),
        answer,
    ];
    assert_eq!(openid_of(&records, "c"), None);
    assert_eq!(openid_of(&records, "d"), None);
}

#[test]
fn an_answer_dated_shortly_before_its_member_counts() {
    let records = [present("c", Presence::Created, 31, "b"), openid("c", 29, "o")];
    assert_eq!(openid_of(&records, "c").as_deref(), Some("o"));
}

#[test]
fn a_late_event_does_not_revive_what_a_listing_lacked() {
    let listing = |arrival| CompleteListing { second: UnixSeconds(100), arrival };
    let late = present("x", Presence::Updated, 90, "late");
    let mut records = implied_by_listing(&[], &userid("x"), listing(7));
    records.push(late);
    assert!(!fold(&records).members[&userid("x")].state.is_present());
    // A listed member stays, also after a late deletion.
    let known = [present("y", Presence::Created, 50, "y")];
    let mut records = implied_by_listing(&known, &userid("y"), listing(70));
    records.extend(known);
    records.push(deleted("y", 60));
    assert!(fold(&records).members[&userid("y")].state.is_present());
    assert_eq!(implied_by_listing(&records, &userid("y"), listing(70)), []);
}

/// A random fact about one of `names` in second `at`.
fn any_fact(rng: &mut Rng, names: &[&str], at: i64) -> Record {
    let name = userid(names[rng.usize(0..names.len())]);
    let second = UnixSeconds(START + at);
    let mut fields = Fields::new();
    for field in [MemberField::Name, MemberField::Position, MemberField::Mobile] {
        if rng.bool() {
            fields.insert(field, Value::text(&"x".repeat(rng.usize(0..4))));
        }
    }
    if rng.bool() {
        fields.insert(MemberField::Department, Value::Ids((0..rng.u32(0..4)).collect()));
        fields.insert(MemberField::LeaderOf, Value::Flags(vec![rng.bool(), rng.bool()]));
    }
    let (event, api) = (Source::Event(second), Source::Api(second));
    let entity = |fact| MemberFact::Entity(fact);
    let (source, fact) = match rng.u32(0..16) {
        0 | 1 => (event, entity(Fact::Deleted)),
        2 => (api, entity(Fact::Absent)),
        3 => (api, entity(Fact::present(Presence::Listed, api, &fields))),
        4 | 5 => (event, entity(Fact::Tagged(TagId(rng.u32(0..3)), rng.bool()))),
        6 | 7 => (event, entity(Fact::present(Presence::Created, event, &fields))),
        8 | 9 => {
            let to = userid(names[rng.usize(0..names.len())]);
            let stamp = Stamp::new(second, Rank::Renamed);
            (event, MemberFact::Renamed(to, timed(stamp, &fields)))
        }
        10 | 11 => {
            let conversion = if rng.bool() {
                Conversion::Openid(format!("o{}", rng.u32(0..9)))
            } else {
                Conversion::Refused(60111, String::new())
            };
            (api, MemberFact::Answered(Answer { asked_before: rng.i64(0..3), conversion }))
        }
        _ => (event, entity(Fact::present(Presence::Updated, event, &fields))),
    };
    Record::new(name, source, rng.i64(1..1_000_000), fact)
}

#[test]
fn the_order_of_arrival_does_not_matter_within_one_second_either() {
    for seed in 0..3000 {
        let mut rng = Rng::with_seed(seed);
        let number = rng.usize(2..8);
        let mut records: Vec<Record> = (0..number)
            .map(|_| {
                let at = rng.i64(0..4);
                any_fact(&mut rng, &["a", "b", "c"], at)
            })
            .collect();
        let expected = fold(&records);
        for _ in 0..6 {
            rng.shuffle(&mut records);
            for record in &mut records {
                record.arrival = rng.i64(1..100);
            }
            assert_eq!(fold(&records), expected, "{seed}: {records:#?}");
        }
    }
}

#[test]
fn a_member_may_be_created_and_renamed_or_deleted_within_a_second() {
    let group =
        fold(&[present("c", Presence::Created, 10, "c"), renamed("c", "d", 10), renamed("d", "a", 10)]);
    assert_eq!(group.members.keys().map(UserId::as_str).collect::<Vec<_>>(), ["a"]);
    let created_and_deleted = [present("c", Presence::Created, 10, "c"), deleted("c", 10)];
    assert!(!fold(&created_and_deleted).members[&userid("c")].state.is_present());
    let before = [present("c", Presence::Created, 5, "c")];
    assert!(fold(before.iter().chain(&created_and_deleted)).members[&userid("c")].state.is_present());
    let renamed_and_created = [renamed("c", "d", 10), present("c", Presence::Created, 10, "next")];
    let group = fold(before.iter().chain(&renamed_and_created));
    assert_eq!(group.members.keys().map(UserId::as_str).collect::<Vec<_>>(), ["c", "d"]);
}

#[test]
fn every_fact_survives_its_json_form() {
    let mut rng = Rng::with_seed(1);
    for at in 0..500 {
        let record = any_fact(&mut rng, &["a", "b"], at);
        let kept = record.member_fact().to_json(record.stamp);
        assert_eq!(MemberFact::from_json(record.stamp, &kept).as_ref(), Some(record.member_fact()), "{kept}");
    }
}

/// The present members, as the rows would contain them.
fn rows(group: &RenameGroup) -> Vec<(UserId, bool, String)> {
    let members = group.members.values().filter(|member| member.state.is_present());
    let shown = |member: &Member| {
        let fields: Vec<_> = member.state.fields.iter().map(|(f, (_, value))| (f, value)).collect();
        let tags: Vec<_> = member.state.tags_now().collect();
        format!("{fields:?} {tags:?} {:?} {}", member.openid(), member.is_refused())
    };
    members.map(|member| (member.userid.clone(), true, shown(member))).collect()
}

#[test]
fn a_snapshot_folds_to_the_same_and_so_does_what_follows() {
    let mut compacted_some = 0;
    for seed in 0..3000 {
        let mut rng = Rng::with_seed(seed);
        let names: &[&str] = if seed % 2 == 0 { &["a"] } else { &["a", "b", "c"] };
        let span = 86_400 * rng.i64(1..60);
        let number = if seed % 20 == 0 { 330 } else { rng.usize(20..60) };
        let mut ats: Vec<i64> = (0..number).map(|_| rng.i64(0..span)).collect();
        ats.sort_unstable();
        ats.dedup();
        let records: Vec<Record> = ats.iter().map(|at| any_fact(&mut rng, names, *at)).collect();
        let Some(compacted) = compact(&records) else { continue };
        compacted_some += 1;
        assert!(compacted.records.len() <= records.len(), "{seed}");
        assert_eq!(
            rows(&fold(&compacted.records)),
            rows(&fold(&records)),
            "{seed}: {records:#?}\n{compacted:#?}"
        );
        // Newer facts about present names; the snapshot has dropped former names.
        let later: Vec<Record> = (1..6)
            .map(|n| {
                let at = span + 3600 * n;
                any_fact(&mut rng, &["a"], at)
            })
            .collect();
        if names.len() == 1 {
            let chain = |all: &[Record]| rows(&fold(all.iter().chain(&later)));
            assert_eq!(chain(&compacted.records), chain(&records), "{seed}");
        }
        // Facts below the snapshot fold to the same in every order.
        let mut late: Vec<Record> = (0..4)
            .map(|_| {
                let at = rng.i64(0..compacted.up_to.0 - START);
                any_fact(&mut rng, names, at)
            })
            .collect();
        let folded = |late: &[Record]| fold(compacted.records.iter().chain(late));
        let expected = folded(&late);
        for _ in 0..4 {
            rng.shuffle(&mut late);
            assert_eq!(folded(&late), expected, "{seed}");
        }
    }
    assert!(compacted_some > 1000, "only {compacted_some}");
}

#[test]
fn a_snapshot_anywhere_folds_to_the_same() {
    for seed in 0..20_000 {
        let mut rng = Rng::with_seed(seed);
        let number = rng.usize(4..9);
        let records: Vec<Record> = (0..number)
            .map(|n| any_fact(&mut rng, &["a", "b", "c"], i64::try_from(n / (1 + number % 2) * 5).unwrap()))
            .collect();
        let mut sorted: Vec<&Record> = records.iter().collect();
        sort(&mut sorted);
        let last = sorted[rng.usize(1..number)].stamp.second;
        let (old, recent) = sorted.split_at(sorted.partition_point(|r| r.stamp.second <= last));
        let compacted = snapshot_of(old, recent).unwrap();
        let (found, expected) = (rows(&fold(&compacted.records)), rows(&fold(&records)));
        assert_eq!(found, expected, "{seed}: {records:#?}\n{compacted:#?}");
    }
}
