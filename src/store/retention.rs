//! Deletion by age, in pieces that take milliseconds, and the return of free pages to the file system.
//!
//! A piece is one job of the writer; [`crate::daemon`] decides when the next one runs. What is deleted must not take effect
//! when it is replayed: facts and snapshots recognise most replays, and [`PRUNED`] keeps the limits for the others.

use super::Result;
use super::connection::{Connection, FilePages, values};
use super::departed::{self, Names, remove_rowless};
use super::state::{DatedSize, PRUNED, Pruned, SIZES};
use crate::directory::clock::TOLERANCE;
use crate::directory::entity::is_below_snapshot;
use crate::directory::fact::{FactRecord, Source};
use crate::directory::{Stamp, UnixSeconds, UserId};

/// Rows of a table that one piece reads.
const ROWS: i64 = 100;
/// Departed members that one piece removes.
const MEMBERS: i64 = 10;
/// Pages that one piece returns to the file system.
const PAGES: i64 = 32;
/// Free pages that are kept for new rows at least; 1 MiB.
const SPARE_PAGES: i64 = 256;
/// The part of the file that may be free.
const SPARE_PART: i64 = 8;
/// Sizes that are kept, one a day.
const SIZES_KEPT: usize = 31;
const DAY: i64 = 86_400;

/// What is older is deleted; a row of exactly this time is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// For `events`, `api_calls` and `refusals`, on this machine's clock.
    pub events: UnixSeconds,
    /// For `changes`, on this machine's clock.
    pub changes: UnixSeconds,
    /// For departed members, on WeCom's clock.
    pub deleted_members: UnixSeconds,
}

