//! Time in the merge: whole seconds of WeCom's clock, and the order of facts within one second.

use std::fmt;

/// Seconds since 1970-01-01 00:00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixSeconds(pub i64);

impl UnixSeconds {
    /// Adds seconds, which may be negative; saturates.
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

/// The order of facts within one second, which WeCom's clock does not define. Later ranks win.
///
/// An API answer precedes events, because an event of the same second is at least as fresh. An update precedes a
/// deletion, because the member does not exist afterwards. A creation follows a deletion of the same second: if the userid was
/// created first and deleted then, the details that this makes due show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rank {
    /// A complete listing lacks the entity.
    Absent,
    /// An API answer shows the entity.
    Listed,
    /// An event updates the entity: update_user, update_party.
    Updated,
    /// An event changes the content of a tag: update_tag.
    Tagged,
    /// An event renames the member: update_user with NewUserID.
    Renamed,
    /// An event deletes the entity: delete_user, delete_party.
    Deleted,
    /// An event creates the entity: create_user, create_party.
    Created,
    /// WeCom answered a conversion at the end of this second.
    Converted,
}

impl Rank {
    /// All ranks, in order; the position is the number in the database.
    pub const ALL: [Self; 8] = [
        Self::Absent,
        Self::Listed,
        Self::Updated,
        Self::Tagged,
        Self::Renamed,
        Self::Deleted,
        Self::Created,
        Self::Converted,
    ];
}

/// The position of a fact in time: a second of WeCom's clock, and the order within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The second on WeCom's clock.
    pub second: UnixSeconds,
    /// Orders facts of the same second.
    pub rank: Rank,
}

impl Stamp {
    /// A stamp before those of all facts.
    pub const BEGINNING: Self = Self { second: UnixSeconds(i64::MIN), rank: Rank::Absent };

    #[must_use]
    #[allow(missing_docs)]
    pub fn new(second: UnixSeconds, rank: Rank) -> Self {
        Self { second, rank }
    }

    /// Whether the fact is from an API answer, not from an event.
    #[must_use]
    pub fn is_observed(self) -> bool {
        matches!(self.rank, Rank::Absent | Rank::Listed | Rank::Converted)
    }

    /// The order of values of one field. A creation precedes an update of the same second, because the update is newer; for
    /// existence the order is reversed.
    #[must_use]
    pub fn field_order(self) -> (UnixSeconds, u8) {
        let order = match self.rank {
            Rank::Absent | Rank::Listed => 0,
            Rank::Created => 1,
            _ => 2,
        };
        (self.second, order)
    }

    /// The rank's number in the database.
    #[must_use]
    pub fn rank_number(self) -> i64 {
        self.rank as i64
    }

    /// Reads a stamp from the database; `None` if the rank's number is unknown.
    #[must_use]
    pub fn from_columns(second: i64, rank: i64) -> Option<Self> {
        let rank = Rank::ALL.get(usize::try_from(rank).ok()?)?;
        Some(Self { second: UnixSeconds(second), rank: *rank })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_a_second_a_deletion_ends_updates_and_a_creation_survives_it() {
        let at = |rank| Stamp::new(UnixSeconds(1_700_000_000), rank);
        assert!(at(Rank::Listed) < at(Rank::Updated));
        assert!(at(Rank::Updated) < at(Rank::Deleted));
        assert!(at(Rank::Deleted) < at(Rank::Created));
        assert!(at(Rank::Converted) < Stamp::new(UnixSeconds(1_700_000_001), Rank::Absent));
        assert!(at(Rank::Created).field_order() < at(Rank::Updated).field_order());
    }

    #[test]
    fn the_columns_hold_every_rank() {
        for rank in Rank::ALL {
            let stamp = Stamp::new(UnixSeconds(-5), rank);
            assert_eq!(Stamp::from_columns(-5, stamp.rank_number()), Some(stamp));
        }
        assert_eq!(Stamp::from_columns(1, 8), None);
        assert_eq!(Stamp::from_columns(1, -1), None);
    }
}
