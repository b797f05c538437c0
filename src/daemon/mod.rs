//! The running parts of the daemon, one file each.
