//! Responses to clients: the gate's own, and tiny_http's.

use httparse::Status;

use super::refusal::Refusal;
use super::request_head::parse_digits;
use super::routes::Routes;

/// The interim response to `Expect: 100-continue`.
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Longest accepted response of tiny_http in bytes; a longer one is a fault of a handler.
pub(super) const MAX_RESPONSE: usize = 16 * 1024 * 1024;

const MAX_HEADERS: usize = 64;

/// Headers of tiny_http's response that are not relayed: the gate writes them itself, or hides the server's name.
const DROPPED: [&str; 3] = ["Connection", "Content-Length", "Server"];

/// Composes the response to a refused request. It closes the connection.
pub(super) fn refusal(refusal: Refusal, routes: &Routes) -> Vec<u8> {
    let (status, reason) = (refusal.status(), refusal.reason_phrase());
    let extra = match (refusal, status) {
        (Refusal::MethodNotAllowed { route }, _) => format!("Allow: {}\r\n", routes.allow(route)),
        (_, 503) => "Retry-After: 1\r\n".to_owned(),
        _ => String::new(),
    };
    let body = format!("{}\n", reason.to_ascii_lowercase());
    format!(
        "HTTP/1.1 {status} {reason}\r\n{extra}Content-Type: text/plain\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The response to a load balancer's probe. It closes the connection.
pub(super) fn probe(is_head_request: bool) -> Vec<u8> {
    let body = if is_head_request { "" } else { "ok\n" };
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\n\
         Content-Length: 3\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// A complete response of tiny_http.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Response {
    /// The head for the client, without the `Connection` header and the final empty line.
    head: Vec<u8>,
    body: Vec<u8>,
    /// Length in the input, in bytes.
    pub(super) len: usize,
}

impl Response {
    /// The bytes for the client.
    pub(super) fn relay(self, keep_alive: bool) -> Vec<u8> {
        let connection: &[u8] = if keep_alive { b"keep-alive" } else { b"close" };
        [self.head.as_slice(), b"Connection: ", connection, b"\r\n\r\n", &self.body].concat()
    }
}

/// Parses a response of tiny_http; `None` if it is incomplete.
///
/// # Errors
/// The length of the response is unknown; the text names the reason for the log.
pub(super) fn parse(bytes: &[u8], is_head_request: bool) -> Result<Option<Response>, &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let body_start = match response.parse(bytes) {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) if bytes.len() < MAX_RESPONSE => return Ok(None),
        Ok(Status::Partial) | Err(_) => return Err("invalid head"),
    };
    let status = response.code.unwrap_or(0);
    if !(200..=599).contains(&status) {
        return Err("unexpected status");
    }
    let mut length = None;
    let mut head = format!("HTTP/1.1 {status} {}\r\n", response.reason.unwrap_or_default()).into_bytes();
    for header in response.headers.iter() {
        let name = header.name;
        if name.eq_ignore_ascii_case("Transfer-Encoding") {
            return Err("unexpected Transfer-Encoding");
        }
        if name.eq_ignore_ascii_case("Content-Length") {
            let value = parse_digits(header.value).ok_or("invalid Content-Length")?;
            if length.replace(value).is_some_and(|earlier| earlier != value) {
                return Err("contradictory Content-Length");
            }
        }
        if !DROPPED.iter().any(|other| name.eq_ignore_ascii_case(other)) {
            head.extend_from_slice(&[name.as_bytes(), b": ", header.value, b"\r\n"].concat());
        }
    }
    let has_no_body = matches!(status, 204 | 304);
    let length = length.or(has_no_body.then_some(0)).ok_or("no Content-Length")?;
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_RESPONSE).ok_or("too long")?;
    if !has_no_body {
        head.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
    }
    let sent = if is_head_request || has_no_body { 0 } else { length };
    let len = body_start.saturating_add(sent);
    Ok(bytes.get(body_start..len).map(|body| Response { head, body: body.to_vec(), len }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_response_is_relayed_without_hop_by_hop_headers() {
        let text = b"HTTP/1.0 200 OK\r\nServer: tiny-http (Rust)\r\nDate: today\r\n\
                     Content-Length: 7\r\nX-A: b\r\n\r\nsuccessREST";
        let response = parse(text, false).unwrap().unwrap();
        assert_eq!(&text[response.len..], b"REST");
        assert_eq!(
            response.relay(true),
            b"HTTP/1.1 200 OK\r\nDate: today\r\nX-A: b\r\nContent-Length: 7\r\n\
              Connection: keep-alive\r\n\r\nsuccess"
        );
    }

    #[test]
    fn a_response_of_unknown_length_is_an_error() {
        for text in [
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nContent-Length: 0\r\n\r\n",
            "hello\r\n\r\n",
        ] {
            assert!(parse(text.as_bytes(), false).is_err(), "{text}");
        }
    }

    #[test]
    fn a_response_without_a_body_ends_with_its_head() {
        let head_answer = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n";
        assert_eq!(parse(head_answer, false), Ok(None));
        assert_eq!(parse(head_answer, true).unwrap().unwrap().len, 38);
        let none = b"HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(parse(none, false).unwrap().unwrap().len, 27);
    }

    #[test]
    fn a_refusal_names_the_allowed_methods_and_when_to_retry() {
        let routes = Routes::new().with("/a", &["GET", "POST"]);
        let text = refusal(Refusal::MethodNotAllowed { route: 0 }, &routes);
        assert!(String::from_utf8(text).unwrap().contains("\r\nAllow: GET, POST\r\n"));
        let text = refusal(Refusal::Memory, &routes);
        assert!(String::from_utf8(text).unwrap().contains("\r\nRetry-After: "));
    }

    proptest! {
        #[test]
        fn arbitrary_responses_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes, false);
        }
    }
}
