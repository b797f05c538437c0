//! The merge of members: a fold of all facts about a group of names, in order of WeCom's time.
//!
//! Patching a state event by event would depend on the order of arrival. Instead, each event adds a [`Record`], and [`fold`]
//! computes the members from all records, sorted by WeCom's time and within one second by kind and content. Only facts of
//! names that renames connect can affect each other; such a [`RenameGroup`] is folded as a unit.
//!
//! Rules of the fold, in order of time:
//! - A userid resolves to its present holder, else through renames.
//! - An update of an unknown or deleted member shows that the member exists: its creation is missing or late.
//! - A rename moves the member, with its departments, tags and openid, to the new name. A later creation under the old
//!   name is another member.
//! - An answer to a conversion belongs to the member that held the name at the claim. If the name changed its holder during
//!   the call, the answer is discarded and WeCom is called again.

mod answers;
mod compaction;
mod group;
mod implied;
mod member;
mod record;
#[cfg(test)]
mod tests;

pub use compaction::{compact, snapshot};
pub use group::{RenameGroup, fold};
pub use implied::implied_by_listing;
pub use member::{Member, MemberIdentity};
pub use record::{Answer, Conversion, MemberFact, Record};
