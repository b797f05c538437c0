//! One entity's life, told fact by fact in order of time: when it began and ended, and the newest value
//! of each field. Members and departments share it.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::fields::{Field, Fields, Sort, Value};
use super::ids::TagId;
use super::restamp::Restamped;
use super::time::{Stamp, UnixSeconds};

/// Fields with the time that each value is of.
pub type TimedFields<F> = BTreeMap<F, (Stamp, Value)>;

/// What was said of one entity.
#[derive(Debug, Clone, PartialEq)]
pub enum Saying<F> {
    /// It exists, and these fields have these values.
    Seen {
        /// Whether it was said to come into being, not merely to change.
        created: bool,
        /// The values; what is absent was not spoken of.
        fields: TimedFields<F>,
    },
    /// It came into a tag (true) or left it.
    Tagged(TagId, bool),
    /// It is gone.
    Deleted,
    /// A complete listing does not have it, and WeCom says that there is none of this very name: other than a
    /// deletion that an event tells of, this is never meant for whoever was renamed from it.
    Absent,
}

impl<F> Saying<F> {
    /// The fields that it tells.
    #[must_use]
    pub fn fields(&self) -> Option<&TimedFields<F>> {
        if let Self::Seen { fields, .. } = self { Some(fields) } else { None }
    }

    /// The same, to be changed.
    pub(super) fn fields_mut(&mut self) -> Option<&mut TimedFields<F>> {
        if let Self::Seen { fields, .. } = self { Some(fields) } else { None }
    }
}

/// The state of an entity after some facts.
#[derive(Debug, Clone, PartialEq)]
pub struct Life<F> {
    /// What lies before this belongs to an earlier holder of the name: the last deletion before the
    /// present life began.
    pub floor: Stamp,
    /// Whether anything said that it exists. A tag may name somebody before his creation arrives.
    pub born: bool,
    /// When it was deleted, if it is.
    pub deleted: Option<Stamp>,
    /// The newest value of each field, and of when it is.
    pub fields: TimedFields<F>,
    /// Which tags it came into or left, and when.
    pub tags: BTreeMap<TagId, (Stamp, bool)>,
    /// The newest fact.
    pub newest: Stamp,
}

impl<F> Default for Life<F> {
    fn default() -> Self {
        Self {
            floor: Stamp::BEGINNING,
            born: false,
            deleted: None,
            fields: BTreeMap::new(),
            tags: BTreeMap::new(),
            newest: Stamp::BEGINNING,
        }
    }
}

