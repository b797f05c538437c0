//! What the responses of a callback URL mean: level, cause and remedy. Pure.

use std::time::Duration;

use super::finding::Finding;
use super::url_probe::{Reply, Unreachable};
use crate::directory::UnixSeconds;
use crate::wecom::api::tls_inspection::Trust;

/// WeCom's console waits this long for the response to a verification (doc 90930).
const PROMPT: Duration = Duration::from_secs(1);
/// A certificate that ends sooner is reported, in seconds.
const ENDS_SOON: i64 = 14 * 86_400;

/// The parts of a callback URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CallbackUrl {
    /// Without query, as it is requested.
    pub(super) url: String,
    pub(super) is_https: bool,
    /// Host and port.
    pub(super) authority: String,
    /// `/` if the URL has none.
    pub(super) path: String,
}

impl CallbackUrl {
    /// The error completes "the URL ..".
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
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

/// What is behind a response that is not the decrypted text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The stable name of the cause.
    pub(super) cause: &'static str,
    pub(super) what: String,
    pub(super) remedy: String,
}

/// Judges the response to a verification; `None`: it is exactly `text`. `echostr` is the encrypted text that was sent, and
/// `listen` the address of this machine's callback listener.
pub(super) fn judge_reply(reply: &Reply, text: &str, echostr: &str, listen: &str) -> Option<Verdict> {
    let body = reply.body.as_slice();
    if reply.status == 200 && body == text.as_bytes() {
        return None;
    }
    let by = reply.server.as_deref().map_or_else(String::new, |server| format!(" (Server: {server})"));
    let verdict = |cause, what: String, remedy: String| Some(Verdict { cause, what, remedy });
    let status = reply.status;
    match status {
        200 => Some(judge_body(body, text, echostr, &by)),
        300..=399 => {
            let to = reply.location.as_deref().unwrap_or_default();
            let to = to.split(['?', '#']).next().unwrap_or_default();
            verdict(
                "redirect",
                format!("HTTP status {status}: a redirect to {to}{by}, which WeCom does not follow"),
                "enter the URL of the redirect's target in the console, or serve this path without a redirect".into(),
            )
        }
        400 if body == b"bad request\n" => verdict(
            "bad_request",
            "the daemon is reached and answers 400: the query did not arrive as it was sent".into(),
            "let the proxy pass the query on unchanged (nginx: proxy_pass without a URI, no rewrite)".into(),
        ),
        403 if body == b"forbidden\n" => verdict(
            "forbidden",
            "the daemon is reached and answers 403: signature, key or receive_id do not fit this configuration".into(),
            "restart the service if this configuration was changed since its start; else another configuration \
             answers at this URL, or the proxy alters the query"
                .into(),
        ),
        404 if body == b"not found\n" => verdict(
            "wrong_path",
            "the daemon is reached and answers 404: the path that arrives is not [callback] path".into(),
            "set [callback] path to the URL's path, or stop the proxy from rewriting it".into(),
        ),
        404 => verdict(
            "proxy_not_found",
            format!("HTTP status 404 of the proxy itself{by}: it does not pass this path on"),
            format!("add the path to the proxy's configuration (nginx: location = PATH {{ proxy_pass http://{listen}; }}) and reload it"),
        ),
        401 | 403 => verdict(
            "proxy_forbids",
            format!("HTTP status {status} of the proxy or of a firewall in front of it{by}"),
            "except this path from logins, address lists and the web application firewall: WeCom has no account".into(),
        ),
        405 => verdict(
            "method",
            format!("HTTP status 405{by}: GET is not allowed at this path"),
            "let the proxy pass GET and POST on".into(),
        ),
        429 => verdict(
            "rate_limited",
            format!("HTTP status 429{by}: the proxy limits the rate of requests"),
            "except this path from the limit: WeCom drops an event after three attempts".into(),
        ),
        502 | 504 => verdict(
            "bad_gateway",
            format!("HTTP status {status}{by}: the proxy does not reach the daemon"),
            format!("start the service, and let the proxy connect to http://{listen} (systemctl status wecom-dirsync)"),
        ),
        503 if matches!(body, b"try again later\n" | b"service unavailable\n") => verdict(
            "unavailable",
            "the daemon is reached and answers 503".into(),
            "see its log (journalctl -u wecom-dirsync): it cannot work at the moment".into(),
        ),
        503 => verdict(
            "proxy_unavailable",
            format!("HTTP status 503{by}: the proxy has no server behind it, or is in maintenance"),
            format!("start the service, and let the proxy connect to http://{listen}"),
        ),
        _ => verdict(
            "status",
            format!("HTTP status {status}{by}"),
            "see the log of the proxy in front of the daemon".into(),
        ),
    }
}

