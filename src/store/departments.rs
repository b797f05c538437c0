//! Departments and tags: merging facts, and writing the rows.

use super::Result;
use super::changes::write_changes;
use super::connection::{Connection, values};
use super::facts::{self, FactTable};
use super::heal::{check_numbered, log_repairs};
use super::ledger::next_event;
use super::observations::{Observation, observe, tag_content};
use crate::directory::clock::Moment;
use crate::directory::entity::EntityState;
use crate::directory::fact::{Fact, Source};
use crate::directory::numbered::{self, Difference, Numbered, NumberedMerge, implied_by_listing};
use crate::directory::{DepartmentField, Field, TagField, TagId, UnixSeconds, Value};

/// What differs between the row tables of departments and tags.
pub(super) trait NumberedTable: FactTable + Numbered {
    /// Selects the fields, deleted_at and event_time of a row.
    const SELECT_ROW: &'static str;
    /// Selects the tags that hold the entity; `None` for tags.
    const SELECT_TAGS: Option<&'static str>;
    /// Deletes a row.
    const DELETE_ROW: &'static str;

    /// Writes the row; `changed`: anything but the time of the newest fact.
    fn write_row(
        connection: &Connection,
        id: u32,
        state: &EntityState<Self>,
        changed: bool,
        now: UnixSeconds,
    ) -> Result<()>
    where
        Self: Sized;
}

/// Merges a fact about a department or tag: stores it, and writes the changed rows.
pub(super) fn add_numbered_fact<F: NumberedTable>(
    connection: &Connection,
    id: u32,
    source: Source,
    fact: Fact<F>,
    moment: Moment,
) -> Result<NumberedMerge<F>> {
    let known = plausible_numbered_facts::<F>(connection, id, source.second(), moment)?;
    let checked = check_numbered(connection, id, known, Some(moment.local))?;
    log_repairs(&checked.findings);
    let (mut known, mut before) = (checked.records, checked.state);
    if let Some(listing) = facts::later_listing(connection, F::ENTITY.as_str(), source.second(), moment)?
        && let Some(implied) = implied_by_listing(&known, listing)
    {
        facts::remember_numbered(connection, id, &known, &implied)?;
        known.push(implied);
        before = numbered::fold(&known);
    }
    let record = numbered::record(source, next_event(connection)?, fact);
    let mut merge = numbered::merge_into(&before, &known, id, record);
    if known.iter().any(|record| record.repeats(&merge.record)) {
        merge.took_effect = false;
        return Ok(merge);
    }
    facts::remember_numbered(connection, id, &known, &merge.record)?;
    write_difference(connection, id, &merge.difference, moment.local)?;
    Ok(merge)
}

/// The facts of a department or tag. Those that are later than plausible are restamped, in memory and in the database, so
/// that they do not hide a fact of `next`.
pub(super) fn plausible_numbered_facts<F: NumberedTable>(
    connection: &Connection,
    id: u32,
    next: UnixSeconds,
    moment: Moment,
) -> Result<Vec<numbered::Record<F>>> {
    let known = facts::numbered_facts::<F>(connection, id)?;
    let restamped = moment.latest.and_then(|latest| numbered::restamped(&known, latest, next));
    let Some(restamped) = restamped else { return Ok(known) };
    log::debug!("{} {id} had times ahead of WeCom's clock; they are corrected", F::ENTITY.as_str());
    facts::replace_numbered(connection, id, &restamped)?;
    let (before, after) = (numbered::fold(&known), numbered::fold(&restamped));
    write_difference(connection, id, &numbered::difference_of(id, &before, after), moment.local)?;
    Ok(restamped)
}

fn write_difference<F: NumberedTable>(
    connection: &Connection,
    id: u32,
    difference: &Difference<F>,
    now: UnixSeconds,
) -> Result<()> {
    if let Some(state) = &difference.row {
        F::write_row(connection, id, state, difference.changed, now)?;
    }
    for (tag, within) in &difference.tags {
        write_tag_department(connection, *tag, id, *within)?;
    }
    write_changes(connection, &difference.changes, now)
}

pub(super) fn write_tag_department(connection: &Connection, tag: TagId, id: u32, within: bool) -> Result<()> {
    let sql = if within {
        "INSERT INTO tag_departments (tag_id, department_id) VALUES (?1, ?2) ON CONFLICT DO NOTHING"
    } else {
        "DELETE FROM tag_departments WHERE tag_id = ?1 AND department_id = ?2"
    };
    connection.execute(sql, values![tag.0, id])?;
    Ok(())
}

