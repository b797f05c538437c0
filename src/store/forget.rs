//! Erasure of a departed person from every table.
//!
//! Rows of `events` and `changes` keep their numbers. A keyed digest of each userid remains in `forgotten`, so that an older
//! event, replayed, neither revives the person nor stores its content.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use memchr::memmem::Finder;
use ring::hmac;
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value as Json, json};

use super::departed::{self, Names};
use super::error::StoreError;
use super::event_log::NewEvent;
use super::facts::group_facts;
use super::file::{open_for_good, read_chunk};
use super::sqlite::file_watch::truncate_wal;
use super::state::{ERASED_CHANGES, FORGET_KEY, get_state, set_state};
use crate::directory::clock::TOLERANCE;
use crate::directory::members::{Conversion, MemberFact};
use crate::directory::{Event, MemberEvent, MemberField, Subject, UnixSeconds, UserId, Value};

/// Replaces the userid in notes.
const ERASED: &str = "(forgotten)";
const LEADER: &str = "direct_leader";
/// Length of the pieces in which a file is searched.
const CHUNK: usize = 1024 * 1024;
/// Time for readers to end, so that the WAL can be emptied.
const READERS_END: Duration = Duration::from_secs(10);

/// Removes userids from the text of an event; see [`crate::wecom`].
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
) -> rusqlite::Result<Result<Mentions, NotErased>> {
    let is_known =
        connection.prepare_cached("SELECT 1 FROM members WHERE userid = ?1")?.exists([userid.as_str()])?;
    if is_known && departed::deleted_at(connection, userid)?.is_none() {
        return Ok(Err(NotErased::Present));
    }
    let renamed: Option<String> = connection
        .prepare_cached(
            "SELECT new_userid FROM renames WHERE old_userid = ?1 ORDER BY event_time DESC LIMIT 1",
        )?
        .query_row([userid.as_str()], |row| row.get(0))
        .optional()?;
    if let (false, Some(renamed)) = (is_known, renamed) {
        return Ok(Err(NotErased::Renamed(renamed)));
    }
    let last = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
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
        let is_deferred = connection
            .prepare_cached("SELECT 1 FROM deferred_facts WHERE instr(lower(content), lower(?1)) > 0")?
            .exists([name.as_str()])?;
        if is_deferred {
            return Ok(Err(NotErased::Deferred));
        }
        events.extend(events_about(connection, name, 0)?);
        changes.extend(changes_about(connection, name, 0)?);
        let mut facts = connection.prepare_cached(
            "SELECT userid, second, rank, n FROM member_facts WHERE instr(lower(fact), lower(?1)) > 0 AND userid <> ?1",
        )?;
        let rows = facts
            .query_map([name.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        found.facts.extend(rows.collect::<rusqlite::Result<Vec<_>>>()?);
        let mut led = connection
            .prepare_cached("SELECT userid FROM members WHERE instr(lower(direct_leader), lower(?1)) > 0")?;
        let rows = led.query_map([name.as_str()], |row| row.get(0))?;
        found.led.extend(rows.collect::<rusqlite::Result<Vec<String>>>()?);
    }
    (found.events, found.changes) = (events, changes);
    let has_facts = connection
        .prepare_cached("SELECT 1 FROM member_facts WHERE userid = ?1")?
        .exists([userid.as_str()])?;
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

fn events_about(connection: &Connection, name: &UserId, after: i64) -> rusqlite::Result<Vec<i64>> {
    let sql =
        "SELECT seq FROM events WHERE seq > ?2 AND (subject = ?1 OR instr(lower(payload), lower(?1)) > 0)";
    connection.prepare_cached(sql)?.query_map(params![name.as_str(), after], |row| row.get(0))?.collect()
}

fn changes_about(connection: &Connection, name: &UserId, after: i64) -> rusqlite::Result<Vec<i64>> {
    let sql = "SELECT seq FROM changes WHERE seq > ?2 AND (key = ?1 OR instr(lower(fields), lower(?1)) > 0)";
    connection.prepare_cached(sql)?.query_map(params![name.as_str(), after], |row| row.get(0))?.collect()
}

/// Erases what [`find`] found, within the caller's transaction. `None`: the member changed meanwhile.
pub(crate) fn erase(
    connection: &Connection,
    found: &Mentions,
    redact: Redact,
    now: UnixSeconds,
) -> rusqlite::Result<Option<Erased>> {
    let names = &found.names;
    let is_present = connection
        .prepare_cached("SELECT 1 FROM members WHERE userid = ?1 AND deleted_at IS NULL")?
        .exists([found.userid.as_str()])?;
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
        let (facts, second): (i64, Option<i64>) = connection
            .prepare_cached("SELECT count(*), max(second) FROM member_facts WHERE userid = ?1")?
            .query_row([name.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
        erased.facts += usize::try_from(facts).unwrap_or(0);
        newest = newest.max(second);
        erased.api_calls +=
            connection.prepare_cached("DELETE FROM api_calls WHERE userid = ?1")?.execute([name.as_str()])?;
    }
    for (name, until) in &names.shared {
        erased.api_calls += connection
            .prepare_cached("DELETE FROM api_calls WHERE userid = ?1 AND at <= ?2")?
            .execute(params![name.as_str(), until.0])?;
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
fn traces(connection: &Connection, found: &Mentions) -> rusqlite::Result<Vec<String>> {
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

/// Erases the content of events about the person, and the userid in others; the newest CreateTime of them.
fn erase_events(
    connection: &Connection,
    found: &Mentions,
    forgotten: &Forgotten,
    redact: Redact,
    erased: &mut Erased,
) -> rusqlite::Result<Option<i64>> {
    let names = &found.names;
    let mut seqs = found.events.clone();
    for name in names.all() {
        seqs.extend(events_about(connection, name, found.last_event)?);
    }
    let mut newest = None;
    for seq in seqs {
        let row = connection
            .prepare_cached(
                "SELECT received_at, create_time, event, change_type, subject, outcome, payload, digest FROM events
                 WHERE seq = ?1",
            )?
            .query_row([seq], |row| {
                Ok(EventRow {
                    received_at: row.get(0)?,
                    create_time: row.get(1)?,
                    has_number: row.get::<_, String>(2)? == "batch_job_result"
                        || row.get::<_, String>(3)?.ends_with("_party")
                        || row.get::<_, String>(3)? == "update_tag",
                    subject: row.get(4)?,
                    outcome: row.get(5)?,
                    payload: row.get(6)?,
                    digest: row.get(7)?,
                })
            })
            .optional()?;
        let Some(row) = row else { continue };
        let means = |name: &str| names.mean(name, row.create_time);
        let left = redact(&row.payload, &means);
        if !row.has_number && means(&row.subject)
            // The text of an event that cannot be read may have the userid anywhere.
            || left == row.payload && row.outcome == "invalid" && mentions(&row.payload, &means)
        {
            let keyed = (row.outcome != "duplicate").then(|| forgotten.of_content(&row.payload, row.digest));
            connection
                .prepare_cached("UPDATE events SET subject = '', payload = '', digest = ?2 WHERE seq = ?1")?
                .execute(params![seq, keyed])?;
            erased.events += 1;
        } else if left != row.payload {
            connection
                .prepare_cached("UPDATE events SET payload = ?2 WHERE seq = ?1")?
                .execute(params![seq, left])?;
            erased.of_others += 1;
        } else {
            continue;
        }
        // A time ahead of its receipt is corrected when the event is applied.
        newest = newest.max(row.create_time.filter(|at| *at <= row.received_at + TOLERANCE));
    }
    Ok(newest)
}

struct EventRow {
    received_at: i64,
    create_time: Option<i64>,
    /// Whether the subject is the number of a department or tag.
    has_number: bool,
    subject: String,
    outcome: String,
    payload: String,
    digest: Option<i64>,
}

/// Erases lines about the person; they become lines without effect. Lines about others lose the userid.
fn erase_changes(connection: &Connection, found: &Mentions, erased: &mut Erased) -> rusqlite::Result<()> {
    let names = &found.names;
    let mut seqs = found.changes.clone();
    for name in names.all() {
        seqs.extend(changes_about(connection, name, found.last_change)?);
    }
    // The lines of a shared name up to the rename.
    let mut shared_until = Vec::new();
    for (name, _) in &names.shared {
        let mut until: i64 = 0;
        for own in &names.own {
            let renamed: Option<i64> = connection
                .prepare_cached(
                    "SELECT max(seq) FROM changes WHERE key = ?1 AND action = 'renamed'
                        AND lower(json_extract(fields, '$.userid[0]')) = lower(?2)",
                )?
                .query_row([own.as_str(), name.as_str()], |row| row.get(0))?;
            until = until.max(renamed.unwrap_or(0));
        }
        shared_until.push((name, until));
    }
    for seq in seqs {
        let row: Option<(String, String, String)> = connection
            .prepare_cached("SELECT entity, key, fields FROM changes WHERE seq = ?1")?
            .query_row([seq], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let Some((entity, key, text)) = row else { continue };
        let means = |name: &str| {
            UserId::parse(name).is_ok_and(|name| {
                names.own.contains(&name)
                    || shared_until.iter().any(|(shared, until)| **shared == name && seq <= *until)
            })
        };
        if entity == "member" && means(&key) {
            connection
                .prepare_cached(
                    "UPDATE changes SET entity = 'tag', key = '0', action = 'updated', fields = '{}' WHERE seq = ?1",
                )?
                .execute([seq])?;
            erased.changes += 1;
            erased.last_change = erased.last_change.max(seq);
            continue;
        }
        let Ok(mut fields) = serde_json::from_str::<Json>(&text) else { continue };
        let before = fields.clone();
        if entity == "tag"
            && let Some(map) = fields.as_object_mut()
            && map.get("member").is_some_and(|both| {
                [0, 1].iter().any(|place| both.get(*place).and_then(Json::as_str).is_some_and(means))
            })
        {
            map.remove("member");
            erased.last_change = erased.last_change.max(seq);
        }
        if entity == "member" {
            for place in [0, 1] {
                if let Some(value) = fields.get_mut(LEADER).and_then(|both| both.get_mut(place)) {
                    without_leader(value, &means, &json!(""));
                }
            }
        }
        if fields != before {
            connection
                .prepare_cached("UPDATE changes SET fields = ?2 WHERE seq = ?1")?
                .execute(params![seq, fields.to_string()])?;
            erased.of_others += 1;
        }
    }
    Ok(())
}

/// Removes userids from a list of leaders; an empty list becomes `empty`.
fn without_leader(list: &mut Json, means: impl Fn(&str) -> bool, empty: &Json) {
    let Some(text) = list.as_str() else { return };
    let kept: Vec<&str> = text.split(',').filter(|name| !means(name)).collect();
    let kept = kept.join(",");
    if kept != text {
        *list = if kept.is_empty() { empty.clone() } else { json!(kept) };
    }
}

/// Removes the person from the leaders in a fact about another member; 1 if it was among them.
fn erase_leader_in_fact(
    connection: &Connection,
    names: &Names,
    (userid, second, rank, n): (&str, i64, i64, i64),
) -> rusqlite::Result<usize> {
    if names.mean(userid, None) {
        return Ok(0);
    }
    let key = params![userid, second, rank, n];
    let fact: Option<String> = connection
        .prepare_cached(
            "SELECT fact FROM member_facts WHERE userid = ?1 AND second = ?2 AND rank = ?3 AND n = ?4",
        )?
        .query_row(key, |row| row.get(0))
        .optional()?;
    let Some(mut fact) = fact.and_then(|text| serde_json::from_str::<Json>(&text).ok()) else { return Ok(0) };
    let before = fact.clone();
    for fields in fact.as_object_mut().into_iter().flat_map(|map| map.values_mut()) {
        let Some(value) = fields.get_mut(LEADER) else { continue };
        // A value with a stamp of its own is an object.
        let value = if value.is_object() { value.get_mut("value") } else { Some(value) };
        if let Some(value) = value {
            without_leader(value, |name| names.mean(name, None), &Json::Null);
        }
    }
    if fact == before {
        return Ok(0);
    }
    connection
        .prepare_cached(
            "UPDATE member_facts SET fact = ?5 WHERE userid = ?1 AND second = ?2 AND rank = ?3 AND n = ?4",
        )?
        .execute(params![userid, second, rank, n, fact.to_string()])
}

fn erase_leader(connection: &Connection, names: &Names, userid: &str) -> rusqlite::Result<()> {
    let leaders: Option<Option<String>> = connection
        .prepare_cached("SELECT direct_leader FROM members WHERE userid = ?1")?
        .query_row([userid], |row| row.get(0))
        .optional()?;
    let Some(leaders) = leaders.flatten() else { return Ok(()) };
    let mut left = json!(leaders);
    without_leader(&mut left, |name| names.mean(name, None), &json!(""));
    connection
        .prepare_cached("UPDATE members SET direct_leader = ?2 WHERE userid = ?1")?
        .execute(params![userid, left.as_str()])?;
    Ok(())
}

/// Replaces the person's names in notes of comparisons, in the reason of the next one, and deletes refusals that have them.
fn erase_notes(connection: &Connection, names: &Names) -> rusqlite::Result<usize> {
    let means = |name: &str| names.own.iter().any(|own| own.as_str().eq_ignore_ascii_case(name));
    let mut changed = 0;
    let mut notes = connection.prepare("SELECT seq, reason, note FROM reconciles")?;
    let rows = notes.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    for (seq, reason, note) in rows.collect::<rusqlite::Result<Vec<(i64, String, String)>>>()? {
        let (new_reason, new_note) = (without_words(&reason, means), without_words(&note, means));
        if (&new_reason, &new_note) != (&reason, &note) {
            let sql = "UPDATE reconciles SET reason = ?2, note = ?3 WHERE seq = ?1";
            changed += connection.execute(sql, params![seq, new_reason, new_note])?;
        }
    }
    if let Some((at, mut due)) = get_state(connection, "comparison_due")?
        && let Some(reason) = due.get("reason").and_then(Json::as_str)
    {
        let left = without_words(reason, means);
        if left != reason {
            due["reason"] = json!(left);
            set_state(connection, "comparison_due", at, Some(&due))?;
            changed += 1;
        }
    }
    let mut refusals = connection.prepare("SELECT cause, path, last_client FROM refusals")?;
    let rows = refusals.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    for (cause, path, client) in rows.collect::<rusqlite::Result<Vec<(String, String, String)>>>()? {
        if mentions(&path, &means) || mentions(&client, &means) {
            changed +=
                connection.execute("DELETE FROM refusals WHERE cause = ?1 AND path = ?2", [&cause, &path])?;
        }
    }
    Ok(changed)
}

/// The words of a text that may be userids, with their positions.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_-@.".contains(c);
    let words = text.split(move |c| !is_part(c)).filter(|word| !word.is_empty());
    // A sentence may end after a userid.
    let words = words.map(|word| word.trim_end_matches('.'));
    words.map(move |word| (word.as_ptr().addr() - text.as_ptr().addr(), word))
}

fn mentions(text: &str, means: &impl Fn(&str) -> bool) -> bool {
    words(text).any(|(_, word)| means(word))
}

fn without_words(text: &str, means: impl Fn(&str) -> bool) -> String {
    let mut left = text.to_owned();
    let found: Vec<(usize, usize)> =
        words(text).filter(|(_, word)| means(word)).map(|(at, word)| (at, word.len())).collect();
    for (at, length) in found.into_iter().rev() {
        left.replace_range(at..at + length, ERASED);
    }
    left
}

/// The key of the digests, while anybody is forgotten.
struct Forgotten(hmac::Key);

impl Forgotten {
    /// `None` if nobody was ever forgotten.
    fn read(connection: &Connection) -> rusqlite::Result<Option<Self>> {
        let key = FORGET_KEY.get(connection)?;
        Ok(key.map(|(_, key)| Self(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()))))
    }

    fn read_or_create(connection: &Connection, now: UnixSeconds) -> rusqlite::Result<Self> {
        if let Some(known) = Self::read(connection)? {
            return Ok(known);
        }
        let mut random = [0; 32];
        getrandom::fill(&mut random)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.to_string().into()))?;
        let key: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        FORGET_KEY.set(connection, now, &key)?;
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes())))
    }

    fn of_name(&self, name: &UserId) -> hmac::Tag {
        hmac::sign(&self.0, name.as_str().to_ascii_lowercase().as_bytes())
    }

    /// Replaces the content of an event, or the digest that replaced it already.
    fn of_content(&self, payload: &str, digest: Option<i64>) -> i64 {
        let tag = match digest {
            Some(digest) if payload.is_empty() => hmac::sign(&self.0, &digest.to_be_bytes()),
            _ => hmac::sign(&self.0, payload.as_bytes()),
        };
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&tag.as_ref()[..8]);
        i64::from_be_bytes(bytes)
    }

    fn add(&self, connection: &Connection, name: &UserId, second: i64) -> rusqlite::Result<()> {
        connection
            .prepare_cached(
                "INSERT INTO forgotten (digest, second) VALUES (?1, ?2)
                 ON CONFLICT (digest) DO UPDATE SET second = max(second, excluded.second)",
            )?
            .execute(params![self.of_name(name).as_ref(), second])?;
        Ok(())
    }

    /// The last second in which the name meant a forgotten person.
    fn second(&self, connection: &Connection, name: &UserId) -> rusqlite::Result<Option<i64>> {
        connection
            .prepare_cached("SELECT second FROM forgotten WHERE digest = ?1")?
            .query_row([self.of_name(name).as_ref()], |row| row.get(0))
            .optional()
    }
}