/// A body of status 200 that is not the text.
fn judge_body(body: &[u8], text: &str, echostr: &str, by: &str) -> Verdict {
    let verdict = |cause, what: &str, remedy: &str| Verdict {
        cause,
        what: format!("HTTP status 200{by}, but {what}"),
        remedy: remedy.into(),
    };
    let without_bom = body.strip_prefix(b"\xEF\xBB\xBF");
    let content = String::from_utf8_lossy(without_bom.unwrap_or(body)).into_owned();
    let trimmed = content.trim();
    let alters = "turn off what alters the response (the proxy's filters, injected scripts, a program in between): \
                  WeCom accepts only the decrypted text";
    if without_bom.is_some() && trimmed == text {
        return verdict("bom", "a byte order mark precedes the text", alters);
    }
    if trimmed == text {
        return verdict("newline", "blanks or a newline surround the text", alters);
    }
    if trimmed.trim_matches(['"', '\'']) == text {
        return verdict("quotes", "quotes surround the text", alters);
    }
    let is_json = trimmed.starts_with(['{', '[', '"']);
    if content.contains(text) {
        let what = if is_json { "the text is wrapped in JSON" } else { "more than the text is sent" };
        return verdict(if is_json { "json" } else { "more" }, what, alters);
    }
    let elsewhere = "let the proxy pass this path on to the daemon; something else answers here";
    if trimmed.is_empty() {
        return verdict("empty", "the body is empty", elsewhere);
    }
    if trimmed == echostr {
        return verdict("not_decrypted", "the echostr comes back as it was sent, not decrypted", elsewhere);
    }
    if trimmed.starts_with('<') {
        return verdict("page", "the body is a page of the proxy or of another site (HTML)", elsewhere);
    }
    if is_json {
        return verdict("other_json", "the body is JSON of another program", elsewhere);
    }
    if content == "ok\n" {
        let remedy = "enter the path of the callback in the console, not [callback] probe_path";
        return verdict("probe_path", "the body is that of [callback] probe_path", remedy);
    }
    verdict("other", "the body is another text", elsewhere)
}

/// The finding about a 403 of the daemon, after the same verification without `+` and `/`.
pub(super) fn plus_lost() -> Verdict {
    Verdict {
        cause: "plus_lost",
        what: "a verification with `+` in its echostr is refused, one without is accepted: the proxy loses the `+`".into(),
        remedy: "let the proxy pass the query on unchanged, without decoding it (nginx: proxy_pass without a URI; \
                 no rewrite, no $arg_echostr)"
            .into(),
    }
}

