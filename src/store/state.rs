//! The table `daemon_state`: values that survive restarts and that commands read.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::Result;
use super::connection::{Connection, values};
use crate::directory::UnixSeconds;

/// A row of `daemon_state` whose value is the JSON of `T`.
pub(crate) struct Entry<T> {
    name: &'static str,
    value: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> Entry<T> {
    const fn new(name: &'static str) -> Self {
        Self { name, value: PhantomData }
    }

    /// The value and the time of its write; `None` also if another version wrote it in another form.
    pub(crate) fn get(&self, connection: &Connection) -> Result<Option<(UnixSeconds, T)>> {
        let row = get_state(connection, self.name)?;
        Ok(row.and_then(|(at, json)| Some((at, serde_json::from_value(json).ok()?))))
    }

    /// Inserts or replaces the row of this name.
    pub(crate) fn set(&self, connection: &Connection, at: UnixSeconds, value: &T) -> Result<()> {
        let json = serde_json::to_value(value);
        let json = json.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        set_state(connection, self.name, at, Some(&json))
    }

    /// Deletes the row, if there is one.
    pub(crate) fn remove(&self, connection: &Connection) -> Result<()> {
        set_state(connection, self.name, UnixSeconds::default(), None)
    }
}

/// The running daemon; the row's time is its start. A killed daemon leaves the row.
pub(crate) const DAEMON: Entry<RunningDaemon> = Entry::new("daemon");
/// The row's time is the last orderly stop.
pub(crate) const STOPPED: Entry<bool> = Entry::new("stopped");
/// The pauses of API calls that are in force.
pub(crate) const PAUSES: Entry<Vec<PauseState>> = Entry::new("pauses");
/// The last estimate of WeCom's clock.
pub(crate) const CLOCK: Entry<ClockState> = Entry::new("clock");
/// The progress of the comparison under way.
pub(crate) const RECONCILE_PROGRESS: Entry<ReconcileProgress> = Entry::new("reconcile_progress");
/// Present while the app may not call user/get for any member.
pub(crate) const DETAILS_DENIED: Entry<bool> = Entry::new("details_denied");
/// The result of the last daily sample.
pub(crate) const DRIFT: Entry<Drift> = Entry::new("drift");
/// A random number, written by each health check.
pub(crate) const PROBE: Entry<u64> = Entry::new("probe");

/// Which notices were announced, and those that are not delivered yet; [`crate::daemon`] knows the form.
pub(crate) const NOTICES: Entry<Json> = Entry::new("notices");

const COMPARISON_DUE: Entry<ComparisonDue> = Entry::new("comparison_due");

/// How a command reaches the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunningDaemon {
    pub(crate) pid: u32,
    pub(crate) version: String,
    /// Absolute path of the control socket; `None` if it could not be created.
    pub(crate) control: Option<String>,
    /// Address of the callback listener; `None` during the start.
    pub(crate) callbacks: Option<SocketAddr>,
    /// Address of the admin listener; `None` if it is off, and during the start.
    pub(crate) admin: Option<SocketAddr>,
}

/// A pause of API calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PauseState {
    pub(crate) what: String,
    pub(crate) reason: String,
    pub(crate) errcode: Option<i64>,
    pub(crate) errmsg: String,
    pub(crate) since: i64,
    /// Unix time of the next attempt.
    pub(crate) until: i64,
    pub(crate) advice: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClockState {
    /// WeCom's clock minus this machine's.
    pub(crate) offset_seconds: i64,
    pub(crate) agreement: String,
    /// Seconds between the Date of answers and this machine's clock, if nothing confirms the Date.
    pub(crate) date_contradicts_by: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReconcileProgress {
    pub(crate) phase: Cow<'static, str>,
    /// Items of this step that are finished.
    pub(crate) done: usize,
    /// Items of this step in total, if known.
    pub(crate) of: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Drift {
    pub(crate) asked: usize,
    /// Members whose fields differed from WeCom's.
    pub(crate) different: usize,
}

/// Why a comparison is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ComparisonDue {
    pub(crate) reason: String,
    /// Unix time of the first reason.
    pub(crate) since: i64,
}

/// Writes a row; `None` deletes it. Outside this module only for rows that have no [`Entry`].
pub(crate) fn set_state(
    connection: &Connection,
    name: &str,
    at: UnixSeconds,
    value: Option<&Json>,
) -> Result<()> {
    match value {
        Some(value) => connection.execute(
            "INSERT INTO daemon_state (name, at, value) VALUES (?1, ?2, ?3)
             ON CONFLICT (name) DO UPDATE SET at = excluded.at, value = excluded.value",
            values![name, at.0, value.to_string()],
        )?,
        None => connection.execute("DELETE FROM daemon_state WHERE name = ?1", values![name])?,
    };
    Ok(())
}

/// Reads a row that has no [`Entry`], with the time of its write.
pub(crate) fn get_state(connection: &Connection, name: &str) -> Result<Option<(UnixSeconds, Json)>> {
    let row = connection.row("SELECT at, value FROM daemon_state WHERE name = ?1", values![name], |row| {
        Ok((UnixSeconds(row.get(0)?), row.get::<String>(1)?))
    })?;
    Ok(row.and_then(|(at, value)| Some((at, serde_json::from_str(&value).ok()?))))
}

/// Requests a comparison. A later request replaces the reason of an earlier one, not its time.
pub(crate) fn request_reconcile(connection: &Connection, reason: &str, now: UnixSeconds) -> Result<()> {
    let known = COMPARISON_DUE.get(connection)?;
    let since = known.map_or(now.0, |(_, due)| due.since);
    COMPARISON_DUE.set(connection, now, &ComparisonDue { reason: reason.to_owned(), since })
}

/// The pending request for a comparison.
pub(crate) fn reconcile_request(connection: &Connection) -> Result<Option<ComparisonDue>> {
    Ok(COMPARISON_DUE.get(connection)?.map(|(_, due)| due))
}

/// Removes the request, unless it was renewed at `began` or later.
pub(crate) fn settle_reconcile_request(connection: &Connection, began: UnixSeconds) -> Result<()> {
    connection.execute(
        "DELETE FROM daemon_state WHERE name = ?1 AND at < ?2",
        values![COMPARISON_DUE.name, began.0],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open::open_in_memory;

    #[test]
    fn later_reasons_do_not_postpone_the_comparison() {
        let db = open_in_memory().unwrap();
        for at in [100, 103, 106] {
            request_reconcile(&db, "503", UnixSeconds(at)).unwrap();
        }
        assert_eq!(reconcile_request(&db).unwrap().unwrap().since, 100);
        settle_reconcile_request(&db, UnixSeconds(106)).unwrap();
        assert!(reconcile_request(&db).unwrap().is_some(), "one came after the comparison began");
        settle_reconcile_request(&db, UnixSeconds(107)).unwrap();
        assert_eq!(reconcile_request(&db).unwrap(), None);
    }

    #[test]
    fn a_value_of_another_form_reads_as_none() {
        let db = open_in_memory().unwrap();
        set_state(&db, "drift", UnixSeconds(1), Some(&serde_json::json!("text"))).unwrap();
        assert_eq!(DRIFT.get(&db).unwrap(), None);
        let drift = Drift { asked: 5, different: 1 };
        DRIFT.set(&db, UnixSeconds(2), &drift).unwrap();
        assert_eq!(DRIFT.get(&db).unwrap(), Some((UnixSeconds(2), drift)));
        DRIFT.remove(&db).unwrap();
        assert_eq!(DRIFT.get(&db).unwrap(), None);
    }
}
