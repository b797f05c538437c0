//! Departments and tags: writing rows as the merge tells them.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Map, json};

use super::facts;
use super::members::write_changes;
use crate::directory::changes::{At, Change, Entity};
use crate::directory::clock::Moment;
use crate::directory::life::{Life, Saying};
use crate::directory::{Action, DepartmentField, DepartmentId, Stamp, TagId, UnixSeconds, Value, department};

/// Applies what was said of a department.
pub(super) fn tell_department(
    connection: &Connection,
    id: DepartmentId,
    (at, mut arrival): (At, i64),
    saying: Saying<DepartmentField>,
    moment: Moment,
) -> rusqlite::Result<department::Merge> {
    let known = plausible_department_facts(connection, id, at.seconds(), moment)?;
    if let At::Observed(second) = at {
        let same = known.iter().filter(|fact| fact.stamp == Stamp::observed(second));
        arrival = same.map(|fact| fact.arrival + 1).fold(arrival, i64::max);
    }
    let merge = department::merge(&known, id, at, arrival, saying);
    facts::remember_department(connection, id, &known, &merge.fact)?;
    write_difference(connection, id, &merge.difference, moment.local)?;
    Ok(merge)
}

/// A department's facts. Times that are later than plausible are corrected, in memory and in the database, so that
/// a fact of `next` counts.
pub(super) fn plausible_department_facts(
    connection: &Connection,
    id: DepartmentId,
    next: UnixSeconds,
    moment: Moment,
) -> rusqlite::Result<Vec<department::Fact>> {
    let known = facts::department_facts(connection, id)?;
    let restamped = moment.latest.and_then(|latest| department::restamped(&known, latest, next));
    let Some(restamped) = restamped else { return Ok(known) };
    log::debug!("department {id} had times ahead of WeCom's clock; they are corrected");
    facts::replace_department(connection, id, &restamped)?;
    let (before, after) = (department::fold(&known), department::fold(&restamped));
    write_difference(connection, id, &department::difference_of(id, &before, after), moment.local)?;
    Ok(restamped)
}

fn write_difference(
    connection: &Connection,
    id: DepartmentId,
    difference: &department::Difference,
    now: UnixSeconds,
) -> rusqlite::Result<()> {
    if let Some(life) = &difference.row {
        if difference.anew {
            connection.prepare_cached("DELETE FROM departments WHERE id = ?1")?.execute([id.0])?;
        }
        write_row(connection, id, life, difference.changed, now)?;
    }
    for (tag, within) in &difference.tags {
        let sql = if *within {
            "INSERT OR REPLACE INTO tag_departments (tag_id, department_id) VALUES (?1, ?2)"
        } else {
            "DELETE FROM tag_departments WHERE tag_id = ?1 AND department_id = ?2"
        };
        connection.prepare_cached(sql)?.execute(params![tag.0, id.0])?;
    }
    write_changes(connection, &difference.changes, now)
}

fn write_row(
    connection: &Connection,
    id: DepartmentId,
    life: &Life<DepartmentField>,
    changed: bool,
    now: UnixSeconds,
) -> rusqlite::Result<()> {
    let value = |field| life.fields.get(&field).map(|(_, value)| value);
    let number = |field| match value(field) {
        Some(Value::Int(number)) => Some(*number),
        _ => None,
    };
    let name = match value(DepartmentField::Name) {
        Some(Value::Text(name)) => Some(name.as_str()),
        Some(_) => Some(""),
        None => None,
    };
    connection
        .prepare_cached(
            "INSERT INTO departments (id, name, parent_id, \"order\", created_at, updated_at, event_time, deleted_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6, ?7)
             ON CONFLICT (id) DO UPDATE SET name = ?2, parent_id = ?3, \"order\" = ?4,
                updated_at = CASE WHEN ?8 THEN ?5 ELSE updated_at END, event_time = ?6, deleted_at = ?7",
        )?
        .execute(params![
            id.0,
            name,
            number(DepartmentField::ParentId),
            number(DepartmentField::Order),
            now.0,
            life.event_time().0,
            life.deleted.map(|stamp| stamp.seconds().0),
            changed,
        ])?;
    Ok(())
}

/// Gives a tag whose times are ahead of what is plausible times before `at`.
pub(super) fn restamp_tag(
    connection: &Connection,
    id: TagId,
    at: UnixSeconds,
    moment: Moment,
) -> rusqlite::Result<()> {
    let Some(latest) = moment.latest else { return Ok(()) };
    connection
        .prepare_cached(
            "UPDATE tags SET event_time = ?2, deleted_at = CASE WHEN deleted_at IS NOT NULL THEN ?2 END
             WHERE id = ?1 AND event_time > ?3",
        )?
        .execute(params![id.0, at.plus(-1).0, latest.0])?;
    Ok(())
}

/// Notes that a tag exists; its name is not told by events. False if it was deleted later than that.
pub(super) fn see_tag(
    connection: &Connection,
    id: TagId,
    at: UnixSeconds,
    moment: Moment,
) -> rusqlite::Result<bool> {
    restamp_tag(connection, id, at, moment)?;
    let now = moment.local;
    let known: Option<Option<i64>> = connection
        .prepare_cached("SELECT deleted_at FROM tags WHERE id = ?1")?
        .query_row([id.0], |row| row.get(0))
        .optional()?;
    if let Some(Some(deleted)) = known
        && deleted > at.0
    {
        return Ok(false);
    }
    if known != Some(None) {
        let fields = Map::from_iter([("id".to_owned(), json!([null, id.0]))]);
        write_changes(connection, &[Change::new(Entity::Tag, id, Action::Created, fields)], now)?;
    }
    connection
        .prepare_cached(
            "INSERT INTO tags (id, created_at, updated_at, event_time) VALUES (?1, ?2, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET updated_at = ?2, event_time = max(event_time, ?3),
                name = CASE WHEN deleted_at IS NULL THEN name END, deleted_at = NULL",
        )?
        .execute(params![id.0, now.0, at.0])?;
    Ok(true)
}
