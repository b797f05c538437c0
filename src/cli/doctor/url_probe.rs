//! Sends signed verifications to a callback URL and keeps what came back, as it is. [`super::reply`] and [`super::url`] judge it.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Connector, NextTimeout, TcpConnector};

use crate::demo::sender::{encrypt, signed_query};
use crate::wecom::api::tls::Tls;
use crate::wecom::api::tls_inspection::{Judged, Trust, inspecting_config};
use crate::wecom::callback::crypt::Crypt;
use crate::wecom::query::url_encode;

/// Time for the name, and for the connection with TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a whole request. WeCom itself waits for 1 s.
const TIMEOUT: Duration = Duration::from_secs(12);
/// Longest part of a response that is read, in bytes; the right one has 20.
const MAX_BODY: u64 = 64 * 1024;
/// Attempts to find random bytes whose encryption has the wanted characters: one in sixteen has neither `+` nor `/`.
const TRIES: usize = 10_000;

/// A response as it arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) location: Option<String>,
    /// The header Server.
    pub(super) server: Option<String>,
    pub(super) body: Vec<u8>,
    pub(super) took: Duration,
}

/// Why no response arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unreachable {
    /// The name has no address, or no name server answers.
    Name,
    Refused,
    Timeout,
    NoRoute,
    /// The connection ended before a response.
    Closed,
    /// The port does not speak TLS, or no common version of it.
    NoTls,
    /// The port does not speak HTTP.
    NotHttp,
    Other(String),
}

/// A verification and what came back.
#[derive(Debug, Clone)]
pub(super) struct Verification {
    /// The text that the response must be.
    pub(super) text: String,
    /// The encrypted text, in base64.
    pub(super) echostr: String,
    pub(super) outcome: Result<Reply, Unreachable>,
}

/// Which characters the encrypted text has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Characters {
    /// At least one `+`.
    WithPlus,
    /// Neither `+` nor `/`.
    Plain,
}

/// Sends verifications to one URL, directly and without following redirects.
pub(super) struct UrlProber {
    agent: ureq::Agent,
    url: String,
    judged: Arc<Judged>,
    addresses: Arc<Mutex<Vec<IpAddr>>>,
}

impl UrlProber {
    /// `url` has no query. `authorities`: those of `ca_file`, in DER.
    pub(super) fn new(url: &str, authorities: &[Vec<u8>]) -> Result<Self, String> {
        let config = ureq::Agent::config_builder()
            .proxy(None)
            .timeout_global(Some(TIMEOUT))
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // The bytes as they are, as WeCom gets them.
            .accept_encoding("")
            .user_agent(concat!("wecom-dirsync/", env!("CARGO_PKG_VERSION"), " (doctor)"))
            .build();
        let (judged, addresses) = (Arc::<Judged>::default(), Arc::<Mutex<Vec<IpAddr>>>::default());
        let tls = inspecting_config(authorities, Arc::clone(&judged)).map_err(|error| error.to_string())?;
        let connector = ().chain(TcpConnector::default()).chain(Tls(Some(tls)));
        let resolver = Remembering(DefaultResolver::default(), Arc::clone(&addresses));
        let agent = ureq::Agent::with_parts(config, connector, resolver);
        Ok(Self { agent, url: url.to_owned(), judged, addresses })
    }

    /// Sends a verification, as WeCom's console does when it saves a URL.
    pub(super) fn verify(&self, crypt: &Crypt, characters: Characters) -> Result<Verification, String> {
        // As long as WeCom's own.
        let text = format!("{:019}", fastrand::u64(1_000_000_000_000_000_000..=9_999_999_999_999_999_999));
        let echostr = encrypt_with(crypt, &text, characters)?;
        let url = format!("{}?{}&echostr={}", self.url, signed_query(crypt, &echostr), url_encode(&echostr));
        let outcome = self.get(&url);
        Ok(Verification { text, echostr, outcome })
    }

    /// The judgement of the certificate; `None` without TLS.
    pub(super) fn trust(&self) -> Option<Trust> {
        self.judged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The addresses of the name.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn get(&self, url: &str) -> Result<Reply, Unreachable> {
        let begun = Instant::now();
        let mut response = self.agent.get(url).call().map_err(|error| unreachable(&error))?;
        let header = |name| {
            let value = response.headers().get(name).and_then(|value| value.to_str().ok());
            value.map(str::to_owned)
        };
        let (status, location, server) = (response.status().as_u16(), header("location"), header("server"));
        let mut body = Vec::new();
        let mut reader = std::io::Read::take(response.body_mut().as_reader(), MAX_BODY);
        // The part before an error is judged.
        let read = std::io::Read::read_to_end(&mut reader, &mut body);
        if read.is_err() && body.is_empty() {
            return Err(Unreachable::Closed);
        }
        Ok(Reply { status, location, server, body, took: begun.elapsed() })
    }
}

/// Encrypts `text` with random bytes that give the wanted characters.
fn encrypt_with(crypt: &Crypt, text: &str, characters: Characters) -> Result<String, String> {
    for _ in 0..TRIES {
        let encrypted = encrypt(crypt, text)?;
        let fits = match characters {
            Characters::WithPlus => encrypted.contains('+'),
            Characters::Plain => !encrypted.contains(['+', '/']),
        };
        if fits {
            return Ok(encrypted);
        }
    }
    Err("no random bytes were found for the verification".into())
}

fn unreachable(error: &ureq::Error) -> Unreachable {
    use std::io::ErrorKind;
    match error {
        ureq::Error::HostNotFound | ureq::Error::Timeout(ureq::Timeout::Resolve) => Unreachable::Name,
        ureq::Error::Timeout(_) => Unreachable::Timeout,
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => Unreachable::NoTls,
        ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) => Unreachable::NotHttp,
        ureq::Error::ConnectionFailed => Unreachable::NoRoute,
        ureq::Error::Io(error) => {
            if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
                return Unreachable::NoTls;
            }
            match error.kind() {
                ErrorKind::ConnectionRefused => Unreachable::Refused,
                ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
                    Unreachable::NoRoute
                }
                ErrorKind::TimedOut | ErrorKind::WouldBlock => Unreachable::Timeout,
                ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe
                | ErrorKind::UnexpectedEof => Unreachable::Closed,
                kind => Unreachable::Other(kind.to_string()),
            }
        }
        _ => Unreachable::Other("the HTTP request failed".into()),
    }
}

/// The system's resolver; it keeps the addresses of the last name.
#[derive(Debug)]
struct Remembering(DefaultResolver, Arc<Mutex<Vec<IpAddr>>>);

impl Resolver for Remembering {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        // getaddrinfo's error has no kind of its own.
        let resolved = self.0.resolve(uri, config, timeout).map_err(|error| match error {
            ureq::Error::Io(_) => ureq::Error::HostNotFound,
            other => other,
        })?;
        let addresses = resolved.iter().map(std::net::SocketAddr::ip).collect();
        *self.1.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
        Ok(resolved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wecom::callback::crypt::EncodingAesKey;

    #[test]
    fn the_encrypted_text_has_the_wanted_characters() {
        const KEY: &str = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C";
        let crypt = Crypt::new("QDG6eK", EncodingAesKey::parse(KEY).unwrap(), "wx5823bf96d3bd56c7");
        for _ in 0..20 {
            assert!(encrypt_with(&crypt, "1", Characters::WithPlus).unwrap().contains('+'));
            assert!(!encrypt_with(&crypt, "1", Characters::Plain).unwrap().contains(['+', '/']));
        }
    }
}
