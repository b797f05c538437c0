//! What a fact changes: the rows to write, and the lines of the change feed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json, json};

use super::entity::{EntityState, is_below_snapshot};
use super::fact::{Fact, Presence, Source, with_plausible_stamps};
use super::fields::{Field, FieldKind, MemberField, Value};
use super::ids::{TagId, UserId};
use super::members::{Conversion, Member, MemberFact, MemberIdentity, Record, RenameGroup, fold};
use super::time::UnixSeconds;

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
    /// The userid as WeCom spelled it last.
    pub userid: UserId,
    /// Known fields; one that no fact set is absent.
    pub fields: BTreeMap<MemberField, Value>,
    /// WeCom's time of the newest fact.
    pub event_time: UnixSeconds,
    /// WeCom's time of the deletion; `None` while present.
    pub deleted_at: Option<UnixSeconds>,
    /// The member's openid, if WeCom gave one.
    pub openid: Option<String>,
    /// Whether WeCom refused to convert this member for good, and no later event names it.
    pub is_refused: bool,
}

/// One write to the members' tables. Within a list, removals precede inserts, so that no userid is taken twice.
#[derive(Debug, Clone, PartialEq)]
pub enum RowWrite {
    /// Removes the row: its member is part of another one now, or never existed.
    Remove(UserId),
    /// Inserts a member that had no row: it starts due.
    Create(MemberRow),
    /// Changes the row in place.
    Update {
        /// The row as it is to be.
        row: MemberRow,
        /// The fields that differ.
        changed: BTreeSet<MemberField>,
        /// Whether the spelling of the userid differs.
        respelled: bool,
    },
    /// Moves the row to another userid, with its attempts.
    Move {
        /// The userid of the row until now.
        from: UserId,
        /// The row as it is to be.
        row: MemberRow,
        /// Whether the member was present before.
        was_present: bool,
    },
}

/// What is to be done about a member's details.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Details {
    /// Leaves the state as it is.
    Keep,
    /// The fields are known.
    Known,
    /// The API must be asked.
    Due,
}

/// What one more fact does.
#[derive(Debug, Clone, PartialEq)]
pub struct Merge {
    /// The fact as it is to be stored.
    pub record: Record,
    /// Writes to the members' tables.
    pub writes: Vec<RowWrite>,
    /// Tags that members came into (true) and left.
    pub tags: Vec<(TagId, UserId, bool)>,
    /// Lines for the change feed.
    pub changes: Vec<Change>,
    /// The present userid of the member that the fact names.
    pub named: UserId,
    /// Whether that member is present.
    pub is_present: bool,
    /// What is to be done about that member's details.
    pub details: Details,
    /// Whether another fact of the same second contradicts this one, so that only the API tells which holds.
    pub is_unsettled: bool,
    /// Whether the fact changed anything, or is at least the newest of its group; else it came too late.
    pub took_effect: bool,
    /// Whether the member agrees with the fact; else newer facts hide it.
    pub holds: bool,
    /// Whether an API answer hides an event. The API can settle who is right: a clock may be wrong.
    pub contradicts_api: bool,
}

