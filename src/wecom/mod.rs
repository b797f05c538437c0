//! WeCom's protocol: callback cryptography, messages, error numbers, the API and its pace.
//!
//! Speaks HTTP and XML and JSON; knows no database.

pub mod crypt;
pub mod envelope;

pub mod message;

pub mod xml;
