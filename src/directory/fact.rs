//! What WeCom said of an entity, and the form in which the database keeps it.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::fields::{Field, Fields, Value};
use super::ids::TagId;
use super::restamp::{Restamped, restamp};
use super::time::{Rank, Stamp, UnixSeconds};

/// Fields with the time of each value.
pub type TimedFields<F> = BTreeMap<F, (Stamp, Value)>;

/// How WeCom showed that an entity exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// An event created it.
    Created,
    /// An event changed it.
    Updated,
    /// An API answer has it.
    Listed,
}

impl Presence {
    const ALL: [Self; 3] = [Self::Created, Self::Updated, Self::Listed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Listed => "listed",
        }
    }
}

/// What WeCom said of one entity.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact<F> {
    /// It exists and these fields have these values. A field that is not in the map is unchanged.
    Present(Presence, TimedFields<F>),
    /// It came into the tag (true) or left it.
    Tagged(TagId, bool),
    /// An event deleted it.
    Deleted,
    /// A complete listing lacks it, and WeCom does not know it by this very name: unlike a deletion, this never
    /// refers to a member that was renamed from the name.
    Absent,
}

/// Who said it: this decides the rank within the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// An event, at its CreateTime.
    Event(UnixSeconds),
    /// An API answer of that second.
    Api(UnixSeconds),
}

impl Source {
    /// WeCom's second.
    #[must_use]
    pub fn second(self) -> UnixSeconds {
        match self {
            Self::Event(at) | Self::Api(at) => at,
        }
    }
}

impl<F> Fact<F> {
    /// The fields that the fact sets.
    #[must_use]
    pub fn fields(&self) -> Option<&TimedFields<F>> {
        if let Self::Present(_, fields) = self { Some(fields) } else { None }
    }

    /// The rank of this fact within its second.
    #[must_use]
    pub fn rank(&self, source: Source) -> Rank {
        match (source, self) {
            (_, Self::Absent) => Rank::Absent,
            (Source::Api(_), _) => Rank::Listed,
            (_, Self::Present(Presence::Created, _)) => Rank::Created,
            (_, Self::Present(..)) => Rank::Updated,
            (_, Self::Tagged(..)) => Rank::Tagged,
            (_, Self::Deleted) => Rank::Deleted,
        }
    }

    /// Whether two facts of the same second and entity contradict each other, so that the API must settle it.
    #[must_use]
    pub fn contradicts(&self, other: &Self) -> bool
    where
        F: Ord,
    {
        match (self, other) {
            (Self::Present(_, a), Self::Present(_, b)) => {
                b.iter().any(|(field, (_, value))| a.get(field).is_some_and(|(_, v)| v != value))
            }
            (Self::Deleted, Self::Present(Presence::Created, _))
            | (Self::Present(Presence::Created, _), Self::Deleted) => true,
            (Self::Tagged(a, came), Self::Tagged(b, also_came)) => a == b && came != also_came,
            _ => false,
        }
    }
}

/// Gives every field the same time.
#[must_use]
pub fn timed<F: Field>(stamp: Stamp, fields: &Fields<F>) -> TimedFields<F> {
    fields.iter().map(|(field, value)| (*field, (stamp, value.clone()))).collect()
}

impl<F: Field> Fact<F> {
    /// A fact that the entity is present, with the stamp that its source and kind imply.
    #[must_use]
    pub fn present(kind: Presence, source: Source, fields: &Fields<F>) -> Self {
        let rank = Self::Present(kind, TimedFields::new()).rank(source);
        Self::Present(kind, timed(Stamp::new(source.second(), rank), fields))
    }

    /// The JSON form in the database. `stamp` is the fact's own; fields that share it are written without a time.
    #[must_use]
    pub fn to_json(&self, stamp: Stamp) -> Json {
        match self {
            Self::Deleted => json!({"deleted": true}),
            Self::Absent => json!({"absent": true}),
            Self::Tagged(tag, within) => json!({"tag": tag.0, "in": within}),
            Self::Present(kind, fields) => json!({ kind.as_str(): fields_to_json(stamp, fields) }),
        }
    }

    /// Reads what [`Fact::to_json`] wrote; `None` for anything else.
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
        Presence::ALL.into_iter().find_map(|kind| {
            let fields = fields_from_json(stamp, json.get(kind.as_str())?)?;
            Some(Self::Present(kind, fields))
        })
    }
}

/// Fields as JSON; a value of another time than `stamp` is written `{"at": [second, rank], "value": ..}`.
#[must_use]
pub fn fields_to_json<F: Field>(stamp: Stamp, fields: &TimedFields<F>) -> Json {
    let members = fields.iter().map(|(field, (at, value))| {
        let value = value.to_json();
        let value =
            if *at == stamp { value } else { json!({"at": [at.second.0, at.rank_number()], "value": value}) };
        (field.name().to_owned(), value)
    });
    Json::Object(members.collect::<Map<_, _>>())
}

