//! The network between this machine and WeCom: proxy, name resolution, and what each error means for the operator.

use super::circuit_breaker::Failure;
use super::errcode::Reason;
use rustls::CertificateError;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// How to reach `api_base`: proxy and certificate authorities.
#[derive(Clone, Default)]
pub(crate) struct Network {
    api_base: String,
    pub(super) proxy: Option<ureq::Proxy>,
    /// Certificate authorities in DER, in addition to the system's and the built-in ones.
    pub(super) authorities: Vec<Vec<u8>>,
}

impl Network {
    /// `authorities` are in DER. The error describes the proxy's URL without quoting it.
    pub(crate) fn new(
        api_base: &str,
        proxy: Option<&str>,
        authorities: Vec<Vec<u8>>,
    ) -> Result<Self, String> {
        let proxy = proxy.map(parse_proxy).transpose()?;
        Ok(Self { api_base: api_base.to_owned(), proxy, authorities })
    }

    pub(super) fn uses_tls(&self) -> bool {
        let by_proxy =
            self.proxy.as_ref().is_some_and(|proxy| proxy.protocol() == ureq::ProxyProtocol::Https);
        by_proxy || self.api_base.starts_with("https://")
    }

    fn peer(&self) -> String {
        match &self.proxy {
            Some(proxy) => format!("the proxy {}:{}", proxy.host(), proxy.port()),
            None => host_of(&self.api_base).to_owned(),
        }
    }
}

/// Host and port of a URL, without credentials.
pub(crate) fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

/// Parses a proxy's URL: http, https, socks5 or socks5h, with or without credentials. A SOCKS proxy resolves names.
/// The error does not quote the URL, which may contain a password.
pub(crate) fn parse_proxy(url: &str) -> Result<ureq::Proxy, String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "http" => "http",
        "https" => "https",
        "socks" | "socks5" | "socks5h" => "socks5h",
        _ => return Err("has an unknown scheme; use http://, https://, socks5:// or socks5h://".into()),
    };
    let host = host_of(rest);
    let proxy = ureq::Proxy::new(&format!("{scheme}://{rest}")).ok().filter(|_| !host.is_empty());
    let proxy = proxy.ok_or("is not a URL such as http://user:password@proxy.example:3128")?;
    let needs_both = scheme == "socks5h" && proxy.username().is_some();
    if needs_both && !proxy.password().is_some_and(|password| (1..=255).contains(&password.len())) {
        return Err("has a user name without a password, which SOCKS5 does not allow".into());
    }
    Ok(proxy)
}

/// Why an HTTP exchange brought no usable answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExchangeError {
    /// Whether an answer arrived. An unusable one concerns its item; a missing one concerns all calls.
    pub(super) arrived: bool,
    pub(super) what: String,
    /// Decides the advice; without one, the general advice for network failures applies.
    pub(super) cause: Option<Cause>,
}

/// A cause that the operator can remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The host name cannot be resolved.
    Name,
    Proxy,
    /// The proxy's user and password.
    Credentials,
    /// The certificate's authority is unknown.
    Authority,
    /// Any other failure of TLS.
    Tls,
    /// There is no API at this URL.
    Base,
}

impl Cause {
    /// What to do about a call of WeCom's API.
    fn advice(self) -> &'static str {
        match self {
            Self::Name => "check api_base and this machine's DNS, or set [wecom] proxy",
            Self::Proxy => {
                "check [wecom] proxy, or the environment's ALL_PROXY, HTTPS_PROXY, HTTP_PROXY, and the proxy itself"
            }
            Self::Credentials => {
                "check user and password in [wecom] proxy, or in the environment's ALL_PROXY, HTTPS_PROXY, HTTP_PROXY"
            }
            Self::Authority => {
                "if api_base has a certificate authority of its own, or a proxy opens TLS, set [wecom] ca_file to that authority's certificate"
            }
            Self::Tls => "check api_base, the server's certificate and this machine's clock",
            Self::Base => "check api_base: the APIs are expected below api_base/cgi-bin/",
        }
    }
}

impl ExchangeError {
    pub(super) fn no_answer(what: impl Into<String>) -> Self {
        Self { arrived: false, what: what.into(), cause: None }
    }

