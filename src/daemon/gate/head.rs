//! The head of a request: parsed, judged, and written anew for the server behind the gate.
//!
//! Everything here is pure. What goes on is composed from parsed parts, never copied through,
//! so the gate and the server behind it cannot disagree about where a request ends.

use std::net::SocketAddr;

use httparse::Status;

/// Header of the forwarded request that names the client's address; the client cannot set it.
pub const PEER_HEADER: &str = "X-Gate-Peer";

/// More header lines than this is not a client we serve.
const MAX_HEADERS: usize = 100;

/// Headers of the client that go on to the server; all others are dropped.
const PASSED: [&str; 3] = ["X-Forwarded-For", "Content-Type", "User-Agent"];

/// Why the gate itself answers a request instead of passing it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The head is not HTTP, or its length contradicts itself.
    BadRequest,
    /// No route has this path.
    NotFound,
    /// The route does not take this method.
    MethodNotAllowed {
        /// Which of the routes, for the `Allow` header.
        route: usize,
    },
    /// The request was not complete in time.
    Timeout,
    /// A body without a `Content-Length`, chunked ones included.
    LengthRequired,
    /// The body is longer than the limit.
    TooLarge,
    /// An `Expect` that is not `100-continue`.
    ExpectationFailed,
    /// The head is longer than the limit.
    HeadTooLarge,
    /// The server behind the gate broke its connection or its framing.
    BadGateway,
    /// No answer in time, or no room.
    Unavailable,
}

impl Refusal {
    /// The status code and reason of the answer.
    pub fn status(self) -> (u16, &'static str) {
        match self {
            Refusal::BadRequest => (400, "Bad Request"),
            Refusal::NotFound => (404, "Not Found"),
            Refusal::MethodNotAllowed { .. } => (405, "Method Not Allowed"),
            Refusal::Timeout => (408, "Request Timeout"),
            Refusal::LengthRequired => (411, "Length Required"),
            Refusal::TooLarge => (413, "Content Too Large"),
            Refusal::ExpectationFailed => (417, "Expectation Failed"),
            Refusal::HeadTooLarge => (431, "Request Header Fields Too Large"),
            Refusal::BadGateway => (502, "Bad Gateway"),
            Refusal::Unavailable => (503, "Service Unavailable"),
        }
    }
}

/// The exact paths that are served, each with its methods.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    routes: Vec<Route>,
}

#[derive(Debug, Clone)]
struct Route {
    path: String,
    methods: Vec<String>,
}

impl Routes {
    /// No routes: everything is a 404.
    pub fn new() -> Routes {
        Routes::default()
    }

    /// Adds a path (compared byte by byte, without the query) and the methods it takes.
    #[must_use]
    pub fn with(mut self, path: impl Into<String>, methods: &[&str]) -> Routes {
        self.routes
            .push(Route { path: path.into(), methods: methods.iter().map(ToString::to_string).collect() });
        self
    }

    /// The value of `Allow` for a refusal by this route.
    pub(super) fn allow(&self, route: usize) -> String {
        self.routes.get(route).map(|route| route.methods.join(", ")).unwrap_or_default()
    }

    fn admit(&self, method: &str, target: &str) -> Result<(), Refusal> {
        let path = target.split('?').next().unwrap_or_default();
        let (index, route) =
            self.routes.iter().enumerate().find(|(_, route)| route.path == path).ok_or(Refusal::NotFound)?;
        if route.methods.iter().any(|known| known == method) {
            Ok(())
        } else {
            Err(Refusal::MethodNotAllowed { route: index })
        }
    }
}

/// A head that was let in.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// How many bytes of the input it took.
    pub len: usize,
    /// How many bytes of body follow.
    pub body: usize,
    /// Whether the body goes on to the server (that of a GET is read and dropped).
    pub body_passes: bool,
    /// Whether the client keeps the connection after the answer.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// Whether the answer has no body because the method is HEAD.
    pub answer_bodiless: bool,
    /// The head as the server gets it.
    pub forward: Vec<u8>,
}

