//! Queries of the commands: counts, one member's history, the change feed, the export.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value as Json, json};

use super::Result;
use super::connection::{Column, Connection, Row, values};
use super::monitor::oldest_pending;
use super::{epoch, facts};
use crate::directory::members::fold;
use crate::directory::{UnixSeconds, UserId};

/// The figures that `status` shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    /// `pending`, `converted` and `failed` count present members by openid state.
    pub pending: i64,
    pub converted: i64,
    pub failed: i64,
    /// Pending members whose next attempt is due.
    pub due: i64,
    /// Present members whose details must be fetched.
    pub details_due: i64,
    /// Present members whose details WeCom does not show.
    pub details_denied: i64,
    /// Deleted members whose rows are still stored.
    pub deleted: i64,
    pub departments: i64,
    pub tags: i64,
    /// Creation time of the pending member that has waited longest.
    pub oldest_pending: Option<UnixSeconds>,
    pub next_attempt: Option<UnixSeconds>,
    /// Time of receipt of the last callback.
    pub last_event: Option<UnixSeconds>,
    pub events: i64,
    /// The number of the newest change.
    pub last_change: i64,
}

pub(crate) fn counts(connection: &Connection, now: UnixSeconds) -> Result<Counts> {
    let number = |sql: &'static str| connection.one(sql, &[], |row| row.get(0));
    let time = |sql: &'static str| connection.row(sql, &[], |row| row.get(0));
    let in_state = |state: &str| -> Result<i64> {
        connection.one(
            "SELECT count(*) FROM members WHERE deleted_at IS NULL AND openid_state = ?1",
            values![state],
            |row| row.get(0),
        )
    };
    let (pending, converted, failed) = (in_state("pending")?, in_state("converted")?, in_state("failed")?);
    Ok(Counts {
        pending,
        converted,
        failed,
        due: connection.one(
            "SELECT count(*) FROM members
             WHERE deleted_at IS NULL AND openid_state = 'pending' AND openid_next_attempt_at <= ?1",
            values![now],
            |row| row.get(0),
        )?,
        details_due: number(
            "SELECT count(*) FROM members WHERE details_state = 'due' AND deleted_at IS NULL",
        )?,
        details_denied: number(
            "SELECT count(*) FROM members WHERE details_state = 'denied' AND deleted_at IS NULL",
        )?,
        deleted: number("SELECT count(*) FROM members WHERE deleted_at IS NOT NULL")?,
        departments: number("SELECT count(*) FROM departments WHERE deleted_at IS NULL")?,
        tags: number("SELECT count(*) FROM tags WHERE deleted_at IS NULL")?,
        oldest_pending: oldest_pending(connection, pending > (pending + converted + failed) / 12)?,
        next_attempt: time(
            "SELECT min(openid_next_attempt_at) FROM members WHERE deleted_at IS NULL AND openid_state = 'pending'",
        )?
        .flatten(),
        last_event: time("SELECT received_at FROM events WHERE seq = (SELECT max(seq) FROM events)")?.flatten(),
        events: number("SELECT count(*) FROM events")?,
        last_change: epoch::last_change(connection)?,
    })
}

/// A member's row as JSON, one key per column, with its departments and tags. A former userid finds the renamed member.
pub(crate) fn member(connection: &Connection, userid: &UserId) -> Result<Option<Map<String, Json>>> {
    let holder = present_userid(connection, userid)?;
    let row = connection.row("SELECT * FROM members WHERE userid = ?1", values![holder.as_str()], object)?;
    let Some(mut member) = row else { return Ok(None) };
    let departments = rows(
        connection,
        "SELECT md.department_id AS id, d.name, md.is_leader FROM member_departments AS md
         LEFT JOIN departments AS d ON d.id = md.department_id AND d.deleted_at IS NULL
         WHERE md.userid = ?1 ORDER BY md.position",
        holder.as_str(),
    )?;
    let tags = rows(
        connection,
        "SELECT t.id, t.name FROM tag_members AS tm JOIN tags AS t ON t.id = tm.tag_id WHERE tm.userid = ?1",
        holder.as_str(),
    )?;
    member.insert("departments".into(), Json::Array(departments));
    member.insert("tags".into(), Json::Array(tags));
    Ok(Some(member))
}

