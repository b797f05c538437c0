//! The tables of facts: reading, writing, compaction.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::Result;
use super::connection::{Connection, Row, values};
use crate::directory::clock::Moment;
use crate::directory::entity::FEW;
use crate::directory::fact::{CompleteListing, Fact, FactRecord};
use crate::directory::members::{self, MemberFact, Record};
use crate::directory::numbered::{self, Numbered};
use crate::directory::{DepartmentField, Field, Stamp, TagField, TagId, UnixSeconds, UserId};

/// All facts of `userid` and of the names that renames connect with it.
pub(super) fn group_facts(connection: &Connection, userid: &UserId) -> Result<Vec<Record>> {
    facts_of(connection, tied_names(connection, userid)?)
}

/// All facts of the fact's group; a rename joins the groups of both names.
pub(super) fn facts_tied_by(
    connection: &Connection,
    userid: &UserId,
    fact: &MemberFact,
) -> Result<Vec<Record>> {
    let mut names = tied_names(connection, userid)?;
    if let MemberFact::Renamed(to, _) = fact
        && !names.contains(to)
    {
        names.extend(tied_names(connection, to)?);
    }
    facts_of(connection, names)
}

fn facts_of(connection: &Connection, names: BTreeSet<UserId>) -> Result<Vec<Record>> {
    let mut facts = Vec::new();
    for name in names {
        let select = "SELECT userid, second, rank, arrival, fact FROM member_facts WHERE userid = ?1";
        connection.for_each(select, values![name.as_str()], |row| {
            let spelled = row.text(0)?;
            let read = read_fact(row, 1, MemberFact::from_json)?;
            match (UserId::parse(&spelled), read) {
                (Ok(userid), Some((stamp, arrival, fact))) => {
                    facts.push(Record { stamp, arrival, fact: (userid, fact) });
                }
                _ => {
                    log::error!("database: a row of member_facts is unreadable and skipped userid={spelled}")
                }
            }
            Ok(true)
        })?;
    }
    without_void_tags(connection, facts, |(_, fact)| match fact {
        MemberFact::Entity(Fact::Tagged(tag, _)) => Some(*tag),
        _ => None,
    })
}

/// Reads the columns second, rank, arrival and fact, of which `first` is the first; `None` if they are unreadable.
fn read_fact<T>(
    row: &Row<'_>,
    first: usize,
    read: impl Fn(Stamp, &Json) -> Option<T>,
) -> Result<Option<(Stamp, i64, T)>> {
    let (second, rank, arrival) = (row.get(first)?, row.get(first + 1)?, row.get(first + 2)?);
    let text = row.text(first + 3)?;
    let fact = || {
        let stamp = Stamp::from_columns(second, rank)?;
        Some((stamp, arrival, read(stamp, &serde_json::from_str(&text).ok()?)?))
    };
    Ok(fact())
}

/// `userid` and the names that renames connect with it.
pub(super) fn tied_names(connection: &Connection, userid: &UserId) -> Result<BTreeSet<UserId>> {
    // UNION ALL: SQLite recompiles a statement with UNION for each use.
    closure(
        connection,
        userid,
        "SELECT new_userid FROM renames WHERE old_userid = ?1 AND is_tied = 1
         UNION ALL SELECT old_userid FROM renames WHERE new_userid = ?1 AND is_tied = 1",
    )
}

/// `userid` and all names that the member may have had, also before a compaction.
pub(super) fn all_names(connection: &Connection, userid: &UserId) -> Result<BTreeSet<UserId>> {
    closure(
        connection,
        userid,
        "SELECT new_userid FROM renames WHERE old_userid = ?1
         UNION ALL SELECT old_userid FROM renames WHERE new_userid = ?1",
    )
}

fn closure(connection: &Connection, userid: &UserId, sql: &'static str) -> Result<BTreeSet<UserId>> {
    let mut names = BTreeSet::from([userid.clone()]);
    let mut to_visit = vec![userid.clone()];
    while let Some(name) = to_visit.pop() {
        connection.for_each(sql, values![name.as_str()], |row| {
            if let Some(other) = row.userid(0)?
                && names.insert(other.clone())
            {
                to_visit.push(other);
            }
            Ok(true)
        })?;
    }
    Ok(names)
}

/// Stores a fact; compacts the group if it has many facts.
pub(super) fn remember(connection: &Connection, known: &[Record], record: &Record) -> Result<()> {
    if let MemberFact::Renamed(to, _) = record.member_fact() {
        connection.execute(
            "INSERT INTO renames (old_userid, new_userid, event_time) VALUES (?1, ?2, ?3)
                 ON CONFLICT (old_userid, new_userid) DO UPDATE SET is_tied = 1,
                    event_time = CASE WHEN renames.event_time > excluded.event_time THEN renames.event_time
                                      ELSE excluded.event_time END",
            values![record.userid().as_str(), to.as_str(), record.stamp.second.0],
        )?;
    }
    insert(connection, record)?;
    if known.len() < FEW {
        return Ok(());
    }
    let all = || known.iter().chain([record]);
    if let Some(compacted) = members::compact(all()) {
        let names: BTreeSet<&UserId> = all().map(Record::userid).collect();
        replace(connection, &names, &compacted.records)?;
        if !compacted.keeps_ties {
            untie(connection, &names, compacted.up_to)?;
        }
    }
    Ok(())
}

/// Disconnects names whose renames a snapshot covers.
fn untie(connection: &Connection, names: &BTreeSet<&UserId>, up_to: UnixSeconds) -> Result<()> {
    for name in names {
        connection.execute(
            "UPDATE renames SET is_tied = 0 WHERE old_userid = ?1 AND is_tied = 1 AND event_time <= ?2",
            values![name.as_str(), up_to],
        )?;
    }
    Ok(())
}

