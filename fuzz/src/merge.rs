//! The merge: whatever the order of arrival, and however often a thing is said, the directory is the same.
//!
//! What is said here has a second of its own each: of what WeCom says in one second, the order of arrival
//! decides, and no more is promised. `tests/order.rs` tries the same through the database.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use serde_json::{Value as Json, json};
use wecom_dirsync::directory::changes::{Action, At, Entity, MemberRow, Merge, RowWrite, merge};
use wecom_dirsync::directory::fields::Sort;
use wecom_dirsync::directory::history::{Fact, Group, Word, fold, shortened};
use wecom_dirsync::directory::life::{Saying, timed};
use wecom_dirsync::directory::{
    Change, DepartmentField, DepartmentId, Field, Fields, MemberField, Stamp, TagId, UnixSeconds, UserId,
    Value, department,
};

use super::Draw;

/// One thing said of a member.
#[derive(Debug, Clone)]
struct Told {
    userid: UserId,
    at: At,
    word: Word,
}

/// Members in two orders, departments in two orders, or one member's long history told shorter.
pub fn check(data: &[u8]) {
    let mut draw = Draw(data);
    let how = draw.byte();
    let mut rng = Rng::with_seed(how.into());
    match how % 8 {
        0 => departments(&mut draw, &mut rng),
        1 => long(&mut draw),
        // What takes more than a few facts to go wrong is rare, and the time grows with their square.
        _ => members(&mut draw, &mut rng, if how < 224 { 5 } else { 12 }),
    }
}

/// A time after `at`: mostly seconds later, now and then days.
fn later(draw: &mut Draw<'_>, at: &mut i64) -> UnixSeconds {
    let gap = draw.byte();
    *at += if gap < 200 { 1 + i64::from(gap % 4) } else { 86_400 * i64::from(gap - 199) };
    UnixSeconds(*at)
}

fn stamp(at: At) -> Stamp {
    match at {
        At::Told(at) => Stamp::told(at),
        At::Observed(at) => Stamp::observed(at),
    }
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
        if values & 4 == 0 { Value::Emptied } else { Value::Int((values % 5).into()) },
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

fn told(draw: &mut Draw<'_>, names: &[&str], at: &mut i64) -> Told {
    let name = |draw: &mut Draw<'_>| UserId::parse(draw.of(names)).unwrap();
    let what = draw.below(16);
    let userid = name(draw);
    let second = later(draw, at);
    // API answers show members, and that there are none; all else is told by events.
    let at = if matches!(what, 13..16) { At::Observed(second) } else { At::Told(second) };
    let mut timed_fields = || timed(stamp(at), &fields(draw));
    let word = match what {
        0..3 | 13 => Word::Of(Saying::Seen { created: true, fields: timed_fields() }),
        3..6 | 14 => Word::Of(Saying::Seen { created: false, fields: timed_fields() }),
        6 | 7 => Word::Of(Saying::Deleted),
        8 | 9 => Word::Of(Saying::Tagged(TagId(draw.below(2).into()), draw.below(3) > 0)),
        15 => Word::Of(Saying::Absent),
        _ => {
            let fields = timed_fields();
            Word::Renamed(name(draw), fields)
        }
    };
    Told { userid, at, word }
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
        all.push(told(draw, &["ann", "Ann", "bob", "cid", "dee"], &mut at));
    }
    let facts: Vec<Fact> = (0..).zip(&all).map(|(arrival, told)| fact(told, arrival)).collect();
    facts.iter().for_each(survives_its_json);
    let expected = fold(&facts);
    let mut company = Company::default();
    let order = any_order(rng, all.len());
    for (arrival, index) in (0..).zip(&order) {
        company.hear(&all[*index], arrival);
    }
    let found = fold(&company.facts);
    assert_eq!(found, expected, "{order:?}: {all:#?}");
    company.compare(&expected, &|| format!("{order:?}: {all:#?}"));
}

/// As the merge makes it of what has a second of its own.
fn fact(told: &Told, arrival: i64) -> Fact {
    let deletion = told.word == Word::Of(Saying::Deleted);
    let stamp = match told.at {
        At::Told(at) if deletion => Stamp::deleted(at),
        at => stamp(at),
    };
    Fact { userid: told.userid.clone(), stamp, arrival, word: told.word.clone() }
}

fn survives_its_json(fact: &Fact) {
    let kept: Json = serde_json::from_str(&fact.word_to_json().to_string()).unwrap();
    assert_eq!(Fact::word_from_json(fact.stamp, &kept).as_ref(), Some(&fact.word), "{kept}");
}

