//! The remedy for each cause of a refusal, for the log, `status` and the manual.

/// A row of the table of remedies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Advice {
    /// The stable name: of [`crate::gate::Refusal`], of [`crate::daemon::callbacks::CallbackError`], or
    /// [`super::STORAGE`] or [`super::CRASH`].
    pub cause: &'static str,
    /// The remedy; [`PATHS`] in it stands for the configured callback paths.
    pub remedy: &'static str,
}

/// Placeholder for the configured callback paths.
const PATHS: &str = "{paths}";

const fn advice(cause: &'static str, remedy: &'static str) -> Advice {
    Advice { cause, remedy }
}

/// One row for each cause.
pub(crate) const ALL: [Advice; 32] = [
    advice(
        "bad_request",
        "not an HTTP/1 request; if it came through your proxy, let it speak HTTP/1.1 to this port",
    ),
    advice(
        "framing",
        "the request names its length twice or wrongly; correct the proxy that sets Content-Length or Transfer-Encoding",
    ),
    advice(
        "chunk",
        "the chunked body is malformed; correct the proxy, or let it buffer requests (nginx: proxy_request_buffering on)",
    ),
    advice(
        "tls",
        "this port speaks plain HTTP; put TLS into the proxy in front and let it connect with http://",
    ),
    advice(
        "http2",
        "this port speaks HTTP/1.1; let the proxy use HTTP/1.1 to this port, not HTTP/2 (h2c, gRPC)",
    ),
    advice(
        "proxy_header",
        "the load balancer sends PROXY protocol headers; set [callback] proxy_protocol = yes, or turn them off there",
    ),
    advice(
        "no_proxy_header",
        "[callback] proxy_protocol is yes, so every connection must begin with a PROXY header; turn it on in the load balancer, or set it to no",
    ),
    advice(
        "not_found",
        "the callback URL's path must be one of {paths}; compare the URL in the admin console, and whether the proxy rewrites the path; for health checks set [callback] probe_path",
    ),
    advice(
        "method",
        "WeCom sends GET and POST only; if it came from a load balancer's health check, set [callback] probe_path",
    ),
    advice(
        "timeout",
        "the request was not complete after 10 s; check the proxy's request buffering, a firewall, and the path MTU",
    ),
    advice(
        "no_length",
        "the request has neither Content-Length nor chunks; let the proxy pass one of them on",
    ),
    advice(
        "transfer_coding",
        "only the transfer coding chunked is accepted; let the proxy send Content-Length or chunked, without compression",
    ),
    advice(
        "too_large",
        "the body is longer than [callback] max_body; if it came from WeCom, raise max_body and the proxy's limit (nginx: client_max_body_size)",
    ),
    advice("expectation", "only Expect: 100-continue is accepted; let the proxy drop the Expect header"),
    advice(
        "head_too_large",
        "the request head is longer than 16 KiB; let the proxy drop cookies and headers of its own",
    ),
    advice(
        "hung_up",
        "the client closed the connection before its body was complete; check the proxy's time-outs, a firewall, and the path MTU",
    ),
    advice(
        "bad_gateway",
        "a fault of this program: restart the service and report it; the next comparison recovers what was missed",
    ),
    advice(
        "deadline",
        "the event was not durable in time: check the disk, and what holds the database; the next comparison recovers what was missed",
    ),
    advice(
        "memory",
        "too many large requests at a time; limit them in the proxy, or block the client; the next comparison recovers what was missed",
    ),
    advice(
        "no_backend",
        "a fault of this program: restart the service and report it; the next comparison recovers what was missed",
    ),
    advice(
        "storage",
        "the event could not be committed: see the log's line about the database and check the disk; the next comparison recovers what was missed",
    ),
    advice(
        "crash",
        "a fault of this program: report it with the log; the next comparison recovers what was missed",
    ),
    advice("query", "the query is not percent-encoded UTF-8; let the proxy pass the query on unchanged"),
    advice(
        "parameters",
        "WeCom always sends msg_signature, timestamp and nonce; let the proxy pass the query on unchanged; for health checks set [callback] probe_path",
    ),
    advice(
        "no_echostr",
        "a GET without echostr is not a verification by WeCom; for health checks set [callback] probe_path",
    ),
    advice(
        "envelope",
        "the body is not WeCom's XML; choose XML as the callback's format, and let the proxy pass the body on unchanged",
    ),
    advice(
        "signature",
        "if it came from WeCom, copy the Token of this callback from the admin console into token",
    ),
    advice(
        "base64",
        "the Token fits and the encrypted text is damaged; let the proxy pass query and body on unchanged",
    ),
    advice(
        "decryption",
        "the Token fits and encoding_aes_key does not; copy the EncodingAESKey of this callback from the admin console into encoding_aes_key",
    ),
    advice(
        "length",
        "the Token fits and encoding_aes_key probably does not; copy the EncodingAESKey of this callback from the admin console into encoding_aes_key",
    ),
    advice(
        "receive_id",
        "Token and EncodingAESKey fit, and the message is for another company or suite; set receive_id (default: corp_id) to the id that the callback belongs to",
    ),
    advice(
        "echostr",
        "Token and EncodingAESKey fit, and what was sent is no verification by WeCom; somebody repeats a captured message",
    ),
];

