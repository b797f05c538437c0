//! The running parts of the daemon, one file each.

pub mod callback;
pub mod converter;
pub mod recorder;
