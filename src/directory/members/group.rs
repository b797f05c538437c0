//! The fold of a group of names that renames connect.

use std::collections::BTreeMap;

use super::member::Member;
use super::record::{Answer, MemberFact, Record};
use crate::directory::fact::{Fact, Presence, TimedFields, fold_order};
use crate::directory::fields::MemberField;
use crate::directory::ids::UserId;
use crate::directory::restamp::Restamped;
use crate::directory::time::{Rank, Stamp};

/// The members of all names that renames connect.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RenameGroup {
    /// By present userid; includes deleted members, and members that only tags or answers mention.
    pub members: BTreeMap<UserId, Member>,
    /// Former name to its new name and the time of the rename.
    pub(super) aliases: BTreeMap<UserId, (UserId, Stamp)>,
    /// The last two times at which a name lost its holder, the later one first.
    pub(super) left_at: BTreeMap<UserId, (Stamp, Option<Stamp>)>,
    /// Answers about names without a holder, whose creation may be dated slightly later.
    pub(super) unclaimed: BTreeMap<UserId, (Stamp, Answer)>,
}

/// Folds facts; their order in `records` does not matter.
#[must_use]
pub fn fold<'a>(records: impl IntoIterator<Item = &'a Record>) -> RenameGroup {
    let mut records: Vec<&Record> = records.into_iter().collect();
    sort(&mut records);
    let mut group = RenameGroup::default();
    for second in records.chunk_by(|a, b| a.stamp.second == b.stamp.second) {
        group.apply_second(second);
    }
    group
}

pub(super) fn sort(records: &mut [&Record]) {
    records.sort_by(|a, b| {
        fold_order((a, a.userid()), (b, b.userid()), |record| {
            format!("{} {}", record.userid(), record.member_fact().to_json(record.stamp))
        })
    });
}

impl RenameGroup {
    /// Whether a present member holds the name.
    #[must_use]
    pub fn is_present(&self, name: &UserId) -> bool {
        self.members.get(name).is_some_and(|member| member.state.is_present())
    }

    /// The present userid of the member that `name` refers to: its present holder, else through renames.
    #[must_use]
    pub fn resolve(&self, name: &UserId) -> UserId {
        let mut name = name;
        // At most one step per alias: a cycle of renames must not hang the daemon.
        for _ in 0..=self.aliases.len() {
            if self.is_present(name) {
                break;
            }
            match self.aliases.get(name) {
                Some((next, _)) => name = next,
                None => break,
            }
        }
        name.clone()
    }

    /// Applies the facts of one second, sorted by rank and content.
    ///
    /// Events about members that are present precede the creations of that second, and all other events follow them: a
    /// userid may be deleted and created again within a second, or created and renamed. Where both orders are possible,
    /// the contradiction makes the details due.
    fn apply_second(&mut self, records: &[&Record]) {
        let is_event = |record: &&&Record| record.arrival >= 0 && !record.stamp.is_observed();
        let (events, answers): (Vec<&Record>, Vec<&Record>) = records.iter().partition(|r| is_event(r));
        let is_last = |record: &&&Record| record.arrival >= 0 && record.stamp.rank == Rank::Converted;
        answers.iter().filter(|r| !is_last(r)).for_each(|record| self.apply(record.stamp, record));
        let (creations, mut others): (Vec<&Record>, Vec<&Record>) =
            events.into_iter().partition(|record| record.stamp.rank == Rank::Created);
        self.apply_to_present(&mut others, |record| record.stamp);
        creations.iter().for_each(|record| self.apply(record.stamp, record));
        // A deletion after a creation of its second is dated after it, too.
        let stamp_of = |record: &Record| match record.stamp.rank {
            Rank::Deleted if !creations.is_empty() => Stamp::new(record.stamp.second, Rank::Converted),
            _ => record.stamp,
        };
        self.apply_to_present(&mut others, stamp_of);
        others.iter().for_each(|record| self.apply(stamp_of(record), record));
        answers.iter().filter(is_last).for_each(|record| self.apply(record.stamp, record));
    }

    /// Applies and removes facts about present members, until none is left: a rename may make further facts applicable.
    fn apply_to_present(&mut self, records: &mut Vec<&Record>, stamp_of: impl Fn(&Record) -> Stamp) {
        let is_applicable = |group: &Self, record: &Record| group.is_present(&group.resolve(record.userid()));
        while let Some(next) = records.iter().position(|record| is_applicable(self, record)) {
            let record = records.remove(next);
            self.apply(stamp_of(record), record);
        }
    }

