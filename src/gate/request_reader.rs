//! Turns the bytes of one connection into requests and refusals. It knows no socket and no clock.

use std::net::SocketAddr;

use super::chunked::ChunkDecoder;
use super::limits::Limits;
use super::proxy_protocol::Preamble;
use super::refusal::Refusal;
use super::request_head::{self, Head};
use super::request_summary::RequestSummary;
use super::routes::Routes;

/// Bytes above which a connection counts as large. Most callbacks are shorter. As many bytes are read before the head
/// shows the length of a request.
pub(super) const SMALL: usize = 4096;

/// What the received bytes amount to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Incomplete,
    /// The client waits for `100 Continue`; reported once per request.
    ExpectsContinue,
    Complete(Request),
    /// A request for a probe path is complete; the gate answers it.
    Probe {
        is_head_request: bool,
    },
    /// The gate answers this refusal and reads no further request.
    Refused(Refusal),
}

/// A complete request in the form for tiny_http.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) wire: Vec<u8>,
    pub(super) keep_alive: bool,
    pub(super) is_head_request: bool,
    pub(super) summary: RequestSummary,
}

/// The received bytes of one connection.
#[derive(Debug)]
pub(super) struct RequestReader {
    preamble: Preamble,
    buf: Vec<u8>,
    /// Bytes of empty lines dropped before the request line; they count towards the head's length.
    skipped: usize,
    /// Length of the part of `buf` without the end of a head.
    scanned: usize,
    /// Length of `buf` at which the head is parsed before its end, to refuse other protocols early.
    parse_at: usize,
    head: Option<Head>,
    /// Present while a chunked body is received.
    chunks: Option<ChunkDecoder>,
}

impl RequestReader {
    pub(super) fn new(peer: SocketAddr) -> Self {
        let (preamble, buf) = (Preamble::new(peer), Vec::new());
        Self { preamble, buf, skipped: 0, scanned: 0, parse_at: 0, head: None, chunks: None }
    }

    /// The client's address: from the PROXY protocol header if there is one, else of the connection.
    pub(super) fn peer(&self) -> SocketAddr {
        self.preamble.peer
    }

    /// Whether the head of a request is complete, and its body is not.
    pub(super) fn lacks_body(&self) -> bool {
        self.head.is_some()
    }

    /// Summary of the incomplete request.
    pub(super) fn summary(&self) -> RequestSummary {
        self.head.as_ref().map_or_else(|| RequestSummary::of(&self.buf), |head| head.summary.clone())
    }

    /// Bytes to read next at most. It limits what is buffered of later, pipelined requests.
    pub(super) fn wanted(&self) -> usize {
        match (&self.head, &self.chunks) {
            (Some(_), Some(chunks)) => chunks.missing().max(SMALL),
            (Some(head), None) => head.body.saturating_sub(self.buf.len()),
            (None, _) => SMALL,
        }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let (len, room) = (self.buf.len(), self.buf.capacity().saturating_sub(self.buf.len()));
        if let Some(head) = self.head.as_ref().filter(|head| !head.is_chunked && room < bytes.len()) {
            // Doubles the capacity, up to the length of the body.
            self.buf.reserve_exact(head.body.saturating_sub(len).min(len.max(bytes.len())));
        }
        self.buf.extend_from_slice(bytes);
    }

