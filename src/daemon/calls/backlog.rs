//! Members that are due for one API: those to call about next, those in flight, and those that wait. Pure.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Instant;

use crate::directory::UserId;

/// Members whose waits are kept.
const MAX_WAITS: usize = 10_000;

/// A member as it was before the call; news of the member make another claim.
pub(in crate::daemon) trait Claim: Clone + PartialEq + Send + 'static {
    fn userid(&self) -> &UserId;
}

/// What a call means for its member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::daemon) enum Outcome {
    /// The answer is committed; the database knows the member's next due time.
    Answered,
    /// The member stays due.
    Unanswered,
    /// The member stays due, but others precede it until this time.
    Wait {
        until: Instant,
        /// Answers that count against the member.
        tries: u32,
    },
}

struct Wait<C> {
    until: Instant,
    /// The member at its last call. News of the member end the wait.
    claim: C,
    tries: u32,
}

/// Due members in memory; the database has the rest.
pub(in crate::daemon) struct Backlog<C> {
    urgent: VecDeque<C>,
    ready: VecDeque<C>,
    in_flight: HashSet<UserId>,
    /// Lost at a restart, so each of these members is called about once more.
    waits: HashMap<UserId, Wait<C>>,
    /// When the database is queried for due members, if there are none in memory.
    pub(in crate::daemon) check_at: Instant,
}

