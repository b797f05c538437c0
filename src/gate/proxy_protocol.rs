//! The first bytes of a connection: the PROXY protocol header (versions 1 and 2 of haproxy's specification), and
//! recognition of protocols that the gate does not speak.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::refusal::Refusal;

const V1: &[u8] = b"PROXY ";
/// Longest header of version 1 in bytes, CRLF included.
const V1_MAX: usize = 107;
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of signature, version and command, family, and length.
const V2_FIXED: usize = 16;
/// Longest accepted header of version 2 in bytes. The registered TLVs need a few hundred.
const V2_MAX: usize = 4096;
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n";

/// What a connection sends before its first request.
#[derive(Debug)]
pub(super) struct Preamble {
    /// The client's address, replaced by the one in the PROXY protocol header.
    pub(super) peer: SocketAddr,
    stage: Stage,
}

/// What the next bytes of a connection must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    ProxyHeader,
    /// The first bytes of the client's own protocol.
    Protocol,
    Requests,
}

impl Preamble {
    pub(super) fn new(peer: SocketAddr) -> Self {
        Self { peer, stage: Stage::ProxyHeader }
    }

    /// Removes the PROXY protocol header from the front of `buf` and recognises the protocol. True: requests follow.
    /// False: more bytes are necessary.
    pub(super) fn consume(&mut self, buf: &mut Vec<u8>, has_proxy_header: bool) -> Result<bool, Refusal> {
        if self.stage == Stage::ProxyHeader {
            if has_proxy_header {
                let Some((len, client)) = parse(buf)? else { return Ok(false) };
                buf.drain(..len.min(buf.len()));
                self.peer = client.unwrap_or(self.peer);
            }
            self.stage = Stage::Protocol;
        }
        if self.stage == Stage::Protocol && is_http1(buf)? {
            self.stage = Stage::Requests;
        }
        Ok(self.stage == Stage::Requests)
    }
}

/// Refuses protocols other than HTTP/1 by their first bytes. False: more bytes are necessary to recognise them.
fn is_http1(bytes: &[u8]) -> Result<bool, Refusal> {
    // A TLS record: type 22 (handshake), major version 3.
    for (start, refusal) in [
        (&b"\x16\x03"[..], Refusal::Tls),
        (HTTP2, Refusal::Http2),
        (V1, Refusal::ProxyHeader),
        (V2, Refusal::ProxyHeader),
    ] {
        if bytes.starts_with(start) {
            return Err(refusal);
        }
        if start.starts_with(bytes) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A PROXY protocol header: its length in bytes, and the client's address unless it is LOCAL, UNKNOWN or of a Unix socket.
/// `None`: the header is incomplete. It is refused if it contradicts itself.
type ProxyHeader = Result<Option<(usize, Option<SocketAddr>)>, Refusal>;

const INVALID: ProxyHeader = Err(Refusal::NoProxyHeader);

/// Parses the PROXY protocol header at the beginning of a connection.
fn parse(bytes: &[u8]) -> ProxyHeader {
    if bytes.starts_with(V1) {
        version_1(bytes)
    } else if bytes.starts_with(V2) {
        version_2(bytes)
    } else if V1.starts_with(bytes) || V2.starts_with(bytes) {
        Ok(None)
    } else {
        INVALID
    }
}

fn version_1(bytes: &[u8]) -> ProxyHeader {
    let window = bytes.get(..V1_MAX).unwrap_or(bytes);
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() < V1_MAX { Ok(None) } else { INVALID };
    };
    let line = window.get(V1.len()..end).and_then(|line| line.strip_suffix(b"\r"));
    let Some(fields) = line.and_then(|line| std::str::from_utf8(line).ok()) else {
        return INVALID;
    };
    let fields: Vec<&str> = fields.split(' ').collect();
    let len = end.saturating_add(1);
    match fields.as_slice() {
        ["UNKNOWN", ..] => Ok(Some((len, None))),
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
            let fields =
                address(source).zip(port(source_port)).zip(address(destination)).zip(port(destination_port));
            fields.map_or(INVALID, |(((ip, port), _), _)| Ok(Some((len, Some(SocketAddr::new(ip, port))))))
        }
        _ => INVALID,
    }
}

fn version_2(bytes: &[u8]) -> ProxyHeader {
    let fixed = bytes.get(V2.len()..V2_FIXED);
    let Some([command, family, high, low]) = fixed.and_then(|fixed| <[u8; 4]>::try_from(fixed).ok()) else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let len = V2_FIXED.saturating_add(length);
    if len > V2_MAX || !matches!(command, 0x20 | 0x21) {
        return INVALID;
    }
    // Bytes of the address block: source and destination, then both ports.
    let (addresses, known) = match family {
        0x11 | 0x12 => (12, true),
        0x21 | 0x22 => (36, true),
        0x31 | 0x32 => (216, false),
        0x00 => (0, false),
        // The family of LOCAL is ignored.
        _ if command == 0x20 => (0, false),
        _ => return INVALID,
    };
    if command == 0x21 && length < addresses {
        return INVALID;
    }
    let Some(rest) = bytes.get(V2_FIXED..len) else { return Ok(None) };
    let client = if command == 0x20 || !known { None } else { source(rest, addresses == 12) };
    Ok(Some((len, client)))
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

    fn complete(bytes: &[u8], client: Option<&str>) -> ProxyHeader {
        Ok(Some((bytes.len(), client.map(|text| text.parse().unwrap()))))
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
            assert_eq!(parse(&header), complete(&header, client), "{header:?}");
            let more = [&header[..], b"GET /"].concat();
            assert_eq!(parse(&more), complete(&header, client), "with a request behind it");
            for cut in 0..header.len() {
                assert_eq!(parse(&header[..cut]), Ok(None), "{cut} bytes of {header:?}");
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
            assert_eq!(parse(&header), INVALID, "{header:?}");
        }
    }

    proptest! {
        #[test]
        fn a_header_is_never_longer_than_what_arrived(
            start in prop_oneof![Just(V1), Just(V2), Just(&b""[..])],
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [start, &bytes[..]].concat();
            if let Ok(Some((len, _))) = parse(&bytes) {
                prop_assert!(len <= bytes.len());
            }
        }
    }
}
