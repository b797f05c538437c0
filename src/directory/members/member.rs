//! One member: its identity, its state, and the snapshot that folds to it.

use super::record::{Answer, Conversion, MemberFact};
use crate::directory::entity::EntityState;
use crate::directory::fact::{Fact, Presence, TimedFields};
use crate::directory::fields::MemberField;
use crate::directory::ids::UserId;
use crate::directory::time::{Rank, Stamp};

/// Identifies a member across renames: its first known userid, and the time at which the former holder lost that name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberIdentity {
    pub(super) first_userid: UserId,
    pub(super) reset_at: Stamp,
}

/// A member, folded from its facts.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Stays the same when the member is renamed.
    pub identity: MemberIdentity,
    /// The present userid in WeCom's latest spelling.
    pub userid: UserId,
    /// Existence, fields and tags, without the openid.
    pub state: EntityState<MemberField>,
    /// Time of the answer, seconds between claim and answer, openid.
    pub(super) openid: Option<(Stamp, i64, String)>,
    /// Time of the refusal, errcode, errmsg; `None` once a later event names the member.
    pub(super) refused: Option<(Stamp, i64, String)>,
}

impl Member {
    pub(super) fn new(userid: &UserId, reset_at: Stamp) -> Self {
        Self {
            identity: MemberIdentity { first_userid: userid.clone(), reset_at },
            userid: userid.clone(),
            state: EntityState { reset_at, ..EntityState::default() },
            openid: None,
            refused: None,
        }
    }

    /// The openid, if WeCom has converted the member.
    #[must_use]
    pub fn openid(&self) -> Option<&str> {
        self.openid.as_ref().map(|(.., openid)| openid.as_str())
    }

    /// Whether a final refusal is in force: no openid, and no later event about the member.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.openid.is_none() && self.refused.is_some()
    }

    pub(super) fn upsert(&mut self, userid: &UserId, stamp: Stamp, fields: &TimedFields<MemberField>) {
        if self.state.deleted.is_some() {
            self.openid = None;
            self.refused = None;
        }
        self.state.upsert(stamp, fields);
        self.identity.reset_at = self.state.reset_at;
        if !stamp.is_observed() {
            self.refused = None;
        }
        if self.userid == *userid {
            self.userid = userid.clone();
        }
    }

    /// Removes answers of the second in which the member leaves its name, or later ones: they may be about the next
    /// holder. Only a snapshot contains such answers.
    pub(super) fn forget_answers_of(&mut self, stamp: Stamp) {
        if self.openid.as_ref().is_some_and(|(at, ..)| at.second >= stamp.second) {
            self.openid = None;
        }
        if self.refused.as_ref().is_some_and(|(at, ..)| at.second >= stamp.second) {
            self.refused = None;
        }
    }

    pub(super) fn answer(&mut self, stamp: Stamp, answer: &Answer) {
        match &answer.conversion {
            Conversion::Openid(openid) => {
                self.openid = Some((stamp, answer.asked_before, openid.clone()));
                self.refused = None;
            }
            Conversion::Refused(errcode, errmsg) if self.openid.is_none() => {
                self.refused = Some((stamp, *errcode, errmsg.clone()));
            }
            // A refusal does not remove an openid.
            Conversion::Refused(..) => {}
        }
    }

    /// The smallest list of facts that folds to this member.
    pub(super) fn snapshot(&self) -> Vec<(Stamp, MemberFact)> {
        // A name without a holder that only tags mention has no deletion of its own.
        let is_left = !self.state.known && self.state.deleted.is_none();
        let entity = self.state.snapshot().into_iter().map(|(stamp, fact)| match fact {
            Fact::Deleted if is_left => (stamp, Fact::Absent),
            fact => (stamp, fact),
        });
        let mut facts: Vec<_> = entity.map(|(stamp, fact)| (stamp, MemberFact::Entity(fact))).collect();
        let answered_at =
            [self.openid.as_ref().map(|(at, ..)| *at), self.refused.as_ref().map(|(at, ..)| *at)];
        if let Some(at) = answered_at.into_iter().flatten().min() {
            // The member exists at the answer, even if its newest fields are later.
            let exists = Fact::Present(Presence::Updated, TimedFields::new());
            facts.push((Stamp::new(at.second, Rank::Listed), MemberFact::Entity(exists)));
        }
        // The answer is attributed already, so changes of the name during the call no longer matter.
        let mut answered = |stamp, conversion| {
            facts.push((stamp, MemberFact::Answered(Answer { asked_before: 0, conversion })))
        };
        if let Some((stamp, _, openid)) = &self.openid {
            answered(*stamp, Conversion::Openid(openid.clone()));
        }
        if let Some((stamp, errcode, errmsg)) = &self.refused {
            answered(*stamp, Conversion::Refused(*errcode, errmsg.clone()));
        }
        facts
    }
}
