//! Identifiers: userid, department id, tag id.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

/// A member's userid. Comparison, order and hash ignore ASCII case, as WeCom does; the spelling is kept.
///
/// 1 to 64 bytes of letters, digits and `_-@.`, the first a letter or digit
/// (doc 90195, "UserID: 成员UserID").
#[derive(Clone)]
pub struct UserId(String);

/// The text is not a [`UserId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a userid: 1 to 64 letters, digits and _-@. beginning with a letter or digit")]
pub struct BadUserId(String);

impl UserId {
    /// Parses a userid from WeCom or an operator.
    ///
    /// # Errors
    /// [`BadUserId`] with the first 80 characters of the text.
    pub fn parse(text: &str) -> Result<Self, BadUserId> {
        let first_is_alphanumeric = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let all_allowed = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-@.".contains(&b));
        if first_is_alphanumeric && all_allowed && text.len() <= 64 {
            Ok(Self(text.to_owned()))
        } else {
            // Log lines contain it.
            Err(BadUserId(text.chars().take(80).collect()))
        }
    }

    /// The userid in WeCom's spelling.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether both are equal including the case of their letters.
    #[must_use]
    pub fn same_spelling(&self, other: &Self) -> bool {
        self.0 == other.0
    }

    fn folded(&self) -> Cow<'_, str> {
        if self.0.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(self.0.to_ascii_lowercase())
        } else {
            Cow::Borrowed(&self.0)
        }
    }
}

impl PartialEq for UserId {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}
impl Eq for UserId {}
impl PartialOrd for UserId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for UserId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.folded().cmp(&other.folded())
    }
}
impl Hash for UserId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.folded().hash(state);
    }
}
impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserId({})", self.0)
    }
}

/// A department's id. The root department, the company itself, is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DepartmentId(pub u32);

/// The id of a tag, unique within the company.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagId(pub u32);

impl fmt::Display for DepartmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl fmt::Display for TagId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn userids_compare_ignoring_case_and_keep_their_spelling() {
        let a = UserId::parse("ZhangSan").unwrap();
        let b = UserId::parse("zhangsan").unwrap();
        assert_eq!(a, b);
        assert_eq!(a.cmp(&b), Ordering::Equal);
        assert_eq!(a.as_str(), "ZhangSan");
        assert!(!a.same_spelling(&b));
    }

    #[test]
    fn userids_follow_wecoms_rules() {
        for good in ["a", "0", "zhang.san@corp-1_x", &"x".repeat(64)] {
            assert!(UserId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "_a", ".a", "a b", "张三", "a\n", "a,b", &"x".repeat(65)] {
            assert!(UserId::parse(bad).is_err(), "{bad}");
        }
    }
}
