//! WeCom's protocol: callbacks in [`callback`], the server API in [`api`].
//!
//! Speaks HTTP, XML and JSON; knows no database.

pub mod api;
pub mod callback;
pub mod clock;
pub mod query;
pub mod redact;
