//! One comparison from beginning to end: list, compare, repair, and delete only what is surely gone.

mod deletions;
mod departments;
mod tags;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use crate::store::Connection;
use crate::unix_time::unix_now;

use super::api_reader::{Ask, End, Refusal};
use super::report::{Plan, Report};
use super::write_batch::{Repairs, Target};
use crate::directory::comparison::{self, Deletions, Guard, MemberDifference};
use crate::directory::diff::Entity;
use crate::directory::listing::{Flaw, Listing, Members};
use crate::directory::{Fields, MemberField, UnixSeconds, UserId, Value};
use crate::shutdown::Shutdown;
use crate::store::observations::{Observation, Since, ahead_of};
use crate::store::reconciles::{ReconcileOutcome, count_members, known_members};
use crate::store::state::ReconcileProgress;
use crate::store::{StoreError, Writer};
use crate::wecom::api::directory::{PAGE, Skipped};
use crate::wecom::api::{ApiObserver, Client};

/// Known members that are compared at a time.
const RUN: usize = 2000;
/// Subjects that a note names; all are counted.
const NAMED: usize = 10;

/// What a comparison works with.
pub struct Engine<'a, L> {
    /// To ask WeCom.
    pub client: &'a Client<L>,
    /// To read the directory.
    pub reader: &'a Connection,
    /// To repair it; none: a dry run.
    pub writer: Option<&'a Writer>,
    /// Ends it.
    pub shutdown: &'a Shutdown,
    /// How many deletions are believed.
    pub guard: Guard,
    /// Takes the progress, often.
    pub progress: &'a dyn Fn(ReconcileProgress),
}

impl<L: ApiObserver> Engine<'_, L> {
    /// Compares and repairs.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn run(&self) -> Result<Report, StoreError> {
        let since = Since::now(self.reader, unix_now())?;
        let clock = self.client.clock();
        let target = self.writer.map(|writer| Target { writer, clock, since });
        let mut run = Run {
            engine: self,
            ask: Ask { client: self.client, shutdown: self.shutdown },
            repairs: Repairs::new(target, self.shutdown),
            since,
            deletions_held: false,
            plan: Plan::default(),
            notes: Vec::new(),
            members_seen: 0,
            is_partial: false,
            odd_rows: OddRows::default(),
            began: None,
        };
        let outcome = match run.all() {
            Ok(outcome) => outcome,
            Err(End::Stopped) => ReconcileOutcome::Stopped,
            Err(End::Failed(why)) => {
                run.notes.push(why);
                // What was seen until then is so all the same.
                let kept = run.repairs.flush();
                if kept.is_ok() { ReconcileOutcome::Failed } else { ReconcileOutcome::Stopped }
            }
        };
        Ok(Report {
            outcome,
            members_seen: run.members_seen,
            effect: run.repairs.effect(),
            plan: run.plan,
            notes: run.notes,
            deletions_held: run.deletions_held,
        })
    }
}

struct Run<'a, L> {
    engine: &'a Engine<'a, L>,
    ask: Ask<'a, L>,
    repairs: Repairs<'a>,
    plan: Plan,
    notes: Vec<String>,
    members_seen: usize,
    is_partial: bool,
    odd_rows: OddRows,
    began: Option<UnixSeconds>,
    /// The moment when the comparison began, in the database.
    since: Since,
    deletions_held: bool,
}

/// What rows that cannot be read leave open: nothing is deleted because of them.
#[derive(Default)]
struct OddRows {
    /// Members who are listed with a department that cannot be read.
    members: BTreeSet<UserId>,
    /// Rows of members whose userids cannot be read, and rows of `members`.
    of_members: (Skipped, Skipped),
    /// The listing of departments has rows of no known department.
    departments: bool,
    /// Entries of tags.
    of_tags: Skipped,
    /// Tags that are not compared.
    tags_refused: usize,
}

/// Members with unreadable rows that are remembered. With more of them no member is deleted.
const ODD_MEMBERS: usize = 10_000;
/// Tags that are not compared, by name.
const TAGS_NAMED: usize = 5;

/// What one kind's comparison found missing.
struct Missing<T> {
    what: Vec<T>,
    present: usize,
    /// When WeCom was asked, on its clock.
    at: UnixSeconds,
    /// Whether the listing named all that there is, so that older events cannot add to it.
    is_complete: bool,
}

impl<T> Missing<T> {
    fn none(at: UnixSeconds) -> Self {
        Self { what: Vec::new(), present: 0, at, is_complete: false }
    }

