//! What WeCom's API showed, brought in through the same merge as events.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Map, json};

use super::apply::{next_event, tell_member};
use super::departments::tell_department;
use super::members::write_changes;
use crate::directory::changes::{At, Change, Entity, Merge};
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

/// Brings in what was observed at `at` on WeCom's clock. An event of that second or later stands above it.
///
/// # Errors
/// Whatever SQLite says; the caller rolls back.
pub fn observe(
    connection: &Connection,
    observation: &Observation,
    at: UnixSeconds,
    now: UnixSeconds,
) -> rusqlite::Result<Effect> {
    let place = (At::Observed(at), next_event(connection)?);
    let stamp = Stamp::observed(at);
    let member = |userid: &UserId, saying| {
        let merged = tell_member(connection, userid, place, Word::Of(saying), now)?;
        Ok(Effect::of(&merged.changes))
    };
    let department = |id: DepartmentId, saying| {
        let merged = tell_department(connection, id, place, saying, now)?;
        Ok(Effect::of(&merged.changes))
    };
    match observation {
        Observation::Member(userid, fields) => {
            Ok(Effect::of(&observe_member(connection, userid, fields, at, now)?.changes))
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
    }
}

/// Brings in a member's fields; see [`observe`].
pub(super) fn observe_member(
    connection: &Connection,
    userid: &UserId,
    fields: &Fields<MemberField>,
    at: UnixSeconds,
    now: UnixSeconds,
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
    now: UnixSeconds,
) -> rusqlite::Result<Effect> {
    let known: Option<(Option<String>, Option<i64>)> = connection
        .prepare_cached("SELECT name, deleted_at FROM tags WHERE id = ?1")?
        .query_row([tag.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let change = match known {
        Some((Some(known), None)) if known == name => return Ok(Effect::default()),
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
    Ok(Effect::of(&changes))
}

fn tag_absent(
    connection: &Connection,
    tag: TagId,
    at: UnixSeconds,
    now: UnixSeconds,
) -> rusqlite::Result<Effect> {
    let gone = connection
        .prepare_cached(
            "UPDATE tags SET deleted_at = ?2, updated_at = ?3
             WHERE id = ?1 AND deleted_at IS NULL AND event_time < ?2",
        )?
        .execute(params![tag.0, at.0, now.0])?;
    if gone == 0 {
        return Ok(Effect::default());
    }
    let (members, departments) = tag_content(connection, tag)?;
    for userid in members {
        observe(connection, &Observation::TagMember(tag, userid, false), at, now)?;
    }
    for id in departments {
        observe(connection, &Observation::TagDepartment(tag, id, false), at, now)?;
    }
    let changes = [Change::new(Entity::Tag, tag, Action::Deleted, Map::new())];
    write_changes(connection, &changes, now)?;
    Ok(Effect::of(&changes))
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
