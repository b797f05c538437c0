//! One callback's effect on the database, inside the writer's transaction.

use rusqlite::{Connection, OptionalExtension, params};

use super::departments::{see_tag, tell_department};
use super::openids::make_due_now;
use super::{facts, members, state};
use crate::directory::changes::{At, Details, Merge, Restamp, RowWrite, merge, restamp};
use crate::directory::clock::Moment;
use crate::directory::history::{Word, fold};
use crate::directory::life::{Saying, timed};
use crate::directory::{
    BatchJob, DepartmentEvent, Event, Fact, MemberEvent, Stamp, Subject, TagEvent, TagId, UnixSeconds, UserId,
};

/// What became of an event. The schema's CHECK has the same list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is part of the directory now.
    Applied,
    /// The same message was applied before.
    Duplicate,
    /// It came too late to change anything.
    Stale,
    /// It is of no concern.
    Ignored,
    /// It makes no sense.
    Invalid,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 5] = [Self::Applied, Self::Duplicate, Self::Stale, Self::Ignored, Self::Invalid];

    /// The word in the database.
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

/// A callback to be made durable.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// When it arrived, on this machine's clock.
    pub received_at: UnixSeconds,
    /// WeCom's CreateTime, if it has one.
    pub create_time: Option<UnixSeconds>,
    /// Event.
    pub event: String,
    /// ChangeType, or empty.
    pub change_type: String,
    /// What it is about, as it was named.
    pub subject: String,
    /// The decrypted XML, to be stored; empty where the content is not to be.
    pub payload: String,
    /// A digest of the content, whether or not it is stored.
    pub digest: i64,
    /// What it means, its time being plausible; `None` if it makes no sense.
    pub meaning: Option<Event>,
    /// The latest stamp that is plausible on WeCom's clock, if that is known.
    pub latest: Option<UnixSeconds>,
    /// Why only a comparison can find what this event told, if so.
    pub comparison_due: Option<&'static str>,
}

/// What applying an event came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// What became of it.
    pub outcome: Outcome,
    /// Members without an openid that are due now.
    pub to_convert: Vec<UserId>,
    /// Whether the details of some member are due now.
    pub details_due: bool,
}

/// Applies an event and records it.
///
/// # Errors
/// Whatever SQLite says; the caller rolls back.
pub fn apply_event(connection: &Connection, event: &NewEvent) -> rusqlite::Result<Applied> {
    let mut applied = Applied { outcome: Outcome::Duplicate, to_convert: Vec::new(), details_due: false };
    if let Some(original) = original(connection, event)? {
        record_duplicate(connection, event, original)?;
        return Ok(applied);
    }
    applied.outcome = match &event.meaning {
        None => Outcome::Invalid,
        Some(meaning) => {
            let moment = Moment { local: event.received_at, latest: event.latest };
            apply(connection, meaning, moment, &mut applied)?
        }
    };
    record_event(connection, event, applied.outcome)?;
    if let Some(reason) = event.comparison_due {
        state::request_reconcile(connection, reason, event.received_at)?;
    }
    Ok(applied)
}

/// Records an event that could not be applied, so that nothing is lost, and has the directory compared.
///
/// # Errors
/// Whatever SQLite says.
pub fn record_invalid(connection: &Connection, event: &NewEvent) -> rusqlite::Result<Applied> {
    record_event(connection, event, Outcome::Invalid)?;
    state::request_reconcile(connection, "an event could not be applied", event.received_at)?;
    Ok(Applied { outcome: Outcome::Invalid, to_convert: Vec::new(), details_due: false })
}

/// The first event of the same content. The content identifies a repetition: WeCom encrypts a message anew when it sends it
/// again, and its CreateTime is the same for different events of one second. Where the content is not stored, the
/// digest and what is stored stand for it.
fn original(connection: &Connection, event: &NewEvent) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached(
            "SELECT seq FROM events
             WHERE digest = ?1 AND payload = ?2 AND event = ?3 AND change_type = ?4 AND subject = ?5
               AND create_time IS ?6
             LIMIT 1",
        )?
        .query_row(
            params![
                event.digest,
                event.payload,
                event.event,
                event.change_type,
                event.subject,
                event.create_time.map(|at| at.0)
            ],
            |row| row.get(0),
        )
        .optional()
}

/// Repetitions of an event that have rows of their own: WeCom sends an event three times, so these tell when
/// each came. Further ones are only counted, since a captured request can be sent without end.
const DUPLICATE_ROWS: i64 = 3;

