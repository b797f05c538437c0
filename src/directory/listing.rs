//! The listing of all members, page by page, in a compact form: some 30 MiB for a million members. A flaw of the listing
//! prevents deletions because of it.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::ids::{DepartmentId, UserId};

/// Why a listing proves no absence. The members that it contains are valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    /// The first page of the listing is empty.
    #[error("the listing is empty")]
    Empty,
    /// A page after the first is empty.
    #[error("a page of the listing is empty")]
    EmptyPage,
    /// A page has the same rows as an earlier one.
    #[error("the listing repeats a page")]
    RepeatedPage,
    /// A cursor is the same as an earlier one: the listing would not end.
    #[error("the listing repeats a cursor")]
    RepeatedCursor,
    /// A page after the first could not be read.
    #[error("the listing is cut short")]
    CutShort,
    /// More than [`MAX_ROWS`] rows or pages.
    #[error("the listing does not end")]
    Endless,
    /// Rows that are not userids; a third-party suite gets open_userids (doc 96021).
    #[error("the listing has entries that are not userids")]
    NotUserids,
}

/// Exceeds every company; bounds the userids to 4 GiB.
const MAX_ROWS: usize = 50_000_000;

struct Row {
    start: u32,
    length: u8,
    department: u32,
}

/// The rows of a listing: one per member and department.
#[derive(Default)]
pub(crate) struct Listing {
    names: Vec<u8>,
    rows: Vec<Row>,
    pages: HashSet<u64>,
    cursors: HashSet<u64>,
    flaw: Option<Flaw>,
}

impl Listing {
    /// Adds a page and its next cursor, which is empty for the last page. Returns whether to request another page.
    pub(crate) fn add(&mut self, page: &[(UserId, DepartmentId)], next_cursor: &str) -> bool {
        if page.is_empty() {
            self.flawed(if self.rows.is_empty() { Flaw::Empty } else { Flaw::EmptyPage });
        } else if !self.pages.insert(digest(&page)) {
            self.flawed(Flaw::RepeatedPage);
        }
        for (userid, department) in page {
            let text = userid.as_str().as_bytes();
            let (Ok(start), Ok(length)) = (u32::try_from(self.names.len()), u8::try_from(text.len())) else {
                self.flawed(Flaw::Endless);
                return false;
            };
            // Rows of one member are mostly adjacent; they share the name.
            let start = match self.rows.last() {
                Some(last) if self.name(last) == text => last.start,
                _ => {
                    self.names.extend_from_slice(text);
                    start
                }
            };
            self.rows.push(Row { start, length, department: department.0 });
        }
        if next_cursor.is_empty() {
            return false;
        }
        if !self.cursors.insert(digest(&next_cursor)) {
            self.flawed(Flaw::RepeatedCursor);
            return false;
        }
        if self.rows.len() > MAX_ROWS || self.pages.len() > MAX_ROWS {
            self.flawed(Flaw::Endless);
            return false;
        }
        // Empty pages with a next cursor might not end.
        !page.is_empty()
    }

    /// Records a flaw; the first one is kept.
    pub(crate) fn flawed(&mut self, flaw: Flaw) {
        self.flaw.get_or_insert(flaw);
    }

    pub(crate) fn flaw(&self) -> Option<Flaw> {
        self.flaw
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The members with their departments, in order of userid.
    pub(crate) fn members(mut self) -> ListedMembers {
        let names = std::mem::take(&mut self.names);
        let key = |row: &Row| &names[row.start as usize..][..usize::from(row.length)];
        self.rows.sort_by(|a, b| folded(key(a), key(b)));
        self.rows.shrink_to_fit();
        ListedMembers { names, rows: self.rows, next: 0 }
    }

    fn name(&self, row: &Row) -> &[u8] {
        &self.names[row.start as usize..][..usize::from(row.length)]
    }
}

/// Iterates over a listing's members; see [`Listing::members`].
pub(crate) struct ListedMembers {
    names: Vec<u8>,
    rows: Vec<Row>,
    next: usize,
}

impl ListedMembers {
    fn name(&self, at: usize) -> Option<&[u8]> {
        let row = self.rows.get(at)?;
        self.names.get(row.start as usize..)?.get(..usize::from(row.length))
    }

    /// The number of rows: one per member and department.
    pub(crate) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// All departments that have a member.
    pub(crate) fn departments(&self) -> BTreeSet<DepartmentId> {
        self.rows.iter().map(|row| DepartmentId(row.department)).collect()
    }
}

impl Iterator for ListedMembers {
    type Item = (UserId, Vec<u32>);

    fn next(&mut self) -> Option<Self::Item> {
        let name = self.name(self.next)?;
        let userid = UserId::parse(std::str::from_utf8(name).ok()?).ok()?;
        let same = (self.next..).take_while(|at| {
            self.name(*at).is_some_and(|other| folded(other, userid.as_str().as_bytes()).is_eq())
        });
        let end = self.next + same.count();
        let mut departments = Vec::with_capacity(end - self.next);
        for row in &self.rows[self.next..end] {
            if !departments.contains(&row.department) {
                departments.push(row.department);
            }
        }
        self.next = end;
        Some((userid, departments))
    }
}

/// Compares userids ignoring case, as [`UserId`] and SQLite's NOCASE do.
fn folded(a: &[u8], b: &[u8]) -> Ordering {
    a.iter().map(u8::to_ascii_lowercase).cmp(b.iter().map(u8::to_ascii_lowercase))
}

fn digest(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(rows: &[(&str, u32)]) -> Vec<(UserId, DepartmentId)> {
        rows.iter().map(|(userid, id)| (UserId::parse(userid).unwrap(), DepartmentId(*id))).collect()
    }

    #[test]
    fn members_come_in_order_with_their_departments_wherever_their_rows_were() {
        let mut listing = Listing::default();
        assert!(listing.add(&page(&[("Zhang", 2), ("li", 1), ("zhang", 3)]), "c1"));
        assert!(!listing.add(&page(&[("LI", 1), ("_a".trim_start_matches('_'), 7), ("li", 5)]), ""));
        assert_eq!(listing.flaw(), None);
        let members: Vec<_> = listing.members().map(|(u, d)| (u.as_str().to_owned(), d)).collect();
        let expected = [("a", vec![7]), ("li", vec![1, 5]), ("Zhang", vec![2, 3])];
        assert_eq!(members, expected.map(|(u, d)| (u.to_owned(), d)));
    }

    #[test]
    fn flaws_are_recorded_and_end_the_listing() {
        let full = page(&[("a", 1)]);
        let other = page(&[("b", 1)]);
        let flaw = |pages: &[(&[(UserId, DepartmentId)], &str)]| {
            let mut listing = Listing::default();
            let more: Vec<bool> = pages.iter().map(|(page, cursor)| listing.add(page, cursor)).collect();
            (listing.flaw(), more.last().copied())
        };
        assert_eq!(flaw(&[(&full, "x"), (&other, "")]), (None, Some(false)));
        assert_eq!(flaw(&[(&[], "")]), (Some(Flaw::Empty), Some(false)));
        assert_eq!(flaw(&[(&full, "x"), (&[], "")]), (Some(Flaw::EmptyPage), Some(false)));
        assert_eq!(flaw(&[(&full, "x"), (&[], "y")]), (Some(Flaw::EmptyPage), Some(false)));
        assert_eq!(flaw(&[(&full, "x"), (&other, "x")]), (Some(Flaw::RepeatedCursor), Some(false)));
        assert_eq!(flaw(&[(&full, "x"), (&full, "y")]), (Some(Flaw::RepeatedPage), Some(true)));
    }
}
