//! Verifies the whole database: the file, the rows against the facts, and the change feed against the rows.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::{Map, Value as Json, json};

use super::Result;
use super::changes::write_changes;
use super::connection::{Connection, FromColumn};
use super::facts::{group_facts, numbered_facts};
use super::heal::{check_members, check_numbered};
use super::images::{Image, OPENID, Stored, USERID, difference, fields_of, with_stored_lists};
use super::queries::oldest_change;
use crate::directory::diff::{Action, Change, Entity, tag_item};
use crate::directory::members::Record;
use crate::directory::{
    DepartmentField, DepartmentId, Field, MemberField, TagField, TagId, UnixSeconds, UserId,
};

const DEPARTMENT: &str = "department";
const LEADER_OF: &str = "leader_of";

/// What was verified, and what was found.
#[derive(Debug, Default)]
pub struct Verification {
    /// Rows of members, present and deleted.
    pub members: usize,
    /// Rows of departments and tags.
    pub numbered: usize,
    /// Lines of the change feed.
    pub changes: usize,
    /// Whether older lines were deleted by age, so that only what the others mention is compared.
    pub is_feed_pruned: bool,
    /// One line for each disagreement.
    pub findings: Vec<String>,
}

/// Verifies the database within the caller's transaction. With `repair`, the present time, rows are written anew from
/// their facts, lost facts from their rows, and lines are added to the change feed where it differs from the rows. Damage
/// of the file other than that of its indexes cannot be repaired.
pub fn verify(connection: &Connection, repair: Option<UnixSeconds>) -> Result<Verification> {
    let mut verification = Verification::default();
    let mut findings = damage(connection)?;
    if repair.is_some() && !findings.is_empty() {
        connection.script("REINDEX")?;
    }
    let mut done: HashSet<UserId> = HashSet::new();
    let names: Vec<String> = column_of(
        connection,
        "SELECT userid FROM members UNION SELECT userid FROM member_facts UNION SELECT userid FROM tag_members",
    )?;
    for name in names {
        let Ok(name) = UserId::parse(&name) else {
            findings.push(format!("members: {name:?} is no userid"));
            continue;
        };
        if !done.insert(name.clone()) {
            continue;
        }
        let records = group_facts(connection, &name)?;
        let group: BTreeSet<UserId> =
            records.iter().flat_map(Record::names).chain([&name]).cloned().collect();
        let checked = check_members(connection, &group, records, repair)?;
        findings.extend(checked.findings);
        verification.members += checked.state.members.values().filter(|member| member.state.known).count();
        done.extend(group);
    }
    for id in column_of::<u32>(
        connection,
        "SELECT id FROM departments UNION SELECT id FROM department_facts \
                               UNION SELECT department_id FROM tag_departments",
    )? {
        let records = numbered_facts::<DepartmentField>(connection, id)?;
        findings.extend(check_numbered::<DepartmentField>(connection, id, records, repair)?.findings);
        verification.numbered += 1;
    }
    for id in column_of::<u32>(connection, "SELECT id FROM tags UNION SELECT id FROM tag_facts")? {
        let records = numbered_facts::<TagField>(connection, id)?;
        findings.extend(check_numbered::<TagField>(connection, id, records, repair)?.findings);
        verification.numbered += 1;
    }
    verification.is_feed_pruned = oldest_change(connection)?.is_some_and(|oldest| oldest > 1);
    verification.changes = check_feed(connection, verification.is_feed_pruned, repair, &mut findings)?;
    verification.findings = findings;
    Ok(verification)
}

/// What SQLite itself finds: damaged pages and indexes, violated constraints and references.
fn damage(connection: &Connection) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    connection.query("PRAGMA integrity_check", |row| {
        let text: String = row.get(0)?;
        findings.extend((text != "ok").then(|| format!("file: {text}")));
        Ok(())
    })?;
    connection.query("PRAGMA foreign_key_check", |row| {
        let (table, parent): (String, String) = (row.get(0)?, row.get(2)?);
        findings.push(format!("file: a row of {table} refers to no row of {parent}"));
        Ok(())
    })?;
    Ok(findings)
}

/// The first column of all rows.
fn column_of<T: FromColumn>(connection: &Connection, sql: &'static str) -> Result<Vec<T>> {
    connection.rows(sql, &[], |row| row.get(0))
}