    pub(super) fn unusable(what: impl Into<String>) -> Self {
        Self { arrived: true, what: what.into(), cause: None }
    }

    pub(super) fn into_failure(self) -> Failure {
        let advice = self.advice();
        let errmsg = self.what;
        Failure { reason: Reason::Network, errcode: None, errmsg, advice, scope: None }
    }

    pub(super) fn advice(&self) -> Option<&'static str> {
        self.cause.map(Cause::advice)
    }

    fn with(self, cause: Cause) -> Self {
        Self { cause: Some(cause), ..self }
    }

    /// An HTTP status other than 200. Of `location`, a redirect's target, only scheme and host are shown.
    pub(super) fn of_status(status: u16, location: Option<&str>) -> Self {
        match status {
            407 => Self::no_answer("the proxy refuses the credentials (HTTP status 407)")
                .with(Cause::Credentials),
            404 | 405 | 410 => {
                Self::unusable(format!("HTTP status {status}: there is no API at this URL")).with(Cause::Base)
            }
            300..=399 => {
                let scheme = |to: &str| to.split_once("://").map(|(scheme, _)| scheme.to_owned());
                let to = location.and_then(|to| Some(format!(" to {}://{}", scheme(to)?, host_of(to))));
                let to = to.unwrap_or_default();
                Self::unusable(format!("HTTP status {status}: a redirect{to}, which is not followed"))
                    .with(Cause::Base)
            }
            _ => Self::unusable(format!("HTTP status {status}")),
        }
    }

    /// An error after the answer's head arrived.
    pub(super) fn of_body(error: &ureq::Error) -> Self {
        Self::unusable(match error {
            ureq::Error::BodyExceedsLimit(_) => "the answer is too long",
            ureq::Error::Timeout(_) => "the answer is not complete within the timeout",
            ureq::Error::Decompress(..) => "the answer cannot be decompressed",
            _ => "the answer is cut off",
        })
    }
}

/// An error before an answer arrived. ureq's own texts are not used: some contain the URL, and with it secrets.
pub(super) fn explain(error: &ureq::Error, network: &Network) -> ExchangeError {
    let peer = network.peer();
    match error {
        ureq::Error::Timeout(_) => ExchangeError::no_answer("no answer in time"),
        ureq::Error::Other(error) => match error.downcast_ref::<Unresolved>() {
            Some(Unresolved(host)) => {
                let is_proxy = network.proxy.as_ref().is_some_and(|proxy| proxy.host() == host);
                let cause = if is_proxy { Cause::Proxy } else { Cause::Name };
                ExchangeError::no_answer(format!("the host name {host} cannot be resolved")).with(cause)
            }
            None => ExchangeError::no_answer("the HTTP request failed"),
        },
        ureq::Error::Io(error) => explain_io(error, network, &peer),
        ureq::Error::Rustls(error) => explain_tls(error),
        ureq::Error::Tls(_) | ureq::Error::Pem(_) => {
            ExchangeError::no_answer("TLS: the connection could not be set up").with(Cause::Tls)
        }
        ureq::Error::Protocol(_) => ExchangeError::unusable("the answer is not HTTP"),
        ureq::Error::LargeResponseHeader(..) => ExchangeError::unusable("the answer's headers are too long"),
        ureq::Error::ConnectProxyFailed(why) if why.contains("407") => ExchangeError::of_status(407, None),
        ureq::Error::ConnectProxyFailed(why) => {
            let status: String = why.chars().filter(char::is_ascii_digit).take(3).collect();
            let status = if status.is_empty() { String::new() } else { format!(" (HTTP status {status})") };
            ExchangeError::no_answer(format!(
                "{peer} does not connect to {}{status}",
                host_of(&network.api_base)
            ))
            .with(Cause::Proxy)
        }
        ureq::Error::InvalidProxyUrl => {
            ExchangeError::no_answer("the proxy's URL is not valid").with(Cause::Proxy)
        }
        ureq::Error::ConnectionFailed => ExchangeError::no_answer(format!("no connection to {peer}")),
        _ => ExchangeError::no_answer("the HTTP request failed"),
    }
}

