//! The query of a callback's URL, as proxies deliver it (doc 90930).
//!
//! WeCom percent-encodes each value once. Proxies and gateways decode it, encode it again, or read a `+` as a space.
//! [`Query::readings`] lists the values that WeCom may have sent; the signature decides.

/// The signature parameters of a request's query.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// msg_signature: SHA-1 in lower-case hex.
    pub signature: &'a str,
    /// Only covered by the signature; its age is not checked.
    pub timestamp: &'a str,
    /// Only covered by the signature; repetition is not checked.
    pub nonce: &'a str,
}

/// The parameters of a callback's query. Missing parameters are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    signature: String,
    timestamp: String,
    nonce: String,
    echostr: String,
}

/// Maximum number of decodings of a value: one for WeCom's encoding, one for a proxy's.
const LAYERS: usize = 2;

impl Query {
    /// Parses the part of a URL after `?`, percent-decoding each value once. Uses the first of repeated parameters and
    /// ignores unknown ones. If the separators are percent-encoded, decodes the whole query first; `&amp;` counts as
    /// `&`. `None` if a value is not percent-encoded UTF-8.
    pub fn parse(query: &str) -> Option<Self> {
        if !query.contains('=') && query.contains('%') {
            return Self::parse_pairs(&url_decode(query)?);
        }
        Self::parse_pairs(query)
    }

    fn parse_pairs(query: &str) -> Option<Self> {
        let mut parsed = Self::default();
        for pair in query.split('&') {
            let pair = pair.strip_prefix("amp;").unwrap_or(pair);
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let place = match name {
                "msg_signature" => &mut parsed.signature,
                "timestamp" => &mut parsed.timestamp,
                "nonce" => &mut parsed.nonce,
                "echostr" => &mut parsed.echostr,
                _ => continue,
            };
            if place.is_empty() {
                *place = url_decode(value)?;
            }
        }
        Some(parsed)
    }

    /// The values that WeCom may have sent, most likely first, at most four: as decoded, and decoded once more; each
    /// also with `+` for its spaces, which no value of WeCom contains.
    pub fn readings(self) -> Vec<Self> {
        let mut readings: Vec<Self> = Vec::with_capacity(2 * LAYERS);
        let mut layer = Some(self);
        for _ in 0..LAYERS {
            let Some(query) = layer else { break };
            layer = query.has(b'%').then(|| query.map(url_decode)).flatten();
            let plus = query.has(b' ').then(|| query.map(|text| Some(text.replace(' ', "+")))).flatten();
            readings.extend(std::iter::once(query).chain(plus));
        }
        readings
    }

    /// The signature parameters; `None` if one of the three is missing.
    pub fn signed(&self) -> Option<Signed<'_>> {
        let signed = Signed { signature: &self.signature, timestamp: &self.timestamp, nonce: &self.nonce };
        let all = [signed.signature, signed.timestamp, signed.nonce];
        all.iter().all(|text| !text.is_empty()).then_some(signed)
    }

    /// The encrypted text of a GET; `None` if it is missing.
    pub fn echostr(&self) -> Option<&str> {
        (!self.echostr.is_empty()).then_some(&self.echostr)
    }

    fn has(&self, byte: u8) -> bool {
        self.values().iter().any(|value| value.as_bytes().contains(&byte))
    }

    fn values(&self) -> [&String; 4] {
        [&self.signature, &self.timestamp, &self.nonce, &self.echostr]
    }

    fn map(&self, change: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let [signature, timestamp, nonce, echostr] = self.values().map(|value| change(value));
        Some(Self { signature: signature?, timestamp: timestamp?, nonce: nonce?, echostr: echostr? })
    }
}

/// Percent-decodes once. A `+` stays: echostr is base64, and some proxies decode `%2B`.
pub(crate) fn url_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = if byte == b'%' {
            let digit = |b: Option<u8>| char::from(b?).to_digit(16);
            let (high, low) = (digit(rest.next())?, digit(rest.next())?);
            u8::try_from(high * 16 + low).ok()?
        } else {
            byte
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok()
}

/// Percent-encodes all bytes except letters, digits and `-_.~`, as WeCom does.
pub fn url_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNED: &str = "msg_signature=a&timestamp=1&nonce=2";

    fn echostrs(echostr: &str) -> Vec<String> {
        let query = Query::parse(&format!("{SIGNED}&echostr={echostr}")).unwrap();
        query.readings().iter().map(|reading| reading.echostr().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_plus_survives_every_change_by_a_proxy() {
        assert_eq!(echostrs("x%2By%2fz%3D%3D"), ["x+y/z=="]);
        assert_eq!(echostrs("x+y/z=="), ["x+y/z=="]);
        for changed in ["x%20y/z==", "x y/z==", "x%252By%252Fz%253D%253D", "x%2520y%2Fz%3D=", "x%252By%2Fz=="]
        {
            assert!(echostrs(changed).contains(&"x+y/z==".to_owned()), "{changed}: {:?}", echostrs(changed));
        }
    }

    #[test]
    fn all_values_are_read_alike_in_at_most_four_readings() {
        let query = Query::parse("msg_signature=a&timestamp=1%2520&nonce=%20n%2520&echostr=%2520%20+%2541");
        let readings = query.unwrap().readings();
        assert_eq!(readings.len(), 4);
        assert!(readings.iter().any(|reading| reading.nonce == "+n+" && reading.timestamp == "1+"));
    }

    #[test]
    fn encoded_and_escaped_separators_separate() {
        let plain = Query::parse(SIGNED).unwrap();
        assert_eq!(Query::parse("msg_signature%3Da%26timestamp%3D1%26nonce%3D2").unwrap(), plain);
        assert_eq!(Query::parse("msg_signature=a&amp;timestamp=1&amp;nonce=2").unwrap(), plain);
    }

    #[test]
    fn all_three_signature_parameters_are_required() {
        assert!(Query::parse(SIGNED).unwrap().signed().is_some());
        for missing in [
            "timestamp=1&nonce=2",
            "msg_signature=a&nonce=2",
            "msg_signature=a&timestamp=1",
            "msg_signature=&timestamp=1&nonce=2",
            "",
        ] {
            assert!(Query::parse(missing).unwrap().signed().is_none(), "{missing}");
        }
    }

    #[test]
    fn broken_url_encoding_is_refused() {
        for bad in ["nonce=%", "nonce=%4", "nonce=%zz", "nonce=%ff"] {
            assert_eq!(Query::parse(bad), None, "{bad}");
        }
        assert!(Query::parse("other=%zz").is_some());
        let once = Query::parse("nonce=%25zz").unwrap();
        assert_eq!(once.readings().len(), 1, "a value that cannot be decoded again is not");
    }

    #[test]
    fn url_encoding_reads_back() {
        let text = "P9nAz+/== 张";
        assert_eq!(url_decode(&url_encode(text)).as_deref(), Some(text));
    }
}
