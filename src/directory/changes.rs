//! What a fact changes: the rows to write, and the lines of the change feed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json, json};

use super::fields::{Field, MemberField, Sort, Value};
use super::history::{Fact, Group, Identity, Person, Saying, Word, fold, restamped};
use super::ids::{TagId, UserId};
use super::life::Life;
use super::time::{Stamp, UnixSeconds};

/// What a line of the change feed is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entity {
    /// A member; the key is its userid.
    Member,
    /// A department; the key is its id.
    Department,
    /// A tag; the key is its id.
    Tag,
}

/// What happened to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It came into being; `fields` has all that is known of it.
    Created,
    /// Some fields changed.
    Updated,
    /// A member bears another userid now; the key is the new one, `fields.userid` has both.
    Renamed,
    /// It is gone.
    Deleted,
    /// A member's openid became known, changed, or is no longer valid.
    Openid,
}

impl Entity {
    /// The word in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Department => "department",
            Self::Tag => "tag",
        }
    }
}

impl Action {
    /// The word in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Renamed => "renamed",
            Self::Deleted => "deleted",
            Self::Openid => "openid",
        }
    }
}

/// One line of the change feed.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// What it is about.
    pub entity: Entity,
    /// Which one.
    pub key: String,
    /// What happened.
    pub action: Action,
    /// field -> [old, new]
    pub fields: Map<String, Json>,
}

impl Change {
    /// A change of one entity.
    #[must_use]
    pub fn new(entity: Entity, key: impl ToString, action: Action, fields: Map<String, Json>) -> Self {
        let key = key.to_string();
        Self { entity, key, action, fields }
    }
}

/// A member's row as the facts tell it.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberRow {
    /// The userid as WeCom wrote it last.
    pub userid: UserId,
    /// What is known; a field that nothing spoke of is absent.
    pub fields: BTreeMap<MemberField, Value>,
    /// WeCom's time of the newest fact.
    pub event_time: UnixSeconds,
    /// WeCom's time of the deletion, if it is deleted.
    pub deleted_at: Option<UnixSeconds>,
}

/// One write to the members' tables. Within a list, all that is taken away comes before what is put.
#[derive(Debug, Clone, PartialEq)]
pub enum RowWrite {
    /// The row under this userid goes: its member is part of another one now, or never was.
    Remove(UserId, Identity),
    /// A member that was not there: starts without an openid, unless it was taken for part of another one
    /// before and had one then.
    Create(MemberRow, Identity),
    /// The member keeps its row; `changed` fields have other values now.
    Update {
        /// The row as it is to be.
        row: MemberRow,
        /// What is different.
        changed: BTreeSet<MemberField>,
        /// Whether the userid is spelled otherwise.
        respelled: bool,
    },
    /// The member's row moves to another userid, with its openid. Whatever openid is known of somebody who
    /// stood there is not taken over: it may turn out to have been somebody else.
    Move {
        /// Where the row is.
        from: UserId,
        /// The row as it is to be.
        row: MemberRow,
        /// Whether the member was present before, so that the change feed has told of it.
        was_present: bool,
    },
}

/// What is to be done about a member's details.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Details {
    /// As it was.
    Keep,
    /// The fields are known.
    Known,
    /// The API must be asked.
    Due,
}

/// What one more fact does.
#[derive(Debug, Clone, PartialEq)]
pub struct Merge {
    /// The fact as it is to be remembered.
    pub fact: Fact,
    /// Writes to the members' tables.
    pub writes: Vec<RowWrite>,
    /// Tags that members came into (true) and left.
    pub tags: Vec<(TagId, UserId, bool)>,
    /// Lines for the change feed.
    pub changes: Vec<Change>,
    /// The present userid of the member that the fact names.
    pub named: UserId,
    /// What it means for that member's details.
    pub details: Details,
    /// Whether something else was said of the same fields in the same second, so that only asking again tells
    /// which holds.
    pub unsettled: bool,
    /// Whether it changed anything, or was at least the newest of its group: else it came too late.
    pub took_effect: bool,
    /// Whether the member is as the fact says: else newer facts hide it.
    pub holds: bool,
    /// Whether an event is hidden by an API answer. The API can settle who is right: a clock may be wrong.
    pub contradicts_api: bool,
}

/// What other stamps for the same facts do; see [`restamp`](super::restamp).
#[derive(Debug, Clone, PartialEq)]
pub struct Restamp {
    /// The facts as they are to be remembered.
    pub facts: Vec<Fact>,
    /// Writes to the members' tables.
    pub writes: Vec<RowWrite>,
    /// Tags that members came into (true) and left.
    pub tags: Vec<(TagId, UserId, bool)>,
    /// Lines for the change feed.
    pub changes: Vec<Change>,
}