/// An event that names a forgotten person, without the person: its content is not stored.
pub(super) struct Screened {
    pub(super) event: NewEvent,
    /// Whether the event is about the person, so that nothing is left to apply.
    pub(super) is_void: bool,
}

/// Screens an event before it is applied; `None` if it names no forgotten person.
pub(super) fn screen(connection: &Connection, event: &NewEvent) -> rusqlite::Result<Option<Screened>> {
    let Some(forgotten) = Forgotten::read(connection)? else { return Ok(None) };
    let digest = forgotten.of_content(&event.payload, event.payload.is_empty().then_some(event.digest));
    let at = event.meaning.as_ref().map(|meaning| meaning.at).or(event.create_time);
    let mut gone = BTreeSet::new();
    for name in named(event) {
        let is_gone = match forgotten.second(connection, &name)? {
            None => false,
            Some(second) if at.is_none_or(|at| at.0 <= second) => true,
            // A replay of an event whose time is corrected to that of its receipt.
            Some(_) => connection
                .prepare_cached(
                    "SELECT 1 FROM events WHERE subject = '' AND create_time IS ?1 AND digest = ?2",
                )?
                .exists(params![event.create_time.map(|at| at.0), digest])?,
        };
        if is_gone {
            gone.insert(name);
        }
    }
    if gone.is_empty() {
        return Ok(None);
    }
    let mut event = NewEvent { payload: String::new(), digest, ..event.clone() };
    let is_gone = |name: &UserId| gone.contains(name);
    let is_void = match event.meaning.as_mut().map(|meaning| &mut meaning.subject) {
        Some(Subject::Tag(_, content)) => {
            content.added_members.retain(|name| !is_gone(name));
            content.removed_members.retain(|name| !is_gone(name));
            false
        }
        Some(Subject::Member(userid, change)) => {
            if let MemberEvent::Created(fields)
            | MemberEvent::Updated(fields)
            | MemberEvent::Renamed(_, fields) = change
                && let Some(Value::Text(leaders)) = fields.get(&MemberField::DirectLeader)
            {
                let kept: Vec<&str> = leaders
                    .split(',')
                    .filter(|name| !UserId::parse(name).is_ok_and(|name| is_gone(&name)))
                    .collect();
                let kept = Value::text(&kept.join(","));
                fields.insert(MemberField::DirectLeader, kept);
            }
            let new_name = if let MemberEvent::Renamed(to, _) = change { Some(&*to) } else { None };
            is_gone(userid) || new_name.is_some_and(is_gone)
        }
        _ => true,
    };
    if is_void {
        event.subject = String::new();
        event.comparison_due = None;
    }
    Ok(Some(Screened { event, is_void }))
}

