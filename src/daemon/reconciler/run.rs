//! One comparison: list, compare, merge the differences, and delete only what is proven absent.

mod deletions;
mod departments;
mod tags;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use crate::store::Connection;
use crate::unix_time::unix_now;

use super::api_reader::{Abort, ApiReader, Denial};
use super::report::{Differences, Report};
use super::write_batch::{BatchWriter, Target};
use crate::directory::comparison::{self, Deletions, Guard, MemberDifference};
use crate::directory::diff::Entity;
use crate::directory::listing::{Flaw, ListedMembers, Listing};
use crate::directory::{Fields, MemberField, UnixSeconds, UserId, Value};
use crate::shutdown::Shutdown;
use crate::store::news::Since;
use crate::store::observations::{Observation, ahead_of};
use crate::store::reconciles::{ReconcileOutcome, count_members, known_members};
use crate::store::state::ReconcileProgress;
use crate::store::{StoreError, Writer};
use crate::wecom::api::directory::{PAGE, Skipped};
use crate::wecom::api::{ApiObserver, Client};

/// Known members that one query reads.
const RUN: usize = 2000;
/// Subjects that a note names; all are counted.
const NAMED: usize = 10;

/// The inputs of a comparison.
pub(crate) struct Comparison<'a, L> {
    pub client: &'a Client<L>,
    pub reader: &'a Connection,
    /// Writes the differences; `None` in a dry run.
    pub writer: Option<&'a Writer>,
    pub shutdown: &'a Shutdown,
    pub guard: Guard,
    /// Receives the progress, thousands of times.
    pub progress: &'a dyn Fn(ReconcileProgress),
}

impl<L: ApiObserver> Comparison<'_, L> {
    /// Compares and writes the differences. [`StoreError`]: the database cannot be read.
    pub(crate) fn run(&self) -> Result<Report, StoreError> {
        let since = Since::now(self.reader, unix_now())?;
        let clock = self.client.clock();
        let target = self.writer.map(|writer| Target { writer, clock, since });
        let mut run = Run {
            comparison: self,
            api: ApiReader { client: self.client, shutdown: self.shutdown },
            batches: BatchWriter::new(target, self.shutdown),
            since,
            deletions_held: false,
            differences: Differences::default(),
            notes: Vec::new(),
            members_seen: 0,
            is_partial: false,
            unreadable: UnreadableRows::default(),
            began: None,
        };
        let outcome = match run.all() {
            Ok(outcome) => outcome,
            Err(Abort::Shutdown) => ReconcileOutcome::Stopped,
            Err(Abort::Failed(why)) => {
                run.notes.push(why);
                // Earlier observations are valid.
                let kept = run.batches.flush();
                if kept.is_ok() { ReconcileOutcome::Failed } else { ReconcileOutcome::Stopped }
            }
        };
        Ok(Report {
            outcome,
            members_seen: run.members_seen,
            effect: run.batches.effect(),
            differences: run.differences,
            notes: run.notes,
            deletions_held: run.deletions_held,
        })
    }
}

struct Run<'a, L> {
    comparison: &'a Comparison<'a, L>,
    api: ApiReader<'a, L>,
    batches: BatchWriter<'a>,
    differences: Differences,
    notes: Vec<String>,
    members_seen: usize,
    is_partial: bool,
    unreadable: UnreadableRows,
    began: Option<UnixSeconds>,
    /// The beginning of the comparison as a position in the database.
    since: Since,
    deletions_held: bool,
}

/// What unreadable rows leave unknown; nothing is deleted because of them.
#[derive(Default)]
struct UnreadableRows {
    /// Members that are listed with an unreadable department.
    members: BTreeSet<UserId>,
    /// Rows with an unreadable userid, and rows of `members`.
    of_members: (Skipped, Skipped),
    /// Whether the listing of departments has rows with an unreadable id.
    departments: bool,
    of_tags: Skipped,
    /// Tags that are not compared.
    tags_refused: usize,
}

/// Members with unreadable rows that are kept. With more, no member is deleted.
const MAX_UNREADABLE: usize = 10_000;
/// Tags that notes name as not compared.
const TAGS_NAMED: usize = 5;

/// Items of one kind that WeCom does not list.
struct Missing<T> {
    what: Vec<T>,
    present: usize,
    /// Time of the listing, on WeCom's clock.
    at: UnixSeconds,
    /// Whether the listing contained all entities, so that older events cannot add any.
    is_complete: bool,
}

impl<T> Missing<T> {
    fn none(at: UnixSeconds) -> Self {
        Self { what: Vec::new(), present: 0, at, is_complete: false }
    }

    fn deletions(&self, recent: usize) -> Deletions {
        Deletions { missing: self.what.len(), present: self.present, recent }
    }
}

