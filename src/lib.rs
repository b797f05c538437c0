//! `wecom-dirsync`: an exact local copy of a WeCom directory, and each member's openid.
//!
//! - [`directory`] is the ground floor, pure: members, departments and tags, and how what WeCom says of them
//!   comes together ([`directory::history`]).
//! - [`wecom`] is the protocol: cryptography, messages, error numbers, and the API with its tokens, pace and
//!   pauses.
//! - [`store`] is the SQLite file: its schema, the writer that commits in groups, and every query.
//! - [`daemon`] is what runs: the gate and the server that take callbacks, and the converter that calls WeCom.
//! - [`text`] escapes foreign text for terminals, logs and files.
//! - [`config`] makes settings of an INI file, [`cli`] commands of arguments, and [`demo`] pretends to be WeCom.
//!
//! A callback goes from the gate ([`gate`]) through [`daemon::callbacks`] (signature, decryption,
//! receive_id, XML) as a [`directory::Event`] to the writer ([`store::apply_event`]); after the commit the
//! server answers `success`, and the converter wakes. ARCHITECTURE.md tells it at length.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod directory;
pub mod gate;
pub mod shutdown;
pub mod store;
pub mod text;
pub mod unix_time;
pub mod wecom;