/// Reads what [`fields_to_json`] wrote. Fields of unknown names are skipped.
#[must_use]
pub fn fields_from_json<F: Field>(stamp: Stamp, json: &Json) -> Option<TimedFields<F>> {
    let mut fields = TimedFields::new();
    for (name, value) in json.as_object()? {
        let Some(field) = F::by_name(name) else { continue };
        let (at, value) = match (value.get("at"), value.get("value")) {
            (Some(at), Some(value)) => {
                (Stamp::from_columns(at.get(0)?.as_i64()?, at.get(1)?.as_i64()?)?, value)
            }
            _ => (stamp, value),
        };
        fields.insert(field, (at, Value::from_json(field.kind(), value)?));
    }
    Some(fields)
}

/// A fact, when it was said, and when it arrived here.
#[derive(Debug, Clone, PartialEq)]
pub struct FactRecord<T> {
    /// On WeCom's clock.
    pub stamp: Stamp,
    /// The number of the event that was to come next when the fact arrived. The merge never orders by it; it tells
    /// which facts a wrong clock misdated, and which facts a listing already took into account.
    pub arrival: i64,
    /// What was said.
    pub fact: T,
}

impl<T: PartialEq> FactRecord<T> {
    /// Whether both say the same at the same time: a repetition.
    #[must_use]
    pub fn repeats(&self, other: &Self) -> bool {
        self.stamp == other.stamp && self.fact == other.fact
    }
}

/// The last complete listing of one kind of entity. A listing is stored only where it differs from what was known then;
/// [`CompleteListing::implied`] makes explicit what it said without differing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompleteListing {
    /// WeCom's second.
    pub second: UnixSeconds,
    /// The number of the first event after the listing: facts with smaller numbers were taken into account.
    pub arrival: i64,
}

impl CompleteListing {
    /// Whether the facts contain what the listing implied.
    pub(super) fn is_explicit_in<T>(self, known: &[FactRecord<T>]) -> bool {
        known.iter().any(|record| {
            record.arrival >= self.arrival && record.stamp.second == self.second && record.stamp.is_observed()
        })
    }

    /// The facts that were known when WeCom was asked, about the time before.
    pub(super) fn known_before<T>(self, known: &[FactRecord<T>]) -> impl Iterator<Item = &FactRecord<T>> {
        known.iter().filter(move |record| record.arrival < self.arrival && record.stamp.second < self.second)
    }

    /// What the listing implied of an entity without a difference: one that was not present then was absent, any other
    /// was listed.
    pub(super) fn implied<F>(self, was_present: bool) -> (Source, Fact<F>) {
        let fact =
            if was_present { Fact::Present(Presence::Listed, TimedFields::new()) } else { Fact::Absent };
        (Source::Api(self.second), fact)
    }
}

/// A fact whose time, and that of its fields, can be corrected.
pub(super) trait Timed: Clone {
    /// The fields that the fact sets, with their times.
    fn stamps(&self) -> impl Iterator<Item = Stamp>;
    /// Gives the fields other stamps.
    fn restamp(&mut self, restamped: &Restamped);
}

impl<F: Field> Timed for Fact<F> {
    fn stamps(&self) -> impl Iterator<Item = Stamp> {
        self.fields().into_iter().flat_map(|fields| fields.values().map(|(at, _)| *at))
    }

    fn restamp(&mut self, restamped: &Restamped) {
        if let Self::Present(_, fields) = self {
            restamp_fields(fields, restamped);
        }
    }
}

/// Gives fields other stamps.
pub(super) fn restamp_fields<F>(fields: &mut TimedFields<F>, restamped: &Restamped) {
    for (at, _) in fields.values_mut() {
        *at = restamped.stamp(*at);
    }
}

/// The facts with plausible stamps, and the new stamps; `None` if all are plausible. `next`: the time of the fact that is
/// about to be added.
pub(super) fn with_plausible_stamps<T: Timed>(
    records: &[FactRecord<T>],
    latest: UnixSeconds,
    next: Option<UnixSeconds>,
) -> Option<(Vec<FactRecord<T>>, Restamped)> {
    let places = records.iter().flat_map(|record| {
        std::iter::once(record.stamp).chain(record.fact.stamps()).map(|stamp| (stamp, record.arrival))
    });
    let restamped = restamp(&places.collect::<Vec<_>>(), latest, next)?;
    let mut moved = records.to_vec();
    for record in &mut moved {
        record.stamp = restamped.stamp(record.stamp);
        record.fact.restamp(&restamped);
    }
    Some((moved, restamped))
}

/// The order of two facts in the fold: by time, and within one second and rank by content, so that it never depends on
/// the order of arrival.
pub(super) fn fold_order<T, K: Ord>(
    a: (&FactRecord<T>, K),
    b: (&FactRecord<T>, K),
    content: impl Fn(&FactRecord<T>) -> String,
) -> Ordering {
    (a.0.stamp, a.1).cmp(&(b.0.stamp, b.1)).then_with(|| content(a.0).cmp(&content(b.0)))
}
