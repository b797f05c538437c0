//! The directory in SQLite: one file, one writer that commits in groups, readers of their own.
//!
//! Knows no HTTP and no XML. All SQL of the program is here.

pub mod clashes;
pub mod deferred;
pub mod departments;
pub mod details;
pub mod epoch;
mod error;
mod events;
mod facts;
pub mod file;
pub mod holders;
pub mod members;
pub mod monitor;
pub mod observations;
pub mod open;
pub mod openids;
pub mod queries;
pub mod reconciles;
pub mod refusals;
mod sqlite;
pub mod state;
pub mod writer;

pub use error::StoreError;
pub use events::{Applied, NewEvent, Outcome, apply_event, record_invalid};
pub use open::{Opened, open_reader, open_writer};
pub use openids::{
    ApiCall, ConversionOutcome, due_members, earliest_due, make_due, record_api_call, record_conversion,
};
pub use rusqlite::{Connection, Error};
pub use state::{get_state, set_state};
pub use writer::Writer;

/// The result of a statement; the caller rolls back on an error.
pub type Result<T> = rusqlite::Result<T>;
