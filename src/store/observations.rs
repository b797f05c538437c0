//! Observations: answers of WeCom's API, merged by the same rules as events.

use std::fmt;

use super::Result;
use super::connection::{Connection, values};
use super::departments::{add_numbered_fact, plausible_numbered_facts, tag_absent};
use super::facts::group_facts;
use super::ledger::next_event;
use super::member_merge::{add_member_fact, plausible_facts};
use crate::directory::clock::Moment;
use crate::directory::diff::{Change, Entity, MemberMerge};
use crate::directory::fact::{Fact, Presence, Source};
use crate::directory::members::MemberFact;
use crate::directory::{
    Action, DepartmentField, DepartmentId, Fields, MemberField, TagField, TagId, UnixSeconds, UserId, Value,
};

/// A statement of WeCom's API about one entity or listing.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Observation {
    Member(UserId, Fields<MemberField>),
    MemberAbsent(UserId),
    Department(DepartmentId, Fields<DepartmentField>),
    DepartmentAbsent(DepartmentId),
    Tag(TagId, String),
    TagAbsent(TagId),
    /// Whether a tag contains the member.
    TagMember(TagId, UserId, bool),
    /// Whether a tag contains the department.
    TagDepartment(TagId, DepartmentId, bool),
    /// No statement: only restamps facts that are later than plausible.
    Ahead(EntityId),
    /// All entities of this kind were listed, and the differences were merged.
    Complete(Entity),
    /// The tag's whole content was listed, and the differences were merged.
    TagContentComplete(TagId),
}

/// Identifies a member, department or tag.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum EntityId {
    Member(UserId),
    Department(DepartmentId),
    Tag(TagId),
}

impl fmt::Display for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member(userid) => userid.fmt(f),
            Self::Department(id) => write!(f, "department {id}"),
            Self::Tag(tag) => write!(f, "tag {tag}"),
        }
    }
}

/// Entities, present or deleted, with a newest fact later than `latest`.
pub fn ahead_of(connection: &Connection, latest: UnixSeconds) -> Result<Vec<EntityId>> {
    let mut found = Vec::new();
    connection.for_each("SELECT userid FROM members WHERE event_time > ?1", values![latest], |row| {
        found.extend(row.userid(0)?.map(EntityId::Member));
        Ok(true)
    })?;
    let ids = "SELECT id FROM departments WHERE event_time > ?1";
    let departments =
        connection.rows(ids, values![latest], |row| Ok(EntityId::Department(DepartmentId(row.get(0)?))))?;
    let ids = "SELECT id FROM tags WHERE event_time > ?1";
    let tags = connection.rows(ids, values![latest], |row| Ok(EntityId::Tag(TagId(row.get(0)?))))?;
    found.extend(departments.into_iter().chain(tags));
    Ok(found)
}

/// The number of changes that observations caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effect {
    /// New members, departments and tags.
    pub created: usize,
    /// Changes of existing members, departments and tags.
    pub updated: usize,
    /// Deleted members, departments and tags.
    pub deleted: usize,
}

impl Effect {
    pub(super) fn of(changes: &[Change]) -> Self {
        let mut effect = Self::default();
        for change in changes {
            match change.action {
                Action::Created => effect.created += 1,
                Action::Deleted => effect.deleted += 1,
                Action::Updated | Action::Renamed | Action::Openid => effect.updated += 1,
            }
        }
        effect
    }

    /// Adds the counts of another effect.
    pub fn add(&mut self, other: Self) {
        self.created += other.created;
        self.updated += other.updated;
        self.deleted += other.deleted;
    }

    /// Whether all three counts are zero.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// The effect of one observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    /// The changes that it caused.
    pub effect: Effect,
    /// Whether the directory agrees with the observation; else newer facts hide it.
    pub holds: bool,
}

impl Observed {
    fn of(changes: &[Change], holds: bool) -> Self {
        Self { effect: Effect::of(changes), holds }
    }
}

