//! A callback URL from the outside in: its form, name, certificate and time. [`super::reply`] judges responses. Pure.

use std::time::Duration;

use super::finding::Finding;
use super::url_probe::Unreachable;
use crate::directory::UnixSeconds;
use crate::wecom::api::tls_inspection::Trust;

/// WeCom's console waits this long for the response to a verification (doc 90930).
const PROMPT: Duration = Duration::from_secs(1);
/// A certificate that ends sooner is reported, in seconds.
const ENDS_SOON: i64 = 14 * 86_400;

/// The parts of a callback URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CallbackUrl {
    /// Without query, as it is requested.
    pub(super) url: String,
    pub(super) is_https: bool,
    /// Host and port.
    pub(super) authority: String,
    /// `/` if the URL has none.
    pub(super) path: String,
}

impl CallbackUrl {
    /// The error states what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Self::split(text).map_err(str::to_owned)
    }

    fn split(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("has no scheme; write https://HOST/PATH")?;
        let is_https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err("is neither https:// nor http://"),
        };
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("contains blanks or characters beyond ASCII");
        }
        if rest.contains(['?', '#']) {
            return Err("has a query; the console's URL has none, WeCom adds its own");
        }
        if rest.contains('@') {
            return Err("contains a user or password, which WeCom does not send");
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.is_empty() || authority.starts_with(':') {
            return Err("has no host");
        }
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self { url: text.to_owned(), is_https, authority: authority.to_owned(), path: path.to_owned() })
    }
}

/// The name's addresses, or that there are none.
pub(super) fn judge_addresses(host: &str, addresses: &[std::net::IpAddr]) -> Finding {
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let what = format!("{host} is {}", shown.join(", "));
    let is_private = |address: &std::net::IpAddr| match address {
        std::net::IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        std::net::IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local(),
    };
    if addresses.iter().all(is_private) {
        let remedy = "make sure that the name has a public address for WeCom (split DNS answers differently inside); a \
                      private address cannot be reached from outside";
        return Finding::warning("url.dns", format!("{what}: no public address, as seen from here"), remedy);
    }
    Finding::ok("url.dns", what)
}

/// A URL that brought no response. `events_arrive`: WeCom reached the daemon within the last days, so the way from outside
/// works, and only the way from here does not.
pub(super) fn judge_unreachable(why: &Unreachable, authority: &str, events_arrive: bool) -> Finding {
    let (check, what, remedy) = match why {
        Unreachable::Name => (
            "url.dns",
            format!("the name of {authority} cannot be resolved"),
            "create the DNS record of the callback URL's name, or correct --url; check this machine's DNS",
        ),
        Unreachable::Refused => (
            "url.connection",
            format!("{authority} refuses the connection"),
            "start the reverse proxy, let it listen on this port, and open the port in the firewall",
        ),
        Unreachable::Timeout => (
            "url.connection",
            format!("{authority} does not answer in time"),
            "open the port in the firewall and in the cloud's security group, and check that the DNS record is current",
        ),
        Unreachable::NoRoute => (
            "url.connection",
            format!("there is no route to {authority}"),
            "check this machine's network, and that the DNS record is current",
        ),
        Unreachable::Closed => (
            "url.connection",
            format!("{authority} closes the connection without a response"),
            "see the log of the reverse proxy; with https, it may expect plain http, or the reverse",
        ),
        Unreachable::NoTls => (
            "url.tls",
            format!("{authority} does not speak TLS at this port, or no common version of it"),
            "let the proxy serve TLS 1.2 or newer on this port with a certificate for the name",
        ),
        Unreachable::NotHttp => (
            "url.connection",
            format!("{authority} does not speak HTTP"),
            "let the reverse proxy serve HTTP/1.1 at this port",
        ),
        Unreachable::Other(what) => (
            "url.connection",
            format!("no connection to {authority}: {what}"),
            "check this machine's network and the reverse proxy",
        ),
    };
    // NAT without hairpinning and split DNS are common, and WeCom is not inside.
    let is_of_here =
        matches!(why, Unreachable::Name | Unreachable::Refused | Unreachable::Timeout | Unreachable::NoRoute);
    if events_arrive && is_of_here {
        let what =
            format!("{what} from here, while WeCom's events arrive (NAT without hairpinning, or split DNS)");
        return Finding::warning(
            check,
            what,
            "nothing, if the URL works from outside; to be sure, run doctor there",
        );
    }
    Finding::must_fix(check, what, remedy)
}

