//! The merge: in every order of arrival, and with every repetition, the directory is the same, also within one second.
//! `tests/suite/order.rs` tries the same through the database.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use serde_json::{Value as Json, json};
use wecom_dirsync::directory::diff::{Action, Entity, MemberMerge, MemberRow, RowWrite, merge};
use wecom_dirsync::directory::fact::{Fact, FactRecord, Presence, Source, timed};
use wecom_dirsync::directory::fields::FieldKind;
use wecom_dirsync::directory::members::{Answer, Conversion, MemberFact, Record, RenameGroup, compact, fold};
use wecom_dirsync::directory::{
    Change, DepartmentField, Field, Fields, MemberField, Rank, Stamp, TagId, UnixSeconds, UserId, Value,
    numbered,
};

use super::Draw;

/// Members in two orders, departments in two orders, or one member's long history compacted.
pub fn check(data: &[u8]) {
    let mut draw = Draw(data);
    let how = draw.byte();
    let mut rng = Rng::with_seed(how.into());
    match how % 8 {
        0 => departments(&mut draw, &mut rng),
        1 => long(&mut draw),
        // Faults that take many facts are rare, and the time grows with their square.
        _ => members(&mut draw, &mut rng, if how < 224 { 5 } else { 12 }),
    }
}

/// A time from `at` on: the same second, mostly seconds later, now and then days.
fn later(draw: &mut Draw<'_>, at: &mut i64) -> UnixSeconds {
    let gap = draw.byte();
    *at += if gap < 200 { i64::from(gap % 4) } else { 86_400 * i64::from(gap - 199) };
    UnixSeconds(*at)
}

fn fields(draw: &mut Draw<'_>) -> Fields<MemberField> {
    let (bits, values) = (draw.byte(), draw.byte());
    let mut fields = Fields::new();
    let mut put = |bit: u8, field: MemberField, value: Value| {
        if bits & bit != 0 {
            fields.insert(field, value);
        }
    };
    let ids: Vec<u32> = (1..4).filter(|n| values >> n & 1 == 1).collect();
    put(1, MemberField::Name, Value::text(&"x".repeat(usize::from(values % 3))));
    put(
        2,
        MemberField::Gender,
        if values & 4 == 0 { Value::Cleared } else { Value::Int((values % 5).into()) },
    );
    put(4, MemberField::Department, Value::Ids(ids.clone()));
    put(
        8,
        MemberField::LeaderOf,
        match bits & 4 {
            0 => Value::Flags(vec![values & 1 == 0, values & 2 == 0]),
            _ => Value::Ids(ids.into_iter().take(1).collect()),
        },
    );
    put(16, MemberField::ExtAttr, Value::Attrs(json!([{"name": "n", "text": {"value": values % 4}}])));
    fields
}

fn any_fact(draw: &mut Draw<'_>, names: &[&str], at: &mut i64) -> (Source, Record) {
    let name = |draw: &mut Draw<'_>| UserId::parse(draw.of(names)).unwrap();
    let what = draw.below(18);
    let userid = name(draw);
    let second = later(draw, at);
    // API answers show members, their absence and their openids; all else comes from events.
    let source = if matches!(what, 13..18) { Source::Api(second) } else { Source::Event(second) };
    let fact = match what {
        0..3 => MemberFact::Entity(Fact::present(Presence::Created, source, &fields(draw))),
        3..6 => MemberFact::Entity(Fact::present(Presence::Updated, source, &fields(draw))),
        6 | 7 => MemberFact::Entity(Fact::Deleted),
        8 | 9 => MemberFact::Entity(Fact::Tagged(TagId(draw.below(2).into()), draw.below(3) > 0)),
        13 | 14 => MemberFact::Entity(Fact::present(Presence::Listed, source, &fields(draw))),
        15 => MemberFact::Entity(Fact::Absent),
        16 => answered(draw, Conversion::Openid("o1".into())),
        17 => answered(draw, Conversion::Refused(60111, String::new())),
        _ => {
            let fields = timed(Stamp::new(second, Rank::Renamed), &fields(draw));
            MemberFact::Renamed(name(draw), fields)
        }
    };
    (source, Record::new(userid, source, 0, fact))
}