/// The fields of an entity by the change feed.
#[derive(Default)]
struct Known {
    /// Whether the feed names all fields of the entity; else it may have others, from lines that are deleted.
    is_complete: bool,
    /// The fields that lines have named; null: known to be empty.
    fields: Image,
}

/// The directory that a consumer of the change feed has. An entity that is known to be deleted is `None`.
#[derive(Default)]
struct Replica {
    /// Whether the feed begins later than the directory.
    is_partial: bool,
    members: BTreeMap<UserId, Option<Known>>,
    departments: BTreeMap<u32, Option<Known>>,
    /// Tag, kind of item, and the folded userid or number; false: removed.
    tag_items: BTreeMap<(u32, &'static str, String), bool>,
}

impl Replica {
    fn apply(&mut self, entity: &str, key: &str, action: &str, fields: &Map<String, Json>) -> Option<()> {
        let unknown = || Known { is_complete: !self.is_partial, fields: Image::new() };
        match entity {
            "member" => {
                let userid = UserId::parse(key).ok()?;
                if action == "renamed" {
                    let old = UserId::parse(fields.get(USERID)?.get(0)?.as_str()?).ok()?;
                    let known = self.members.insert(old, None).flatten().unwrap_or_else(unknown);
                    self.members.insert(userid.clone(), Some(known));
                }
                apply_to_row(self.members.entry(userid).or_default(), unknown, action, fields)
            }
            "department" => {
                let row = self.departments.entry(key.parse().ok()?).or_default();
                apply_to_row(row, unknown, action, fields)
            }
            _ => {
                let tag = key.parse().ok()?;
                for kind in ["member", "department"] {
                    let Some(both) = fields.get(kind) else { continue };
                    let is_added = both.get(0)?.is_null();
                    let changed = item(both.get(usize::from(is_added))?);
                    self.tag_items.insert((tag, kind, changed), is_added);
                }
                Some(())
            }
        }
    }
}

/// `None` if the line is unreadable. A row that is not there is taken as `unknown`.
fn apply_to_row(
    row: &mut Option<Known>,
    unknown: impl Fn() -> Known,
    action: &str,
    fields: &Map<String, Json>,
) -> Option<()> {
    match action {
        "deleted" => {
            *row = None;
            return Some(());
        }
        "created" => *row = Some(Known { is_complete: true, fields: Image::new() }),
        _ => {}
    }
    let row = row.get_or_insert_with(unknown);
    for (name, both) in fields {
        let Some(name) = column(name) else { continue };
        row.fields.insert(name, both.get(1)?.clone());
    }
    Some(())
}

/// The column of a field of the change feed.
fn column(name: &str) -> Option<&'static str> {
    let own = [USERID, OPENID].into_iter().find(|own| *own == name);
    own.or_else(|| MemberField::by_name(name).map(Field::name))
        .or_else(|| DepartmentField::by_name(name).map(Field::name))
}

fn item(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_ascii_lowercase)
}

/// Compares the tables with what the change feed rebuilds; the number of its lines.
fn check_feed(
    connection: &Connection,
    is_partial: bool,
    repair: Option<UnixSeconds>,
    findings: &mut Vec<String>,
) -> Result<usize> {
    let mut replica = Replica { is_partial, ..Replica::default() };
    let mut lines = 0;
    let select = "SELECT seq, entity, key, action, fields FROM changes ORDER BY seq";
    connection.for_each(select, &[], |row| {
        let (seq, entity, key, action): (i64, String, String, String) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let fields = serde_json::from_str(&row.text(4)?).unwrap_or_default();
        if replica.apply(&entity, &key, &action, &fields).is_none() {
            findings.push(format!("changes: line {seq} is unreadable"));
        }
        lines += 1;
        Ok(true)
    })?;
    let mut missing = Vec::new();
    for name in column_of::<String>(connection, "SELECT userid FROM members")? {
        let Ok(userid) = UserId::parse(&name) else { continue };
        let stored = Stored::member(connection, &userid)?;
        let known = replica.members.remove(&userid);
        missing.extend(correction((Entity::Member, &userid), known, &stored, is_partial));
    }
    let left = replica.members.iter().filter(|(_, known)| known.is_some());
    missing.extend(left.map(|(userid, _)| deletion(Entity::Member, userid)));
    for id in column_of::<u32>(connection, "SELECT id FROM departments")? {
        let stored = Stored::numbered::<DepartmentField>(connection, id)?;
        let known = replica.departments.remove(&id);
        missing.extend(correction((Entity::Department, &DepartmentId(id)), known, &stored, is_partial));
    }
    let left = replica.departments.iter().filter(|(_, known)| known.is_some());
    missing.extend(left.map(|(id, _)| deletion(Entity::Department, &DepartmentId(*id))));
    missing.extend(check_tag_items(connection, replica.tag_items, is_partial)?);
    findings.extend(missing.iter().map(|change| {
        let names: Vec<&str> = change.fields.keys().map(String::as_str).collect();
        let (entity, action) = (change.entity.as_str(), change.action.as_str());
        format!("changes: no line \"{action}\" of {entity} {} {}", change.key, names.join(", "))
    }));
    if let Some(now) = repair {
        write_changes(connection, &missing, now)?;
    }
    Ok(lines)
}

