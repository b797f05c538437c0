//! Time as the merge sees it: WeCom's clock, whole seconds, and what happens inside one of them.

use std::fmt;

/// Seconds since 1970-01-01 00:00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixSeconds(pub i64);

impl UnixSeconds {
    /// This time and `seconds` more; saturates.
    #[must_use]
    pub fn plus(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// Seconds from `earlier` to this time; negative if `earlier` is later; saturates.
    #[must_use]
    pub fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for UnixSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What kind of news a [`Stamp`] orders inside one second, later wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i64)]
enum Rank {
    /// Seen in an API answer of that second: an event of the same second is at least as fresh.
    Observed = 0,
    /// Told by an event.
    Told = 1,
    /// A deletion: an update of the same second must have come before it, the member being gone after.
    Deleted = 2,
    /// A creation that arrived after a deletion of the same second.
    Reborn = 3,
}

/// A point in the merge's time: WeCom's second, and the order of what its one-second clock leaves open.
///
/// Kept as one integer (`seconds * 4 + rank`), so that SQLite can sort by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(i64);

impl Stamp {
    /// Before everything.
    pub const BEGINNING: Self = Self(i64::MIN);

    fn new(at: UnixSeconds, rank: Rank) -> Self {
        // Far beyond any real time on both sides, and safe to multiply.
        const LIMIT: i64 = 1 << 60;
        Self(at.0.clamp(-LIMIT, LIMIT) * 4 + rank as i64)
    }

    /// For what an API answer of second `at` shows.
    #[must_use]
    pub fn observed(at: UnixSeconds) -> Self {
        Self::new(at, Rank::Observed)
    }

    /// For an event of second `at`.
    #[must_use]
    pub fn told(at: UnixSeconds) -> Self {
        Self::new(at, Rank::Told)
    }

    /// For a deletion of second `at`.
    #[must_use]
    pub fn deleted(at: UnixSeconds) -> Self {
        Self::new(at, Rank::Deleted)
    }

    /// For a creation of second `at` that arrived after a deletion of the same second.
    #[must_use]
    pub fn reborn(at: UnixSeconds) -> Self {
        Self::new(at, Rank::Reborn)
    }

    /// The same rank in another second.
    #[must_use]
    pub fn in_second(self, at: UnixSeconds) -> Self {
        Self(Self::new(at, Rank::Observed).0 + self.0.rem_euclid(4))
    }

    /// Whether it is of an API answer, not of an event.
    #[must_use]
    pub fn is_observed(self) -> bool {
        self.0.rem_euclid(4) == Rank::Observed as i64
    }

    /// The second this stamp lies in.
    #[must_use]
    pub fn seconds(self) -> UnixSeconds {
        UnixSeconds(self.0.div_euclid(4))
    }

    /// As kept in the database.
    #[must_use]
    pub fn to_raw(self) -> i64 {
        self.0
    }

    /// As read from the database.
    #[must_use]
    pub fn from_raw(raw: i64) -> Self {
        Self(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_a_second_a_deletion_ends_updates_and_a_later_creation_survives_it() {
        let t = UnixSeconds(1_700_000_000);
        assert!(Stamp::observed(t) < Stamp::told(t));
        assert!(Stamp::told(t) < Stamp::deleted(t));
        assert!(Stamp::deleted(t) < Stamp::reborn(t));
        assert!(Stamp::reborn(t) < Stamp::observed(t.plus(1)));
    }

    #[test]
    fn a_stamp_keeps_its_second_even_at_the_extremes() {
        for s in [-5, -1, 0, 1, 1_700_000_000] {
            assert_eq!(Stamp::reborn(UnixSeconds(s)).seconds(), UnixSeconds(s));
        }
        assert!(Stamp::told(UnixSeconds(i64::MAX)) > Stamp::told(UnixSeconds(1 << 40)));
        assert!(Stamp::BEGINNING < Stamp::observed(UnixSeconds(i64::MIN)));
    }
}
