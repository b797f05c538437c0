//! Writes the merge's results to the members' tables and the change feed.

use std::collections::BTreeMap;

use super::changes::write_changes;
use super::connection::{Connection, Value as Parameter, values};
use super::{Result, clashes};
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
    fn take(connection: &Connection, userid: &UserId) -> Result<Option<Self>> {
        connection.row("DELETE FROM members WHERE userid = ?1
                 RETURNING openid, openid_state, openid_attempts, openid_next_attempt_at, openid_errcode,
                           openid_error, openid_updated_at, openid_revision, details_state, details_fetched_at,
                           details_revision, created_at", values![userid.as_str()], |row| {
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
    }
}

/// Writes the result of a merge; see [`write_rows`].
pub(super) fn write_merge(
    connection: &Connection,
    merge: &MemberMerge,
    now: UnixSeconds,
) -> Result<Vec<UserId>> {
    let details = Some((&merge.named, merge.details));
    let rows = Rows { writes: &merge.writes, tags: &merge.tags, changes: &merge.changes, details };
    write_rows(connection, rows, now)
}

/// Writes that follow from a merge.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) writes: &'a [RowWrite],
    /// Members added to tags (true) and removed from them (false).
    pub(super) tags: &'a [(TagId, UserId, bool)],
    /// New lines of the change feed.
    pub(super) changes: &'a [Change],
    /// The member whose details become known or due.
    pub(super) details: Option<(&'a UserId, DetailsAction)>,
}

/// Writes rows, tags, and lines of the change feed. Returns the present members that become due.
pub(super) fn write_rows(
    connection: &Connection,
    Rows { writes, tags, changes, details }: Rows<'_>,
    now: UnixSeconds,
) -> Result<Vec<UserId>> {
    let mut carried = BTreeMap::new();
    for write in writes {
        match write {
            RowWrite::Move { from, .. } => {
                if let Some(taken) = Carried::take(connection, from)? {
                    carried.insert(from.clone(), taken);
                }
            }
            RowWrite::Remove(userid) => {
                connection.execute("DELETE FROM members WHERE userid = ?1", values![userid.as_str()])?;
            }
            RowWrite::Create(_) | RowWrite::Update { .. } => {}
        }
    }
    let mut due = Vec::new();
    let mut details_left = details.filter(|(_, action)| *action != DetailsAction::Keep);
    // Openids that are new for a present member.
    let mut new_openids: Vec<&str> = Vec::new();
    for write in writes {
        let Some(row) = write.row() else { continue };
        let details = details_left.take_if(|(named, _)| **named == row.userid);
        let details = details.map_or(DetailsAction::Keep, |(_, action)| action);
        let (was_present, step) = match write {
            RowWrite::Remove(_) => continue,
            RowWrite::Create(row) => {
                (false, insert(connection, row, Carried::fresh(now), false, details, now)?)
            }
            RowWrite::Update { row, changed, respelled } => {
                let step = update(connection, row, !changed.is_empty(), details, now)?;
                let departments = [MemberField::Department, MemberField::LeaderOf];
                if *respelled || row.deleted_at.is_some() || departments.iter().any(|f| changed.contains(f)) {
                    write_departments(connection, row)?;
                }
                (true, step)
            }
            RowWrite::Move { from, row, was_present } => {
                let carried = carried.remove(from).unwrap_or_else(|| Carried::fresh(now));
                (*was_present, insert(connection, row, carried, *was_present, details, now)?)
            }
        };
        if !was_present || matches!(step, OpenidStep::Convert(_)) {
            new_openids.extend(row.openid.as_deref());
        }
        if step == OpenidStep::MakeDue && row.deleted_at.is_none() {
            due.push(row.userid.clone());
        }
    }
    if let Some((named, action)) = details_left {
        let (state, revisions) = details_columns(action);
        connection.execute(
            "UPDATE members SET details_state = ?2, details_revision = details_revision + ?3 WHERE userid = ?1",
            values![named.as_str(), state, revisions],
        )?;
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

fn column_values(row: &MemberRow) -> Vec<Parameter<'_>> {
    let value = |field: MemberField| match row.fields.get(&field) {
        Some(Value::Text(text)) => text.into(),
        Some(Value::Int(number)) => (*number).into(),
        Some(Value::Attrs(attrs)) => attrs.to_string().into(),
        Some(Value::Cleared) if field.kind() == FieldKind::Text => "".into(),
        None | Some(_) => Parameter::Null,
    };
    columns().map(value).collect()
}

/// The parameters begin with [`columns`], in order.
const INSERT: &str =
    "INSERT INTO members (name, alias, mobile, telephone, email, biz_mail, position, gender, status, avatar, address,
        main_department, direct_leader, ext_attr, userid, openid, openid_state, openid_attempts,
        openid_next_attempt_at, openid_errcode, openid_error, openid_updated_at, openid_revision, details_state,
        details_fetched_at, details_revision, created_at, updated_at, event_time, deleted_at)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23,
        ?24, ?25, ?26, ?27, ?28, ?29, ?30)";

/// The parameters begin with [`columns`], in order.
const UPDATE: &str =
    "UPDATE members SET name = ?1, alias = ?2, mobile = ?3, telephone = ?4, email = ?5, biz_mail = ?6, position = ?7,
        gender = ?8, status = ?9, avatar = ?10, address = ?11, main_department = ?12, direct_leader = ?13,
        ext_attr = ?14, userid = ?15,
        updated_at = CASE WHEN ?16 OR deleted_at IS DISTINCT FROM ?19 THEN ?17 ELSE updated_at END,
        event_time = ?18, deleted_at = ?19, details_state = coalesce(?20, details_state),
        details_revision = details_revision + ?21
     WHERE userid = ?15 RETURNING openid, openid_state";

