//! The merge: what WeCom said of a group of names is kept and folded in order of its time.
//!
//! A state that is patched event by event depends on the order of arrival. So the state is never patched:
//! each event adds a [`Fact`], and the members are what [`fold`] makes of all facts, sorted by WeCom's
//! time. Whatever order they came in, the sorted list is the same, hence the result. The only names
//! whose facts can touch each other are those tied by renames; such a group is folded together.
//!
//! Rules of the fold, in order of time:
//! - An event names whoever bears the userid; failing that, whoever was renamed from it.
//! - An update of a member who is not known, or was deleted before, shows that there is one: its
//!   creation was missed, or comes later.
//! - A rename moves the member, with its departments, tags and openid, to the new name. A name that is
//!   created again afterwards is somebody else.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::fields::MemberField;
use super::ids::UserId;
pub use super::life::Saying;
use super::life::{Life, RETOLD, TimedFields, cut, fields_from_json, fields_to_json, restamp_fields};
use super::restamp::{Restamped, restamp};
use super::time::{Stamp, UnixSeconds};

/// What was said of a userid.
#[derive(Debug, Clone, PartialEq)]
pub enum Word {
    /// Something that concerns this one name.
    Of(Saying<MemberField>),
    /// From now on the member is called so; and what else changed.
    Renamed(UserId, TimedFields<MemberField>),
}

impl Word {
    /// The fields that it tells.
    #[must_use]
    pub fn fields(&self) -> Option<&TimedFields<MemberField>> {
        match self {
            Self::Of(saying) => saying.fields(),
            Self::Renamed(_, fields) => Some(fields),
        }
    }

    fn fields_mut(&mut self) -> Option<&mut TimedFields<MemberField>> {
        match self {
            Self::Of(saying) => saying.fields_mut(),
            Self::Renamed(_, fields) => Some(fields),
        }
    }
}

/// One thing that WeCom said, at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    /// The userid as it was named.
    pub userid: UserId,
    /// When, on WeCom's clock.
    pub stamp: Stamp,
    /// Order of arrival; decides what the clock leaves open.
    pub arrival: i64,
    /// What.
    pub word: Word,
}

impl Fact {
    /// The word as the database keeps it.
    #[must_use]
    pub fn word_to_json(&self) -> Json {
        match &self.word {
            Word::Of(saying) => saying.to_json(self.stamp),
            Word::Renamed(to, fields) => {
                json!({"renamed": to.as_str(), "updated": fields_to_json(self.stamp, fields)})
            }
        }
    }

    /// What [`Fact::word_to_json`] wrote.
    #[must_use]
    pub fn word_from_json(stamp: Stamp, json: &Json) -> Option<Word> {
        match json.get("renamed") {
            Some(to) => Some(Word::Renamed(
                UserId::parse(to.as_str()?).ok()?,
                fields_from_json(stamp, json.get("updated")?)?,
            )),
            None => Saying::from_json(stamp, json).map(Word::Of),
        }
    }
}

/// Which member a life is, whatever it is called by now: the name that it was first known by, and the
/// end of that name's former holder.
pub type Identity = (UserId, Stamp);

/// A member as the facts tell.
#[derive(Debug, Clone, PartialEq)]
pub struct Person {
    /// Who.
    pub identity: Identity,
    /// The userid as WeCom wrote it last.
    pub userid: UserId,
    /// All else.
    pub life: Life<MemberField>,
}

impl Person {
    fn new(userid: &UserId, floor: Stamp) -> Self {
        Self {
            identity: (userid.clone(), floor),
            userid: userid.clone(),
            life: Life { floor, ..Life::default() },
        }
    }

    fn see(&mut self, userid: &UserId, stamp: Stamp, fields: &TimedFields<MemberField>) {
        self.life.see(stamp, fields);
        self.identity.1 = self.life.floor;
        if self.userid == *userid {
            self.userid = userid.clone();
        }
    }
}

/// The members of a group of names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Group {
    /// By present userid; also the deleted, and those of whom only a tag has spoken.
    pub people: BTreeMap<UserId, Person>,
    /// Former names, and what they were renamed to; when.
    aliases: BTreeMap<UserId, (UserId, Stamp)>,
}

/// Folds facts, given in any order.
#[must_use]
pub fn fold<'a>(facts: impl IntoIterator<Item = &'a Fact>) -> Group {
    let mut facts: Vec<&Fact> = facts.into_iter().collect();
    facts.sort_by(|a, b| (a.stamp, a.arrival, &a.userid).cmp(&(b.stamp, b.arrival, &b.userid)));
    let mut group = Group::default();
    for fact in facts {
        group.tell(fact);
    }
    group
}

