//! Keeps secrets out of texts that others wrote: a gateway may echo the URL of a call, an errmsg anything.
//!
//! The only function of the program for this; whatever goes from an answer or an error to the log, to an error or to
//! the database has been through [`Redactor::clean`].

use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// What stands for a secret.
const REDACTED: &str = "[redacted]";
/// Longest text that is kept, in characters.
const MAX_CHARS: usize = 500;
/// Former access tokens that are remembered; at one in two hours, a week of both secrets.
const TOKENS: usize = 200;
/// A shorter secret is replaced only where it stands as a word by itself: it would else turn up in ordinary words.
const SHORT: usize = 4;
/// Parameters of WeCom's URLs whose values are secret, known or not.
const PARAMETERS: [&str; 3] = ["access_token", "corpsecret", "suite_access_token"];

/// All secrets of the configuration and all access tokens so far. Clones share the tokens.
#[derive(Clone, Default)]
pub struct Redactor {
    secrets: Arc<Vec<String>>,
    tokens: Arc<RwLock<Vec<String>>>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redactor")
    }
}

impl Redactor {
    /// Redacts these, and what [`Redactor::add_token`] adds.
    #[must_use]
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let mut secrets: Vec<String> = secrets.into_iter().filter(|secret| !secret.is_empty()).collect();
        secrets.sort();
        secrets.dedup();
        Self { secrets: Arc::new(secrets), tokens: Arc::default() }
    }

    /// A redactor with more secrets and the same tokens.
    #[must_use]
    pub fn with(self, more: impl IntoIterator<Item = String>) -> Self {
        let mut secrets: Vec<String> =
            self.secrets.iter().cloned().chain(more).filter(|s| !s.is_empty()).collect();
        secrets.sort();
        secrets.dedup();
        Self { secrets: Arc::new(secrets), ..self }
    }

    /// Redacts an access token, too, from now on.
    pub fn add_token(&self, token: &str) {
        let mut tokens = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        if token.is_empty() || tokens.iter().any(|known| known == token) {
            return;
        }
        if tokens.len() >= TOKENS {
            tokens.remove(0);
        }
        tokens.push(token.to_owned());
    }

    /// The text without secrets in any spelling (literal, percent-encoded once or twice, JSON or HTML escapes), without
    /// control characters, and at most 500 characters long.
    #[must_use]
    pub fn clean(&self, text: &str) -> String {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let secrets: Vec<&str> = self.secrets.iter().chain(tokens.iter()).map(String::as_str).collect();
        let bytes = text.as_bytes();
        let (mut clean, mut length, mut at) = (String::new(), 0, 0);
        // Redacts before it shortens: a cut secret would not be recognised.
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty() && length < MAX_CHARS) {
            // A secret may contain another: the longest match counts.
            let found = secrets.iter().filter_map(|secret| secret_at(bytes, at, secret)).max();
            if let Some(end) = found {
                clean.push_str(REDACTED);
                length += REDACTED.len();
                at = end;
                continue;
            }
            if let Some((name, value, end)) = parameter(rest) {
                clean.push_str(rest.get(..value).unwrap_or(name));
                clean.push_str(REDACTED);
                length += value + REDACTED.len();
                at += end;
                continue;
            }
            let Some(first) = rest.chars().next() else { break };
            clean.push(if is_control(first) { ' ' } else { first });
            length += 1;
            at += first.len_utf8();
        }
        clean
    }
}

/// What no stored text has: C0, C1, line and paragraph separators, and what reverses the direction of writing.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Where `secret` ends if it stands at `at`, in any mixture of spellings.
fn secret_at(text: &[u8], at: usize, secret: &str) -> Option<usize> {
    let first = *secret.as_bytes().first()?;
    spellings(text.get(at..)?, first).into_iter().flatten().next()?;
    // All places where the bytes so far may end: `&` of a secret may stand as `&` or be the beginning of `&amp;`.
    let mut ends = vec![at];
    for byte in secret.bytes() {
        let next = ends.iter().flat_map(|end| {
            let text = text.get(*end..).unwrap_or_default();
            spellings(text, byte).into_iter().flatten().map(move |length| end + length)
        });
        let mut next: Vec<usize> = next.collect();
        next.dedup();
        ends = next;
        if ends.is_empty() {
            return None;
        }
    }
    let end = ends.into_iter().max()?;
    let is_word = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let before = at.checked_sub(1).and_then(|before| text.get(before));
    let stands_alone = !is_word(before) && !is_word(text.get(end));
    (secret.len() >= SHORT || stands_alone).then_some(end)
}

/// How many bytes at the beginning of `text` may spell this byte: as itself, and escaped.
fn spellings(text: &[u8], byte: u8) -> [Option<usize>; 2] {
    let hex = |digits: Option<&[u8]>| -> Option<u8> {
        let digits = std::str::from_utf8(digits?).ok()?;
        u8::from_str_radix(digits, 16).ok()
    };
    let escaped = match text {
        [b'%', b'2', b'5', rest @ ..] if hex(rest.get(..2)) == Some(byte) => Some(5),
        [b'%', rest @ ..] if hex(rest.get(..2)) == Some(byte) => Some(3),
        [b'\\', b'u', b'0', b'0', rest @ ..] if hex(rest.get(..2)) == Some(byte) => Some(6),
        [b'\\', escaped, ..] if *escaped == byte => Some(2),
        [b'&', ..] => {
            let entities: [(&[u8], u8); 6] = [
                (b"&amp;", b'&'),
                (b"&lt;", b'<'),
                (b"&gt;", b'>'),
                (b"&quot;", b'"'),
                (b"&#39;", b'\''),
                (b"&#43;", b'+'),
            ];
            let found = entities.iter().find(|(entity, of)| *of == byte && text.starts_with(entity));
            found.map(|(entity, _)| entity.len())
        }
        _ => None,
    };
    [(text.first() == Some(&byte)).then_some(1), escaped]
}