fn answered(draw: &mut Draw<'_>, conversion: Conversion) -> MemberFact {
    MemberFact::Answered(Answer { asked_before: draw.below(3).into(), conversion })
}

/// `0..n`, some of them twice, in any order.
fn any_order(rng: &mut Rng, n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.extend((0..n).filter(|_| rng.u8(0..4) == 0));
    rng.shuffle(&mut order);
    order
}

fn members(draw: &mut Draw<'_>, rng: &mut Rng, most: usize) {
    let mut at = 1_700_000_000;
    let mut all = Vec::new();
    while !draw.done() && all.len() < most {
        all.push(any_fact(draw, &["ann", "Ann", "bob", "cid", "dee"], &mut at));
    }
    all.iter().for_each(|(_, record)| survives_its_json(record));
    let expected = fold(all.iter().map(|(_, record)| record));
    let mut company = Company::default();
    let order = any_order(rng, all.len());
    for (arrival, index) in (0..).zip(&order) {
        let (source, record) = &all[*index];
        company.receive(*source, record, arrival);
    }
    assert_eq!(fold(&company.records), expected, "{order:?}: {all:#?}");
    company.compare(&expected, &|| format!("{order:?}: {all:#?}"));
}

fn survives_its_json(record: &Record) {
    let kept: Json = serde_json::from_str(&record.member_fact().to_json(record.stamp).to_string()).unwrap();
    assert_eq!(MemberFact::from_json(record.stamp, &kept).as_ref(), Some(record.member_fact()), "{kept}");
}

/// The content of the tables, and what a reader of the change feed has made of it.
#[derive(Default)]
struct Company {
    records: Vec<Record>,
    rows: BTreeMap<UserId, MemberRow>,
    tags: BTreeSet<(TagId, UserId)>,
    feed: Feed,
}

impl Company {
    /// The facts of all names that renames tie to this one; and, of a rename, to the other.
    fn known(&self, record: &Record) -> Vec<Record> {
        let mut names = BTreeSet::from([record.userid()]);
        if let MemberFact::Renamed(to, _) = record.member_fact() {
            names.insert(to);
        }
        loop {
            let before = names.len();
            for record in &self.records {
                if let MemberFact::Renamed(to, _) = record.member_fact()
                    && (names.contains(to) || names.contains(record.userid()))
                {
                    names.extend([to, record.userid()]);
                }
            }
            if names.len() == before {
                break;
            }
        }
        self.records.iter().filter(|record| names.contains(record.userid())).cloned().collect()
    }

    fn receive(&mut self, source: Source, record: &Record, arrival: i64) {
        let known = self.known(record);
        let merged = merge(&known, record.userid(), source, arrival, record.member_fact().clone());
        assert!(merged.record.repeats(record));
        if known.iter().any(|other| other.repeats(record)) {
            return;
        }
        self.write(&merged);
        self.records.push(merged.record);
    }

    /// As the store does it, with keys that are unique.
    fn write(&mut self, merged: &MemberMerge) {
        for write in &merged.writes {
            if let RowWrite::Move { from: gone, .. } | RowWrite::Remove(gone) = write {
                assert!(self.rows.remove(gone).is_some(), "{gone} has no row: {merged:#?}");
            }
        }
        for write in &merged.writes {
            let (row, is_there) = match write {
                RowWrite::Remove(..) => continue,
                RowWrite::Create(row) | RowWrite::Move { row, .. } => (row, false),
                RowWrite::Update { row, .. } => (row, true),
            };
            let replaced = self.rows.remove(&row.userid);
            assert_eq!(replaced.is_some(), is_there, "{}: {merged:#?}", row.userid);
            self.rows.insert(row.userid.clone(), row.clone());
        }
        for (tag, userid, within) in &merged.tags {
            let item = (*tag, userid.clone());
            if *within {
                self.tags.insert(item)
            } else {
                self.tags.remove(&item)
            };
        }
        merged.changes.iter().for_each(|change| self.feed.read(change));
    }

