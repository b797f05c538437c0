//! Secrets, and URLs that contain some: what a log, an error or `check` may print of them.

use std::fmt;

/// What replaces a secret part of a URL.
const MASK: &str = "***";

/// A secret text. `Debug` and `Display` print `[redacted]`, so that no log line or error shows it by accident.
#[derive(Clone, Default)]
pub struct Secret(String);

impl Secret {
    /// Takes any text; [`super::credential`] validates those of WeCom.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for cryptography and requests only.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A URL without its password, the values of its query and its fragment: `https://user:***@host/path?key=***`.
///
/// Text that is no URL is treated alike. All before the last `@` counts as credentials, because a password may contain
/// an unescaped `/` or `?`.
pub(super) fn redact_url(text: &str) -> String {
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    let scheme = text.find("://").filter(|end| text.chars().take(*end).all(is_scheme));
    let (scheme, rest) = text.split_at(scheme.map_or(0, |end| end + "://".len()));
    let (credentials, rest) = match rest.rsplit_once('@') {
        Some((credentials, rest)) => match credentials.split_once(':') {
            Some((user, _)) if !user.contains(['/', '?', '#', '=']) => (format!("{user}:{MASK}@"), rest),
            _ => (format!("{MASK}@"), rest),
        },
        None => (String::new(), rest),
    };
    let (path, query) = rest.split_at(rest.find(['?', '#']).map_or(rest.len(), |at| at + 1));
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs =
        pairs.map(|pair| pair.split_once('=').map_or(MASK.into(), |(name, _)| format!("{name}={MASK}")));
    format!("{scheme}{credentials}{path}{}", pairs.collect::<Vec<_>>().join("&"))
}

/// As [`redact_url`], for each URL in a command line.
pub(super) fn redact_urls(text: &str) -> String {
    let parts = text.split(' ').map(|part| if part.contains("://") { redact_url(part) } else { part.into() });
    parts.collect::<Vec<String>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn passwords_and_query_values_are_masked() {
        for (url, shown) in [
            ("https://h.example/path", "https://h.example/path"),
            ("http://user:hush@proxy.example:3128", "http://user:***@proxy.example:3128"),
            ("socks5://hush@proxy.example", "socks5://***@proxy.example"),
            ("http://user:hu/sh?hush@h/x", "http://user:***@h/x"),
            ("user:hush@h", "user:***@h"),
            ("https://h/send?key=hush&hush", "https://h/send?key=***&***"),
            ("https://h/x#hush", "https://h/x#***"),
            ("https://h/x?a=hush#hush", "https://h/x?a=***"),
            ("a:hush@b://c", "a:***@b://c"),
            ("?a=hush:hush@b", "***@b"),
        ] {
            assert_eq!(redact_url(url), shown);
        }
        assert_eq!(redact_urls("curl  -s 'http://a:hush@b' c@d"), "curl  -s 'http:***@b' c@d");
    }

    proptest! {
        #[test]
        fn a_redacted_url_is_redacted_already(text in "[a:/@?#&=*. -]{0,20}") {
            let shown = redact_url(&text);
            prop_assert_eq!(redact_url(&shown), shown);
        }
    }
}
