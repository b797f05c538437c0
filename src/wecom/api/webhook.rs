//! Requests to one URL that an operator configured: a robot, a webhook, a heartbeat. No error contains the URL.

use std::time::Duration;

use serde_json::Value as Json;

use super::network::{ExchangeError, Network, explain};
use super::transport::{bounded_agent, send};

/// Longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// A client for one URL.
pub(crate) struct Webhook {
    agent: ureq::Agent,
    network: Network,
    url: String,
}

impl Webhook {
    /// `network` is the way to this URL; `timeout` bounds a whole request.
    pub(crate) fn new(url: &str, network: Network, timeout: Duration) -> Self {
        Self { agent: bounded_agent(timeout, &network), network, url: url.to_owned() }
    }

    /// GET, or POST with a JSON body; returns the body of an answer with a status of 200 to 299.
    pub(crate) fn request(&self, body: Option<&Json>) -> Result<Vec<u8>, String> {
        let sent = send(&self.agent, &self.url, body).map_err(|_| "the HTTP client panicked".to_owned())?;
        let mut response = sent.map_err(|error| explain(&error, &self.network).what)?;
        if !response.status().is_success() {
            return Err(format!("HTTP status {}", response.status().as_u16()));
        }
        let answer = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
        answer.map_err(|error| ExchangeError::of_body(&error).what)
    }
}
