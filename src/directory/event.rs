//! An event as the directory understands it: no XML left, every id checked.

use super::fields::{DepartmentField, Fields, MemberField};
use super::ids::{DepartmentId, TagId, UserId};
use super::time::UnixSeconds;

/// One callback's news.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// CreateTime: WeCom's clock.
    pub at: UnixSeconds,
    /// What it is about.
    pub subject: Subject,
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Subject {
    /// create_user, update_user, delete_user
    Member(UserId, MemberEvent),
    /// create_party, update_party, delete_party
    Department(DepartmentId, DepartmentEvent),
    /// update_tag
    Tag(TagId, TagEvent),
    /// subscribe, unsubscribe, enter_agent: a member who may now be convertible
    Trigger(UserId, Trigger),
    /// A bulk job ended
    BatchJob(BatchJob),
    /// Nothing that this program acts on
    Other,
}

/// What happened to a member.
#[derive(Debug, Clone, PartialEq)]
pub enum MemberEvent {
    /// create_user
    Created(Fields<MemberField>),
    /// update_user: only what changed
    Updated(Fields<MemberField>),
    /// update_user with NewUserID
    Renamed(UserId, Fields<MemberField>),
    /// delete_user
    Deleted,
}

/// What happened to a department.
#[derive(Debug, Clone, PartialEq)]
pub enum DepartmentEvent {
    /// create_party
    Created(Fields<DepartmentField>),
    /// update_party: only what changed
    Updated(Fields<DepartmentField>),
    /// delete_party
    Deleted,
}

/// update_tag: who and what came into a tag and left it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TagEvent {
    /// AddUserItems
    pub added_members: Vec<UserId>,
    /// DelUserItems
    pub removed_members: Vec<UserId>,
    /// AddPartyItems
    pub added_departments: Vec<DepartmentId>,
    /// DelPartyItems
    pub removed_departments: Vec<DepartmentId>,
}

impl TagEvent {
    /// Number of members and departments in all lists.
    pub(crate) fn len(&self) -> usize {
        self.added_members.len()
            + self.removed_members.len()
            + self.added_departments.len()
            + self.removed_departments.len()
    }
}

/// Events of an app's callback that name a member who may now be convertible (doc 90376, 90240).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// The member came into the app's visible range.
    Subscribe,
    /// The member left it.
    Unsubscribe,
    /// The member opened the app.
    EnterAgent,
}

/// batch_job_result (doc 90973).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchJob {
    /// JobType: sync_user, replace_user, invite_user, replace_party
    pub job_type: String,
}

impl BatchJob {
    /// Whether the job may have changed the directory without telling of each change.
    #[must_use]
    pub fn changes_the_directory(&self) -> bool {
        matches!(self.job_type.as_str(), "sync_user" | "replace_user" | "replace_party")
    }
}
