//! Events without XML: every id is parsed and every value is in its normal form.

use super::fields::{DepartmentField, Fields, MemberField};
use super::ids::{DepartmentId, TagId, UserId};
use super::time::UnixSeconds;

/// The event that one callback carries.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// CreateTime, on WeCom's clock; corrected if it was implausible.
    pub at: UnixSeconds,
    /// What happened, and to which entity.
    pub subject: Subject,
}

/// The entity that an event concerns, and what happened to it.
#[derive(Debug, Clone, PartialEq)]
pub enum Subject {
    /// create_user, update_user and delete_user (doc 90970).
    Member(UserId, MemberEvent),
    /// create_party, update_party and delete_party (doc 90974).
    Department(DepartmentId, DepartmentEvent),
    /// update_tag, with members and departments (doc 90976).
    Tag(TagId, TagEvent),
    /// subscribe, unsubscribe and enter_agent: the member may be convertible now.
    Trigger(UserId, Trigger),
    /// batch_job_result: a bulk job ended (doc 90973).
    BatchJob(BatchJob),
    /// Any other event; it is recorded and ignored.
    Other,
}

/// A contact event about a member. Only update_user carries part of the fields.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum MemberEvent {
    Created(Fields<MemberField>),
    Updated(Fields<MemberField>),
    /// update_user with NewUserID: the new userid and the changed fields.
    Renamed(UserId, Fields<MemberField>),
    Deleted,
}

/// A contact event about a department. update_party carries only the changed fields.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum DepartmentEvent {
    Created(Fields<DepartmentField>),
    Updated(Fields<DepartmentField>),
    Deleted,
}

/// The content of update_tag: AddUserItems, DelUserItems, AddPartyItems and DelPartyItems.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs)]
pub struct TagEvent {
    pub added_members: Vec<UserId>,
    pub removed_members: Vec<UserId>,
    pub added_departments: Vec<DepartmentId>,
    pub removed_departments: Vec<DepartmentId>,
}

impl TagEvent {
    /// The number of members and departments in all four lists.
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
    /// The member entered the app's visible range.
    Subscribe,
    /// The member left the app's visible range.
    Unsubscribe,
    /// The member opened the app.
    EnterAgent,
}

/// The result of a bulk job: batch_job_result (doc 90973).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchJob {
    /// JobType: sync_user, replace_user, invite_user, replace_party
    pub job_type: String,
}

impl BatchJob {
    /// Whether the job may have changed the directory without an event for each change.
    #[must_use]
    pub fn changes_the_directory(&self) -> bool {
        matches!(self.job_type.as_str(), "sync_user" | "replace_user" | "replace_party")
    }
}
