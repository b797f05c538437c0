//! Stand-in for WeCom's API and sender of callbacks, for `wecom-dirsync demo` and the tests.

pub mod sender;
pub mod standin;
