//! Deletions: of proven absences, within the guard, and none while clocks contradict each other.

use super::super::api_reader::{Abort, Existence};
use super::{Missing, Run};
use crate::directory::comparison::{Deletions, Inquiry};
use crate::directory::{DepartmentId, TagId, UserId};
use crate::store::observations::Observation;
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
            members.is_complete = false;
        }
        let deletions = Deletions { missing: gone.len() + unasked.len(), present: members.present };
        let blocked = guard.blocks(&[deletions, others[0], others[1]]);
        self.plan_deletions(gone.iter().chain(&unasked), departments, tags);
        if blocked {
            let number = self.plan.deletions();
            self.notes.push(format!(
                "nothing is deleted, because {number} deletions are more than max_delete_percent allows; if they are right: wecom-dirsync reconcile --allow-deletes {number}"
            ));
            return Ok(true);
        }
        for userid in gone {
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

    /// Holds the deletions while the Date of WeCom's answers is unconfirmed: a cache may have sent an old listing.
    fn hold_deletions(
        &mut self,
        members: &Missing<UserId>,
        departments: &Missing<DepartmentId>,
        tags: &Missing<TagId>,
    ) -> bool {
        let Some(seconds) = self.comparison.client.clock().estimate().contradiction else { return false };
        self.plan_deletions(members.what.iter(), departments, tags);
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

    fn plan_deletions<'a>(
        &mut self,
        members: impl Iterator<Item = &'a UserId>,
        departments: &Missing<DepartmentId>,
        tags: &Missing<TagId>,
    ) {
        members.for_each(|userid| self.plan.members.missing.add(userid));
        departments.what.iter().for_each(|id| self.plan.departments.missing.add(id));
        tags.what.iter().for_each(|tag| self.plan.tags.missing.add(tag));
    }

    /// Asks for each missing member by name, until the guard blocks or the answers disprove the listing.
    fn inquire(&mut self, members: &mut Missing<UserId>, others: &[Deletions; 2]) -> Result<Inquired, Abort> {
        let guard = self.comparison.guard;
        let missing = std::mem::take(&mut members.what);
        let total = missing.len();
        let mut found = Inquiry::default();
        let mut refused = None;
        let mut left = missing.into_iter();
        for (done, userid) in left.by_ref().enumerate() {
            self.progress("asking for missing members by name", done, Some(total));
            match self.api.existence(&userid)? {
                Existence::Absent => found.gone.push(userid),
                Existence::Present => found.there += 1,
                Existence::Unknown(denial) => {
                    found.unclear += 1;
                    let is_for_all = denial.is_for_all;
                    refused = Some(denial);
                    if is_for_all {
                        // No member can be confirmed as absent, so none is deleted.
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
        if let Some(denial) = refused {
            let what = format!(
                "{} members are not listed, and kept, because WeCom does not say whether they are gone",
                found.unclear
            );
            self.note_denial(&what, &denial);
        }
        let disproved = found.disproves_the_listing();
        Ok(Inquired { gone: found.gone, unasked: left.collect(), disproved })
    }
}

/// The result of asking for missing members by name.
struct Inquired {
    gone: Vec<UserId>,
    unasked: Vec<UserId>,
    disproved: bool,
}