/// A secret parameter that `text` begins with: its name, where its value begins, and where it ends.
fn parameter(text: &str) -> Option<(&'static str, usize, usize)> {
    let name = PARAMETERS.into_iter().find(|name| text.starts_with(name))?;
    let after = text.get(name.len()..)?;
    let separators = ["=", "%3D", "%3d", "%253D", "%253d", "\":\"", "\": \"", "\\\":\\\""];
    let separator = separators.into_iter().find(|separator| after.starts_with(separator))?;
    let value = name.len() + separator.len();
    let rest = text.get(value..)?;
    let ends = |c: char| c.is_whitespace() || c.is_control() || "&\"'<>,;}\\)]".contains(c);
    let length = rest.find(ends).unwrap_or(rest.len());
    let length = rest.find("%26").map_or(length, |encoded| encoded.min(length));
    (length > 0).then_some((name, value, value + length))
}

/// The parts of a URL that are secret: password, credentials as HTTP sends them, values of `key` and `token`.
#[must_use]
pub fn secrets_of_url(url: &str) -> Vec<String> {
    let mut secrets = Vec::new();
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (authority, _) = rest.split_once(['/', '?', '#']).unwrap_or((rest, ""));
    if let Some((credentials, _)) = authority.rsplit_once('@') {
        let decoded = super::query::url_decode(credentials).unwrap_or_else(|| credentials.to_owned());
        secrets.push(BASE64_STANDARD.encode(&decoded));
        for credentials in [credentials, &decoded] {
            secrets.extend(credentials.split_once(':').map(|(_, password)| password.to_owned()));
            secrets.push(credentials.to_owned());
        }
    }
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let values = query.split('&').filter_map(|pair| pair.split_once('='));
    secrets.extend(
        values.filter(|(key, _)| matches!(*key, "key" | "token" | "access_token")).map(|(_, v)| v.to_owned()),
    );
    secrets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wecom::query::url_encode;
    use proptest::prelude::*;

    const SECRET: &str = "s3cr+t/Value_=\"x&y";

    fn redactor() -> Redactor {
        Redactor::new([SECRET.to_owned(), "ab".to_owned(), String::new()])
    }

    #[test]
    fn every_spelling_of_a_secret_is_redacted() {
        let json = serde_json::to_string(SECRET).unwrap();
        let lower = url_encode(SECRET).to_lowercase().replace("value", "Value");
        let all: String = SECRET.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let html = SECRET.replace('&', "&amp;").replace('"', "&quot;");
        let slashes = json.trim_matches('"').replace('/', "\\/");
        let unicode: String = SECRET.bytes().map(|byte| format!("\\u{byte:04x}")).collect();
        for spelling in [
            SECRET.to_owned(),
            url_encode(SECRET),
            lower,
            all,
            json.trim_matches('"').to_owned(),
            slashes,
            html,
            unicode,
            url_encode(&url_encode(SECRET)),
        ] {
            assert_eq!(redactor().clean(&format!("a {spelling} b")), "a [redacted] b", "{spelling}");
        }
    }

    #[test]
    fn a_short_secret_is_redacted_as_a_word_only() {
        assert_eq!(redactor().clean("ab: about ab, xab"), "[redacted]: about [redacted], xab");
    }

    #[test]
    fn tokens_old_and_unknown_are_redacted() {
        let redactor = redactor();
        for n in 0..3 {
            redactor.add_token(&format!("token-{n}"));
        }
        assert_eq!(redactor.clean("token-0 token-2"), "[redacted] [redacted]");
        assert_eq!(
            redactor.clean("GET /cgi-bin/user/get?access_token=Unknown-1&userid=a HTTP"),
            "GET /cgi-bin/user/get?access_token=[redacted]&userid=a HTTP"
        );
        assert_eq!(redactor.clean("corpsecret%3DUnknown%26x"), "corpsecret%3D[redacted]%26x");
        assert_eq!(redactor.clean(r#"{"access_token":"U","b":1}"#), r#"{"access_token":"[redacted]","b":1}"#);
    }

    #[test]
    fn texts_are_short_and_without_control_characters_and_a_cut_shows_no_half_secret() {
        assert_eq!(redactor().clean("a\x1b[31mb\r\nc\u{9b}\u{202e}d"), "a [31mb  c  d");
        for before in 480..510 {
            let clean = redactor().clean(&format!("{}{SECRET}", "x".repeat(before)));
            assert!(clean.chars().count() <= 500 + REDACTED.len() && !clean.contains("s3"), "{clean}");
        }
    }

    #[test]
    fn the_secret_parts_of_a_url_are_found() {
        let redactor = Redactor::new(secrets_of_url("http://user:p%40ss:w@proxy.example:3128"));
        let basic = BASE64_STANDARD.encode("user:p@ss:w");
        assert_eq!(redactor.clean(&format!("p@ss:w p%40ss:w {basic}")), "[redacted] [redacted] [redacted]");
        let robot = Redactor::new(secrets_of_url(
            "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=693a91f6-7xxx",
        ));
        assert_eq!(robot.clean("bad key 693a91f6-7xxx"), "bad key [redacted]");
    }

    proptest! {
        #[test]
        fn no_text_shows_the_secret(before in any::<String>(), after in any::<String>()) {
            let clean = redactor().clean(&format!("{before}{SECRET}{after}"));
            prop_assert!(!clean.contains(SECRET));
            prop_assert!(!clean.chars().any(char::is_control));
        }
    }
}
