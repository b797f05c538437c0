//! The table `events`: recording callbacks, and finding repetitions.

use super::Result;
use super::connection::{Connection, values};
use super::ledger::take_event;
use crate::directory::{Event, UnixSeconds};

/// The outcome of an event. The schema's CHECK has the same list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventOutcome {
    /// The event was merged into the directory.
    Applied,
    /// An event with the same content was recorded before.
    Duplicate,
    /// The event arrived too late to change anything.
    Stale,
    /// The event does not concern the directory.
    Ignored,
    /// The event could not be parsed or applied.
    Invalid,
}

impl EventOutcome {
    /// All outcomes, in the order of the schema's CHECK.
    pub const ALL: [Self; 5] = [Self::Applied, Self::Duplicate, Self::Stale, Self::Ignored, Self::Invalid];

    /// The outcome's name in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Stale => "stale",
            Self::Ignored => "ignored",
            Self::Invalid => "invalid",
        }
    }
}

/// The event of a callback, to be recorded and applied.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Time of receipt on this machine's clock.
    pub received_at: UnixSeconds,
    /// CreateTime as WeCom sent it, if any.
    pub create_time: Option<UnixSeconds>,
    /// The text of the element `Event`.
    pub event: String,
    /// The text of the element `ChangeType`; may be empty.
    pub change_type: String,
    /// The userid or id in the event, in its original spelling.
    pub subject: String,
    /// The decrypted XML to store; empty if the content must not be stored.
    pub payload: String,
    /// A digest of the content, stored or not.
    pub digest: i64,
    /// The parsed event with a plausible time; `None` if the event is invalid.
    pub meaning: Option<Event>,
    /// The latest plausible stamp on WeCom's clock, if that is known.
    pub latest: Option<UnixSeconds>,
    /// The reason to request a comparison, if the event lacks data that only a comparison can provide.
    pub comparison_due: Option<&'static str>,
}

impl NewEvent {
    /// The digest, if it replaces content that is not stored.
    fn stored_digest(&self) -> Option<i64> {
        self.payload.is_empty().then_some(self.digest)
    }
}

/// The first event with the same content. Only the content identifies a repetition: WeCom encrypts each delivery anew, and
/// different events of one second have the same CreateTime. The digest replaces content that is not stored. The index by
/// subject and CreateTime leaves few rows to compare.
pub(super) fn original(connection: &Connection, event: &NewEvent) -> Result<Option<i64>> {
    connection.row(
        "SELECT seq FROM events
         WHERE subject = ?4 AND create_time IS NOT DISTINCT FROM ?5 AND payload = ?1
           AND digest IS NOT DISTINCT FROM ?6 AND event = ?2 AND change_type = ?3 AND outcome <> 'duplicate'
         LIMIT 1",
        values![
            &event.payload,
            &event.event,
            &event.change_type,
            &event.subject,
            event.create_time,
            event.stored_digest()
        ],
        |row| row.get(0),
    )
}

/// Maximum number of repetitions of an event with own rows; WeCom delivers an event three times. Further ones are only
/// counted, because a captured request can be replayed without end.
const DUPLICATE_ROWS: i64 = 3;

/// Counts a repetition of the event `original`, and records the first [`DUPLICATE_ROWS`]. Later ones are counted in memory and
/// stored at each doubling, which saves disk writes; a restart loses the count since the last doubling.
pub(super) fn record_duplicate(connection: &Connection, event: &NewEvent, original: i64) -> Result<()> {
    let stored: i64 =
        connection.one("SELECT repeats FROM events WHERE seq = ?1", values![original], |row| row.get(0))?;
    if stored < DUPLICATE_ROWS {
        add_repeats(connection, original, 1)?;
        return insert_event(connection, event, EventOutcome::Duplicate, ("", None));
    }
    connection.execute(
        "CREATE TEMP TABLE IF NOT EXISTS repeats (seq INTEGER PRIMARY KEY, count INTEGER NOT NULL)",
        &[],
    )?;
    let counted: i64 = connection.one(
        "INSERT INTO temp.repeats (seq, count) VALUES (?1, 1)
             ON CONFLICT (seq) DO UPDATE SET count = count + 1 RETURNING count",
        values![original],
        |row| row.get(0),
    )?;
    if counted >= stored {
        add_repeats(connection, original, counted)?;
        connection.execute("DELETE FROM temp.repeats WHERE seq = ?1", values![original])?;
    }
    Ok(())
}

fn add_repeats(connection: &Connection, original: i64, count: i64) -> Result<()> {
    connection
        .execute("UPDATE events SET repeats = repeats + ?2 WHERE seq = ?1", values![original, count])?;
    Ok(())
}

/// Appends an event with its content.
pub(super) fn record_event(connection: &Connection, event: &NewEvent, outcome: EventOutcome) -> Result<()> {
    insert_event(connection, event, outcome, (&event.payload, event.stored_digest()))
}

fn insert_event(
    connection: &Connection,
    event: &NewEvent,
    outcome: EventOutcome,
    (payload, digest): (&str, Option<i64>),
) -> Result<()> {
    connection.execute(
        "INSERT INTO events (seq, received_at, create_time, event, change_type, subject, outcome, payload, digest)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        values![
            take_event(connection)?,
            event.received_at,
            event.create_time,
            &event.event,
            &event.change_type,
            &event.subject,
            outcome.as_str(),
            payload,
            digest,
        ],
    )?;
    Ok(())
}