/// Gives those of `known` that are later than `latest` plausible stamps; `None` if there are none. `next`: the time of
/// the fact that is about to be added.
#[must_use]
pub fn restamp(known: &[Fact], latest: UnixSeconds, next: Option<UnixSeconds>) -> Option<Restamp> {
    let (facts, restamped) = restamped(known, latest, next)?;
    let mut diff = Diff::default();
    diff.people(&fold(known).with_identities(&restamped), &fold(&facts));
    let Diff { writes, tags, changes } = diff;
    Some(Restamp { facts, writes, tags, changes })
}

/// Adds what was said of `userid` at `at` to the known facts of its group. `arrival` numbers events as they
/// come: later ones have larger numbers, all that one event says the same.
#[must_use]
pub fn merge(known: &[Fact], userid: &UserId, at: At, arrival: i64, word: Word) -> Merge {
    let stamp = at.stamp(known, userid, &word);
    let userid = userid.clone();
    let fact = Fact { userid, stamp, arrival, word };

    let before = fold(known);
    let after = fold(known.iter().chain([&fact]));
    let newest = known.iter().all(|other| other.stamp <= stamp);
    let named = after.bearer(&fact.userid);

    let mut diff = Diff::default();
    diff.people(&before, &after);
    let unsettled = contradicted(known, &fact);
    let holds = holds(&after, &fact);
    let hides = |other: &Fact| other.stamp > stamp && other.stamp.is_observed();
    let contradicts_api = matches!(at, At::Told(_)) && !holds && known.iter().any(hides);
    let details = match at {
        At::Told(_) if unsettled || contradicts_api => Details::Due,
        _ => details(&fact, &before, &named),
    };
    Merge {
        took_effect: newest || !diff.changes.is_empty(),
        writes: diff.writes,
        tags: diff.tags,
        changes: diff.changes,
        named,
        details,
        unsettled,
        holds,
        contradicts_api,
        fact,
    }
}

/// Whether the member whom the fact names is as it says.
fn holds(group: &Group, fact: &Fact) -> bool {
    let shows = |name: &UserId, saying: &Saying<MemberField>| match group.people.get(name) {
        Some(person) => person.life.shows(saying),
        None => matches!(saying, Saying::Deleted | Saying::Absent | Saying::Tagged(_, false)),
    };
    match &fact.word {
        // These are about the very name, not about a member who was renamed from it.
        Word::Of(saying @ (Saying::Absent | Saying::Seen { created: true, .. })) => {
            shows(&fact.userid, saying)
        }
        Word::Of(saying) => shows(&group.bearer(&fact.userid), saying),
        Word::Renamed(to, _) => group.bearer(&fact.userid) == group.bearer(to),
    }
}

/// When something was said, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// By an event, at its CreateTime.
    Told(UnixSeconds),
    /// By an API answer of that second.
    Observed(UnixSeconds),
}

impl At {
    /// WeCom's second.
    #[must_use]
    pub fn seconds(self) -> UnixSeconds {
        match self {
            Self::Told(at) | Self::Observed(at) => at,
        }
    }

    fn stamp(self, known: &[Fact], userid: &UserId, word: &Word) -> Stamp {
        let at = match self {
            Self::Observed(at) => return Stamp::observed(at),
            Self::Told(at) => at,
        };
        match word {
            Word::Of(Saying::Deleted) => Stamp::deleted(at),
            Word::Of(Saying::Seen { created: true, .. }) => {
                let deletion = Stamp::deleted(at);
                let same_second = |fact: &Fact| {
                    fact.stamp == deletion && fact.userid == *userid && fact.word == Word::Of(Saying::Deleted)
                };
                if known.iter().any(same_second) { Stamp::reborn(at) } else { Stamp::told(at) }
            }
            _ => Stamp::told(at),
        }
    }
}

/// An event that carries nothing but the departments is all that callbacks set up since 2022-08-15 get:
/// the rest must be asked for. So must what two events of one second contradict each other in.
fn details(fact: &Fact, before: &Group, named: &UserId) -> Details {
    let (Word::Of(Saying::Seen { fields, .. }) | Word::Renamed(_, fields)) = &fact.word else {
        return Details::Keep;
    };
    let told: BTreeSet<MemberField> = fields.keys().copied().collect();
    let only_departments = told.iter().all(|f| matches!(f, MemberField::Department | MemberField::LeaderOf));
    let is_rename = matches!(fact.word, Word::Renamed(..));
    let is_new = !before.people.get(named).is_some_and(|p| p.life.alive()) && !is_rename;
    if told.contains(&MemberField::Name) && is_new {
        Details::Known
    } else if is_new || (only_departments && !is_rename) {
        Details::Due
    } else {
        Details::Keep
    }
}

