//! The members' tables: writing rows as the merge tells them.

use std::collections::BTreeMap;

use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};
use serde_json::{Map, json};

use super::clashes;
use crate::directory::changes::{Change, Details, Entity, MemberRow, Merge, RowWrite};
use crate::directory::fields::Sort;
use crate::directory::history::Identity;
use crate::directory::{Action, Field, MemberField, TagId, UnixSeconds, UserId, Value};

/// What a row holds besides what WeCom's events tell; it moves with the member.
struct Carried {
    openid: Option<String>,
    state: String,
    attempts: i64,
    next_attempt_at: Option<i64>,
    errcode: Option<i64>,
    error: Option<String>,
    openid_updated_at: Option<i64>,
    revision: i64,
    details_state: String,
    details_fetched_at: Option<i64>,
    details_revision: i64,
    created_at: i64,
}

impl Carried {
    /// A member that was not there: to be converted at once.
    fn fresh(now: UnixSeconds) -> Self {
        Self {
            openid: None,
            state: "pending".into(),
            attempts: 0,
            next_attempt_at: Some(now.0),
            errcode: None,
            error: None,
            openid_updated_at: None,
            // Never the same as that of a former bearer of the userid.
            revision: fastrand::i64(0..1 << 53),
            details_state: "due".into(),
            details_fetched_at: None,
            details_revision: fastrand::i64(0..1 << 53),
            created_at: now.0,
        }
    }

    /// Takes a row away, remembering what is to be carried.
    fn take(connection: &Connection, userid: &UserId) -> rusqlite::Result<Option<Self>> {
        connection
            .prepare_cached(
                "DELETE FROM members WHERE userid = ?1
                 RETURNING openid, openid_state, openid_attempts, openid_next_attempt_at, openid_errcode,
                           openid_error, openid_updated_at, openid_revision, details_state, details_fetched_at,
                           details_revision, created_at",
            )?
            .query_row([userid.as_str()], |row| {
                Ok(Self {
                    openid: row.get(0)?,
                    state: row.get(1)?,
                    attempts: row.get(2)?,
                    next_attempt_at: row.get(3)?,
                    errcode: row.get(4)?,
                    error: row.get(5)?,
                    openid_updated_at: row.get(6)?,
                    revision: row.get(7)?,
                    details_state: row.get(8)?,
                    details_fetched_at: row.get(9)?,
                    details_revision: row.get(10)?,
                    created_at: row.get(11)?,
                })
            })
            .optional()
    }
}

/// Writes what a merge found: rows, tags, and the lines of the change feed.
pub(super) fn write_merge(connection: &Connection, merge: &Merge, now: UnixSeconds) -> rusqlite::Result<()> {
    write_rows(connection, Rows { writes: &merge.writes, tags: &merge.tags, changes: &merge.changes }, now)?;
    let sql = match merge.details {
        Details::Keep => return Ok(()),
        Details::Known => "UPDATE members SET details_state = 'known' WHERE userid = ?1",
        // An answer that is under way may be older than this.
        Details::Due => {
            "UPDATE members SET details_state = 'due', details_revision = details_revision + 1 WHERE userid = ?1"
        }
    };
    connection.prepare_cached(sql)?.execute([merge.named.as_str()])?;
    Ok(())
}

/// What is to be written.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// Members.
    pub(super) writes: &'a [RowWrite],
    /// Tags that members came into (true) and left.
    pub(super) tags: &'a [(TagId, UserId, bool)],
    /// Lines of the change feed.
    pub(super) changes: &'a [Change],
}

