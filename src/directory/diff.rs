//! The effect of a fact: the rows to write, and the lines of the change feed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json, json};

use super::entity::{EntityState, is_below_snapshot};
use super::fact::{Fact, Presence, Source, with_plausible_stamps};
use super::fields::{Field, FieldKind, MemberField, Value};
use super::ids::{TagId, UserId};
use super::members::{Conversion, Member, MemberFact, MemberIdentity, Record, RenameGroup, fold};
use super::time::UnixSeconds;

/// The kind of entity in a line of the change feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entity {
    /// A member; the key is its userid.
    Member,
    /// A department; the key is its id.
    Department,
    /// A tag; the key is its id.
    Tag,
}

/// The change that a line of the change feed reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The entity is new or present again; `fields` contains all known fields.
    Created,
    /// Some fields of the entity changed.
    Updated,
    /// The member has another userid; the key is the new one, `fields.userid` contains both.
    Renamed,
    /// The entity is no longer present.
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
    /// The kind of the changed entity.
    pub entity: Entity,
    /// The userid, or the id in decimal.
    pub key: String,
    /// The kind of the change.
    pub action: Action,
    /// Field name to `[old, new]`; null if unknown.
    pub fields: Map<String, Json>,
}

impl Change {
    #[must_use]
    #[allow(missing_docs)]
    pub fn new(entity: Entity, key: impl ToString, action: Action, fields: Map<String, Json>) -> Self {
        let key = key.to_string();
        Self { entity, key, action, fields }
    }
}

/// A member's row, without the columns that facts do not determine.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberRow {
    /// The present userid in WeCom's latest spelling.
    pub userid: UserId,
    /// The known fields; unknown ones are absent from the map.
    pub fields: BTreeMap<MemberField, Value>,
    /// WeCom's time of the newest fact.
    pub event_time: UnixSeconds,
    /// WeCom's time of the deletion; `None` while present.
    pub deleted_at: Option<UnixSeconds>,
    /// The member's openid, if WeCom gave one.
    pub openid: Option<String>,
    /// Whether a final refusal is in force: no openid, and no later event about the member.
    pub is_refused: bool,
}

/// One write to the members' tables. Within a list, removals precede inserts, so that no userid is taken twice.
#[derive(Debug, Clone, PartialEq)]
pub enum RowWrite {
    /// Removes the row: its member was merged into another one, or never existed.
    Remove(UserId),
    /// Inserts a row for a new member, whose conversion is due at once.
    Create(MemberRow),
    /// Changes the row in place.
    Update {
        /// The row after the write.
        row: MemberRow,
        /// The fields that differ.
        changed: BTreeSet<MemberField>,
        /// Whether the spelling of the userid differs.
        respelled: bool,
    },
    /// Moves the row to another userid, with its attempts.
    Move {
        /// The userid of the row before the write.
        from: UserId,
        /// The row after the write.
        row: MemberRow,
        /// Whether the member was present before.
        was_present: bool,
    },
}

impl RowWrite {
    /// The row after the write; `None` if there is none.
    #[must_use]
    pub fn row(&self) -> Option<&MemberRow> {
        match self {
            Self::Remove(_) => None,
            Self::Create(row) | Self::Update { row, .. } | Self::Move { row, .. } => Some(row),
        }
    }
}

/// The change of a member's `details_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DetailsAction {
    /// The state stays as it is.
    Keep,
    /// The fact carries the fields.
    Known,
    /// The fields must be fetched with user/get.
    Due,
}

/// The effect of one more fact.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberMerge {
    /// The record to store for the fact.
    pub record: Record,
    /// Writes to the members' tables.
    pub writes: Vec<RowWrite>,
    /// Members added to tags (true) and removed from them (false).
    pub tags: Vec<(TagId, UserId, bool)>,
    /// New lines of the change feed.
    pub changes: Vec<Change>,
    /// The present userid of the member that the fact names.
    pub named: UserId,
    /// Whether that member is present.
    pub is_present: bool,
    /// The change of that member's `details_state`.
    pub details: DetailsAction,
    /// Whether another fact of the same second contradicts this one, so that the API must decide.
    pub is_unsettled: bool,
    /// Whether the fact changed anything or is the newest of its group; else it arrived too late.
    pub took_effect: bool,
    /// Whether the member agrees with the fact; else newer facts hide it.
    pub holds: bool,
    /// Whether an API answer hides this event. A clock may be wrong, so the API must decide.
    pub contradicts_api: bool,
}

/// The effect of restamping facts; see [`restamp`](super::restamp).
#[derive(Debug, Clone, PartialEq)]
pub struct Restamp {
    /// The records to store instead of the known ones.
    pub records: Vec<Record>,
    /// Writes to the members' tables.
    pub writes: Vec<RowWrite>,
    /// Members added to tags (true) and removed from them (false).
    pub tags: Vec<(TagId, UserId, bool)>,
    /// New lines of the change feed.
    pub changes: Vec<Change>,
}

/// Restamps the facts that are later than `latest`; `None` if there are none. `next` is the second of the fact to add.
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
pub fn merge(
    known: &[Record],
    userid: &UserId,
    source: Source,
    arrival: i64,
    fact: MemberFact,
) -> MemberMerge {
    merge_into(&fold(known), known, source, Record::new(userid.clone(), source, arrival, fact))
}