/// Whether another event of the same second says something else of the same userid.
fn contradicted(known: &[Fact], fact: &Fact) -> bool {
    let same_second =
        |other: &&Fact| other.userid == fact.userid && other.stamp.seconds() == fact.stamp.seconds();
    known.iter().filter(same_second).any(|other| match (&other.word, &fact.word) {
        (Word::Of(Saying::Seen { fields: a, .. }), Word::Of(Saying::Seen { fields: b, .. })) => {
            b.iter().any(|(field, (_, value))| a.get(field).is_some_and(|(_, v)| v != value))
        }
        (Word::Of(Saying::Deleted), Word::Of(Saying::Seen { created, .. })) => *created,
        (Word::Of(Saying::Seen { created, .. }), Word::Of(Saying::Deleted)) => *created,
        _ => false,
    })
}

#[derive(Default)]
struct Diff {
    writes: Vec<RowWrite>,
    tags: Vec<(TagId, UserId, bool)>,
    changes: Vec<Change>,
}

impl Diff {
    fn people(&mut self, before: &Group, after: &Group) {
        let by_identity = |group: &Group| -> BTreeMap<Identity, Person> {
            let people = group.people.values().cloned();
            people.map(|p| (p.identity.clone(), p)).collect()
        };
        let (old, new) = (by_identity(before), by_identity(after));
        let mut leaving = Vec::new();
        for (identity, person) in &old {
            match new.get(identity) {
                Some(now) if person.life.born && now.userid != person.userid => leaving.push((person, now)),
                Some(now) if person.life.born && now.life.born => self.update(person, now),
                Some(now) if person.life.born => {
                    self.remove(person);
                    self.tags(None, Some(now));
                }
                // Only tags have spoken of it so far: there was no row.
                Some(_) => {}
                None => self.remove(person),
            }
        }
        self.renames(leaving);
        for (identity, person) in &new {
            match old.get(identity) {
                Some(was) if was.life.born => {}
                Some(was) => self.create(Some(was), person),
                None => self.create(None, person),
            }
        }
        // Taking away first leaves no two rows under one userid on the way.
        self.writes.sort_by_key(|write| !matches!(write, RowWrite::Remove(..)));
    }

    /// Renames such that none moves onto a name that another has yet to leave; in a circle there is no
    /// such order, and the rest is told as deletions and creations.
    fn renames(&mut self, mut leaving: Vec<(&Person, &Person)>) {
        while !leaving.is_empty() {
            let free = leaving
                .iter()
                .position(|(_, now)| !leaving.iter().any(|(other, _)| other.userid == now.userid));
            let Some(free) = free else { break };
            let (was, now) = leaving.remove(free);
            self.rename(was, now);
        }
        for (was, _) in &leaving {
            self.remove(was);
        }
        for (_, now) in leaving {
            self.create(None, now);
        }
    }

    fn rename(&mut self, was: &Person, now: &Person) {
        match (was.life.alive(), now.life.alive()) {
            (true, true) => {
                let both = json!([was.userid.as_str(), now.userid.as_str()]);
                self.change(&now.userid, Action::Renamed, Map::from_iter([("userid".to_owned(), both)]));
                let (_, fields) = difference(Some(&was.life), &now.life);
                if !fields.is_empty() {
                    self.change(&now.userid, Action::Updated, fields);
                }
            }
            // The feed tells of those who are present.
            (true, false) => self.change(&was.userid, Action::Deleted, Map::new()),
            (false, true) => self.created(now),
            (false, false) => {}
        }
        let (from, row) = (was.userid.clone(), row(now));
        let was_present = was.life.alive();
        self.writes.push(RowWrite::Move { from, row, was_present });
        self.tags(Some(was), Some(now));
    }

    fn update(&mut self, was: &Person, now: &Person) {
        if !was.life.alive() && now.life.alive() {
            // The deletion turned out to be somebody else's.
            self.created(now);
            let (from, row) = (was.userid.clone(), row(now));
            self.writes.push(RowWrite::Move { from, row, was_present: false });
            return self.tags(Some(was), Some(now));
        }
        let (changed, mut fields) = difference(Some(&was.life), &now.life);
        let respelled = !was.userid.same_spelling(&now.userid);
        if respelled {
            fields.insert("userid".into(), json!([was.userid.as_str(), now.userid.as_str()]));
        }
        // What is said late of somebody who is gone is kept, but is no news.
        if !fields.is_empty() && (was.life.alive() || now.life.alive()) {
            self.change(&now.userid, updated(&was.life, &now.life), fields);
        }
        let row = row(now);
        if respelled || !changed.is_empty() || row != self::row(was) {
            self.writes.push(RowWrite::Update { row, changed, respelled });
        }
        self.tags(Some(was), Some(now));
    }

