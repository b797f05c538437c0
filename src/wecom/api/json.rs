//! Lenient JSON parser: gateways and consoles send documents that violate the grammar but have a clear meaning.

use std::borrow::Cow;

use serde_json::Value as Json;

/// `f64` represents every integer below this exactly.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Parses a document. Beyond RFC 8259 it accepts a byte order mark, NUL bytes around the document, invalid UTF-8
/// (read as U+FFFD), raw control characters within strings, lone surrogates (read as U+FFFD), unknown escapes
/// (read literally) and numbers outside the range of `f64` (read as null). The error describes the bytes.
pub fn parse(bytes: &[u8]) -> Result<Json, String> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let is_blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0;
    let start = bytes.iter().position(|byte| !is_blank(byte)).ok_or("the answer is empty")?;
    let end = bytes.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
    let bytes = bytes.get(start..end).unwrap_or_default();
    if let Ok(json) = serde_json::from_slice(bytes) {
        return Ok(json);
    }
    let text = String::from_utf8_lossy(bytes);
    if text.starts_with('<') {
        return Err("the answer is HTML or XML, not JSON".into());
    }
    serde_json::from_str(&repair(&text)).map_err(|error| {
        if error.is_eof() { "the answer is cut off".into() } else { "the answer is not JSON".into() }
    })
}

/// Replaces everything in strings and numbers that strict JSON forbids.
fn repair(text: &str) -> String {
    let mut repaired = String::with_capacity(text.len() + 64);
    let mut rest = text;
    let mut in_string = false;
    while let Some(first) = rest.chars().next() {
        let length = first.len_utf8();
        let (length, replacement): (usize, Cow<'_, str>) = match first {
            '"' => {
                in_string = !in_string;
                (length, "\"".into())
            }
            '\\' if in_string => escape(rest),
            control if in_string && control < ' ' => {
                (length, format!("\\u{:04x}", u32::from(control)).into())
            }
            '-' | '0'..='9' if !in_string => number(rest),
            _ => (length, rest.get(..length).unwrap_or_default().into()),
        };
        repaired.push_str(&replacement);
        rest = rest.get(length..).unwrap_or_default();
    }
    repaired
}

/// Length and replacement of the escape at the start of `text`.
fn escape(text: &str) -> (usize, Cow<'_, str>) {
    match text.as_bytes().get(1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
            (2, text.get(..2).unwrap_or_default().into())
        }
        Some(b'u') => match (code_unit(text), code_unit(text.get(6..).unwrap_or_default())) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => (12, text.get(..12).unwrap_or_default().into()),
            (Some(0xD800..=0xDFFF), _) => (6, "\\ufffd".into()),
            (Some(_), _) => (6, text.get(..6).unwrap_or_default().into()),
            (None, _) => (1, "\\\\".into()),
        },
        _ => (1, "\\\\".into()),
    }
}

/// The code unit of a `\uXXXX` at the start of `text`.
fn code_unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u16::from_str_radix(digits, 16).ok()
}

/// Length and replacement of the number at the start of `text`.
fn number(text: &str) -> (usize, Cow<'_, str>) {
    let is_part = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
    let length = text.bytes().position(|byte| !is_part(&byte)).unwrap_or(text.len());
    let token = text.get(..length).unwrap_or_default();
    match token.parse::<f64>() {
        Ok(value) if value.is_infinite() => (length, "null".into()),
        _ => (length, token.into()),
    }
}

/// Reads an integer, also quoted or with a fraction of zero: `7`, `"7"`, `7.0`, `"7.0"`.
pub fn integer(json: &Json) -> Option<i64> {
    let whole = |number: f64| {
        // A whole number that `f64` represents exactly.
        #[allow(clippy::cast_possible_truncation)]
        (number.fract() == 0.0 && number.abs() < EXACT).then_some(number as i64)
    };
    match json {
        Json::Number(number) => number.as_i64().or_else(|| number.as_f64().and_then(whole)),
        Json::String(text) => {
            let text = text.trim();
            let looks_so = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.".contains(&byte));
            text.parse().ok().or_else(|| text.parse().ok().filter(|_| looks_so).and_then(whole))
        }
        _ => None,
    }
}

