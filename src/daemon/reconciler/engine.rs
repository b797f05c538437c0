//! One comparison from beginning to end: list, compare, repair, and delete only what is surely gone.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use rusqlite::Connection;

use super::asking::{Ask, End, Existence, Refusal};
use super::plan::{Plan, Report};
use super::repairs::{Repairs, Target};
use crate::directory::comparison::{self, Deletions, Guard, Inquiry, MemberDifference, SetDifference};
use crate::directory::listing::{Flaw, Listing, Members};
use crate::directory::{
    DepartmentField, DepartmentId, Fields, MemberField, TagId, UnixSeconds, UserId, Value,
};
use crate::stop::Stop;
use crate::store::observed::{Observation, Since, ahead_of};
use crate::store::reconciles::{
    ReconcileOutcome, count_members, known_departments, known_members, known_tag_content, known_tags,
};
use crate::store::{StoreError, Writer};
use crate::wecom::api::{Client, Listener, SecretKind, clock};
use crate::wecom::read::{DepartmentList, Departments, PAGE, Seen, Skipped, TagContent};

/// Known members that are compared at a time.
const RUN: usize = 2000;
/// Subjects that a note names; all are counted.
const NAMED: usize = 10;

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What it is at.
    pub phase: &'static str,
    /// So many are done ..
    pub done: usize,
    /// .. of so many, as far as that is known.
    pub of: Option<usize>,
}

/// What a comparison works with.
pub struct Engine<'a, L> {
    /// To ask WeCom.
    pub client: &'a Client<L>,
    /// To read the directory.
    pub reader: &'a Connection,
    /// To repair it; none: a dry run.
    pub writer: Option<&'a Writer>,
    /// Ends it.
    pub stop: &'a Stop,
    /// How many deletions are believed.
    pub guard: Guard,
    /// Hears how far it is.
    pub tell: &'a dyn Fn(Progress),
}