/// The userids in an event.
fn named(event: &NewEvent) -> Vec<UserId> {
    match event.meaning.as_ref().map(|Event { subject, .. }| subject) {
        Some(Subject::Member(userid, change)) => {
            let (new_name, fields) = match change {
                MemberEvent::Created(fields) | MemberEvent::Updated(fields) => (None, Some(fields)),
                MemberEvent::Renamed(to, fields) => (Some(to.clone()), Some(fields)),
                MemberEvent::Deleted => (None, None),
            };
            let leaders = fields.and_then(|fields| match fields.get(&MemberField::DirectLeader) {
                Some(Value::Text(leaders)) => Some(leaders.as_str()),
                _ => None,
            });
            let leaders = leaders.into_iter().flat_map(|list| list.split(','));
            let leaders = leaders.filter_map(|name| UserId::parse(name).ok());
            std::iter::once(userid.clone()).chain(new_name).chain(leaders).collect()
        }
        Some(Subject::Tag(_, content)) => {
            content.added_members.iter().chain(&content.removed_members).cloned().collect()
        }
        Some(Subject::Trigger(userid, _)) => vec![userid.clone()],
        Some(Subject::Department(..) | Subject::BatchJob(_)) => Vec::new(),
        Some(Subject::Other) | None => UserId::parse(&event.subject).into_iter().collect(),
    }
}

