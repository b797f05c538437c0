//! WeCom's protocol: callback cryptography, messages, error numbers, the API and its pace.
//!
//! Speaks HTTP and XML and JSON; knows no database.

mod answer;
pub mod api;
pub mod apis;
pub mod clock;
pub mod crypt;
mod elements;
pub mod envelope;
pub mod errcode;
mod failures;
pub mod json;
pub mod message;
pub mod network;
pub mod pace;
pub mod pauses;
pub mod query;
pub mod read;
pub mod redact;
mod repair;
pub mod tls;
mod token;
mod transport;
pub mod xml;
