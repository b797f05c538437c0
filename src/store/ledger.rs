//! The ledger: the last numbers of events and changes, in one row.
//!
//! A transaction reads the row when it first needs a number, gives out numbers in memory, and writes the row before the
//! commit. Numbers are never given again: pruning leaves the row, and a rollback gives out none.

use super::Result;
use super::connection::{Connection, values};

/// The content of the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ledger {
    /// The number of the last event.
    pub(crate) last_event: i64,
    /// The number of the last line of the change feed.
    pub(crate) last_change: i64,
}

pub(super) fn read(connection: &Connection) -> Result<Ledger> {
    connection.one("SELECT last_event, last_change FROM ledger", &[], |row| {
        Ok(Ledger { last_event: row.get(0)?, last_change: row.get(1)? })
    })
}

pub(super) fn write(connection: &Connection, ledger: Ledger) -> Result<()> {
    connection
        .execute(
            "UPDATE ledger SET last_event = ?1, last_change = ?2",
            values![ledger.last_event, ledger.last_change],
        )
        .map(|_| ())
}

/// Gives out the number of an event.
pub(super) fn take_event(connection: &Connection) -> Result<i64> {
    take(connection, |ledger| &mut ledger.last_event)
}

/// Gives out the number of a line of the change feed.
pub(super) fn take_change(connection: &Connection) -> Result<i64> {
    take(connection, |ledger| &mut ledger.last_change)
}

fn take(connection: &Connection, last: fn(&mut Ledger) -> &mut i64) -> Result<i64> {
    let mut ledger = connection.ledger()?;
    *last(&mut ledger) += 1;
    connection.keep_ledger(ledger)?;
    Ok(*last(&mut ledger))
}

/// The number that the next event will get; while an event is applied, its own.
pub(super) fn next_event(connection: &Connection) -> Result<i64> {
    Ok(connection.ledger()?.last_event + 1)
}
