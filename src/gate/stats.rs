//! What the gate counts, readable from other threads without disturbing it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::refusal::Refusal;
use super::times::{Times, TimesSnapshot};

/// The statuses that the gate itself answers with.
const STATUSES: [u16; 10] = [400, 404, 405, 408, 411, 413, 417, 431, 502, 503];

/// Live counters of one gate.
#[derive(Debug, Default)]
pub struct GateStats {
    pub(super) open: AtomicUsize,
    pub(super) buffered: AtomicUsize,
    pub(super) backends: AtomicUsize,
    pub(super) accepted: AtomicU64,
    pub(super) forwarded: AtomicU64,
    pub(super) evicted: AtomicU64,
    pub(super) deadline_missed: AtomicU64,
    pub(super) accept_errors: AtomicU64,
    pub(super) answered: Times,
    pub(super) ended: AtomicBool,
    refused: [AtomicU64; STATUSES.len()],
}

/// The counters at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GateSnapshot {
    /// Client connections open now.
    pub open: usize,
    /// Bytes held for requests, complete or not.
    pub buffered: usize,
    /// Connections to the server that still work; fewer than at the start means that a handler
    /// broke the framing of its answer.
    pub backends: usize,
    /// Client connections taken in.
    pub accepted: u64,
    /// Requests passed on to the server.
    pub forwarded: u64,
    /// Connections closed to make room.
    pub evicted: u64,
    /// Requests that were complete and got no answer in time.
    pub deadline_missed: u64,
    /// Failed calls of accept().
    pub accept_errors: u64,
    /// From the complete request to its answer: of all that were passed on to the server.
    pub answered: TimesSnapshot,
    /// Whether the gate's thread has ended.
    pub ended: bool,
    /// How often the gate itself answered with each status.
    pub refused: Vec<(u16, u64)>,
}

impl GateStats {
    /// The counters now.
    pub fn snapshot(&self) -> GateSnapshot {
        GateSnapshot {
            open: self.open.load(Relaxed),
            buffered: self.buffered.load(Relaxed),
            backends: self.backends.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            forwarded: self.forwarded.load(Relaxed),
            evicted: self.evicted.load(Relaxed),
            deadline_missed: self.deadline_missed.load(Relaxed),
            accept_errors: self.accept_errors.load(Relaxed),
            answered: self.answered.snapshot(),
            ended: self.ended.load(Relaxed),
            refused: STATUSES
                .iter()
                .zip(&self.refused)
                .map(|(status, count)| (*status, count.load(Relaxed)))
                .collect(),
        }
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        let (status, _) = refusal.status();
        let place = STATUSES.iter().position(|known| *known == status);
        if let Some(count) = place.and_then(|place| self.refused.get(place)) {
            count.fetch_add(1, Relaxed);
        }
    }
}

impl GateSnapshot {
    /// How often the gate itself answered with this status.
    pub fn refused_with(&self, status: u16) -> u64 {
        self.refused.iter().find(|(known, _)| *known == status).map_or(0, |(_, count)| *count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_counted() {
        let stats = GateStats::default();
        for refusal in Refusal::ALL {
            if refusal == Refusal::HungUp {
                continue;
            }
            let before = stats.snapshot().refused_with(refusal.status().0);
            stats.refused(refusal);
            assert_eq!(stats.snapshot().refused_with(refusal.status().0), before + 1);
        }
    }
}
