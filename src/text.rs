//! Escapes foreign text for terminals, logs and files: names, messages and requests may contain control characters
//! that a terminal executes, and characters that hide or reorder text.
//!
//! Pure. Backslashes stay, so [`printable`] is idempotent.

use std::borrow::Cow;
use std::fmt::Write;

/// Escapes text for one line of a terminal: `\n`, `\r`, `\t`, and `\u{1b}` for all others.
///
/// Escaped are control characters (C0, DEL, C1), line and paragraph separators, bidirectional controls, and invisible
/// format characters. A zero-width joiner between two emoji stays.
pub fn printable(text: &str) -> Cow<'_, str> {
    escape(
        text,
        |c| c,
        |out, c| match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => {
                // Writing to a String does not fail.
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
        },
    )
}

/// As [`printable`], but line ends and TAB stay: a CSV cell is quoted.
pub fn printable_cell(text: &str) -> Cow<'_, str> {
    let keep = |c: char| if matches!(c, '\t' | '\r' | '\n') { ' ' } else { c };
    escape(text, keep, |out, c| {
        let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
    })
}

/// Escapes JSON text as [`printable`] does, with `\uXXXX`; its value stays the same.
///
/// `json` comes from a serializer: below U+0020 it contains only the serializer's line breaks, which stay.
pub fn printable_json(json: &str) -> Cow<'_, str> {
    let keep = |c: char| if c < ' ' { ' ' } else { c };
    escape(json, keep, |out, c| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    })
}

/// Escapes each character that is unsafe after `view`, which maps the characters to keep to safe ones.
fn escape(text: &str, view: impl Fn(char) -> char, escaped: impl Fn(&mut String, char)) -> Cow<'_, str> {
    let mut out: Option<String> = None;
    let mut before = None;
    let mut rest = text.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        let next = rest.peek().map(|&(_, next)| next);
        if is_unsafe(before, view(c), next) {
            escaped(out.get_or_insert_with(|| text[..at].to_owned()), c);
        } else if let Some(out) = &mut out {
            out.push(c);
        }
        before = Some(c);
    }
    out.map_or(Cow::Borrowed(text), Cow::Owned)
}

fn is_unsafe(before: Option<char>, c: char, next: Option<char>) -> bool {
    match c {
        // Joins two emoji to one (a family); elsewhere it is only invisible.
        '\u{200d}' => !(before.is_some_and(is_emoji_part) && next.is_some_and(is_emoji_part)),
        c => c.is_control() || is_separator(c) || is_bidi(c) || is_invisible(c),
    }
}

pub(crate) fn is_separator(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}')
}

/// Unicode's Bidi_Control: changes the display order of a line.
pub(crate) fn is_bidi(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Format characters without width: two texts that look alike may differ in them.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2065}'
            | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e007f}'
    )
}

/// Emoji, arrows and symbols, and their modifiers (variation selector, skin colour).
fn is_emoji_part(c: char) -> bool {
    matches!(c, '\u{2190}'..='\u{2bff}' | '\u{fe0f}' | '\u{1f000}'..='\u{1faff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn characters_that_a_terminal_executes_are_escaped() {
        for (text, shown) in [
            ("张\u{1b}[31m三", "张\\u{1b}[31m三"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{9b}2J\u{7f}\u{0}", "\\u{9b}2J\\u{7f}\\u{0}"),
            ("x\u{202e}gpj.exe\u{2066}", "x\\u{202e}gpj.exe\\u{2066}"),
            ("a\u{2028}b\u{2029}c\u{85}", "a\\u{2028}b\\u{2029}c\\u{85}"),
            ("za\u{200b}ng\u{feff}", "za\\u{200b}ng\\u{feff}"),
            ("a\u{200d}b", "a\\u{200d}b"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }

    #[test]
    fn ordinary_text_is_unchanged() {
        for text in ["张三（研发部）", "Zoë O'Neil", "👨‍👩‍👧 👩🏽‍💻 🏳️‍🌈", "C:\\dir", "𠮷野家", "نام", "", "\u{3000}"]
        {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text), "{text:?}");
        }
    }

    #[test]
    fn a_cell_keeps_its_line_ends_and_tabs() {
        assert_eq!(printable_cell("a\tb\r\nc\u{1b}d\u{202e}"), "a\tb\r\nc\\u{1b}d\\u{202e}");
    }

    proptest! {
        #[test]
        fn printable_text_is_one_safe_line(text in "\\PC*|[\\p{Cc}\\p{Cf}\\p{Zl}\\p{Zp}a👩]*") {
            let shown = printable(&text);
            prop_assert!(!shown.chars().any(|c| c.is_control() || is_bidi(c) || is_separator(c)));
            prop_assert_eq!(printable(&shown), shown.clone());
        }

        #[test]
        fn printable_json_has_the_same_value(text in "[\\p{Cc}\\p{Cf}\\p{Zl}\\p{Zp}a\"\\\\👩]*") {
            let json = serde_json::json!({"name": text});
            let shown = printable_json(&format!("{json:#}")).into_owned();
            prop_assert!(shown.chars().all(|c| c == '\n' || !(c.is_control() || is_bidi(c) || is_separator(c))));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), json);
        }
    }
}