    fn apply(&mut self, stamp: Stamp, record: &Record) {
        let userid = record.userid();
        match record.member_fact() {
            MemberFact::Renamed(to, fields) => self.rename(userid, to, stamp, fields),
            MemberFact::Answered(answer) => self.answer(userid, stamp, answer),
            MemberFact::FormerName(to, since) => {
                self.aliases.insert(userid.clone(), (to.clone(), *since));
                self.leave(userid, *since);
            }
            MemberFact::Entity(Fact::Present(Presence::Updated, fields)) => {
                let resolved = self.resolve(userid);
                self.member(&resolved, None).upsert(userid, stamp, fields);
                self.claim_answer(&resolved, stamp);
            }
            // A creation or listing never refers to a member that has left this name.
            MemberFact::Entity(Fact::Present(_, fields)) => {
                let reset_at = self.aliases.remove(userid).map(|(_, renamed)| renamed);
                self.member(userid, reset_at).upsert(userid, stamp, fields);
                self.claim_answer(userid, stamp);
            }
            MemberFact::Entity(Fact::Absent) => {
                if let Some(member) = self.members.get_mut(userid) {
                    member.state.apply(stamp, &Fact::Absent);
                }
                self.leave(userid, stamp);
            }
            MemberFact::Entity(fact) => {
                let resolved = self.resolve(userid);
                self.member(&resolved, None).state.apply(stamp, fact);
                if *fact == Fact::Deleted {
                    self.leave(&resolved, stamp);
                }
            }
        }
    }

    /// Records that the name loses its holder.
    fn leave(&mut self, userid: &UserId, stamp: Stamp) {
        let before = self.left_at.get(userid).map(|(last, _)| *last);
        if before.is_none_or(|last| last < stamp) {
            self.left_at.insert(userid.clone(), (stamp, before));
        }
    }

    /// The member with exactly this name; created if there is none. If a renamed member has the identity of this name, the
    /// new member begins at the time of that rename.
    fn member(&mut self, userid: &UserId, reset_at: Option<Stamp>) -> &mut Member {
        let mut reset_at = reset_at.unwrap_or(Stamp::BEGINNING);
        let has_identity =
            |member: &Member| member.identity.first_userid == *userid && member.identity.reset_at == reset_at;
        if !self.members.contains_key(userid)
            && self.members.values().any(has_identity)
            && let Some((left_at, _)) = self.left_at.get(userid)
        {
            reset_at = *left_at;
        }
        self.members.entry(userid.clone()).or_insert_with(|| Member::new(userid, reset_at))
    }

    fn rename(&mut self, from: &UserId, to: &UserId, stamp: Stamp, fields: &TimedFields<MemberField>) {
        let resolved = self.resolve(from);
        let was_never_known = !self
            .members
            .get(&resolved)
            .is_some_and(|member| member.state.known || member.state.deleted.is_some());
        if resolved == *to || (was_never_known && self.is_present(to)) {
            // A repetition, a change of spelling, or an old name that at most tags have mentioned.
            let only_tagged = if resolved == *to { None } else { self.members.remove(&resolved) };
            let member = self.member(to, None);
            if let Some(only_tagged) = only_tagged {
                member.state.merge_from(only_tagged.state);
            }
            member.upsert(to, stamp, fields);
            if *from != *to {
                self.leave(from, stamp);
                self.aliases.insert(from.clone(), (to.clone(), stamp));
                self.aliases.remove(to);
            }
            self.claim_answer(to, stamp);
            return;
        }
        self.member(&resolved, None);
        let Some(mut member) = self.members.remove(&resolved) else { return };
        member.forget_answers_of(stamp);
        for left in [from, &resolved] {
            self.leave(left, stamp);
        }
        // A deleted member begins a new existence first. The fields come last, so that a repetition of the rename resolves
        // flags with the same list.
        member.upsert(&resolved, stamp, &TimedFields::new());
        if let Some(former) = self.members.remove(to)
            && former.state.deleted.is_none()
        {
            // The member that already has the new name is the same one: its facts preceded the late rename.
            let at = |openid: &Option<(Stamp, i64, String)>| openid.as_ref().map(|(at, ..)| *at);
            let is_newer = at(&former.openid) > at(&member.openid);
            let claimed_at = former.openid.as_ref().map(|(at, before, _)| at.second.plus(-before));
            if is_newer && claimed_at > Some(member.state.reset_at.second) {
                member.openid.clone_from(&former.openid);
            }
            member.state.merge_from(former.state);
        }
        member.upsert(&resolved, stamp, fields);
        member.userid = to.clone();
        // Earlier names lead to the member directly, not to a later holder of an intermediate name.
        for (next, _) in self.aliases.values_mut().filter(|(next, _)| *next == resolved) {
            next.clone_from(to);
        }
        for old in [from, &resolved] {
            self.aliases.insert(old.clone(), (to.clone(), stamp));
        }
        self.aliases.remove(to);
        self.members.insert(to.clone(), member);
        self.claim_answer(to, stamp);
    }

    /// Restamps the members' identities, so that a member is identified across a correction of its stamps.
    #[must_use]
    pub(in crate::directory) fn with_identities(mut self, restamped: &Restamped) -> Self {
        for member in self.members.values_mut() {
            member.identity.reset_at = restamped.stamp(member.identity.reset_at);
        }
        self
    }
}