/// Adds a record to the known facts of its group, which fold to `before`.
pub(crate) fn merge_into(
    before: &RenameGroup,
    known: &[Record],
    source: Source,
    record: Record,
) -> MemberMerge {
    let (stamp, userid) = (record.stamp, record.userid());
    let after = fold(known.iter().chain([&record]));
    let is_newest = known.iter().all(|other| other.stamp <= stamp);
    let named = after.resolve(userid);

    let mut diff = Diff::default();
    diff.members(before, &after);
    let is_unsettled = is_contradicted(known, &record);
    let holds = holds(&after, &record);
    let hides = |other: &Record| other.stamp > stamp && other.stamp.is_observed();
    let is_event = matches!(source, Source::Event(_));
    let is_about_tag = matches!(record.member_fact(), MemberFact::Entity(Fact::Tagged(..)));
    let contradicts_api = is_event && !holds && known.iter().any(hides);
    let is_late = is_event && is_below_snapshot(known, stamp);
    let details = if is_event && !is_about_tag && (is_unsettled || contradicts_api || is_late) {
        DetailsAction::Due
    } else {
        details(&record, before, &named)
    };
    MemberMerge {
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
        // These facts concern the name itself, not a member that was renamed from it.
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

/// Callbacks that were set up since 2022-08-15 carry only the departments; the other fields must be fetched.
fn details(record: &Record, before: &RenameGroup, named: &UserId) -> DetailsAction {
    let (MemberFact::Entity(Fact::Present(_, fields)) | MemberFact::Renamed(_, fields)) =
        record.member_fact()
    else {
        return DetailsAction::Keep;
    };
    let set: BTreeSet<MemberField> = fields.keys().copied().collect();
    let only_departments = set.iter().all(|f| matches!(f, MemberField::Department | MemberField::LeaderOf));
    let is_rename = matches!(record.member_fact(), MemberFact::Renamed(..));
    let is_new = !before.is_present(named) && !is_rename;
    if set.contains(&MemberField::Name) && is_new {
        DetailsAction::Known
    } else if is_new || (only_departments && !is_rename) {
        DetailsAction::Due
    } else {
        DetailsAction::Keep
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
                // Only tags or answers mentioned the member, so it has no row.
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

    /// Orders renames so that each target userid is free. A cycle has no such order; its members are deleted and created.
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
            // The change feed contains only present members.
            (true, false) => self.change(&was.userid, Action::Deleted, Map::new()),
            (false, true) => self.created(now),
            (false, false) => {}
        }
        let (from, row) = (was.userid.clone(), member_row(now));
        let was_present = was.state.is_present();
        self.writes.push(RowWrite::Move { from, row, was_present });
        self.tags(Some(was), Some(now));
    }

    fn update(&mut self, was: &Member, now: &Member) {
        if !was.state.is_present() && now.state.is_present() {
            // A late fact shows that the deletion concerned another holder of the name.
            self.created(now);
            let (from, row) = (was.userid.clone(), member_row(now));
            self.writes.push(RowWrite::Move { from, row, was_present: false });
            return self.tags(Some(was), Some(now));
        }
        let (changed, mut fields) = difference(Some(&was.state), &now.state);
        let respelled = !was.userid.same_spelling(&now.userid);
        if respelled {
            fields.insert("userid".into(), json!([was.userid.as_str(), now.userid.as_str()]));
        }
        // Late facts about a deleted member are stored without a line in the change feed.
        if !fields.is_empty() && (was.state.is_present() || now.state.is_present()) {
            self.change(&now.userid, updated(&was.state, &now.state), fields);
        }
        if now.state.is_present() {
            self.openid(was.openid(), now);
        }
        let row = member_row(now);
        if respelled || !changed.is_empty() || row != member_row(was) {
            self.writes.push(RowWrite::Update { row, changed, respelled });
        }
        self.tags(Some(was), Some(now));
    }

    fn create(&mut self, was: Option<&Member>, now: &Member) {
        if now.state.known {
            if now.state.is_present() {
                self.created(now);
            }
            self.writes.push(RowWrite::Create(member_row(now)));
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
                // Only the spelling differs: no line in the change feed.
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

/// A line of the change feed: `item` was added to a tag (`[null, new]`) or removed from it (`[old, null]`).
#[must_use]
pub fn tag_item(tag: TagId, item: &str, old_and_new: Json) -> Change {
    let fields = Map::from_iter([(item.to_owned(), old_and_new)]);
    Change::new(Entity::Tag, tag, Action::Updated, fields)
}

/// The row that the facts make of a member.
pub(crate) fn member_row(member: &Member) -> MemberRow {
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

/// Deleted if `was` is not deleted and `now` is, else updated.
pub(super) fn updated<F: Field>(was: &EntityState<F>, now: &EntityState<F>) -> Action {
    if was.deleted.is_none() && now.deleted.is_some() { Action::Deleted } else { Action::Updated }
}

/// The fields in which two states differ, and their old and new values for the change feed.
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
        let (old, new) = (column_form(field.kind(), old), column_form(field.kind(), new));
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
pub(crate) fn column_form(kind: FieldKind, value: Option<&Value>) -> Json {
    match (kind, value) {
        (_, None) => Json::Null,
        (FieldKind::Text, Some(Value::Cleared)) => json!(""),
        (FieldKind::Ids | FieldKind::Leads | FieldKind::Attrs, Some(Value::Cleared)) => json!([]),
        (_, Some(value)) => value.to_json(),
    }
}
