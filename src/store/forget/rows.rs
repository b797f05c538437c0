//! Erasure in the rows of one table after another.

use serde_json::{Value as Json, json};

use super::screen::Forgotten;
use super::{Erased, Mentions, Redact, changes_about, events_about};
use crate::directory::UserId;
use crate::directory::clock::TOLERANCE;
use crate::store::Result;
use crate::store::connection::{Connection, values};
use crate::store::departed::Names;
use crate::store::state::{get_state, set_state};

/// Replaces the userid in notes.
const ERASED: &str = "(forgotten)";
const LEADER: &str = "direct_leader";

/// Erases the content of events about the person, and the userid in others; the newest CreateTime of them.
pub(super) fn erase_events(
    connection: &Connection,
    found: &Mentions,
    forgotten: &Forgotten,
    redact: Redact,
    erased: &mut Erased,
) -> Result<Option<i64>> {
    let names = &found.names;
    let mut seqs = found.events.clone();
    for name in names.all() {
        seqs.extend(events_about(connection, name, found.last_event)?);
    }
    let mut newest = None;
    for seq in seqs {
        let row = connection.row("SELECT received_at, create_time, event, change_type, subject, outcome, payload, digest FROM events
                 WHERE seq = ?1", values![seq], |row| {
                Ok(EventRow {
                    received_at: row.get(0)?,
                    create_time: row.get(1)?,
                    has_number: row.get::<String>(2)? == "batch_job_result"
                        || row.get::<String>(3)?.ends_with("_party")
                        || row.get::<String>(3)? == "update_tag",
                    subject: row.get(4)?,
                    outcome: row.get(5)?,
                    payload: row.get(6)?,
                    digest: row.get(7)?,
                })
            })?;
        let Some(row) = row else { continue };
        let means = |name: &str| names.mean(name, row.create_time);
        let left = redact(&row.payload, &means);
        if !row.has_number && means(&row.subject)
            // The text of an event that cannot be read may have the userid anywhere.
            || left == row.payload && row.outcome == "invalid" && mentions(&row.payload, &means)
        {
            let keyed = (row.outcome != "duplicate").then(|| forgotten.of_content(&row.payload, row.digest));
            connection.execute(
                "UPDATE events SET subject = '', payload = '', digest = ?2 WHERE seq = ?1",
                values![seq, keyed],
            )?;
            erased.events += 1;
        } else if left != row.payload {
            connection.execute("UPDATE events SET payload = ?2 WHERE seq = ?1", values![seq, left])?;
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
pub(super) fn erase_changes(connection: &Connection, found: &Mentions, erased: &mut Erased) -> Result<()> {
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
            let renamed: Option<i64> = connection.one(
                "SELECT max(seq) FROM changes WHERE key = ?1 AND action = 'renamed'
                        AND lower(json_extract(fields, '$.userid[0]')) = lower(?2)",
                values![own.as_str(), name.as_str()],
                |row| row.get(0),
            )?;
            until = until.max(renamed.unwrap_or(0));
        }
        shared_until.push((name, until));
    }
    for seq in seqs {
        let row: Option<(String, String, String)> = connection.row(
            "SELECT entity, key, fields FROM changes WHERE seq = ?1",
            values![seq],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        let Some((entity, key, text)) = row else { continue };
        let means = |name: &str| {
            UserId::parse(name).is_ok_and(|name| {
                names.own.contains(&name)
                    || shared_until.iter().any(|(shared, until)| **shared == name && seq <= *until)
            })
        };
        if entity == "member" && means(&key) {
            connection.execute("UPDATE changes SET entity = 'tag', key = '0', action = 'updated', fields = '{}' WHERE seq = ?1", values![seq])?;
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
                    without_leader(value, means, &json!(""));
                }
            }
        }
        if fields != before {
            connection
                .execute("UPDATE changes SET fields = ?2 WHERE seq = ?1", values![seq, fields.to_string()])?;
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
pub(super) fn erase_leader_in_fact(
    connection: &Connection,
    names: &Names,
    (userid, second, rank, n): (&str, i64, i64, i64),
) -> Result<usize> {
    if names.mean(userid, None) {
        return Ok(0);
    }
    let fact: Option<String> = connection.row(
        "SELECT fact FROM member_facts WHERE userid = ?1 AND second = ?2 AND rank = ?3 AND n = ?4",
        values![userid, second, rank, n],
        |row| row.get(0),
    )?;
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
    connection.execute(
        "UPDATE member_facts SET fact = ?5 WHERE userid = ?1 AND second = ?2 AND rank = ?3 AND n = ?4",
        values![userid, second, rank, n, fact.to_string()],
    )
}

pub(super) fn erase_leader(connection: &Connection, names: &Names, userid: &str) -> Result<()> {
    let leaders: Option<Option<String>> =
        connection
            .row("SELECT direct_leader FROM members WHERE userid = ?1", values![userid], |row| row.get(0))?;
    let Some(leaders) = leaders.flatten() else { return Ok(()) };
    let mut left = json!(leaders);
    without_leader(&mut left, |name| names.mean(name, None), &json!(""));
    connection
        .execute("UPDATE members SET direct_leader = ?2 WHERE userid = ?1", values![userid, left.as_str()])?;
    Ok(())
}

/// Replaces the person's names in notes of comparisons, in the reason of the next one, and deletes refusals that have them.
pub(super) fn erase_notes(connection: &Connection, names: &Names) -> Result<usize> {
    let means = |name: &str| names.own.iter().any(|own| own.as_str().eq_ignore_ascii_case(name));
    let mut changed = 0;
    let notes: Vec<(i64, String, String)> =
        connection.rows("SELECT seq, reason, note FROM reconciles", &[], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    for (seq, reason, note) in notes {
        let (new_reason, new_note) = (without_words(&reason, means), without_words(&note, means));
        if (&new_reason, &new_note) != (&reason, &note) {
            let sql = "UPDATE reconciles SET reason = ?2, note = ?3 WHERE seq = ?1";
            changed += connection.execute(sql, values![seq, new_reason, new_note])?;
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
    let refusals: Vec<(String, String, String)> =
        connection.rows("SELECT cause, path, last_client FROM refusals", &[], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    for (cause, path, client) in refusals {
        if mentions(&path, &means) || mentions(&client, &means) {
            changed += connection
                .execute("DELETE FROM refusals WHERE cause = ?1 AND path = ?2", values![&cause, &path])?;
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