/// Deletes a piece of `events`, after number `after`. Returns the number after which the next piece begins; `None` at the end.
/// The newest row stays, because it shows when the last event came, and so do rows with a CreateTime ahead of their receipt:
/// a replay would be dated anew, so only the row recognises it.
pub(crate) fn prune_events(connection: &Connection, before: UnixSeconds, after: i64) -> Result<Option<i64>> {
    let (last, newest): (Option<i64>, Option<i64>) = connection.one(
        "SELECT max(seq), max(received_at) FROM
                (SELECT seq, received_at FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2)",
        values![after, ROWS],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let (Some(last), Some(newest)) = (last, newest) else { return Ok(None) };
    let deleted = connection.execute("DELETE FROM events WHERE seq > ?1 AND seq <= ?2 AND received_at < ?3
                AND coalesce(create_time, received_at) <= received_at + ?4 AND seq < (SELECT max(seq) FROM events)", values![after, last, before.0, TOLERANCE])?;
    if deleted > 0 {
        let events_before = before.plus(TOLERANCE).0;
        note_pruned(connection, Pruned { events_before, ..Pruned::default() })?;
    }
    Ok((newest < before.0).then_some(last))
}

/// Deletes a piece of `changes`, the lowest numbers first and without a gap; false at the end. The newest row stays, because
/// it shows consumers which numbers are gone.
pub(crate) fn prune_changes(connection: &Connection, before: UnixSeconds) -> Result<bool> {
    let deleted = connection.execute("WITH oldest AS (SELECT seq, at FROM changes ORDER BY seq LIMIT ?2)
             DELETE FROM changes WHERE seq <= (SELECT max(seq) FROM oldest)
                AND seq < coalesce((SELECT min(seq) FROM oldest WHERE at >= ?1), (SELECT max(seq) FROM oldest) + 1)
                AND seq < (SELECT max(seq) FROM changes)", values![before.0, ROWS])?;
    Ok(deleted > 0)
}

/// Deletes a piece of `api_calls`, and all old rows of `refusals`, which are few; false at the end.
pub(crate) fn prune_calls(connection: &Connection, before: UnixSeconds) -> Result<bool> {
    connection.execute("DELETE FROM refusals WHERE last_at < ?1", values![before.0])?;
    let deleted = connection.execute(
        "DELETE FROM api_calls WHERE id IN (SELECT id FROM api_calls ORDER BY id LIMIT ?2) AND at < ?1",
        values![before.0, ROWS],
    )?;
    Ok(deleted > 0)
}

/// Departed members to remove, for [`remove_departed`]; at most one piece, in order of their deletion.
pub(crate) fn departed_before(connection: &Connection, before: UnixSeconds) -> Result<Vec<UserId>> {
    let names = connection.rows(
        "SELECT userid FROM members WHERE deleted_at < ?1 ORDER BY deleted_at LIMIT ?2",
        values![before, MEMBERS],
        |row| row.userid(0),
    )?;
    Ok(names.into_iter().flatten().collect())
}

/// Removes departed members with their facts, tags and renames, unless they have returned meanwhile.
pub(crate) fn remove_departed(
    connection: &Connection,
    members: &[UserId],
    before: UnixSeconds,
) -> Result<()> {
    for userid in members {
        if departed::deleted_at(connection, userid)?.is_some_and(|at| at < before) {
            departed::remove(connection, userid, &Names::of(connection, userid)?)?;
            note_pruned(connection, Pruned { members_before: before.0, ..Pruned::default() })?;
        }
    }
    Ok(())
}

/// Names after `after` that have facts, all of them old, but no row, for [`remove_old_facts`]; at most one piece. Reads all
/// facts: for a connection that only reads.
pub(crate) fn rowless_before(
    connection: &Connection,
    before: UnixSeconds,
    after: &str,
) -> Result<Vec<UserId>> {
    let names = connection.rows(
        "SELECT userid FROM member_facts AS f WHERE userid > ?2
            AND NOT EXISTS (SELECT 1 FROM members WHERE members.userid = f.userid)
         GROUP BY userid HAVING max(second) < ?1 ORDER BY userid LIMIT ?3",
        values![before, after, MEMBERS],
        |row| row.userid(0),
    )?;
    Ok(names.into_iter().flatten().collect())
}

/// Removes the facts of names without a row, unless something needs them.
pub(crate) fn remove_old_facts(connection: &Connection, names: &[UserId], before: UnixSeconds) -> Result<()> {
    for name in names {
        if remove_rowless(connection, name, before)? {
            note_pruned(connection, Pruned { members_before: before.0, ..Pruned::default() })?;
        }
    }
    Ok(())
}

/// Returns a piece of the free pages to the file system if many are free; false if not.
pub(crate) fn shrink(connection: &Connection) -> Result<bool> {
    let FilePages { free, total, shrinks, .. } = connection.file_pages()?;
    // An older file has to be rewritten by VACUUM once.
    if free <= SPARE_PAGES || free * SPARE_PART <= total || !shrinks {
        return Ok(false);
    }
    connection.release_pages(PAGES)?;
    Ok(true)
}

/// The bytes of the database's file, and the bytes in it that are free.
pub(crate) fn size(connection: &Connection) -> Result<(i64, i64)> {
    let FilePages { free, total, size, .. } = connection.file_pages()?;
    Ok((total * size, free * size))
}

/// Records the size, if the last record is a day old.
pub(crate) fn record_size(connection: &Connection, now: UnixSeconds) -> Result<()> {
    let mut sizes = SIZES.get(connection)?.map_or_else(Vec::new, |(_, sizes)| sizes);
    if sizes.last().is_some_and(|last| (0..DAY).contains(&(now.0 - last.at))) {
        return Ok(());
    }
    sizes.push(DatedSize { at: now.0, bytes: size(connection)?.0 });
    let surplus = sizes.len().saturating_sub(SIZES_KEPT);
    sizes.drain(..surplus);
    SIZES.set(connection, now, &sizes)
}

/// The growth since the oldest recorded size: seconds, and bytes, which may be negative. `None` before the second day.
pub(crate) fn growth(connection: &Connection, now: UnixSeconds) -> Result<Option<(i64, i64)>> {
    let sizes = SIZES.get(connection)?.map_or_else(Vec::new, |(_, sizes)| sizes);
    let Some(first) = sizes.first().filter(|first| now.0 - first.at >= DAY) else { return Ok(None) };
    Ok(Some((now.0 - first.at, size(connection)?.0 - first.bytes)))
}

fn note_pruned(connection: &Connection, pruned: Pruned) -> Result<()> {
    let known = PRUNED.get(connection)?.map(|(_, known)| known).unwrap_or_default();
    let both = Pruned {
        events_before: known.events_before.max(pruned.events_before),
        members_before: known.members_before.max(pruned.members_before),
    };
    if both == known { Ok(()) } else { PRUNED.set(connection, UnixSeconds(both.events_before), &both) }
}

/// Whether the row of an event of `at` may be deleted, so that a replay is not recognised by it.
pub(super) fn is_event_pruned(connection: &Connection, at: UnixSeconds) -> Result<bool> {
    Ok(PRUNED.get(connection)?.is_some_and(|(_, pruned)| at.0 < pruned.events_before))
}

/// Whether an event's fact may be a replay that its row no longer shows and that the facts cannot recognise, because a
/// snapshot has replaced the first one. It has no effect: a snapshot has forgotten former holders of the name, so the replay
/// could fold to another state.
pub(super) fn is_replay_of_pruned<T>(
    connection: &Connection,
    known: &[FactRecord<T>],
    source: Source,
    stamp: Stamp,
) -> Result<bool> {
    let Source::Event(at) = source else { return Ok(false) };
    Ok(is_below_snapshot(known, stamp) && is_event_pruned(connection, at)?)
}

/// Whether an event's fact is older than what was removed with departed members, and no fact as old is left about its names:
/// it would revive a removed member.
pub(super) fn is_before_removed<T>(
    connection: &Connection,
    known: &[FactRecord<T>],
    source: Source,
) -> Result<bool> {
    let Source::Event(at) = source else { return Ok(false) };
    // A fact as old is left; the limit need not be read.
    if known.iter().any(|record| record.stamp.second <= at) {
        return Ok(false);
    }
    let Some((_, pruned)) = PRUNED.get(connection)? else { return Ok(false) };
    let before = UnixSeconds(pruned.members_before);
    Ok(at < before && known.iter().all(|record| record.stamp.second >= before))
}
