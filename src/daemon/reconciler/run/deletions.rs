//! Deletions: only what is surely gone, never too much, and none while clocks contradict each other.

use super::super::api_reader::{End, Existence};
use super::{Missing, Run};
use crate::directory::comparison::{Deletions, Inquiry};
use crate::directory::{DepartmentId, TagId, UserId};
use crate::store::observations::Observation;
use crate::wecom::api::ApiObserver;

impl<L: ApiObserver> Run<'_, L> {
    /// Deletes what is surely gone, if it is not too much; whether it was.
    pub(super) fn delete(
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
                        // No member can be looked up, so no member is deleted.
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
