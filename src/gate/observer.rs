//! The observer of the requests that the gate answers itself.

use std::net::SocketAddr;

use super::glimpse::Glimpse;
use super::refusal::Refusal;

/// A request that did not reach the server, or whose answer did not reach the client.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// The client, as the PROXY protocol header names it if there is one.
    pub peer: SocketAddr,
    /// What can be told of the request.
    pub request: Glimpse,
}

/// Is called on the gate's thread, and must not block it.
pub trait Observer: Send + Sync {
    /// The gate refused a request.
    fn refused(&self, refused: &Refused);
}
