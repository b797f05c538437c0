//! Counters of a gate, readable from any thread without a lock.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use super::refusal::Refusal;

/// Status codes of the gate's own answers.
const STATUSES: [u16; 10] = [400, 404, 405, 408, 411, 413, 417, 431, 502, 503];

/// Upper bounds of the latency buckets, in microseconds, ascending.
const BUCKETS: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_000_000,
    4_000_000, 5_000_000,
];

/// Live counters of one gate; [`GateSnapshot`] documents them.
#[derive(Debug, Default)]
pub struct GateStats {
    pub(super) open: AtomicUsize,
    pub(super) buffered: AtomicUsize,
    pub(super) upstreams: AtomicUsize,
    pub(super) accepted: AtomicU64,
    pub(super) forwarded: AtomicU64,
    pub(super) evicted: AtomicU64,
    pub(super) deadline_missed: AtomicU64,
    pub(super) accept_errors: AtomicU64,
    pub(super) answered: Latencies,
    pub(super) ended: AtomicBool,
    refused: [AtomicU64; STATUSES.len()],
}

/// The values of [`GateStats`] at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GateSnapshot {
    /// Client connections that are open now.
    pub open: usize,
    /// Bytes of memory for requests, complete or incomplete.
    pub buffered: usize,
    /// Upstreams that still work. Fewer than at the start: a handler broke the framing of its answer.
    pub upstreams: usize,
    /// Client connections accepted since the start.
    pub accepted: u64,
    /// Complete requests queued for an upstream since the start.
    pub forwarded: u64,
    /// Connections closed to free a descriptor or memory.
    pub evicted: u64,
    /// Complete requests without an answer before the deadline.
    pub deadline_missed: u64,
    /// Calls of accept() that failed for lack of resources.
    pub accept_errors: u64,
    /// Time from the complete request to its answer, for forwarded requests.
    pub answered: LatencySnapshot,
    /// Whether the gate's thread has ended.
    pub ended: bool,
    /// The gate's own answers, by status code.
    pub refused: Vec<(u16, u64)>,
}

impl GateStats {
    /// Reads every counter; counters of one request may be one event apart.
    pub fn snapshot(&self) -> GateSnapshot {
        GateSnapshot {
            open: self.open.load(Relaxed),
            buffered: self.buffered.load(Relaxed),
            upstreams: self.upstreams.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            forwarded: self.forwarded.load(Relaxed),
            evicted: self.evicted.load(Relaxed),
            deadline_missed: self.deadline_missed.load(Relaxed),
            accept_errors: self.accept_errors.load(Relaxed),
            answered: self.answered.snapshot(),
            ended: self.ended.load(Relaxed),
            refused: STATUSES.into_iter().zip(self.refused.iter().map(|count| count.load(Relaxed))).collect(),
        }
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        let index = STATUSES.iter().position(|status| *status == refusal.status());
        if let Some(count) = index.and_then(|index| self.refused.get(index)) {
            count.fetch_add(1, Relaxed);
        }
    }
}

impl GateSnapshot {
    /// Number of the gate's own answers with this status code.
    pub fn refused_with(&self, status: u16) -> u64 {
        self.refused.iter().find(|(known, _)| *known == status).map_or(0, |(_, count)| *count)
    }
}

#[derive(Debug, Default)]
pub(super) struct Latencies {
    buckets: [AtomicU64; BUCKETS.len()],
    over: AtomicU64,
    micros: AtomicU64,
}

/// Values of a latency histogram at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LatencySnapshot {
    /// Upper bound of each bucket, inclusive, and its count; not cumulative.
    pub buckets: Vec<(Duration, u64)>,
    /// Count above the last bound.
    pub over: u64,
    /// Sum of all recorded latencies, rounded down to microseconds.
    pub sum: Duration,
}

impl Latencies {
    pub(super) fn record(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.iter().zip(&self.buckets).find(|(bound, _)| micros <= **bound);
        bucket.map_or(&self.over, |(_, count)| count).fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
    }

    fn snapshot(&self) -> LatencySnapshot {
        let counts = self.buckets.iter().map(|count| count.load(Relaxed));
        LatencySnapshot {
            buckets: BUCKETS.into_iter().map(Duration::from_micros).zip(counts).collect(),
            over: self.over.load(Relaxed),
            sum: Duration::from_micros(self.micros.load(Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_that_is_answered_is_counted() {
        let stats = GateStats::default();
        for refusal in Refusal::ALL.into_iter().filter(|refusal| *refusal != Refusal::ClientClosed) {
            let before = stats.snapshot().refused_with(refusal.status());
            stats.refused(refusal);
            assert_eq!(stats.snapshot().refused_with(refusal.status()), before + 1);
        }
    }

    #[test]
    fn a_latency_counts_in_the_first_bucket_that_holds_it() {
        let latencies = Latencies::default();
        for micros in [0, 500, 501, 4_000_000, 5_000_000, 5_000_001] {
            latencies.record(Duration::from_micros(micros));
        }
        let LatencySnapshot { buckets, over, sum } = latencies.snapshot();
        let counted: Vec<u64> = buckets.iter().map(|(_, count)| *count).collect();
        assert_eq!(counted, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!((over, sum), (1, Duration::from_micros(14_001_002)));
    }
}