/// What the tables hold, and what a reader of the change feed has made of it.
#[derive(Default)]
struct Company {
    facts: Vec<Fact>,
    rows: BTreeMap<UserId, MemberRow>,
    tags: BTreeSet<(TagId, UserId)>,
    feed: Feed,
}

impl Company {
    /// The facts of all names that renames tie to this one; and, of a rename, to the other.
    fn known(&self, told: &Told) -> Vec<Fact> {
        let mut names = BTreeSet::from([&told.userid]);
        if let Word::Renamed(to, _) = &told.word {
            names.insert(to);
        }
        loop {
            let before = names.len();
            for fact in &self.facts {
                if let Word::Renamed(to, _) = &fact.word
                    && (names.contains(to) || names.contains(&fact.userid))
                {
                    names.extend([to, &fact.userid]);
                }
            }
            if names.len() == before {
                break;
            }
        }
        self.facts.iter().filter(|fact| names.contains(&fact.userid)).cloned().collect()
    }

    fn hear(&mut self, told: &Told, arrival: i64) {
        let known = self.known(told);
        let merged = merge(&known, &told.userid, told.at, arrival, told.word.clone());
        assert_eq!(merged.fact, fact(told, arrival));
        assert!(!merged.unsettled, "nothing else was said in that second");
        if self.facts.iter().any(|fact| fact.stamp == merged.fact.stamp) {
            let nothing = merged.changes.is_empty() && merged.writes.is_empty() && merged.tags.is_empty();
            assert!(nothing, "said before: {told:?} {merged:#?}");
        }
        self.write(&merged);
        self.facts.push(merged.fact);
    }

    /// As the store does it, with keys that are unique.
    fn write(&mut self, merged: &Merge) {
        for write in &merged.writes {
            if let RowWrite::Move { from: gone, .. } | RowWrite::Remove(gone, _) = write {
                assert!(self.rows.remove(gone).is_some(), "{gone} has no row: {merged:#?}");
            }
        }
        for write in &merged.writes {
            let (row, there) = match write {
                RowWrite::Remove(..) => continue,
                RowWrite::Create(row, _) | RowWrite::Move { row, .. } => (row, false),
                RowWrite::Update { row, .. } => (row, true),
            };
            let replaced = self.rows.remove(&row.userid);
            assert_eq!(replaced.is_some(), there, "{}: {merged:#?}", row.userid);
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

    fn compare(&self, expected: &Group, case: &dyn Fn() -> String) {
        let born = expected.people.values().filter(|person| person.life.born);
        let rows = born.clone().map(|person| MemberRow {
            userid: person.userid.clone(),
            fields: person.life.fields.iter().map(|(field, (_, value))| (*field, value.clone())).collect(),
            event_time: person.life.event_time(),
            deleted_at: person.life.deleted.map(Stamp::seconds),
        });
        let rows: Vec<MemberRow> = rows.collect();
        assert!(rows.iter().eq(self.rows.values()), "{:#?} not {rows:#?} {}", self.rows, case());
        let same_spelling =
            rows.iter().zip(self.rows.values()).all(|(a, b)| a.userid.same_spelling(&b.userid));
        assert!(same_spelling, "{}", case());
        let tags = expected
            .people
            .values()
            .flat_map(|person| person.life.tags_now().map(|tag| (tag, person.userid.clone())));
        let tags: BTreeSet<_> = tags.collect();
        assert_eq!(self.tags, tags, "{}", case());

        let alive = born.filter(|person| person.life.alive());
        let feed = alive.map(|person| {
            let shown =
                person.life.fields.iter().map(|(field, (_, value))| (field.name(), show(*field, value)));
            let shown =
                shown.filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.to_owned(), value));
            let userid = ("userid".to_owned(), json!(person.userid.as_str()));
            (person.userid.as_str().to_ascii_lowercase(), shown.chain([userid]).collect())
        });
        assert_eq!(self.feed.entities, feed.collect(), "{}", case());
        let in_tags =
            tags.iter().map(|(tag, userid)| (tag.to_string(), userid.as_str().to_ascii_lowercase()));
        assert_eq!(self.feed.tags, in_tags.collect(), "{}", case());
    }
}