impl<L: Listener> Engine<'_, L> {
    /// Compares and repairs.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn run(&self) -> Result<Report, StoreError> {
        let since = Since::now(self.reader, clock())?;
        let clock = self.client.clock();
        let target = self.writer.map(|writer| Target { writer, clock, since });
        let mut run = Run {
            engine: self,
            ask: Ask { client: self.client, stop: self.stop },
            repairs: Repairs::new(target, self.stop),
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

/// Members with odd rows that are remembered; more, and nobody is deleted.
const ODD_MEMBERS: usize = 10_000;
/// Tags that are not compared, by name.
const TAGS_NAMED: usize = 5;

/// What one kind's comparison found missing.
struct Missing<T> {
    what: Vec<T>,
    present: usize,
    /// When WeCom was asked, on its clock.
    at: UnixSeconds,
}

impl<T> Missing<T> {
    fn none(at: UnixSeconds) -> Self {
        Self { what: Vec::new(), present: 0, at }
    }

    fn deletions(&self) -> Deletions {
        Deletions { missing: self.what.len(), present: self.present }
    }
}

impl<L: Listener> Run<'_, L> {
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
        } else if !self.odd_rows.of_members.0.is_empty() {
            members.what.clear();
        }
        let blocked = self.delete(&mut members, &mut departments, &mut tags)?;
        self.repairs.flush()?;
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

    /// Whether an event or a fetched answer explains why the directory differs from a listing.
    fn has_news(&self, about: &Observation) -> Result<bool, End> {
        Ok(about.has_news_since(self.engine.reader, self.since)?)
    }

    /// Corrects times that were recorded while the estimate of WeCom's clock was wrong: they would hide what WeCom
    /// tells from now on.
    fn correct_times(&mut self) -> Result<(), End> {
        let estimate = self.engine.client.clock().estimate();
        let Some(latest) = estimate.latest() else { return Ok(()) };
        let at = self.began.unwrap_or(estimate.now);
        for subject in ahead_of(self.engine.reader, latest)? {
            self.repairs.add(Observation::Ahead(subject), at)?;
        }
        Ok(self.repairs.flush()?)
    }

    fn tell(&self, phase: &'static str, done: usize, of: Option<usize>) {
        (self.engine.tell)(Progress { phase, done, of });
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

    /// All departments, and the time of the listing; `None` if WeCom does not show them.
    fn department_structure(&mut self) -> Result<Option<Seen<Departments>>, End> {
        self.tell("departments", 0, None);
        let client = self.engine.client;
        let mut structure = self.ask.about(|| client.department_ids())?;
        if structure.is_err() {
            structure = self.ask.about(|| client.departments(SecretKind::Contacts))?;
        }
        match structure {
            Ok(Seen { what: DepartmentList { mut departments, nameless, skipped }, at }) => {
                let at = self.stamp(at);
                self.odd_rows.departments = !nameless.is_empty();
                self.skipped("rows of departments, for which none is deleted", &nameless);
                self.skipped("values of departments", &skipped);
                self.department_names(&mut departments)?;
                Ok(Some(Seen { what: departments, at }))
            }
            Err(refusal) => {
                self.partly("departments are not compared", &refusal);
                Ok(None)
            }
        }
    }

    /// Adds the names, as far as some secret may see them.
    fn department_names(&mut self, structure: &mut Departments) -> Result<(), End> {
        let client = self.engine.client;
        let is_named = |fields: &Fields<DepartmentField>| fields.contains_key(&DepartmentField::Name);
        let mut refused = None;
        for secret in [SecretKind::App, SecretKind::Contacts] {
            if structure.values().all(is_named) || !client.has_secret(secret) {
                continue;
            }
            match self.ask.about(|| client.departments(secret))? {
                Ok(named) => {
                    self.skipped("values of departments", &named.what.skipped);
                    for (id, fields) in named.what.departments {
                        let name = fields.get(&DepartmentField::Name);
                        if let (Some(department), Some(name)) = (structure.get_mut(&id), name) {
                            department.insert(DepartmentField::Name, name.clone());
                        }
                    }
                }
                Err(refusal) => refused = Some(refusal),
            }
        }
        let nameless: Vec<DepartmentId> =
            structure.iter().filter(|(_, fields)| !is_named(fields)).map(|(id, _)| *id).collect();
        // Where no list is to be had, one by one may be.
        for (done, id) in nameless.iter().enumerate() {
            self.tell("names of departments", done, Some(nameless.len()));
            match self.ask.about(|| client.department(*id, SecretKind::App))? {
                Ok(seen) => structure
                    .entry(*id)
                    .or_default()
                    .extend(seen.what.into_iter().filter(|(field, _)| *field == DepartmentField::Name)),
                Err(refusal) if refusal.is_for_all => {
                    refused = Some(refusal);
                    break;
                }
                // What came back cannot be used; a refusal concerns this department alone.
                Err(refusal) if refusal.errcode.is_none() => refused = Some(refusal),
                Err(_) => {}
            }
        }
        if let Some(refusal) = refused.filter(|_| !structure.values().all(is_named)) {
            self.partly("names of some departments are not known", &refusal);
        }
        Ok(())
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
            let page = seen.what;
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

    fn departments(
        &mut self,
        structure: Option<Seen<Departments>>,
        with_members: &BTreeSet<DepartmentId>,
    ) -> Result<Missing<DepartmentId>, End> {
        let Some(Seen { what: structure, at }) = structure else {
            return Ok(Missing::none(UnixSeconds::default()));
        };
        let known = known_departments(self.engine.reader)?;
        let differences = comparison::departments(&structure, &known);
        for (id, fields) in differences.new {
            self.plan.departments.new.add(id);
            self.repairs.add(Observation::Department(id, fields), at)?;
        }
        for (id, fields) in differences.changed {
            self.plan.departments.changed.add(id);
            self.repairs.add(Observation::Department(id, fields), at)?;
        }
        let mut missing = Missing { what: Vec::new(), present: known.len(), at };
        for (id, event_time) in differences.missing {
            if event_time < at || !self.has_news(&Observation::DepartmentAbsent(id))? {
                missing.what.push(id);
            }
        }
        // The company itself is always one; and members are only in departments that there are.
        let is_incomplete = self.odd_rows.departments
            || structure.is_empty()
            || with_members.iter().any(|id| !structure.contains_key(id));
        if is_incomplete && !missing.what.is_empty() {
            self.notes
                .push("no department is deleted, because the listing of departments is incomplete".into());
            missing.what.clear();
        }
        Ok(missing)
    }

    fn members(&mut self, listed: Members, began: UnixSeconds) -> Result<Missing<UserId>, End> {
        let (nameless, skipped) = self.odd_rows.of_members.clone();
        self.skipped("rows of members, for which none is deleted", &nameless);
        self.skipped("departments of members, which stay as they are", &skipped);
        let odd = std::mem::take(&mut self.odd_rows.members);
        // Those who have no row that can be read.
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
        let mut missing =
            Missing { what: Vec::new(), present: count_members(self.engine.reader)?, at: began };
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
                        let is_missing = event_time < began
                            || !self.has_news(&Observation::MemberAbsent(userid.clone()))?;
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

    /// Tags, and who and what is in each.
    fn tags(&mut self) -> Result<Missing<TagId>, End> {
        self.tell("tags", 0, None);
        let client = self.engine.client;
        let (mut secret, mut listed) =
            (SecretKind::Contacts, self.ask.about(|| client.tags(SecretKind::Contacts))?);
        if listed.is_err() && client.has_secret(SecretKind::App) {
            (secret, listed) = (SecretKind::App, self.ask.about(|| client.tags(SecretKind::App))?);
        }
        let Seen { what: listed, at } = match listed {
            Ok(seen) => seen,
            Err(refusal) => {
                self.partly("tags are not compared", &refusal);
                return Ok(Missing::none(UnixSeconds::default()));
            }
        };
        let at = self.stamp(at);
        self.skipped("rows of tags, for which none is deleted", &listed.nameless);
        self.skipped("names of tags", &listed.skipped);
        let (tags, is_whole) = (listed.tags, listed.nameless.is_empty());
        // An app sees some tags, and of them the members that it may see.
        let sees_all = secret == SecretKind::Contacts;
        if !sees_all {
            self.is_partial = true;
            self.notes.push("of tags only what the app may see is compared, and nothing is removed".into());
        }
        let known = known_tags(self.engine.reader)?;
        let total = tags.len();
        for (done, (tag, name)) in tags.iter().enumerate() {
            self.tell("tags", done, Some(total));
            match (known.get(tag), name) {
                (None, _) => self.plan.tags.new.add(tag),
                (Some((known, _)), Some(_)) if known != name => self.plan.tags.changed.add(tag),
                (Some(_), _) => {}
            }
            if let Some(name) = name
                && !matches!(known.get(tag), Some((Some(known), _)) if known == name)
            {
                self.repairs.add(Observation::Tag(*tag, name.clone()), at)?;
            }
            match self.ask.about(|| client.tag(*tag, secret))? {
                Ok(content) => self.tag(*tag, content, sees_all, known.contains_key(tag))?,
                Err(refusal) => {
                    self.is_partial = true;
                    self.odd_rows.tags_refused += 1;
                    if refusal.is_for_all || self.odd_rows.tags_refused <= TAGS_NAMED {
                        self.partly(&format!("tag {tag} is not compared"), &refusal);
                    }
                    if refusal.is_for_all {
                        return Ok(Missing::none(at));
                    }
                }
            }
        }
        if let Some(more) = self.odd_rows.tags_refused.checked_sub(TAGS_NAMED).filter(|more| *more > 0) {
            self.notes.push(format!("{more} more tags are not compared"));
        }
        let skipped = std::mem::take(&mut self.odd_rows.of_tags);
        self.skipped("entries of tags, which stay as they are", &skipped);
        let mut missing = Missing { what: Vec::new(), present: known.len(), at };
        for (tag, (_, event_time)) in known.iter().filter(|_| sees_all && is_whole && !tags.is_empty()) {
            let is_listed = tags.contains_key(tag);
            if !is_listed && (*event_time < at || !self.has_news(&Observation::TagAbsent(*tag))?) {
                missing.what.push(*tag);
            }
        }
        Ok(missing)
    }

    fn tag(
        &mut self,
        tag: TagId,
        Seen { what: content, at }: Seen<TagContent>,
        sees_all: bool,
        was_known: bool,
    ) -> Result<(), End> {
        let at = self.stamp(at);
        let (known_members, known_departments) = known_tag_content(self.engine.reader, tag)?;
        let mut members = SetDifference::of(&content.members, &known_members);
        let mut departments = SetDifference::of(&content.departments, &known_departments);
        // What cannot be read may be what seems to be missing.
        if !sees_all || !content.skipped.is_empty() {
            members.removed.clear();
            departments.removed.clear();
        }
        self.odd_rows.of_tags.extend(content.skipped.within(&format!("tag {tag}")));
        if was_known && !(members.is_empty() && departments.is_empty()) {
            self.plan.tags.changed.add(tag);
        }
        for (list, within) in [(members.added, true), (members.removed, false)] {
            for userid in list {
                self.repairs.add(Observation::TagMember(tag, userid, within), at)?;
            }
        }
        for (list, within) in [(departments.added, true), (departments.removed, false)] {
            for id in list {
                self.repairs.add(Observation::TagDepartment(tag, id, within), at)?;
            }
        }
        Ok(())
    }

    /// Deletes what is surely gone, if it is not too much; whether it was.
    fn delete(
        &mut self,
        members: &mut Missing<UserId>,
        departments: &mut Missing<DepartmentId>,
        tags: &mut Missing<TagId>,
    ) -> Result<bool, End> {
        let guard = self.engine.guard;
        let others = [departments.deletions(), tags.deletions()];
        if self.hold_deletions(members, departments, tags) {
            return Ok(false);
        }
        let inquiry = self.inquire(members, &others)?;
        let mut gone = inquiry.gone;
        let mut unasked = inquiry.unasked;
        if inquiry.disproved {
            self.is_partial = true;
            self.notes.push(
                "no member is deleted, because WeCom knows most of those that its listing lacks".into(),
            );
            gone.clear();
            unasked.clear();
        }
        let deletions = Deletions { missing: gone.len() + unasked.len(), present: members.present };
        let blocked = guard.blocks(&[deletions, others[0], others[1]]);
        gone.iter().chain(&unasked).for_each(|userid| self.plan.members.missing.add(userid));
        departments.what.iter().for_each(|id| self.plan.departments.missing.add(id));
        tags.what.iter().for_each(|tag| self.plan.tags.missing.add(tag));
        if blocked {
            let number = self.plan.deletions();
            self.notes.push(format!(
                "nothing is deleted, because {number} deletions are more than max_delete_percent allows; if they are right: wecom-dirsync reconcile --allow-deletes {number}"
            ));
            return Ok(true);
        }
        for userid in gone {
            self.repairs.add(Observation::MemberAbsent(userid), members.at)?;
        }
        for id in departments.what.drain(..) {
            self.repairs.add(Observation::DepartmentAbsent(id), departments.at)?;
        }
        for tag in tags.what.drain(..) {
            self.repairs.add(Observation::TagAbsent(tag), tags.at)?;
        }
        Ok(false)
    }

    /// Whether nothing is deleted, because WeCom's answers carry a Date that nothing confirms: a cache may have given
    /// an old listing.
    fn hold_deletions(
        &mut self,
        members: &Missing<UserId>,
        departments: &Missing<DepartmentId>,
        tags: &Missing<TagId>,
    ) -> bool {
        let Some(seconds) = self.engine.client.clock().estimate().contradiction else { return false };
        members.what.iter().for_each(|userid| self.plan.members.missing.add(userid));
        departments.what.iter().for_each(|id| self.plan.departments.missing.add(id));
        tags.what.iter().for_each(|tag| self.plan.tags.missing.add(tag));
        let number = self.plan.deletions();
        if number == 0 {
            return false;
        }
        self.is_partial = true;
        self.deletions_held = true;
        self.notes.push(format!(
            "{number} deletions are held, because the Date of WeCom's answers differs from this machine's clock by {seconds} s and no event confirms it; check this machine's clock (NTP), and the gateways and caches in front of api_base"
        ));
        true
    }

    /// Asks for each missing member by name, until it is clear that there are too many, or that the listing was
    /// wrong.
    fn inquire(&mut self, members: &mut Missing<UserId>, others: &[Deletions; 2]) -> Result<Inquired, End> {
        let guard = self.engine.guard;
        let missing = std::mem::take(&mut members.what);
        let total = missing.len();
        let mut found = Inquiry::default();
        let mut refused = None;
        let mut left = missing.into_iter();
        for (done, userid) in left.by_ref().enumerate() {
            self.tell("asking for missing members by name", done, Some(total));
            match self.ask.for_member(&userid)? {
                Existence::Gone => found.gone.push(userid),
                Existence::There => found.there += 1,
                Existence::Unclear(refusal) => {
                    found.unclear += 1;
                    let is_for_all = refusal.is_for_all;
                    refused = Some(refusal);
                    if is_for_all {
                        // Nobody can be asked for: nobody is deleted.
                        found.unclear += left.len();
                        left = Vec::new().into_iter();
                        break;
                    }
                }
            }
            let so_far = Deletions { missing: found.gone.len(), present: members.present };
            if found.disproves_the_listing() || guard.blocks(&[so_far, others[0], others[1]]) {
                break;
            }
        }
        if let Some(refusal) = refused {
            let what = format!(
                "{} members are not listed, and kept, because WeCom does not say whether they are gone",
                found.unclear
            );
            self.partly(&what, &refusal);
        }
        let disproved = found.disproves_the_listing();
        Ok(Inquired { gone: found.gone, unasked: left.collect(), disproved })
    }
}

/// What asking by name came to.
struct Inquired {
    gone: Vec<UserId>,
    unasked: Vec<UserId>,
    disproved: bool,
}
