//! One HTTP request to a callback URL, as WeCom sends it: no proxy of this machine, no redirect.

use std::io::Read;
use std::time::{Duration, Instant};

use super::network::{Cause, ExchangeError, Network, explain};
use super::transport::agent;

/// Bytes of a response's body that are read.
const MAX_BODY: u64 = 64 * 1024;

/// A response of any status.
#[derive(Debug, Clone, Default)]
pub(crate) struct DirectResponse {
    pub(crate) status: u16,
    /// Headers, empty if they are missing.
    pub(crate) location: String,
    pub(crate) content_type: String,
    /// At most the first 64 KiB.
    pub(crate) body: Vec<u8>,
    pub(crate) took: Duration,
}

/// Why no response arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoResponse {
    Timeout,
    Network { what: String, cause: Option<Cause> },
}

/// GET, or POST of XML. `timeout` bounds the whole exchange, from name resolution to the last byte.
pub(crate) fn exchange(
    url: &str,
    xml: Option<&str>,
    timeout: Duration,
) -> Result<DirectResponse, NoResponse> {
    let failure = |ExchangeError { what, cause, .. }| NoResponse::Network { what, cause };
    let network =
        Network::new(url, None, Vec::new()).map_err(|what| NoResponse::Network { what, cause: None })?;
    let config = ureq::Agent::config_builder()
        .proxy(None)
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("wecom-dirsync/", env!("CARGO_PKG_VERSION")))
        .build();
    let agent = agent(config, &network);
    let begun = Instant::now();
    let sent = match xml {
        None => agent.get(url).call(),
        Some(xml) => agent.post(url).content_type("text/xml").send(xml),
    };
    let mut response = sent.map_err(|error| match error {
        ureq::Error::Timeout(_) => NoResponse::Timeout,
        error => failure(explain(&error, &network)),
    })?;
    let mut body = Vec::new();
    if response.body_mut().as_reader().take(MAX_BODY).read_to_end(&mut body).is_err() {
        return Err(if begun.elapsed() >= timeout {
            NoResponse::Timeout
        } else {
            NoResponse::Network { what: "the response is cut off".into(), cause: None }
        });
    }
    let header = |name| {
        let value = response.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    Ok(DirectResponse {
        status: response.status().as_u16(),
        location: header("location"),
        content_type: header("content-type"),
        body,
        took: begun.elapsed(),
    })
}