    fn compare(&self, expected: &RenameGroup, case: &dyn Fn() -> String) {
        let known = expected.members.values().filter(|member| member.state.known);
        let rows = known.clone().map(|member| MemberRow {
            userid: member.userid.clone(),
            fields: member.state.fields.iter().map(|(field, (_, value))| (*field, value.clone())).collect(),
            event_time: member.state.event_time(),
            deleted_at: member.state.deleted.map(|stamp| stamp.second),
            openid: member.openid().map(str::to_owned),
            is_refused: member.is_refused(),
        });
        let rows: Vec<MemberRow> = rows.collect();
        assert!(rows.iter().eq(self.rows.values()), "{:#?} not {rows:#?} {}", self.rows, case());
        let tags = expected
            .members
            .values()
            .flat_map(|member| member.state.tags_now().map(|tag| (tag, member.userid.clone())));
        let tags: BTreeSet<_> = tags.collect();
        assert_eq!(self.tags, tags, "{}", case());

        let present = known.filter(|member| member.state.is_present());
        let feed = present.map(|member| {
            let shown =
                member.state.fields.iter().map(|(field, (_, value))| (field.name(), show(*field, value)));
            let shown =
                shown.filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.to_owned(), value));
            let userid = ("userid".to_owned(), json!(member.userid.as_str()));
            let openid = member.openid().map(|openid| ("openid".to_owned(), json!(openid)));
            (member.userid.as_str().to_ascii_lowercase(), shown.chain([userid]).chain(openid).collect())
        });
        assert_eq!(self.feed.entities, feed.collect(), "{}", case());
        let in_tags =
            tags.iter().map(|(tag, userid)| (tag.to_string(), userid.as_str().to_ascii_lowercase()));
        assert_eq!(self.feed.tags, in_tags.collect(), "{}", case());
    }
}

fn show<F: Field>(field: F, value: &Value) -> Json {
    match (field.kind(), value) {
        (FieldKind::Text, Value::Cleared) => json!(""),
        (FieldKind::Ids | FieldKind::Leads | FieldKind::Attrs, Value::Cleared) => json!([]),
        (_, value) => value.to_json(),
    }
}

/// What a reader makes of the change feed, who checks that each old value is the one that it has.
#[derive(Default)]
struct Feed {
    entities: BTreeMap<String, BTreeMap<String, Json>>,
    tags: BTreeSet<(String, String)>,
}

impl Feed {
    fn read(&mut self, change: &Change) {
        let key = change.key.to_ascii_lowercase();
        if change.entity == Entity::Tag {
            let (_, old_and_new) = change.fields.iter().next().unwrap();
            let item = |value: &Json| match value {
                Json::String(text) => text.to_ascii_lowercase(),
                other => other.to_string(),
            };
            let done = match &old_and_new[0] {
                Json::Null => self.tags.insert((key, item(&old_and_new[1]))),
                old => self.tags.remove(&(key, item(old))),
            };
            return assert!(done, "{change:?}");
        }
        match change.action {
            Action::Created => {
                let there = self.entities.insert(key.clone(), BTreeMap::new());
                assert!(there.is_none(), "{change:?} but it is there");
            }
            Action::Deleted => {
                assert!(self.entities.remove(&key).is_some(), "{change:?} but it is not there");
                return;
            }
            Action::Renamed => {
                let old = change.fields["userid"][0].as_str().unwrap().to_ascii_lowercase();
                let moved = self.entities.remove(&old).unwrap_or_else(|| panic!("{change:?}: not there"));
                assert!(self.entities.insert(key.clone(), moved).is_none(), "{change:?} but it is there");
            }
            Action::Updated | Action::Openid => {}
        }
        let entity = self.entities.get_mut(&key).unwrap_or_else(|| panic!("{change:?}: not there"));
        for (name, old_and_new) in &change.fields {
            let was = entity.remove(name).unwrap_or_default();
            assert_eq!(was, old_and_new[0], "{change:?}");
            if !old_and_new[1].is_null() {
                entity.insert(name.clone(), old_and_new[1].clone());
            }
        }
    }
}

