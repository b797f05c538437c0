//! The demo, and the stand-in for WeCom's API that it shares with the tests.

pub mod sender;
pub mod standin;