/// Writes rows, tags, and the lines of the change feed.
pub(super) fn write_rows(
    connection: &Connection,
    Rows { writes, tags, changes }: Rows<'_>,
    now: UnixSeconds,
) -> rusqlite::Result<()> {
    let mut carried = BTreeMap::new();
    for write in writes {
        match write {
            RowWrite::Move { from, .. } => {
                if let Some(taken) = Carried::take(connection, from)? {
                    carried.insert(from.clone(), taken);
                }
            }
            RowWrite::Remove(userid, identity) => {
                if let Some(openid) = Carried::take(connection, userid)?.and_then(|taken| taken.openid) {
                    set_aside(connection, identity, &openid)?;
                }
            }
            RowWrite::Create(..) | RowWrite::Update { .. } => {}
        }
    }
    // Members that the change feed tells of anew, with the openids that they have kept.
    let mut newly_told: Vec<(&UserId, String)> = Vec::new();
    for write in writes {
        match write {
            RowWrite::Remove(..) => {}
            RowWrite::Create(row, identity) => {
                let mut carried = Carried::fresh(now);
                if let Some(openid) = take_from_aside(connection, identity)? {
                    newly_told.extend(row.deleted_at.is_none().then(|| (&row.userid, openid.clone())));
                    carried = Carried {
                        openid: Some(openid),
                        state: "converted".into(),
                        next_attempt_at: None,
                        openid_updated_at: Some(now.0),
                        ..carried
                    };
                }
                insert(connection, row, &carried, now)?;
            }
            RowWrite::Update { row, changed, respelled } => {
                update(connection, row, !changed.is_empty(), now)?;
                let departments = [MemberField::Department, MemberField::LeaderOf];
                if *respelled || row.deleted_at.is_some() || departments.iter().any(|f| changed.contains(f)) {
                    write_departments(connection, row)?;
                }
            }
            RowWrite::Move { from, row, was_present } => {
                let carried = carried.remove(from).unwrap_or_else(|| Carried::fresh(now));
                if let Some(openid) =
                    carried.openid.clone().filter(|_| !was_present && row.deleted_at.is_none())
                {
                    newly_told.push((&row.userid, openid));
                }
                insert(connection, row, &carried, now)?;
            }
        }
    }
    for (tag, userid, within) in tags {
        write_tag_member(connection, *tag, userid, *within)?;
    }
    write_changes(connection, changes, now)?;
    for (userid, openid) in newly_told {
        write_openid_change(connection, userid.as_str(), None, Some(&openid), now)?;
        clashes::look_for(connection, &openid, now)?;
    }
    let resolves = |write: &RowWrite| match write {
        RowWrite::Update { row, respelled, .. } => *respelled || row.deleted_at.is_some(),
        RowWrite::Remove(..) | RowWrite::Move { .. } => true,
        RowWrite::Create(..) => false,
    };
    if writes.iter().any(resolves) {
        clashes::review(connection, now)?;
    }
    Ok(())
}

/// Keeps the openid of a member whose row goes because events, as far as they have come, make it part of
/// another one: one that is still to come may show that it is not.
fn set_aside(connection: &Connection, (name, floor): &Identity, openid: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO openids_aside (name, floor, openid) VALUES (?1, ?2, ?3)")?
        .execute(params![name.as_str(), floor.to_raw(), openid])?;
    Ok(())
}

fn take_from_aside(connection: &Connection, (name, floor): &Identity) -> rusqlite::Result<Option<String>> {
    connection
        .prepare_cached("DELETE FROM openids_aside WHERE name = ?1 AND floor = ?2 RETURNING openid")?
        .query_row(params![name.as_str(), floor.to_raw()], |row| row.get(0))
        .optional()
}

/// The fields that are columns of `members`; the two others are rows of `member_departments`.
fn columns() -> impl Iterator<Item = MemberField> {
    let is_column = |f: &MemberField| !matches!(f, MemberField::Department | MemberField::LeaderOf);
    MemberField::ALL.iter().copied().filter(is_column)
}

fn column_values(row: &MemberRow) -> Vec<Sql> {
    columns()
        .map(|field| match row.fields.get(&field) {
            None => Sql::Null,
            Some(Value::Text(text)) => Sql::Text(text.clone()),
            Some(Value::Int(number)) => Sql::Integer(*number),
            Some(Value::Attrs(attrs)) => Sql::Text(attrs.to_string()),
            Some(Value::Emptied) if field.sort() == Sort::Text => Sql::Text(String::new()),
            Some(_) => Sql::Null,
        })
        .collect()
}

