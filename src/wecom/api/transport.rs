//! One HTTP exchange with WeCom's API. Knows no tokens and no circuit breaker.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use ureq::Body;
use ureq::http::Response;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, SocksConnector, TcpConnector};

use super::answer::Answer;
use super::concurrency::MAX_CONCURRENT_CALLS;
use super::network::{ExchangeError, NamedResolver, Network, explain};
use super::tls::{Tls, client_config};
use crate::directory::UnixSeconds;
use crate::wecom::clock::SharedClock;

/// Longest response body in bytes; a page of 10,000 members is under 1 MiB.
const MAX_ANSWER: u64 = 16 * 1024 * 1024;

/// The HTTP client, shared by all threads.
pub(super) struct Transport {
    agent: ureq::Agent,
    network: Network,
    clock: SharedClock,
}

impl Transport {
    /// `timeout` bounds a whole exchange, from name resolution to the last byte.
    pub(super) fn new(timeout: Duration, network: Network, clock: SharedClock) -> Self {
        Self { agent: bounded_agent(timeout, &network), network, clock }
    }

    /// GET, or POST with a JSON body. The error does not contain the URL, which has secrets.
    pub(super) fn exchange(&self, url: &str, body: Option<&Json>) -> Result<Answer, ExchangeError> {
        let begun = Instant::now();
        let sent = send(&self.agent, url, body).map_err(|_| {
            ExchangeError::no_answer("the HTTP client panicked, probably because no thread could be started")
        })?;
        let mut response = sent.map_err(|error| explain(&error, &self.network))?;
        let took = begun.elapsed();
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        if response.status() != 200 {
            return Err(ExchangeError::of_status(response.status().as_u16(), header("location")));
        }
        let date = header("date").and_then(parse_date);
        let text = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
        let text = text.map_err(|error| ExchangeError::of_body(&error))?;
        let answer = Answer::read(&text, UnixSeconds::default()).map_err(ExchangeError::unusable)?;
        // Only an answer from WeCom shows WeCom's time; a gateway's error page does not.
        let asked_at = self.clock.stamp_answer(date, took);
        Ok(Answer { asked_at, ..answer })
    }
}

/// GET, or POST with a JSON body. ureq resolves names in a new thread, and panics if the system refuses one; the caller's
/// thread survives.
pub(super) fn send(
    agent: &ureq::Agent,
    url: &str,
    body: Option<&Json>,
) -> std::thread::Result<Result<Response<Body>, ureq::Error>> {
    catch_unwind(AssertUnwindSafe(|| match body {
        None => agent.get(url).call(),
        Some(body) => agent.post(url).content_type("application/json; charset=utf-8").send(body.to_string()),
    }))
}

/// An HTTP client with this machine's way to the network. A response of any status is one.
pub(super) fn bounded_agent(timeout: Duration, network: &Network) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .proxy(network.proxy.clone())
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        // A redirect would carry the access_token to another host.
        .max_redirects(0)
        .max_redirects_will_error(false)
        // One for each call in flight: by default, most calls would connect anew.
        .max_idle_connections(MAX_CONCURRENT_CALLS)
        .max_idle_connections_per_host(MAX_CONCURRENT_CALLS)
        .user_agent(concat!("wecom-dirsync/", env!("CARGO_PKG_VERSION")))
        .build();
    agent(config, network)
}

/// An HTTP client with this program's certificates, and with errors that name the host.
pub(super) fn agent(config: ureq::config::Config, network: &Network) -> ureq::Agent {
    let tls = network.uses_tls().then(|| client_config(&network.authorities));
    let tls = tls.and_then(|config| {
        config
            .inspect_err(|error| log::error!("TLS cannot be set up, so calls to https:// fail: {error}"))
            .ok()
    });
    let connector =
        ().chain(SocksConnector::default())
            .chain(ConnectProxyConnector::default())
            .chain(TcpConnector::default())
            .chain(Tls(tls));
    ureq::Agent::with_parts(config, connector, NamedResolver::default())
}

fn parse_date(text: &str) -> Option<UnixSeconds> {
    let date = httpdate::parse_http_date(text).ok()?;
    let since = date.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok().map(UnixSeconds)
}
