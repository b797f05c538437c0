//! One callback's effect on the database, inside the writer's transaction.

use super::Result;
use super::connection::Connection;
use super::deferred::{MAX_AT_ONCE, defer};
use super::departments::{add_numbered_fact, tag_starts_at};
use super::event_log::{EventOutcome, NewEvent, original, record_duplicate, record_event};
use super::member_merge::add_member_fact;
use super::openids::make_due_now;
use super::{facts, state};
use crate::directory::clock::Moment;
use crate::directory::diff::DetailsAction;
use crate::directory::fact::{Fact, Presence, Source, timed};
use crate::directory::members::{MemberFact, fold};
use crate::directory::{
    BatchJob, DepartmentEvent, DepartmentField, Event, MemberEvent, Rank, Stamp, Subject, TagEvent, TagField,
    TagId, UnixSeconds, UserId,
};

/// The result of applying an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The outcome, as the table `events` records it.
    pub outcome: EventOutcome,
    /// Members without an openid that are due now.
    pub to_convert: Vec<UserId>,
    /// Whether the details of a member are due now.
    pub details_due: bool,
    /// Whether facts of the event are deferred to [`apply_portion`](super::deferred::apply_portion).
    pub is_deferred: bool,
}

impl Applied {
    fn new(outcome: EventOutcome) -> Self {
        Self { outcome, to_convert: Vec::new(), details_due: false, is_deferred: false }
    }
}

