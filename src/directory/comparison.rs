//! Comparison of the directory with WeCom's listings: the differences, and the limit on deletions.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;

use super::fields::{DepartmentField, Fields};
use super::ids::{DepartmentId, UserId};
use super::time::UnixSeconds;

/// A present member of the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownMember {
    pub userid: UserId,
    pub departments: Vec<u32>,
    /// WeCom's time of the newest fact about the member.
    pub event_time: UnixSeconds,
}

/// A difference between the listing and the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MemberDifference {
    /// Listed, but not present in the directory.
    New(UserId, Vec<u32>),
    /// The set of departments or the spelling of the userid differs.
    Changed(UserId, Vec<u32>),
    /// Present, but not listed; with WeCom's time of its newest fact.
    Missing(UserId, UnixSeconds),
}

/// Compares a run of known members, in order of userid, with the listing, and consumes the listing up to the end of the run.
/// Members that remain after the last run are new.
pub(crate) fn members(
    listed: &mut Peekable<impl Iterator<Item = (UserId, Vec<u32>)>>,
    known: &[KnownMember],
) -> Vec<MemberDifference> {
    let mut differences = Vec::new();
    for member in known {
        while let Some((userid, departments)) = listed.next_if(|(userid, _)| *userid < member.userid) {
            differences.push(MemberDifference::New(userid, departments));
        }
        match listed.next_if(|(userid, _)| *userid == member.userid) {
            Some((userid, departments)) => {
                // The listing does not define the order of a member's departments.
                let same = departments.len() == member.departments.len()
                    && departments.iter().all(|id| member.departments.contains(id));
                if !same || !userid.same_spelling(&member.userid) {
                    differences.push(MemberDifference::Changed(userid, departments));
                }
            }
            None => differences.push(MemberDifference::Missing(member.userid.clone(), member.event_time)),
        }
    }
    differences
}

/// A present department of the directory.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KnownDepartment {
    /// The known fields; unknown ones are absent from the map.
    pub fields: Fields<DepartmentField>,
    /// WeCom's time of the newest fact about the member.
    pub event_time: UnixSeconds,
}

/// The differences between listed and known departments.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct DepartmentDifferences {
    /// Listed, but not present in the directory.
    pub new: Vec<(DepartmentId, Fields<DepartmentField>)>,
    /// Departments with the listed values of the fields that differ.
    pub changed: Vec<(DepartmentId, Fields<DepartmentField>)>,
    /// Present, but not listed; with WeCom's time of the newest fact.
    pub missing: Vec<(DepartmentId, UnixSeconds)>,
}

/// Compares departments. A field that the listing lacks is no difference.
pub(crate) fn departments(
    listed: &BTreeMap<DepartmentId, Fields<DepartmentField>>,
    known: &BTreeMap<DepartmentId, KnownDepartment>,
) -> DepartmentDifferences {
    let mut found = DepartmentDifferences::default();
    for (id, fields) in listed {
        let Some(department) = known.get(id) else {
            found.new.push((*id, fields.clone()));
            continue;
        };
        let different = fields.iter().filter(|(field, value)| department.fields.get(field) != Some(value));
        let different: Fields<_> = different.map(|(field, value)| (*field, value.clone())).collect();
        if !different.is_empty() {
            found.changed.push((*id, different));
        }
    }
    let missing = known.iter().filter(|(id, _)| !listed.contains_key(id));
    found.missing = missing.map(|(id, department)| (*id, department.event_time)).collect();
    found
}

/// The items added to a set and removed from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SetDifference<T> {
    pub added: Vec<T>,
    pub removed: Vec<T>,
}

impl<T: Ord + Clone> SetDifference<T> {
    pub(crate) fn of(listed: &BTreeSet<T>, known: &BTreeSet<T>) -> Self {
        Self {
            added: listed.difference(known).cloned().collect(),
            removed: known.difference(listed).cloned().collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

/// The limit on deletions: a wrong answer from WeCom or from a gateway must not empty the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Guard {
    /// A larger share of deletions is blocked; members, departments and tags count separately.
    pub percent: u32,
    /// The total number of deletions that the operator allows.
    pub allowed: Option<usize>,
}

/// Fewer deletions of one kind than this are always allowed.
const ALWAYS_ALLOWED: usize = 10;

/// Intended deletions of one kind of entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Deletions {
    pub missing: usize,
    pub present: usize,
    /// Those of earlier comparisons within a day, which the operator did not allow by number.
    pub recent: usize,
}

impl Guard {
    /// Whether these deletions, one item per kind, exceed the limit.
    pub(crate) fn blocks(&self, kinds: &[Deletions]) -> bool {
        let total: usize = kinds.iter().map(|kind| kind.missing).sum();
        if self.allowed.is_some_and(|allowed| total <= allowed) {
            return false;
        }
        kinds.iter().any(|kind| self.too_many(*kind))
    }

    /// Counts what was deleted within a day, so that many comparisons delete no more than one may.
    fn too_many(&self, Deletions { missing, present, recent }: Deletions) -> bool {
        let percent = usize::try_from(self.percent).unwrap_or(usize::MAX);
        let (sum, before) = (missing.saturating_add(recent), present.saturating_add(recent));
        missing > 0 && sum >= ALWAYS_ALLOWED && sum.saturating_mul(100) > percent.saturating_mul(before)
    }
}

/// The results of user/get for members that a listing lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ExistenceChecks {
    /// Members that do not exist, by WeCom's answer.
    pub absent: Vec<UserId>,
    /// The number of members that exist: the listing is wrong about them.
    pub present: usize,
    /// The number of members whose existence WeCom does not show.
    pub unknown: usize,
}

