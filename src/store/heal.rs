//! Rows that disagree with their facts are written anew. The facts are what WeCom said; the rows follow from them.
//!
//! Every fact that is merged first compares the rows of its entity, so an event or a comparison repairs what it touches.
//! [`verify`](super::verify) does the same for the whole database. The change feed follows the facts, so a repair adds no
//! line to it.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::Result;
use super::connection::{Connection, values};
use super::departments::{NumberedTable, write_tag_department};
use super::images::{EVENT_TIME, Image, OPENID, Stored, fields_of_row};
use super::ledger::next_event;
use super::{facts, members};
use crate::directory::diff::{RowWrite, member_row};
use crate::directory::entity::EntityState;
use crate::directory::fact::{Fact, Presence, Source};
use crate::directory::members::{Answer, Conversion, MemberFact, Record, RenameGroup, fold};
use crate::directory::{Field, TagId, UnixSeconds, UserId, numbered};

/// The facts of an entity, what they fold to, and where the rows differed.
pub(super) struct Checked<R, S> {
    pub(super) records: Vec<R>,
    pub(super) state: S,
    /// Entities that differed, and in what.
    pub(super) findings: Vec<String>,
    /// Members that the repair made due.
    pub(super) due: Vec<UserId>,
}

/// Compares the rows of a group of members with its facts, and corrects the rows if `now` is given. A row without any
/// fact gets facts instead: what it says may be all that is left.
pub(super) fn check_members(
    connection: &Connection,
    names: &BTreeSet<UserId>,
    mut records: Vec<Record>,
    now: Option<UnixSeconds>,
) -> Result<Checked<Record, RenameGroup>> {
    let mut findings = Vec::new();
    let mut stored = Vec::with_capacity(names.len());
    for name in names {
        let image = Stored::member(connection, name)?;
        if let Some(row) = &image.row
            && !records.iter().flat_map(Record::names).any(|known| known == name)
        {
            findings.push(format!("userid={name}: no fact"));
            let (source, arrival) = (source_of(row), next_event(connection)?);
            for fact in member_facts_of(row, &image, source) {
                let record = Record::new(name.clone(), source, arrival, fact);
                if now.is_some() {
                    facts::remember(connection, &records, &record)?;
                }
                records.push(record);
            }
        }
        stored.push((name, image));
    }
    let state = fold(&records);
    let mut due = Vec::new();
    for (name, stored) in &stored {
        let member = state.members.get(*name);
        let expected = Stored::expected_member(member);
        if *stored == expected {
            continue;
        }
        findings.push(format!("userid={name}: {}", stored.differs_in(&expected).join(", ")));
        let Some(now) = now else { continue };
        let write = match (&stored.row, member.filter(|member| member.state.known)) {
            (_, None) => RowWrite::Remove((*name).clone()),
            (None, Some(member)) => RowWrite::Create(member_row(member)),
            (Some(_), Some(member)) => {
                let changed = Field::ALL.iter().copied().collect();
                RowWrite::Update { row: member_row(member), changed, respelled: true }
            }
        };
        let tags = tag_differences(stored, &expected);
        let tags: Vec<_> = tags.into_iter().map(|(tag, within)| (tag, (*name).clone(), within)).collect();
        let rows = members::Rows { writes: &[write], tags: &tags, changes: &[], details: None };
        due.extend(members::write_rows(connection, rows, now)?);
    }
    Ok(Checked { records, state, findings, due })
}

/// Compares the row of a department or tag with its facts; see [`check_members`].
pub(super) fn check_numbered<F: NumberedTable>(
    connection: &Connection,
    id: u32,
    mut records: Vec<numbered::Record<F>>,
    now: Option<UnixSeconds>,
) -> Result<Checked<numbered::Record<F>, EntityState<F>>> {
    let mut findings = Vec::new();
    let stored = Stored::numbered::<F>(connection, id)?;
    let kind = F::ENTITY.as_str();
    if let Some(row) = &stored.row
        && records.is_empty()
    {
        findings.push(format!("{kind} {id}: no fact"));
        let (source, arrival) = (source_of(row), next_event(connection)?);
        for fact in facts_of(row, &stored, source) {
            let record = numbered::record(source, arrival, fact);
            if now.is_some() {
                facts::remember_numbered(connection, id, &records, &record)?;
            }
            records.push(record);
        }
    }
    let state = numbered::fold(&records);
    let expected = Stored::expected(&state);
    if stored != expected {
        findings.push(format!("{kind} {id}: {}", stored.differs_in(&expected).join(", ")));
        if let Some(now) = now {
            if state.known {
                F::write_row(connection, id, &state, true, now)?;
            } else {
                connection.execute(F::DELETE_ROW, values![id])?;
            }
            for (tag, within) in tag_differences(&stored, &expected) {
                write_tag_department(connection, tag, id, within)?;
            }
        }
    }
    Ok(Checked { records, state, findings, due: Vec::new() })
}

/// A row that has lost its facts counts as listed by the API at its time.
fn source_of(row: &Image) -> Source {
    Source::Api(UnixSeconds(row.get(EVENT_TIME).and_then(Json::as_i64).unwrap_or(0)))
}

/// The facts that a row and its tags amount to.
fn facts_of<F: Field>(row: &Image, stored: &Stored, source: Source) -> Vec<Fact<F>> {
    let listed = Fact::present(Presence::Listed, source, &fields_of_row(row));
    let tags = stored.tags.iter().map(|tag| Fact::Tagged(TagId(*tag), true));
    let absence = (!stored.is_present()).then_some(Fact::Absent);
    std::iter::once(listed).chain(tags).chain(absence).collect()
}

fn member_facts_of(row: &Image, stored: &Stored, source: Source) -> Vec<MemberFact> {
    let openid = row.get(OPENID).and_then(Json::as_str).map(|openid| {
        let conversion = Conversion::Openid(openid.to_owned());
        MemberFact::Answered(Answer { asked_before: 0, conversion })
    });
    facts_of(row, stored, source).into_iter().map(MemberFact::Entity).chain(openid).collect()
}

/// Tags that the entity is to be in (true) or out of.
fn tag_differences(stored: &Stored, expected: &Stored) -> Vec<(TagId, bool)> {
    let gone = stored.tags.iter().filter(|tag| !expected.tags.contains(tag)).map(|tag| (TagId(*tag), false));
    let new = expected.tags.iter().filter(|tag| !stored.tags.contains(tag)).map(|tag| (TagId(*tag), true));
    gone.chain(new).collect()
}

/// Logs what a repair in passing found: the database was changed by another program, or is damaged.
pub(super) fn log_repairs(findings: &[String]) {
    for finding in findings {
        log::warn!("database: rows disagreed with the facts and are corrected: {finding}");
    }
}