/// Applies an event and records it.
pub fn apply_event(connection: &Connection, event: &NewEvent) -> Result<Applied> {
    let mut applied = Applied::new(EventOutcome::Duplicate);
    if let Some(original) = original(connection, event)? {
        record_duplicate(connection, event, original)?;
        return Ok(applied);
    }
    applied.outcome = match &event.meaning {
        None => EventOutcome::Invalid,
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

/// Records an event that could not be applied, and requests a comparison in its place.
pub(crate) fn record_invalid(connection: &Connection, event: &NewEvent) -> Result<Applied> {
    record_event(connection, event, EventOutcome::Invalid)?;
    state::request_reconcile(connection, "an event could not be applied", event.received_at)?;
    Ok(Applied::new(EventOutcome::Invalid))
}

fn apply(
    connection: &Connection,
    event: &Event,
    moment: Moment,
    applied: &mut Applied,
) -> Result<EventOutcome> {
    let now = moment.local;
    let to_convert = &mut applied.to_convert;
    let source = Source::Event(event.at);
    let took_effect = match &event.subject {
        Subject::Other => return Ok(EventOutcome::Ignored),
        Subject::Member(userid, member_event) => {
            let is_deletion = matches!(member_event, MemberEvent::Deleted);
            let (merged, due) =
                add_member_fact(connection, userid, source, member_fact(source, member_event), moment)?;
            applied.details_due = merged.details == DetailsAction::Due;
            // The merge makes a new member due, and a late event may affect further members.
            let is_due = due.contains(&merged.named);
            to_convert.extend(due);
            if merged.took_effect && !is_deletion && !is_due {
                to_convert.extend(make_due_now(connection, &merged.named, now)?);
            }
            if (is_deletion && merged.contradicts_api) || (merged.is_unsettled && !merged.is_present) {
                // Only a comparison can show whether the member still exists.
                let reason =
                    format!("the deletion of userid={userid} contradicts WeCom's answer of that time");
                state::request_reconcile(connection, &reason, now)?;
            }
            if merged.contradicts_api && !is_deletion && !merged.holds {
                // The listing may have been outdated: the member would be missing until the next comparison.
                let reason = format!("an event about userid={userid} contradicts the last comparison");
                state::request_reconcile(connection, &reason, now)?;
            }
            merged.took_effect
        }
        Subject::Department(id, department_event) => {
            let fact = match department_event {
                DepartmentEvent::Created(fields) => Fact::present(Presence::Created, source, fields),
                DepartmentEvent::Updated(fields) => Fact::present(Presence::Updated, source, fields),
                DepartmentEvent::Deleted => Fact::Deleted,
            };
            let merged = add_numbered_fact::<DepartmentField>(connection, id.0, source, fact, moment)?;
            if merged.is_unsettled {
                let reason = format!("two events of one second contradict each other about department {id}");
                state::request_reconcile(connection, &reason, now)?;
            }
            merged.took_effect
        }
        Subject::Tag(tag, content) => apply_tag_event(connection, *tag, event.at, content, moment, applied)?,
        Subject::Trigger(userid, _) => {
            let group = fold(&facts::group_facts(connection, userid)?);
            let holder = group.resolve(userid);
            if !group.is_present(&holder) {
                // The creation may arrive later; it makes the member due.
                return Ok(EventOutcome::Ignored);
            }
            to_convert.extend(make_due_now(connection, &holder, now)?);
            true
        }
        Subject::BatchJob(job) => {
            request_reconcile_after(connection, job, now)?;
            true
        }
    };
    Ok(if took_effect { EventOutcome::Applied } else { EventOutcome::Stale })
}

fn member_fact(source: Source, event: &MemberEvent) -> MemberFact {
    match event {
        MemberEvent::Created(fields) => MemberFact::Entity(Fact::present(Presence::Created, source, fields)),
        MemberEvent::Updated(fields) => MemberFact::Entity(Fact::present(Presence::Updated, source, fields)),
        MemberEvent::Renamed(to, fields) => {
            MemberFact::Renamed(to.clone(), timed(Stamp::new(source.second(), Rank::Renamed), fields))
        }
        MemberEvent::Deleted => MemberFact::Entity(Fact::Deleted),
    }
}

fn apply_tag_event(
    connection: &Connection,
    tag: TagId,
    at: UnixSeconds,
    content: &TagEvent,
    moment: Moment,
    applied: &mut Applied,
) -> Result<bool> {
    let source = Source::Event(at);
    let fact = Fact::present(Presence::Updated, source, &crate::directory::Fields::new());
    let merged = add_numbered_fact::<TagField>(connection, tag.0, source, fact, moment)?;
    if *content == TagEvent::default() {
        return Ok(merged.took_effect);
    }
    if is_void(connection, tag, at, moment)? {
        return Ok(false);
    }
    if content.len() > MAX_AT_ONCE {
        defer(connection, tag, at, content)?;
        applied.is_deferred = true;
        return Ok(true);
    }
    apply_tag_facts(connection, tag, at, content, moment, &mut applied.to_convert)
}

/// Whether an event of `at` is older than the tag's present existence, or than the last complete listing of its content.
pub(super) fn is_void(connection: &Connection, tag: TagId, at: UnixSeconds, moment: Moment) -> Result<bool> {
    Ok(tag_starts_at(connection, tag, moment)?.is_none_or(|starts_at| at < starts_at))
}

/// Merges additions to a tag and removals from it, which are not [void](is_void); returns whether they took effect.
pub(super) fn apply_tag_facts(
    connection: &Connection,
    tag: TagId,
    at: UnixSeconds,
    content: &TagEvent,
    moment: Moment,
    to_convert: &mut Vec<UserId>,
) -> Result<bool> {
    let source = Source::Event(at);
    let (mut took_effect, mut is_unsettled) = (false, false);
    let lists = [(&content.added_members, true), (&content.removed_members, false)];
    for (userid, within) in lists.into_iter().flat_map(|(list, within)| list.iter().map(move |u| (u, within)))
    {
        let fact = MemberFact::Entity(Fact::Tagged(tag, within));
        let (merged, due) = add_member_fact(connection, userid, source, fact, moment)?;
        to_convert.extend(due);
        took_effect |= merged.took_effect;
        is_unsettled |= merged.is_unsettled;
    }
    let lists = [(&content.added_departments, true), (&content.removed_departments, false)];
    for (id, within) in lists.into_iter().flat_map(|(list, within)| list.iter().map(move |d| (d, within))) {
        let fact = Fact::Tagged(tag, within);
        let merged = add_numbered_fact::<DepartmentField>(connection, id.0, source, fact, moment)?;
        took_effect |= merged.took_effect;
        is_unsettled |= merged.is_unsettled;
    }
    if is_unsettled {
        let reason = format!("two events of one second contradict each other about tag {tag}");
        state::request_reconcile(connection, &reason, moment.local)?;
    }
    Ok(took_effect)
}

/// Requests a comparison after a bulk job, which may have changed the directory without an event for each change.
fn request_reconcile_after(connection: &Connection, job: &BatchJob, now: UnixSeconds) -> Result<()> {
    if job.changes_the_directory() {
        state::request_reconcile(connection, &format!("batch job {}", job.job_type), now)?;
    }
    Ok(())
}