fn explain_io(error: &std::io::Error, network: &Network, peer: &str) -> ExchangeError {
    use std::io::ErrorKind;
    let inner = error.get_ref();
    if let Some(tls) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return explain_tls(tls);
    }
    let proxy = |error: ExchangeError| {
        if network.proxy.is_some() { error.with(Cause::Proxy) } else { error }
    };
    let is_socks =
        network.proxy.as_ref().is_some_and(|proxy| proxy.protocol() == ureq::ProxyProtocol::Socks5h);
    match error.kind() {
        ErrorKind::ConnectionRefused => {
            proxy(ExchangeError::no_answer(format!("{peer} refuses the connection")))
        }
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
            proxy(ExchangeError::no_answer(format!("{peer} cannot be reached: no route to it")))
        }
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::UnexpectedEof => {
            proxy(ExchangeError::no_answer(format!("{peer} closed the connection without an answer")))
        }
        // ureq's texts for SOCKS are fixed: the reply codes of RFC 1928 and RFC 1929.
        ErrorKind::PermissionDenied if is_socks => {
            ExchangeError::no_answer(format!("{peer} refuses user and password")).with(Cause::Credentials)
        }
        _ if is_socks && inner.is_some() => {
            let wants_credentials = error.to_string().contains("auth");
            let cause = if wants_credentials { Cause::Credentials } else { Cause::Proxy };
            ExchangeError::no_answer(format!("{peer} refuses: {error}")).with(cause)
        }
        kind => proxy(ExchangeError::no_answer(format!("no connection to {peer}: {kind}"))),
    }
}

fn explain_tls(error: &rustls::Error) -> ExchangeError {
    let rustls::Error::InvalidCertificate(error) = error else {
        let what = match error {
            rustls::Error::InvalidMessage(_) => "TLS: the other side does not speak TLS at this port",
            rustls::Error::PeerIncompatible(_) => "TLS: the server supports no secure version or cipher",
            _ => "TLS: the server aborted the handshake",
        };
        return ExchangeError::no_answer(what).with(Cause::Tls);
    };
    let (what, cause) = match error {
        CertificateError::UnknownIssuer => ("TLS: certificate of an unknown authority", Cause::Authority),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            ("TLS: the certificate has expired", Cause::Tls)
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            ("TLS: the certificate is not valid yet", Cause::Tls)
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            ("TLS: the certificate is for another host name", Cause::Tls)
        }
        _ => ("TLS: the certificate is not valid", Cause::Tls),
    };
    ExchangeError::no_answer(what).with(cause)
}

#[derive(Debug, thiserror::Error)]
#[error("the host name {0} cannot be resolved")]
struct Unresolved(String);

/// The system's resolver, with an error that names the host.
#[derive(Debug, Default)]
pub(super) struct NamedResolver(DefaultResolver);

impl Resolver for NamedResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        self.0.resolve(uri, config, timeout).map_err(|error| match error {
            ureq::Error::Io(_) | ureq::Error::HostNotFound | ureq::Error::Timeout(_) => {
                ureq::Error::Other(Box::new(Unresolved(uri.host().unwrap_or_default().to_owned())))
            }
            other => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_http_or_socks5_and_no_error_shows_its_password() {
        for good in
            ["http://p:3128", "socks5://u:pw@p", "socks5h://p:1080", "HTTP://u:p%40w@[::1]:3128/", "p:3128"]
        {
            assert!(parse_proxy(good).is_ok(), "{good}");
        }
        for bad in [
            "ftp://u:hush@p",
            "http://",
            "socks4://p",
            "socks5://hush@p",
            "http://u:hush@",
            "http://a b",
            "://",
        ] {
            let error = parse_proxy(bad).unwrap_err();
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn a_redirect_is_reported_without_path_and_query() {
        let error = ExchangeError::of_status(302, Some("https://u@portal.example:8443/login?url=secret"));
        assert!(error.arrived && error.what.contains("to https://portal.example:8443,"), "{}", error.what);
        assert_eq!(
            ExchangeError::of_status(301, Some("/here")).what,
            "HTTP status 301: a redirect, which is not followed"
        );
        assert!(!ExchangeError::of_status(407, None).arrived);
    }
}