/// The present userid of the member that has, or had, this userid.
fn present_userid(connection: &Connection, userid: &UserId) -> Result<UserId> {
    let mut holder = fold(&facts::group_facts(connection, userid)?).resolve(userid);
    // Renames that a compaction dropped from the facts are followed here; `visited` ends cycles.
    let mut visited = BTreeSet::new();
    while !connection.exists("SELECT 1 FROM members WHERE userid = ?1", values![holder.as_str()])?
        && visited.insert(holder.clone())
    {
        let renamed: Option<String> = connection.row(
            "SELECT new_userid FROM renames WHERE old_userid = ?1 ORDER BY event_time DESC LIMIT 1",
            values![holder.as_str()],
            |row| row.get(0),
        )?;
        match renamed.and_then(|name| UserId::parse(&name).ok()) {
            Some(name) => holder = name,
            None => break,
        }
    }
    Ok(holder)
}

/// An entry of a member's history.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HistoryEntry {
    /// Time on this machine's clock.
    pub at: UnixSeconds,
    /// The kind of entry: `event`, `change` or `api`.
    pub kind: &'static str,
    /// The columns of the row.
    pub row: Map<String, Json>,
}

/// A member's events, changes and API calls under all its names, in order of time; per name, the latest `limit` of each kind.
pub(crate) fn history(connection: &Connection, userid: &UserId, limit: u32) -> Result<Vec<HistoryEntry>> {
    let names = facts::all_names(connection, userid)?;
    let sources = [
        (
            "event",
            "SELECT received_at AS at, seq, create_time, event, change_type, outcome FROM events
             WHERE subject = ?1 ORDER BY seq DESC LIMIT ?2",
        ),
        (
            "change",
            "SELECT at, seq, action, key, fields FROM changes
             WHERE entity = 'member' AND key = ?1 ORDER BY seq DESC LIMIT ?2",
        ),
        (
            "api",
            "SELECT at, id AS seq, api, errcode, errmsg, millis FROM api_calls
             WHERE userid = ?1 ORDER BY id DESC LIMIT ?2",
        ),
    ];
    let mut entries = Vec::new();
    for name in &names {
        for (order, (kind, sql)) in sources.iter().enumerate() {
            connection.for_each(*sql, values![name.as_str(), limit], |row| {
                let row = object(row)?;
                let at = UnixSeconds(row.get("at").and_then(Json::as_i64).unwrap_or(0));
                let seq = row.get("seq").and_then(Json::as_i64).unwrap_or(0);
                entries.push((at, order, seq, HistoryEntry { at, kind, row }));
                Ok(true)
            })?;
        }
    }
    // Within a second: events, then changes, then API calls.
    entries.sort_by_key(|(at, order, seq, _)| (*at, *order, *seq));
    Ok(entries.into_iter().map(|(.., entry)| entry).collect())
}

fn rows(connection: &Connection, sql: &'static str, key: &str) -> Result<Vec<Json>> {
    connection.rows(sql, values![key], |row| Ok(Json::Object(object(row)?)))
}

/// A row as a JSON object, one key per column.
fn object(row: &Row<'_>) -> Result<Map<String, Json>> {
    let value = |(place, name): (usize, &str)| {
        let value = match row.column(place)? {
            Column::Int(number) => json!(number),
            Column::Real(number) => json!(number),
            Column::Text(text) => json!(text),
            Column::Null | Column::Bytes => Json::Null,
        };
        Ok((name.to_owned(), value))
    };
    row.names().enumerate().map(value).collect()
}

/// A time in the local time zone, as `YYYY-MM-DD HH:MM:SS`.
pub(crate) fn local_time(connection: &Connection, at: UnixSeconds) -> Result<String> {
    connection.one("SELECT datetime(?1, 'unixepoch', 'localtime')", values![at.0], |row| {
        Ok(row.get::<Option<String>>(0)?.unwrap_or_default())
    })
}

