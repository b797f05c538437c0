//! `member USERID`: one member's fields, openid state and history of events, changes and API calls.

use std::fmt::Write;
use std::path::Path;

use crate::store::Connection;
use serde_json::{Map, Value as Json};

use super::{Failure, load_without_secrets, print, shown};
use crate::directory::{UnixSeconds, UserId};
use crate::store::clashes::members_with;
use crate::store::open_reader;
use crate::store::queries::{HistoryEntry, history, local_time, member as find};
use crate::text::printable_json;

/// Latest entries of each kind in the history.
const HISTORY_LIMIT: u32 = 200;

pub(super) fn member(path: Option<&Path>, userid: &str) -> Result<(), Failure> {
    let config = load_without_secrets(path)?;
    let userid = UserId::parse(userid).map_err(|bad| Failure::Other(bad.to_string()))?;
    let connection = open_reader(&config.database.path)?;
    connection.hold_snapshot()?;
    let found = find(&connection, &userid)?.map(|member| printable_map(&member));
    let mut history = history(&connection, &userid, HISTORY_LIMIT)?;
    for entry in &mut history {
        entry.row = printable_map(&entry.row);
    }
    if found.is_none() && history.is_empty() {
        let what = "the database has no such member, event or call; `select userid, name from active_members` lists all";
        return Err(Failure::Other(format!("{userid}: {what}")));
    }
    let mut text = String::new();
    match &found {
        Some(member) => describe(&mut text, &connection, &userid, member)?,
        None => text.push_str(&format!("{userid} is not in the directory\n")),
    }
    if let Some(openid) = found.as_ref().and_then(|member| member.get("openid")).and_then(Json::as_str) {
        let others = members_with(&connection, openid)?;
        if others.len() > 1 {
            let _ = writeln!(text, "  openid clash             {} have this openid", others.join(" and "));
        }
    }
    text.push_str("\nhistory\n");
    for entry in &history {
        let _ = writeln!(text, "  {}  {}", local_time(&connection, entry.at)?, line(&connection, entry)?);
    }
    print(&text)
}

fn printable_map(map: &Map<String, Json>) -> Map<String, Json> {
    map.iter().map(|(key, value)| (key.clone(), shown(value))).collect()
}

fn describe(
    text: &mut String,
    connection: &Connection,
    requested: &UserId,
    member: &Map<String, Json>,
) -> Result<(), Failure> {
    let userid = member.get("userid").and_then(Json::as_str).unwrap_or("");
    let _ = writeln!(text, "{userid}");
    if !requested.as_str().eq_ignore_ascii_case(userid) {
        let _ = writeln!(text, "  formerly {requested}");
    }
    for (key, value) in member {
        let shown = match (key.as_str(), value) {
            ("userid" | "openid_revision" | "details_revision", _) | (_, Json::Null) => continue,
            ("departments" | "tags", Json::Array(items)) if items.is_empty() => continue,
            ("departments" | "tags", Json::Array(items)) => list(items),
            (key, Json::Number(at)) if key.ends_with("_at") || key == "event_time" => {
                local_time(connection, UnixSeconds(at.as_i64().unwrap_or(0)))?
            }
            (_, Json::String(text)) => text.clone(),
            (_, value) => value.to_string(),
        };
        let _ = writeln!(text, "  {key:<24} {shown}");
    }
    Ok(())
}

fn list(items: &[Json]) -> String {
    let items = items.iter().map(|item| {
        let id = item.get("id").map(Json::to_string).unwrap_or_default();
        let name = item.get("name").and_then(Json::as_str);
        let leads = item.get("is_leader").and_then(Json::as_i64) == Some(1);
        let leads = if leads { ", leads" } else { "" };
        name.map_or_else(|| format!("#{id}{leads}"), |name| format!("{name} (#{id}{leads})"))
    });
    items.collect::<Vec<_>>().join(", ")
}

fn line(connection: &Connection, entry: &HistoryEntry) -> Result<String, Failure> {
    let text = |key: &str| entry.row.get(key).and_then(Json::as_str).unwrap_or("");
    let number = |key: &str| entry.row.get(key).and_then(Json::as_i64);
    Ok(match entry.kind {
        "event" => {
            let what = if text("change_type").is_empty() { text("event") } else { text("change_type") };
            let happened = match number("create_time") {
                Some(at) => format!(", happened {}", local_time(connection, UnixSeconds(at))?),
                None => String::new(),
            };
            format!("event   {what}: {}{happened}", text("outcome"))
        }
        "change" => {
            let fields: Map<String, Json> = serde_json::from_str(text("fields")).unwrap_or_default();
            let fields = fields.iter().map(|(name, change)| {
                let side = |n: usize| {
                    change
                        .get(n)
                        .map_or_else(String::new, |side| printable_json(&side.to_string()).into_owned())
                };
                match side(0).as_str() {
                    "null" => format!("{name}={}", side(1)),
                    old => format!("{name}: {old} -> {}", side(1)),
                }
            });
            format!("change  {} {}", text("action"), fields.collect::<Vec<_>>().join(", "))
        }
        _ => {
            let errcode =
                number("errcode").map_or_else(|| "no answer".into(), |code| format!("errcode {code}"));
            format!(
                "api     {}: {errcode} {} ({} ms)",
                text("api"),
                text("errmsg"),
                number("millis").unwrap_or(0)
            )
        }
    })
}