/// The remedy for this cause, with the configured callback paths in it.
pub(crate) fn remedy(cause: &str, paths: &[String]) -> String {
    let known = ALL.iter().find(|advice| advice.cause == cause);
    known.map_or_else(String::new, |advice| advice.remedy.replace(PATHS, &paths.join(" ")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::daemon::callbacks;
    use crate::gate;

    #[test]
    fn every_cause_has_one_row_and_every_row_is_a_cause() {
        let rows: Vec<&str> = ALL.iter().map(|advice| advice.cause).collect();
        let causes: BTreeSet<&str> = gate::Refusal::ALL
            .into_iter()
            .map(gate::Refusal::cause)
            .chain(callbacks::CallbackError::ALL.iter().map(|refusal| refusal.cause()))
            .chain([super::super::STORAGE, super::super::CRASH])
            .collect();
        assert_eq!(rows.iter().copied().collect::<BTreeSet<_>>(), causes);
        assert_eq!(rows.len(), causes.len(), "a cause has two rows");
    }

    #[test]
    fn each_remedy_names_what_is_to_be_changed() {
        for (cause, parts) in [
            ("bad_request", &["HTTP/1.1", "proxy"][..]),
            ("framing", &["Content-Length", "Transfer-Encoding"]),
            ("chunk", &["proxy_request_buffering"]),
            ("tls", &["TLS", "proxy", "http://"]),
            ("http2", &["HTTP/1.1"]),
            ("proxy_header", &["proxy_protocol = yes"]),
            ("no_proxy_header", &["proxy_protocol", "load balancer"]),
            ("not_found", &["/callback /app", "console"]),
            ("method", &["GET", "POST", "probe_path"]),
            ("timeout", &["proxy", "MTU"]),
            ("no_length", &["Content-Length", "proxy"]),
            ("transfer_coding", &["chunked", "proxy"]),
            ("too_large", &["max_body", "client_max_body_size"]),
            ("expectation", &["Expect", "proxy"]),
            ("head_too_large", &["16 KiB", "proxy"]),
            ("hung_up", &["proxy", "MTU"]),
            ("bad_gateway", &["restart", "comparison"]),
            ("deadline", &["disk", "comparison"]),
            ("memory", &["large", "comparison"]),
            ("no_backend", &["restart", "comparison"]),
            ("storage", &["database", "disk", "comparison"]),
            ("crash", &["report", "comparison"]),
            ("query", &["proxy", "query"]),
            ("parameters", &["msg_signature", "proxy", "probe_path"]),
            ("no_echostr", &["echostr", "probe_path"]),
            ("envelope", &["XML", "proxy"]),
            ("signature", &["token"]),
            ("base64", &["proxy"]),
            ("decryption", &["encoding_aes_key"]),
            ("length", &["encoding_aes_key"]),
            ("receive_id", &["receive_id", "corp_id"]),
            ("echostr", &["captured"]),
        ] {
            let text = remedy(cause, &["/callback".into(), "/app".into()]);
            for part in parts {
                assert!(text.contains(part), "{cause}: {text}");
            }
            assert!(!text.contains(PATHS) && !text.contains('"'), "{cause}: {text}");
            let blames_the_key = text.contains("encoding_aes_key");
            assert_eq!(blames_the_key, matches!(cause, "decryption" | "length"), "{cause}: {text}");
            let blames_the_token = text.contains("into token");
            assert_eq!(blames_the_token, cause == "signature", "{cause}: {text}");
        }
    }
}
