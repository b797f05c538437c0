//! Method, path and client of a request for the log, read from an incomplete or invalid head too.

/// Longest method that is recognised, in bytes.
const MAX_METHOD: usize = 16;
/// Bytes that are kept of a path and of `X-Forwarded-For`.
const MAX_TEXT: usize = 128;

/// Summary of a request. Its texts are bounded, but come from the client: escape them for display.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestSummary {
    /// Empty if the request line is incomplete or invalid.
    pub method: String,
    /// Without the query; empty if the request line is incomplete or invalid.
    pub path: String,
    /// Whether the query has msg_signature.
    pub is_signed: bool,
    /// Whether the query has msg_signature and echostr, as when a URL is saved in the console.
    pub is_verification: bool,
    /// Value of the last X-Forwarded-For header.
    pub forwarded_for: Option<String>,
}

impl RequestSummary {
    /// Reads the received bytes of a head in linear time.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let mut lines = bytes.get(blank..).unwrap_or_default().split_inclusive(|byte| *byte == b'\n');
        let request_line = lines.next().unwrap_or_default();
        let mut words = request_line.splitn(3, |byte| *byte == b' ');
        let (Some(method), Some(target), more) = (words.next(), words.next(), words.next()) else {
            return Self::default();
        };
        let is_method =
            (1..=MAX_METHOD).contains(&method.len()) && method.iter().all(u8::is_ascii_alphabetic);
        let is_target = target.starts_with(b"/") || target.starts_with(b"http");
        // A path without a space or a question mark behind it may be incomplete.
        if !is_method || !is_target || (more.is_none() && !target.contains(&b'?')) {
            return Self::default();
        }
        let mut parts = target.splitn(2, |byte| *byte == b'?');
        let (path, query) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let is_signed = contains(query, b"msg_signature");
        Self {
            method: text(method),
            path: text(path),
            is_signed,
            is_verification: is_signed && contains(query, b"echostr"),
            forwarded_for: lines.rev().find_map(forwarded_for).map(text),
        }
    }

    pub(super) fn memory(&self) -> usize {
        let forwarded = self.forwarded_for.as_ref().map_or(0, String::capacity);
        self.method.capacity().saturating_add(self.path.capacity()).saturating_add(forwarded)
    }
}

fn forwarded_for(line: &[u8]) -> Option<&[u8]> {
    const NAME: &[u8] = b"X-Forwarded-For:";
    let (name, value) = line.split_at_checked(NAME.len())?;
    name.eq_ignore_ascii_case(NAME).then(|| value.trim_ascii())
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..MAX_TEXT).unwrap_or(bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_incomplete_head_is_summarised() {
        let head =
            b"\r\nGET /a?msg_signature=1&echostr=2 HTTP/1.1\r\nHost: x\r\nx-forwarded-for: 1.2.3.4\r\n\r\n";
        let expected = RequestSummary {
            method: "GET".into(),
            path: "/a".into(),
            is_signed: true,
            is_verification: true,
            forwarded_for: Some("1.2.3.4".into()),
        };
        assert_eq!(RequestSummary::of(head), expected);
        assert_eq!(RequestSummary::of(&head[..50]).path, "/a");
        assert_eq!(RequestSummary::of(&head[..12]).path, "/a");
        for nothing in [
            &head[..8],
            b"",
            b"\x16\x03\x01 \x02 \x03",
            b"hello",
            b"\0 / HTTP/1.1\r\n",
            b"PROXY TCP4 1.2.3.4 ",
        ] {
            assert_eq!(RequestSummary::of(nothing), RequestSummary::default());
        }
        let post = RequestSummary::of(b"POST /b?msg_signature=1 HTTP/1.1\r\n");
        assert!(post.is_signed && !post.is_verification);
    }

    proptest! {
        #[test]
        fn a_summary_is_bounded(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let head = [b"GET /", &bytes[..], b" HTTP/1.1\r\nX-Forwarded-For: ", &bytes[..]].concat();
            prop_assert!(RequestSummary::of(&head).memory() <= 16 + 2 * 8 * MAX_TEXT);
        }
    }
}
