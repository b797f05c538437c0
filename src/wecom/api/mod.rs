//! The server API: client, token, rate limiter, circuit breaker, and the answers.

mod answer;
pub mod circuit_breaker;
mod client;
pub mod directory;
pub mod endpoints;
pub mod errcode;
mod failures;
pub mod json;
pub mod network;
pub mod rate_limiter;
pub mod tls;
mod token;
mod transport;

pub use crate::wecom::clock::clock;
pub use answer::{Answer, ApiObserver, NoAnswer, NotSeen, Record, Seen};
pub use client::{Client, Settings};
pub use endpoints::{Api, SecretKind};