/// Removes what SQLite left of deleted rows: empties the WAL, searches the file for `traces`, and rewrites it if it has any.
/// True if it was rewritten.
pub(crate) fn clean_files(
    connection: &Connection,
    path: &Path,
    traces: &[String],
) -> Result<bool, StoreError> {
    empty_wal(connection)?;
    if !contains_any(path, traces).map_err(StoreError::cannot_open(path))? {
        return Ok(false);
    }
    connection.busy_timeout(READERS_END)?;
    connection.execute_batch("VACUUM")?;
    empty_wal(connection)?;
    Ok(true)
}

fn empty_wal(connection: &Connection) -> Result<(), StoreError> {
    let until = Instant::now() + READERS_END;
    while !truncate_wal(connection)? {
        if Instant::now() > until {
            return Err(StoreError::Locked.with_holders(connection.path().map(Path::new)));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Whether the file contains one of the texts, ignoring the case of ASCII letters.
fn contains_any(path: &Path, texts: &[String]) -> std::io::Result<bool> {
    let texts: Vec<Vec<u8>> = texts.iter().map(|text| text.to_ascii_lowercase().into_bytes()).collect();
    let finders: Vec<Finder<'_>> = texts.iter().map(|text| Finder::new(text)).collect();
    let overlap = texts.iter().map(Vec::len).max().unwrap_or(0);
    let file = open_for_good(path)?;
    let mut buffer = vec![0; CHUNK + overlap];
    let mut at = 0;
    loop {
        let length = read_chunk(&file, &mut buffer, at)?;
        let chunk = buffer.get_mut(..length).unwrap_or_default();
        chunk.make_ascii_lowercase();
        if finders.iter().any(|finder| finder.find(chunk).is_some()) {
            return Ok(true);
        }
        if length < CHUNK + overlap {
            return Ok(false);
        }
        at += CHUNK as u64;
    }
}