/// Merges an observation of `at` on WeCom's clock. Events of that second or later outrank it.
pub fn observe(
    connection: &Connection,
    observation: &Observation,
    at: UnixSeconds,
    now: impl Into<Moment>,
) -> Result<Observed> {
    let now: Moment = now.into();
    let source = Source::Api(at);
    let member = |userid: &UserId, fact| {
        let (merged, _) = add_member_fact(connection, userid, source, MemberFact::Entity(fact), now)?;
        Ok(Observed::of(&merged.changes, merged.holds))
    };
    let department = |id: DepartmentId, fact| {
        let merged = add_numbered_fact::<DepartmentField>(connection, id.0, source, fact, now)?;
        Ok(Observed::of(&merged.difference.changes, merged.holds))
    };
    match observation {
        Observation::Member(userid, fields) => {
            member(userid, Fact::present(Presence::Listed, source, fields))
        }
        Observation::MemberAbsent(userid) => member(userid, Fact::Absent),
        Observation::Department(id, fields) => {
            department(*id, Fact::present(Presence::Listed, source, fields))
        }
        Observation::DepartmentAbsent(id) => department(*id, Fact::Absent),
        Observation::TagMember(tag, userid, within) => member(userid, Fact::Tagged(*tag, *within)),
        Observation::TagDepartment(tag, id, within) => department(*id, Fact::Tagged(*tag, *within)),
        Observation::Tag(tag, name) => {
            let fields = Fields::from([(TagField::Name, Value::text(name))]);
            let fact = Fact::present(Presence::Listed, source, &fields);
            let merged = add_numbered_fact::<TagField>(connection, tag.0, source, fact, now)?;
            Ok(Observed::of(&merged.difference.changes, merged.holds))
        }
        Observation::TagAbsent(tag) => {
            let merged = tag_absent(connection, *tag, at, now)?;
            Ok(Observed::of(&merged.difference.changes, merged.holds))
        }
        Observation::Complete(kind) => {
            connection.execute(
                "INSERT INTO listings (kind, second, arrival) VALUES (?1, ?2, ?3)
                     ON CONFLICT (kind) DO UPDATE SET second = excluded.second, arrival = excluded.arrival",
                values![kind.as_str(), at.0, next_event(connection)?],
            )?;
            Ok(Observed::of(&[], true))
        }
        Observation::TagContentComplete(tag) => {
            connection.execute(
                "INSERT INTO tag_listings (tag_id, second) VALUES (?1, ?2)
                     ON CONFLICT (tag_id) DO UPDATE SET second = excluded.second",
                values![tag.0, at.0],
            )?;
            Ok(Observed::of(&[], true))
        }
        Observation::Ahead(subject) => {
            match subject {
                EntityId::Member(userid) => {
                    plausible_facts(connection, userid, group_facts(connection, userid)?, at, now)?;
                }
                EntityId::Department(id) => {
                    plausible_numbered_facts::<DepartmentField>(connection, id.0, at, now)?;
                }
                EntityId::Tag(tag) => {
                    plausible_numbered_facts::<TagField>(connection, tag.0, at, now)?;
                }
            }
            Ok(Observed::of(&[], true))
        }
    }
}

/// Merges a member's fields; see [`observe`].
pub(super) fn observe_member(
    connection: &Connection,
    userid: &UserId,
    fields: &Fields<MemberField>,
    at: UnixSeconds,
    now: Moment,
) -> Result<MemberMerge> {
    let source = Source::Api(at);
    let fact = Fact::present(Presence::Listed, source, fields);
    Ok(add_member_fact(connection, userid, source, MemberFact::Entity(fact), now)?.0)
}

impl Observation {
    /// A name of the subject, for a note.
    #[must_use]
    pub fn subject(&self) -> String {
        match self {
            Self::Member(userid, _) | Self::MemberAbsent(userid) => userid.to_string(),
            Self::Department(id, _) | Self::DepartmentAbsent(id) => format!("department {id}"),
            Self::Tag(tag, _) | Self::TagAbsent(tag) | Self::TagContentComplete(tag) => format!("tag {tag}"),
            Self::Complete(kind) => format!("all of kind {}", kind.as_str()),
            Self::Ahead(subject) => subject.to_string(),
            Self::TagMember(tag, userid, _) => format!("{userid} in tag {tag}"),
            Self::TagDepartment(tag, id, _) => format!("department {id} in tag {tag}"),
        }
    }
}

