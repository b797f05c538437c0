//! Writes the merge's results to the members' tables and the change feed.

use std::collections::BTreeMap;

use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::changes::write_changes;
use super::clashes;
use crate::directory::diff::{Change, DetailsAction, MemberMerge, MemberRow, RowWrite};
use crate::directory::fields::FieldKind;
use crate::directory::{Action, Field, MemberField, TagId, UnixSeconds, UserId, Value};

/// The columns of a row that the facts do not determine; they move with the member.
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

/// What the facts require of the stored openid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OpenidStep<'a> {
    /// It agrees with the facts.
    Keep,
    /// The facts give the member this openid.
    Convert(&'a str),
    /// The member must be converted at once, with its attempts reset.
    MakeDue,
}

impl<'a> OpenidStep<'a> {
    /// Compares the stored openid and state with the row that results from the facts.
    fn of((openid, state): (Option<&str>, &str), row: &'a MemberRow, was_present: bool) -> Self {
        let refusal_is_void = state == "failed" && !row.is_refused;
        let comes_into_presence = !was_present && row.deleted_at.is_none();
        match &row.openid {
            Some(known) if openid == Some(known.as_str()) => Self::Keep,
            Some(known) => Self::Convert(known),
            None if openid.is_some() || refusal_is_void || comes_into_presence => Self::MakeDue,
            None => Self::Keep,
        }
    }
}

impl Carried {
    /// The columns of a new member, which is due at once.
    fn fresh(now: UnixSeconds) -> Self {
        Self {
            openid: None,
            state: "pending".into(),
            attempts: 0,
            next_attempt_at: Some(now.0),
            errcode: None,
            error: None,
            openid_updated_at: None,
            // Random, so that claims of a former holder of the userid are obsolete.
            revision: fastrand::i64(0..1 << 53),
            details_state: "due".into(),
            details_fetched_at: None,
            details_revision: fastrand::i64(0..1 << 53),
            created_at: now.0,
        }
    }

    fn with_openid(mut self, step: OpenidStep<'_>, now: UnixSeconds) -> Self {
        match step {
            OpenidStep::Keep => return self,
            OpenidStep::Convert(openid) => {
                self.openid = Some(openid.to_owned());
                self.state = "converted".into();
                self.next_attempt_at = None;
                self.errcode = None;
                self.error = None;
                self.openid_updated_at = Some(now.0);
            }
            OpenidStep::MakeDue => {
                self.openid = None;
                self.state = "pending".into();
                self.next_attempt_at = Some(now.0);
                self.revision = self.revision.wrapping_add(1);
            }
        }
        self.attempts = 0;
        self
    }

    /// Deletes a row and returns the columns to carry.
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

/// Writes the result of a merge; see [`write_rows`].
pub(super) fn write_merge(
    connection: &Connection,
    merge: &MemberMerge,
    now: UnixSeconds,
) -> rusqlite::Result<Vec<UserId>> {
    let rows = Rows { writes: &merge.writes, tags: &merge.tags, changes: &merge.changes };
    let due = write_rows(connection, rows, now)?;
    let sql = match merge.details {
        DetailsAction::Keep => return Ok(due),
        DetailsAction::Known => "UPDATE members SET details_state = 'known' WHERE userid = ?1",
        // The answer of a call in progress may be older than this fact.
        DetailsAction::Due => {
            "UPDATE members SET details_state = 'due', details_revision = details_revision + 1 WHERE userid = ?1"
        }
    };
    connection.prepare_cached(sql)?.execute([merge.named.as_str()])?;
    Ok(due)
}

/// Writes that follow from a merge.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) writes: &'a [RowWrite],
    /// Members added to tags (true) and removed from them (false).
    pub(super) tags: &'a [(TagId, UserId, bool)],
    /// New lines of the change feed.
    pub(super) changes: &'a [Change],
}