/// Inserts the row with the carried columns, after the step that the facts require of the openid.
fn insert<'a>(
    connection: &Connection,
    row: &'a MemberRow,
    carried: Carried,
    was_present: bool,
    details: DetailsAction,
    now: UnixSeconds,
) -> Result<OpenidStep<'a>> {
    let step = OpenidStep::of((carried.openid.as_deref(), &carried.state), row, was_present);
    let carried = carried.with_openid(step, now);
    let (details_state, revisions) = details_columns(details);
    let mut parameters = column_values(row);
    parameters.extend_from_slice(values![
        row.userid.as_str(),
        carried.openid,
        carried.state,
        carried.attempts,
        carried.next_attempt_at,
        carried.errcode,
        carried.error,
        carried.openid_updated_at,
        carried.revision,
        details_state.map_or(carried.details_state, str::to_owned),
        carried.details_fetched_at,
        carried.details_revision.wrapping_add(revisions),
        carried.created_at,
        now,
        row.event_time,
        row.deleted_at,
    ]);
    connection.execute(INSERT, &parameters)?;
    insert_departments(connection, row)?;
    Ok(step)
}

/// Writes the row in place, and takes the step that the facts require of the openid.
fn update<'a>(
    connection: &Connection,
    row: &'a MemberRow,
    changed: bool,
    details: DetailsAction,
    now: UnixSeconds,
) -> Result<OpenidStep<'a>> {
    let (details_state, revisions) = details_columns(details);
    let mut parameters = column_values(row);
    parameters.extend_from_slice(values![
        row.userid.as_str(),
        changed,
        now,
        row.event_time,
        row.deleted_at,
        details_state,
        revisions
    ]);
    let (openid, state): (Option<String>, String) =
        connection.one(UPDATE, &parameters, |row| Ok((row.get(0)?, row.get(1)?)))?;
    let step = OpenidStep::of((openid.as_deref(), &state), row, true);
    match step {
        OpenidStep::Keep => {}
        OpenidStep::Convert(openid) => {
            connection.execute(
                "UPDATE members SET openid = ?2, openid_state = 'converted', openid_attempts = 0,
                    openid_next_attempt_at = NULL, openid_errcode = NULL, openid_error = NULL,
                    openid_updated_at = ?3 WHERE userid = ?1",
                values![row.userid.as_str(), openid, now],
            )?;
        }
        OpenidStep::MakeDue => {
            connection.execute(
                "UPDATE members SET openid = NULL, openid_state = 'pending', openid_attempts = 0,
                    openid_next_attempt_at = ?2, openid_revision = openid_revision + 1 WHERE userid = ?1",
                values![row.userid.as_str(), now],
            )?;
        }
    }
    Ok(step)
}

/// The new `details_state`, if it changes, and the number of calls of user/get that become obsolete.
fn details_columns(details: DetailsAction) -> (Option<&'static str>, i64) {
    match details {
        DetailsAction::Keep => (None, 0),
        DetailsAction::Known => (Some("known"), 0),
        // The answer of a call in progress may be older than this fact.
        DetailsAction::Due => (Some("due"), 1),
    }
}

/// Replaces the member's departments.
fn write_departments(connection: &Connection, row: &MemberRow) -> Result<()> {
    connection.execute("DELETE FROM member_departments WHERE userid = ?1", values![row.userid.as_str()])?;
    insert_departments(connection, row)
}

/// Inserts the member's departments; a deleted member has none.
fn insert_departments(connection: &Connection, row: &MemberRow) -> Result<()> {
    if row.deleted_at.is_some() {
        return Ok(());
    }
    let list = |field| match row.fields.get(&field) {
        Some(Value::Ids(ids)) => ids.as_slice(),
        _ => &[],
    };
    let (departments, led) = (list(MemberField::Department), list(MemberField::LeaderOf));
    for (position, id) in departments.iter().enumerate() {
        connection.execute(
            "INSERT INTO member_departments (userid, department_id, is_leader, position) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO NOTHING",
            values![row.userid.as_str(), *id, led.contains(id), position],
        )?;
    }
    Ok(())
}

fn write_tag_member(connection: &Connection, tag: TagId, userid: &UserId, within: bool) -> Result<()> {
    let sql = if within {
        "INSERT INTO tag_members (tag_id, userid) VALUES (?1, ?2)
         ON CONFLICT (tag_id, userid) DO UPDATE SET userid = excluded.userid"
    } else {
        "DELETE FROM tag_members WHERE tag_id = ?1 AND userid = ?2"
    };
    connection.execute(sql, values![tag.0, userid.as_str()])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statements_name_the_fields_in_the_order_of_their_parameters() {
        let names: Vec<&str> = columns().map(Field::name).collect();
        assert!(
            INSERT.split_whitespace().collect::<String>().contains(&format!("({},userid", names.join(",")))
        );
        let set = names.iter().enumerate().map(|(n, name)| format!("{name}=?{}", n + 1)).collect::<Vec<_>>();
        assert!(
            UPDATE.split_whitespace().collect::<String>().contains(&format!("SET{},userid", set.join(",")))
        );
    }
}
