//! Erasure of a departed person from every table.
//!
//! Rows of `events` and `changes` keep their numbers. A keyed digest of each userid remains in `forgotten`, so that an older
//! event, replayed, neither revives the person nor stores its content.

mod files;
mod rows;
mod screen;

use std::collections::BTreeSet;

use super::Result;
use super::connection::{Connection, values};
use super::departed::{self, Names};
use super::facts::group_facts;
use super::state::ERASED_CHANGES;
use crate::directory::members::{Conversion, MemberFact};
use crate::directory::{UnixSeconds, UserId, Value};
pub(crate) use files::clean_files;
use rows::{erase_changes, erase_events, erase_leader, erase_leader_in_fact, erase_notes};
use screen::Forgotten;
pub(super) use screen::screen;

/// Removes userids from the text of an event.
pub(crate) type Redact = fn(&str, &dyn Fn(&str) -> bool) -> String;

/// Why nobody is erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotErased {
    /// The member is present.
    Present,
    /// The userid is a former one; with a later one.
    Renamed(String),
    /// A part of a large event that names the person is not merged yet.
    Deferred,
    /// No table names the person.
    Unknown,
    /// The person was erased before.
    Already,
}

/// Where the tables name the person.
pub(crate) struct Mentions {
    userid: UserId,
    names: Names,
    last_event: i64,
    last_change: i64,
    events: BTreeSet<i64>,
    changes: BTreeSet<i64>,
    /// Facts of other members: userid, second, rank, n.
    facts: Vec<(String, i64, i64, i64)>,
    /// Other members who are led by the person.
    led: Vec<String>,
}

/// What was erased.
#[derive(Debug, Default)]
pub(crate) struct Erased {
    pub(crate) names: Vec<String>,
    pub(crate) facts: usize,
    pub(crate) events: usize,
    pub(crate) changes: usize,
    pub(crate) api_calls: usize,
    /// Rows about others that lost only the userid: facts, events, changes, notes.
    pub(crate) of_others: usize,
    /// The number of the last erased change; 0: none.
    pub(crate) last_change: i64,
    /// Texts that the files of the database should not contain any more.
    pub(crate) traces: Vec<String>,
}

impl Mentions {
    /// The userid that was searched for.
    pub(crate) fn userid(&self) -> &UserId {
        &self.userid
    }
}

impl Names {
    /// Whether the name meant this person at `at`; `None`: at any time.
    fn mean(&self, name: &str, at: Option<i64>) -> bool {
        let Ok(name) = UserId::parse(name) else { return false };
        let is_shared =
            |(shared, until): &(UserId, UnixSeconds)| *shared == name && at.is_none_or(|at| at <= until.0);
        self.own.contains(&name) || self.shared.iter().any(is_shared)
    }

    fn all(&self) -> impl Iterator<Item = &UserId> {
        self.own.iter().chain(self.shared.iter().map(|(name, _)| name))
    }
}

/// Finds the rows that name a departed member. Reads whole tables: outside of a write transaction.
pub(crate) fn find(
    connection: &Connection,
    userid: &UserId,
) -> Result<std::result::Result<Mentions, NotErased>> {
    let is_known = connection.exists("SELECT 1 FROM members WHERE userid = ?1", values![userid.as_str()])?;
    if is_known && departed::deleted_at(connection, userid)?.is_none() {
        return Ok(Err(NotErased::Present));
    }
    let renamed: Option<String> = connection.row(
        "SELECT new_userid FROM renames WHERE old_userid = ?1 ORDER BY event_time DESC LIMIT 1",
        values![userid.as_str()],
        |row| row.get(0),
    )?;
    if let (false, Some(renamed)) = (is_known, renamed) {
        return Ok(Err(NotErased::Renamed(renamed)));
    }
    let last = |sql: &'static str| connection.one(sql, &[], |row| row.get::<i64>(0));
    let mut found = Mentions {
        userid: userid.clone(),
        names: Names::of(connection, userid)?,
        last_event: last("SELECT coalesce(max(seq), 0) FROM events")?,
        last_change: last("SELECT coalesce(max(seq), 0) FROM changes")?,
        events: BTreeSet::new(),
        changes: BTreeSet::new(),
        facts: Vec::new(),
        led: Vec::new(),
    };
    let (mut events, mut changes) = (BTreeSet::new(), BTreeSet::new());
    for name in found.names.all() {
        let is_deferred = connection.exists(
            "SELECT 1 FROM deferred_facts WHERE instr(lower(content), lower(?1)) > 0",
            values![name.as_str()],
        )?;
        if is_deferred {
            return Ok(Err(NotErased::Deferred));
        }
        events.extend(events_about(connection, name, 0)?);
        changes.extend(changes_about(connection, name, 0)?);
        found.facts.extend(connection.rows(
            "SELECT userid, second, rank, n FROM member_facts WHERE instr(lower(fact), lower(?1)) > 0 AND userid <> ?1",
            values![name.as_str()],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )?);
        found.led.extend(connection.rows(
            "SELECT userid FROM members WHERE instr(lower(direct_leader), lower(?1)) > 0",
            values![name.as_str()],
            |row| row.get::<String>(0),
        )?);
    }
    (found.events, found.changes) = (events, changes);
    let has_facts =
        connection.exists("SELECT 1 FROM member_facts WHERE userid = ?1", values![userid.as_str()])?;
    if !is_known && !has_facts && found.events.is_empty() && found.changes.is_empty() {
        let known = Forgotten::read(connection)?;
        let is_forgotten = match &known {
            Some(forgotten) => forgotten.second(connection, userid)?.is_some(),
            None => false,
        };
        return Ok(Err(if is_forgotten { NotErased::Already } else { NotErased::Unknown }));
    }
    Ok(Ok(found))
}

