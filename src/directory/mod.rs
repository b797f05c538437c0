//! Ground floor, pure: what a directory is and how it changes.
//!
//! Nothing here knows of XML, HTTP, SQL, threads or a clock: time comes as a parameter. The idea of the
//! merge is in [`history`]: what WeCom said is kept and folded in order of *its* time, so the order in
//! which it arrived cannot matter.

pub mod attributes;
pub mod changes;
pub mod clock;
pub mod comparison;
pub mod department;
pub mod event;
pub mod fields;
pub mod history;
pub mod ids;
pub mod life;
pub mod listing;
pub mod openid;
pub mod restamp;
pub mod text;
pub mod time;

pub use changes::{Action, Change};
pub use event::{BatchJob, DepartmentEvent, Event, MemberEvent, Subject, TagEvent, Trigger};
pub use fields::{DepartmentField, Field, Fields, MemberField, Value};
pub use history::{Fact, Saying};
pub use ids::{DepartmentId, TagId, UserId};
pub use time::{Stamp, UnixSeconds};
