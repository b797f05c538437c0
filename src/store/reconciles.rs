//! Comparisons with WeCom: the directory's side of the comparison, and the table `reconciles`.

use std::collections::{BTreeMap, BTreeSet};

use super::Result;
use super::connection::{Connection, Row, values};
use super::observations::Effect;
use crate::directory::comparison::{KnownDepartment, KnownMember};
use crate::directory::{DepartmentField, DepartmentId, Fields, TagId, UnixSeconds, UserId, Value};

/// The outcome of a comparison. The schema's CHECK has the same list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReconcileOutcome {
    /// The comparison has not ended yet.
    Running,
    /// Everything was compared, and all differences were merged.
    Ok,
    /// WeCom did not show everything; the differences in the rest were merged.
    Partial,
    /// More deletions than allowed: none was made; other differences were merged.
    Blocked,
    /// WeCom could not be reached, or its listing is unusable.
    Failed,
    /// The program ended during the comparison.
    Stopped,
}

impl ReconcileOutcome {
    /// All outcomes, in the order of the schema's CHECK.
    pub const ALL: [Self; 6] =
        [Self::Running, Self::Ok, Self::Partial, Self::Blocked, Self::Failed, Self::Stopped];

    /// The outcome's name in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Ok => "ok",
            Self::Partial => "partial",
            Self::Blocked => "blocked",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }

    /// Whether the comparison was not cut short.
    #[must_use]
    pub fn reached_end(self) -> bool {
        matches!(self, Self::Ok | Self::Partial | Self::Blocked)
    }
}

/// A row of `reconciles`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReconcileRecord {
    pub seq: i64,
    pub started_at: UnixSeconds,
    pub finished_at: Option<UnixSeconds>,
    pub reason: String,
    pub outcome: ReconcileOutcome,
    /// The number of members that WeCom listed.
    pub members_seen: i64,
    pub effect: Effect,
    pub note: String,
}

/// Records the begin of a comparison and returns its number. Earlier ones that are still running become stopped.
pub(crate) fn begin_reconcile(connection: &Connection, reason: &str, now: UnixSeconds) -> Result<i64> {
    connection.execute(
        "UPDATE reconciles SET outcome = 'stopped', finished_at = ?1, note = 'the program ended during the comparison'
         WHERE outcome = 'running'",
        values![now],
    )?;
    let seq: i64 = connection.one(
        "INSERT INTO reconciles (started_at, reason, outcome) VALUES (?1, ?2, 'running') RETURNING seq",
        values![now, reason],
        |row| row.get(0),
    )?;
    connection.execute("DELETE FROM reconciles WHERE seq <= ?1", values![seq - 1000])?;
    Ok(seq)
}

/// Records the end of a comparison.
pub(crate) fn finish_reconcile(
    connection: &Connection,
    seq: i64,
    (outcome, members_seen, effect): (ReconcileOutcome, usize, Effect),
    note: &str,
    now: UnixSeconds,
) -> Result<()> {
    let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    connection.execute(
        "UPDATE reconciles SET finished_at = ?2, outcome = ?3, members_seen = ?4, created = ?5, updated = ?6,
            deleted = ?7, note = ?8 WHERE seq = ?1",
        values![
            seq,
            now.0,
            outcome.as_str(),
            number(members_seen),
            number(effect.created),
            number(effect.updated),
            number(effect.deleted),
            note
        ],
    )?;
    Ok(())
}

/// The last comparison, and the last one for which [`ReconcileOutcome::reached_end`] holds.
pub(crate) fn last_reconciles(
    connection: &Connection,
) -> Result<(Option<ReconcileRecord>, Option<ReconcileRecord>)> {
    let read = |row: &Row<'_>| {
        let word: String = row.get(4)?;
        let outcome = ReconcileOutcome::ALL.into_iter().find(|outcome| outcome.as_str() == word);
        let count = |place| row.get::<i64>(place).map(|count| usize::try_from(count).unwrap_or(0));
        Ok(ReconcileRecord {
            seq: row.get(0)?,
            started_at: row.get(1)?,
            finished_at: row.get(2)?,
            reason: row.get(3)?,
            outcome: outcome.unwrap_or(ReconcileOutcome::Failed),
            members_seen: row.get(5)?,
            effect: Effect { created: count(6)?, updated: count(7)?, deleted: count(8)? },
            note: row.get(9)?,
        })
    };
    let last = connection.row(
        "SELECT seq, started_at, finished_at, reason, outcome, members_seen, created, updated, deleted, note
         FROM reconciles ORDER BY seq DESC LIMIT 1",
        &[],
        read,
    )?;
    let last_to_end = connection.row(
        "SELECT seq, started_at, finished_at, reason, outcome, members_seen, created, updated, deleted, note
         FROM reconciles WHERE outcome IN ('ok', 'partial', 'blocked') ORDER BY seq DESC LIMIT 1",
        &[],
        read,
    )?;
    Ok((last, last_to_end))
}