/// Replaces all facts of these names.
pub(super) fn replace(connection: &Connection, names: &BTreeSet<&UserId>, records: &[Record]) -> Result<()> {
    for name in names {
        connection.execute("DELETE FROM member_facts WHERE userid = ?1", values![name.as_str()])?;
    }
    records.iter().try_for_each(|record| insert(connection, record))
}

fn insert(connection: &Connection, record: &Record) -> Result<()> {
    connection.execute(
        "INSERT INTO member_facts (userid, second, rank, n, arrival, fact)
             VALUES (?1, ?2, ?3, (SELECT coalesce(max(n) + 1, 0) FROM member_facts
                                  WHERE userid = ?1 AND second = ?2 AND rank = ?3), ?4, ?5)",
        values![
            record.userid().as_str(),
            record.stamp.second.0,
            record.stamp.rank_number(),
            record.arrival,
            record.member_fact().to_json(record.stamp).to_string()
        ],
    )?;
    Ok(())
}

/// The statements for the facts of departments or tags.
pub(super) trait FactTable: Numbered {
    const SELECT: &'static str;
    /// Parameters: id, second, rank, arrival and fact.
    const INSERT: &'static str;
    const DELETE: &'static str;
}

macro_rules! fact_table {
    ($field:ty, $table:literal) => {
        impl FactTable for $field {
            const SELECT: &'static str =
                concat!("SELECT second, rank, arrival, fact FROM ", $table, " WHERE id = ?1");
            const INSERT: &'static str = concat!(
                "INSERT INTO ",
                $table,
                " (id, second, rank, n, arrival, fact)
                 VALUES (?1, ?2, ?3, (SELECT coalesce(max(n) + 1, 0) FROM ",
                $table,
                " WHERE id = ?1 AND second = ?2 AND rank = ?3), ?4, ?5)"
            );
            const DELETE: &'static str = concat!("DELETE FROM ", $table, " WHERE id = ?1");
        }
    };
}

fact_table!(DepartmentField, "department_facts");
fact_table!(TagField, "tag_facts");

/// All facts of a department or tag.
pub(super) fn numbered_facts<F: FactTable>(
    connection: &Connection,
    id: u32,
) -> Result<Vec<numbered::Record<F>>> {
    let mut facts = Vec::new();
    connection.for_each(F::SELECT, values![id], |row| {
        match read_fact(row, 0, Fact::from_json)? {
            Some((stamp, arrival, fact)) => facts.push(FactRecord { stamp, arrival, fact }),
            None => log::error!("database: a fact of {} {id} is unreadable and skipped", F::ENTITY.as_str()),
        }
        Ok(true)
    })?;
    without_void_tags(connection, facts, |fact| match fact {
        Fact::Tagged(tag, _) => Some(*tag),
        _ => None,
    })
}

/// Stores a fact of a department or tag; compacts its facts if there are many.
pub(super) fn remember_numbered<F: FactTable>(
    connection: &Connection,
    id: u32,
    known: &[numbered::Record<F>],
    record: &numbered::Record<F>,
) -> Result<()> {
    insert_numbered(connection, id, record)?;
    if known.len() < FEW {
        return Ok(());
    }
    match numbered::compact(known.iter().chain([record])) {
        Some(compacted) => replace_numbered(connection, id, &compacted),
        None => Ok(()),
    }
}

/// Replaces all facts of a department or tag.
pub(super) fn replace_numbered<F: FactTable>(
    connection: &Connection,
    id: u32,
    records: &[numbered::Record<F>],
) -> Result<()> {
    connection.execute(F::DELETE, values![id])?;
    records.iter().try_for_each(|record| insert_numbered(connection, id, record))
}

fn insert_numbered<F: Field + FactTable>(
    connection: &Connection,
    id: u32,
    record: &numbered::Record<F>,
) -> Result<()> {
    connection.execute(
        F::INSERT,
        values![
            id,
            record.stamp.second.0,
            record.stamp.rank_number(),
            record.arrival,
            record.fact.to_json(record.stamp).to_string()
        ],
    )?;
    Ok(())
}

/// The last complete listing of this kind, if it is newer than a fact of `second`. An implausibly late one is ignored: a
/// wrong clock dated it.
pub(super) fn later_listing(
    connection: &Connection,
    kind: &str,
    second: UnixSeconds,
    moment: Moment,
) -> Result<Option<CompleteListing>> {
    let last =
        connection.row("SELECT second, arrival FROM listings WHERE kind = ?1", values![kind], |row| {
            Ok(CompleteListing { second: UnixSeconds(row.get(0)?), arrival: row.get(1)? })
        })?;
    let is_plausible =
        |listing: &CompleteListing| moment.latest.is_none_or(|latest| listing.second <= latest);
    Ok(last.filter(|listing| second < listing.second && is_plausible(listing)))
}

/// Removes facts about tags that began a new existence later, because the tag's former content is void.
pub(super) fn without_void_tags<T>(
    connection: &Connection,
    mut facts: Vec<FactRecord<T>>,
    tag_of: impl Fn(&T) -> Option<TagId>,
) -> Result<Vec<FactRecord<T>>> {
    let tags: BTreeSet<TagId> = facts.iter().filter_map(|record| tag_of(&record.fact)).collect();
    for tag in tags {
        let starts_at: Option<i64> = connection.row(
            "SELECT coalesce(deleted_at, starts_at) FROM tags WHERE id = ?1",
            values![tag.0],
            |row| row.get(0),
        )?;
        if let Some(starts_at) = starts_at {
            facts.retain(|record| tag_of(&record.fact) != Some(tag) || record.stamp.second.0 >= starts_at);
        }
    }
    Ok(facts)
}