fn show<F: Field>(field: F, value: &Value) -> Json {
    match (field.sort(), value) {
        (Sort::Text, Value::Emptied) => json!(""),
        (Sort::Ids | Sort::Leads | Sort::Attrs, Value::Emptied) => json!([]),
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

/// One member's history told shorter tells the same, also with what comes up to a day late.
fn long(draw: &mut Draw<'_>) {
    let mut at = 1_600_000_000;
    let mut facts: Vec<Fact> = Vec::new();
    while !draw.done() && facts.len() < 40 {
        let told = told(draw, &["ann", "ann", "ann", "ANN"], &mut at);
        facts.push(fact(&told, facts.len() as i64));
    }
    let Some(shorter) = shortened(&facts) else { return };
    assert!(shorter.len() < facts.len());
    shorter.iter().for_each(survives_its_json);
    assert_eq!(fold(&shorter), fold(&facts), "{facts:#?}");
    let mut late = at - 86_400;
    let late: Vec<Fact> = (0..2)
        .map(|arrival| fact(&told(draw, &["ann", "bob"], &mut late), 1000 + arrival))
        .filter(|late| facts.iter().all(|fact| fact.stamp.seconds() != late.stamp.seconds()))
        .collect();
    assert_eq!(
        fold(shorter.iter().chain(&late)),
        fold(facts.iter().chain(&late)),
        "{facts:#?}\nshorter {shorter:#?}\nthen {late:#?}"
    );
}

fn departments(draw: &mut Draw<'_>, rng: &mut Rng) {
    let mut at = 1_600_000_000;
    let mut all: Vec<(At, Saying<DepartmentField>)> = Vec::new();
    while !draw.done() && all.len() < 24 {
        let what = draw.below(12);
        let second = later(draw, &mut at);
        let at = if what > 9 { At::Observed(second) } else { At::Told(second) };
        let mut fields = Fields::new();
        if !(6..=10).contains(&what) {
            let (bits, value) = (draw.byte(), draw.byte());
            let all = [
                (DepartmentField::Name, Value::text(&"x".repeat(usize::from(value % 3)))),
                (
                    DepartmentField::ParentId,
                    if value % 5 == 0 { Value::Emptied } else { Value::Int(value.into()) },
                ),
                (DepartmentField::Order, Value::Int((value / 5).into())),
            ];
            fields
                .extend(all.into_iter().zip(0..).filter(|(_, n)| bits >> n & 1 == 1).map(|(field, _)| field));
        }
        let saying = match what {
            0..6 | 11 => Saying::Seen { created: what < 3, fields: timed(stamp(at), &fields) },
            6 | 7 => Saying::Deleted,
            8 | 9 => Saying::Tagged(TagId(draw.below(2).into()), draw.below(3) > 0),
            _ => Saying::Absent,
        };
        all.push((at, saying));
    }
    let id = DepartmentId(7);
    let order = any_order(rng, all.len());
    let mut facts: Vec<department::Fact> = Vec::new();
    let mut feed = Feed::default();
    for (arrival, index) in (0..).zip(&order) {
        let (at, saying) = &all[*index];
        let merged = department::merge(&facts, id, *at, arrival, saying.clone());
        if facts.iter().any(|fact| fact.stamp == merged.fact.stamp) {
            assert!(
                merged.difference.changes.is_empty() && !merged.difference.changed,
                "said before: {merged:#?}"
            );
        }
        merged.difference.changes.iter().for_each(|change| feed.read(change));
        let kept: Json = serde_json::from_str(&merged.fact.saying_to_json().to_string()).unwrap();
        assert_eq!(Saying::from_json(merged.fact.stamp, &kept).as_ref(), Some(saying), "{kept}");
        facts.push(merged.fact);
    }
    let life = department::fold(&facts);
    let mut sorted = facts.clone();
    sorted.sort_by_key(|fact| fact.stamp);
    sorted.dedup_by_key(|fact| fact.stamp);
    assert_eq!(department::fold(&sorted), life, "{order:?}: {all:#?}");
    if let Some(shorter) = department::shortened(&sorted) {
        assert!(shorter.len() < sorted.len());
        assert_eq!(department::fold(&shorter), life, "{shorter:#?} of {sorted:#?}");
    }
    let shown = life.fields.iter().map(|(field, (_, value))| (field.name().to_owned(), show(*field, value)));
    let shown: BTreeMap<String, Json> = shown.filter(|(_, value)| !value.is_null()).collect();
    let expected = life.alive().then_some(shown);
    assert_eq!(feed.entities.get("7"), expected.as_ref(), "{order:?}: {all:#?}");
    let tags: BTreeSet<_> = life.tags_now().map(|tag| (tag.to_string(), "7".to_owned())).collect();
    assert_eq!(feed.tags, tags, "{order:?}: {all:#?}");
}
