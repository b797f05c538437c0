//! How long clients wait for their answers, counted in classes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The longest wait of each class, in microseconds; whatever is longer is in one class more.
const BOUNDS: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_000_000,
    4_000_000, 5_000_000,
];

/// Live counters.
#[derive(Debug, Default)]
pub(super) struct Times {
    classes: [AtomicU64; BOUNDS.len()],
    longer: AtomicU64,
    micros: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TimesSnapshot {
    /// The longest wait of each class, and how many answers took up to that and longer than the class before.
    pub classes: Vec<(Duration, u64)>,
    /// Answers that took longer than all classes.
    pub longer: u64,
    /// All waits together.
    pub sum: Duration,
}

impl Times {
    pub(super) fn count(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let class = BOUNDS.iter().zip(&self.classes).find(|(bound, _)| micros <= **bound);
        class.map_or(&self.longer, |(_, count)| count).fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
    }

    pub(super) fn snapshot(&self) -> TimesSnapshot {
        let classes = BOUNDS.iter().zip(&self.classes);
        TimesSnapshot {
            classes: classes
                .map(|(bound, count)| (Duration::from_micros(*bound), count.load(Relaxed)))
                .collect(),
            longer: self.longer.load(Relaxed),
            sum: Duration::from_micros(self.micros.load(Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_counts_in_the_first_class_that_holds_it() {
        let times = Times::default();
        for micros in [0, 500, 501, 4_000_000, 5_000_000, 5_000_001] {
            times.count(Duration::from_micros(micros));
        }
        let TimesSnapshot { classes, longer, sum } = times.snapshot();
        let counted: Vec<u64> = classes.iter().map(|(_, count)| *count).collect();
        assert_eq!(counted, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!((longer, sum), (1, Duration::from_micros(14_001_002)));
    }
}
