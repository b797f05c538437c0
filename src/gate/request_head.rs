//! Parser of a request's head. It checks path, method and length, and composes the head for tiny_http.
//!
//! The forwarded head is composed from parsed parts, never copied, so that the gate and tiny_http cannot disagree
//! about where a request ends (request smuggling).

use std::net::SocketAddr;

use httparse::Status;

use super::refusal::Refusal;
use super::request_summary::RequestSummary;
use super::routes::Routes;

/// Header of the forwarded request with the client's address. A client's own header of this name is dropped.
pub const PEER_HEADER: &str = "X-Gate-Peer";

/// Header lines above which a head is refused with 431.
const MAX_HEADERS: usize = 100;

/// The client's headers that are forwarded; all others are dropped.
const FORWARDED: [&str; 3] = ["X-Forwarded-For", "Content-Type", "User-Agent"];

/// The head of an accepted request.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// Length in the input, in bytes.
    pub len: usize,
    /// Length of the body in bytes; 0 if it is chunked.
    pub body: usize,
    /// Whether the body has chunked transfer coding.
    pub is_chunked: bool,
    /// Whether the body is forwarded. The body of a GET is read and dropped.
    pub forwards_body: bool,
    /// Whether the connection stays open after the answer.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// Whether the method is HEAD, so that the answer has no body.
    pub is_head_request: bool,
    /// Whether the gate answers the request itself.
    pub is_probe: bool,
    /// Method and path for the log.
    pub summary: RequestSummary,
    forward: Vec<u8>,
}

impl Head {
    /// The head for tiny_http, with the length of the body. The result has capacity for the body.
    #[must_use]
    pub fn forward(&self, body: usize) -> Vec<u8> {
        let length = format!("Content-Length: {body}\r\n\r\n");
        let mut wire = Vec::with_capacity(self.forward.len() + length.len() + body);
        wire.extend_from_slice(&self.forward);
        wire.extend_from_slice(length.as_bytes());
        wire
    }

    pub(super) fn memory(&self) -> usize {
        self.forward.capacity().saturating_add(self.summary.memory())
    }
}

/// Parses and checks a head. `None`: the head is incomplete.
///
/// # Errors
/// The refusal that the gate answers. More bytes never turn it into an accepted head.
pub fn parse(
    bytes: &[u8],
    routes: &Routes,
    max_body: usize,
    peer: SocketAddr,
) -> Result<Option<Head>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let len = match request.parse(bytes) {
        Ok(Status::Partial) => return Ok(None),
        Ok(Status::Complete(len)) => len,
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
        Err(_) => return Err(Refusal::BadRequest),
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(Refusal::BadRequest);
    };
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Refusal::BadRequest);
    }
    let framing = Framing::collect(request.headers)?;

    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let route = routes.select(method, path)?;
    let is_bodiless = matches!(method, "GET" | "HEAD");
    let length = framing.body_length(is_bodiless, minor)?;
    let body = length.unwrap_or(0);
    if body > max_body as u64 {
        return Err(Refusal::TooLarge);
    }
    let expects_continue = match framing.expect {
        None => false,
        Some(value) if value.eq_ignore_ascii_case(b"100-continue") => true,
        Some(_) => return Err(Refusal::ExpectationFailed),
    };
    let body = usize::try_from(body).map_err(|_| Refusal::TooLarge)?;
    // tiny_http's handlers know each path without the optional slash.
    let target = format!("{}{query}", route.path);

    Ok(Some(Head {
        len,
        body,
        is_chunked: length.is_none(),
        forwards_body: !is_bodiless,
        keep_alive: !framing.close && (minor == 1 || framing.keep_alive),
        // HTTP/1.0 has no interim answers.
        expects_continue: expects_continue && minor == 1,
        is_head_request: method == "HEAD",
        is_probe: route.is_probe,
        summary: RequestSummary::of(bytes.get(..len).unwrap_or(bytes)),
        forward: compose(method, &target, framing.host, request.headers, peer),
    }))
}

/// The header fields that concern framing and the connection.
#[derive(Default)]
struct Framing<'a> {
    host: Option<&'a str>,
    lengths: Vec<&'a [u8]>,
    transfer_codings: Vec<&'a [u8]>,
    expect: Option<&'a [u8]>,
    close: bool,
    keep_alive: bool,
}

