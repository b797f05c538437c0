//! WeCom's protocol: callbacks in [`callback`], the server API in [`api`].
//!
//! Uses HTTP, XML and JSON, but no database.

pub mod api;
pub mod callback;
pub mod clock;
pub mod query;
pub mod redact;
pub(crate) mod robot;
