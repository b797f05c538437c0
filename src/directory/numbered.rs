//! The merge of departments and tags: the same fold as members, without renames.

use serde_json::{Map, json};

use super::diff::{Action, Change, Entity, difference, tag_item, updated};
use super::entity::{EntityState, SNAPSHOT, compaction_cut};
use super::fact::{CompleteListing, Fact, FactRecord, Source, fold_order, with_plausible_stamps};
use super::fields::{DepartmentField, Field, TagField};
use super::ids::TagId;
use super::time::{Rank, Stamp, UnixSeconds};

/// A fact about a department or tag.
pub type Record<F> = FactRecord<Fact<F>>;

/// The fields of an entity with a numeric id: departments and tags.
pub trait Numbered: Field {
    /// The kind of entity in the change feed.
    const ENTITY: Entity;
    /// The key of the id in the change feed's `created` lines, if they contain it.
    const ID: Option<&'static str>;
}

impl Numbered for DepartmentField {
    const ENTITY: Entity = Entity::Department;
    const ID: Option<&'static str> = None;
}

impl Numbered for TagField {
    const ENTITY: Entity = Entity::Tag;
    const ID: Option<&'static str> = Some("id");
}

/// The difference between two states, for the rows and the change feed.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference<F> {
    /// The new state; `None` while only tags mention the entity.
    pub row: Option<EntityState<F>>,
    /// Whether the row is new, or the entity was deleted in between.
    pub is_new: bool,
    /// Whether anything except the time of the newest fact changed.
    pub changed: bool,
    /// Tags to which the entity was added (true) and from which it was removed (false).
    pub tags: Vec<(TagId, bool)>,
    /// New lines of the change feed.
    pub changes: Vec<Change>,
}

/// The effect of one more fact.
#[derive(Debug, Clone, PartialEq)]
pub struct NumberedMerge<F> {
    /// The record to store for the fact.
    pub record: Record<F>,
    /// The changes of row, tags and change feed.
    pub difference: Difference<F>,
    /// Whether the fact changed anything or is the newest; else it arrived too late.
    pub took_effect: bool,
    /// Whether the entity agrees with the fact; else newer facts hide it.
    pub holds: bool,
    /// Whether another fact of the same second contradicts this one, so that the API must decide.
    pub is_unsettled: bool,
}

/// Folds facts; their order in `records` does not matter.
#[must_use]
pub fn fold<'a, F: Field>(records: impl IntoIterator<Item = &'a Record<F>>) -> EntityState<F> {
    let mut records: Vec<&Record<F>> = records.into_iter().collect();
    sort(&mut records);
    let mut state = EntityState::default();
    for second in records.chunk_by(|a, b| a.stamp.second == b.stamp.second) {
        // If the entity was absent before this second, its creation precedes its deletion.
        let is_deletion = |r: &&&Record<F>| r.arrival >= 0 && r.stamp.rank == Rank::Deleted;
        let is_created = second.iter().any(|r| r.arrival >= 0 && r.stamp.rank == Rank::Created);
        let comes_last = |r: &&&Record<F>| is_deletion(r) && is_created;
        let was_present = state.is_present();
        for record in second.iter().filter(|r| was_present || !comes_last(r)) {
            state.apply(record.stamp, &record.fact);
        }
        for record in second.iter().filter(|r| !was_present && comes_last(r)) {
            state.apply(Stamp::new(record.stamp.second, Rank::Converted), &record.fact);
        }
    }
    state
}

fn sort<F: Field>(records: &mut [&Record<F>]) {
    records
        .sort_by(|a, b| fold_order((a, ()), (b, ()), |record| record.fact.to_json(record.stamp).to_string()));
}

/// The record of a fact. `arrival`: the number of the event that carries it, or of the next event.
pub(crate) fn record<F: Field>(source: Source, arrival: i64, fact: Fact<F>) -> Record<F> {
    FactRecord { stamp: Stamp::new(source.second(), fact.rank(source)), arrival, fact }
}

/// Adds a fact about entity `id` to its known facts. `arrival`: the number of the event that carries it.
#[must_use]
pub fn merge<F: Numbered>(
    known: &[Record<F>],
    id: u32,
    source: Source,
    arrival: i64,
    fact: Fact<F>,
) -> NumberedMerge<F> {
    merge_into(&fold(known), known, id, record(source, arrival, fact))
}