/// A query's rows as text; the first row contains the column names.
pub fn table(connection: &Connection, sql: &str) -> Result<Vec<Vec<String>>> {
    let mut rows = Vec::new();
    let names = connection.query(sql, |row| {
        let cells = object(row)?.into_iter().map(|(_, value)| match value {
            Json::Null => String::new(),
            Json::String(text) => text,
            other => other.to_string(),
        });
        rows.push(cells.collect());
        Ok(())
    })?;
    rows.insert(0, names);
    Ok(rows)
}

/// The first `limit` lines of the change feed after `since`, each with its seq.
pub(crate) fn changes_since(connection: &Connection, since: i64, limit: u32) -> Result<Vec<(i64, String)>> {
    let epoch = epoch::to_json(epoch::epoch(connection)?.as_deref());
    connection.rows(
        "SELECT seq, at, entity, key, action, fields FROM changes WHERE seq > ?1 ORDER BY seq LIMIT ?2",
        values![since, limit],
        |row| {
            let mut line = object(row)?;
            let fields =
                line.get("fields").and_then(Json::as_str).and_then(|text| serde_json::from_str(text).ok());
            line.insert("fields".into(), fields.unwrap_or(Json::Null));
            line.insert("epoch".into(), epoch.clone());
            Ok((row.get(0)?, Json::Object(line).to_string()))
        },
    )
}

/// The seq of the oldest stored change.
pub(crate) fn oldest_change(connection: &Connection) -> Result<Option<i64>> {
    connection.one("SELECT min(seq) FROM changes", &[], |row| row.get(0))
}

/// The columns of an export in order.
pub(crate) const EXPORTED: [&str; 20] = [
    "userid",
    "name",
    "departments",
    "leads",
    "main_department",
    "direct_leader",
    "position",
    "mobile",
    "telephone",
    "email",
    "biz_mail",
    "alias",
    "gender",
    "status",
    "address",
    "openid",
    "openid_state",
    "tags",
    "ext_attr",
    "event_time",
];

/// Calls `each` with every present member, departments as full paths, until it returns false.
pub(crate) fn export_members(
    connection: &Connection,
    mut each: impl FnMut(Map<String, Json>) -> bool,
) -> Result<()> {
    // Read once, because the view computes the whole tree for each query.
    let paths: HashMap<i64, String> = connection
        .rows("SELECT id, path FROM department_tree", &[], |row| Ok((row.get(0)?, row.get(1)?)))?
        .into_iter()
        .collect();
    let path = |id: i64| paths.get(&id).cloned().unwrap_or_else(|| format!("#{id}"));
    connection.for_each("SELECT * FROM members WHERE deleted_at IS NULL ORDER BY userid", &[], |row| {
        let mut member = object(row)?;
        let userid = member.get("userid").and_then(Json::as_str).unwrap_or_default().to_owned();
        let (mut departments, mut led) = (Vec::new(), Vec::new());
        connection.for_each(
            "SELECT department_id, is_leader FROM member_departments WHERE userid = ?1 ORDER BY position",
            values![&userid],
            |row| {
                let path = path(row.get(0)?);
                if row.get(1)? {
                    led.push(Json::from(path.as_str()));
                }
                departments.push(Json::from(path));
                Ok(true)
            },
        )?;
        let tags = connection.rows(
            "SELECT coalesce(t.name, '#' || t.id) FROM tag_members AS tm JOIN tags AS t ON t.id = tm.tag_id
             WHERE tm.userid = ?1 AND t.deleted_at IS NULL ORDER BY t.id",
            values![&userid],
            |row| Ok(Json::from(row.get::<String>(0)?)),
        )?;
        member.insert("departments".into(), departments.into());
        member.insert("leads".into(), led.into());
        member.insert("tags".into(), tags.into());
        let ext_attr =
            member.get("ext_attr").and_then(Json::as_str).and_then(|text| serde_json::from_str(text).ok());
        member.insert("ext_attr".into(), ext_attr.unwrap_or(Json::Null));
        let exported =
            EXPORTED.iter().map(|name| ((*name).to_owned(), member.remove(*name).unwrap_or(Json::Null)));
        Ok(each(exported.collect()))
    })
}