/// Parses and judges a head. `None`: not complete yet.
///
/// # Errors
/// [`Refusal`], which says what the gate answers by itself.
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
    let facts = Facts::gather(request.headers)?;

    routes.admit(method, target)?;
    let bodiless = matches!(method, "GET" | "HEAD");
    let body = facts.body_length(bodiless)?;
    if body > max_body as u64 {
        return Err(Refusal::TooLarge);
    }
    let expects_continue = match facts.expect {
        None => false,
        Some(value) if value.eq_ignore_ascii_case(b"100-continue") => true,
        Some(_) => return Err(Refusal::ExpectationFailed),
    };
    let body = usize::try_from(body).map_err(|_| Refusal::TooLarge)?;

    Ok(Some(Head {
        len,
        body,
        body_passes: !bodiless,
        keep_alive: !facts.close && (minor == 1 || facts.keep_alive),
        // A 1.0 client knows no interim answers.
        expects_continue: expects_continue && minor == 1,
        answer_bodiless: method == "HEAD",
        forward: compose(method, target, facts.host, if bodiless { 0 } else { body }, request.headers, peer),
    }))
}

/// What the header lines say about framing and the connection.
#[derive(Default)]
struct Facts<'a> {
    host: Option<&'a str>,
    lengths: Vec<&'a [u8]>,
    transfer_encoding: bool,
    expect: Option<&'a [u8]>,
    close: bool,
    keep_alive: bool,
}