impl<'a> Framing<'a> {
    fn collect(headers: &[httparse::Header<'a>]) -> Result<Framing<'a>, Refusal> {
        let mut framing = Framing::default();
        for header in headers {
            let name = header.name;
            if name.eq_ignore_ascii_case("Host") {
                // Two hosts are ambiguous. A missing one is accepted, because no route depends on it.
                let value = visible(header.value).ok_or(Refusal::BadRequest)?;
                if framing.host.replace(value).is_some() {
                    return Err(Refusal::BadRequest);
                }
            } else if name.eq_ignore_ascii_case("Content-Length") {
                framing.lengths.push(header.value);
            } else if name.eq_ignore_ascii_case("Transfer-Encoding") {
                framing.transfer_codings.push(header.value.trim_ascii());
            } else if name.eq_ignore_ascii_case("Expect") {
                framing.expect = Some(header.value.trim_ascii());
            } else if name.eq_ignore_ascii_case("Connection") {
                for token in header.value.split(|byte| *byte == b',') {
                    let token = token.trim_ascii();
                    framing.close |= token.eq_ignore_ascii_case(b"close");
                    framing.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            }
        }
        Ok(framing)
    }

    /// The body's length; `None` if it is chunked. `is_bodiless`: the method allows a request without either.
    fn body_length(&self, is_bodiless: bool, minor: u8) -> Result<Option<u64>, Refusal> {
        match self.transfer_codings.as_slice() {
            [] => {}
            // Length and coding together are ambiguous: RFC 9112, 6.1 and 6.3. HTTP/1.0 has no codings.
            _ if !self.lengths.is_empty() || minor == 0 => return Err(Refusal::Framing),
            [coding] if coding.eq_ignore_ascii_case(b"chunked") => return Ok(None),
            _ => return Err(Refusal::TransferCoding),
        }
        let mut length = None;
        for value in &self.lengths {
            let value = parse_digits(value).ok_or(Refusal::Framing)?;
            if length.replace(value).is_some_and(|earlier| earlier != value) {
                return Err(Refusal::Framing);
            }
        }
        length.or(is_bodiless.then_some(0)).map(Some).ok_or(Refusal::LengthRequired)
    }
}

/// Parses decimal digits; `None` for a sign, a list or an overflow.
pub(super) fn parse_digits(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii();
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// The value as text; `None` unless it is visible ASCII and spaces.
fn visible(value: &[u8]) -> Option<&str> {
    let plain = value.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
    if plain { std::str::from_utf8(value).ok() } else { None }
}

/// Composes the forwarded head without `Content-Length` and the final empty line.
///
/// The version is HTTP/1.0 with keep-alive, because tiny_http answers 1.0 with a `Content-Length`, but long answers
/// to 1.1 in chunks.
fn compose(
    method: &str,
    target: &str,
    host: Option<&str>,
    headers: &[httparse::Header<'_>],
    peer: SocketAddr,
) -> Vec<u8> {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let mut out = format!(
        "{method} {target} HTTP/1.0\r\nHost: {}\r\nConnection: keep-alive\r\n\
         {PEER_HEADER}: {peer}\r\n",
        host.unwrap_or_default()
    );
    for header in headers {
        let known = FORWARDED.iter().find(|name| name.eq_ignore_ascii_case(header.name));
        if let (Some(name), Some(value)) = (known, visible(header.value)) {
            out.extend([name, ": ", value, "\r\n"]);
        }
    }
    out.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_here(text: &[u8]) -> Result<Option<Head>, Refusal> {
        let routes =
            Routes::new().with_callback("/callback", &["GET", "POST"]).with("/healthz", &["GET", "HEAD"]);
        parse(text, &routes, 1000, "192.0.2.7:81".parse().unwrap())
    }

    #[test]
    fn an_invalid_head_gets_the_refusal_of_its_first_fault() {
        use Refusal::*;
        let long = "9".repeat(30);
        let coded = |lines: &str, refusal| (format!("POST /callback HTTP/1.1\r\n{lines}\r\n\r\n"), refusal);
        let cases: Vec<(String, Refusal)> = vec![
            ("GET\r\n\r\n".into(), BadRequest),
            ("\u{16}\u{3}\u{1}hello\r\n\r\n".into(), BadRequest),
            ("GET /callbäck HTTP/1.1\r\n\r\n".into(), BadRequest),
            ("GET /callback?ä HTTP/1.1\r\n\r\n".into(), BadRequest),
            ("GET /callback HTTP/1.1\r\nno colon\r\n\r\n".into(), BadRequest),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into(), BadRequest),
            ("GET / HTTP/2.0\r\n\r\n".into(), BadRequest),
            ("GET / JUNK/1.1\r\n\r\n".into(), BadRequest),
            ("POST /other HTTP/1.1\r\n\r\n".into(), NotFound),
            ("POST /callback// HTTP/1.1\r\n\r\n".into(), NotFound),
            ("POST //callback HTTP/1.1\r\n\r\n".into(), NotFound),
            ("GET http://a/callback HTTP/1.1\r\n\r\n".into(), NotFound),
            ("PUT /callback HTTP/1.1\r\n\r\n".into(), MethodNotAllowed { route: 0 }),
            ("get /callback HTTP/1.1\r\n\r\n".into(), MethodNotAllowed { route: 0 }),
            ("POST /healthz HTTP/1.1\r\n\r\n".into(), MethodNotAllowed { route: 1 }),
            ("POST /callback HTTP/1.1\r\n\r\n".into(), LengthRequired),
            coded("Transfer-Encoding: identity", TransferCoding),
            coded("Transfer-Encoding: gzip, chunked", TransferCoding),
            coded("Transfer-Encoding: chunked, chunked", TransferCoding),
            coded("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", TransferCoding),
            coded("Transfer-Encoding: xchunked", TransferCoding),
            coded("Transfer-Encoding:", TransferCoding),
            coded("Transfer-Encoding: chunked\r\nContent-Length: 3", Framing),
            coded("Content-Length: 3\r\nTransfer-Encoding: identity", Framing),
            coded("Content-Length: x\r\ntransfer-encoding:\tchunked", Framing),
            coded("Transfer-Encoding : chunked", BadRequest),
            coded("Transfer-Encoding:\r\n chunked", BadRequest),
            ("POST /callback HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into(), Framing),
            ("POST /callback HTTP/1.1\r\nContent-Length: -1\r\n\r\n".into(), Framing),
            ("POST /callback HTTP/1.1\r\nContent-Length: +1\r\n\r\n".into(), Framing),
            ("POST /callback HTTP/1.1\r\nContent-Length:\r\n\r\n".into(), Framing),
            ("POST /callback HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n".into(), Framing),
            (format!("POST /callback HTTP/1.1\r\nContent-Length: {long}\r\n\r\n"), Framing),
            ("POST /callback HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".into(), Framing),
            ("POST /callback HTTP/1.1\r\nContent-Length: 1001\r\n\r\n".into(), TooLarge),
            ("GET /callback HTTP/1.1\r\nContent-Length: 1001\r\n\r\n".into(), TooLarge),
            ("POST /callback HTTP/1.1\r\nContent-Length: 1\r\nExpect: tea\r\n\r\n".into(), ExpectationFailed),
            (format!("GET /callback HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101)), HeadTooLarge),
        ];
        for (text, refusal) in cases {
            assert_eq!(parse_here(text.as_bytes()), Err(refusal), "{text}");
        }
    }

    #[test]
    fn the_forwarded_head_is_composed_and_not_copied() {
        let head = parse_here(
            b"POST /callback?a=%20b HTTP/1.1\r\nhost: x.example\r\ncontent-length: 5\r\n\
              x-gate-peer: 203.0.113.1:1\r\nConnection: upgrade\r\nUpgrade: h2c\r\nTE: chunked\r\n\
              user-agent: a b\r\nX-Forwarded-For: 1.2.3.4, 5.6.7.8\r\nContent-Type: \xff\r\n\
              Cookie: c\r\n\r\n",
        )
        .unwrap()
        .unwrap();
        assert_eq!(
            String::from_utf8(head.forward(head.body)).unwrap(),
            "POST /callback?a=%20b HTTP/1.0\r\nHost: x.example\r\nConnection: keep-alive\r\n\
             X-Gate-Peer: 192.0.2.7:81\r\nUser-Agent: a b\r\n\
             X-Forwarded-For: 1.2.3.4, 5.6.7.8\r\nContent-Length: 5\r\n\r\n"
        );
        assert_eq!((head.body, head.forwards_body), (5, true));
    }

    #[test]
    fn keep_alive_follows_version_and_header() {
        for (version, connection, kept) in [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: foo, Close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ] {
            let text = format!("GET /callback HTTP/{version}\r\n{connection}\r\n");
            let head = parse_here(text.as_bytes()).unwrap().unwrap();
            assert_eq!(head.keep_alive, kept, "{text}");
        }
    }

    #[test]
    fn the_body_of_a_get_is_read_and_not_forwarded() {
        let head = parse_here(b"GET /callback HTTP/1.1\r\nContent-Length: 7\r\n\r\n").unwrap().unwrap();
        assert_eq!((head.body, head.forwards_body), (7, false));
    }

    #[test]
    fn a_slash_at_the_end_of_either_path_makes_no_difference() {
        let routes = Routes::new()
            .with_callback("/a/", &["GET"])
            .with_callback("/", &["GET"])
            .with("/exact", &["GET"])
            .with_probe("/ping");
        let target = |path: &str| {
            let text = format!("GET {path}?q=/ HTTP/1.1\r\n\r\n");
            let head = parse(text.as_bytes(), &routes, 0, "192.0.2.7:81".parse().unwrap())?.unwrap();
            let line = String::from_utf8(head.forward(0)).unwrap();
            Ok((line.split(' ').nth(1).unwrap().to_owned(), head.is_probe))
        };
        for (path, forwarded, probe) in [
            ("/a", "/a?q=/", false),
            ("/a/", "/a?q=/", false),
            ("/", "/?q=/", false),
            ("/ping/", "/ping?q=/", true),
        ] {
            assert_eq!(target(path), Ok((forwarded.to_owned(), probe)), "{path}");
        }
        for path in ["/a//", "/exact/"] {
            assert_eq!(target(path), Err(Refusal::NotFound), "{path}");
        }
    }
}
