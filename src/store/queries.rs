//! Queries of the commands: counts, one member's history, the change feed, the export.

use std::collections::{BTreeSet, HashMap};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::{Map, Value as Json, json};

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

pub(crate) fn counts(connection: &Connection, now: UnixSeconds) -> rusqlite::Result<Counts> {
    let number = |sql: &str| -> rusqlite::Result<i64> {
        connection.query_row(sql, [], |row| Ok(row.get::<_, Option<i64>>(0)?.unwrap_or(0)))
    };
    let time = |sql: &str| -> rusqlite::Result<Option<UnixSeconds>> {
        connection.query_row(sql, [], |row| Ok(row.get::<_, Option<i64>>(0)?.map(UnixSeconds)))
    };
    let in_state = |state: &str| -> rusqlite::Result<i64> {
        connection.query_row(
            "SELECT count(*) FROM members WHERE deleted_at IS NULL AND openid_state = ?1",
            [state],
            |row| row.get(0),
        )
    };
    let waiting = "FROM members WHERE deleted_at IS NULL AND openid_state = 'pending'";
    let (pending, converted, failed) = (in_state("pending")?, in_state("converted")?, in_state("failed")?);
    Ok(Counts {
        pending,
        converted,
        failed,
        due: connection.query_row(
            &format!("SELECT count(*) {waiting} AND openid_next_attempt_at <= ?1"),
            [now.0],
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
        next_attempt: time(&format!("SELECT min(openid_next_attempt_at) {waiting}"))?,
        last_event: time("SELECT received_at FROM events WHERE seq = (SELECT max(seq) FROM events)")
            .optional()?
            .flatten(),
        events: number("SELECT count(*) FROM events")?,
        last_change: epoch::last_change(connection)?,
    })
}

/// A member's row as JSON, one key per column, with its departments and tags. A former userid finds the renamed member.
pub(crate) fn member(
    connection: &Connection,
    userid: &UserId,
) -> rusqlite::Result<Option<Map<String, Json>>> {
    let holder = present_userid(connection, userid)?;
    let row = connection
        .query_row("SELECT * FROM members WHERE userid = ?1", [holder.as_str()], |row| Ok(object(row)))
        .optional()?;
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
fn present_userid(connection: &Connection, userid: &UserId) -> rusqlite::Result<UserId> {
    let mut holder = fold(&facts::group_facts(connection, userid)?).resolve(userid);
    let mut is_known = connection.prepare_cached("SELECT 1 FROM members WHERE userid = ?1")?;
    let mut next = connection.prepare_cached(
        "SELECT new_userid FROM renames WHERE old_userid = ?1 ORDER BY event_time DESC LIMIT 1",
    )?;
    // Renames that a compaction dropped from the facts are followed here; `visited` ends cycles.
    let mut visited = BTreeSet::new();
    while !is_known.exists([holder.as_str()])? && visited.insert(holder.clone()) {
        let renamed: Option<String> = next.query_row([holder.as_str()], |row| row.get(0)).optional()?;
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
pub(crate) fn history(
    connection: &Connection,
    userid: &UserId,
    limit: u32,
) -> rusqlite::Result<Vec<HistoryEntry>> {
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
            let mut statement = connection.prepare_cached(sql)?;
            let mut rows = statement.query(params![name.as_str(), limit])?;
            while let Some(row) = rows.next()? {
                let row = object(row);
                let at = UnixSeconds(row.get("at").and_then(Json::as_i64).unwrap_or(0));
                let seq = row.get("seq").and_then(Json::as_i64).unwrap_or(0);
                entries.push((at, order, seq, HistoryEntry { at, kind, row }));
            }
        }
    }
    // Within a second: events, then changes, then API calls.
    entries.sort_by_key(|(at, order, seq, _)| (*at, *order, *seq));
    Ok(entries.into_iter().map(|(.., entry)| entry).collect())
}

fn rows(connection: &Connection, sql: &str, key: &str) -> rusqlite::Result<Vec<Json>> {
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([key], |row| Ok(Json::Object(object(row))))?;
    rows.collect()
}

/// A row as a JSON object, one key per column.
fn object(row: &Row<'_>) -> Map<String, Json> {
    let names = row.as_ref().column_names();
    let values = names.enumerate().map(|(i, name)| {
        let value = match row.get_ref(i) {
            Ok(ValueRef::Integer(number)) => json!(number),
            Ok(ValueRef::Real(number)) => json!(number),
            Ok(ValueRef::Text(text)) => json!(String::from_utf8_lossy(text)),
            _ => Json::Null,
        };
        (name.to_owned(), value)
    });
    values.collect()
}

/// A time in the local time zone, as `YYYY-MM-DD HH:MM:SS`.
pub(crate) fn local_time(connection: &Connection, at: UnixSeconds) -> rusqlite::Result<String> {
    connection
        .prepare_cached("SELECT datetime(?1, 'unixepoch', 'localtime')")?
        .query_row([at.0], |row| Ok(row.get::<_, Option<String>>(0)?.unwrap_or_default()))
}

/// A query's rows as text; the first row contains the column names.
pub fn table(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<Vec<String>>> {
    let mut statement = connection.prepare(sql)?;
    let names = statement.column_names().map(str::to_owned).collect::<Vec<_>>();
    let mut rows = vec![names];
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let cells = object(row).into_iter().map(|(_, value)| match value {
            Json::Null => String::new(),
            Json::String(text) => text,
            other => other.to_string(),
        });
        rows.push(cells.collect());
    }
    Ok(rows)
}

/// The first `limit` lines of the change feed after `since`, each with its seq.
pub(crate) fn changes_since(
    connection: &Connection,
    since: i64,
    limit: u32,
) -> rusqlite::Result<Vec<(i64, String)>> {
    let epoch = epoch::to_json(epoch::epoch(connection)?.as_deref());
    let mut statement = connection.prepare_cached(
        "SELECT seq, at, entity, key, action, fields FROM changes WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?;
    let lines = statement.query_map(params![since, limit], |row| {
        let mut line = object(row);
        let fields =
            line.get("fields").and_then(Json::as_str).and_then(|text| serde_json::from_str(text).ok());
        line.insert("fields".into(), fields.unwrap_or(Json::Null));
        line.insert("epoch".into(), epoch.clone());
        Ok((row.get(0)?, Json::Object(line).to_string()))
    })?;
    lines.collect()
}

/// The seq of the oldest stored change.
pub(crate) fn oldest_change(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection.query_row("SELECT min(seq) FROM changes", [], |row| row.get(0))
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
) -> rusqlite::Result<()> {
    // Read once, because the view computes the whole tree for each query.
    let mut statement = connection.prepare("SELECT id, path FROM department_tree")?;
    let paths: HashMap<i64, String> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    let path = |id: i64| paths.get(&id).cloned().unwrap_or_else(|| format!("#{id}"));
    let mut of_member = connection.prepare(
        "SELECT department_id, is_leader FROM member_departments WHERE userid = ?1 ORDER BY position",
    )?;
    let mut tags = connection.prepare(
        "SELECT coalesce(t.name, '#' || t.id) FROM tag_members AS tm JOIN tags AS t ON t.id = tm.tag_id
         WHERE tm.userid = ?1 AND t.deleted_at IS NULL ORDER BY t.id",
    )?;
    let mut statement =
        connection.prepare("SELECT * FROM members WHERE deleted_at IS NULL ORDER BY userid")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let mut member = object(row);
        let userid = member.get("userid").and_then(Json::as_str).unwrap_or_default().to_owned();
        let (mut departments, mut led) = (Vec::new(), Vec::new());
        let mut found = of_member.query([&userid])?;
        while let Some(row) = found.next()? {
            let path = path(row.get(0)?);
            if row.get(1)? {
                led.push(Json::from(path.as_str()));
            }
            departments.push(Json::from(path));
        }
        let tags: Vec<Json> = tags
            .query_map([&userid], |row| Ok(Json::from(row.get::<_, String>(0)?)))?
            .collect::<rusqlite::Result<_>>()?;
        member.insert("departments".into(), departments.into());
        member.insert("leads".into(), led.into());
        member.insert("tags".into(), tags.into());
        let ext_attr =
            member.get("ext_attr").and_then(Json::as_str).and_then(|text| serde_json::from_str(text).ok());
        member.insert("ext_attr".into(), ext_attr.unwrap_or(Json::Null));
        let exported =
            EXPORTED.iter().map(|name| ((*name).to_owned(), member.remove(*name).unwrap_or(Json::Null)));
        if !each(exported.collect()) {
            return Ok(());
        }
    }
    Ok(())
}