/// The first `limit` present members after `after`, in order of userid.
pub(crate) fn known_members(connection: &Connection, after: &str, limit: usize) -> Result<Vec<KnownMember>> {
    let mut known = Vec::with_capacity(limit.min(10_000));
    connection.for_each(
        "SELECT userid, event_time,
                (SELECT string_agg(department_id, ',') FROM member_departments AS md WHERE md.userid = m.userid)
         FROM members AS m WHERE userid > ?1 AND deleted_at IS NULL ORDER BY userid LIMIT ?2",
        values![after, limit],
        |row| {
            if let Some(userid) = row.userid(0)? {
                let list: Option<String> = row.get(2)?;
                let departments = list.iter().flat_map(|list| list.split(',')).filter_map(|id| id.parse().ok());
                let departments = departments.collect();
                known.push(KnownMember { userid, departments, event_time: row.get(1)? });
            }
            Ok(true)
        },
    )?;
    Ok(known)
}

pub(crate) fn count_members(connection: &Connection) -> Result<usize> {
    let count: i64 =
        connection.one("SELECT count(*) FROM members WHERE deleted_at IS NULL", &[], |row| row.get(0))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

pub(crate) fn known_departments(connection: &Connection) -> Result<BTreeMap<DepartmentId, KnownDepartment>> {
    let select =
        "SELECT id, name, parent_id, \"order\", event_time FROM departments WHERE deleted_at IS NULL";
    let departments = connection.rows(select, &[], |row| {
        let mut fields = Fields::new();
        if let Some(name) = row.get::<Option<String>>(1)? {
            fields.insert(DepartmentField::Name, Value::text(&name));
        }
        for (column, field) in [(2, DepartmentField::ParentId), (3, DepartmentField::Order)] {
            if let Some(number) = row.get(column)? {
                fields.insert(field, Value::Int(number));
            }
        }
        Ok((DepartmentId(row.get(0)?), KnownDepartment { fields, event_time: row.get(4)? }))
    })?;
    Ok(departments.into_iter().collect())
}

/// All present tags with their names and WeCom's time of their newest facts.
pub(crate) fn known_tags(connection: &Connection) -> Result<BTreeMap<TagId, (Option<String>, UnixSeconds)>> {
    let select = "SELECT id, name, event_time FROM tags WHERE deleted_at IS NULL";
    let tags = connection.rows(select, &[], |row| Ok((TagId(row.get(0)?), (row.get(1)?, row.get(2)?))))?;
    Ok(tags.into_iter().collect())
}

/// The members and departments in a tag, as sets.
pub(crate) fn known_tag_content(
    connection: &Connection,
    tag: TagId,
) -> Result<(BTreeSet<UserId>, BTreeSet<DepartmentId>)> {
    let (members, departments) = super::observations::tag_content(connection, tag)?;
    Ok((members.into_iter().collect(), departments.into_iter().collect()))
}

/// Makes up to `limit` failed members due again, and returns their number.
pub(crate) fn retry_failed(connection: &Connection, limit: usize, now: UnixSeconds) -> Result<usize> {
    connection.execute(
        "UPDATE members SET openid_state = 'pending', openid_attempts = 0, openid_next_attempt_at = ?1,
                openid_revision = openid_revision + 1
             WHERE userid IN (SELECT userid FROM members
                              WHERE openid_state = 'failed' AND deleted_at IS NULL LIMIT ?2)",
        values![now.0, i64::try_from(limit).unwrap_or(i64::MAX)],
    )
}