impl Group {
    /// The present userid of whoever is meant by `name`.
    #[must_use]
    pub fn bearer(&self, name: &UserId) -> UserId {
        let mut name = name;
        // As many steps as there are aliases at most: a circle of renames must not hang the daemon.
        for _ in 0..=self.aliases.len() {
            if self.people.get(name).is_some_and(|p| p.life.alive()) {
                break;
            }
            match self.aliases.get(name) {
                Some((next, _)) => name = next,
                None => break,
            }
        }
        name.clone()
    }

    fn tell(&mut self, fact: &Fact) {
        let stamp = fact.stamp;
        match &fact.word {
            Word::Renamed(to, fields) => self.rename(&fact.userid, to, stamp, fields),
            Word::Of(Saying::Seen { created: true, fields }) => {
                // A creation is never meant for the one who was renamed from this name.
                let floor = self.aliases.remove(&fact.userid).map(|(_, renamed)| renamed);
                self.person(&fact.userid, floor).see(&fact.userid, stamp, fields);
            }
            Word::Of(Saying::Seen { created: false, fields }) => {
                let bearer = self.bearer(&fact.userid);
                self.person(&bearer, None).see(&fact.userid, stamp, fields);
            }
            Word::Of(Saying::Absent) => {
                if let Some(person) = self.people.get_mut(&fact.userid) {
                    person.life.tell(stamp, &Saying::Absent);
                }
            }
            Word::Of(other) => {
                let bearer = self.bearer(&fact.userid);
                self.person(&bearer, None).life.tell(stamp, other);
            }
        }
    }

    fn person(&mut self, userid: &UserId, floor: Option<Stamp>) -> &mut Person {
        self.people
            .entry(userid.clone())
            .or_insert_with(|| Person::new(userid, floor.unwrap_or(Stamp::BEGINNING)))
    }

    fn rename(&mut self, from: &UserId, to: &UserId, stamp: Stamp, fields: &TimedFields<MemberField>) {
        let bearer = self.bearer(from);
        let alive = |userid: &UserId| self.people.get(userid).is_some_and(|p| p.life.alive());
        let never_known = !self.people.get(&bearer).is_some_and(|p| p.life.born || p.life.deleted.is_some());
        if bearer == *to || (never_known && alive(to)) {
            // Told before, or only the spelling changes; or the member was never known by the old name, of
            // which only tags may have spoken.
            let spoken_of = if bearer == *to { None } else { self.people.remove(&bearer) };
            let person = self.person(to, None);
            if let Some(spoken_of) = spoken_of {
                person.life.absorb(spoken_of.life);
            }
            person.see(to, stamp, fields);
            if *from != *to {
                self.aliases.insert(from.clone(), (to.clone(), stamp));
                self.aliases.remove(to);
            }
            return;
        }
        let mut person =
            self.people.remove(&bearer).unwrap_or_else(|| Person::new(&bearer, Stamp::BEGINNING));
        // Begins a new life first, if it was deleted; the fields come last, so that the same rename told
        // again finds the same to refer to.
        person.see(&bearer, stamp, &TimedFields::new());
        if let Some(former) = self.people.remove(to)
            && former.life.deleted.is_none()
        {
            // Whoever is known by the new name already is the same member, seen before the rename was.
            person.life.absorb(former.life);
        }
        person.see(&bearer, stamp, fields);
        person.userid = to.clone();
        for old in [from, &bearer] {
            self.aliases.insert(old.clone(), (to.clone(), stamp));
        }
        self.aliases.remove(to);
        self.people.insert(to.clone(), person);
    }

    /// The same group with these stamps in its members' identities, so that the same member is found again after its
    /// facts got other stamps.
    #[must_use]
    pub(super) fn with_identities(mut self, restamped: &Restamped) -> Self {
        for person in self.people.values_mut() {
            person.identity.1 = restamped.stamp(person.identity.1);
        }
        self
    }

    /// Whether the group is one member who never had another name, so that it may be told shorter.
    fn single(&self) -> Option<&Person> {
        let mut people = self.people.values();
        match (people.next(), people.next()) {
            (Some(person), None) if self.aliases.is_empty() => Some(person),
            _ => None,
        }
    }
}