/// What the daemon's own record of the refusal adds: its cause decides the remedy.
pub(super) fn refused_by_daemon(cause: &str, verdict: Verdict) -> Verdict {
    let restart = "restart the service if this configuration was changed since its start; else a daemon with another \
                   configuration answers at this URL";
    let (what, remedy) = match cause {
        "signature" => ("its Token is another, or the proxy altered the query", restart),
        "decryption" | "length" => ("its EncodingAESKey is another", restart),
        "receive_id" => (
            "its receive_id is another",
            "compare [callback] receive_id (default: corp_id) with that of the running service; ",
        ),
        "base64" | "query" | "parameters" | "no_echostr" | "echostr" => {
            ("the proxy altered the query", "let the proxy pass the query on unchanged")
        }
        _ => return verdict,
    };
    let remedy = if cause == "receive_id" { format!("{remedy}{restart}") } else { remedy.to_owned() };
    let Verdict { what: seen, cause: kind, .. } = verdict;
    let kind = if cause == "receive_id" { "wrong_receive_id" } else { kind };
    Verdict { cause: kind, what: format!("{seen}; the daemon's record of it: {cause}, {what}"), remedy }
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

    const TEXT: &str = "1616140317555161061";
    const LISTEN: &str = "127.0.0.1:8080";

    fn cause(status: u16, body: &[u8]) -> Option<&'static str> {
        let reply = Reply { status, body: body.to_vec(), ..Reply::default() };
        judge_reply(&reply, TEXT, "abc+/==", LISTEN).map(|verdict| verdict.cause)
    }

    #[test]
    fn only_the_decrypted_text_itself_is_accepted() {
        assert_eq!(cause(200, TEXT.as_bytes()), None);
        for (body, expected) in [
            ("\u{feff}1616140317555161061", "bom"),
            ("\u{feff}1616140317555161061\r\n", "bom"),
            ("1616140317555161061\n", "newline"),
            ("\t1616140317555161061 ", "newline"),
            ("\"1616140317555161061\"", "quotes"),
            ("'1616140317555161061'", "quotes"),
            ("{\"data\":\"1616140317555161061\"}", "json"),
            ("<p>1616140317555161061</p>", "more"),
            ("", "empty"),
            ("\n", "empty"),
            ("abc+/==", "not_decrypted"),
            ("<!DOCTYPE html><title>Welcome to nginx!</title>", "page"),
            ("{\"code\":0}", "other_json"),
            ("ok\n", "probe_path"),
            ("success", "other"),
            ("1616140317555161062", "other"),
        ] {
            assert_eq!(cause(200, body.as_bytes()), Some(expected), "{body:?}");
        }
        assert_eq!(cause(200, b"\xff\xfe"), Some("other"));
        assert_eq!(cause(201, TEXT.as_bytes()), Some("status"), "WeCom expects 200");
    }

    #[test]
    fn the_daemons_answers_are_told_from_the_proxys() {
        for (status, body, expected) in [
            (400, "bad request\n", "bad_request"),
            (403, "forbidden\n", "forbidden"),
            (404, "not found\n", "wrong_path"),
            (503, "try again later\n", "unavailable"),
            (400, "<html>400 The plain HTTP request was sent to HTTPS port</html>", "status"),
            (403, "<html>blocked</html>", "proxy_forbids"),
            (401, "", "proxy_forbids"),
            (404, "<html>nginx</html>", "proxy_not_found"),
            (405, "", "method"),
            (429, "", "rate_limited"),
            (502, "<html>", "bad_gateway"),
            (504, "", "bad_gateway"),
            (503, "<html>", "proxy_unavailable"),
            (301, "", "redirect"),
            (500, "", "status"),
        ] {
            assert_eq!(cause(status, body.as_bytes()), Some(expected), "{status} {body}");
        }
        let to = Some("https://www.example.com/login?next=secret".into());
        let reply = Reply { status: 302, location: to, ..Reply::default() };
        let verdict = judge_reply(&reply, TEXT, "x", LISTEN).unwrap();
        assert!(verdict.what.contains("https://www.example.com/login") && !verdict.what.contains("secret"));
        let reply = Reply { status: 502, server: Some("nginx".into()), ..Reply::default() };
        let verdict = judge_reply(&reply, TEXT, "x", LISTEN).unwrap();
        assert!(verdict.what.contains("nginx") && verdict.remedy.contains(LISTEN), "{verdict:?}");
    }

    #[test]
    fn the_daemons_record_decides_the_remedy_of_its_refusal() {
        let reply = Reply { status: 403, body: b"forbidden\n".to_vec(), ..Reply::default() };
        let forbidden = judge_reply(&reply, TEXT, "x", LISTEN).unwrap();
        for (cause, part) in [
            ("signature", "Token"),
            ("decryption", "EncodingAESKey"),
            ("length", "EncodingAESKey"),
            ("receive_id", "receive_id"),
            ("base64", "proxy"),
        ] {
            let verdict = refused_by_daemon(cause, forbidden.clone());
            let text = format!("{} {}", verdict.what.split("record").nth(1).unwrap(), verdict.remedy);
            assert!(text.contains(part), "{cause}: {text}");
            assert_eq!(verdict.cause == "wrong_receive_id", cause == "receive_id");
        }
        assert_eq!(refused_by_daemon("timeout", forbidden.clone()), forbidden);
    }

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
