//! The states of an openid, and the backoff of conversions.

use std::time::Duration;

use super::time::UnixSeconds;

/// The state of a member's conversion. The schema's CHECK has the same list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenidState {
    /// No openid yet; a time of the next attempt is set.
    Pending,
    /// The openid is known and stored.
    Converted,
    /// WeCom refused the conversion for good; the next event about the member makes it pending again.
    Failed,
}

impl OpenidState {
    /// All states, in the order of the schema's CHECK.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Converted, Self::Failed];

    /// The state's name in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Converted => "converted",
            Self::Failed => "failed",
        }
    }
}

/// Exponential backoff with jitter: the wait doubles with each failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Wait after the first failure.
    pub first: Duration,
    /// Upper limit of all waits.
    pub max: Duration,
}

impl Backoff {
    /// The wait after the `attempts`-th failure, counted from 1; at least one second. `random` in 0..1 subtracts up to a
    /// quarter, so that members that fail together are not retried together.
    #[must_use]
    pub fn wait(&self, attempts: u32, random: f64) -> Duration {
        let doublings = attempts.saturating_sub(1).min(31);
        let full = self.first.saturating_mul(1 << doublings).min(self.max);
        let spread = full.mul_f64(0.25 * random.clamp(0.0, 1.0));
        full.saturating_sub(spread).max(Duration::from_secs(1))
    }

    /// The time of the next attempt after the `attempts`-th failure at `now`.
    #[must_use]
    pub fn next(&self, attempts: u32, now: UnixSeconds, random: f64) -> UnixSeconds {
        let wait = self.wait(attempts, random).as_secs_f64().ceil();
        // A wait is bounded by `max`, itself far below 2^53 seconds.
        #[allow(clippy::cast_possible_truncation)]
        now.plus(wait as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_secs(60), max: Duration::from_secs(24 * 3600) };

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits: Vec<u64> = (1..=13).map(|n| BACKOFF.wait(n, 0.0).as_secs()).collect();
        assert_eq!(waits[..4], [60, 120, 240, 480]);
        assert_eq!(waits[10..], [61440, 86400, 86400]);
        assert_eq!(BACKOFF.wait(u32::MAX, 0.0).as_secs(), 86400);
    }

    #[test]
    fn jitter_shortens_by_a_quarter_at_most() {
        assert_eq!(BACKOFF.wait(1, 1.0).as_secs(), 45);
        assert_eq!(BACKOFF.next(1, UnixSeconds(1000), 0.5), UnixSeconds(1053));
    }

    #[test]
    fn there_is_always_a_wait() {
        let hasty = Backoff { first: Duration::ZERO, max: Duration::ZERO };
        assert_eq!(hasty.next(1, UnixSeconds(5), 1.0), UnixSeconds(6));
    }
}
