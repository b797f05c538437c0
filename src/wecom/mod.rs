//! WeCom's protocol: callback cryptography, messages, error numbers, the API and its pace.
//!
//! Speaks HTTP and XML and JSON; knows no database.

pub mod api;
pub mod apis;
pub mod crypt;
mod elements;
pub mod envelope;
pub mod errcode;
pub mod message;
pub mod pace;
pub mod pauses;
pub mod query;
pub mod read;
mod repair;
mod token;
mod transport;
pub mod xml;