impl<'a> Facts<'a> {
    fn gather(headers: &[httparse::Header<'a>]) -> Result<Facts<'a>, Refusal> {
        let mut facts = Facts::default();
        for header in headers {
            let name = header.name;
            if name.eq_ignore_ascii_case("Host") {
                // Two hosts are two opinions on whom the request is for. None at all is taken:
                // nothing here depends on it, and hand-made probes leave it out.
                let value = visible(header.value).ok_or(Refusal::BadRequest)?;
                if facts.host.replace(value).is_some() {
                    return Err(Refusal::BadRequest);
                }
            } else if name.eq_ignore_ascii_case("Content-Length") {
                facts.lengths.push(header.value);
            } else if name.eq_ignore_ascii_case("Transfer-Encoding") {
                facts.transfer_encoding = true;
            } else if name.eq_ignore_ascii_case("Expect") {
                facts.expect = Some(header.value.trim_ascii());
            } else if name.eq_ignore_ascii_case("Connection") {
                for token in header.value.split(|byte| *byte == b',') {
                    let token = token.trim_ascii();
                    facts.close |= token.eq_ignore_ascii_case(b"close");
                    facts.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            }
        }
        Ok(facts)
    }

    fn body_length(&self, may_lack: bool) -> Result<u64, Refusal> {
        if self.transfer_encoding {
            return Err(Refusal::LengthRequired);
        }
        let mut length = None;
        for value in &self.lengths {
            let value = digits(value).ok_or(Refusal::BadRequest)?;
            if length.is_some_and(|earlier| earlier != value) {
                return Err(Refusal::BadRequest);
            }
            length = Some(value);
        }
        match length {
            Some(length) => Ok(length),
            None if may_lack => Ok(0),
            None => Err(Refusal::LengthRequired),
        }
    }
}

/// Digits and nothing else: no sign, no list, no overflow.
pub(super) fn digits(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii();
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// The value as text, if it is only visible ASCII and spaces.
fn visible(value: &[u8]) -> Option<&str> {
    let plain = value.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
    if plain { std::str::from_utf8(value).ok() } else { None }
}

/// The head as the server behind the gate gets it.
///
/// It is HTTP/1.0 with keep-alive on purpose: tiny_http answers 1.1 in chunks when a body is
/// long, but 1.0 always with a `Content-Length`.
fn compose(
    method: &str,
    target: &str,
    host: Option<&str>,
    body: usize,
    headers: &[httparse::Header<'_>],
    peer: SocketAddr,
) -> Vec<u8> {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let mut out = format!(
        "{method} {target} HTTP/1.0\r\nHost: {}\r\nConnection: keep-alive\r\n\
         Content-Length: {body}\r\n{PEER_HEADER}: {peer}\r\n",
        host.unwrap_or_default()
    );
    for header in headers {
        let known = PASSED.iter().find(|name| name.eq_ignore_ascii_case(header.name));
        if let (Some(name), Some(value)) = (known, visible(header.value)) {
            out.push_str(name);
            out.push_str(": ");
            out.push_str(value);
            out.push_str("\r\n");
        }
    }
    out.push_str("\r\n");
    out.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(text: &[u8]) -> Result<Option<Head>, Refusal> {
        let routes = Routes::new().with("/callback", &["GET", "POST"]).with("/healthz", &["GET", "HEAD"]);
        parse(text, &routes, 1000, "192.0.2.7:81".parse().unwrap())
    }

    #[test]
    fn every_refusal_has_its_place_in_the_order() {
        use Refusal::*;
        let long = "9".repeat(30);
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
            ("POST /callback/ HTTP/1.1\r\n\r\n".into(), NotFound),
            ("GET http://a/callback HTTP/1.1\r\n\r\n".into(), NotFound),
            ("PUT /callback HTTP/1.1\r\n\r\n".into(), MethodNotAllowed { route: 0 }),
            ("get /callback HTTP/1.1\r\n\r\n".into(), MethodNotAllowed { route: 0 }),
            ("POST /healthz HTTP/1.1\r\n\r\n".into(), MethodNotAllowed { route: 1 }),
            ("POST /callback HTTP/1.1\r\n\r\n".into(), LengthRequired),
            ("POST /callback HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".into(), LengthRequired),
            (
                "POST /callback HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: identity\r\n\r\n".into(),
                LengthRequired,
            ),
            ("GET /callback HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".into(), LengthRequired),
            ("POST /callback HTTP/1.1\r\nContent-Length: -1\r\n\r\n".into(), BadRequest),
            ("POST /callback HTTP/1.1\r\nContent-Length: +1\r\n\r\n".into(), BadRequest),
            ("POST /callback HTTP/1.1\r\nContent-Length:\r\n\r\n".into(), BadRequest),
            ("POST /callback HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n".into(), BadRequest),
            (format!("POST /callback HTTP/1.1\r\nContent-Length: {long}\r\n\r\n"), BadRequest),
            ("POST /callback HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".into(), BadRequest),
            ("POST /callback HTTP/1.1\r\nContent-Length: 1001\r\n\r\n".into(), TooLarge),
            ("GET /callback HTTP/1.1\r\nContent-Length: 1001\r\n\r\n".into(), TooLarge),
            ("POST /callback HTTP/1.1\r\nContent-Length: 1\r\nExpect: tea\r\n\r\n".into(), ExpectationFailed),
            (format!("GET /callback HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101)), HeadTooLarge),
        ];
        for (text, refusal) in cases {
            assert_eq!(judge(text.as_bytes()), Err(refusal), "{text}");
        }
    }

    #[test]
    fn the_forwarded_head_is_composed_and_not_copied() {
        let head = judge(
            b"POST /callback?a=%20b HTTP/1.1\r\nhost: x.example\r\ncontent-length: 5\r\n\
              x-gate-peer: 203.0.113.1:1\r\nConnection: upgrade\r\nUpgrade: h2c\r\nTE: chunked\r\n\
              user-agent: a b\r\nX-Forwarded-For: 1.2.3.4, 5.6.7.8\r\nContent-Type: \xff\r\n\
              Cookie: c\r\n\r\n",
        )
        .unwrap()
        .unwrap();
        assert_eq!(
            String::from_utf8(head.forward).unwrap(),
            "POST /callback?a=%20b HTTP/1.0\r\nHost: x.example\r\nConnection: keep-alive\r\n\
             Content-Length: 5\r\nX-Gate-Peer: 192.0.2.7:81\r\nUser-Agent: a b\r\n\
             X-Forwarded-For: 1.2.3.4, 5.6.7.8\r\n\r\n"
        );
        assert_eq!((head.body, head.body_passes), (5, true));
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
            let head = judge(text.as_bytes()).unwrap().unwrap();
            assert_eq!(head.keep_alive, kept, "{text}");
        }
    }

    #[test]
    fn a_body_on_a_get_is_read_but_does_not_pass() {
        let head = judge(b"GET /callback HTTP/1.1\r\nContent-Length: 7\r\n\r\n").unwrap().unwrap();
        assert_eq!((head.body, head.body_passes), (7, false));
        assert!(String::from_utf8_lossy(&head.forward).contains("Content-Length: 0\r\n"));
    }
}
