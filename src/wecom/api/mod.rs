//! WeCom's server API: client, token, rate limiter, circuit breaker, and parsing of answers.

mod admission;
mod answer;
pub mod circuit_breaker;
mod client;
mod concurrency;
pub(crate) mod direct;
pub mod directory;
pub mod endpoints;
pub mod errcode;
mod failure_tracker;
pub mod json;
mod methods;
pub mod network;
pub(crate) mod probe;
pub mod rate_limiter;
mod reload;
pub mod tls;
pub(crate) mod tls_inspection;
mod token;
mod transport;
pub(crate) mod webhook;

pub(crate) use admission::{Admission, Entry};
pub use answer::{Answer, ApiObserver, CallRecord};
pub(crate) use answer::{ApiError, Dated, NoAnswer};
pub use client::Client;
pub(crate) use client::Settings;
pub(crate) use concurrency::MAX_CONCURRENT_CALLS;
pub use endpoints::{Api, SecretKind};
pub(crate) use reload::Reloadable;