impl ExistenceChecks {
    /// Whether so many of the missing members exist that the listing is unreliable and further calls are pointless.
    pub(crate) fn disproves_the_listing(&self) -> bool {
        self.present >= ALWAYS_ALLOWED && self.present > self.absent.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Value;
    use proptest::prelude::*;

    fn userid(text: &str) -> UserId {
        UserId::parse(text).unwrap()
    }

    fn known(name: &str, departments: &[u32]) -> KnownMember {
        let departments = departments.to_vec();
        KnownMember { userid: userid(name), departments, event_time: UnixSeconds(5) }
    }

    #[test]
    fn the_order_of_departments_is_no_difference() {
        let listed = [("a", vec![1]), ("B", vec![2, 1]), ("c", vec![3]), ("x", vec![1])];
        let mut listed = listed.into_iter().map(|(name, ids)| (userid(name), ids)).peekable();
        let mut found = members(&mut listed, &[known("B", &[1, 2]), known("bb", &[1])]);
        found.extend(members(&mut listed, &[known("c", &[4])]));
        assert_eq!(listed.next(), Some((userid("x"), vec![1])), "the rest is new");
        assert_eq!(
            found,
            [
                MemberDifference::New(userid("a"), vec![1]),
                MemberDifference::Missing(userid("bb"), UnixSeconds(5)),
                MemberDifference::Changed(userid("c"), vec![3]),
            ]
        );
    }

    proptest! {
        #[test]
        fn a_directory_is_no_different_from_its_own_listing(
            names in proptest::collection::btree_set("[a-z][a-zA-Z0-9_.-]{0,6}", 0..40), run in 1usize..7
        ) {
            let mut names: Vec<UserId> = names.iter().map(|name| userid(name)).collect();
            names.sort();
            names.dedup();
            let mut listed = names.iter().map(|name| (name.clone(), vec![1, 2])).peekable();
            let known: Vec<_> = names.iter().map(|name| known(name.as_str(), &[2, 1])).collect();
            for run in known.chunks(run) {
                prop_assert_eq!(members(&mut listed, run), vec![]);
            }
            prop_assert_eq!(listed.next(), None);
        }
    }

    #[test]
    fn a_department_field_that_the_listing_lacks_is_not_different() {
        let fields = |name: Option<&str>, parent: i64| {
            let mut fields = Fields::from([(DepartmentField::ParentId, Value::Int(parent))]);
            fields.extend(name.map(|name| (DepartmentField::Name, Value::text(name))));
            fields
        };
        let known = |fields| KnownDepartment { fields, event_time: UnixSeconds(1) };
        let known = BTreeMap::from([
            (DepartmentId(1), known(fields(Some("一"), 0))),
            (DepartmentId(2), known(fields(None, 1))),
            (DepartmentId(3), known(fields(None, 1))),
        ]);
        let listed = BTreeMap::from([
            (DepartmentId(1), fields(None, 0)),
            (DepartmentId(2), fields(Some("二"), 1)),
            (DepartmentId(4), fields(None, 1)),
        ]);
        let found = departments(&listed, &known);
        assert_eq!(found.new, [(DepartmentId(4), fields(None, 1))]);
        let name = Fields::from([(DepartmentField::Name, Value::text("二"))]);
        assert_eq!(found.changed, [(DepartmentId(2), name)]);
        assert_eq!(found.missing, [(DepartmentId(3), UnixSeconds(1))]);
    }

    #[test]
    fn a_handful_is_never_too_many_and_the_operators_number_is_a_bound() {
        let guard = Guard { percent: 5, allowed: None };
        let deletions = |missing, present| Deletions { missing, present, recent: 0 };
        assert!(!guard.blocks(&[deletions(9, 9)]));
        assert!(guard.blocks(&[deletions(10, 199)]));
        assert!(!guard.blocks(&[deletions(10, 200)]));
        assert!(guard.blocks(&[deletions(0, 100_000), deletions(11, 20)]), "each kind by itself");
        let allowed = |n| Guard { allowed: Some(n), ..guard };
        assert!(!allowed(15).blocks(&[deletions(10, 10), deletions(5, 5)]));
        assert!(allowed(14).blocks(&[deletions(10, 10), deletions(5, 5)]));
        assert!(!allowed(0).blocks(&[deletions(9, 200)]), "it never forbids what would be done without it");
    }

    #[test]
    fn deletions_of_a_day_add_up() {
        let guard = Guard { percent: 5, allowed: None };
        let after = |recent, missing, present| guard.blocks(&[Deletions { missing, present, recent }]);
        assert!(!after(9, 0, 100), "nothing is deleted");
        assert!(after(9, 1, 100) && after(9, 9, 200));
        assert!(!after(5, 5, 200), "5 of 205 and 5 more are less than 5 %");
        assert!(after(5, 6, 200));
        assert!(!Guard { allowed: Some(6), ..guard }.blocks(&[Deletions {
            missing: 6,
            present: 200,
            recent: 5
        }]));
    }
}
