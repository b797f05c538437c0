//! The SQLite engine: files, their watch, and the schema.

pub(super) mod file_watch;
