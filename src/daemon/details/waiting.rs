//! Waits between two calls for the same member. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::directory::UserId;
use crate::store::details::DetailsClaim;

/// Members whose waits are kept in memory.
const MAX_WAITING: usize = 10_000;

/// Due members that others precede. In memory, so each is fetched once more after a restart.
#[derive(Default)]
pub(super) struct Waiting(HashMap<UserId, Wait>);

struct Wait {
    /// Earliest time of the next call.
    at: Instant,
    /// The claim of the last call. An event about the member changes its revision and ends the wait.
    claim: DetailsClaim,
    /// Answers that count against the member.
    tries: u32,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn tries(&self, claim: &DetailsClaim) -> u32 {
        self.0.get(&claim.userid).filter(|wait| wait.claim == *claim).map_or(0, |wait| wait.tries)
    }

    pub(super) fn put(&mut self, claim: &DetailsClaim, at: Instant, tries: u32) {
        if self.0.len() >= MAX_WAITING {
            let now = Instant::now();
            self.0.retain(|_, wait| wait.at > now);
        }
        if self.0.len() < MAX_WAITING || self.0.contains_key(&claim.userid) {
            self.0.insert(claim.userid.clone(), Wait { at, claim: claim.clone(), tries });
        }
    }

    pub(super) fn remove(&mut self, claim: &DetailsClaim) {
        self.0.remove(&claim.userid);
    }

    /// The due members that need not wait at `now`: those without a wait, then those whose wait is over.
    pub(super) fn order(&self, due: Vec<DetailsClaim>, now: Instant) -> Vec<DetailsClaim> {
        let (mut first, mut last) = (Vec::new(), Vec::new());
        for claim in due {
            match self.0.get(&claim.userid).filter(|wait| wait.claim == claim) {
                None => first.push(claim),
                Some(wait) if wait.at <= now => last.push(claim),
                Some(_) => {}
            }
        }
        first.append(&mut last);
        first
    }

    /// Time until the next wait ends.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        let future = self.0.values().map(|wait| wait.at).filter(|at| *at > now);
        future.min().map(|at| at.saturating_duration_since(now))
    }
}
