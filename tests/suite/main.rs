//! The real binary on real sockets and a real database, and the parts of the crate that only the database shows.
//!
//! One test binary: it is linked once, and its tests, most of which wait, run beside each other. A module is run alone by
//! its name: `cargo test --test suite conversion::`. Tests that measure the whole machine are in binaries of their own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs
)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/events.rs"]
mod events;
#[path = "../common/exposition.rs"]
mod exposition;
#[path = "../common/replica.rs"]
mod replica;

mod admin;
mod answers;
mod callback;
mod calls;
mod clash;
mod cli;
mod clock;
mod configuration;
mod control;
mod conversion;
mod crash;
mod doctor;
mod documents;
mod faults;
mod feed;
mod files;
mod front;
mod fuzz;
mod init;
mod input;
mod large_events;
mod manuals;
mod members;
mod merge;
mod monitoring;
mod network;
mod normal_form;
mod notify;
mod operator;
mod order;
mod packaging;
mod reconcile;
mod refusals;
mod schema;
mod send;
mod service;
mod vectors;
mod verify;