    fn create(&mut self, was: Option<&Person>, now: &Person) {
        if now.life.born {
            if now.life.alive() {
                self.created(now);
            }
            self.writes.push(RowWrite::Create(row(now), now.identity.clone()));
        }
        self.tags(was, Some(now));
    }

    fn created(&mut self, now: &Person) {
        let (_, mut fields) = difference(None, &now.life);
        fields.insert("userid".into(), json!([null, now.userid.as_str()]));
        self.change(&now.userid, Action::Created, fields);
    }

    fn remove(&mut self, was: &Person) {
        if was.life.born {
            if was.life.alive() {
                self.change(&was.userid, Action::Deleted, Map::new());
            }
            self.writes.push(RowWrite::Remove(was.userid.clone(), was.identity.clone()));
        }
        self.tags(Some(was), None);
    }

    fn tags(&mut self, was: Option<&Person>, now: Option<&Person>) {
        let held = |person: Option<&Person>| -> BTreeMap<TagId, UserId> {
            person.map_or_else(BTreeMap::new, |p| {
                p.life.tags_now().map(|tag| (tag, p.userid.clone())).collect()
            })
        };
        let (old, new) = (held(was), held(now));
        for (tag, userid) in &old {
            if new.get(tag) != Some(userid) {
                self.tags.push((*tag, userid.clone(), false));
                self.changes.push(tag_item(*tag, "member", json!([userid.as_str(), null])));
            }
        }
        for (tag, userid) in &new {
            match old.get(tag).filter(|was| *was == userid) {
                Some(was) if was.same_spelling(userid) => {}
                // The row is to be written as the member is now, which is no news of the tag.
                Some(_) => self.tags.push((*tag, userid.clone(), true)),
                None => {
                    self.tags.push((*tag, userid.clone(), true));
                    self.changes.push(tag_item(*tag, "member", json!([null, userid.as_str()])));
                }
            }
        }
    }

    fn change(&mut self, userid: &UserId, action: Action, fields: Map<String, Json>) {
        self.changes.push(Change::new(Entity::Member, userid, action, fields));
    }
}

/// A line saying that `item` came into a tag or left it: `[null, new]` or `[old, null]`.
#[must_use]
pub fn tag_item(tag: TagId, item: &str, old_and_new: Json) -> Change {
    let fields = Map::from_iter([(item.to_owned(), old_and_new)]);
    Change::new(Entity::Tag, tag, Action::Updated, fields)
}

fn row(person: &Person) -> MemberRow {
    let fields = person.life.fields.iter();
    MemberRow {
        userid: person.userid.clone(),
        fields: fields.map(|(field, (_, value))| (*field, value.clone())).collect(),
        event_time: person.life.event_time(),
        deleted_at: person.life.deleted.map(Stamp::seconds),
    }
}

/// Whether the change from `was` to `now` is a deletion, or merely a change.
pub(super) fn updated<F: Field>(was: &Life<F>, now: &Life<F>) -> Action {
    if was.deleted.is_none() && now.deleted.is_some() { Action::Deleted } else { Action::Updated }
}

/// The fields in which two lives differ, and their old and new values as the change feed shows them.
pub(super) fn difference<F: Field>(was: Option<&Life<F>>, now: &Life<F>) -> (BTreeSet<F>, Map<String, Json>) {
    let mut changed = BTreeSet::new();
    let mut shown = Map::new();
    for field in F::ALL {
        let old = was.and_then(|life| life.fields.get(field)).map(|(_, value)| value);
        let new = now.fields.get(field).map(|(_, value)| value);
        if old == new {
            continue;
        }
        changed.insert(*field);
        let (old, new) = (show(field.sort(), old), show(field.sort(), new));
        if old != new {
            shown.insert(field.name().to_owned(), json!([old, new]));
        }
    }
    let deleted = |life: &Life<F>| life.deleted.map(|stamp| stamp.seconds().0);
    let (old, new) = (was.and_then(deleted), deleted(now));
    if old != new {
        shown.insert("deleted_at".into(), json!([old, new]));
    }
    (changed, shown)
}

/// A value as its column holds it: emptied text is empty, what nothing spoke of is null.
fn show(sort: Sort, value: Option<&Value>) -> Json {
    match (sort, value) {
        (_, None) => Json::Null,
        (Sort::Text, Some(Value::Emptied)) => json!(""),
        (Sort::Ids | Sort::Leads | Sort::Attrs, Some(Value::Emptied)) => json!([]),
        (_, Some(value)) => value.to_json(),
    }
}