/// Writes rows, tags, and lines of the change feed. Returns the present members that become due.
pub(super) fn write_rows(
    connection: &Connection,
    Rows { writes, tags, changes }: Rows<'_>,
    now: UnixSeconds,
) -> rusqlite::Result<Vec<UserId>> {
    let mut carried = BTreeMap::new();
    for write in writes {
        match write {
            RowWrite::Move { from, .. } => {
                if let Some(taken) = Carried::take(connection, from)? {
                    carried.insert(from.clone(), taken);
                }
            }
            RowWrite::Remove(userid) => {
                connection
                    .prepare_cached("DELETE FROM members WHERE userid = ?1")?
                    .execute([userid.as_str()])?;
            }
            RowWrite::Create(_) | RowWrite::Update { .. } => {}
        }
    }
    let mut due = Vec::new();
    // Openids that are new for a present member.
    let mut new_openids: Vec<&str> = Vec::new();
    for write in writes {
        let (row, was_present, step) = match write {
            RowWrite::Remove(_) => continue,
            RowWrite::Create(row) => (row, false, insert(connection, row, Carried::fresh(now), false, now)?),
            RowWrite::Update { row, changed, respelled } => {
                let step = update(connection, row, !changed.is_empty(), now)?;
                let departments = [MemberField::Department, MemberField::LeaderOf];
                if *respelled || row.deleted_at.is_some() || departments.iter().any(|f| changed.contains(f)) {
                    write_departments(connection, row)?;
                }
                (row, true, step)
            }
            RowWrite::Move { from, row, was_present } => {
                let carried = carried.remove(from).unwrap_or_else(|| Carried::fresh(now));
                (row, *was_present, insert(connection, row, carried, *was_present, now)?)
            }
        };
        if !was_present || matches!(step, OpenidStep::Convert(_)) {
            new_openids.extend(row.openid.as_deref());
        }
        if step == OpenidStep::MakeDue && row.deleted_at.is_none() {
            due.push(row.userid.clone());
        }
    }
    for (tag, userid, within) in tags {
        write_tag_member(connection, *tag, userid, *within)?;
    }
    write_changes(connection, changes, now)?;
    for openid in new_openids {
        clashes::look_for(connection, openid, now)?;
    }
    let may_resolve = |write: &RowWrite| match write {
        RowWrite::Update { row, respelled, .. } => *respelled || row.deleted_at.is_some(),
        RowWrite::Remove(..) | RowWrite::Move { .. } => true,
        RowWrite::Create(..) => false,
    };
    // A first openid resolves no clash.
    let replaces_openid = |change: &Change| {
        change.action == Action::Openid && change.fields.get("openid").is_some_and(|both| !both[0].is_null())
    };
    if writes.iter().any(may_resolve) || changes.iter().any(replaces_openid) {
        clashes::review(connection, now)?;
    }
    Ok(due)
}

/// The fields that are columns of `members`; the two others are rows of `member_departments`.
pub(super) fn columns() -> impl Iterator<Item = MemberField> {
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
            Some(Value::Cleared) if field.kind() == FieldKind::Text => Sql::Text(String::new()),
            Some(_) => Sql::Null,
        })
        .collect()
}

/// Inserts the row with the carried columns, after the step that the facts require of the openid.
fn insert<'a>(
    connection: &Connection,
    row: &'a MemberRow,
    carried: Carried,
    was_present: bool,
    now: UnixSeconds,
) -> rusqlite::Result<OpenidStep<'a>> {
    let step = OpenidStep::of((carried.openid.as_deref(), &carried.state), row, was_present);
    let carried = carried.with_openid(step, now);
    let mut values = column_values(row);
    values.extend([
        Sql::Text(row.userid.as_str().to_owned()),
        carried.openid.into(),
        carried.state.into(),
        carried.attempts.into(),
        carried.next_attempt_at.into(),
        carried.errcode.into(),
        carried.error.into(),
        carried.openid_updated_at.into(),
        carried.revision.into(),
        carried.details_state.into(),
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
    write_departments(connection, row)?;
    Ok(step)
}

/// Writes the row in place, and takes the step that the facts require of the openid.
fn update<'a>(
    connection: &Connection,
    row: &'a MemberRow,
    changed: bool,
    now: UnixSeconds,
) -> rusqlite::Result<OpenidStep<'a>> {
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
    let (openid, state): (Option<String>, String) = connection
        .prepare_cached(&format!(
            "UPDATE members SET {}, userid = ?{u},
                updated_at = CASE WHEN ?{c} OR deleted_at IS NOT ?{d} THEN ?{t} ELSE updated_at END,
                event_time = ?{e}, deleted_at = ?{d} WHERE userid = ?{u} RETURNING openid, openid_state",
            set.join(", "),
            u = n + 1,
            c = n + 2,
            t = n + 3,
            e = n + 4,
            d = n + 5,
        ))?
        .query_row(params_from_iter(values), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let step = OpenidStep::of((openid.as_deref(), &state), row, true);
    match step {
        OpenidStep::Keep => {}
        OpenidStep::Convert(openid) => {
            connection
                .prepare_cached(
                    "UPDATE members SET openid = ?2, openid_state = 'converted', openid_attempts = 0,
                        openid_next_attempt_at = NULL, openid_errcode = NULL, openid_error = NULL,
                        openid_updated_at = ?3 WHERE userid = ?1",
                )?
                .execute(params![row.userid.as_str(), openid, now.0])?;
        }
        OpenidStep::MakeDue => {
            connection
                .prepare_cached(
                    "UPDATE members SET openid = NULL, openid_state = 'pending', openid_attempts = 0,
                        openid_next_attempt_at = ?2, openid_revision = openid_revision + 1 WHERE userid = ?1",
                )?
                .execute(params![row.userid.as_str(), now.0])?;
        }
    }
    Ok(step)
}

/// Replaces the member's departments; a deleted member has none.
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
        "INSERT INTO member_departments (userid, department_id, is_leader, position) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO NOTHING",
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
        "INSERT INTO tag_members (tag_id, userid) VALUES (?1, ?2)
         ON CONFLICT (tag_id, userid) DO UPDATE SET userid = excluded.userid"
    } else {
        "DELETE FROM tag_members WHERE tag_id = ?1 AND userid = ?2"
    };
    connection.prepare_cached(sql)?.execute(params![tag.0, userid.as_str()])?;
    Ok(())
}