/// The facts with plausible stamps; `None` if all are plausible. `next`: the time of the fact that is about to be added.
pub(super) fn restamped(
    facts: &[Fact],
    latest: UnixSeconds,
    next: Option<UnixSeconds>,
) -> Option<(Vec<Fact>, Restamped)> {
    let places = facts.iter().flat_map(|fact| {
        let fields = fact.word.fields().into_iter().flat_map(|fields| fields.values().map(|(at, _)| *at));
        std::iter::once(fact.stamp).chain(fields).map(|stamp| (stamp, fact.arrival))
    });
    let restamped = restamp(&places.collect::<Vec<_>>(), latest, next)?;
    let moved = facts.iter().map(|fact| {
        let mut fact = fact.clone();
        fact.stamp = restamped.stamp(fact.stamp);
        if let Some(fields) = fact.word.fields_mut() {
            restamp_fields(fields, &restamped);
        }
        fact
    });
    Some((moved.collect(), restamped))
}

/// A shorter list of facts that tells the same, if it is time for that.
///
/// What is lost is only what a rename *or* deletion that arrives more than a week late would need to
/// tell apart two holders of one name.
#[must_use]
pub fn shortened(facts: &[Fact]) -> Option<Vec<Fact>> {
    let mut sorted: Vec<&Fact> = facts.iter().collect();
    sorted.sort_by_key(|fact| (fact.stamp, fact.arrival));
    let stamps: Vec<Stamp> = sorted.iter().map(|fact| fact.stamp).collect();
    let (old, recent) = sorted.split_at(cut(&stamps)?);
    let group = fold(old.iter().copied());
    let person = group.single()?;
    let retold = person.life.retold();
    if retold.len() >= old.len() {
        return None;
    }
    let retold = retold.into_iter().zip(RETOLD..).map(|((stamp, saying), arrival)| {
        let userid = person.userid.clone();
        Fact { userid, stamp, arrival, word: Word::Of(saying) }
    });
    Some(retold.chain(recent.iter().map(|fact| (*fact).clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::life::timed;
    use crate::directory::{Fields, TagId, UnixSeconds, Value};

    /// A random fact of one member, `at` seconds after some beginning.
    fn fact(rng: &mut fastrand::Rng, at: i64) -> Fact {
        let at = UnixSeconds(1_600_000_000 + at);
        let text = |rng: &mut fastrand::Rng| Value::text(&"x".repeat(rng.usize(0..4)));
        let mut fields = Fields::new();
        for field in [MemberField::Name, MemberField::Position, MemberField::Mobile] {
            if rng.bool() {
                fields.insert(field, text(rng));
            }
        }
        if rng.bool() {
            fields.insert(MemberField::Department, Value::Ids((0..rng.u32(0..4)).collect()));
            fields.insert(MemberField::LeaderOf, Value::Flags(vec![rng.bool(), rng.bool()]));
        }
        let (stamp, saying) = match rng.u32(0..11) {
            0 => (Stamp::deleted(at), Saying::Deleted),
            10 => (Stamp::observed(at), Saying::Absent),
            1..3 => (Stamp::told(at), Saying::Tagged(TagId(rng.u32(0..3)), rng.bool())),
            n => (Stamp::told(at), Saying::Seen { created: n == 3, fields: timed(Stamp::told(at), &fields) }),
        };
        Fact {
            userid: UserId::parse("a").unwrap(),
            stamp,
            arrival: rng.i64(1..1_000_000),
            word: Word::Of(saying),
        }
    }

    #[test]
    fn facts_told_shorter_tell_the_same_also_with_what_comes_later() {
        let mut shortened_some = 0;
        for seed in 0..2000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let span = 86_400 * rng.i64(1..60);
            let number = if seed % 50 == 0 { 300 } else { rng.usize(20..60) };
            let facts: Vec<Fact> = (0..number)
                .map(|_| {
                    let at = rng.i64(0..span);
                    fact(&mut rng, at)
                })
                .collect();
            let Some(shorter) = shortened(&facts) else { continue };
            shortened_some += 1;
            assert!(shorter.len() < facts.len(), "{seed}");
            // Also as the database keeps them.
            let kept: Vec<Fact> = shorter
                .iter()
                .map(|fact| {
                    let word = Fact::word_from_json(fact.stamp, &fact.word_to_json()).unwrap();
                    Fact { word, ..fact.clone() }
                })
                .collect();
            assert_eq!(kept, shorter, "{seed}");
            // Then something comes, up to a day late.
            let late = (0..rng.usize(0..3)).map(|_| {
                let at = span - rng.i64(0..86_400);
                fact(&mut rng, at)
            });
            let late: Vec<Fact> = late.collect();
            if number == 300 {
                assert_eq!(fold(&kept), fold(&facts), "{seed}");
            } else {
                assert_eq!(fold(kept.iter().chain(&late)), fold(facts.iter().chain(&late)), "{seed}");
            }
        }
        assert!(shortened_some > 500, "only {shortened_some}");
    }
}
