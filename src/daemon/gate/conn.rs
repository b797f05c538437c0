//! What one client has sent: bytes in, requests and refusals out. Pure: no socket, no clock.

use std::net::SocketAddr;

use super::head::{self, Head, Refusal, Routes};
use super::memory::MODEST;

/// The bounds on a request, and what is served.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) routes: Routes,
    pub(super) max_head: usize,
    pub(super) max_body: usize,
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
    /// Answer this and read no further.
    Refuse(Refusal),
}

/// A complete request in the form that the server gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) wire: Vec<u8>,
    pub(super) keep_alive: bool,
    pub(super) answer_bodiless: bool,
}

/// The receiving half of a connection.
#[derive(Debug)]
pub(super) struct Inbound {
    peer: SocketAddr,
    buf: Vec<u8>,
    /// Empty lines dropped before the request line; they count towards the head's size.
    skipped: usize,
    /// How far the end of the head has been looked for.
    scanned: usize,
    /// Parse at this size even without an end in sight, to refuse early what is not HTTP.
    parse_at: usize,
    head: Option<Head>,
}

impl Inbound {
    pub(super) fn new(peer: SocketAddr) -> Inbound {
        Inbound { peer, buf: Vec::new(), skipped: 0, scanned: 0, parse_at: 0, head: None }
    }

    /// How many bytes to read at most: what comes along with a request is held while that is answered.
    pub(super) fn wants(&self) -> usize {
        self.head.as_ref().map_or(MODEST, |head| head.body.saturating_sub(self.buf.len()))
    }

    /// Takes what was read from the client.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let (len, room) = (self.buf.len(), self.buf.capacity().saturating_sub(self.buf.len()));
        if let Some(head) = self.head.as_ref().filter(|_| room < bytes.len()) {
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

    /// Memory held for the unfinished request.
    pub(super) fn held(&self) -> usize {
        let head = self.head.as_ref().map_or(0, |head| head.forward.capacity());
        self.buf.capacity().saturating_add(head)
    }

    /// The next step. After `Request` the rest of the buffer is the beginning of the next one.
    pub(super) fn step(&mut self, rules: &Rules) -> Step {
        if self.head.is_none() {
            match self.parse_head(rules) {
                Ok(Some(head)) => {
                    self.buf.drain(..head.len.min(self.buf.len()));
                    self.head = Some(head);
                }
                Ok(None) => return Step::More,
                Err(refusal) => return Step::Refuse(refusal),
            }
        }
        match self.head.take() {
            Some(head) if self.buf.len() >= head.body => Step::Request(self.finish(head)),
            Some(mut head) => {
                let asked = std::mem::take(&mut head.expects_continue);
                self.head = Some(head);
                if asked { Step::Continue } else { Step::More }
            }
            None => Step::More,
        }
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

    fn finish(&mut self, head: Head) -> Request {
        let mut wire = head.forward;
        if head.body_passes {
            wire.extend_from_slice(self.buf.get(..head.body).unwrap_or_default());
        }
        // Without its capacity: an idle connection holds no memory.
        self.buf = self.buf.get(head.body..).unwrap_or_default().to_vec();
        self.skipped = 0;
        self.scanned = 0;
        self.parse_at = 0;
        Request { wire, keep_alive: head.keep_alive, answer_bodiless: head.answer_bodiless }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules() -> Rules {
        Rules { routes: Routes::new().with("/callback", &["GET", "POST"]), max_head: 256, max_body: 64 }
    }

    /// All requests and the refusal that a client gets for these pieces.
    fn outcome(pieces: &[&[u8]]) -> (Vec<Request>, Option<Refusal>) {
        let rules = rules();
        let mut inbound = Inbound::new("192.0.2.7:81".parse().unwrap());
        let mut requests = Vec::new();
        for piece in pieces {
            inbound.feed(piece);
            loop {
                match inbound.step(&rules) {
                    Step::More => break,
                    Step::Continue => {}
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
        assert_eq!(outcome(&[b"\x16\x03\x01\x02\x00"]).1, Some(Refusal::BadRequest));
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
            let whole = outcome(&[&bytes]);
            prop_assert!(whole.1.is_some());
            prop_assert_eq!(&outcome(&pieces), &whole);
            prop_assert_eq!(&outcome(&single), &whole);
        }
    }
}
