//! The directory in SQLite: one file, one writer that commits in groups, and a connection for each reader.
//!
//! All SQL of the program is here, and no HTTP or XML.

mod changes;
pub(crate) mod clashes;
pub mod connection;
pub(crate) mod deferred;
mod departments;
pub(crate) mod details;
pub(crate) mod epoch;
mod error;
mod event_log;
mod events;
mod facts;
mod failure_log;
pub(crate) mod file;
mod heal;
pub(crate) mod holders;
mod images;
pub(crate) mod ledger;
pub(crate) mod member_list;
mod member_merge;
mod members;
pub(crate) mod monitor;
pub(crate) mod news;
pub mod observations;
pub mod open;
pub mod openids;
pub mod queries;
pub mod reconciles;
pub(crate) mod refusals;
pub(crate) mod sample;
mod sqlite;
pub(crate) mod state;
pub mod verify;
pub(crate) mod writer;

pub use connection::Connection;
pub(crate) use error::StoreError;
pub use event_log::{EventOutcome, NewEvent};
pub(crate) use events::record_invalid;
pub use events::{Applied, apply_event};
pub(crate) use open::open_reader;
pub use open::open_writer;
pub use openids::ConversionOutcome;
pub use writer::Writer;

/// The result of a statement; the caller rolls back on an error.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;