/// Counts a repetition of the event `original`, and records it unless there are many. Later ones are counted in
/// memory and stored at each doubling, so that they cost no write to the disk; a restart loses the rest of the count.
fn record_duplicate(connection: &Connection, event: &NewEvent, original: i64) -> rusqlite::Result<()> {
    let stored: i64 = connection
        .prepare_cached("SELECT repeats FROM events WHERE seq = ?1")?
        .query_row([original], |row| row.get(0))?;
    if stored < DUPLICATE_ROWS {
        add_repeats(connection, original, 1)?;
        return insert_event(connection, event, Outcome::Duplicate, ("", None));
    }
    connection
        .prepare_cached(
            "CREATE TEMP TABLE IF NOT EXISTS repeats (seq INTEGER PRIMARY KEY, count INTEGER NOT NULL)",
        )?
        .execute([])?;
    let counted: i64 = connection
        .prepare_cached(
            "INSERT INTO temp.repeats (seq, count) VALUES (?1, 1)
             ON CONFLICT (seq) DO UPDATE SET count = count + 1 RETURNING count",
        )?
        .query_row([original], |row| row.get(0))?;
    if counted >= stored {
        add_repeats(connection, original, counted)?;
        connection.prepare_cached("DELETE FROM temp.repeats WHERE seq = ?1")?.execute([original])?;
    }
    Ok(())
}

fn add_repeats(connection: &Connection, original: i64, count: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE events SET repeats = repeats + ?2 WHERE seq = ?1")?
        .execute([original, count])?;
    Ok(())
}

fn record_event(connection: &Connection, event: &NewEvent, outcome: Outcome) -> rusqlite::Result<()> {
    insert_event(connection, event, outcome, (&event.payload, Some(event.digest)))
}

fn insert_event(
    connection: &Connection,
    event: &NewEvent,
    outcome: Outcome,
    (payload, digest): (&str, Option<i64>),
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO events (received_at, create_time, event, change_type, subject, outcome, payload, digest)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            event.received_at.0,
            event.create_time.map(|at| at.0),
            event.event,
            event.change_type,
            event.subject,
            outcome.as_str(),
            payload,
            digest,
        ])?;
    Ok(())
}

fn apply(
    connection: &Connection,
    event: &Event,
    moment: Moment,
    applied: &mut Applied,
) -> rusqlite::Result<Outcome> {
    let now = moment.local;
    let to_convert = &mut applied.to_convert;
    let at = (At::Told(event.at), next_event(connection)?);
    let took_effect = match &event.subject {
        Subject::Other => return Ok(Outcome::Ignored),
        Subject::Member(userid, told) => {
            let deleted = matches!(told, MemberEvent::Deleted);
            let merged = tell_member(connection, userid, at, member_word(event.at, told), moment)?;
            applied.details_due = merged.details == Details::Due;
            if merged.took_effect && !deleted {
                to_convert.extend(make_due_now(connection, &merged.named, now)?);
            }
            // What comes late may bring others to light than the one that it names.
            for write in &merged.writes {
                if let RowWrite::Create(row, _) = write
                    && row.deleted_at.is_none()
                    && !to_convert.contains(&row.userid)
                {
                    to_convert.push(row.userid.clone());
                }
            }
            if merged.contradicts_api && deleted {
                // Only a comparison tells whether the member is gone.
                let reason = format!("WeCom's API showed userid={userid} after the time of its deletion");
                state::request_reconcile(connection, &reason, now)?;
            }
            merged.took_effect
        }
        Subject::Department(id, told) => {
            let stamp = Stamp::told(event.at);
            let saying = match told {
                DepartmentEvent::Created(fields) => {
                    Saying::Seen { created: true, fields: timed(stamp, fields) }
                }
                DepartmentEvent::Updated(fields) => {
                    Saying::Seen { created: false, fields: timed(stamp, fields) }
                }
                DepartmentEvent::Deleted => Saying::Deleted,
            };
            tell_department(connection, *id, at, saying, moment)?.took_effect
        }
        Subject::Tag(tag, told) => tell_tag(connection, *tag, at, event.at, told, moment)?,
        Subject::Trigger(userid, _) => {
            let group = fold(&facts::group_facts(connection, userid)?);
            let bearer = group.bearer(userid);
            if !group.people.get(&bearer).is_some_and(|person| person.life.alive()) {
                // Its creation may come later, and brings the first try with it.
                return Ok(Outcome::Ignored);
            }
            to_convert.extend(make_due_now(connection, &bearer, now)?);
            true
        }
        Subject::BatchJob(job) => {
            comparison_due(connection, job, now)?;
            true
        }
    };
    Ok(if took_effect { Outcome::Applied } else { Outcome::Stale })
}