    fn deletions(&self) -> Deletions {
        Deletions { missing: self.what.len(), present: self.present }
    }
}

impl<L: ApiObserver> Run<'_, L> {
    fn all(&mut self) -> Result<ReconcileOutcome, End> {
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
        // What was seen counts, whatever may come of the deletions.
        self.repairs.flush()?;
        if let Some(flaw) = &flaw {
            self.notes.push(format!("no member is deleted, because {flaw}"));
            members.what.clear();
            departments.what.clear();
            members.is_complete = false;
            departments.is_complete = false;
        } else if !self.odd_rows.of_members.0.is_empty() {
            members.what.clear();
            members.is_complete = false;
        }
        let blocked = self.delete(&mut members, &mut departments, &mut tags)?;
        self.repairs.flush()?;
        if !blocked && !self.deletions_held && self.repairs.hidden().is_empty() {
            let kinds = [
                (Entity::Member, members.is_complete, members.at),
                (Entity::Department, departments.is_complete, departments.at),
                (Entity::Tag, tags.is_complete, tags.at),
            ];
            for (kind, _, at) in kinds.into_iter().filter(|(_, is_complete, _)| *is_complete) {
                self.repairs.add(Observation::Complete(kind), at)?;
            }
            self.repairs.flush()?;
        }
        self.verify_repairs();
        Ok(match (blocked, flaw) {
            (true, _) => ReconcileOutcome::Blocked,
            (false, Some(_)) => ReconcileOutcome::Failed,
            (false, None) if self.is_partial => ReconcileOutcome::Partial,
            (false, None) => ReconcileOutcome::Ok,
        })
    }

    /// The time that observations are stamped with: never later than the first question, so that an event which
    /// comes at any moment of the comparison stands above them.
    fn stamp(&mut self, at: UnixSeconds) -> UnixSeconds {
        let began = *self.began.get_or_insert(at);
        began.min(at)
    }

    /// A comparison is complete only if its repairs took effect.
    fn verify_repairs(&mut self) {
        let hidden = self.repairs.hidden();
        if hidden.is_empty() {
            return;
        }
        let names = hidden.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = if hidden.len() > NAMED { ", .." } else { "" };
        self.notes.push(format!(
            "{} repairs had no effect, because the directory has news that is dated later than WeCom's answers ({names}{more}); compare this machine's clock with WeCom's",
            hidden.len()
        ));
        self.is_partial = true;
    }

    /// Whether what a listing of `at` lacks, and the directory has with news of `event_time`, is missing: an event or a
    /// fetched answer that came since the comparison began explains it otherwise.
    fn is_missing(
        &self,
        event_time: UnixSeconds,
        at: UnixSeconds,
        absent: &Observation,
    ) -> Result<bool, End> {
        Ok(event_time < at || !absent.has_news_since(self.engine.reader, self.since)?)
    }

    /// Corrects times that were recorded while the estimate of WeCom's clock was wrong: they would hide what WeCom
    /// tells from now on.
    fn correct_times(&mut self) -> Result<(), End> {
        let estimate = self.engine.client.clock().estimate();
        let Some(latest) = estimate.latest().filter(|_| self.engine.writer.is_some()) else { return Ok(()) };
        let at = self.began.unwrap_or(estimate.now);
        let ahead = ahead_of(self.engine.reader, latest)?;
        if !ahead.is_empty() {
            log::warn!(
                "clock: {} members, departments and tags have times ahead of WeCom's clock; they are corrected",
                ahead.len()
            );
        }
        for subject in ahead {
            self.repairs.add(Observation::Ahead(subject), at)?;
        }
        Ok(self.repairs.flush()?)
    }

    fn tell(&self, phase: &'static str, done: usize, of: Option<usize>) {
        (self.engine.progress)(ReconcileProgress { phase: phase.into(), done, of });
    }

    /// Rows were skipped: which, and what follows.
    fn skipped(&mut self, what: &str, skipped: &Skipped) {
        if skipped.is_empty() {
            return;
        }
        self.is_partial = true;
        let text = format!("{what}: {} skipped: {skipped}", skipped.count);
        self.notes.push(self.engine.client.clean(&text));
    }

    fn partly(&mut self, what: &str, refusal: &Refusal) {
        self.is_partial = true;
        self.notes.push(format!("{what}: {refusal}"));
    }

    /// Lists all members; when the listing began.
    fn listing(&mut self) -> Result<Option<(Listing, UnixSeconds)>, End> {
        let first = self.list(PAGE)?;
        if first.as_ref().is_some_and(|(listing, _)| listing.flaw() == Some(Flaw::EmptyPage)) {
            // It may only be that the last page was full; another size of page tells.
            return self.list(PAGE - PAGE / 7);
        }
        Ok(first)
    }

    fn list(&mut self, limit: u32) -> Result<Option<(Listing, UnixSeconds)>, End> {
        let client = self.engine.client;
        let (mut listing, mut cursor, mut began) = (Listing::default(), String::new(), None);
        let (mut nameless, mut skipped) = (Skipped::default(), Skipped::default());
        self.odd_rows.members.clear();
        loop {
            self.tell("listing members", listing.len(), None);
            let seen = match self.ask.about(|| client.list_ids(&cursor, limit)) {
                Ok(Ok(seen)) => seen,
                Ok(Err(refusal)) if began.is_none() => {
                    self.partly("members are not compared", &refusal);
                    return Ok(None);
                }
                Ok(Err(refusal)) => {
                    self.partly("the listing broke off", &refusal);
                    listing.flawed(Flaw::BrokenOff);
                    break;
                }
                Err(End::Failed(why)) if began.is_some() => {
                    self.notes.push(format!("the listing broke off: {why}"));
                    listing.flawed(Flaw::BrokenOff);
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
            self.odd_rows.members.extend(page.odd);
            if self.odd_rows.members.len() > ODD_MEMBERS {
                listing.flawed(Flaw::NotUserids);
            }
            nameless.extend(page.nameless);
            skipped.extend(page.skipped);
            if !listing.add(&page.rows, &page.next_cursor) {
                break;
            }
            cursor = page.next_cursor;
        }
        self.odd_rows.of_members = (nameless, skipped);
        Ok(began.map(|began| (listing, began)))
    }

    fn members(&mut self, listed: Members, began: UnixSeconds) -> Result<Missing<UserId>, End> {
        let (nameless, skipped) = self.odd_rows.of_members.clone();
        self.skipped("rows of members, for which none is deleted", &nameless);
        self.skipped("departments of members, which stay as they are", &skipped);
        let odd = std::mem::take(&mut self.odd_rows.members);
        // Members without any readable row.
        let odd_only = RefCell::new(odd.clone());
        let (rows, rows_seen) = (listed.rows(), Cell::new(0));
        let members_seen = Cell::new(0);
        let mut listed = listed
            .inspect(|(userid, departments)| {
                odd_only.borrow_mut().remove(userid);
                members_seen.set(members_seen.get() + 1);
                rows_seen.set(rows_seen.get() + departments.len());
            })
            .peekable();
        let mut missing = Missing {
            what: Vec::new(),
            present: count_members(self.engine.reader)?,
            at: began,
            is_complete: true,
        };
        let mut after = String::new();
        loop {
            self.tell("comparing members", rows_seen.get(), Some(rows));
            let known = known_members(self.engine.reader, &after, RUN)?;
            for difference in comparison::members(&mut listed, &known) {
                match difference {
                    MemberDifference::New(userid, departments) => {
                        self.new_member(userid, departments, began)?
                    }
                    // Present, with departments of which not all can be read.
                    MemberDifference::Changed(userid, _) | MemberDifference::Missing(userid, _)
                        if odd.contains(&userid) =>
                    {
                        odd_only.borrow_mut().remove(&userid);
                    }
                    MemberDifference::Changed(userid, departments) => {
                        self.plan.members.changed.add(&userid);
                        self.see_member(userid, departments, began)?;
                    }
                    MemberDifference::Missing(userid, event_time) => {
                        // One that joined after its page was written is not missing.
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
            self.tell("adding members", rows_seen.get(), Some(rows));
            self.new_member(userid, departments, began)?;
        }
        for userid in odd_only.into_inner() {
            members_seen.set(members_seen.get() + 1);
            self.plan.members.new.add(&userid);
            self.repairs.add(Observation::Member(userid, Fields::new()), began)?;
        }
        self.members_seen = members_seen.get();
        Ok(missing)
    }

    fn new_member(&mut self, userid: UserId, departments: Vec<u32>, at: UnixSeconds) -> Result<(), End> {
        self.plan.members.new.add(&userid);
        self.see_member(userid, departments, at)
    }

    fn see_member(&mut self, userid: UserId, departments: Vec<u32>, at: UnixSeconds) -> Result<(), End> {
        let fields = Fields::from([(MemberField::Department, Value::Ids(departments))]);
        Ok(self.repairs.add(Observation::Member(userid, fields), at)?)
    }
}
