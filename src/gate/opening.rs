//! The first bytes of a connection: a PROXY protocol header (versions 1 and 2 of haproxy's specification),
//! and what speaks another protocol than HTTP/1. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const V1: &[u8] = b"PROXY ";
/// The longest header of version 1, CRLF included.
const V1_MAX: usize = 107;
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_FIXED: usize = 16;
/// The longest header of version 2 that is accepted, TLVs included; the known ones take a few hundred bytes.
const V2_MAX: usize = 4096;
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n";

/// What a connection begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// Too few bytes to tell.
    Undecided,
    /// A TLS handshake.
    Tls,
    /// HTTP/2 without an upgrade.
    Http2,
    /// A PROXY protocol header.
    Proxy,
    /// None of these.
    Other,
}

/// Recognises the protocol.
pub(super) fn recognise(bytes: &[u8]) -> Opening {
    // A TLS record: type 22 (handshake), major version 3.
    for (start, opening) in [
        (&b"\x16\x03"[..], Opening::Tls),
        (HTTP2, Opening::Http2),
        (V1, Opening::Proxy),
        (V2, Opening::Proxy),
    ] {
        if bytes.starts_with(start) {
            return opening;
        }
        if start.starts_with(bytes) {
            return Opening::Undecided;
        }
    }
    Opening::Other
}

/// A PROXY protocol header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proxy {
    /// Too few bytes to tell.
    Partial,
    /// A header of `len` bytes; `client` is none if it names none (LOCAL, UNKNOWN, a Unix socket).
    Whole { len: usize, client: Option<SocketAddr> },
    /// Something else, or a header that contradicts itself.
    Bad,
}

/// Reads a PROXY protocol header from the beginning of a connection.
pub(super) fn proxy(bytes: &[u8]) -> Proxy {
    if bytes.starts_with(V1) {
        version_1(bytes)
    } else if bytes.starts_with(V2) {
        version_2(bytes)
    } else if V1.starts_with(bytes) || V2.starts_with(bytes) {
        Proxy::Partial
    } else {
        Proxy::Bad
    }
}

fn version_1(bytes: &[u8]) -> Proxy {
    let window = bytes.get(..V1_MAX).unwrap_or(bytes);
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() < V1_MAX { Proxy::Partial } else { Proxy::Bad };
    };
    let line = window.get(V1.len()..end).and_then(|line| line.strip_suffix(b"\r"));
    let Some(fields) = line.and_then(|line| std::str::from_utf8(line).ok()) else { return Proxy::Bad };
    let fields: Vec<&str> = fields.split(' ').collect();
    let len = end.saturating_add(1);
    match fields.as_slice() {
        ["UNKNOWN", ..] => Proxy::Whole { len, client: None },
        [family @ ("TCP4" | "TCP6"), source, destination, source_port, destination_port] => {
            let address = |text: &str| -> Option<IpAddr> {
                if *family == "TCP4" {
                    text.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
                } else {
                    text.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
                }
            };
            let port = |text: &str| -> Option<u16> {
                let digits = text.bytes().all(|byte| byte.is_ascii_digit());
                text.parse().ok().filter(|_| digits)
            };
            let whole =
                address(source).zip(port(source_port)).zip(address(destination)).zip(port(destination_port));
            whole.map_or(Proxy::Bad, |(((ip, port), _), _)| Proxy::Whole {
                len,
                client: Some(SocketAddr::new(ip, port)),
            })
        }
        _ => Proxy::Bad,
    }
}