/// Adds a record to the known facts of entity `id`, which fold to `before`.
pub(crate) fn merge_into<F: Numbered>(
    before: &EntityState<F>,
    known: &[Record<F>],
    id: u32,
    record: Record<F>,
) -> NumberedMerge<F> {
    let stamp = record.stamp;
    let after = fold(known.iter().chain([&record]));
    let is_newest = known.iter().all(|other| other.stamp <= stamp);
    let holds = after.agrees_with(&record.fact);
    let same_second = |other: &&Record<F>| other.stamp.second == stamp.second;
    let is_unsettled = known.iter().filter(same_second).any(|other| other.fact.contradicts(&record.fact));
    let difference = difference_of(id, before, after);
    NumberedMerge {
        took_effect: is_newest || !difference.changes.is_empty(),
        holds,
        is_unsettled,
        difference,
        record,
    }
}

/// The difference between two states of entity `id`.
#[must_use]
pub fn difference_of<F: Numbered>(id: u32, before: &EntityState<F>, after: EntityState<F>) -> Difference<F> {
    let mut changes = Vec::new();
    let begins_anew = before.known && after.known && before.reset_at != after.reset_at;
    let is_new = after.known && (!before.known || begins_anew);
    if begins_anew && before.is_present() {
        changes.push(Change::new(F::ENTITY, id, Action::Deleted, Map::new()));
    }
    let (_, mut fields) = difference((!is_new).then_some(before), &after);
    let differs = !fields.is_empty();
    if !before.is_present() && !after.is_present() {
        // Late facts about a deleted entity are stored without a line in the change feed.
    } else if is_new && !after.is_present() {
        // The change feed contains only the deletion of the former existence.
    } else if is_new {
        if let Some(key) = F::ID {
            fields.insert(key.to_owned(), json!([null, id]));
        }
        changes.push(Change::new(F::ENTITY, id, Action::Created, fields));
    } else if after.known && differs {
        let action = updated(before, &after);
        changes.push(Change::new(F::ENTITY, id, action, fields));
    }
    let mut tags = Vec::new();
    let (old, new): (Vec<TagId>, Vec<TagId>) = (before.tags_now().collect(), after.tags_now().collect());
    for tag in old.iter().filter(|tag| !new.contains(tag)) {
        tags.push((*tag, false));
        changes.push(tag_item(*tag, F::ENTITY.as_str(), json!([id, null])));
    }
    for tag in new.iter().filter(|tag| !old.contains(tag)) {
        tags.push((*tag, true));
        changes.push(tag_item(*tag, F::ENTITY.as_str(), json!([null, id])));
    }
    Difference { changed: is_new || differs, is_new, tags, changes, row: after.known.then_some(after) }
}

/// The fact that the last complete listing implies about the entity; `None` if `known` contains it.
#[must_use]
pub fn implied_by_listing<F: Field>(known: &[Record<F>], listing: CompleteListing) -> Option<Record<F>> {
    if listing.is_explicit_in(known) {
        return None;
    }
    let (source, fact) = listing.implied(fold(listing.known_before(known)).is_present());
    let stamp = Stamp::new(listing.second, fact.rank(source));
    Some(FactRecord { stamp, arrival: listing.arrival, fact })
}

/// The facts with plausible stamps; `None` if all are plausible. `next` is the second of the fact to add.
#[must_use]
pub fn restamped<F: Field>(
    records: &[Record<F>],
    latest: UnixSeconds,
    next: UnixSeconds,
) -> Option<Vec<Record<F>>> {
    with_plausible_stamps(records, latest, Some(next)).map(|(records, _)| records)
}

/// Replaces the older facts by the smallest list that folds to the same state; `None` if no compaction is due.
#[must_use]
pub fn compact<'a, F: Field>(records: impl IntoIterator<Item = &'a Record<F>>) -> Option<Vec<Record<F>>> {
    let mut sorted: Vec<&Record<F>> = records.into_iter().collect();
    sort(&mut sorted);
    let stamps: Vec<Stamp> = sorted.iter().map(|record| record.stamp).collect();
    let (old, recent) = sorted.split_at(compaction_cut(&stamps, 1)?);
    let snapshot = fold(old.iter().copied()).snapshot();
    if snapshot.len() >= old.len() {
        return None;
    }
    let snapshot = snapshot.into_iter().zip(SNAPSHOT..);
    let snapshot = snapshot.map(|((stamp, fact), arrival)| FactRecord { stamp, arrival, fact });
    Some(snapshot.chain(recent.iter().map(|record| (*record).clone())).collect())
}
