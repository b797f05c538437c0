//! The openid's states, and when to try again.

use std::time::Duration;

use super::time::UnixSeconds;

/// Where a member stands on the way to its openid. The schema's CHECK has the same list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenidState {
    /// None yet; it has a time when it is tried next.
    Pending,
    /// Known.
    Converted,
    /// WeCom said that there is nothing to convert; tried again when something speaks of the member.
    Failed,
}

impl OpenidState {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Converted, Self::Failed];

    /// The word in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Converted => "converted",
            Self::Failed => "failed",
        }
    }
}

/// How long to wait after failures: `first`, doubling to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// Never longer than this.
    pub max: Duration,
}

impl Backoff {
    /// The wait after the `attempts`-th failure (1 for the first). `random` in 0..1 spreads it over the
    /// last quarter before the full wait, so that members who came together do not stay together, and
    /// `max` is never exceeded. At least one second.
    #[must_use]
    pub fn wait(&self, attempts: u32, random: f64) -> Duration {
        let doublings = attempts.saturating_sub(1).min(31);
        let full = self.first.saturating_mul(1 << doublings).min(self.max);
        let spread = full.mul_f64(0.25 * random.clamp(0.0, 1.0));
        full.saturating_sub(spread).max(Duration::from_secs(1))
    }

    /// When to try again after the `attempts`-th failure at `now`.
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