impl<L: ApiObserver> Run<'_, L> {
    fn all(&mut self) -> Result<ReconcileOutcome, Abort> {
        let structure = self.department_structure()?;
        let (listed, flaw) = match self.listing()? {
            Some((listing, began)) => (Some((listing.flaw(), listing.members(), began)), None),
            None => (None, Some("WeCom does not list the members".to_owned())),
        };
        self.correct_times()?;
        let listed_departments = listed.as_ref().map(|(_, members, _)| members.departments());
        let mut departments = self.departments(structure, &listed_departments.unwrap_or_default())?;
        let (mut members, flaw) = match listed {
            Some((flaw, listed, began)) => (self.members(listed, began)?, flaw.map(|flaw| flaw.to_string())),
            None => (Missing::none(UnixSeconds::default()), flaw),
        };
        let mut tags = self.tags()?;
        // Observations are committed even if no deletion is.
        self.batches.flush()?;
        if let Some(flaw) = &flaw {
            self.notes.push(format!("no member is deleted, because {flaw}"));
            members.what.clear();
            departments.what.clear();
            members.is_complete = false;
            departments.is_complete = false;
        } else if !self.unreadable.of_members.0.is_empty() {
            members.what.clear();
            members.is_complete = false;
        }
        let blocked = self.delete(&mut members, &mut departments, &mut tags)?;
        self.batches.flush()?;
        if !blocked && !self.deletions_held && self.batches.ineffective().is_empty() {
            let kinds = [
                (Entity::Member, members.is_complete, members.at),
                (Entity::Department, departments.is_complete, departments.at),
                (Entity::Tag, tags.is_complete, tags.at),
            ];
            for (kind, _, at) in kinds.into_iter().filter(|(_, is_complete, _)| *is_complete) {
                self.batches.add(Observation::Complete(kind), at)?;
            }
            self.batches.flush()?;
        }
        self.verify_effect();
        Ok(match (blocked, flaw) {
            (true, _) => ReconcileOutcome::Blocked,
            (false, Some(_)) => ReconcileOutcome::Failed,
            (false, None) if self.is_partial => ReconcileOutcome::Partial,
            (false, None) => ReconcileOutcome::Ok,
        })
    }

    /// The stamp of observations: not later than the first call, so that events during the comparison win over them.
    fn stamp(&mut self, at: UnixSeconds) -> UnixSeconds {
        let began = *self.began.get_or_insert(at);
        began.min(at)
    }

    /// Makes the outcome partial if observations had no effect.
    fn verify_effect(&mut self) {
        let ineffective = self.batches.ineffective();
        if ineffective.is_empty() {
            return;
        }
        let names = ineffective.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = if ineffective.len() > NAMED { ", .." } else { "" };
        self.notes.push(format!(
            "{} corrections had no effect, because the directory has facts that are dated later than WeCom's answers ({names}{more}); compare this machine's clock with WeCom's",
            ineffective.len()
        ));
        self.is_partial = true;
    }

    /// Whether an entity that a listing of `at` lacks is missing. It is not if an event about it or its details arrived since
    /// the comparison began.
    fn is_missing(
        &self,
        event_time: UnixSeconds,
        at: UnixSeconds,
        absent: &Observation,
    ) -> Result<bool, Abort> {
        Ok(event_time < at || !absent.has_news_since(self.comparison.reader, self.since)?)
    }

    /// Corrects times that were recorded while the estimate of WeCom's clock was wrong: they would hide all later facts.
    fn correct_times(&mut self) -> Result<(), Abort> {
        let estimate = self.comparison.client.clock().estimate();
        let Some(latest) = estimate.latest().filter(|_| self.comparison.writer.is_some()) else {
            return Ok(());
        };
        let at = self.began.unwrap_or(estimate.now);
        let ahead = ahead_of(self.comparison.reader, latest)?;
        if !ahead.is_empty() {
            log::warn!(
                "clock: {} members, departments and tags have times ahead of WeCom's clock; they are corrected",
                ahead.len()
            );
        }
        for subject in ahead {
            self.batches.add(Observation::Ahead(subject), at)?;
        }
        Ok(self.batches.flush()?)
    }

    fn progress(&self, phase: &'static str, done: usize, of: Option<usize>) {
        (self.comparison.progress)(ReconcileProgress { phase: phase.into(), done, of });
    }

    /// Notes rows that were skipped; the outcome is partial then.
    fn skipped(&mut self, what: &str, skipped: &Skipped) {
        if skipped.is_empty() {
            return;
        }
        self.is_partial = true;
        let text = format!("{what}: {} skipped: {skipped}", skipped.count);
        self.notes.push(self.comparison.client.clean(&text));
    }

    fn note_denial(&mut self, what: &str, denial: &Denial) {
        self.is_partial = true;
        self.notes.push(format!("{what}: {denial}"));
    }

    /// Lists all members; the time of the first page, on WeCom's clock.
    fn listing(&mut self) -> Result<Option<(Listing, UnixSeconds)>, Abort> {
        let first = self.list(PAGE)?;
        if first.as_ref().is_some_and(|(listing, _)| listing.flaw() == Some(Flaw::EmptyPage)) {
            // The last page may have been full: then a listing with another page size has no empty page.
            return self.list(PAGE - PAGE / 7);
        }
        Ok(first)
    }

    fn list(&mut self, limit: u32) -> Result<Option<(Listing, UnixSeconds)>, Abort> {
        let client = self.comparison.client;
        let (mut listing, mut cursor, mut began) = (Listing::default(), String::new(), None);
        let (mut nameless, mut skipped) = (Skipped::default(), Skipped::default());
        self.unreadable.members.clear();
        loop {
            self.progress("listing members", listing.len(), None);
            let seen = match self.api.read(|| client.list_ids(&cursor, limit)) {
                Ok(Ok(seen)) => seen,
                Ok(Err(denial)) if began.is_none() => {
                    self.note_denial("members are not compared", &denial);
                    return Ok(None);
                }
                Ok(Err(denial)) => {
                    self.note_denial("the listing is cut short", &denial);
                    listing.flawed(Flaw::CutShort);
                    break;
                }
                Err(Abort::Failed(why)) if began.is_some() => {
                    self.notes.push(format!("the listing is cut short: {why}"));
                    listing.flawed(Flaw::CutShort);
                    break;
                }
                Err(end) => return Err(end),
            };
            if began.is_none() {
                began = Some(self.stamp(seen.at));
            }
            let page = seen.value;
            if page.rows.is_empty() && !page.nameless.is_empty() {
                listing.flawed(Flaw::NotUserids);
            }
            self.unreadable.members.extend(page.odd);
            if self.unreadable.members.len() > MAX_UNREADABLE {
                listing.flawed(Flaw::NotUserids);
            }
            nameless.extend(page.nameless);
            skipped.extend(page.skipped);
            if !listing.add(&page.rows, &page.next_cursor) {
                break;
            }
            cursor = page.next_cursor;
        }
        self.unreadable.of_members = (nameless, skipped);
        Ok(began.map(|began| (listing, began)))
    }

    fn members(&mut self, listed: ListedMembers, began: UnixSeconds) -> Result<Missing<UserId>, Abort> {
        let (nameless, skipped) = self.unreadable.of_members.clone();
        self.skipped("rows of members, for which none is deleted", &nameless);
        self.skipped("departments of members, which stay as they are", &skipped);
        let unreadable = std::mem::take(&mut self.unreadable.members);
        // Members without a readable row.
        let unreadable_only = RefCell::new(unreadable.clone());
        let (rows, rows_seen) = (listed.rows(), Cell::new(0));
        let members_seen = Cell::new(0);
        let mut listed = listed
            .inspect(|(userid, departments)| {
                unreadable_only.borrow_mut().remove(userid);
                members_seen.set(members_seen.get() + 1);
                rows_seen.set(rows_seen.get() + departments.len());
            })
            .peekable();
        let mut missing = Missing {
            what: Vec::new(),
            present: count_members(self.comparison.reader)?,
            at: began,
            is_complete: true,
        };
        let mut after = String::new();
        loop {
            self.progress("comparing members", rows_seen.get(), Some(rows));
            let known = known_members(self.comparison.reader, &after, RUN)?;
            for difference in comparison::members(&mut listed, &known) {
                match difference {
                    MemberDifference::New(userid, departments) => {
                        self.new_member(userid, departments, began)?
                    }
                    // Present, with an unreadable department.
                    MemberDifference::Changed(userid, _) | MemberDifference::Missing(userid, _)
                        if unreadable.contains(&userid) =>
                    {
                        unreadable_only.borrow_mut().remove(&userid);
                    }
                    MemberDifference::Changed(userid, departments) => {
                        self.differences.members.changed.add(&userid);
                        self.observe_member(userid, departments, began)?;
                    }
                    MemberDifference::Missing(userid, event_time) => {
                        // A member that joined after its page was sent is not missing.
                        let absent = Observation::MemberAbsent(userid.clone());
                        let is_missing = self.is_missing(event_time, began, &absent)?;
                        missing.what.extend(is_missing.then_some(userid));
                    }
                }
            }
            match known.last() {
                Some(last) => last.userid.as_str().clone_into(&mut after),
                None => break,
            }
        }
        for (userid, departments) in listed {
            self.progress("adding members", rows_seen.get(), Some(rows));
            self.new_member(userid, departments, began)?;
        }
        for userid in unreadable_only.into_inner() {
            members_seen.set(members_seen.get() + 1);
            self.differences.members.new.add(&userid);
            self.batches.add(Observation::Member(userid, Fields::new()), began)?;
        }
        self.members_seen = members_seen.get();
        Ok(missing)
    }

    fn new_member(&mut self, userid: UserId, departments: Vec<u32>, at: UnixSeconds) -> Result<(), Abort> {
        self.differences.members.new.add(&userid);
        self.observe_member(userid, departments, at)
    }

    fn observe_member(
        &mut self,
        userid: UserId,
        departments: Vec<u32>,
        at: UnixSeconds,
    ) -> Result<(), Abort> {
        let fields = Fields::from([(MemberField::Department, Value::Ids(departments))]);
        Ok(self.batches.add(Observation::Member(userid, fields), at)?)
    }
}