impl<C: Claim> Backlog<C> {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            urgent: VecDeque::new(),
            ready: VecDeque::new(),
            in_flight: HashSet::new(),
            waits: HashMap::new(),
            check_at: now,
        }
    }

    pub(in crate::daemon) fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.ready.is_empty()
    }

    pub(in crate::daemon) fn urgent(&self) -> usize {
        self.urgent.len()
    }

    pub(in crate::daemon) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(in crate::daemon) fn is_in_flight(&self, userid: &UserId) -> bool {
        self.in_flight.contains(userid)
    }

    /// Due members that [`Self::add`] may skip: a query has to read as many more.
    pub(in crate::daemon) fn unavailable(&self) -> usize {
        self.in_flight.len() + self.waits.len()
    }

    /// Adds due members that are not in flight and need not wait: those without a wait, then those whose wait is over.
    pub(in crate::daemon) fn add(
        &mut self,
        is_urgent: bool,
        claims: impl IntoIterator<Item = C>,
        now: Instant,
    ) {
        let mut last = Vec::new();
        for claim in claims {
            if !self.may_call(&claim, now) {
                continue;
            }
            if self.wait_of(&claim).is_some() {
                last.push(claim);
            } else {
                self.push(is_urgent, claim);
            }
        }
        last.into_iter().for_each(|claim| self.push(is_urgent, claim));
    }

    /// Whether the member is not in flight and need not wait.
    pub(in crate::daemon) fn may_call(&self, claim: &C, now: Instant) -> bool {
        !self.is_in_flight(claim.userid()) && self.wait_of(claim).is_none_or(|wait| wait.until <= now)
    }

    fn push(&mut self, is_urgent: bool, claim: C) {
        if !is_urgent {
            return self.ready.push_back(claim);
        }
        // The newest claim alone counts.
        self.urgent.retain(|other| other.userid() != claim.userid());
        self.ready.retain(|other| other.userid() != claim.userid());
        self.urgent.push_back(claim);
    }

    fn wait_of(&self, claim: &C) -> Option<&Wait<C>> {
        self.waits.get(claim.userid()).filter(|wait| wait.claim == *claim)
    }

    /// Has the database queried again: members may have become due, or changed.
    pub(in crate::daemon) fn refresh(&mut self, now: Instant) {
        self.ready.clear();
        self.check_at = now;
    }

    /// Whether the next member is urgent; `None` if there is none.
    pub(super) fn next_is_urgent(&self) -> Option<bool> {
        if self.urgent.is_empty() { self.ready.front().map(|_| false) } else { Some(true) }
    }

    /// Takes the next member, which is in flight then, and the number of answers that count against it.
    pub(super) fn take(&mut self) -> Option<(C, u32)> {
        let claim = self.urgent.pop_front().or_else(|| self.ready.pop_front())?;
        self.in_flight.insert(claim.userid().clone());
        let tries = self.wait_of(&claim).map_or(0, |wait| wait.tries);
        Some((claim, tries))
    }

    /// Ends the flight of a member.
    pub(super) fn finish(&mut self, claim: C, outcome: Outcome, now: Instant) {
        let userid = claim.userid().clone();
        self.in_flight.remove(&userid);
        // The answer may have made this member due before all others.
        self.check_at = now;
        match outcome {
            Outcome::Answered => drop(self.waits.remove(&userid)),
            Outcome::Unanswered => {}
            Outcome::Wait { until, tries } => {
                if self.waits.len() >= MAX_WAITS {
                    self.waits.retain(|_, wait| wait.until > now);
                }
                if self.waits.len() < MAX_WAITS || self.waits.contains_key(&userid) {
                    self.waits.insert(userid, Wait { until, claim, tries });
                }
            }
        }
    }

    /// When the next wait ends.
    pub(super) fn next_wait(&self, now: Instant) -> Option<Instant> {
        self.waits.values().map(|wait| wait.until).filter(|until| *until > now).min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    struct Member(UserId, u32);

    impl Claim for Member {
        fn userid(&self) -> &UserId {
            &self.0
        }
    }

    fn member(name: &str, revision: u32) -> Member {
        Member(UserId::parse(name).unwrap(), revision)
    }

    fn members(names: &str) -> Vec<Member> {
        names.split(' ').map(|name| member(name, 1)).collect()
    }

    /// Takes all members; a star marks the urgent ones.
    fn take_all(backlog: &mut Backlog<Member>) -> String {
        let mut taken = Vec::new();
        while let Some(is_urgent) = backlog.next_is_urgent() {
            let (claim, _) = backlog.take().unwrap();
            taken.push(format!("{}{}", claim.0, if is_urgent { "*" } else { "" }));
        }
        taken.join(" ")
    }

    #[test]
    fn urgent_members_come_first_and_each_member_once() {
        let now = Instant::now();
        let mut backlog = Backlog::new(now);
        backlog.add(false, members("a b c d"), now);
        backlog.add(true, members("c x"), now);
        backlog.add(true, members("y c"), now);
        assert_eq!(take_all(&mut backlog), "x* y* c* a b d");
        backlog.add(false, members("a e"), now);
        assert_eq!(take_all(&mut backlog), "e", "the others are in flight");
        assert_eq!(backlog.in_flight(), 7);
    }

    #[test]
    fn a_member_waits_until_its_time_or_its_news_and_goes_behind_the_others() {
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        let mut backlog = Backlog::new(now);
        let wait = Outcome::Wait { until: later, tries: 3 };
        for name in ["a", "b"] {
            backlog.add(false, members(name), now);
            let (claim, tries) = backlog.take().unwrap();
            assert_eq!(tries, 0);
            backlog.finish(claim, wait, now);
        }
        assert_eq!((backlog.unavailable(), backlog.next_wait(now)), (2, Some(later)));
        backlog.add(false, [member("a", 1), member("b", 2), member("c", 1)], now);
        assert_eq!(take_all(&mut backlog), "b c");
        backlog.add(false, members("a d"), later);
        assert_eq!(backlog.next_wait(later), None);
        assert_eq!(backlog.take().unwrap().0, member("d", 1));
        assert_eq!(backlog.take().unwrap(), (member("a", 1), 3));
        backlog.finish(member("a", 1), Outcome::Unanswered, later);
        backlog.add(false, members("a"), later);
        assert_eq!(backlog.take().unwrap(), (member("a", 1), 3), "a pause does not forget the tries");
        backlog.finish(member("a", 1), Outcome::Answered, later);
        backlog.add(false, members("a"), later);
        assert_eq!(backlog.take().unwrap(), (member("a", 1), 0));
    }

    #[test]
    fn waits_are_bounded() {
        let now = Instant::now();
        let mut backlog = Backlog::new(now);
        for n in 0..MAX_WAITS + 50 {
            let until = now + Duration::from_secs(if n < 100 { 1 } else { 60 });
            backlog.finish(member(&format!("u{n}"), 1), Outcome::Wait { until, tries: 1 }, now);
        }
        assert_eq!(backlog.unavailable(), MAX_WAITS);
        let until = now + Duration::from_secs(60);
        backlog.finish(member("new", 1), Outcome::Wait { until, tries: 1 }, now + Duration::from_secs(2));
        assert_eq!(backlog.unavailable(), MAX_WAITS - 99);
    }
}
