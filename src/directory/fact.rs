//! Facts about entities, and their JSON form in the database.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::fields::{Field, Fields, Value};
use super::ids::TagId;
use super::restamp::{Restamped, restamp};
use super::time::{Rank, Stamp, UnixSeconds};

/// Fields with the stamp of each value.
pub type TimedFields<F> = BTreeMap<F, (Stamp, Value)>;

/// The evidence that an entity exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// An event creates the entity: create_user, create_party.
    Created,
    /// An event updates the entity: update_user, update_party, update_tag.
    Updated,
    /// An API answer contains the entity.
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

/// A statement of WeCom about one entity.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact<F> {
    /// The entity exists and these fields have these values; other fields are unchanged.
    Present(Presence, TimedFields<F>),
    /// The entity was added to the tag (true) or removed from it (false).
    Tagged(TagId, bool),
    /// An event deletes the entity: delete_user, delete_party.
    Deleted,
    /// A complete listing lacks the entity, and WeCom does not know this name. Unlike a deletion, this never concerns a
    /// member that was renamed from the name.
    Absent,
}

/// The origin of a fact; it determines the rank within the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// An event, at its CreateTime.
    Event(UnixSeconds),
    /// An API answer of that second.
    Api(UnixSeconds),
}

impl Source {
    /// The second on WeCom's clock.
    #[must_use]
    pub fn second(self) -> UnixSeconds {
        match self {
            Self::Event(at) | Self::Api(at) => at,
        }
    }
}

impl<F> Fact<F> {
    /// The fields that the fact sets, if it can set any.
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

    /// Whether two facts of the same second and entity contradict each other, so that the API must decide.
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
            (Self::Tagged(a, within), Self::Tagged(b, also_within)) => a == b && within != also_within,
            _ => false,
        }
    }
}

/// Gives all fields the same stamp.
#[must_use]
pub fn timed<F: Field>(stamp: Stamp, fields: &Fields<F>) -> TimedFields<F> {
    fields.iter().map(|(field, value)| (*field, (stamp, value.clone()))).collect()
}

impl<F: Field> Fact<F> {
    /// [`Fact::Present`] with the stamp that source and kind imply.
    #[must_use]
    pub fn present(kind: Presence, source: Source, fields: &Fields<F>) -> Self {
        let rank = Self::Present(kind, TimedFields::new()).rank(source);
        Self::Present(kind, timed(Stamp::new(source.second(), rank), fields))
    }

    /// The JSON form in the database. Fields with the fact's own `stamp` are written without one.
    #[must_use]
    pub fn to_json(&self, stamp: Stamp) -> Json {
        match self {
            Self::Deleted => json!({"deleted": true}),
            Self::Absent => json!({"absent": true}),
            Self::Tagged(tag, within) => json!({"tag": tag.0, "in": within}),
            Self::Present(kind, fields) => json!({ kind.as_str(): fields_to_json(stamp, fields) }),
        }
    }

    /// Reads the output of [`Fact::to_json`]; `None` for any other JSON.
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

/// Fields as JSON. A value whose stamp is not `stamp` is written as `{"at": [second, rank], "value": ..}`.
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

/// Reads the output of [`fields_to_json`]; skips unknown fields.
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

/// A stored fact with its stamp and its order of arrival.
#[derive(Debug, Clone, PartialEq)]
pub struct FactRecord<T> {
    /// The position in time, on WeCom's clock.
    pub stamp: Stamp,
    /// The number of the next event when the fact arrived; negative in a snapshot. The merge never orders by it. It serves to
    /// find misdated facts, and facts that a listing has taken into account.
    pub arrival: i64,
    /// The fact itself, without its time.
    pub fact: T,
}

impl<T: PartialEq> FactRecord<T> {
    /// Whether the other record has the same stamp and fact.
    #[must_use]
    pub fn repeats(&self, other: &Self) -> bool {
        self.stamp == other.stamp && self.fact == other.fact
    }
}

/// The last complete listing of one kind of entity. Only its differences are stored as facts;
/// [`CompleteListing::implied`] produces the others on demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompleteListing {
    /// The second of the listing on WeCom's clock.
    pub second: UnixSeconds,
    /// The number of the first event after the listing. The listing was compared with all facts of smaller numbers.
    pub arrival: i64,
}

impl CompleteListing {
    /// Whether the facts contain the implied one already.
    pub(super) fn is_explicit_in<T>(self, known: &[FactRecord<T>]) -> bool {
        known.iter().any(|record| {
            record.arrival >= self.arrival && record.stamp.second == self.second && record.stamp.is_observed()
        })
    }

    /// Facts that were known at the listing and are older than it.
    pub(super) fn known_before<T>(self, known: &[FactRecord<T>]) -> impl Iterator<Item = &FactRecord<T>> {
        known.iter().filter(move |record| record.arrival < self.arrival && record.stamp.second < self.second)
    }

    /// The fact that the listing implies about an entity without a difference: listed if the entity was present, else absent.
    pub(super) fn implied<F>(self, was_present: bool) -> (Source, Fact<F>) {
        let fact =
            if was_present { Fact::Present(Presence::Listed, TimedFields::new()) } else { Fact::Absent };
        (Source::Api(self.second), fact)
    }
}

/// A fact that can be restamped, with its fields.
pub(super) trait Timed: Clone {
    /// The stamps of the fields that the fact sets.
    fn stamps(&self) -> impl Iterator<Item = Stamp>;
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

pub(super) fn restamp_fields<F>(fields: &mut TimedFields<F>, restamped: &Restamped) {
    for (at, _) in fields.values_mut() {
        *at = restamped.stamp(*at);
    }
}

/// The facts with plausible stamps, and the new stamps; `None` if all are plausible. `next` is the second of the fact to add.
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

/// The order of two facts in the fold: by stamp, then by content, so that it does not depend on the order of arrival.
pub(super) fn fold_order<T, K: Ord>(
    a: (&FactRecord<T>, K),
    b: (&FactRecord<T>, K),
    content: impl Fn(&FactRecord<T>) -> String,
) -> Ordering {
    (a.0.stamp, a.1).cmp(&(b.0.stamp, b.1)).then_with(|| content(a.0).cmp(&content(b.0)))
}
