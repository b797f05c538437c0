//! Redaction of secrets in foreign texts: a gateway may echo the URL of a call, and an errmsg may contain anything.
//!
//! Every text from an answer or an error passes [`Redactor::clean`] on its way to the log or the database.

use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::text::{is_bidi, is_separator};

/// The text that replaces a secret.
const REDACTED: &str = "[redacted]";
/// Maximum length of a cleaned text in characters.
const MAX_CHARS: usize = 500;
/// Number of access tokens that are kept; at one in two hours, a week's tokens of both secrets.
const MAX_TOKENS: usize = 200;
/// Secrets of fewer bytes are replaced only as whole words, because they occur within ordinary words.
const MIN_PART_OF_WORD: usize = 4;
/// Parameters of WeCom's API whose values are secret, even unknown values.
const PARAMETERS: [&str; 3] = ["access_token", "corpsecret", "suite_access_token"];
/// Parameters of configured URLs (robot webhook, database) whose values are secret.
const URL_PARAMETERS: [&str; 6] = ["key", "token", "access_token", "secret", "password", "sslpassword"];

/// The secrets of the configuration, and the access tokens so far. Clones share both.
#[derive(Clone, Default)]
pub struct Redactor {
    secrets: Arc<RwLock<Vec<String>>>,
    tokens: Arc<RwLock<Vec<String>>>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redactor")
    }
}

impl Redactor {
    /// A redactor of these secrets; empty ones are ignored.
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let redactor = Self::default();
        redactor.add_secrets(secrets);
        redactor
    }

    /// Adds secrets, for all clones. Those that are replaced in the configuration stay secret.
    pub fn add_secrets(&self, more: impl IntoIterator<Item = String>) {
        let mut secrets = self.secrets.write().unwrap_or_else(PoisonError::into_inner);
        secrets.extend(more.into_iter().filter(|secret| !secret.is_empty()));
        secrets.sort();
        secrets.dedup();
    }

    /// Adds an access token, for all clones. The oldest is dropped beyond a maximum.
    pub fn add_token(&self, token: &str) {
        let mut tokens = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        if token.is_empty() || tokens.iter().any(|known| known == token) {
            return;
        }
        if tokens.len() >= MAX_TOKENS {
            tokens.remove(0);
        }
        tokens.push(token.to_owned());
    }

    /// Replaces secrets in any spelling (literal, percent-encoded once or twice, JSON or HTML escapes) and control
    /// characters, and cuts the text after 500 characters.
    pub fn clean(&self, text: &str) -> String {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let secrets = self.secrets.read().unwrap_or_else(PoisonError::into_inner);
        let secrets: Vec<&str> = secrets.iter().chain(tokens.iter()).map(String::as_str).collect();
        let bytes = text.as_bytes();
        let (mut clean, mut length, mut at) = (String::new(), 0, 0);
        // Redacts before it cuts: a cut secret would not be recognised.
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty() && length < MAX_CHARS) {
            // The longest match, because a secret may contain another.
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
            clean.push(if first.is_control() || is_separator(first) || is_bidi(first) { ' ' } else { first });
            length += 1;
            at += first.len_utf8();
        }
        clean
    }
}

/// The end of `secret` if it begins at `at`, in any mixture of spellings.
fn secret_at(text: &[u8], at: usize, secret: &str) -> Option<usize> {
    let first = *secret.as_bytes().first()?;
    spellings(text.get(at..)?, first).into_iter().flatten().next()?;
    // All possible ends of the bytes so far: a secret's `&` may be written as `&` or as `&amp;`.
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
    (secret.len() >= MIN_PART_OF_WORD || stands_alone).then_some(end)
}

/// Lengths of the prefixes of `text` that spell this byte: literally, and escaped.
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

/// The secret parameter at the start of `text`: its name, and start and end of its value.
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

/// The secrets in a URL: credentials and password, as written, decoded and as HTTP's Basic authentication sends them,
/// and the values of secret parameters.
pub fn secrets_of_url(url: &str) -> Vec<String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (authority, _) = rest.split_once(['/', '?', '#']).unwrap_or((rest, ""));
    // A password with an unencoded `/`, `?` or `#` ends the authority early: then the last `@` ends the credentials.
    let end = authority.rfind('@').filter(|at| at + 1 < authority.len());
    let end = end.or_else(|| rest.rfind('@').filter(|_| authority.contains(':')));
    let (credentials, rest) = rest.split_at(end.unwrap_or_default());
    let pairs = rest.split(['?', '&', '#']).filter_map(|pair| pair.split_once('='));
    let is_secret = |key: &str| URL_PARAMETERS.iter().any(|secret| key.eq_ignore_ascii_case(secret));
    let values = pairs.filter(|(key, _)| is_secret(key)).map(|(_, value)| value.to_owned());
    let mut secrets: Vec<String> = values.collect();
    if !credentials.is_empty() {
        let decoded = super::query::url_decode(credentials).unwrap_or_else(|| credentials.to_owned());
        secrets.push(BASE64_STANDARD.encode(&decoded));
        for credentials in [credentials, &decoded] {
            secrets.extend(credentials.split_once(':').map(|(_, password)| password.to_owned()));
            secrets.push(credentials.to_owned());
        }
    }
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
    fn a_short_secret_is_redacted_only_as_a_word() {
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
    fn texts_are_cut_and_without_control_characters_and_no_secret_is_cut_in_half() {
        assert_eq!(redactor().clean("a\x1b[31mb\r\nc\u{9b}\u{202e}d"), "a [31mb  c  d");
        for before in 480..510 {
            let clean = redactor().clean(&format!("{}{SECRET}", "x".repeat(before)));
            assert!(clean.chars().count() <= 500 + REDACTED.len() && !clean.contains("s3"), "{clean}");
        }
    }

    #[test]
    fn the_password_in_any_url_is_redacted() {
        for url in [
            "https://me:hu%2Fsh@host:8443/x",
            "socks5://me:hush@[::1]:1080",
            "me:hush@proxy:3128",
            "https://hush@host",
            "http://me:hu@/?#sh@host/x",
            "postgres://me@h/db?sslmode=require&password=hush#x",
            "https://host/send?KEY=hush&debug=1",
        ] {
            let clean = Redactor::new(secrets_of_url(url)).clean(&format!("GET {url} failed"));
            assert!(clean.contains(REDACTED) && !clean.contains("hu"), "{clean}");
        }
        for url in ["https://host:443/cgi?mail=a", "https://qyapi.weixin.qq.com", ""] {
            assert_eq!(secrets_of_url(url), Vec::<String>::new());
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