/// The members and departments in a tag.
pub fn tag_content(connection: &Connection, tag: TagId) -> Result<(Vec<UserId>, Vec<DepartmentId>)> {
    let select = "SELECT userid FROM tag_members WHERE tag_id = ?1";
    let members = connection.rows(select, values![tag.0], |row| row.userid(0))?;
    let select = "SELECT department_id FROM tag_departments WHERE tag_id = ?1";
    let departments = connection.rows(select, values![tag.0], |row| Ok(DepartmentId(row.get(0)?)))?;
    Ok((members.into_iter().flatten().collect(), departments))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::openid::Backoff;
    use crate::directory::{Event, MemberEvent, Subject as EventSubject, Value};
    use crate::store::news::Since;
    use crate::store::open::open_in_memory;
    use crate::store::openids::{claim, record_conversion};
    use crate::store::{ConversionOutcome, NewEvent, apply_event};

    const NOW: UnixSeconds = UnixSeconds(1_790_000_000);
    const AHEAD: i64 = 86_400;

    fn userid() -> UserId {
        UserId::parse("zhang").unwrap()
    }

    fn apply(db: &Connection, n: i64, at: UnixSeconds, member_event: MemberEvent) {
        let event = NewEvent {
            received_at: NOW,
            create_time: Some(at),
            event: "change_contact".into(),
            change_type: "update_user".into(),
            subject: "zhang".into(),
            payload: n.to_string(),
            digest: n,
            meaning: Some(Event { at, subject: EventSubject::Member(userid(), member_event) }),
            latest: None,
            comparison_due: None,
        };
        apply_event(db, &event).unwrap();
    }

    fn named(name: &str) -> Fields<MemberField> {
        Fields::from([(MemberField::Name, Value::text(name)), (MemberField::Department, Value::Ids(vec![1]))])
    }

    fn value(db: &Connection, sql: &'static str) -> String {
        db.one(sql, &[], |row| row.get(0)).unwrap()
    }

    #[test]
    fn correcting_times_keeps_the_member_and_its_openid_and_adds_no_change() {
        let db = open_in_memory().unwrap();
        let ahead = |seconds| NOW.plus(AHEAD + seconds);
        apply(&db, 1, ahead(0), MemberEvent::Created(named("former")));
        apply(&db, 2, ahead(1), MemberEvent::Deleted);
        apply(&db, 3, ahead(2), MemberEvent::Created(named("present")));
        let claimed = claim(&db, &userid(), None, NOW).unwrap().unwrap();
        let backoff = Backoff { first: std::time::Duration::ZERO, max: std::time::Duration::ZERO };
        let call = NOW.plus(AHEAD + 3);
        record_conversion(
            &db,
            &claimed,
            &ConversionOutcome::Openid("o1".into()),
            call,
            backoff,
            NOW.into(),
            0.0,
        )
        .unwrap();
        let changes = value(&db, "SELECT count(*) || '' FROM changes");

        let latest = NOW.plus(300);
        let moment = Moment { local: NOW, latest: Some(latest) };
        for subject in ahead_of(&db, latest).unwrap() {
            assert!(observe(&db, &Observation::Ahead(subject), NOW, moment).unwrap().holds);
        }
        assert_eq!(ahead_of(&db, latest).unwrap(), []);
        assert_eq!(value(&db, "SELECT name || openid || openid_state FROM members"), "presento1converted");
        assert_eq!(value(&db, "SELECT count(*) || '' FROM changes"), changes);

        // The next fact takes effect.
        let absent = observe(&db, &Observation::MemberAbsent(userid()), NOW, moment).unwrap();
        assert!(absent.holds && absent.effect.deleted == 1, "{absent:?}");
    }

    #[test]
    fn an_observation_that_newer_facts_hide_does_not_hold() {
        let db = open_in_memory().unwrap();
        apply(&db, 1, NOW, MemberEvent::Created(named("a")));
        let earlier = NOW.plus(-10);
        let hidden = observe(&db, &Observation::MemberAbsent(userid()), earlier, NOW).unwrap();
        assert!(!hidden.holds && hidden.effect.is_none());
        let same = observe(&db, &Observation::Member(userid(), named("a")), earlier, NOW).unwrap();
        assert!(same.holds);
        let since = Since { event: 2, local: NOW };
        assert!(!Observation::MemberAbsent(userid()).has_news_since(&db, since).unwrap());
        apply(&db, 2, NOW.plus(1), MemberEvent::Updated(named("b")));
        assert!(Observation::MemberAbsent(userid()).has_news_since(&db, since).unwrap());
    }

    #[test]
    fn no_statement_is_compiled_anew_for_each_use() {
        let db = open_in_memory().unwrap();
        let mut recompiled = 0;
        for n in 0..200 {
            let at = NOW.plus(n);
            db.transaction(|db| -> crate::store::Result<()> {
                apply(db, 4 * n, at, MemberEvent::Created(named("a")));
                apply(db, 4 * n + 1, at.plus(1), MemberEvent::Updated(named(&format!("b{n}"))));
                apply(db, 4 * n + 1, at.plus(1), MemberEvent::Updated(named(&format!("b{n}"))));
                if n % 3 == 0 {
                    let to = UserId::parse(&format!("zhang{n}")).unwrap();
                    apply(db, 4 * n + 2, at.plus(2), MemberEvent::Renamed(to, named("c")));
                }
                observe(db, &Observation::Tag(TagId(1), "t".into()), at, at)?;
                observe(db, &Observation::TagMember(TagId(1), userid(), n % 2 == 0), at, at)?;
                observe(db, &Observation::Department(DepartmentId(2), Fields::new()), at, at)?;
                if let Some(claimed) = claim(db, &userid(), None, NOW.plus(9999))? {
                    let backoff =
                        Backoff { first: std::time::Duration::ZERO, max: std::time::Duration::ZERO };
                    let outcome = ConversionOutcome::Openid(format!("o{n}"));
                    record_conversion(db, &claimed, &outcome, at, backoff, NOW.into(), 0.0)?;
                }
                apply(db, 4 * n + 3, at.plus(3), MemberEvent::Deleted);
                Ok(())
            })
            .unwrap();
            if n == 20 {
                recompiled = db.recompiled();
            }
        }
        assert_eq!(db.recompiled(), recompiled);
    }
}
