//! Whether WeCom would accept a response, and if not, why and what to do. Pure.

use std::time::Duration;

use serde_json::Value as Json;

use crate::wecom::api::direct::{DirectResponse, NoResponse};
use crate::wecom::api::network::{Cause, host_of};

/// WeCom drops the connection after this time (doc 90930).
pub(super) const LIMIT: Duration = Duration::from_secs(5);

/// What the response must be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expected<'a> {
    /// Exactly this text.
    Echostr(&'a str),
    /// `success`, or nothing.
    Success,
}

/// Why WeCom would not accept a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rejection {
    pub(super) cause: String,
    pub(super) remedy: &'static str,
}

fn rejection(cause: impl Into<String>, remedy: &'static str) -> Rejection {
    Rejection { cause: cause.into(), remedy }
}

const UNCHANGED: &str = "WeCom requires the bare text: let the proxy pass the service's response on unchanged, \
                         without filters, wrappers or rewriting";
const PAGE: &str = "let the proxy pass this path on to the service, without a login, a static page or a fallback in front of it";

/// Judges a response. A redirect counts as a refusal, because WeCom does not follow it.
pub(super) fn judge(expected: Expected<'_>, url: &str, response: &DirectResponse) -> Result<(), Rejection> {
    let DirectResponse { status, body, location, .. } = response;
    match status {
        200 => judge_body(expected, body),
        300..=399 => Err(redirect(url, *status, location)),
        _ => Err(of_status(*status, body)),
    }
}

fn judge_body(expected: Expected<'_>, body: &[u8]) -> Result<(), Rejection> {
    let text = match expected {
        Expected::Success if body.is_empty() => return Ok(()),
        Expected::Success => "success",
        Expected::Echostr(text) => text,
    };
    if body == text.as_bytes() {
        return Ok(());
    }
    let shown = String::from_utf8_lossy(body);
    let without_mark = shown.strip_prefix('\u{feff}');
    let trimmed = without_mark.unwrap_or(&shown).trim();
    let is_json = serde_json::from_str(trimmed)
        .is_ok_and(|json: Json| json.is_object() || json.is_array() || json.as_str() == Some(text));
    Err(if is_html(trimmed) {
        rejection("200 with an HTML page, which is not the service's response", PAGE)
    } else if trimmed == text && without_mark.is_some() {
        rejection("the text has a byte order mark in front of it", UNCHANGED)
    } else if trimmed == text {
        rejection("the text has line ends or blanks around it", UNCHANGED)
    } else if is_json {
        rejection("the text is in JSON", UNCHANGED)
    } else if trimmed.is_empty() {
        rejection("200 without a text", PAGE)
    } else {
        rejection("200 with another text, which is not the service's response", PAGE)
    })
}

fn is_html(text: &str) -> bool {
    let start: String = text.chars().take(200).collect::<String>().to_ascii_lowercase();
    start.starts_with("<!doctype") || start.contains("<html") || start.contains("<head")
}

fn redirect(url: &str, status: u16, location: &str) -> Rejection {
    let to = if location.is_empty() {
        String::new()
    } else {
        format!(" to {}", location.split('?').next().unwrap_or(""))
    };
    let cause = format!("{status}, a redirect{to}, which WeCom does not follow");
    let to_tls = url
        .strip_prefix("http://")
        .is_some_and(|rest| location.strip_prefix("https://").is_some_and(|to| host_of(to) == host_of(rest)));
    rejection(
        cause,
        if to_tls {
            "enter the URL with https:// in the console"
        } else {
            "enter the URL that it leads to, or let the proxy pass this path on without a redirect or a login"
        },
    )
}

fn of_status(status: u16, body: &[u8]) -> Rejection {
    let body = String::from_utf8_lossy(body);
    // The exact texts of the service: a proxy's page is longer.
    let is_ours = |text: &str| body == text;
    match status {
        400 if is_ours("bad request\n") => rejection(
            "400 by the service: the request arrived changed",
            "let the proxy pass path, query and body on unchanged; `status` has the cause of the refusal",
        ),
        400 if body.contains("plain HTTP") => {
            rejection("400: this port speaks TLS", "use https:// in the URL")
        }
        403 if is_ours("forbidden\n") => rejection(
            "403 by the service: token, encoding_aes_key or receive_id are not those of this configuration, or the query \
             arrived changed",
            "use the configuration that the service runs with, and restart the service after a change; `status` has the \
             cause of the refusal",
        ),
        404 | 410 if is_ours("not found\n") => rejection(
            format!("{status} by the service: no callback has this path"),
            "the URL's path must be that of [callback] path, also behind the proxy; `check` shows it",
        ),
        405 if is_ours("method not allowed\n") => {
            rejection("405 by the service: this path takes no callbacks", "use the path of [callback] path")
        }
        503 if is_ours("try again later\n") || is_ours("service unavailable\n") => rejection(
            "503 by the service: it could not make the event durable in time",
            "`status` and the service's log have the reason, such as a full disk or a locked database",
        ),
        401 | 407 => rejection(
            format!("{status}: something in front of the service wants a login"),
            "exempt this path from the login: WeCom has none",
        ),
        403 | 429 => rejection(
            format!("{status}, not by the service: a firewall, a WAF or the proxy refuses"),
            "permit this path in it for WeCom's addresses (API getcallbackip) and for this machine",
        ),
        404 | 405 | 410 => rejection(
            format!("{status}, not by the service: the proxy does not pass this path on"),
            "compare the URL with the proxy's rules (nginx: location = /callback), and see whether this host name is \
             served by them",
        ),
        413 | 414 | 431 => rejection(
            format!("{status}: the request is too long"),
            "raise the proxy's limit (nginx: client_max_body_size, large_client_header_buffers) and [callback] max_body",
        ),
        502..=504 => rejection(
            format!("{status}: the proxy gets no answer from the service"),
            "start the service, and let the proxy use the address of [callback] listen with http://",
        ),
        _ => rejection(
            format!("status {status}, where WeCom requires 200"),
            "see the log of the proxy in front of the service, and `status` for refused requests",
        ),
    }
}

