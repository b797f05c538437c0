//! Callbacks: signature and encryption, the XML envelope, and the events inside.

pub mod crypt;
mod elements;
pub mod envelope;
pub(crate) mod mentions;
pub mod message;
mod repair;
pub mod xml;
