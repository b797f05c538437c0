//! `wecom-dirsync`: an exact local copy of a WeCom directory, and each member's openid.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod directory;
pub mod stop;
pub mod store;
pub mod wecom;
