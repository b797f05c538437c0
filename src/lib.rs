//! `wecom-dirsync`: an exact local copy of a WeCom directory, and each member's openid.
//!
//! - [`gate`] limits every client in front of the HTTP server, and imports nothing of the program.
//! - [`directory`] is pure: members, departments and tags, and the merge of facts about them
//!   ([`directory::members`], [`directory::numbered`]).
//! - [`wecom`] is the protocol: callbacks with their cryptography, and the API with its token, rate limiter and circuit
//!   breaker.
//! - [`store`] is the SQLite file: its schema, the writer that commits in groups, and every query.
//! - [`daemon`] has one file for each running part, and starts and stops them.
//! - [`text`] escapes foreign text for terminals, logs and files; [`system_error`] has cause and remedy of the operating
//!   system's errors.
//! - [`config`] reads the INI file into settings, [`cli`] has one file for each command, and [`demo`] is a stand-in for
//!   WeCom.
//!
//! A callback goes from the gate through [`daemon::callbacks`] (signature, decryption, receive_id, XML) as a
//! [`directory::Event`] to the writer ([`store::apply_event`]); after the commit the server answers `success`, and the
//! dispatcher of API calls wakes. ARCHITECTURE.md has the details.
#![forbid(unsafe_code)]
// The library serves this program and its tests, so its documentation may refer to private items.
#![allow(rustdoc::private_intra_doc_links)]

pub mod cli;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod directory;
pub mod gate;
pub(crate) mod shutdown;
pub mod store;
pub(crate) mod system_error;
pub mod text;
pub mod unix_time;
pub mod wecom;