fn events_about(connection: &Connection, name: &UserId, after: i64) -> Result<Vec<i64>> {
    let sql =
        "SELECT seq FROM events WHERE seq > ?2 AND (subject = ?1 OR instr(lower(payload), lower(?1)) > 0)";
    connection.rows(sql, values![name.as_str(), after], |row| row.get(0))
}

fn changes_about(connection: &Connection, name: &UserId, after: i64) -> Result<Vec<i64>> {
    let sql = "SELECT seq FROM changes WHERE seq > ?2 AND (key = ?1 OR instr(lower(fields), lower(?1)) > 0)";
    connection.rows(sql, values![name.as_str(), after], |row| row.get(0))
}

/// Erases what [`find`] found, within the caller's transaction. `None`: the member changed meanwhile.
pub(crate) fn erase(
    connection: &Connection,
    found: &Mentions,
    redact: Redact,
    now: UnixSeconds,
) -> Result<Option<Erased>> {
    let names = &found.names;
    let is_present = connection.exists(
        "SELECT 1 FROM members WHERE userid = ?1 AND deleted_at IS NULL",
        values![found.userid.as_str()],
    )?;
    if is_present || Names::of(connection, &found.userid)? != *names {
        return Ok(None);
    }
    let forgotten = Forgotten::read_or_create(connection, now)?;
    let mut erased = Erased {
        names: names.own.iter().map(|name| name.as_str().to_owned()).collect(),
        traces: traces(connection, found)?,
        ..Erased::default()
    };
    let mut newest = erase_events(connection, found, &forgotten, redact, &mut erased)?;
    erase_changes(connection, found, &mut erased)?;
    for (userid, second, rank, n) in &found.facts {
        erased.of_others += erase_leader_in_fact(connection, names, (userid, *second, *rank, *n))?;
    }
    for userid in &found.led {
        erase_leader(connection, names, userid)?;
    }
    for name in &names.own {
        let (facts, second): (i64, Option<i64>) = connection.one(
            "SELECT count(*), max(second) FROM member_facts WHERE userid = ?1",
            values![name.as_str()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        erased.facts += usize::try_from(facts).unwrap_or(0);
        newest = newest.max(second);
        erased.api_calls +=
            connection.execute("DELETE FROM api_calls WHERE userid = ?1", values![name.as_str()])?;
    }
    for (name, until) in &names.shared {
        erased.api_calls += connection.execute(
            "DELETE FROM api_calls WHERE userid = ?1 AND at <= ?2",
            values![name.as_str(), until.0],
        )?;
    }
    departed::remove(connection, &found.userid, names)?;
    erased.of_others += erase_notes(connection, names)?;
    for name in &names.own {
        forgotten.add(connection, name, newest.unwrap_or(now.0))?;
    }
    for (name, until) in &names.shared {
        forgotten.add(connection, name, until.0)?;
    }
    if erased.last_change > 0 {
        let known = ERASED_CHANGES.get(connection)?.map_or(0, |(_, known)| known);
        ERASED_CHANGES.set(connection, now, &known.max(erased.last_change))?;
    }
    Ok(Some(erased))
}

/// The person's names and values.
fn traces(connection: &Connection, found: &Mentions) -> Result<Vec<String>> {
    let mut traces: Vec<String> = found.names.own.iter().map(|name| name.as_str().to_owned()).collect();
    for record in group_facts(connection, &found.userid)? {
        if !found.names.mean(record.userid().as_str(), Some(record.stamp.second.0)) {
            continue;
        }
        if let MemberFact::Answered(answer) = record.member_fact()
            && let Conversion::Openid(openid) = &answer.conversion
        {
            traces.push(openid.clone());
        }
        for (_, value) in record.member_fact().fields().into_iter().flat_map(|fields| fields.values()) {
            if let Value::Text(text) = value {
                traces.push(text.clone());
            }
        }
    }
    traces.sort_unstable();
    traces.dedup();
    Ok(traces)
}
