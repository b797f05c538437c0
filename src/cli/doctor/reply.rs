//! What a response to a verification means, if it is not the decrypted text: cause and remedy. Pure.

use super::url_probe::Reply;

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
    if reply.status == 200 && reply.body == text.as_bytes() {
        return None;
    }
    let by = reply.server.as_deref().map_or_else(String::new, |server| format!(" (Server: {server})"));
    if reply.status == 200 {
        return Some(judge_body(&reply.body, text, echostr, &by));
    }
    Some(by_daemon(reply).unwrap_or_else(|| by_proxy(reply, &by, listen)))
}

/// A refusal of the daemon, by its status and exact body.
fn by_daemon(reply: &Reply) -> Option<Verdict> {
    let (cause, what, remedy) = match (reply.status, reply.body.as_slice()) {
        (400, b"bad request\n") => (
            "bad_request",
            "answers 400: the query did not arrive as it was sent",
            "let the proxy pass the query on unchanged (nginx: proxy_pass without a URI, no rewrite)",
        ),
        (403, b"forbidden\n") => (
            "forbidden",
            "answers 403: signature, key or receive_id do not fit this configuration",
            "restart the service if this configuration was changed since its start; else another configuration answers at \
             this URL, or the proxy alters the query",
        ),
        (404, b"not found\n") => (
            "wrong_path",
            "answers 404: the path that arrives is not [callback] path",
            "set [callback] path to the URL's path, or stop the proxy from rewriting it",
        ),
        (503, b"try again later\n" | b"service unavailable\n") => (
            "unavailable",
            "answers 503",
            "see its log (journalctl -u wecom-dirsync): it cannot work at the moment",
        ),
        _ => return None,
    };
    Some(Verdict { cause, what: format!("the daemon is reached and {what}"), remedy: remedy.into() })
}

/// A response of what stands in front of the daemon. `by` names it in parentheses, or is empty.
fn by_proxy(reply: &Reply, by: &str, listen: &str) -> Verdict {
    let status = reply.status;
    let to = format!("http://{listen}");
    let (cause, what, remedy) = match status {
        300..=399 => {
            let target = reply.location.as_deref().unwrap_or_default();
            let target = target.split(['?', '#']).next().unwrap_or_default();
            (
                "redirect",
                format!("a redirect to {target}, which WeCom does not follow"),
                "enter the URL of the redirect's target in the console, or serve this path without a redirect".into(),
            )
        }
        404 => (
            "proxy_not_found",
            "the proxy does not pass this path on".into(),
            format!("add the path to the proxy's configuration (nginx: location = PATH {{ proxy_pass {to}; }}) and reload it"),
        ),
        401 | 403 => (
            "proxy_forbids",
            "the proxy, or a firewall in front of it, forbids it".into(),
            "except this path from logins, address lists and the web application firewall: WeCom has no account".into(),
        ),
        405 => ("method", "GET is not allowed at this path".into(), "let the proxy pass GET and POST on".into()),
        429 => (
            "rate_limited",
            "the proxy limits the rate of requests".into(),
            "except this path from the limit: WeCom drops an event after three attempts".into(),
        ),
        502 | 504 => (
            "bad_gateway",
            "the proxy does not reach the daemon".into(),
            format!("start the service, and let the proxy connect to {to} (systemctl status wecom-dirsync)"),
        ),
        503 => (
            "proxy_unavailable",
            "the proxy has no server behind it, or is in maintenance".into(),
            format!("start the service, and let the proxy connect to {to}"),
        ),
        _ => ("status", "not expected".into(), "see the log of the proxy in front of the daemon".into()),
    };
    Verdict { cause, what: format!("HTTP status {status}{by}: {what}"), remedy }
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

#[cfg(test)]
mod tests {
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
}