/// Judges an exchange without a response.
pub(super) fn judge_failure(failure: NoResponse) -> Rejection {
    let NoResponse::Network { what, cause } = failure else {
        return rejection(
            format!("no complete response within {} s, after which WeCom gives up", LIMIT.as_secs()),
            "look whether the request reaches the proxy and the service (their logs), and whether a firewall drops it",
        );
    };
    let remedy = match cause {
        Some(Cause::Name) => "correct the name, or its DNS record; WeCom needs a public one",
        Some(Cause::Authority) => {
            "WeCom knows public authorities only: let the proxy present such a certificate, with its intermediate \
             certificates (fullchain)"
        }
        Some(Cause::Tls) => "renew or replace the proxy's certificate; it must be for the URL's host name",
        _ => {
            "look whether the proxy listens there and the firewall permits it. This command connects directly, without the \
             proxy for WeCom's API; where the public address cannot be reached from inside, run it on a machine outside, \
             with the same configuration"
        }
    };
    rejection(what, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause_of(expected: Expected<'_>, status: u16, body: &str) -> String {
        let response = DirectResponse { status, body: body.into(), ..DirectResponse::default() };
        judge(expected, "https://a.example/callback", &response)
            .map_or_else(|no| no.cause, |()| "accepted".into())
    }

    #[test]
    fn only_the_exact_text_is_accepted_and_each_addition_has_its_own_cause() {
        for (body, expected) in [
            ("161", "accepted"),
            ("\u{feff}161", "byte order mark"),
            ("\u{feff}161\n", "byte order mark"),
            ("161\n", "line ends"),
            (" 161", "line ends"),
            ("\"161\"", "JSON"),
            ("{\"echostr\":\"161\"}", "JSON"),
            ("", "without a text"),
            ("success", "another text"),
            ("<!DOCTYPE html><title>161</title>", "HTML page"),
            ("\n<html lang=zh><body>首页</body></html>", "HTML page"),
        ] {
            let cause = cause_of(Expected::Echostr("161"), 200, body);
            assert!(cause.contains(expected), "{body:?}: {cause}");
        }
        for (body, expected) in
            [("success", "accepted"), ("", "accepted"), ("\"success\"", "JSON"), ("ok", "another text")]
        {
            let cause = cause_of(Expected::Success, 200, body);
            assert!(cause.contains(expected), "{body:?}: {cause}");
        }
    }

    #[test]
    fn a_refusal_by_the_service_differs_from_one_in_front_of_it() {
        for (status, ours, theirs) in [
            (400, "bad request\n", "<html>400 The plain HTTP request was sent to HTTPS port"),
            (403, "forbidden\n", "Forbidden"),
            (404, "not found\n", "<html>404 Not Found"),
            (405, "method not allowed\n", "405"),
        ] {
            let (ours, theirs) =
                (cause_of(Expected::Success, status, ours), cause_of(Expected::Success, status, theirs));
            let by_service = format!("{status} by the service: ");
            assert!(ours.starts_with(&by_service) && !theirs.starts_with(&by_service), "{ours} / {theirs}");
        }
        assert!(cause_of(Expected::Success, 503, "try again later\n").contains("durable"));
        for status in [401, 413, 500, 502, 503, 504, 201, 204] {
            assert!(cause_of(Expected::Success, status, "x").contains(&status.to_string()), "{status}");
        }
    }

    #[test]
    fn a_redirect_is_shown_without_its_query_and_to_https_has_its_own_remedy() {
        let judged = |url, location: &str| {
            let response =
                DirectResponse { status: 301, location: location.into(), ..DirectResponse::default() };
            judge(Expected::Success, url, &response).unwrap_err()
        };
        let found = judged("http://a.example/callback", "https://a.example/callback?echostr=x");
        assert!(found.cause.contains("to https://a.example/callback,"), "{}", found.cause);
        assert!(found.remedy.contains("https://"), "{}", found.remedy);
        assert!(judged("http://a.example/c", "https://login.example/").remedy.contains("leads to"));
        assert!(!judged("http://a.example/c", "").cause.contains(" to "));
    }
}