/// Shows a value in an error message: without control characters, at most 40 characters.
pub fn shown(json: Option<&Json>) -> String {
    match json {
        None => "missing".into(),
        Some(Json::Array(_)) => "a list".into(),
        Some(Json::Object(_)) => "an object".into(),
        Some(json) => {
            let text = json.to_string();
            let short: String = text.chars().filter(|c| !c.is_control()).take(40).collect();
            if short.chars().count() < text.chars().count() { format!("{short}..") } else { short }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn what_has_a_clear_meaning_is_read() {
        let cases: [(&[u8], Json); 14] = [
            (b"\xEF\xBB\xBF{\"a\":1}", json!({"a": 1})),
            (b"\r\n\t {\"a\":1}\0\0\n", json!({"a": 1})),
            (b"{\"a\":\"x\x07y\"}", json!({"a": "x\u{7}y"})),
            (b"{\"a\":\"x\ny\tz\0\"}", json!({"a": "x\ny\tz\0"})),
            (b"{\"a\":\"\xE5\xBC\"}", json!({"a": "\u{fffd}"})),
            (b"{\"a\":\"\xC4\xE3\"}", json!({"a": "\u{fffd}\u{fffd}"})),
            (br#"{"a":"\ud83d"}"#, json!({"a": "\u{fffd}"})),
            (br#"{"a":"\ude00\ud83dx"}"#, json!({"a": "\u{fffd}\u{fffd}x"})),
            (br#"{"a":"\ud83d\ud83d\ude00","b":"\ud83d"}"#, json!({"a": "\u{fffd}😀", "b": "\u{fffd}"})),
            (br#"{"a":"\x41\'","b":"\u12"}"#, json!({"a": "\\x41\\'", "b": "\\u12"})),
            (br#"{"a":1e999,"b":-1e999,"c":1e3}"#, json!({"a": null, "b": null, "c": 1e3})),
            (b"{\"a\":\"\\\\\",\"b\":\"\x01\"}", json!({"a": "\\", "b": "\u{1}"})),
            (b"{\"a\":\"\\\"\x01\"}", json!({"a": "\"\u{1}"})),
            (b"{\"a\xFF\":1}", json!({"a\u{fffd}": 1})),
        ];
        for (bytes, expected) in cases {
            assert_eq!(parse(bytes), Ok(expected), "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn what_has_none_is_named() {
        for (bytes, expected) in [
            (&b""[..], "empty"),
            (b" \0 ", "empty"),
            (b"<html>no</html>", "HTML"),
            (b"{\"errcode\":0,\"openid\":\"o", "cut off"),
            (b"errcode=0", "not JSON"),
            (b"{\"a\":1}}", "not JSON"),
            (b"\xFF\xFE{\0}\0", "not JSON"),
        ] {
            let error = parse(bytes).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn numbers_may_be_in_quotes() {
        for seven in [json!(7), json!("7"), json!(7.0), json!("7.0"), json!(" 7 ")] {
            assert_eq!(integer(&seven), Some(7), "{seven}");
        }
        assert_eq!(integer(&json!(-1)), Some(-1));
        for none in [
            json!(null),
            json!(true),
            json!("x"),
            json!(""),
            json!(7.5),
            json!("inf"),
            json!("1e3"),
            json!([7]),
        ] {
            assert_eq!(integer(&none), None, "{none}");
        }
        assert_eq!(integer(&json!(1e300)), None);
    }

    proptest! {
        #[test]
        fn valid_json_reads_as_itself(text in any::<String>(), number in any::<i64>()) {
            let json = json!({"t": text, "n": [number, {"t": text}]});
            prop_assert_eq!(parse(json.to_string().as_bytes()), Ok(json.clone()));
            prop_assert_eq!(serde_json::from_str::<Json>(&repair(&json.to_string())).unwrap(), json);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in any::<Vec<u8>>()) {
            let _ = parse(&bytes);
        }
    }
}
