//! Removal of departed members: rows, facts, tags and renames.

use std::collections::BTreeSet;

use super::connection::{Connection, values};
use super::{Result, facts};
use crate::directory::members::{Record, fold, snapshot};
use crate::directory::{UnixSeconds, UserId};

/// The names of one departed member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    /// The last userid, and former ones that no other member has had since.
    pub(super) own: BTreeSet<UserId>,
    /// Former userids that another member has had since, with the time of the rename.
    pub(super) shared: Vec<(UserId, UnixSeconds)>,
}

impl Names {
    /// Follows the renames to `userid` back.
    pub(super) fn of(connection: &Connection, userid: &UserId) -> Result<Self> {
        let mut names = Self { own: BTreeSet::from([userid.clone()]), shared: Vec::new() };
        let mut to_visit = vec![userid.clone()];
        while let Some(name) = to_visit.pop() {
            let former = connection.rows(
                "SELECT old_userid, event_time FROM renames WHERE new_userid = ?1",
                values![name.as_str()],
                |row| Ok((row.userid(0)?, row.get(1)?)),
            )?;
            for (old, renamed_at) in former {
                let Some(old) = old.filter(|old| !names.own.contains(old)) else { continue };
                if has_another_holder(connection, &old, &name)? {
                    names.shared.push((old, renamed_at));
                } else {
                    names.own.insert(old.clone());
                    to_visit.push(old);
                }
            }
        }
        Ok(names)
    }
}

/// Whether another member than the one that was renamed to `new` has, or had, the name `old`.
fn has_another_holder(connection: &Connection, old: &UserId, new: &UserId) -> Result<bool> {
    connection.exists(
        "SELECT 1 FROM members WHERE userid = ?1
             UNION ALL SELECT 1 FROM renames WHERE old_userid = ?1 AND new_userid <> ?2",
        values![old.as_str(), new.as_str()],
    )
}

/// The time of the member's deletion; `None` if it is present or unknown.
pub(super) fn deleted_at(connection: &Connection, userid: &UserId) -> Result<Option<UnixSeconds>> {
    let row: Option<Option<i64>> = connection.row(
        "SELECT deleted_at FROM members WHERE userid = ?1",
        values![userid.as_str()],
        |row| row.get(0),
    )?;
    Ok(row.flatten().map(UnixSeconds))
}

/// Removes a departed member from all tables of the directory. Members that renames connect with it keep their state: their
/// facts become a snapshot.
pub(super) fn remove(connection: &Connection, userid: &UserId, names: &Names) -> Result<()> {
    let records = facts::group_facts(connection, userid)?;
    let others: Vec<Record> = if fold(&records).members.keys().any(|name| !names.own.contains(name)) {
        snapshot(&records).into_iter().filter(|record| !names.own.contains(record.userid())).collect()
    } else {
        Vec::new()
    };
    let replaced: BTreeSet<&UserId> = records.iter().map(Record::userid).chain(&names.own).collect();
    facts::replace(connection, &replaced, &others)?;
    for name in &replaced {
        connection.execute(
            "UPDATE renames SET is_tied = 0 WHERE old_userid = ?1 AND is_tied = 1",
            values![name.as_str()],
        )?;
    }
    for name in &names.own {
        for sql in [
            "DELETE FROM members WHERE userid = ?1",
            "DELETE FROM tag_members WHERE userid = ?1",
            "DELETE FROM renames WHERE old_userid = ?1",
            "DELETE FROM renames WHERE new_userid = ?1",
        ] {
            connection.execute(sql, values![name.as_str()])?;
        }
    }
    Ok(())
}

/// Removes the facts of a group of names without any row, if all of them are older than `before`: late facts about members
/// that were never known. False if a member, a tag or a newer fact needs them.
pub(super) fn remove_rowless(connection: &Connection, userid: &UserId, before: UnixSeconds) -> Result<bool> {
    let records = facts::group_facts(connection, userid)?;
    let group = fold(&records);
    let is_needed =
        group.members.values().any(|member| member.state.known || member.state.tags_now().next().is_some())
            || records.iter().any(|record| record.stamp.second >= before);
    if is_needed {
        return Ok(false);
    }
    let names: BTreeSet<&UserId> = records.iter().flat_map(Record::names).chain([userid]).collect();
    facts::replace(connection, &names, &[])?;
    for name in names {
        connection.execute(
            "DELETE FROM renames WHERE old_userid = ?1 OR new_userid = ?1",
            values![name.as_str()],
        )?;
    }
    Ok(true)
}
