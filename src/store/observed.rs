//! What WeCom's API showed, brought in through the same merge as events.

use std::fmt;

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Map, json};

use super::apply::{next_event, plausible_facts, tell_member};
use super::departments::{plausible_department_facts, restamp_tag, tell_department};
use super::facts::{group_facts, tied_names};
use super::members::write_changes;
use crate::directory::changes::{At, Change, Entity, Merge};
use crate::directory::clock::Moment;
use crate::directory::history::Word;
use crate::directory::life::{Saying, timed};
use crate::directory::{
    Action, DepartmentField, DepartmentId, Fields, MemberField, Stamp, TagId, UnixSeconds, UserId,
};

/// One thing that WeCom's API showed.
#[derive(Debug, Clone, PartialEq)]
pub enum Observation {
    /// A member with these fields.
    Member(UserId, Fields<MemberField>),
    /// No such member.
    MemberAbsent(UserId),
    /// A department with these fields.
    Department(DepartmentId, Fields<DepartmentField>),
    /// No such department.
    DepartmentAbsent(DepartmentId),
    /// A tag of this name.
    Tag(TagId, String),
    /// No such tag.
    TagAbsent(TagId),
    /// A member in a tag (true), or not in it.
    TagMember(TagId, UserId, bool),
    /// A department in a tag (true), or not in it.
    TagDepartment(TagId, DepartmentId, bool),
    /// Recorded times are later than plausible: they are corrected, and nothing else.
    Ahead(Subject),
}

/// A row of the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A member.
    Member(UserId),
    /// A department.
    Department(DepartmentId),
    /// A tag.
    Tag(TagId),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member(userid) => userid.fmt(f),
            Self::Department(id) => write!(f, "department {id}"),
            Self::Tag(tag) => write!(f, "tag {tag}"),
        }
    }
}

/// Rows, present or deleted, whose recorded times are later than `latest`.
///
/// # Errors
/// SQLite's.
pub fn ahead_of(connection: &Connection, latest: UnixSeconds) -> rusqlite::Result<Vec<Subject>> {
    let mut found = Vec::new();
    let mut members = connection.prepare_cached("SELECT userid FROM members WHERE event_time > ?1")?;
    let mut rows = members.query([latest.0])?;
    while let Some(row) = rows.next()? {
        found.extend(UserId::parse(row.get_ref(0)?.as_str()?).ok().map(Subject::Member));
    }
    let mut departments = connection.prepare_cached("SELECT id FROM departments WHERE event_time > ?1")?;
    let ids = departments.query_map([latest.0], |row| Ok(Subject::Department(DepartmentId(row.get(0)?))))?;
    found.extend(ids.collect::<rusqlite::Result<Vec<_>>>()?);
    let mut tags = connection.prepare_cached("SELECT id FROM tags WHERE event_time > ?1")?;
    let ids = tags.query_map([latest.0], |row| Ok(Subject::Tag(TagId(row.get(0)?))))?;
    found.extend(ids.collect::<rusqlite::Result<Vec<_>>>()?);
    Ok(found)
}

/// What observations came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effect {
    /// Members, departments and tags that came into being.
    pub created: usize,
    /// Changes of what was there.
    pub updated: usize,
    /// Members, departments and tags that are gone.
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

    /// Adds another one.
    pub fn add(&mut self, other: Self) {
        self.created += other.created;
        self.updated += other.updated;
        self.deleted += other.deleted;
    }

    /// Whether nothing changed.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What one observation came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    /// What changed.
    pub effect: Effect,
    /// Whether the directory is now as observed; else something newer hides the observation.
    pub holds: bool,
}

impl Observed {
    fn of(changes: &[Change], holds: bool) -> Self {
        Self { effect: Effect::of(changes), holds }
    }
}