fn version_2(bytes: &[u8]) -> Proxy {
    let fixed = bytes.get(V2.len()..V2_FIXED);
    let Some([command, family, high, low]) = fixed.and_then(|fixed| <[u8; 4]>::try_from(fixed).ok()) else {
        return Proxy::Partial;
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let len = V2_FIXED.saturating_add(length);
    if len > V2_MAX || !matches!(command, 0x20 | 0x21) {
        return Proxy::Bad;
    }
    // Address blocks: source and destination, then both ports.
    let (addresses, known) = match family {
        0x11 | 0x12 => (12, true),
        0x21 | 0x22 => (36, true),
        0x31 | 0x32 => (216, false),
        0x00 => (0, false),
        // LOCAL may name any family, which is ignored.
        _ if command == 0x20 => (0, false),
        _ => return Proxy::Bad,
    };
    if command == 0x21 && length < addresses {
        return Proxy::Bad;
    }
    let Some(rest) = bytes.get(V2_FIXED..len) else { return Proxy::Partial };
    let client = if command == 0x20 || !known { None } else { source(rest, addresses == 12) };
    Proxy::Whole { len, client }
}

fn source(block: &[u8], v4: bool) -> Option<SocketAddr> {
    let (ip, port_at) = if v4 {
        (IpAddr::from(<[u8; 4]>::try_from(block.get(..4)?).ok()?), 8)
    } else {
        (IpAddr::from(<[u8; 16]>::try_from(block.get(..16)?).ok()?), 32)
    };
    let port = <[u8; 2]>::try_from(block.get(port_at..port_at + 2)?).ok()?;
    Some(SocketAddr::new(ip, u16::from_be_bytes(port)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [V2, &[command, family], &length, block].concat()
    }

    const V4: [u8; 12] = [203, 0, 113, 9, 10, 0, 0, 1, 0x30, 0x39, 0, 80];

    fn whole(bytes: &[u8], client: Option<&str>) -> Proxy {
        Proxy::Whole { len: bytes.len(), client: client.map(|text| text.parse().unwrap()) }
    }

    #[test]
    fn headers_name_the_client() {
        let v6: Vec<u8> =
            [&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets()[..], &[0; 16], &[0, 7, 0, 8]].concat();
        let cases: Vec<(Vec<u8>, Option<&str>)> = vec![
            (b"PROXY TCP4 203.0.113.9 10.0.0.1 12345 80\r\n".to_vec(), Some("203.0.113.9:12345")),
            (b"PROXY TCP6 2001:db8::7 ::1 7 8\r\n".to_vec(), Some("[2001:db8::7]:7")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n".to_vec(), None),
            (v2(0x21, 0x11, &V4), Some("203.0.113.9:12345")),
            (v2(0x21, 0x11, &[&V4[..], &[4, 0, 1, 0]].concat()), Some("203.0.113.9:12345")),
            (v2(0x21, 0x21, &v6), Some("[2001:db8::7]:7")),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x20, 0x11, &V4), None),
            (v2(0x21, 0x00, &[]), None),
            (v2(0x21, 0x31, &[0; 216]), None),
        ];
        for (header, client) in cases {
            assert_eq!(proxy(&header), whole(&header, client), "{header:?}");
            let more = [&header[..], b"GET /"].concat();
            assert_eq!(proxy(&more), whole(&header, client), "with a request behind it");
            for cut in 0..header.len() {
                assert_eq!(proxy(&header[..cut]), Proxy::Partial, "{cut} bytes of {header:?}");
            }
        }
    }

    #[test]
    fn headers_that_contradict_themselves_are_bad() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        for header in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1 12345\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1 12345 99999\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 10.0.0.1 +1 80\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::7 ::1 1 2\r\n".to_vec(),
            b"PROXY TCP6 1.2.3.4 ::1 1 2\r\n".to_vec(),
            b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n".to_vec(),
            b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n".to_vec(),
            long.into_bytes(),
            v2(0x11, 0x11, &V4),
            v2(0x22, 0x11, &V4),
            v2(0x21, 0x11, &V4[..11]),
            v2(0x21, 0x41, &V4),
            v2(0x21, 0x11, &[0; V2_MAX]),
        ] {
            assert_eq!(proxy(&header), Proxy::Bad, "{header:?}");
        }
    }

    #[test]
    fn other_protocols_are_recognised_in_pieces_too() {
        for (bytes, opening) in [
            (&b"\x16\x03\x01\x02\x00\x01\x00"[..], Opening::Tls),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Opening::Http2),
            (b"PROXY TCP4", Opening::Proxy),
            (V2, Opening::Proxy),
            (b"POST /", Opening::Other),
            (b"\r\nGET /", Opening::Other),
            (b"\x16\x04", Opening::Other),
        ] {
            assert_eq!(recognise(bytes), opening, "{bytes:?}");
            let first = (0..bytes.len()).map(|n| recognise(&bytes[..n])).find(|o| *o != Opening::Undecided);
            assert!(first.is_none_or(|first| first == opening), "{bytes:?}: {first:?}");
        }
    }

    proptest! {
        #[test]
        fn a_header_is_never_longer_than_what_arrived(
            start in prop_oneof![Just(V1), Just(V2), Just(&b""[..])],
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [start, &bytes[..]].concat();
            if let Proxy::Whole { len, .. } = proxy(&bytes) {
                prop_assert!(len <= bytes.len());
            }
        }
    }
}
