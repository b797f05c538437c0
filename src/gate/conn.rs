//! What one client has sent: bytes in, requests and refusals out. Pure: no socket, no clock.

use std::net::SocketAddr;

use super::chunked::Chunks;
use super::glimpse::Glimpse;
use super::head::{self, Head};
use super::memory::MODEST;
use super::opening::{self, Opening, Proxy};
use super::refusal::Refusal;
use super::routes::Routes;

/// The bounds on a request, and what is served.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) routes: Routes,
    pub(super) max_head: usize,
    pub(super) max_body: usize,
    /// Whether every connection begins with a PROXY protocol header.
    pub(super) proxy_protocol: bool,
}

/// What can be done with the bytes so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing without further bytes.
    More,
    /// The client waits for `100 Continue`.
    Continue,
    /// A request is complete.
    Request(Request),
    /// A request for the probe path is complete.
    Probe {
        /// Whether the answer has no body.
        bodiless: bool,
    },
    /// Answer this and read no further.
    Refuse(Refusal),
}

/// A complete request in the form that the server gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) wire: Vec<u8>,
    pub(super) keep_alive: bool,
    pub(super) answer_bodiless: bool,
    pub(super) glimpse: Glimpse,
}

/// What is expected at the beginning of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// A PROXY protocol header, if that is configured.
    ProxyHeader,
    /// The first bytes of the client itself.
    FirstBytes,
    /// HTTP.
    Requests,
}

/// The receiving half of a connection.
#[derive(Debug)]
pub(super) struct Inbound {
    /// The client: who connected, or whom the PROXY protocol header names.
    peer: SocketAddr,
    stage: Stage,
    buf: Vec<u8>,
    /// Empty lines dropped before the request line; they count towards the head's size.
    skipped: usize,
    /// How far the end of the head has been looked for.
    scanned: usize,
    /// Parse at this size even without an end in sight, to refuse early what is not HTTP.
    parse_at: usize,
    head: Option<Head>,
    /// The body, if it is chunked.
    chunks: Option<Chunks>,
}

impl Inbound {
    pub(super) fn new(peer: SocketAddr) -> Inbound {
        Inbound {
            peer,
            stage: Stage::ProxyHeader,
            buf: Vec::new(),
            skipped: 0,
            scanned: 0,
            parse_at: 0,
            head: None,
            chunks: None,
        }
    }

    /// The client's address.
    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether the head of a request is complete, and its body is not.
    pub(super) fn lacks_body(&self) -> bool {
        self.head.is_some()
    }

    /// What can be told of the request that is being received.
    pub(super) fn glimpse(&self) -> Glimpse {
        self.head.as_ref().map_or_else(|| Glimpse::of(&self.buf), |head| head.glimpse.clone())
    }

    /// How many bytes to read at most: what comes along with a request is held while that is answered.
    pub(super) fn wants(&self) -> usize {
        match (&self.head, &self.chunks) {
            (Some(_), Some(chunks)) => chunks.wants().max(MODEST),
            (Some(head), None) => head.body.saturating_sub(self.buf.len()),
            (None, _) => MODEST,
        }
    }