/// Merges what was observed at `at` on WeCom's clock. An event of that second or later outranks it.
///
/// # Errors
/// SQLite's; the caller rolls back.
pub fn observe(
    connection: &Connection,
    observation: &Observation,
    at: UnixSeconds,
    now: impl Into<Moment>,
) -> rusqlite::Result<Observed> {
    let now: Moment = now.into();
    let place = (At::Observed(at), next_event(connection)?);
    let stamp = Stamp::observed(at);
    let member = |userid: &UserId, saying| {
        let merged = tell_member(connection, userid, place, Word::Of(saying), now)?;
        Ok(Observed::of(&merged.changes, merged.holds))
    };
    let department = |id: DepartmentId, saying| {
        let merged = tell_department(connection, id, place, saying, now)?;
        Ok(Observed::of(&merged.difference.changes, merged.holds))
    };
    match observation {
        Observation::Member(userid, fields) => {
            let merged = observe_member(connection, userid, fields, at, now)?;
            Ok(Observed::of(&merged.changes, merged.holds))
        }
        Observation::MemberAbsent(userid) => member(userid, Saying::Absent),
        Observation::Department(id, fields) => {
            department(*id, Saying::Seen { created: true, fields: timed(stamp, fields) })
        }
        Observation::DepartmentAbsent(id) => department(*id, Saying::Absent),
        Observation::TagMember(tag, userid, within) => member(userid, Saying::Tagged(*tag, *within)),
        Observation::TagDepartment(tag, id, within) => department(*id, Saying::Tagged(*tag, *within)),
        Observation::Tag(tag, name) => see_tag_named(connection, *tag, name, at, now),
        Observation::TagAbsent(tag) => tag_absent(connection, *tag, at, now),
        Observation::Ahead(subject) => {
            match subject {
                Subject::Member(userid) => {
                    plausible_facts(connection, userid, group_facts(connection, userid)?, at, now)?;
                }
                Subject::Department(id) => {
                    plausible_department_facts(connection, *id, at, now)?;
                }
                Subject::Tag(tag) => restamp_tag(connection, *tag, at, now)?,
            }
            Ok(Observed::of(&[], true))
        }
    }
}

/// Brings in a member's fields; see [`observe`].
pub(super) fn observe_member(
    connection: &Connection,
    userid: &UserId,
    fields: &Fields<MemberField>,
    at: UnixSeconds,
    now: Moment,
) -> rusqlite::Result<Merge> {
    // Said to be created, because it is never meant for whoever was renamed from this name.
    let saying = Saying::Seen { created: true, fields: timed(Stamp::observed(at), fields) };
    tell_member(connection, userid, (At::Observed(at), next_event(connection)?), Word::Of(saying), now)
}

