//! Pure: what a directory is and how it changes.
//!
//! No XML, HTTP, SQL, threads or clock: time is a parameter. The merge is in [`members`] and [`numbered`]: what WeCom said
//! is kept and folded in order of WeCom's time, so that the order of arrival cannot matter.

pub mod attributes;
pub mod clock;
pub mod comparison;
pub mod diff;
pub mod entity;
pub mod event;
pub mod fact;
pub mod fields;
pub mod ids;
pub mod listing;
pub mod members;
pub mod numbered;
pub mod openid;
pub mod restamp;
pub mod text;
pub mod time;

pub(crate) use diff::column_form;
pub use diff::{Action, Change};
pub use event::{BatchJob, DepartmentEvent, Event, MemberEvent, Subject, TagEvent, Trigger};
pub use fact::{Fact, FactRecord, Presence, Source};
pub use fields::{DepartmentField, Field, Fields, MemberField, TagField, Value};
pub use ids::{DepartmentId, TagId, UserId};
pub use time::{Rank, Stamp, UnixSeconds};
