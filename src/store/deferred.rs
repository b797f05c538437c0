//! Facts of large events, applied in portions so that no event occupies the writer.
//!
//! An `update_tag` may name the whole company. Its event is committed and acknowledged with all its content; the facts
//! are merged afterwards, [`PORTION`] at a time, and other events commit in between. The merge does not depend on the
//! order of arrival, so the directory ends the same. A portion is deleted in the transaction that merges it, so a crash
//! repeats none and loses none.

use serde_json::{Value as Json, json};

use super::Result;
use super::connection::{Connection, values};
use super::events::{apply_tag_facts, is_void};
use super::state;
use crate::directory::clock::Moment;
use crate::directory::{DepartmentId, TagEvent, TagId, UnixSeconds, UserId};

/// Facts that an event may merge in its own transaction, about 40 ms of work; the facts of a larger event are deferred.
pub(super) const MAX_AT_ONCE: usize = 256;
/// Deferred facts that one transaction merges, about 10 ms of work.
const PORTION: usize = 64;

/// Stores the content of a tag event, of WeCom's second `at`, for [`apply_portion`].
pub(super) fn defer(connection: &Connection, tag: TagId, at: UnixSeconds, content: &TagEvent) -> Result<()> {
    let insert = |portion: &Json| -> Result<()> {
        connection.execute(
            "INSERT INTO deferred_facts (tag_id, second, content) VALUES (?1, ?2, ?3)",
            values![tag.0, at, portion.to_string()],
        )?;
        Ok(())
    };
    for (name, userids) in
        [("added_members", &content.added_members), ("removed_members", &content.removed_members)]
    {
        let names = |portion: &[UserId]| portion.iter().map(|id| id.as_str().to_owned()).collect::<Vec<_>>();
        userids.chunks(PORTION).try_for_each(|portion| insert(&json!({name: names(portion)})))?;
    }
    for (name, ids) in [
        ("added_departments", &content.added_departments),
        ("removed_departments", &content.removed_departments),
    ] {
        let numbers = |portion: &[DepartmentId]| portion.iter().map(|id| id.0).collect::<Vec<_>>();
        ids.chunks(PORTION).try_for_each(|portion| insert(&json!({name: numbers(portion)})))?;
    }
    Ok(())
}

fn content(portion: &Json) -> TagEvent {
    let items = |name: &str| portion.get(name).and_then(Json::as_array).cloned().unwrap_or_default();
    let userids = |name| items(name).iter().filter_map(|id| UserId::parse(id.as_str()?).ok()).collect();
    let ids = |name| {
        let id = |id: &Json| Some(DepartmentId(u32::try_from(id.as_u64()?).ok()?));
        items(name).iter().filter_map(id).collect()
    };
    TagEvent {
        added_members: userids("added_members"),
        removed_members: userids("removed_members"),
        added_departments: ids("added_departments"),
        removed_departments: ids("removed_departments"),
    }
}

/// Merges the first portion that waits, and deletes it. Returns the members without an openid that are due now; `None` if
/// no portion waits.
pub(crate) fn apply_portion(connection: &Connection, moment: Moment) -> Result<Option<Vec<UserId>>> {
    let Some((id, tag, at, portion)) = first(connection)? else { return Ok(None) };
    let mut to_convert = Vec::new();
    match serde_json::from_str(&portion) {
        Ok(_) if is_void(connection, tag, at, moment)? => {}
        Ok(portion) => {
            apply_tag_facts(connection, tag, at, &content(&portion), moment, &mut to_convert)?;
        }
        Err(_) => log::error!("database: a row of deferred_facts is unreadable and skipped tag={tag}"),
    }
    delete(connection, id)?;
    Ok(Some(to_convert))
}

/// Deletes the first portion, which cannot be merged, and requests a comparison in its place.
pub(crate) fn drop_portion(connection: &Connection, now: UnixSeconds) -> Result<()> {
    let Some((id, ..)) = first(connection)? else { return Ok(()) };
    delete(connection, id)?;
    state::request_reconcile(connection, "a part of a large event could not be applied", now)
}

type StoredPortion = (i64, TagId, UnixSeconds, String);

fn first(connection: &Connection) -> Result<Option<StoredPortion>> {
    connection.row("SELECT id, tag_id, second, content FROM deferred_facts ORDER BY id LIMIT 1", &[], |row| {
        Ok((row.get(0)?, TagId(row.get(1)?), UnixSeconds(row.get(2)?), row.get(3)?))
    })
}

fn delete(connection: &Connection, id: i64) -> Result<()> {
    connection.execute("DELETE FROM deferred_facts WHERE id = ?1", values![id])?;
    Ok(())
}
