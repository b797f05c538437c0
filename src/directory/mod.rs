//! The directory and its merge. Pure: no XML, HTTP, SQL, threads or clock; time is a parameter.
//!
//! The merge is in [`members`] and [`numbered`]: facts are stored and folded in order of WeCom's time, so the result does not
//! depend on their order of arrival.

pub(crate) mod attributes;
pub(crate) mod clock;
pub(crate) mod comparison;
pub mod diff;
pub(crate) mod entity;
pub(crate) mod event;
pub mod fact;
pub mod fields;
pub(crate) mod ids;
pub(crate) mod listing;
pub mod members;
pub mod numbered;
pub mod openid;
pub(crate) mod restamp;
pub mod text;
pub(crate) mod time;

pub(crate) use diff::column_form;
pub use diff::{Action, Change};
pub use event::{BatchJob, DepartmentEvent, Event, MemberEvent, Subject, TagEvent, Trigger};
pub use fact::{Fact, FactRecord, Presence, Source};
pub use fields::{DepartmentField, Field, Fields, MemberField, TagField, Value};
pub use ids::{DepartmentId, TagId, UserId};
pub use time::{Rank, Stamp, UnixSeconds};