fn deletion(entity: Entity, key: &impl ToString) -> Change {
    Change::new(entity, key.to_string(), Action::Deleted, Map::new())
}

/// The line that the feed lacks, if what it rebuilds of an entity differs from the row. Of a pruned feed, only what it
/// mentions is compared.
fn correction(
    (entity, key): (Entity, &impl ToString),
    known: Option<Option<Known>>,
    stored: &Stored,
    is_partial: bool,
) -> Option<Change> {
    let row = stored.row.as_ref().filter(|_| stored.is_present());
    let line = |action, fields| Change::new(entity, key.to_string(), action, fields);
    match (known, row) {
        (None, _) if is_partial => None,
        (None | Some(None), None) => None,
        (Some(Some(_)), None) => Some(deletion(entity, key)),
        (None | Some(None), Some(row)) => {
            Some(line(Action::Created, fields_of(difference(&Image::new(), row))))
        }
        (Some(Some(known)), Some(row)) => {
            let mentions = |name: &str| {
                known.is_complete
                    // Whether a department is led is only known with the member's departments.
                    || (known.fields.contains_key(name)
                        && (name != LEADER_OF || known.fields.contains_key(DEPARTMENT)))
            };
            let mut rebuilt = known.fields.clone();
            rebuilt.retain(|_, value| !value.is_null());
            let rebuilt = if entity == Entity::Member { with_stored_lists(rebuilt) } else { rebuilt };
            let differences = difference(&rebuilt, row).into_iter().filter(|(name, _)| mentions(name));
            let fields = fields_of(differences.collect());
            (!fields.is_empty()).then(|| line(Action::Updated, fields))
        }
    }
}

/// The lines about the content of tags that the feed lacks.
fn check_tag_items(
    connection: &Connection,
    mut known: BTreeMap<(u32, &'static str, String), bool>,
    is_partial: bool,
) -> Result<Vec<Change>> {
    let mut missing = Vec::new();
    let mut is_missing = |tag: u32, kind, item: String| match known.remove(&(tag, kind, item)) {
        Some(is_within) => !is_within,
        None => !is_partial,
    };
    connection.for_each("SELECT tag_id, userid FROM tag_members", &[], |row| {
        let (tag, userid): (u32, String) = (row.get(0)?, row.get(1)?);
        if is_missing(tag, "member", userid.to_ascii_lowercase()) {
            missing.push(tag_item(TagId(tag), "member", json!([null, userid])));
        }
        Ok(true)
    })?;
    connection.for_each("SELECT tag_id, department_id FROM tag_departments", &[], |row| {
        let (tag, id): (u32, u32) = (row.get(0)?, row.get(1)?);
        if is_missing(tag, "department", id.to_string()) {
            missing.push(tag_item(TagId(tag), "department", json!([null, id])));
        }
        Ok(true)
    })?;
    missing.extend(known.into_iter().filter(|(_, is_within)| *is_within).map(|((tag, kind, item), _)| {
        let id = item.parse::<u32>().ok().filter(|_| kind == "department");
        tag_item(TagId(tag), kind, json!([id.map_or(json!(item), |id| json!(id)), null]))
    }));
    Ok(missing)
}
