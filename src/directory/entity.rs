//! The state of one member, department or tag, folded from its facts: existence, and the newest value of each field.

use std::collections::BTreeMap;

use super::fact::{Fact, FactRecord, Presence, TimedFields};
use super::fields::{Field, FieldKind, Value};
use super::ids::TagId;
use super::time::{Rank, Stamp, UnixSeconds};

/// The state of an entity after a prefix of its facts in time.
#[derive(Debug, Clone, PartialEq)]
pub struct EntityState<F> {
    /// The last deletion before the present existence. Facts up to it belong to a former holder of the name.
    pub reset_at: Stamp,
    /// Whether a fact showed existence. A tag may mention an entity before its creation arrives.
    pub known: bool,
    /// The time of the deletion; `None` while not deleted.
    pub deleted: Option<Stamp>,
    /// The newest value of each field, with its stamp.
    pub fields: TimedFields<F>,
    /// A last-writer-wins register per tag: the entity is in it (true) or not, since the stamp.
    pub tags: BTreeMap<TagId, (Stamp, bool)>,
    /// The stamp of the newest fact.
    pub newest: Stamp,
}

impl<F> Default for EntityState<F> {
    fn default() -> Self {
        Self {
            reset_at: Stamp::BEGINNING,
            known: false,
            deleted: None,
            fields: BTreeMap::new(),
            tags: BTreeMap::new(),
            newest: Stamp::BEGINNING,
        }
    }
}