fn insert(
    connection: &Connection,
    row: &MemberRow,
    carried: &Carried,
    now: UnixSeconds,
) -> rusqlite::Result<()> {
    let mut values = column_values(row);
    values.extend([
        Sql::Text(row.userid.as_str().to_owned()),
        carried.openid.clone().into(),
        carried.state.clone().into(),
        carried.attempts.into(),
        carried.next_attempt_at.into(),
        carried.errcode.into(),
        carried.error.clone().into(),
        carried.openid_updated_at.into(),
        carried.revision.into(),
        carried.details_state.clone().into(),
        carried.details_fetched_at.into(),
        carried.details_revision.into(),
        carried.created_at.into(),
        now.0.into(),
        row.event_time.0.into(),
        row.deleted_at.map(|at| at.0).into(),
    ]);
    let names: Vec<&str> = columns().map(Field::name).collect();
    let places = vec!["?"; values.len()].join(", ");
    connection
        .prepare_cached(&format!(
            "INSERT INTO members ({}, userid, openid, openid_state, openid_attempts, openid_next_attempt_at,
                openid_errcode, openid_error, openid_updated_at, openid_revision, details_state, details_fetched_at,
                details_revision, created_at, updated_at, event_time, deleted_at) VALUES ({places})",
            names.join(", ")
        ))?
        .execute(params_from_iter(values))?;
    write_departments(connection, row)
}

fn update(connection: &Connection, row: &MemberRow, changed: bool, now: UnixSeconds) -> rusqlite::Result<()> {
    let mut values = column_values(row);
    let own: [Sql; 5] = [
        Sql::Text(row.userid.as_str().to_owned()),
        changed.into(),
        now.0.into(),
        row.event_time.0.into(),
        row.deleted_at.map(|at| at.0).into(),
    ];
    values.extend(own);
    let set: Vec<String> = columns().map(|field| format!("{} = ?", field.name())).collect();
    let n = set.len();
    connection
        .prepare_cached(&format!(
            "UPDATE members SET {}, userid = ?{u},
                updated_at = CASE WHEN ?{c} OR deleted_at IS NOT ?{d} THEN ?{t} ELSE updated_at END,
                event_time = ?{e}, deleted_at = ?{d} WHERE userid = ?{u}",
            set.join(", "),
            u = n + 1,
            c = n + 2,
            t = n + 3,
            e = n + 4,
            d = n + 5,
        ))?
        .execute(params_from_iter(values))?;
    Ok(())
}

/// The member's departments as they are now; somebody who is gone is in none.
fn write_departments(connection: &Connection, row: &MemberRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM member_departments WHERE userid = ?1")?
        .execute([row.userid.as_str()])?;
    if row.deleted_at.is_some() {
        return Ok(());
    }
    let list = |field| match row.fields.get(&field) {
        Some(Value::Ids(ids)) => ids.as_slice(),
        _ => &[],
    };
    let (departments, led) = (list(MemberField::Department), list(MemberField::LeaderOf));
    let mut statement = connection.prepare_cached(
        "INSERT OR IGNORE INTO member_departments (userid, department_id, is_leader, position) VALUES (?1, ?2, ?3, ?4)",
    )?;
    for (position, id) in departments.iter().enumerate() {
        let position = i64::try_from(position).unwrap_or(i64::MAX);
        statement.execute(params![row.userid.as_str(), id, led.contains(id), position])?;
    }
    Ok(())
}

fn write_tag_member(
    connection: &Connection,
    tag: TagId,
    userid: &UserId,
    within: bool,
) -> rusqlite::Result<()> {
    let sql = if within {
        "INSERT OR REPLACE INTO tag_members (tag_id, userid) VALUES (?1, ?2)"
    } else {
        "DELETE FROM tag_members WHERE tag_id = ?1 AND userid = ?2"
    };
    connection.prepare_cached(sql)?.execute(params![tag.0, userid.as_str()])?;
    Ok(())
}

/// Appends to the change feed.
pub(super) fn write_changes(
    connection: &Connection,
    changes: &[Change],
    now: UnixSeconds,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO changes (at, entity, key, action, fields) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for change in changes {
        let fields = serde_json::to_string(&change.fields).unwrap_or_else(|_| "{}".into());
        statement.execute(params![
            now.0,
            change.entity.as_str(),
            change.key,
            change.action.as_str(),
            fields
        ])?;
    }
    Ok(())
}

/// Appends a change of a member's openid.
pub(super) fn write_openid_change(
    connection: &Connection,
    userid: &str,
    old: Option<&str>,
    new: Option<&str>,
    now: UnixSeconds,
) -> rusqlite::Result<()> {
    let fields = Map::from_iter([("openid".to_owned(), json!([old, new]))]);
    write_changes(connection, &[Change::new(Entity::Member, userid, Action::Openid, fields)], now)
}
