//! Why the gate answers a request itself, and how. Pure.

/// Why the gate itself answers a request instead of passing it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The head is not HTTP/1.
    BadRequest,
    /// Content-Length and Transfer-Encoding contradict each other or themselves.
    Framing,
    /// A chunked body that cannot be decoded.
    Chunk,
    /// A TLS handshake.
    Tls,
    /// HTTP/2 without an upgrade.
    Http2,
    /// A PROXY protocol header that was not expected.
    ProxyHeader,
    /// No PROXY protocol header where one is required, or one that cannot be read.
    NoProxyHeader,
    /// No route has this path.
    NotFound,
    /// The route does not take this method.
    MethodNotAllowed {
        /// Which of the routes, for the `Allow` header.
        route: usize,
    },
    /// The request was not complete in time.
    Timeout,
    /// A body with neither `Content-Length` nor chunks.
    LengthRequired,
    /// A transfer coding other than `chunked`.
    TransferCoding,
    /// The body is longer than the limit.
    TooLarge,
    /// An `Expect` that is not `100-continue`.
    ExpectationFailed,
    /// The head is longer than the limit.
    HeadTooLarge,
    /// The client closed the connection before its request was complete. Nobody reads the answer.
    HungUp,
    /// The server behind the gate broke its connection or its framing.
    BadGateway,
    /// No answer from the server in time.
    Deadline,
    /// Requests that wait hold too much memory.
    Memory,
    /// No connection to the server is left.
    NoBackend,
}

impl Refusal {
    /// All refusals.
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
        Self::HungUp,
        Self::BadGateway,
        Self::Deadline,
        Self::Memory,
        Self::NoBackend,
    ];

    /// The status code and reason of the answer.
    #[must_use]
    pub fn status(self) -> (u16, &'static str) {
        match self {
            Self::BadRequest
            | Self::Framing
            | Self::Chunk
            | Self::Tls
            | Self::Http2
            | Self::ProxyHeader
            | Self::NoProxyHeader => (400, "Bad Request"),
            Self::NotFound => (404, "Not Found"),
            Self::MethodNotAllowed { .. } => (405, "Method Not Allowed"),
            Self::Timeout => (408, "Request Timeout"),
            Self::LengthRequired | Self::TransferCoding => (411, "Length Required"),
            Self::TooLarge => (413, "Content Too Large"),
            Self::ExpectationFailed => (417, "Expectation Failed"),
            Self::HeadTooLarge => (431, "Request Header Fields Too Large"),
            Self::HungUp => (499, "Client Closed Request"),
            Self::BadGateway => (502, "Bad Gateway"),
            Self::Deadline | Self::Memory | Self::NoBackend => (503, "Service Unavailable"),
        }
    }

    /// The stable name for the log and the table of refusals.
    #[must_use]
    pub fn cause(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Framing => "framing",
            Self::Chunk => "chunk",
            Self::Tls => "tls",
            Self::Http2 => "http2",
            Self::ProxyHeader => "proxy_header",
            Self::NoProxyHeader => "no_proxy_header",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed { .. } => "method",
            Self::Timeout => "timeout",
            Self::LengthRequired => "no_length",
            Self::TransferCoding => "transfer_coding",
            Self::TooLarge => "too_large",
            Self::ExpectationFailed => "expectation",
            Self::HeadTooLarge => "head_too_large",
            Self::HungUp => "hung_up",
            Self::BadGateway => "bad_gateway",
            Self::Deadline => "deadline",
            Self::Memory => "memory",
            Self::NoBackend => "no_backend",
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::BadRequest => "the head is not HTTP/1",
            Self::Framing => "Content-Length and Transfer-Encoding contradict",
            Self::Chunk => "the chunked body cannot be decoded",
            Self::Tls => "a TLS handshake on the plain port",
            Self::Http2 => "HTTP/2 without an upgrade",
            Self::ProxyHeader => "an unexpected PROXY protocol header",
            Self::NoProxyHeader => "no PROXY protocol header, or an unreadable one",
            Self::NotFound => "no callback has this path",
            Self::MethodNotAllowed { .. } => "the path does not take this method",
            Self::Timeout => "the request was not complete in time",
            Self::LengthRequired => "neither Content-Length nor a chunked body",
            Self::TransferCoding => "a transfer coding other than chunked",
            Self::TooLarge => "the body is longer than max_body",
            Self::ExpectationFailed => "an Expect other than 100-continue",
            Self::HeadTooLarge => "the request head is too long",
            Self::HungUp => "the client closed the connection before its request was complete",
            Self::BadGateway => "a request was lost inside this program",
            Self::Deadline => "the event was not durable in time",
            Self::Memory => "waiting requests hold too much memory",
            Self::NoBackend => "the part that answers callbacks has ended",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_listed_with_a_cause_of_its_own() {
        let causes: std::collections::BTreeSet<_> = Refusal::ALL.into_iter().map(Refusal::cause).collect();
        assert_eq!(causes.len(), Refusal::ALL.len());
        assert!(Refusal::ALL.into_iter().all(|refusal| (400..=503).contains(&refusal.status().0)));
    }
}