impl<F: Field> EntityState<F> {
    /// Whether the entity is known and not deleted.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.known && self.deleted.is_none()
    }

    /// The tags that contain the entity, even before its creation arrives.
    pub fn tags_now(&self) -> impl Iterator<Item = TagId> + '_ {
        let is_deleted = self.deleted.is_some();
        self.tags.iter().filter(move |(_, (_, within))| !is_deleted && *within).map(|(tag, _)| *tag)
    }

    /// Applies the next fact in order of time.
    pub fn apply(&mut self, stamp: Stamp, fact: &Fact<F>) {
        match fact {
            Fact::Present(_, fields) => self.upsert(stamp, fields),
            Fact::Tagged(tag, within) => {
                let register = self.tags.entry(*tag).or_insert((stamp, *within));
                // Within one second an addition wins over a removal, in any order; a comparison of the tag follows.
                if (register.0, register.1) <= (stamp, *within) {
                    *register = (stamp, *within);
                }
            }
            Fact::Deleted | Fact::Absent => {
                self.deleted = self.deleted.max(Some(stamp));
                self.newest = self.newest.max(stamp);
            }
        }
    }

    /// Sets fields of an entity that exists at `stamp`. After a deletion, a new existence begins, without the fields and
    /// tags of the former one.
    pub fn upsert(&mut self, stamp: Stamp, fields: &TimedFields<F>) {
        if let Some(deleted) = self.deleted.take() {
            self.reset_at = deleted;
            self.fields.clear();
            self.tags.retain(|_, (at, _)| *at > deleted);
        }
        self.known = true;
        self.newest = self.newest.max(stamp);
        for (field, (at, value)) in fields {
            self.set(*field, *at, value.clone());
        }
    }

    fn set(&mut self, field: F, at: Stamp, value: Value) {
        let is_superseded =
            self.fields.get(&field).is_some_and(|(newer, _)| newer.field_order() > at.field_order());
        if at <= self.reset_at || is_superseded {
            return;
        }
        let value = match value {
            Value::Flags(flags) => Value::Ids(self.ids_of_flags(&flags)),
            other => other,
        };
        self.fields.insert(field, (at, value));
    }

    /// The ids of the entity's own list whose flag, by position, is set.
    fn ids_of_flags(&self, flags: &[bool]) -> Vec<u32> {
        let list = F::ALL.iter().find(|f| f.kind() == FieldKind::Ids);
        match list.and_then(|f| self.fields.get(f)) {
            Some((_, Value::Ids(ids))) => {
                let pairs = ids.iter().zip(flags);
                pairs.filter(|(_, set)| **set).map(|(id, _)| *id).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether the state agrees with the fact. A value that was resolved from another form counts by its time.
    #[must_use]
    pub fn agrees_with(&self, fact: &Fact<F>) -> bool {
        match fact {
            Fact::Present(_, fields) => {
                let same = |(field, (at, value)): (&F, &(Stamp, Value))| {
                    self.fields.get(field).is_some_and(|(time, known)| time == at || known == value)
                };
                self.is_present() && fields.iter().all(same)
            }
            Fact::Tagged(tag, within) => self.tags_now().any(|known| known == *tag) == *within,
            Fact::Deleted | Fact::Absent => !self.is_present(),
        }
    }

    /// Merges the fields and tags of another state that are newer than this one's.
    pub fn merge_from(&mut self, other: Self) {
        for (field, (at, value)) in other.fields {
            self.set(field, at, value);
        }
        let reset_at = self.reset_at;
        for (tag, (at, within)) in other.tags.into_iter().filter(|(_, (at, _))| *at > reset_at) {
            self.apply(at, &Fact::Tagged(tag, within));
        }
        self.newest = self.newest.max(other.newest);
    }

    /// The smallest list of facts that folds to this state.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(Stamp, Fact<F>)> {
        let mut facts = Vec::new();
        if self.reset_at > Stamp::BEGINNING {
            facts.push((self.reset_at, Fact::Deleted));
        }
        for (tag, (at, within)) in &self.tags {
            facts.push((*at, Fact::Tagged(*tag, *within)));
        }
        if self.known {
            let newest_field = self.fields.values().map(|(at, _)| *at).max();
            // Not before the end of the former existence, else it would fold into that one.
            let before_deletion =
                |at: Stamp| Stamp::new(at.second.plus(-1), Rank::Converted).max(self.reset_at);
            let without_fields = || match self.deleted {
                Some(at) => before_deletion(at),
                None => Stamp::new(self.newest.second, Rank::Converted),
            };
            let at = newest_field.unwrap_or_else(without_fields);
            facts.push((at, Fact::Present(Presence::Updated, self.fields.clone())));
        }
        if let Some(deleted) = self.deleted {
            facts.push((deleted, Fact::Deleted));
        }
        facts
    }

    /// The second of the newest fact.
    #[must_use]
    pub fn event_time(&self) -> UnixSeconds {
        self.newest.second
    }
}

/// Minimum number of facts for a compaction.
pub(crate) const FEW: usize = 16;
/// With more facts than this, plus [`MANY_PER_NAME`] for each name, the older half is compacted at any age, which bounds the
/// cost of an event.
const MANY: usize = 256;
const MANY_PER_NAME: usize = 16;
/// Facts this many seconds older than the newest one are compacted. WeCom delivers an event three times within minutes.
const SETTLED: i64 = 7 * 24 * 3600;

/// The first arrival number of a snapshot's facts; precedes those of all events.
pub(crate) const SNAPSHOT: i64 = i64::MIN / 2;

/// The number of oldest facts to compact, given the sorted stamps of all facts and the number of their names. A second is
/// never split.
pub(super) fn compaction_cut(sorted: &[Stamp], names: usize) -> Option<usize> {
    let newest = sorted.last()?.second;
    let settled = sorted.iter().take_while(|stamp| newest.since(stamp.second) > SETTLED).count();
    let cut = match sorted.len() {
        n if n > MANY + MANY_PER_NAME * names => settled.max(n / 2),
        // A group of several names is compacted only to bound the cost, because a snapshot drops former names.
        n if names == 1 && n > FEW && settled > FEW / 2 => settled,
        _ => return None,
    };
    let last = sorted.get(cut.checked_sub(1)?)?.second;
    Some(sorted.iter().take_while(|stamp| stamp.second <= last).count())
}

/// Whether a fact of `stamp` is older than a snapshot among the known facts. Its fold does not depend on the order of
/// arrival, but may be wrong, because the snapshot may lack facts that it contradicts.
pub(crate) fn is_below_snapshot<T>(known: &[FactRecord<T>], stamp: Stamp) -> bool {
    known.iter().any(|record| record.arrival < 0 && record.stamp > stamp && record.stamp.rank != Rank::Tagged)
}