/// The number that the event under way will have.
pub(super) fn next_event(connection: &Connection) -> rusqlite::Result<i64> {
    let last = connection
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'events'")?
        .query_row([], |row| row.get::<_, i64>(0))
        .optional()?;
    Ok(last.unwrap_or(0) + 1)
}

fn member_word(at: UnixSeconds, told: &MemberEvent) -> Word {
    let stamp = Stamp::told(at);
    match told {
        MemberEvent::Created(fields) => {
            Word::Of(Saying::Seen { created: true, fields: timed(stamp, fields) })
        }
        MemberEvent::Updated(fields) => {
            Word::Of(Saying::Seen { created: false, fields: timed(stamp, fields) })
        }
        MemberEvent::Renamed(to, fields) => Word::Renamed(to.clone(), timed(stamp, fields)),
        MemberEvent::Deleted => Word::Of(Saying::Deleted),
    }
}

/// Corrects the times of facts that are later than plausible, in memory and in the database, so that a fact of `next`
/// counts.
pub(super) fn plausible_facts(
    connection: &Connection,
    userid: &UserId,
    known: Vec<Fact>,
    next: UnixSeconds,
    moment: Moment,
) -> rusqlite::Result<Vec<Fact>> {
    let Some(restamped) = moment.latest.and_then(|latest| restamp(&known, latest, Some(next))) else {
        return Ok(known);
    };
    log::debug!("userid={userid} had times ahead of WeCom's clock; they are corrected");
    facts::replace(connection, &known, &restamped.facts)?;
    let Restamp { facts, writes, tags, changes } = restamped;
    let rows = members::Rows { writes: &writes, tags: &tags, changes: &changes };
    members::write_rows(connection, rows, moment.local)?;
    Ok(facts)
}

/// Applies what was said of a member.
pub(super) fn tell_member(
    connection: &Connection,
    userid: &UserId,
    at: (At, i64),
    word: Word,
    moment: Moment,
) -> rusqlite::Result<Merge> {
    let mut known = facts::group_facts(connection, userid)?;
    if let Word::Renamed(to, _) = &word
        && !known.iter().any(|fact| fact.userid == *to)
    {
        // The rename ties the two names' groups together from now on.
        let others = facts::group_facts(connection, to)?;
        known.extend(others);
    }
    let (at, mut arrival) = at;
    known = plausible_facts(connection, userid, known, at.seconds(), moment)?;
    if let At::Observed(second) = at {
        // Events have numbers of their own; of what WeCom showed in one second, each stands by itself.
        let same = known.iter().filter(|fact| fact.stamp == Stamp::observed(second));
        arrival = same.map(|fact| fact.arrival + 1).fold(arrival, i64::max);
    }
    let mut merged = merge(&known, userid, at, arrival, word);
    let fact = &merged.fact;
    let is_repeated =
        |known: &Fact| known.stamp == fact.stamp && known.userid == fact.userid && known.word == fact.word;
    if known.iter().any(is_repeated) {
        // A replay, after its first delivery has left the events: it asks for nothing again.
        merged.took_effect = false;
        merged.details = Details::Keep;
        return Ok(merged);
    }
    facts::remember(connection, &known, fact)?;
    members::write_merge(connection, &merged, moment.local)?;
    Ok(merged)
}

fn tell_tag(
    connection: &Connection,
    tag: TagId,
    at: (At, i64),
    event_time: UnixSeconds,
    told: &TagEvent,
    moment: Moment,
) -> rusqlite::Result<bool> {
    if !see_tag(connection, tag, event_time, moment)? {
        return Ok(false);
    }
    let mut took_effect = false;
    let lists = [(&told.added_members, true), (&told.removed_members, false)];
    for (userid, within) in lists.into_iter().flat_map(|(list, within)| list.iter().map(move |u| (u, within)))
    {
        let word = Word::Of(Saying::Tagged(tag, within));
        took_effect |= tell_member(connection, userid, at, word, moment)?.took_effect;
    }
    let lists = [(&told.added_departments, true), (&told.removed_departments, false)];
    for (id, within) in lists.into_iter().flat_map(|(list, within)| list.iter().map(move |d| (d, within))) {
        let saying = Saying::Tagged(tag, within);
        took_effect |= tell_department(connection, *id, at, saying, moment)?.took_effect;
    }
    let empty = *told == TagEvent::default();
    Ok(took_effect || empty)
}

/// A bulk job may have changed much without telling; only comparing with the API shows what.
fn comparison_due(connection: &Connection, job: &BatchJob, now: UnixSeconds) -> rusqlite::Result<()> {
    if job.changes_the_directory() {
        state::request_reconcile(connection, &format!("batch job {}", job.job_type), now)?;
    }
    Ok(())
}