fn see_tag_named(
    connection: &Connection,
    tag: TagId,
    name: &str,
    at: UnixSeconds,
    moment: Moment,
) -> rusqlite::Result<Observed> {
    restamp_tag(connection, tag, at, moment)?;
    let now = moment.local;
    let known: Option<(Option<String>, Option<i64>)> = connection
        .prepare_cached("SELECT name, deleted_at FROM tags WHERE id = ?1")?
        .query_row([tag.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let change = match known {
        Some((Some(known), None)) if known == name => return Ok(Observed::of(&[], true)),
        Some((known, None)) => {
            let fields = Map::from_iter([("name".to_owned(), json!([known, name]))]);
            Change::new(Entity::Tag, tag, Action::Updated, fields)
        }
        _ => {
            let fields = [("id", json!([null, tag.0])), ("name", json!([null, name]))];
            let fields = fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            Change::new(Entity::Tag, tag, Action::Created, fields)
        }
    };
    connection
        .prepare_cached(
            "INSERT INTO tags (id, name, created_at, updated_at, event_time) VALUES (?1, ?2, ?3, ?3, ?4)
             ON CONFLICT (id) DO UPDATE SET name = ?2, updated_at = ?3, deleted_at = NULL,
                event_time = max(event_time, ?4)",
        )?
        .execute(params![tag.0, name, now.0, at.0])?;
    let changes = [change];
    write_changes(connection, &changes, now)?;
    Ok(Observed::of(&changes, true))
}

fn tag_absent(
    connection: &Connection,
    tag: TagId,
    at: UnixSeconds,
    moment: Moment,
) -> rusqlite::Result<Observed> {
    restamp_tag(connection, tag, at, moment)?;
    let now = moment.local;
    let gone = connection
        .prepare_cached(
            "UPDATE tags SET deleted_at = ?2, updated_at = ?3
             WHERE id = ?1 AND deleted_at IS NULL AND event_time < ?2",
        )?
        .execute(params![tag.0, at.0, now.0])?;
    if gone == 0 {
        let is_present = connection
            .prepare_cached("SELECT 1 FROM tags WHERE id = ?1 AND deleted_at IS NULL")?
            .exists([tag.0])?;
        return Ok(Observed::of(&[], !is_present));
    }
    let (members, departments) = tag_content(connection, tag)?;
    for userid in members {
        observe(connection, &Observation::TagMember(tag, userid, false), at, moment)?;
    }
    for id in departments {
        observe(connection, &Observation::TagDepartment(tag, id, false), at, moment)?;
    }
    let changes = [Change::new(Entity::Tag, tag, Action::Deleted, Map::new())];
    write_changes(connection, &changes, now)?;
    Ok(Observed::of(&changes, true))
}

/// A moment in the life of the database: what came later has higher numbers or times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    /// Number of the next event.
    pub event: i64,
    /// This machine's clock.
    pub local: UnixSeconds,
}

impl Since {
    /// This moment.
    ///
    /// # Errors
    /// SQLite's.
    pub fn now(connection: &Connection, local: UnixSeconds) -> rusqlite::Result<Self> {
        Ok(Self { event: next_event(connection)?, local })
    }
}

impl Observation {
    /// Whether an event about the subject was applied, or its details were fetched, since then: that explains why
    /// an observation does not hold.
    ///
    /// # Errors
    /// SQLite's.
    pub fn has_news_since(&self, connection: &Connection, since: Since) -> rusqlite::Result<bool> {
        match self {
            Self::Member(userid, _) | Self::MemberAbsent(userid) => {
                member_has_news(connection, userid, since)
            }
            Self::Department(id, _) | Self::DepartmentAbsent(id) => {
                has_event(connection, &id.to_string(), "%_party", since)
            }
            Self::Tag(tag, _) | Self::TagAbsent(tag) => {
                has_event(connection, &tag.to_string(), "update_tag", since)
            }
            Self::Ahead(_) => Ok(false),
            Self::TagMember(tag, userid, _) => {
                Ok(has_event(connection, &tag.to_string(), "update_tag", since)?
                    || member_has_news(connection, userid, since)?)
            }
            Self::TagDepartment(tag, id, _) => {
                Ok(has_event(connection, &tag.to_string(), "update_tag", since)?
                    || has_event(connection, &id.to_string(), "%_party", since)?)
            }
        }
    }

    /// What it is about, for a note.
    #[must_use]
    pub fn subject(&self) -> String {
        match self {
            Self::Member(userid, _) | Self::MemberAbsent(userid) => userid.to_string(),
            Self::Department(id, _) | Self::DepartmentAbsent(id) => format!("department {id}"),
            Self::Tag(tag, _) | Self::TagAbsent(tag) => format!("tag {tag}"),
            Self::Ahead(subject) => subject.to_string(),
            Self::TagMember(tag, userid, _) => format!("{userid} in tag {tag}"),
            Self::TagDepartment(tag, id, _) => format!("department {id} in tag {tag}"),
        }
    }
}

fn member_has_news(connection: &Connection, userid: &UserId, since: Since) -> rusqlite::Result<bool> {
    let was_fetched = connection
        .prepare_cached("SELECT 1 FROM members WHERE userid = ?1 AND details_fetched_at >= ?2")?
        .exists(params![userid.as_str(), since.local.0])?;
    if was_fetched {
        return Ok(true);
    }
    for name in tied_names(connection, userid)? {
        if has_event(connection, name.as_str(), "%_user", since)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has_event(
    connection: &Connection,
    subject: &str,
    change_type: &str,
    since: Since,
) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT 1 FROM events WHERE subject = ?1 AND seq >= ?2 AND outcome = 'applied' AND change_type LIKE ?3",
        )?
        .exists(params![subject, since.event, change_type])
}

/// Who and what is in a tag, as far as the directory knows.
///
/// # Errors
/// Whatever SQLite says.
pub fn tag_content(
    connection: &Connection,
    tag: TagId,
) -> rusqlite::Result<(Vec<UserId>, Vec<DepartmentId>)> {
    let mut statement = connection.prepare_cached("SELECT userid FROM tag_members WHERE tag_id = ?1")?;
    let members = statement.query_map([tag.0], |row| row.get::<_, String>(0))?;
    let members: Vec<String> = members.collect::<rusqlite::Result<_>>()?;
    let mut statement =
        connection.prepare_cached("SELECT department_id FROM tag_departments WHERE tag_id = ?1")?;
    let departments = statement.query_map([tag.0], |row| Ok(DepartmentId(row.get(0)?)))?;
    let members = members.iter().filter_map(|userid| UserId::parse(userid).ok()).collect();
    Ok((members, departments.collect::<rusqlite::Result<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::openid::Backoff;
    use crate::directory::{Event, MemberEvent, Subject as EventSubject, Value};
    use crate::store::open::open_in_memory;
    use crate::store::openids::{claim, record_conversion};
    use crate::store::{ConversionOutcome, NewEvent, apply_event};

    const NOW: UnixSeconds = UnixSeconds(1_790_000_000);
    const AHEAD: i64 = 86_400;

    fn userid() -> UserId {
        UserId::parse("zhang").unwrap()
    }

    fn apply(db: &Connection, n: i64, at: UnixSeconds, told: MemberEvent) {
        let event = NewEvent {
            received_at: NOW,
            create_time: Some(at),
            event: "change_contact".into(),
            change_type: "update_user".into(),
            subject: "zhang".into(),
            payload: n.to_string(),
            digest: n,
            meaning: Some(Event { at, subject: EventSubject::Member(userid(), told) }),
            latest: None,
            comparison_due: None,
        };
        apply_event(db, &event).unwrap();
    }

    fn named(name: &str) -> Fields<MemberField> {
        Fields::from([(MemberField::Name, Value::text(name)), (MemberField::Department, Value::Ids(vec![1]))])
    }

    fn value(db: &Connection, sql: &str) -> String {
        db.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn correcting_times_keeps_the_member_and_its_openid_and_tells_the_feed_nothing() {
        let db = open_in_memory().unwrap();
        let ahead = |seconds| NOW.plus(AHEAD + seconds);
        apply(&db, 1, ahead(0), MemberEvent::Created(named("former")));
        apply(&db, 2, ahead(1), MemberEvent::Deleted);
        apply(&db, 3, ahead(2), MemberEvent::Created(named("present")));
        let asked = claim(&db, &userid(), None, NOW).unwrap().unwrap();
        let backoff = Backoff { first: std::time::Duration::ZERO, max: std::time::Duration::ZERO };
        record_conversion(&db, &asked, &ConversionOutcome::Openid("o1".into()), backoff, NOW, 0.0).unwrap();
        let changes = value(&db, "SELECT count(*) || '' FROM changes");

        let latest = NOW.plus(300);
        let moment = Moment { local: NOW, latest: Some(latest) };
        for subject in ahead_of(&db, latest).unwrap() {
            assert!(observe(&db, &Observation::Ahead(subject), NOW, moment).unwrap().holds);
        }
        assert_eq!(ahead_of(&db, latest).unwrap(), []);
        assert_eq!(value(&db, "SELECT name || openid || openid_state FROM members"), "presento1converted");
        assert_eq!(value(&db, "SELECT count(*) || '' FROM changes"), changes);

        // What WeCom tells next counts.
        let absent = observe(&db, &Observation::MemberAbsent(userid()), NOW, moment).unwrap();
        assert!(absent.holds && absent.effect.deleted == 1, "{absent:?}");
    }

    #[test]
    fn an_observation_that_something_newer_hides_does_not_hold() {
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
}
