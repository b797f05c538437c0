//! Answers on their way to the client: the gate's own, and those of the server behind it.
//! Pure.

use httparse::Status;

use super::head::digits;
use super::refusal::Refusal;
use super::routes::Routes;

/// The interim answer to `Expect: 100-continue`.
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// An answer of the server longer than this is taken for a fault of ours.
pub(super) const MAX_ANSWER: usize = 16 * 1024 * 1024;

const MAX_HEADERS: usize = 64;

/// Headers of the server's answer that concern only its connection to the gate, or that the
/// gate writes itself, or that would tell what the server is made of.
const DROPPED: [&str; 11] = [
    "Connection",
    "Content-Length",
    "Keep-Alive",
    "Proxy-Authenticate",
    "Proxy-Connection",
    "Server",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
    "Proxy-Authorization",
];

/// The gate's own answer. It always ends the connection.
pub(super) fn refusal(refusal: Refusal, routes: &Routes) -> Vec<u8> {
    let (status, reason) = refusal.status();
    let extra = match refusal {
        Refusal::MethodNotAllowed { route } => format!("Allow: {}\r\n", routes.allow(route)),
        Refusal::Deadline | Refusal::Memory | Refusal::NoBackend => "Retry-After: 1\r\n".to_owned(),
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

/// The answer to a probe of a load balancer. It ends the connection.
pub(super) fn probe(bodiless: bool) -> &'static [u8] {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\n\
                          Content-Length: 3\r\nConnection: close\r\n\r\nok\n";
    let text = if bodiless { ANSWER.strip_suffix("ok\n").unwrap_or(ANSWER) } else { ANSWER };
    text.as_bytes()
}

/// What has arrived from the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// Not all of the answer yet.
    Part,
    /// One whole answer, as it goes to the client, and how many bytes of the input it took.
    Whole {
        /// Everything but the `Connection` header and the empty line.
        head: Vec<u8>,
        /// Where the body begins in the input.
        body_at: usize,
        /// Where the answer ends in the input.
        end: usize,
    },
    /// Not an answer that the gate can frame.
    Broken,
}

/// Reads an answer of the server. `bodiless`: it answers a HEAD.
pub(super) fn parse(bytes: &[u8], bodiless: bool) -> Arrived {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let body_at = match response.parse(bytes) {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) if bytes.len() < MAX_ANSWER => return Arrived::Part,
        Ok(Status::Partial) | Err(_) => return Arrived::Broken,
    };
    let status = response.code.unwrap_or(0);
    if !(200..=599).contains(&status) {
        return Arrived::Broken;
    }
    let mut length = None;
    let mut head = format!("HTTP/1.1 {status} {}\r\n", response.reason.unwrap_or_default()).into_bytes();
    for header in response.headers.iter() {
        let name = header.name;
        if name.eq_ignore_ascii_case("Transfer-Encoding") {
            return Arrived::Broken;
        }
        if name.eq_ignore_ascii_case("Content-Length") {
            match (length, digits(header.value)) {
                (None, Some(value)) => length = Some(value),
                (Some(earlier), Some(value)) if earlier == value => {}
                _ => return Arrived::Broken,
            }
        }
        if !DROPPED.iter().any(|other| name.eq_ignore_ascii_case(other)) {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(header.value);
            head.extend_from_slice(b"\r\n");
        }
    }
    let never_a_body = matches!(status, 204 | 304);
    let Some(length) = length.or(never_a_body.then_some(0)) else {
        return Arrived::Broken;
    };
    let Ok(length) = usize::try_from(length) else {
        return Arrived::Broken;
    };
    if length > MAX_ANSWER {
        return Arrived::Broken;
    }
    if !never_a_body {
        head.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
    }
    let sent = if bodiless || never_a_body { 0 } else { length };
    let end = body_at.saturating_add(sent);
    if bytes.len() < end {
        return Arrived::Part;
    }
    Arrived::Whole { head, body_at, end }
}

/// Completes a server's answer for the client.
pub(super) fn relay(mut head: Vec<u8>, body: &[u8], keep_alive: bool) -> Vec<u8> {
    head.extend_from_slice(if keep_alive {
        b"Connection: keep-alive\r\n\r\n"
    } else {
        b"Connection: close\r\n\r\n"
    });
    head.extend_from_slice(body);
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_answer_is_relayed_without_what_concerns_only_the_gate() {
        let text = b"HTTP/1.0 200 OK\r\nServer: tiny-http (Rust)\r\nDate: today\r\n\
                     Content-Length: 7\r\nX-A: b\r\n\r\nsuccessREST";
        let Arrived::Whole { head, body_at, end } = parse(text, false) else {
            panic!("not whole");
        };
        assert_eq!(
            relay(head, &text[body_at..end], true),
            b"HTTP/1.1 200 OK\r\nDate: today\r\nX-A: b\r\nContent-Length: 7\r\n\
              Connection: keep-alive\r\n\r\nsuccess"
        );
        assert_eq!(&text[end..], b"REST");
    }

    #[test]
    fn what_cannot_be_framed_is_broken() {
        for text in [
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nContent-Length: 0\r\n\r\n",
            "hello\r\n\r\n",
        ] {
            assert_eq!(parse(text.as_bytes(), false), Arrived::Broken, "{text}");
        }
    }

    #[test]
    fn answers_without_a_body_end_with_their_head() {
        let head_answer = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n";
        assert_eq!(parse(head_answer, false), Arrived::Part);
        assert!(matches!(parse(head_answer, true), Arrived::Whole { end: 38, .. }));
        let none = b"HTTP/1.1 204 No Content\r\n\r\n";
        assert!(matches!(parse(none, false), Arrived::Whole { end: 27, .. }));
    }

    #[test]
    fn a_refusal_names_what_is_allowed_and_when_to_come_back() {
        let routes = Routes::new().with("/a", &["GET", "POST"]);
        let text = refusal(Refusal::MethodNotAllowed { route: 0 }, &routes);
        assert!(String::from_utf8(text).unwrap().contains("\r\nAllow: GET, POST\r\n"));
        let text = refusal(Refusal::Memory, &routes);
        assert!(String::from_utf8(text).unwrap().contains("\r\nRetry-After: "));
    }

    proptest! {
        #[test]
        fn arbitrary_answers_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes, false);
        }
    }
}
