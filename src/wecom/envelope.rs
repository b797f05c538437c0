//! What stands around a callback: the query of its URL, and the XML that holds Encrypt (doc 90930).

use super::xml;

/// The signature parameters of a request's query.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// msg_signature
    pub signature: &'a str,
    /// timestamp
    pub timestamp: &'a str,
    /// nonce
    pub nonce: &'a str,
}

/// The parameters of a callback's query, URL-decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    signature: Option<String>,
    timestamp: Option<String>,
    nonce: Option<String>,
    /// The encrypted text that a GET is to answer.
    pub echostr: Option<String>,
}

impl Query {
    /// Reads the part of a URL after `?`. Parameters of other names are passed over; of a repeated one
    /// the first counts. `None` if something is not rightly URL-encoded UTF-8.
    #[must_use]
    pub fn parse(query: &str) -> Option<Self> {
        let mut parsed = Self::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let place = match name {
                "msg_signature" => &mut parsed.signature,
                "timestamp" => &mut parsed.timestamp,
                "nonce" => &mut parsed.nonce,
                "echostr" => &mut parsed.echostr,
                _ => continue,
            };
            let value = url_decode(value)?;
            place.get_or_insert(value);
        }
        Some(parsed)
    }

    /// The three signature parameters, if all are there and not empty.
    #[must_use]
    pub fn signed(&self) -> Option<Signed<'_>> {
        fn given(value: Option<&String>) -> Option<&str> {
            value.map(String::as_str).filter(|text| !text.is_empty())
        }
        Some(Signed {
            signature: given(self.signature.as_ref())?,
            timestamp: given(self.timestamp.as_ref())?,
            nonce: given(self.nonce.as_ref())?,
        })
    }
}

/// Percent-decoding. A `+` stays a plus: echostr is base64, and some proxies undo `%2B` on the way.
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

/// Percent-encodes everything but letters, digits and `-_.~`, as WeCom does.
#[must_use]
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

/// The text of Encrypt in a POST's body; `None` if there is no such element or it is empty.
#[must_use]
pub fn encrypted_part(body: &[u8]) -> Option<String> {
    let root = xml::parse(body).ok()?;
    let encrypted = root.get("Encrypt")?.trim();
    (!encrypted.is_empty()).then(|| encrypted.to_owned())
}

/// The body of a POST, as WeCom sends it.
#[must_use]
pub fn callback(to_user_name: &str, encrypted: &str, agent_id: &str) -> String {
    let to = xml::escape(to_user_name);
    let agent = xml::escape(agent_id);
    format!(
        "<xml><ToUserName>{to}</ToUserName><Encrypt><![CDATA[{encrypted}]]></Encrypt><AgentID>{agent}</AgentID></xml>"
    )
}

/// The XML of an encrypted reply (doc 90968, EncryptMsg).
#[must_use]
pub fn reply(encrypted: &str, signature: &str, timestamp: &str, nonce: &str) -> String {
    let nonce = xml::escape(nonce);
    let timestamp = xml::escape(timestamp);
    format!(
        "<xml><Encrypt><![CDATA[{encrypted}]]></Encrypt><MsgSignature><![CDATA[{signature}]]></MsgSignature>\
         <TimeStamp>{timestamp}</TimeStamp><Nonce>{nonce}</Nonce></xml>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_plus_in_echostr_stays_a_plus() {
        let raw = Query::parse("msg_signature=a&timestamp=1&nonce=2&echostr=x+y/z==").unwrap();
        let encoded = Query::parse("msg_signature=a&timestamp=1&nonce=2&echostr=x%2By%2fz%3D%3D").unwrap();
        assert_eq!(raw.echostr.as_deref(), Some("x+y/z=="));
        assert_eq!(raw, encoded);
    }

    #[test]
    fn all_three_signature_parameters_must_be_there() {
        assert!(Query::parse("msg_signature=a&timestamp=1&nonce=2").unwrap().signed().is_some());
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
    }

    #[test]
    fn url_encoding_reads_back() {
        let text = "P9nAz+/== 张";
        assert_eq!(url_decode(&url_encode(text)).as_deref(), Some(text));
    }
}
