//! Deletions: of proven absences, within the guard, and none while clocks contradict each other.

use super::super::api_reader::{Abort, Existence};
use super::{Missing, Run};
use crate::daemon::COMMIT_TIMEOUT;
use crate::directory::comparison::{Deletions, ExistenceChecks, Guard};
use crate::directory::{DepartmentId, TagId, UserId};
use crate::store::deletions::{deleted_within_a_day, record_deletions};
use crate::store::observations::Observation;
use crate::unix_time::unix_now;
use crate::wecom::api::ApiObserver;

impl<L: ApiObserver> Run<'_, L> {
    /// Deletes what is proven absent; true if the guard blocks it.
    pub(super) fn delete(
        &mut self,
        members: &mut Missing<UserId>,
        departments: &mut Missing<DepartmentId>,
        tags: &mut Missing<TagId>,
    ) -> Result<bool, Abort> {
        let guard = self.comparison.guard;
        let recent = deleted_within_a_day(self.comparison.reader, unix_now())?;
        let others = [departments.deletions(recent[1]), tags.deletions(recent[2])];
        if self.hold_deletions(members, departments, tags) {
            return Ok(false);
        }
        let checked = self.check_missing(members, recent[0], &others)?;
        let mut absent = checked.absent;
        let mut unchecked = checked.unchecked;
        if checked.disproved {
            self.is_partial = true;
            self.notes.push(
                "no member is deleted, because WeCom knows most of those that its listing lacks".into(),
            );
            absent.clear();
            unchecked.clear();
            members.is_complete = false;
        }
        let missing = absent.len() + unchecked.len();
        let deletions =
            [Deletions { missing, present: members.present, recent: recent[0] }, others[0], others[1]];
        let blocked = guard.blocks(&deletions);
        self.record_deletions(absent.iter().chain(&unchecked), departments, tags);
        if blocked {
            let number = self.differences.deletions();
            let earlier = match recent.iter().sum::<usize>() {
                0 => String::new(),
                earlier => format!(", after {earlier} within a day,"),
            };
            self.notes.push(format!(
                "nothing is deleted, because {number} deletions{earlier} are more than max_delete_percent allows; if they are right: wecom-dirsync reconcile --allow-deletes {number}"
            ));
            return Ok(true);
        }
        // Those that only the operator's number allows do not count later.
        if !(Guard { allowed: None, ..guard }).blocks(&deletions) {
            self.count_deletions(deletions.map(|kind| kind.missing))?;
        }
        for userid in absent {
            self.batches.add(Observation::MemberAbsent(userid), members.at)?;
        }
        for id in departments.what.drain(..) {
            self.batches.add(Observation::DepartmentAbsent(id), departments.at)?;
        }
        for tag in tags.what.drain(..) {
            self.batches.add(Observation::TagAbsent(tag), tags.at)?;
        }
        Ok(false)
    }

    /// Records the deletions for the guard of the next comparisons, before they are made: this process may be killed.
    fn count_deletions(&self, counts: [usize; 3]) -> Result<(), Abort> {
        let Some(writer) = self.comparison.writer.filter(|_| counts != [0; 3]) else { return Ok(()) };
        let recorded =
            writer.run(COMMIT_TIMEOUT, move |connection| record_deletions(connection, counts, unix_now()));
        recorded.map_err(|error| Abort::Failed(format!("the deletions cannot be counted: {error}")))
    }

    /// Holds the deletions while the Date of WeCom's answers is unconfirmed: a cache may have sent an old listing.
    fn hold_deletions(
        &mut self,
        members: &Missing<UserId>,
        departments: &Missing<DepartmentId>,
        tags: &Missing<TagId>,
    ) -> bool {
        let Some(seconds) = self.comparison.client.clock().estimate().contradiction else { return false };
        self.record_deletions(members.what.iter(), departments, tags);
        let number = self.differences.deletions();
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

    fn record_deletions<'a>(
        &mut self,
        members: impl Iterator<Item = &'a UserId>,
        departments: &Missing<DepartmentId>,
        tags: &Missing<TagId>,
    ) {
        members.for_each(|userid| self.differences.members.missing.add(userid));
        departments.what.iter().for_each(|id| self.differences.departments.missing.add(id));
        tags.what.iter().for_each(|tag| self.differences.tags.missing.add(tag));
    }

    /// Calls user/get for each missing member, until the guard blocks or the answers disprove the listing.
    fn check_missing(
        &mut self,
        members: &mut Missing<UserId>,
        recent: usize,
        others: &[Deletions; 2],
    ) -> Result<CheckedMembers, Abort> {
        let guard = self.comparison.guard;
        let missing = std::mem::take(&mut members.what);
        let total = missing.len();
        let mut found = ExistenceChecks::default();
        let mut refused = None;
        let mut left = missing.into_iter();
        for (done, userid) in left.by_ref().enumerate() {
            self.progress("checking missing members", done, Some(total));
            match self.api.existence(&userid)? {
                Existence::Absent => found.absent.push(userid),
                Existence::Present => found.present += 1,
                Existence::Unknown(denial) => {
                    found.unknown += 1;
                    let is_for_all = denial.is_for_all;
                    refused = Some(denial);
                    if is_for_all {
                        // No member can be confirmed as absent, so none is deleted.
                        found.unknown += left.len();
                        left = Vec::new().into_iter();
                        break;
                    }
                }
            }
            let so_far = Deletions { missing: found.absent.len(), present: members.present, recent };
            if found.disproves_the_listing() || guard.blocks(&[so_far, others[0], others[1]]) {
                break;
            }
        }
        if let Some(denial) = refused {
            let what = format!(
                "{} members are not listed, but kept, because WeCom does not show whether they exist",
                found.unknown
            );
            self.note_denial(&what, &denial);
        }
        let disproved = found.disproves_the_listing();
        Ok(CheckedMembers { absent: found.absent, unchecked: left.collect(), disproved })
    }
}

/// The existence of missing members.
struct CheckedMembers {
    absent: Vec<UserId>,
    unchecked: Vec<UserId>,
    disproved: bool,
}