fn text<F: Field>(state: &EntityState<F>, field: F) -> Option<&str> {
    match state.fields.get(&field).map(|(_, value)| value) {
        Some(Value::Text(text)) => Some(text),
        Some(_) => Some(""),
        None => None,
    }
}

impl NumberedTable for DepartmentField {
    const SELECT_ROW: &'static str =
        "SELECT name, parent_id, \"order\", deleted_at, event_time FROM departments WHERE id = ?1";
    const SELECT_TAGS: Option<&'static str> =
        Some("SELECT tag_id FROM tag_departments WHERE department_id = ?1 ORDER BY tag_id");
    const DELETE_ROW: &'static str = "DELETE FROM departments WHERE id = ?1";

    fn write_row(
        connection: &Connection,
        id: u32,
        state: &EntityState<Self>,
        changed: bool,
        now: UnixSeconds,
    ) -> Result<()> {
        let number = |field| match state.fields.get(&field) {
            Some((_, Value::Int(number))) => Some(*number),
            _ => None,
        };
        connection.execute("INSERT INTO departments (id, name, parent_id, \"order\", created_at, updated_at, event_time, deleted_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6, ?7)
                 ON CONFLICT (id) DO UPDATE SET name = ?2, parent_id = ?3, \"order\" = ?4,
                    updated_at = CASE WHEN ?8 THEN ?5 ELSE departments.updated_at END, event_time = ?6, deleted_at = ?7", values![
                id,
                text(state, Self::Name),
                number(Self::ParentId),
                number(Self::Order),
                now.0,
                state.event_time().0,
                state.deleted.map(|stamp| stamp.second.0),
                changed,
            ])?;
        Ok(())
    }
}

impl NumberedTable for TagField {
    const SELECT_ROW: &'static str = "SELECT name, deleted_at, event_time FROM tags WHERE id = ?1";
    const SELECT_TAGS: Option<&'static str> = None;
    const DELETE_ROW: &'static str = "DELETE FROM tags WHERE id = ?1";

    fn write_row(
        connection: &Connection,
        id: u32,
        state: &EntityState<Self>,
        changed: bool,
        now: UnixSeconds,
    ) -> Result<()> {
        connection.execute("INSERT INTO tags (id, name, created_at, updated_at, event_time, deleted_at, starts_at)
                 VALUES (?1, ?2, ?3, ?3, ?4, ?5, ?7)
                 ON CONFLICT (id) DO UPDATE SET name = ?2,
                    updated_at = CASE WHEN ?6 THEN ?3 ELSE tags.updated_at END, event_time = ?4, deleted_at = ?5,
                    starts_at = ?7", values![
                id,
                text(state, Self::Name),
                now.0,
                state.event_time().0,
                state.deleted.map(|stamp| stamp.second.0),
                changed,
                state.deleted.unwrap_or(state.reset_at).second.0.max(0),
            ])?;
        Ok(())
    }
}

/// The second from which events affect the tag's content: the later of the end of its former existence and its last complete
/// listing. `None` if the tag is deleted or unknown.
pub(super) fn tag_starts_at(
    connection: &Connection,
    tag: TagId,
    moment: Moment,
) -> Result<Option<UnixSeconds>> {
    let row: Option<(i64, Option<i64>)> = connection.row(
        "SELECT starts_at, (SELECT second FROM tag_listings WHERE tag_id = tags.id) FROM tags
             WHERE id = ?1 AND deleted_at IS NULL",
        values![tag.0],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let is_plausible = |second: &i64| moment.latest.is_none_or(|latest| *second <= latest.0);
    Ok(row.map(|(starts_at, listed_at)| {
        UnixSeconds(listed_at.filter(is_plausible).map_or(starts_at, |at| at.max(starts_at)))
    }))
}

/// Merges the absence of a tag from a complete listing; its content up to then is void.
pub(super) fn tag_absent(
    connection: &Connection,
    tag: TagId,
    at: UnixSeconds,
    moment: Moment,
) -> Result<NumberedMerge<TagField>> {
    // Before the tag's own fact, after which older memberships are void.
    let (members, departments) = tag_content(connection, tag)?;
    for userid in members {
        observe(connection, &Observation::TagMember(tag, userid, false), at, moment)?;
    }
    for id in departments {
        observe(connection, &Observation::TagDepartment(tag, id, false), at, moment)?;
    }
    add_numbered_fact::<TagField>(connection, tag.0, Source::Api(at), Fact::Absent, moment)
}
