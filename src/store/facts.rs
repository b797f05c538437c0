//! The memory of the merge: reading and writing facts.

use std::collections::BTreeSet;

use rusqlite::{Connection, params};

use crate::directory::history::{self, Fact, Word};
use crate::directory::life::{FEW, Saying};
use crate::directory::{DepartmentId, Stamp, UserId, department};

/// All facts of the names that renames tie to `userid`, itself among them.
pub(super) fn group_facts(connection: &Connection, userid: &UserId) -> rusqlite::Result<Vec<Fact>> {
    let mut of_name = connection
        .prepare_cached("SELECT userid, stamp, arrival, word FROM member_facts WHERE userid = ?1")?;
    let mut facts = Vec::new();
    for name in tied_names(connection, userid)? {
        let mut rows = of_name.query([name.as_str()])?;
        while let Some(row) = rows.next()? {
            let (userid, stamp, arrival): (String, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            facts.extend(read_fact(&userid, stamp, arrival, row.get_ref(3)?.as_str()?));
        }
    }
    Ok(facts)
}

/// The names that renames tie to `userid`, itself among them.
pub(super) fn tied_names(connection: &Connection, userid: &UserId) -> rusqlite::Result<BTreeSet<UserId>> {
    let mut names = BTreeSet::from([userid.clone()]);
    let mut to_visit = vec![userid.clone()];
    // UNION ALL: with UNION, SQLite compiles the statement anew for each use.
    let mut tied = connection.prepare_cached(
        "SELECT new_userid FROM renames WHERE old_userid = ?1
         UNION ALL SELECT old_userid FROM renames WHERE new_userid = ?1",
    )?;
    while let Some(name) = to_visit.pop() {
        let mut rows = tied.query([name.as_str()])?;
        while let Some(row) = rows.next()? {
            if let Ok(other) = UserId::parse(row.get_ref(0)?.as_str()?)
                && names.insert(other.clone())
            {
                to_visit.push(other);
            }
        }
    }
    Ok(names)
}

fn read_fact(userid: &str, stamp: i64, arrival: i64, word: &str) -> Option<Fact> {
    let stamp = Stamp::from_raw(stamp);
    let read = || -> Option<Fact> {
        let word = Fact::word_from_json(stamp, &serde_json::from_str(word).ok()?)?;
        Some(Fact { userid: UserId::parse(userid).ok()?, stamp, arrival, word })
    };
    let fact = read();
    if fact.is_none() {
        log::error!("database: a row of member_facts cannot be read userid={userid}; it is passed over");
    }
    fact
}

/// Remembers a fact; tells the member's facts shorter when they have become many.
pub(super) fn remember(connection: &Connection, known: &[Fact], fact: &Fact) -> rusqlite::Result<()> {
    if let Word::Renamed(to, _) = &fact.word {
        connection
            .prepare_cached(
                "INSERT OR IGNORE INTO renames (old_userid, new_userid, event_time) VALUES (?1, ?2, ?3)",
            )?
            .execute(params![fact.userid.as_str(), to.as_str(), fact.stamp.seconds().0])?;
    }
    insert(connection, fact)?;
    if known.len() < FEW {
        return Ok(());
    }
    let mut all = known.to_vec();
    all.push(fact.clone());
    if let Some(shorter) = history::shortened(&all) {
        replace(connection, &all, &shorter)?;
    }
    Ok(())
}

/// Replaces all facts of the names that these facts are about.
pub(super) fn replace(connection: &Connection, known: &[Fact], facts: &[Fact]) -> rusqlite::Result<()> {
    let names: BTreeSet<&UserId> = known.iter().map(|fact| &fact.userid).collect();
    for name in names {
        connection.prepare_cached("DELETE FROM member_facts WHERE userid = ?1")?.execute([name.as_str()])?;
    }
    for fact in facts {
        insert(connection, fact)?;
    }
    Ok(())
}

fn insert(connection: &Connection, fact: &Fact) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO member_facts (userid, stamp, arrival, word) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            fact.userid.as_str(),
            fact.stamp.to_raw(),
            fact.arrival,
            fact.word_to_json().to_string()
        ])?;
    Ok(())
}

/// All facts of a department.
pub(super) fn department_facts(
    connection: &Connection,
    id: DepartmentId,
) -> rusqlite::Result<Vec<department::Fact>> {
    let mut statement =
        connection.prepare_cached("SELECT stamp, arrival, saying FROM department_facts WHERE id = ?1")?;
    let mut rows = statement.query([id.0])?;
    let mut facts = Vec::new();
    while let Some(row) = rows.next()? {
        let stamp = Stamp::from_raw(row.get(0)?);
        let json = serde_json::from_str(row.get_ref(2)?.as_str()?).ok();
        match json.and_then(|json| Saying::from_json(stamp, &json)) {
            Some(saying) => facts.push(department::Fact { stamp, arrival: row.get(1)?, saying }),
            None => {
                log::error!("database: a row of department_facts cannot be read id={id}; it is passed over")
            }
        }
    }
    Ok(facts)
}

/// Remembers a fact of a department; tells its facts shorter when they have become many.
pub(super) fn remember_department(
    connection: &Connection,
    id: DepartmentId,
    known: &[department::Fact],
    fact: &department::Fact,
) -> rusqlite::Result<()> {
    insert_department(connection, id, fact)?;
    if known.len() < FEW {
        return Ok(());
    }
    let mut all = known.to_vec();
    all.push(fact.clone());
    match department::shortened(&all) {
        Some(shorter) => replace_department(connection, id, &shorter),
        None => Ok(()),
    }
}

/// Replaces all facts of a department.
pub(super) fn replace_department(
    connection: &Connection,
    id: DepartmentId,
    facts: &[department::Fact],
) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM department_facts WHERE id = ?1")?.execute([id.0])?;
    facts.iter().try_for_each(|fact| insert_department(connection, id, fact))
}

fn insert_department(
    connection: &Connection,
    id: DepartmentId,
    fact: &department::Fact,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO department_facts (id, stamp, arrival, saying) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![id.0, fact.stamp.to_raw(), fact.arrival, fact.saying_to_json().to_string()])?;
    Ok(())
}