/// A compacted history of one member folds to the same, also with what follows.
fn long(draw: &mut Draw<'_>) {
    let mut at = 1_600_000_000;
    let mut records: Vec<Record> = Vec::new();
    while !draw.done() && records.len() < 80 {
        records.push(any_fact(draw, &["ann", "ann", "ann", "ANN"], &mut at).1);
    }
    let Some(compacted) = compact(&records) else { return };
    compacted.records.iter().for_each(survives_its_json);
    let rows = |group: &RenameGroup| -> Vec<_> {
        let present = group.members.values().filter(|member| member.state.is_present());
        let row = |member: &wecom_dirsync::directory::members::Member| {
            let fields = member.state.fields.clone();
            (member.userid.clone(), fields, member.openid().map(str::to_owned), member.is_refused())
        };
        present.map(row).collect()
    };
    assert_eq!(rows(&fold(&compacted.records)), rows(&fold(&records)), "{records:#?}");
}

fn departments(draw: &mut Draw<'_>, rng: &mut Rng) {
    let mut at = 1_600_000_000;
    let mut all: Vec<(Source, Fact<DepartmentField>)> = Vec::new();
    while !draw.done() && all.len() < 24 {
        let what = draw.below(12);
        let second = later(draw, &mut at);
        let source = if what > 9 { Source::Api(second) } else { Source::Event(second) };
        let mut fields = Fields::new();
        if !(6..=10).contains(&what) {
            let (bits, value) = (draw.byte(), draw.byte());
            let all = [
                (DepartmentField::Name, Value::text(&"x".repeat(usize::from(value % 3)))),
                (
                    DepartmentField::ParentId,
                    if value % 5 == 0 { Value::Cleared } else { Value::Int(value.into()) },
                ),
                (DepartmentField::Order, Value::Int((value / 5).into())),
            ];
            fields
                .extend(all.into_iter().zip(0..).filter(|(_, n)| bits >> n & 1 == 1).map(|(field, _)| field));
        }
        let fact = match what {
            0..3 => Fact::present(Presence::Created, source, &fields),
            3..6 => Fact::present(Presence::Updated, source, &fields),
            6 | 7 => Fact::Deleted,
            8 | 9 => Fact::Tagged(TagId(draw.below(2).into()), draw.below(3) > 0),
            10 => Fact::Absent,
            _ => Fact::present(Presence::Listed, source, &fields),
        };
        all.push((source, fact));
    }
    let record = |(source, fact): &(Source, Fact<DepartmentField>)| FactRecord {
        stamp: Stamp::new(source.second(), fact.rank(*source)),
        arrival: 0,
        fact: fact.clone(),
    };
    let in_order: Vec<numbered::Record<DepartmentField>> = all.iter().map(record).collect();
    let order = any_order(rng, all.len());
    let mut records: Vec<numbered::Record<DepartmentField>> = Vec::new();
    let mut feed = Feed::default();
    for (arrival, index) in (0..).zip(&order) {
        let (source, fact) = &all[*index];
        let merged = numbered::merge(&records, 7, *source, arrival, fact.clone());
        if records.iter().any(|record| record.repeats(&merged.record)) {
            continue;
        }
        merged.difference.changes.iter().for_each(|change| feed.read(change));
        let kept: Json =
            serde_json::from_str(&merged.record.fact.to_json(merged.record.stamp).to_string()).unwrap();
        assert_eq!(Fact::from_json(merged.record.stamp, &kept).as_ref(), Some(fact), "{kept}");
        records.push(merged.record);
    }
    let state = numbered::fold(&records);
    assert_eq!(numbered::fold(&in_order), state, "{order:?}: {all:#?}");
    if let Some(shorter) = numbered::compact(&records) {
        assert!(shorter.len() < records.len());
        let (mut shorter, mut state) = (numbered::fold(&shorter), state.clone());
        shorter.newest = Stamp::BEGINNING;
        state.newest = Stamp::BEGINNING;
        assert_eq!(shorter, state, "{records:#?}");
    }
    let shown = state.fields.iter().map(|(field, (_, value))| (field.name().to_owned(), show(*field, value)));
    let shown: BTreeMap<String, Json> = shown.filter(|(_, value)| !value.is_null()).collect();
    let expected = state.is_present().then_some(shown);
    assert_eq!(feed.entities.get("7"), expected.as_ref(), "{order:?}: {all:#?}");
    let tags: BTreeSet<_> = state.tags_now().map(|tag| (tag.to_string(), "7".to_owned())).collect();
    assert_eq!(feed.tags, tags, "{order:?}: {all:#?}");
}
