//! What is specific to SQLite: schema, views, and supervision of the files.

pub(super) mod file_watch;
