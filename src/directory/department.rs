//! Departments: the same merge as members, without renames.

use serde_json::{Map, Value as Json, json};

use super::changes::{Action, At, Change, Entity, difference, tag_item, updated};
use super::fields::DepartmentField;
use super::ids::{DepartmentId, TagId};
use super::life::{Life, RETOLD, Saying, cut, restamp_fields};
use super::restamp::restamp;
use super::time::{Stamp, UnixSeconds};

/// One thing that was said of a department.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    /// When, on WeCom's clock.
    pub stamp: Stamp,
    /// Order of arrival among the facts of this department.
    pub arrival: i64,
    /// What.
    pub saying: Saying<DepartmentField>,
}

impl Fact {
    /// The saying as the database keeps it.
    #[must_use]
    pub fn saying_to_json(&self) -> Json {
        self.saying.to_json(self.stamp)
    }
}

/// How a department's rows and the change feed follow from one state to another.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The department as it is now; `None` while only tags have spoken of it.
    pub row: Option<Life<DepartmentField>>,
    /// Whether the row begins anew: it was not there, or was deleted in between.
    pub anew: bool,
    /// Whether anything but the time of the newest fact changed.
    pub changed: bool,
    /// Tags that it came into (true) and left.
    pub tags: Vec<(TagId, bool)>,
    /// Lines for the change feed.
    pub changes: Vec<Change>,
}

/// What one more fact does to a department.
#[derive(Debug, Clone, PartialEq)]
pub struct Merge {
    /// The fact as it is to be remembered.
    pub fact: Fact,
    /// What changes.
    pub difference: Difference,
    /// Whether it changed anything, or was at least the newest.
    pub took_effect: bool,
    /// Whether the department is as the fact says.
    pub holds: bool,
}

/// Folds a department's facts, given in any order.
#[must_use]
pub fn fold<'a>(facts: impl IntoIterator<Item = &'a Fact>) -> Life<DepartmentField> {
    let mut facts: Vec<&Fact> = facts.into_iter().collect();
    facts.sort_by_key(|fact| (fact.stamp, fact.arrival));
    let mut life = Life::default();
    for fact in facts {
        life.tell(fact.stamp, &fact.saying);
    }
    life
}

/// Adds what was said of department `id` to its known facts. `arrival` numbers events as they come.
#[must_use]
pub fn merge(
    known: &[Fact],
    id: DepartmentId,
    at: At,
    arrival: i64,
    saying: Saying<DepartmentField>,
) -> Merge {
    let stamp = stamp(known, at, &saying);
    let fact = Fact { stamp, arrival, saying };
    let after = fold(known.iter().chain([&fact]));
    let newest = known.iter().all(|other| other.stamp <= stamp);
    let holds = after.shows(&fact.saying);
    let difference = difference_of(id, &fold(known), after);
    Merge { took_effect: newest || !difference.changes.is_empty(), holds, difference, fact }
}

/// What changes between two states of department `id`.
#[must_use]
pub fn difference_of(
    id: DepartmentId,
    before: &Life<DepartmentField>,
    after: Life<DepartmentField>,
) -> Difference {
    let mut changes = Vec::new();
    let another_life = before.born && after.born && before.floor != after.floor;
    let anew = after.born && (!before.born || another_life);
    if another_life && before.alive() {
        changes.push(Change::new(Entity::Department, id, Action::Deleted, Map::new()));
    }
    let (_, fields) = difference((!anew).then_some(before), &after);
    let differs = !fields.is_empty();
    if !before.alive() && !after.alive() {
        // What is said late of a department that is gone is kept, but is no news.
    } else if anew {
        changes.push(Change::new(Entity::Department, id, Action::Created, fields));
    } else if after.born && differs {
        let action = updated(before, &after);
        changes.push(Change::new(Entity::Department, id, action, fields));
    }
    let mut tags = Vec::new();
    let held: Vec<TagId> = before.tags_now().collect();
    let holds: Vec<TagId> = after.tags_now().collect();
    for tag in held.iter().filter(|tag| !holds.contains(tag)) {
        tags.push((*tag, false));
        changes.push(tag_item(*tag, "department", json!([id.0, null])));
    }
    for tag in holds.iter().filter(|tag| !held.contains(tag)) {
        tags.push((*tag, true));
        changes.push(tag_item(*tag, "department", json!([null, id.0])));
    }
    Difference { changed: anew || differs, anew, tags, changes, row: after.born.then_some(after) }
}

fn stamp(known: &[Fact], at: At, saying: &Saying<DepartmentField>) -> Stamp {
    let at: UnixSeconds = match at {
        At::Observed(at) => return Stamp::observed(at),
        At::Told(at) => at,
    };
    match saying {
        Saying::Deleted => Stamp::deleted(at),
        Saying::Seen { created: true, .. }
            if known.iter().any(|f| f.stamp == Stamp::deleted(at) && f.saying == Saying::Deleted) =>
        {
            Stamp::reborn(at)
        }
        _ => Stamp::told(at),
    }
}

/// The facts with plausible stamps; `None` if all are plausible. `next`: the time of the fact that is about to be added.
#[must_use]
pub fn restamped(facts: &[Fact], latest: UnixSeconds, next: UnixSeconds) -> Option<Vec<Fact>> {
    let places = facts.iter().flat_map(|fact| {
        let fields = fact.saying.fields().into_iter().flat_map(|fields| fields.values().map(|(at, _)| *at));
        std::iter::once(fact.stamp).chain(fields).map(|stamp| (stamp, fact.arrival))
    });
    let restamped = restamp(&places.collect::<Vec<_>>(), latest, Some(next))?;
    let mut moved = facts.to_vec();
    for fact in &mut moved {
        fact.stamp = restamped.stamp(fact.stamp);
        if let Some(fields) = fact.saying.fields_mut() {
            restamp_fields(fields, &restamped);
        }
    }
    Some(moved)
}

/// A shorter list of facts that tells the same, if it is time for that.
#[must_use]
pub fn shortened(facts: &[Fact]) -> Option<Vec<Fact>> {
    let mut sorted: Vec<&Fact> = facts.iter().collect();
    sorted.sort_by_key(|fact| (fact.stamp, fact.arrival));
    let stamps: Vec<Stamp> = sorted.iter().map(|fact| fact.stamp).collect();
    let (old, recent) = sorted.split_at(cut(&stamps)?);
    let retold = fold(old.iter().copied()).retold();
    if retold.len() >= old.len() {
        return None;
    }
    let retold = retold.into_iter().zip(RETOLD..);
    let retold = retold.map(|((stamp, saying), arrival)| Fact { stamp, arrival, saying });
    Some(retold.chain(recent.iter().map(|fact| (*fact).clone())).collect())
}
