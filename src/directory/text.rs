//! The normal form of text, numbers and lists in WeCom's XML and JSON. Without it, the change feed would alternate between
//! two spellings of the same content. Pure.
//!
//! Text has no white space around it, `\n` as its only line break, and U+FFFD for each character that XML forbids;
//! line breaks inside stay, since addresses have them. Lists have no white space and no empty items. Numbers are
//! unsigned 32-bit numbers, in quotes or not.

use std::borrow::Cow;

use serde_json::Value as Json;

use super::ids::UserId;

/// What replaces a character that must not be stored.
pub const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Whether XML 1.0 allows the character (production Char): no control characters but tab, line feed and carriage
/// return, not U+FFFE, not U+FFFF.
#[must_use]
pub const fn is_allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{1_0000}'..)
}

/// The text in bytes that should be UTF-8: without byte order mark, and with U+FFFD for invalid bytes and for
/// characters that are not [allowed](is_allowed). No NUL remains to end a text early in SQLite's functions.
#[must_use]
pub fn decode(bytes: &[u8]) -> Cow<'_, str> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match String::from_utf8_lossy(bytes) {
        Cow::Borrowed(text) => replaced(text),
        Cow::Owned(text) => Cow::Owned(match replaced(&text) {
            Cow::Borrowed(_) => text,
            Cow::Owned(replaced) => replaced,
        }),
    }
}

fn replaced(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_allowed) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if is_allowed(c) { c } else { REPLACEMENT }).collect())
}

/// A text field's normal form. Applying it twice changes nothing more.
#[must_use]
pub fn normal(text: &str) -> Cow<'_, str> {
    let is_around = |c: char| c.is_whitespace() || c == '\u{feff}';
    // Forbidden characters first: events have lost them before they are read, and some of them are white space.
    if text.chars().all(|c| is_allowed(c) && c != '\r') {
        return Cow::Borrowed(text.trim_matches(is_around));
    }
    let text = replaced(text).replace("\r\n", "\n").replace('\r', "\n");
    Cow::Owned(text.trim_matches(is_around).to_owned())
}

/// A number; `None` if it is none, negative, or beyond 32 bits.
#[must_use]
pub fn number(text: &str) -> Option<u32> {
    text.trim().parse().ok()
}

/// A number that JSON may write in quotes.
#[must_use]
pub fn json_number(json: &Json) -> Option<u32> {
    match json {
        Json::String(text) => number(text),
        json => u32::try_from(json.as_u64()?).ok(),
    }
}

/// A text that JSON may write as a number.
#[must_use]
pub fn json_text(json: &Json) -> Option<Cow<'_, str>> {
    match json {
        Json::String(text) => Some(Cow::Borrowed(text)),
        Json::Number(number) => Some(Cow::Owned(number.to_string())),
        _ => None,
    }
}

/// A userid with white space around it.
#[must_use]
pub fn userid(text: &str) -> Option<UserId> {
    UserId::parse(text.trim()).ok()
}

/// The userids of a list such as `DirectLeader` as a text field: a comma between them, unreadable items left out.
/// `None` if no item is readable but some are there: that is no empty list.
#[must_use]
pub fn userid_list<'a>(items: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut any = false;
    let mut list = String::new();
    for item in items.into_iter().map(str::trim).filter(|item| !item.is_empty()) {
        any = true;
        if let Some(userid) = userid(item) {
            if !list.is_empty() {
                list.push(',');
            }
            list.push_str(userid.as_str());
        }
    }
    (!any || !list.is_empty()).then_some(list)
}

/// The items of a list of commas, without white space. Empty items keep their place, but the text without any item
/// is an empty list, and a comma at its end begins no item.
pub fn items(text: &str) -> impl Iterator<Item = &str> {
    let text = text.trim();
    let text = text.strip_suffix(',').unwrap_or(text);
    let items = (!text.is_empty()).then(|| text.split(',').map(str::trim));
    items.into_iter().flatten()
}

/// As much of a text as a log line can hold, without control characters.
#[must_use]
pub fn excerpt(text: &str) -> String {
    text.escape_debug().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn text_has_one_form() {
        for (text, form) in [
            (" 工号\n", "工号"),
            ("\u{3000}张\u{a0}三\u{2003}", "张\u{a0}三"),
            ("\u{feff}a", "a"),
            ("a\r\nb\rc\nd", "a\nb\nc\nd"),
            ("a\u{8}b\0\u{ffff}", "a\u{fffd}b\u{fffd}\u{fffd}"),
            (" \u{b}", "\u{fffd}"),
            ("\t\n", ""),
            ("a\tb", "a\tb"),
            ("\u{7f}\u{85}x\u{9f}", "\u{7f}\u{85}x\u{9f}"),
        ] {
            assert_eq!(normal(text), form, "{text:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_cost_only_themselves() {
        assert_eq!(decode(b"\xef\xbb\xbf<x>"), "<x>");
        assert_eq!(decode("张".as_bytes().get(..2).unwrap()), "\u{fffd}");
        assert_eq!(decode(b"a\0\x08\xff"), "a\u{fffd}\u{fffd}\u{fffd}");
        // GBK of 王五
        assert!(decode(b"<A>\xcd\xf5\xce\xe5</A>").starts_with("<A>\u{fffd}"));
        assert!(matches!(decode("张三".as_bytes()), Cow::Borrowed(_)));
    }

    #[test]
    fn numbers_may_be_in_quotes() {
        for json in [json!(7), json!("7"), json!(" 7 ")] {
            assert_eq!(json_number(&json), Some(7));
        }
        for json in [
            json!(-1),
            json!("-1"),
            json!(4_294_967_296_u64),
            json!(1.5),
            json!("x"),
            json!(null),
            json!([7]),
        ] {
            assert_eq!(json_number(&json), None, "{json}");
        }
    }

    #[test]
    fn an_unreadable_item_of_a_list_costs_only_itself() {
        assert_eq!(userid_list(["a", " b ", "李四", ""]).as_deref(), Some("a,b"));
        assert_eq!(userid_list([]).as_deref(), Some(""));
        assert_eq!(userid_list(["李四"]), None);
        assert_eq!(items(" 1, 2,,3, ").collect::<Vec<_>>(), ["1", "2", "", "3"]);
        assert_eq!(items(" ").count() + items(",").count(), 0);
    }

    proptest! {
        #[test]
        fn the_normal_form_is_final(text in "[\\PC\\s\\x00-\\x1f\u{feff}\u{ffff}]{0,20}") {
            let once = normal(&text).into_owned();
            prop_assert_eq!(normal(&once), once.as_str());
            prop_assert!(once.chars().all(is_allowed));
        }
    }
}
