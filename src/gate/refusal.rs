//! Why the gate answers a request itself, and the observer of those requests.

use std::net::SocketAddr;

use super::request_summary::RequestSummary;

/// Why the gate answers a request instead of forwarding it. `Display` describes each reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Refusal {
    BadRequest,
    Framing,
    Chunk,
    Tls,
    Http2,
    ProxyHeader,
    NoProxyHeader,
    NotFound,
    MethodNotAllowed {
        /// Index of the route, for the `Allow` header.
        route: usize,
    },
    Timeout,
    LengthRequired,
    TransferCoding,
    TooLarge,
    ExpectationFailed,
    HeadTooLarge,
    ClientClosed,
    BadGateway,
    Deadline,
    Memory,
    NoUpstream,
}

impl Refusal {
    /// Every refusal once; the route of `MethodNotAllowed` is 0.
    pub const ALL: [Self; 20] = [
        Self::BadRequest,
        Self::Framing,
        Self::Chunk,
        Self::Tls,
        Self::Http2,
        Self::ProxyHeader,
        Self::NoProxyHeader,
        Self::NotFound,
        Self::MethodNotAllowed { route: 0 },
        Self::Timeout,
        Self::LengthRequired,
        Self::TransferCoding,
        Self::TooLarge,
        Self::ExpectationFailed,
        Self::HeadTooLarge,
        Self::ClientClosed,
        Self::BadGateway,
        Self::Deadline,
        Self::Memory,
        Self::NoUpstream,
    ];

    /// Status code, stable cause, and description of the refusal.
    fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::BadRequest => (400, "bad_request", "the head is not HTTP/1"),
            Self::Framing => (400, "framing", "Content-Length and Transfer-Encoding contradict"),
            Self::Chunk => (400, "chunk", "the chunked body cannot be decoded"),
            Self::Tls => (400, "tls", "a TLS handshake on the plain port"),
            Self::Http2 => (400, "http2", "HTTP/2 without an upgrade"),
            Self::ProxyHeader => (400, "proxy_header", "an unexpected PROXY protocol header"),
            Self::NoProxyHeader => (400, "no_proxy_header", "no PROXY protocol header, or an unreadable one"),
            Self::NotFound => (404, "not_found", "no callback has this path"),
            Self::MethodNotAllowed { .. } => (405, "method", "the path does not take this method"),
            Self::Timeout => (408, "timeout", "the request was not complete in time"),
            Self::LengthRequired => (411, "no_length", "neither Content-Length nor a chunked body"),
            Self::TransferCoding => (411, "transfer_coding", "a transfer coding other than chunked"),
            Self::TooLarge => (413, "too_large", "the body is longer than max_body"),
            Self::ExpectationFailed => (417, "expectation", "an Expect other than 100-continue"),
            Self::HeadTooLarge => (431, "head_too_large", "the request head is too long"),
            Self::ClientClosed => {
                (499, "hung_up", "the client closed the connection before its request was complete")
            }
            Self::BadGateway => (502, "bad_gateway", "a request was lost inside this program"),
            Self::Deadline => (503, "deadline", "the event was not durable in time"),
            Self::Memory => (503, "memory", "waiting requests hold too much memory"),
            Self::NoUpstream => (503, "no_backend", "the part that answers callbacks has ended"),
        }
    }

    /// Status code of the answer. 499 is never sent: the client is gone.
    #[must_use]
    pub fn status(self) -> u16 {
        self.row().0
    }

    /// The stable name in the log and in the table of refusals.
    #[must_use]
    pub fn cause(self) -> &'static str {
        self.row().1
    }

    /// Reason phrase of the status line.
    pub(super) fn reason_phrase(self) -> &'static str {
        match self.status() {
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            411 => "Length Required",
            413 => "Content Too Large",
            417 => "Expectation Failed",
            431 => "Request Header Fields Too Large",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            _ => "Bad Request",
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.row().2)
    }
}

/// A request that the gate answered itself, or whose client closed the connection.
#[derive(Debug)]
pub struct RefusedRequest {
    /// The reason; it determines status and cause.
    pub refusal: Refusal,
    /// The client's address: from the PROXY protocol header if there is one, else of the connection.
    pub peer: SocketAddr,
    /// The received part of the request's head.
    pub request: RequestSummary,
}

/// Receives each refused request. The gate's thread calls it, so it must not block.
pub trait Observer: Send + Sync {
    /// Called once per refused request, before the answer is sent.
    fn refused(&self, refused: &RefusedRequest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_own_cause_and_an_error_status() {
        let causes: std::collections::BTreeSet<_> = Refusal::ALL.into_iter().map(Refusal::cause).collect();
        assert_eq!(causes.len(), Refusal::ALL.len());
        assert!(Refusal::ALL.into_iter().all(|refusal| (400..=503).contains(&refusal.status())));
    }
}