/// The certificate, as other machines see it.
pub(super) fn judge_trust(trust: &Trust, host: &str, now: UnixSeconds) -> Finding {
    const CHECK: &str = "url.tls";
    let must_fix = |what: String, remedy: &str| Finding::must_fix(CHECK, what, remedy);
    let days = |ends: UnixSeconds| ends.since(now) / 86_400;
    match trust {
        Trust::Public { ends } if ends.since(now) < ENDS_SOON => Finding::warning(
            CHECK,
            format!("the certificate of {host} expires in {} days", days(*ends)),
            "renew it, and check why the renewal did not run by itself",
        ),
        Trust::Public { ends } => {
            Finding::ok(CHECK, format!("the certificate of {host} is valid for {} days", days(*ends)))
        }
        Trust::Private { ends } => Finding::warning(
            CHECK,
            format!(
                "the certificate of {host} is of an authority that only this machine trusts; it is valid for {} days",
                days(*ends)
            ),
            "use a certificate of a public authority (such as Let's Encrypt): WeCom does not know yours",
        ),
        Trust::SelfSigned => must_fix(
            format!("the certificate of {host} is self-signed"),
            "use a certificate of a public authority (such as Let's Encrypt)",
        ),
        Trust::UnknownIssuer => must_fix(
            format!("the certificate of {host} is of an unknown authority, or its chain is incomplete"),
            "let the proxy send the whole chain (nginx: ssl_certificate with fullchain.pem); else use a public authority",
        ),
        Trust::Expired => must_fix(
            format!("the certificate of {host}, or one in its chain, has expired"),
            "renew it and reload the proxy; if it was renewed, check this machine's clock",
        ),
        Trust::NotValidYet => must_fix(
            format!("the certificate of {host} is not valid yet"),
            "check the clocks of this machine and of the one that issued the certificate",
        ),
        Trust::OtherName => must_fix(
            format!("the certificate is for another name than {host}"),
            "let the proxy use the certificate of this name (nginx: server_name and ssl_certificate of the same server)",
        ),
        Trust::Invalid(why) => must_fix(
            format!("the certificate of {host} is not valid: {why}"),
            "replace it by a certificate of a public authority",
        ),
    }
}

/// The time of the response, without connection set-up.
pub(super) fn judge_time(took: Duration) -> Finding {
    let what = format!("the response took {} ms", took.as_millis());
    if took > PROMPT {
        return Finding::must_fix(
            "url.time",
            format!("{what}; WeCom's console waits 1 s"),
            "see what delays it: the proxy's time to connect, a firewall, a slow disk or database",
        );
    }
    Finding::ok("url.time", what)
}

/// Whether a path of the configuration answers at this URL.
pub(super) fn judge_path(url: &CallbackUrl, paths: &[&str]) -> Option<Finding> {
    let path = match url.path.trim_end_matches('/') {
        "" => "/",
        path => path,
    };
    if paths.contains(&path) {
        return None;
    }
    Some(Finding::warning(
        "url.path",
        format!(
            "the URL's path {path} is not that of a callback in the configuration ({})",
            paths.join(", ")
        ),
        "set [callback] path to it, unless the proxy rewrites the path on purpose",
    ))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn a_url_out_of_reach_is_a_warning_only_while_events_arrive() {
        for why in [Unreachable::Name, Unreachable::Refused, Unreachable::Timeout, Unreachable::NoRoute] {
            assert_eq!(judge_unreachable(&why, "h", true).level, Level::Warning, "{why:?}");
            assert_eq!(judge_unreachable(&why, "h", false).level, Level::MustFix, "{why:?}");
        }
        for why in [Unreachable::NoTls, Unreachable::NotHttp, Unreachable::Closed] {
            assert_eq!(judge_unreachable(&why, "h", true).level, Level::MustFix, "{why:?}");
        }
    }

    #[test]
    fn certificates_and_times_have_their_levels() {
        let now = UnixSeconds(1_800_000_000);
        let ends = |days: i64| now.plus(days * 86_400);
        for (trust, level) in [
            (Trust::Public { ends: ends(80) }, Level::Ok),
            (Trust::Public { ends: ends(13) }, Level::Warning),
            (Trust::Private { ends: ends(80) }, Level::Warning),
            (Trust::SelfSigned, Level::MustFix),
            (Trust::UnknownIssuer, Level::MustFix),
            (Trust::Expired, Level::MustFix),
            (Trust::NotValidYet, Level::MustFix),
            (Trust::OtherName, Level::MustFix),
            (Trust::Invalid("x".into()), Level::MustFix),
        ] {
            assert_eq!(judge_trust(&trust, "h", now).level, level, "{trust:?}");
        }
        assert_eq!(judge_time(Duration::from_millis(1000)).level, Level::Ok);
        assert_eq!(judge_time(Duration::from_millis(1001)).level, Level::MustFix);
        let private = ["10.0.0.5".parse().unwrap(), "::1".parse().unwrap()];
        assert_eq!(judge_addresses("h", &private).level, Level::Warning);
        assert_eq!(judge_addresses("h", &["203.0.113.5".parse().unwrap()]).level, Level::Ok);
    }

    #[test]
    fn a_url_is_one_that_the_console_takes() {
        let url = CallbackUrl::parse("https://wecom.example.com:8443/callback").unwrap();
        assert_eq!((url.authority.as_str(), url.path.as_str()), ("wecom.example.com:8443", "/callback"));
        assert!(url.is_https && judge_path(&url, &["/callback", "/app"]).is_none());
        assert_eq!(judge_path(&url, &["/cb"]).unwrap().level, Level::Warning);
        let bare = CallbackUrl::parse("http://h").unwrap();
        assert_eq!((bare.path.as_str(), bare.is_https), ("/", false));
        let slash = CallbackUrl::parse("https://h/callback/").unwrap();
        assert!(judge_path(&slash, &["/callback"]).is_none());
        for bad in [
            "h/callback",
            "ftp://h/",
            "https:///x",
            "https://h/x?a=1",
            "https://u:p@h/",
            "https://h/张",
            "https://:1/",
        ] {
            assert!(CallbackUrl::parse(bad).is_err(), "{bad}");
        }
    }
}