impl<F: Field> Life<F> {
    /// Whether it exists now.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.born && self.deleted.is_none()
    }

    /// The tags it is in now. Somebody of whom only a tag has spoken yet is in it all the same.
    pub fn tags_now(&self) -> impl Iterator<Item = TagId> + '_ {
        let present = self.deleted.is_none();
        self.tags.iter().filter(move |(_, (_, within))| present && *within).map(|(tag, _)| *tag)
    }

    /// Applies the next fact in order of time.
    pub fn tell(&mut self, stamp: Stamp, saying: &Saying<F>) {
        match saying {
            Saying::Seen { fields, .. } => self.see(stamp, fields),
            Saying::Tagged(tag, within) => {
                let register = self.tags.entry(*tag).or_insert((stamp, *within));
                if register.0 <= stamp {
                    *register = (stamp, *within);
                }
                self.newest = self.newest.max(stamp);
            }
            Saying::Deleted | Saying::Absent => {
                self.deleted = self.deleted.max(Some(stamp));
                self.newest = self.newest.max(stamp);
            }
        }
    }

    /// Something says that it exists and what it looks like; after a deletion that begins a new life,
    /// of which nothing older is part.
    pub fn see(&mut self, stamp: Stamp, fields: &TimedFields<F>) {
        if let Some(deleted) = self.deleted.take() {
            self.floor = deleted;
            self.fields.clear();
            self.tags.retain(|_, (at, _)| *at > deleted);
        }
        self.born = true;
        self.newest = self.newest.max(stamp);
        for (field, (at, value)) in fields {
            self.set(*field, *at, value.clone());
        }
    }

    fn set(&mut self, field: F, at: Stamp, value: Value) {
        let superseded = self.fields.get(&field).is_some_and(|(newer, _)| *newer > at);
        if at <= self.floor || superseded {
            return;
        }
        let value = match value {
            Value::Flags(flags) => Value::Ids(self.flagged(&flags)),
            other => other,
        };
        self.fields.insert(field, (at, value));
    }

    /// The ids of the entity's own list that the flags, by position, are set for.
    fn flagged(&self, flags: &[bool]) -> Vec<u32> {
        let list = F::ALL.iter().find(|f| f.sort() == Sort::Ids);
        match list.and_then(|f| self.fields.get(f)) {
            Some((_, Value::Ids(ids))) => {
                let pairs = ids.iter().zip(flags);
                pairs.filter(|(_, set)| **set).map(|(id, _)| *id).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether the entity is as this says. A value that was resolved from another form counts by its time.
    #[must_use]
    pub fn shows(&self, saying: &Saying<F>) -> bool {
        match saying {
            Saying::Seen { fields, .. } => {
                let same = |(field, (at, value)): (&F, &(Stamp, Value))| {
                    self.fields.get(field).is_some_and(|(time, known)| time == at || known == value)
                };
                self.alive() && fields.iter().all(same)
            }
            Saying::Tagged(tag, within) => self.tags_now().any(|known| known == *tag) == *within,
            Saying::Deleted | Saying::Absent => !self.alive(),
        }
    }

    /// Takes over what another life knows and this one does not, or knows of an older time.
    pub fn absorb(&mut self, other: Self) {
        for (field, (at, value)) in other.fields {
            self.set(field, at, value);
        }
        for (tag, (at, within)) in other.tags {
            self.tell(at, &Saying::Tagged(tag, within));
        }
        self.newest = self.newest.max(other.newest);
    }

    /// Facts that tell the same life in as few words as possible, each with its stamp.
    #[must_use]
    pub fn retold(&self) -> Vec<(Stamp, Saying<F>)> {
        let mut facts = Vec::new();
        if self.floor > Stamp::BEGINNING {
            facts.push((self.floor, Saying::Deleted));
        }
        for (tag, (at, within)) in &self.tags {
            facts.push((*at, Saying::Tagged(*tag, *within)));
        }
        let newest_seen = self.fields.values().map(|(at, _)| *at).max();
        if self.born {
            // Never before the end of the former life, or it would be told as part of that.
            let at = newest_seen.unwrap_or(Stamp::BEGINNING);
            let not_after_deletion = self.deleted.unwrap_or(self.newest);
            let at = if at == Stamp::BEGINNING { not_after_deletion } else { at };
            facts.push((at, Saying::Seen { created: false, fields: self.fields.clone() }));
        }
        if let Some(deleted) = self.deleted {
            facts.push((deleted, Saying::Deleted));
        }
        facts
    }

    /// The second of the newest fact.
    #[must_use]
    pub fn event_time(&self) -> UnixSeconds {
        self.newest.seconds()
    }
}

/// Fewer facts than these are never told shorter.
pub const FEW: usize = 16;
/// With more facts than these the older half is told shorter, whatever its age, so that one entity with
/// very many events stays cheap.
const MANY: usize = 256;
/// Facts that are so much older than the newest (seconds) can hardly be overtaken any more: WeCom gives up
/// after three deliveries within minutes.
const SETTLED: i64 = 7 * 24 * 3600;

/// The first arrival number of facts that are told shorter: before those of all events.
pub(super) const RETOLD: i64 = i64::MIN / 2;

/// How many of the oldest facts it is time to tell shorter, given the stamps of all, sorted.
pub(super) fn cut(sorted: &[Stamp]) -> Option<usize> {
    let newest = sorted.last()?.seconds();
    let settled = sorted.iter().take_while(|stamp| newest.since(stamp.seconds()) > SETTLED).count();
    match sorted.len() {
        n if n > MANY => Some(settled.max(n / 2)),
        n if n > FEW && settled > FEW / 2 => Some(settled),
        _ => None,
    }
}

/// Gives fields other stamps.
pub(super) fn restamp_fields<F>(fields: &mut TimedFields<F>, restamped: &Restamped) {
    for (at, _) in fields.values_mut() {
        *at = restamped.stamp(*at);
    }
}

/// Gives every field the same time.
#[must_use]
pub fn timed<F: Field>(stamp: Stamp, fields: &Fields<F>) -> TimedFields<F> {
    fields.iter().map(|(field, value)| (*field, (stamp, value.clone()))).collect()
}

impl<F: Field> Saying<F> {
    /// As the memory of the merge keeps it. `stamp` is the fact's own, left out of fields that share it.
    #[must_use]
    pub fn to_json(&self, stamp: Stamp) -> Json {
        match self {
            Self::Deleted => json!({"deleted": true}),
            Self::Absent => json!({"absent": true}),
            Self::Tagged(tag, within) => json!({"tag": tag.0, "in": within}),
            Self::Seen { created, fields } => {
                let verb = if *created { "created" } else { "updated" };
                json!({ verb: fields_to_json(stamp, fields) })
            }
        }
    }

    /// What [`Saying::to_json`] wrote; `None` if it is none of that.
    #[must_use]
    pub fn from_json(stamp: Stamp, json: &Json) -> Option<Self> {
        if json.get("deleted").is_some() {
            return Some(Self::Deleted);
        }
        if json.get("absent").is_some() {
            return Some(Self::Absent);
        }
        if let Some(tag) = json.get("tag") {
            let tag = TagId(u32::try_from(tag.as_u64()?).ok()?);
            return Some(Self::Tagged(tag, json.get("in")?.as_bool()?));
        }
        let created = json.get("created");
        let fields = fields_from_json(stamp, created.or_else(|| json.get("updated"))?)?;
        Some(Self::Seen { created: created.is_some(), fields })
    }
}

/// Fields as JSON; a value of another time than `stamp` is written `{"at": raw stamp, "value": ...}`.
#[must_use]
pub fn fields_to_json<F: Field>(stamp: Stamp, fields: &TimedFields<F>) -> Json {
    let members = fields.iter().map(|(field, (at, value))| {
        let value = value.to_json();
        let value = if *at == stamp { value } else { json!({"at": at.to_raw(), "value": value}) };
        (field.name().to_owned(), value)
    });
    Json::Object(members.collect::<Map<_, _>>())
}

/// What [`fields_to_json`] wrote. A field of an unknown name is passed over.
#[must_use]
pub fn fields_from_json<F: Field>(stamp: Stamp, json: &Json) -> Option<TimedFields<F>> {
    let mut fields = TimedFields::new();
    for (name, value) in json.as_object()? {
        let Some(field) = F::by_name(name) else { continue };
        let (at, value) = match (value.get("at"), value.get("value")) {
            (Some(at), Some(value)) => (Stamp::from_raw(at.as_i64()?), value),
            _ => (stamp, value),
        };
        fields.insert(field, (at, Value::from_json(field.sort(), value)?));
    }
    Some(fields)
}