/// What other stamps for the same facts do; see [`restamp`](super::restamp).
#[derive(Debug, Clone, PartialEq)]
pub struct Restamp {
    /// The facts as they are to be stored.
    pub records: Vec<Record>,
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
pub fn restamp(known: &[Record], latest: UnixSeconds, next: Option<UnixSeconds>) -> Option<Restamp> {
    let (records, restamped) = with_plausible_stamps(known, latest, next)?;
    let mut diff = Diff::default();
    diff.members(&fold(known).with_identities(&restamped), &fold(&records));
    let Diff { writes, tags, changes } = diff;
    Some(Restamp { records, writes, tags, changes })
}

/// Adds a fact about `userid` to the known facts of its group. `arrival`: the number of the event that carries it.
#[must_use]
pub fn merge(known: &[Record], userid: &UserId, source: Source, arrival: i64, fact: MemberFact) -> Merge {
    let record = Record::new(userid.clone(), source, arrival, fact);
    let stamp = record.stamp;
    let before = fold(known);
    let after = fold(known.iter().chain([&record]));
    let is_newest = known.iter().all(|other| other.stamp <= stamp);
    let named = after.resolve(userid);

    let mut diff = Diff::default();
    diff.members(&before, &after);
    let is_unsettled = is_contradicted(known, &record);
    let holds = holds(&after, &record);
    let hides = |other: &Record| other.stamp > stamp && other.stamp.is_observed();
    let is_event = matches!(source, Source::Event(_));
    let is_about_tag = matches!(record.member_fact(), MemberFact::Entity(Fact::Tagged(..)));
    let contradicts_api = is_event && !holds && known.iter().any(hides);
    let is_late = is_event && is_below_snapshot(known, stamp);
    let details = if is_event && !is_about_tag && (is_unsettled || contradicts_api || is_late) {
        Details::Due
    } else {
        details(&record, &before, &named)
    };
    Merge {
        took_effect: is_newest || !diff.changes.is_empty(),
        writes: diff.writes,
        tags: diff.tags,
        changes: diff.changes,
        is_present: after.is_present(&named),
        named,
        details,
        is_unsettled,
        holds,
        contradicts_api,
        record,
    }
}

/// Whether the member that the record names agrees with it.
fn holds(group: &RenameGroup, record: &Record) -> bool {
    let agrees = |name: &UserId, fact: &Fact<MemberField>| match group.members.get(name) {
        Some(member) => member.state.agrees_with(fact),
        None => matches!(fact, Fact::Deleted | Fact::Absent | Fact::Tagged(_, false)),
    };
    match record.member_fact() {
        // These are about the very name, not about a member that was renamed from it.
        MemberFact::Entity(
            fact @ (Fact::Absent | Fact::Present(Presence::Created | Presence::Listed, _)),
        ) => agrees(record.userid(), fact),
        MemberFact::Entity(fact) => agrees(&group.resolve(record.userid()), fact),
        MemberFact::Renamed(to, _) => group.resolve(record.userid()) == group.resolve(to),
        MemberFact::FormerName(to, _) => group.resolve(record.userid()) == *to,
        MemberFact::Answered(answer) => {
            group.members.get(record.userid()).is_some_and(|member| match &answer.conversion {
                Conversion::Openid(openid) => member.openid() == Some(openid),
                Conversion::Refused(..) => member.is_refused(),
            })
        }
    }
}

/// An event that carries nothing but the departments is all that callbacks set up since 2022-08-15 get:
/// the rest must be fetched.
fn details(record: &Record, before: &RenameGroup, named: &UserId) -> Details {
    let (MemberFact::Entity(Fact::Present(_, fields)) | MemberFact::Renamed(_, fields)) =
        record.member_fact()
    else {
        return Details::Keep;
    };
    let set: BTreeSet<MemberField> = fields.keys().copied().collect();
    let only_departments = set.iter().all(|f| matches!(f, MemberField::Department | MemberField::LeaderOf));
    let is_rename = matches!(record.member_fact(), MemberFact::Renamed(..));
    let is_new = !before.is_present(named) && !is_rename;
    if set.contains(&MemberField::Name) && is_new {
        Details::Known
    } else if is_new || (only_departments && !is_rename) {
        Details::Due
    } else {
        Details::Keep
    }
}

/// Whether another fact about the same userid and second contradicts this one.
fn is_contradicted(known: &[Record], record: &Record) -> bool {
    let same_second =
        |other: &&Record| other.userid() == record.userid() && other.stamp.second == record.stamp.second;
    known.iter().filter(same_second).any(|other| match (other.member_fact(), record.member_fact()) {
        (MemberFact::Entity(a), MemberFact::Entity(b)) => a.contradicts(b),
        (MemberFact::Renamed(a, _), MemberFact::Renamed(b, _)) => a != b,
        (MemberFact::Renamed(..), MemberFact::Entity(Fact::Deleted | Fact::Present(..)))
        | (MemberFact::Entity(Fact::Deleted | Fact::Present(..)), MemberFact::Renamed(..)) => true,
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
    fn members(&mut self, before: &RenameGroup, after: &RenameGroup) {
        let by_identity = |group: &RenameGroup| -> BTreeMap<MemberIdentity, Member> {
            let members = group.members.values().cloned();
            members.map(|member| (member.identity.clone(), member)).collect()
        };
        let (old, new) = (by_identity(before), by_identity(after));
        let mut leaving = Vec::new();
        for (identity, member) in &old {
            match new.get(identity) {
                Some(now) if member.state.known && now.userid != member.userid => leaving.push((member, now)),
                Some(now) if member.state.known && now.state.known => self.update(member, now),
                Some(now) if member.state.known => {
                    self.remove(member);
                    self.tags(None, Some(now));
                }
                // Only tags or answers named it so far: there was no row.
                Some(_) => {}
                None => self.remove(member),
            }
        }
        self.renames(leaving);
        for (identity, member) in &new {
            match old.get(identity) {
                Some(was) if was.state.known => {}
                Some(was) => self.create(Some(was), member),
                None => self.create(None, member),
            }
        }
        // Removals first, so that no userid is taken twice.
        self.writes.sort_by_key(|write| !matches!(write, RowWrite::Remove(..)));
    }

    /// Orders renames so that none moves to a userid that another member has yet to leave. A circle has no such order; its
    /// members are deleted and created.
    fn renames(&mut self, mut leaving: Vec<(&Member, &Member)>) {
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

    fn rename(&mut self, was: &Member, now: &Member) {
        match (was.state.is_present(), now.state.is_present()) {
            (true, true) => {
                let both = json!([was.userid.as_str(), now.userid.as_str()]);
                self.change(&now.userid, Action::Renamed, Map::from_iter([("userid".to_owned(), both)]));
                let (_, fields) = difference(Some(&was.state), &now.state);
                if !fields.is_empty() {
                    self.change(&now.userid, Action::Updated, fields);
                }
                self.openid(was.openid(), now);
            }
            // The feed has present members only.
            (true, false) => self.change(&was.userid, Action::Deleted, Map::new()),
            (false, true) => self.created(now),
            (false, false) => {}
        }
        let (from, row) = (was.userid.clone(), row(now));
        let was_present = was.state.is_present();
        self.writes.push(RowWrite::Move { from, row, was_present });
        self.tags(Some(was), Some(now));
    }

    fn update(&mut self, was: &Member, now: &Member) {
        if !was.state.is_present() && now.state.is_present() {
            // The deletion turned out to concern another holder of the name.
            self.created(now);
            let (from, row) = (was.userid.clone(), row(now));
            self.writes.push(RowWrite::Move { from, row, was_present: false });
            return self.tags(Some(was), Some(now));
        }
        let (changed, mut fields) = difference(Some(&was.state), &now.state);
        let respelled = !was.userid.same_spelling(&now.userid);
        if respelled {
            fields.insert("userid".into(), json!([was.userid.as_str(), now.userid.as_str()]));
        }
        // Late facts about a deleted member are kept, but are no news.
        if !fields.is_empty() && (was.state.is_present() || now.state.is_present()) {
            self.change(&now.userid, updated(&was.state, &now.state), fields);
        }
        if now.state.is_present() {
            self.openid(was.openid(), now);
        }
        let row = row(now);
        if respelled || !changed.is_empty() || row != self::row(was) {
            self.writes.push(RowWrite::Update { row, changed, respelled });
        }
        self.tags(Some(was), Some(now));
    }

    fn create(&mut self, was: Option<&Member>, now: &Member) {
        if now.state.known {
            if now.state.is_present() {
                self.created(now);
            }
            self.writes.push(RowWrite::Create(row(now)));
        }
        self.tags(was, Some(now));
    }

    fn created(&mut self, now: &Member) {
        let (_, mut fields) = difference(None, &now.state);
        fields.insert("userid".into(), json!([null, now.userid.as_str()]));
        self.change(&now.userid, Action::Created, fields);
        self.openid(None, now);
    }

    fn openid(&mut self, was: Option<&str>, now: &Member) {
        if was != now.openid() {
            let fields = Map::from_iter([("openid".to_owned(), json!([was, now.openid()]))]);
            self.change(&now.userid, Action::Openid, fields);
        }
    }

    fn remove(&mut self, was: &Member) {
        if was.state.known {
            if was.state.is_present() {
                self.change(&was.userid, Action::Deleted, Map::new());
            }
            self.writes.push(RowWrite::Remove(was.userid.clone()));
        }
        self.tags(Some(was), None);
    }

    fn tags(&mut self, was: Option<&Member>, now: Option<&Member>) {
        let held = |member: Option<&Member>| -> BTreeMap<TagId, UserId> {
            member.map_or_else(BTreeMap::new, |m| {
                m.state.tags_now().map(|tag| (tag, m.userid.clone())).collect()
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
                // Only the spelling differs, which is no news of the tag.
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

fn row(member: &Member) -> MemberRow {
    let fields = member.state.fields.iter();
    MemberRow {
        userid: member.userid.clone(),
        fields: fields.map(|(field, (_, value))| (*field, value.clone())).collect(),
        event_time: member.state.event_time(),
        deleted_at: member.state.deleted.map(|stamp| stamp.second),
        openid: member.openid().map(str::to_owned),
        is_refused: member.is_refused(),
    }
}

/// Whether the change from `was` to `now` is a deletion, or merely a change.
pub(super) fn updated<F: Field>(was: &EntityState<F>, now: &EntityState<F>) -> Action {
    if was.deleted.is_none() && now.deleted.is_some() { Action::Deleted } else { Action::Updated }
}

/// The fields in which two states differ, and their old and new values in the form of the change feed.
pub(super) fn difference<F: Field>(
    was: Option<&EntityState<F>>,
    now: &EntityState<F>,
) -> (BTreeSet<F>, Map<String, Json>) {
    let mut changed = BTreeSet::new();
    let mut shown = Map::new();
    for field in F::ALL {
        let old = was.and_then(|state| state.fields.get(field)).map(|(_, value)| value);
        let new = now.fields.get(field).map(|(_, value)| value);
        if old == new {
            continue;
        }
        changed.insert(*field);
        let (old, new) = (show(field.kind(), old), show(field.kind(), new));
        if old != new {
            shown.insert(field.name().to_owned(), json!([old, new]));
        }
    }
    let deleted = |state: &EntityState<F>| state.deleted.map(|stamp| stamp.second.0);
    let (old, new) = (was.and_then(deleted), deleted(now));
    if old != new {
        shown.insert("deleted_at".into(), json!([old, new]));
    }
    (changed, shown)
}

/// A value in its column's form: cleared text is empty, an unknown value is null.
fn show(kind: FieldKind, value: Option<&Value>) -> Json {
    match (kind, value) {
        (_, None) => Json::Null,
        (FieldKind::Text, Some(Value::Cleared)) => json!(""),
        (FieldKind::Ids | FieldKind::Leads | FieldKind::Attrs, Some(Value::Cleared)) => json!([]),
        (_, Some(value)) => value.to_json(),
    }
}