    /// Frees all received bytes, when nothing more is answered.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.peer());
    }

    /// Whether any byte of the next request was received.
    pub(super) fn has_begun(&self) -> bool {
        self.has_content() || self.skipped > 0
    }

    /// Like [`RequestReader::has_begun`], without the empty lines that some clients send behind a body.
    pub(super) fn has_content(&self) -> bool {
        self.head.is_some() || !self.buf.is_empty()
    }

    /// Bytes of heap memory for received bytes.
    pub(super) fn memory(&self) -> usize {
        let head = self.head.as_ref().map_or(0, Head::memory);
        let chunks = self.chunks.as_ref().map_or(0, ChunkDecoder::memory);
        self.buf.capacity().saturating_add(head).saturating_add(chunks)
    }

    /// Evaluates the received bytes. After `Complete` and `Probe` the remaining bytes belong to the next request.
    pub(super) fn advance(&mut self, routes: &Routes, limits: &Limits) -> Progress {
        self.try_advance(routes, limits).unwrap_or_else(Progress::Refused)
    }

    fn try_advance(&mut self, routes: &Routes, limits: &Limits) -> Result<Progress, Refusal> {
        if !self.preamble.consume(&mut self.buf, limits.proxy_protocol)? {
            return Ok(Progress::Incomplete);
        }
        let mut head = match self.head.take() {
            Some(head) => head,
            None => {
                let Some(head) = self.parse_head(routes, limits)? else { return Ok(Progress::Incomplete) };
                self.buf.drain(..head.len.min(self.buf.len()));
                self.chunks = head.is_chunked.then(ChunkDecoder::default);
                head
            }
        };
        let is_complete = match &mut self.chunks {
            Some(chunks) => chunks.decode(&mut self.buf, limits.max_body),
            None => Ok(self.buf.len() >= head.body),
        };
        if matches!(is_complete, Ok(true)) {
            return Ok(self.finish(head));
        }
        let expects_continue = std::mem::take(&mut head.expects_continue);
        self.head = Some(head);
        is_complete?;
        Ok(if expects_continue { Progress::ExpectsContinue } else { Progress::Incomplete })
    }

    fn parse_head(&mut self, routes: &Routes, limits: &Limits) -> Result<Option<Head>, Refusal> {
        if self.scanned == 0 {
            let blank = self.buf.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.buf.drain(..blank);
            self.skipped = self.skipped.saturating_add(blank);
        }
        let room = limits.max_head.saturating_sub(self.skipped);
        let is_full = self.buf.len() >= room;
        // Parsing after every byte of a slow client costs the square of the head's length. Parsing at the head's end
        // and at each doubling costs a small multiple of it.
        if !self.finds_end() && !is_full && self.buf.len() < self.parse_at.max(1) {
            return Ok(None);
        }
        self.parse_at = self.buf.len().saturating_mul(2);
        let window = self.buf.get(..room).unwrap_or(&self.buf);
        match request_head::parse(window, routes, limits.max_body, self.peer())? {
            None if is_full => Err(Refusal::HeadTooLarge),
            head => Ok(head),
        }
    }

    /// Searches the bytes since the last call for the empty line that ends a head.
    fn finds_end(&mut self) -> bool {
        let from = self.scanned.saturating_sub(2);
        self.scanned = self.buf.len();
        let fresh = self.buf.get(from..).unwrap_or_default();
        fresh.windows(2).any(|pair| pair == b"\n\n") || fresh.windows(3).any(|three| three == b"\n\r\n")
    }

    fn finish(&mut self, head: Head) -> Progress {
        let decoded = self.chunks.take().map(ChunkDecoder::into_body);
        let (body, used) = match &decoded {
            Some(body) => (body.as_slice(), 0),
            None => (self.buf.get(..head.body).unwrap_or_default(), head.body),
        };
        let body = if head.forwards_body { body } else { &[] };
        let mut wire = head.forward(body.len());
        wire.extend_from_slice(body);
        // A new vector without spare capacity: an idle connection holds no memory.
        self.buf = self.buf.get(used..).unwrap_or_default().to_vec();
        (self.skipped, self.scanned, self.parse_at) = (0, 0, 0);
        let Head { keep_alive, is_head_request, summary, .. } = head;
        if head.is_probe {
            return Progress::Probe { is_head_request };
        }
        Progress::Complete(Request { wire, keep_alive, is_head_request, summary })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits() -> Limits {
        Limits { max_head: 256, max_body: 64, ..Limits::default() }
    }

    fn behind_a_proxy() -> Limits {
        Limits { proxy_protocol: true, ..limits() }
    }

    fn reader() -> RequestReader {
        RequestReader::new("192.0.2.7:81".parse().unwrap())
    }

    fn advance(reader: &mut RequestReader, limits: &Limits) -> Progress {
        let routes = Routes::new().with("/callback", &["GET", "POST"]).with_probe("/ping");
        reader.advance(&routes, limits)
    }

    /// The requests and the refusal that result from these pieces.
    fn outcome(pieces: &[&[u8]]) -> (Vec<Request>, Option<Refusal>) {
        outcome_with(&limits(), pieces)
    }

    fn outcome_with(limits: &Limits, pieces: &[&[u8]]) -> (Vec<Request>, Option<Refusal>) {
        let (mut reader, mut requests) = (reader(), Vec::new());
        for piece in pieces {
            reader.feed(piece);
            loop {
                match advance(&mut reader, limits) {
                    Progress::Incomplete => break,
                    Progress::ExpectsContinue | Progress::Probe { .. } => {}
                    Progress::Complete(request) => requests.push(request),
                    Progress::Refused(refusal) => return (requests, Some(refusal)),
                }
            }
        }
        (requests, None)
    }

    #[test]
    fn pipelined_requests_are_returned_one_by_one() {
        let (requests, refusal) = outcome(&[
            b"\r\nPOST /callback HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /callback HTTP/1.1\r\n\r\nGET /ca",
            b"llback HTTP/1.1\r\nConnection: close\r\n\r\n",
        ]);
        assert_eq!(requests.len(), 3);
        assert!(requests[0].wire.ends_with(b"\r\n\r\nabc"));
        assert!(requests[1].keep_alive);
        assert!(!requests[2].keep_alive);
        assert_eq!(refusal, None);
    }

    #[test]
    fn continue_is_expected_once_and_only_while_the_body_is_missing() {
        let head = b"POST /callback HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
        let mut reader = reader();
        reader.feed(head);
        assert_eq!(advance(&mut reader, &limits()), Progress::ExpectsContinue);
        assert_eq!(advance(&mut reader, &limits()), Progress::Incomplete);
        reader.feed(b"ab");
        assert!(matches!(advance(&mut reader, &limits()), Progress::Complete(_)));
        assert_eq!((reader.memory(), reader.has_begun()), (0, false), "an idle connection holds no memory");
        reader.feed(head);
        reader.feed(b"ab");
        assert!(matches!(advance(&mut reader, &limits()), Progress::Complete(_)));
    }

    #[test]
    fn another_protocol_is_refused_before_its_head_ends() {
        for (bytes, refusal) in [
            (&b"\x16\x03\x01\x02\x00"[..], Refusal::Tls),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refusal::Http2),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n", Refusal::ProxyHeader),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11", Refusal::ProxyHeader),
            (b"\x01\x02", Refusal::BadRequest),
            (b"\x16\x04", Refusal::BadRequest),
        ] {
            assert_eq!(outcome(&[bytes]).1, Some(refusal), "{bytes:?}");
        }
    }

    #[test]
    fn a_chunked_body_is_forwarded_with_its_length() {
        let head = "POST /callback HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n";
        let text = format!("{head}3\r\nabc\r\n2\r\nde\r\n0\r\n\r\nGET /callback HTTP/1.1\r\n\r\n");
        let (requests, refusal) = outcome(&[text.as_bytes()]);
        assert_eq!((requests.len(), refusal), (2, None));
        let wire = String::from_utf8_lossy(&requests[0].wire);
        assert!(wire.ends_with("\r\nContent-Length: 5\r\n\r\nabcde"), "{wire}");
        assert!(!wire.contains("Transfer-Encoding"), "{wire}");
        let large = format!("{head}41\r\n");
        assert_eq!(outcome(&[large.as_bytes()]).1, Some(Refusal::TooLarge));
        let mut reader = reader();
        reader.feed(head.as_bytes());
        assert_eq!(advance(&mut reader, &limits()), Progress::ExpectsContinue);
        assert_eq!(advance(&mut reader, &limits()), Progress::Incomplete);
        reader.feed(b"0\r\n\r\n");
        assert!(matches!(advance(&mut reader, &limits()), Progress::Complete(_)));
        assert_eq!((reader.memory(), reader.has_begun()), (0, false));
    }

    #[test]
    fn a_probe_is_recognised_with_and_without_a_body() {
        for (request, is_head_request) in [
            ("GET /ping HTTP/1.1\r\n\r\n", false),
            ("HEAD /ping/ HTTP/1.0\r\n\r\n", true),
            ("GET /ping?a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", false),
        ] {
            let mut reader = reader();
            reader.feed(request.as_bytes());
            assert_eq!(advance(&mut reader, &limits()), Progress::Probe { is_head_request }, "{request}");
        }
        let refused = outcome(&[b"POST /ping HTTP/1.1\r\n\r\n"]).1;
        assert_eq!(refused, Some(Refusal::MethodNotAllowed { route: 1 }));
    }

    #[test]
    fn a_proxy_header_names_the_client_for_the_whole_connection() {
        let limits = behind_a_proxy();
        let get = "GET /callback HTTP/1.1\r\n\r\n";
        let text = format!("PROXY TCP4 203.0.113.9 10.0.0.1 7 8\r\n{get}{get}");
        let (requests, refusal) = outcome_with(&limits, &[text.as_bytes()]);
        assert_eq!((requests.len(), refusal), (2, None));
        for request in requests {
            assert!(String::from_utf8_lossy(&request.wire).contains("X-Gate-Peer: 203.0.113.9:7\r\n"));
        }
        let local = [b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".as_slice(), get.as_bytes()].concat();
        let (requests, _) = outcome_with(&limits, &[&local]);
        assert!(String::from_utf8_lossy(&requests[0].wire).contains("X-Gate-Peer: 192.0.2.7:81\r\n"));
        assert_eq!(outcome_with(&limits, &[get.as_bytes()]).1, Some(Refusal::NoProxyHeader));
        let (requests, refusal) = outcome_with(&limits, &[text.as_bytes(), text.as_bytes()]);
        assert_eq!((requests.len(), refusal), (2, Some(Refusal::BadRequest)), "not before a later request");
        let twice = format!("PROXY UNKNOWN\r\n{text}");
        assert_eq!(outcome_with(&limits, &[twice.as_bytes()]).1, Some(Refusal::ProxyHeader));
        let tls = b"PROXY UNKNOWN\r\n\x16\x03\x01".as_slice();
        assert_eq!(outcome_with(&limits, &[tls]).1, Some(Refusal::Tls));
    }

    #[test]
    fn an_endless_head_and_endless_blank_lines_are_refused() {
        let long = format!("GET /callback HTTP/1.1\r\na: {}", "b".repeat(300));
        assert_eq!(outcome(&[long.as_bytes()]).1, Some(Refusal::HeadTooLarge));
        assert_eq!(outcome(&[&[b'\n'; 300]]).1, Some(Refusal::HeadTooLarge));
        assert_eq!(outcome(&[&b"\n"[..]; 300]).1, Some(Refusal::HeadTooLarge));
    }

    const PARTS: [&[u8]; 21] = [
        b"GET /callback HTTP/1.1\r\n\r\n",
        b"POST /callback?q HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        b"POST /callback HTTP/1.0\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\n",
        b"POST /callback HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        b"POST /callback HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab",
        b"\r\n",
        b"3f\r\n",
        b"1;a\r\nx\r\n",
        b"0\r\n",
        b"a: b\r\n",
        b"g",
        b"PROXY TCP4 203.0.113.9 10.0.0.1 7 8\r\n",
        b"PROXY ",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x01\x02\x03\x04\0\x07\0\x08",
        b"\x16\x03\x01",
        b"GET /",
        b"GET / HTTP/2.0",
        b"GET /x HTTP/1.1\r\n\r\n",
        b"a: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n",
        b"\xff",
        b":",
    ];

    proptest! {
        #[test]
        fn the_result_does_not_depend_on_the_split(
            bytes in prop_oneof![
                prop::collection::vec(prop::sample::select(&PARTS[..]), 0..12).prop_map(|parts| parts.concat()),
                prop::collection::vec(any::<u8>(), 0..600),
            ],
            cuts in prop::collection::vec(1_usize..200, 20),
        ) {
            // The tail leads to a refusal in every case. A cut may delay the refusal and must not change it.
            let bytes = [&bytes[..], b"\n\n", &[b'x'; 400]].concat();
            let (mut pieces, mut rest) = (Vec::new(), &bytes[..]);
            for cut in cuts {
                let (piece, left) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = left;
            }
            pieces.push(rest);
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            for limits in [limits(), behind_a_proxy()] {
                let whole = outcome_with(&limits, &[&bytes]);
                prop_assert!(whole.1.is_some());
                prop_assert_eq!(&outcome_with(&limits, &pieces), &whole);
                prop_assert_eq!(&outcome_with(&limits, &single), &whole);
            }
        }
    }
}
