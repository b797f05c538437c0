//! Attribution of conversion answers to members.

use super::group::RenameGroup;
use super::record::{Answer, Conversion};
use crate::directory::clock::TOLERANCE;
use crate::directory::ids::UserId;
use crate::directory::time::Stamp;

impl RenameGroup {
    pub(super) fn answer(&mut self, userid: &UserId, stamp: Stamp, answer: &Answer) {
        if let Some((left, before)) = self.lost_holder(userid, stamp, answer) {
            // The answer is for the renamed member if no other member has held the name since the claim.
            let was_renamed = self.aliases.get(userid).is_some_and(|(_, at)| *at == left)
                && before.is_none_or(|before| before.second <= answer.claimed_at(stamp));
            let holder = self.resolve(userid);
            if was_renamed
                && let Some(holder) = self.members.get_mut(&holder).filter(|m| m.state.is_present())
            {
                holder.answer(stamp, answer);
            }
            return;
        }
        match self.members.get_mut(userid).filter(|member| member.state.is_present()) {
            Some(holder) => holder.answer(stamp, answer),
            // A refusal would end with the next event about the member.
            None if matches!(answer.conversion, Conversion::Openid(_)) => {
                self.unclaimed.insert(userid.clone(), (stamp, answer.clone()));
            }
            None => {}
        }
    }

    /// The last two times at which the name lost its holder, if the last one is between claim and answer.
    pub(super) fn lost_holder(
        &self,
        userid: &UserId,
        answered: Stamp,
        answer: &Answer,
    ) -> Option<(Stamp, Option<Stamp>)> {
        self.left_at.get(userid).copied().filter(|(left, _)| left.second > answer.claimed_at(answered))
    }

    /// Gives a waiting answer to the holder that appears at `stamp`. The answer may be dated slightly earlier, because clocks
    /// differ by seconds; it is about this holder if the name has not lost one since.
    pub(super) fn claim_answer(&mut self, userid: &UserId, stamp: Stamp) {
        let Some((at, answer)) = self.unclaimed.remove(userid) else { return };
        if self.lost_holder(userid, at, &answer).is_none()
            && stamp.second.since(at.second) <= TOLERANCE
            && let Some(holder) = self.members.get_mut(userid)
            && answer.claimed_at(at) > holder.state.reset_at.second
            && holder.openid.as_ref().is_none_or(|(known, ..)| *known < at)
        {
            holder.answer(at, &answer);
        }
    }
}
