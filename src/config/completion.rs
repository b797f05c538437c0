//! Sets values in an INI text and keeps every other byte, for `init`.

use super::ini;

/// A key with a value, and its line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) value: String,
    pub(crate) line: usize,
}

/// The first occurrence of a key, also with an empty value.
pub(crate) fn find(text: &str, section: &str, key: &str) -> Option<Found> {
    let entries = ini::read(text).entries.into_iter();
    let mut found = entries.filter(|entry| entry.section == section && entry.key == key);
    found.next().map(|entry| Found { value: entry.value, line: entry.line })
}

/// The section and line of the first callback key that is set, present or previous, of either callback.
pub(crate) fn first_callback_key(text: &str) -> Option<(String, usize)> {
    let is_key = |key: &str| key.starts_with("token") || key.starts_with("encoding_aes_key");
    let mut entries = ini::read(text).entries.into_iter();
    let found = entries
        .find(|entry| entry.section.starts_with("callback") && is_key(&entry.key) && !entry.value.is_empty());
    found.map(|entry| (format!("[{}] {}", entry.section, entry.key), entry.line))
}

/// Sets a key: on its own line, else on its first commented-out line in the section, else below the section's header,
/// else in a new section at the end.
pub(crate) fn set(text: &str, section: &str, key: &str, value: &str) -> String {
    let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let setting = format!("{key} = {value}").trim_end().to_owned();
    let place = Place::find(text, section, key);
    let (before, line, after) = match place {
        Place::Line { start, end } => (&text[..start], setting, &text[end..]),
        Place::Below(header) => {
            let is_complete = text[..header].ends_with('\n');
            let line = if is_complete { format!("{setting}{end}") } else { format!("{end}{setting}") };
            (&text[..header], line, &text[header..])
        }
        Place::NewSection => {
            let gap = if text.is_empty() || text.ends_with('\n') { "" } else { end };
            (text, format!("{gap}{end}[{section}]{end}{setting}{end}"), "")
        }
    };
    format!("{before}{line}{after}")
}

/// Where a setting is written; byte offsets.
enum Place {
    /// Replaces a line, without its indentation and line end.
    Line {
        start: usize,
        end: usize,
    },
    /// Follows the header's line end.
    Below(usize),
    NewSection,
}

impl Place {
    fn find(text: &str, section: &str, key: &str) -> Self {
        let (mut commented, mut header) = (None, None);
        let (mut is_inside, mut is_commented_section) = (false, false);
        let mut offset = 0;
        for line in text.split_inclusive('\n') {
            let next = offset + line.len();
            let content = line.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
            let start = offset + line.find(content).unwrap_or(0);
            let here = Self::Line { start, end: start + content.len() };
            let bare = content.trim_start_matches(['#', ';']);
            let is_comment = bare.len() < content.len();
            let bare = bare.trim();
            let is_setting = bare.split_once('=').is_some_and(|(name, _)| name.trim() == key);
            if let Some(name) = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                // A commented-out section owns the commented-out keys below it.
                is_commented_section = is_comment;
                if !is_comment {
                    is_inside = name.trim() == section;
                    if is_inside {
                        header = header.or(Some(next));
                    }
                }
            } else if is_inside && is_setting {
                if !is_comment {
                    return here;
                }
                if !is_commented_section && commented.is_none() {
                    commented = Some(here);
                }
            }
            offset = next;
        }
        commented.or(header.map(Self::Below)).unwrap_or(Self::NewSection)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_goes_to_its_own_line_a_commented_one_the_section_or_the_end() {
        for (text, expected) in [
            ("[a]\nk =\nj = 1\n", "[a]\nk = v\nj = 1\n"),
            ("[a]\r\n  k=\r\nj\r\n", "[a]\r\n  k = v\r\nj\r\n"),
            ("[b]\n# k = 1\n[a]\n# about k\n#k = sample\n", "[b]\n# k = 1\n[a]\n# about k\nk = v\n"),
            ("[a]\n; k =\nk = \"\"", "[a]\n; k =\nk = v"),
            ("[a]\n# [a.b]\n# k =\n[c]\nk = 1\n", "[a]\nk = v\n# [a.b]\n# k =\n[c]\nk = 1\n"),
            ("\u{feff}[a]", "\u{feff}[a]\nk = v"),
            ("[b]\nk = 1", "[b]\nk = 1\n\n[a]\nk = v\n"),
            ("# [a]\r\n# k =\r\n", "# [a]\r\n# k =\r\n\r\n[a]\r\nk = v\r\n"),
        ] {
            assert_eq!(set(text, "a", "k", "v"), expected, "{text:?}");
        }
    }

    #[test]
    fn any_callback_key_is_found_and_an_empty_one_is_none() {
        let found = |text: &str| first_callback_key(text).map(|(name, line)| format!("{name} {line}"));
        assert_eq!(found("[callback]\ntoken =\n# token = x\nencoding_aes_key = \"\"\npath = /x\n"), None);
        for (text, expected) in [
            ("[callback]\ntoken = x\n", "[callback] token 2"),
            ("[callback]\ntoken_file = x\n", "[callback] token_file 2"),
            ("[callback]\n\nencoding_aes_key_previous = x\n", "[callback] encoding_aes_key_previous 3"),
            ("[callback.app]\ntoken = x\n", "[callback.app] token 2"),
        ] {
            assert_eq!(found(text).as_deref(), Some(expected));
        }
    }

    proptest! {
        #[test]
        fn what_was_set_is_read_and_nothing_else_changes(
            lines in prop::collection::vec("\\[a\\]|\\[b\\]|# \\[c\\]|k =|# k = 1|j = 2|| # x|;k=3", 0..12),
            end in "\n|\r\n",
        ) {
            let text = lines.iter().map(|line| format!("{line}{end}")).collect::<String>();
            let once = set(&text, "a", "k", "v");
            let others = |text: &str| {
                let entries = ini::read(text).entries.into_iter();
                let rest = entries.filter(|entry| (&*entry.section, &*entry.key) != ("a", "k"));
                rest.map(|entry| (entry.section, entry.key, entry.value)).collect::<Vec<_>>()
            };
            prop_assert_eq!(find(&once, "a", "k").map(|found| found.value), Some("v".to_owned()));
            prop_assert_eq!(others(&text), others(&once));
            prop_assert_eq!(set(&once, "a", "k", "v"), once);
        }
    }
}