    /// Takes what was read from the client.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let (len, room) = (self.buf.len(), self.buf.capacity().saturating_sub(self.buf.len()));
        if let Some(head) = self.head.as_ref().filter(|head| !head.is_chunked && room < bytes.len()) {
            // It grows by doubling, but not beyond its end.
            self.buf.reserve_exact(head.body.saturating_sub(len).min(len.max(bytes.len())));
        }
        self.buf.extend_from_slice(bytes);
    }

    /// Drops what was received: nothing more will be answered.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.peer);
    }

    /// Whether any byte of the next request has arrived.
    pub(super) fn begun(&self) -> bool {
        self.head.is_some() || self.skipped > 0 || !self.buf.is_empty()
    }

    /// Whether there is more than empty lines, which some clients send behind a body.
    pub(super) fn says_something(&self) -> bool {
        self.head.is_some() || !self.buf.is_empty()
    }

    /// Memory held for the unfinished request.
    pub(super) fn held(&self) -> usize {
        let head = self.head.as_ref().map_or(0, Head::held);
        let chunks = self.chunks.as_ref().map_or(0, Chunks::held);
        self.buf.capacity().saturating_add(head).saturating_add(chunks)
    }

    /// The next step. After `Request` the rest of the buffer is the beginning of the next one.
    pub(super) fn step(&mut self, rules: &Rules) -> Step {
        match self.advance(rules) {
            Ok(step) => step,
            Err(refusal) => Step::Refuse(refusal),
        }
    }

    fn advance(&mut self, rules: &Rules) -> Result<Step, Refusal> {
        if self.stage != Stage::Requests && !self.open(rules)? {
            return Ok(Step::More);
        }
        if self.head.is_none() {
            let Some(head) = self.parse_head(rules)? else { return Ok(Step::More) };
            self.buf.drain(..head.len.min(self.buf.len()));
            self.chunks = head.is_chunked.then(Chunks::default);
            self.head = Some(head);
        }
        let Some(head) = &mut self.head else { return Ok(Step::More) };
        let complete = match &mut self.chunks {
            Some(chunks) => chunks.take(&mut self.buf, rules.max_body)?,
            None => self.buf.len() >= head.body,
        };
        if !complete {
            let asked = std::mem::take(&mut head.expects_continue);
            return Ok(if asked { Step::Continue } else { Step::More });
        }
        Ok(self.head.take().map_or(Step::More, |head| self.finish(head)))
    }

    /// Takes what may come before the first request; whether that has come.
    fn open(&mut self, rules: &Rules) -> Result<bool, Refusal> {
        if self.stage == Stage::ProxyHeader && rules.proxy_protocol {
            match opening::proxy(&self.buf) {
                Proxy::Partial => return Ok(false),
                Proxy::Bad => return Err(Refusal::NoProxyHeader),
                Proxy::Whole { len, client } => {
                    self.buf.drain(..len.min(self.buf.len()));
                    self.peer = client.unwrap_or(self.peer);
                }
            }
        }
        self.stage = Stage::FirstBytes;
        match opening::recognise(&self.buf) {
            Opening::Undecided => return Ok(false),
            Opening::Tls => return Err(Refusal::Tls),
            Opening::Http2 => return Err(Refusal::Http2),
            Opening::Proxy => return Err(Refusal::ProxyHeader),
            Opening::Other => self.stage = Stage::Requests,
        }
        Ok(true)
    }

    fn parse_head(&mut self, rules: &Rules) -> Result<Option<Head>, Refusal> {
        if self.scanned == 0 {
            let blank = self.buf.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.buf.drain(..blank);
            self.skipped = self.skipped.saturating_add(blank);
        }
        let room = rules.max_head.saturating_sub(self.skipped);
        let full = self.buf.len() >= room;
        // Parsing at every byte of a drip would cost the square of the head's size; parsing at
        // its end, and at each doubling, costs a small multiple.
        if !self.sees_end() && !full && self.buf.len() < self.parse_at.max(1) {
            return Ok(None);
        }
        self.parse_at = self.buf.len().saturating_mul(2);
        let window = self.buf.get(..room).unwrap_or(&self.buf);
        match head::parse(window, &rules.routes, rules.max_body, self.peer)? {
            None if full => Err(Refusal::HeadTooLarge),
            other => Ok(other),
        }
    }

    /// Looks for the empty line that ends a head, only where it was not looked for yet.
    fn sees_end(&mut self) -> bool {
        let from = self.scanned.saturating_sub(2);
        self.scanned = self.buf.len();
        let fresh = self.buf.get(from..).unwrap_or_default();
        fresh.windows(2).any(|pair| pair == b"\n\n") || fresh.windows(3).any(|three| three == b"\n\r\n")
    }

    fn finish(&mut self, head: Head) -> Step {
        let chunked = self.chunks.take().map(Chunks::into_body);
        let (body, used) = match &chunked {
            Some(body) => (body.as_slice(), 0),
            None => (self.buf.get(..head.body).unwrap_or_default(), head.body),
        };
        let body = if head.body_passes { body } else { &[] };
        let mut wire = head.forward(body.len());
        wire.extend_from_slice(body);
        // Without its capacity: an idle connection holds no memory.
        self.buf = self.buf.get(used..).unwrap_or_default().to_vec();
        self.skipped = 0;
        self.scanned = 0;
        self.parse_at = 0;
        if head.is_probe {
            return Step::Probe { bodiless: head.answer_bodiless };
        }
        Step::Request(Request {
            wire,
            keep_alive: head.keep_alive,
            answer_bodiless: head.answer_bodiless,
            glimpse: head.glimpse,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules() -> Rules {
        let routes = Routes::new().with("/callback", &["GET", "POST"]).with_probe("/ping");
        Rules { routes, max_head: 256, max_body: 64, proxy_protocol: false }
    }

    fn behind_a_proxy() -> Rules {
        Rules { proxy_protocol: true, ..rules() }
    }

    /// All requests and the refusal that a client gets for these pieces.
    fn outcome(pieces: &[&[u8]]) -> (Vec<Request>, Option<Refusal>) {
        outcome_with(&rules(), pieces)
    }

    fn outcome_with(rules: &Rules, pieces: &[&[u8]]) -> (Vec<Request>, Option<Refusal>) {
        let mut inbound = Inbound::new("192.0.2.7:81".parse().unwrap());
        let mut requests = Vec::new();
        for piece in pieces {
            inbound.feed(piece);
            loop {
                match inbound.step(rules) {
                    Step::More => break,
                    Step::Continue | Step::Probe { .. } => {}
                    Step::Request(request) => requests.push(request),
                    Step::Refuse(refusal) => return (requests, Some(refusal)),
                }
            }
        }
        (requests, None)
    }

    #[test]
    fn pipelined_requests_come_out_one_by_one() {
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
    fn continue_is_asked_for_once_and_only_when_the_body_is_still_missing() {
        let head = b"POST /callback HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
        let peer = "192.0.2.7:81".parse().unwrap();
        let mut inbound = Inbound::new(peer);
        inbound.feed(head);
        assert_eq!(inbound.step(&rules()), Step::Continue);
        assert_eq!(inbound.step(&rules()), Step::More);
        inbound.feed(b"ab");
        assert!(matches!(inbound.step(&rules()), Step::Request(_)));
        inbound.feed(head);
        inbound.feed(b"ab");
        assert!(matches!(inbound.step(&rules()), Step::Request(_)));
    }

    #[test]
    fn what_is_not_http_is_refused_before_its_head_ends() {
        for (bytes, refusal) in [
            (&b"\x16\x03\x01\x02\x00"[..], Refusal::Tls),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refusal::Http2),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n", Refusal::ProxyHeader),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11", Refusal::ProxyHeader),
            (b"\x01\x02", Refusal::BadRequest),
        ] {
            assert_eq!(outcome(&[bytes]).1, Some(refusal), "{bytes:?}");
        }
    }

    #[test]
    fn a_chunked_body_goes_on_with_its_length() {
        let head = "POST /callback HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n";
        let text = format!("{head}3\r\nabc\r\n2\r\nde\r\n0\r\n\r\nGET /callback HTTP/1.1\r\n\r\n");
        let (requests, refusal) = outcome(&[text.as_bytes()]);
        assert_eq!((requests.len(), refusal), (2, None));
        let wire = String::from_utf8_lossy(&requests[0].wire);
        assert!(wire.ends_with("\r\nContent-Length: 5\r\n\r\nabcde"), "{wire}");
        assert!(!wire.contains("Transfer-Encoding"), "{wire}");
        let large = format!("{head}41\r\n");
        assert_eq!(outcome(&[large.as_bytes()]).1, Some(Refusal::TooLarge));
        let mut inbound = Inbound::new("192.0.2.7:81".parse().unwrap());
        inbound.feed(head.as_bytes());
        assert_eq!(inbound.step(&rules()), Step::Continue);
        assert_eq!(inbound.step(&rules()), Step::More);
        inbound.feed(b"0\r\n\r\n");
        assert!(matches!(inbound.step(&rules()), Step::Request(_)));
        assert_eq!((inbound.held(), inbound.begun()), (0, false));
    }

    #[test]
    fn a_probe_is_answered_here_whatever_its_body() {
        for (request, bodiless) in [
            ("GET /ping HTTP/1.1\r\n\r\n", false),
            ("HEAD /ping/ HTTP/1.0\r\n\r\n", true),
            ("GET /ping?a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", false),
        ] {
            let mut inbound = Inbound::new("192.0.2.7:81".parse().unwrap());
            inbound.feed(request.as_bytes());
            assert_eq!(inbound.step(&rules()), Step::Probe { bodiless }, "{request}");
        }
        let refused = outcome(&[b"POST /ping HTTP/1.1\r\n\r\n"]).1;
        assert_eq!(refused, Some(Refusal::MethodNotAllowed { route: 1 }));
    }

    #[test]
    fn a_proxy_header_names_the_client_once_for_the_connection() {
        let rules = behind_a_proxy();
        let get = "GET /callback HTTP/1.1\r\n\r\n";
        let text = format!("PROXY TCP4 203.0.113.9 10.0.0.1 7 8\r\n{get}{get}");
        let (requests, refusal) = outcome_with(&rules, &[text.as_bytes()]);
        assert_eq!((requests.len(), refusal), (2, None));
        for request in requests {
            assert!(String::from_utf8_lossy(&request.wire).contains("X-Gate-Peer: 203.0.113.9:7\r\n"));
        }
        let local = [b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".as_slice(), get.as_bytes()].concat();
        let (requests, _) = outcome_with(&rules, &[&local]);
        assert!(String::from_utf8_lossy(&requests[0].wire).contains("X-Gate-Peer: 192.0.2.7:81\r\n"));
        assert_eq!(outcome_with(&rules, &[get.as_bytes()]).1, Some(Refusal::NoProxyHeader));
        let late = format!("{}{get}", text);
        let (requests, refusal) = outcome_with(&rules, &[late.as_bytes(), text.as_bytes()]);
        assert_eq!((requests.len(), refusal), (3, Some(Refusal::BadRequest)), "not before a later request");
        let twice = format!("PROXY UNKNOWN\r\n{text}");
        assert_eq!(outcome_with(&rules, &[twice.as_bytes()]).1, Some(Refusal::ProxyHeader));
        let tls = b"PROXY UNKNOWN\r\n\x16\x03\x01".as_slice();
        assert_eq!(outcome_with(&rules, &[tls]).1, Some(Refusal::Tls));
    }

    #[test]
    fn an_endless_head_and_endless_blank_lines_are_refused() {
        let long = format!("GET /callback HTTP/1.1\r\na: {}", "b".repeat(300));
        assert_eq!(outcome(&[long.as_bytes()]).1, Some(Refusal::HeadTooLarge));
        assert_eq!(outcome(&[&[b'\n'; 300]]).1, Some(Refusal::HeadTooLarge));
        let blanks: Vec<&[u8]> = (0..300).map(|_| &b"\n"[..]).collect();
        assert_eq!(outcome(&blanks).1, Some(Refusal::HeadTooLarge));
    }

    #[test]
    fn an_idle_connection_holds_no_memory() {
        let mut inbound = Inbound::new("192.0.2.7:81".parse().unwrap());
        inbound.feed(b"POST /callback HTTP/1.1\r\nContent-Length: 2\r\n\r\nab");
        assert!(matches!(inbound.step(&rules()), Step::Request(_)));
        assert_eq!((inbound.held(), inbound.begun()), (0, false));
    }

    fn sent() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            Just(&b"GET /callback HTTP/1.1\r\n\r\n"[..]),
            Just(&b"POST /callback?q HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"[..]),
            Just(&b"POST /callback HTTP/1.0\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\n"[..]),
            Just(&b"\r\n"[..]),
            Just(&b"POST /callback HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"[..]),
            Just(&b"POST /callback HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab"[..]),
            Just(&b"3f\r\n"[..]),
            Just(&b"PROXY TCP4 203.0.113.9 10.0.0.1 7 8\r\n"[..]),
            Just(&b"PROXY "[..]),
            Just(&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x01\x02\x03\x04\0\x07\0\x08"[..]),
            Just(&b"\x16\x03\x01"[..]),
            Just(&b"GET /"[..]),
            Just(&b"GET / HTTP/2.0"[..]),
            Just(&b"GET /x HTTP/1.1\r\n\r\n"[..]),
            Just(&b"a: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n"[..]),
            Just(&b"\xff"[..]),
            Just(&b":"[..]),
        ];
        prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_split_does_not_matter(
            bytes in prop_oneof![sent(), prop::collection::vec(any::<u8>(), 0..600)],
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            // A tail that brings every beginning to a decision: a cut may delay a refusal to the
            // next look at the buffer, and must not change it.
            let mut bytes = bytes;
            bytes.extend_from_slice(b"\n\n");
            bytes.extend_from_slice(&[b'x'; 400]);
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            at.sort_unstable();
            at.push(bytes.len());
            let mut from = 0;
            let mut pieces = Vec::new();
            for to in at {
                pieces.push(&bytes[from..to]);
                from = to;
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            for rules in [rules(), behind_a_proxy()] {
                let whole = outcome_with(&rules, &[&bytes]);
                prop_assert!(whole.1.is_some());
                prop_assert_eq!(&outcome_with(&rules, &pieces), &whole);
                prop_assert_eq!(&outcome_with(&rules, &single), &whole);
            }
        }
    }
}
