//! A strict reader of INI text that knows on which line everything stands.
//!
//! Of our own, because an operator is to be told the file, the line and the key of what is wrong, and
//! the INI crates keep no line numbers.

/// One `key = value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The section it stands in.
    pub section: String,
    /// The key.
    pub key: String,
    /// The value, without surrounding blanks and quotes.
    pub value: String,
    /// Line, from 1.
    pub line: usize,
}

/// Something wrong on a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    /// Line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What, and what to do.
    pub what: String,
}

/// What INI text says.
#[derive(Debug, Default)]
pub(super) struct Ini {
    /// All keys, in order.
    pub(super) entries: Vec<Entry>,
    /// All sections, also empty ones, with their lines.
    pub(super) sections: Vec<(String, usize)>,
    /// All that is wrong.
    pub(super) wrong: Vec<Wrong>,
}

/// Reads INI text.
///
/// Comments are whole lines that begin with `#` or `;`. A byte order mark and CRLF are accepted.
#[must_use]
pub(super) fn read(text: &str) -> Ini {
    let mut entries: Vec<Entry> = Vec::new();
    let mut wrong = Vec::new();
    let mut sections: Vec<(String, usize)> = Vec::new();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let (number, line) = (number + 1, line.trim());
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(rest) = line.strip_prefix('[') {
            match rest.strip_suffix(']') {
                Some(name) => {
                    let name = name.trim().to_owned();
                    if let Some((_, first)) = sections.iter().find(|(known, _)| *known == name) {
                        let what =
                            format!("section [{name}] stands on line {first} already; put them together");
                        wrong.push(Wrong { line: number, what });
                    }
                    sections.push((name, number));
                }
                None => {
                    let what = "a section is written [name], with nothing after it; comments stand on lines of their own";
                    wrong.push(Wrong { line: number, what: what.into() });
                }
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            let what =
                "this is neither [section] nor key = value nor a comment (# or ; at the line's beginning)";
            wrong.push(Wrong { line: number, what: what.into() });
            continue;
        };
        let Some((section, _)) = sections.last() else {
            let what =
                format!("{} stands before any [section]; put it below the one it belongs to", key.trim());
            wrong.push(Wrong { line: number, what });
            continue;
        };
        let key = key.trim().to_owned();
        if let Some(first) = entries.iter().find(|e| e.section == *section && e.key == key) {
            let what = format!("[{section}] {key} stands on line {} already; delete one of them", first.line);
            wrong.push(Wrong { line: number, what });
            continue;
        }
        let value = value.trim();
        let unquoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
        entries.push(Entry { section: section.clone(), key, value: unquoted.to_owned(), line: number });
    }
    Ini { entries, sections, wrong }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_files_comments_and_quotes_are_read() {
        let Ini { entries, wrong, .. } =
            read("\u{feff}# c\r\n[a]\r\n; c\r\nk = v = w \r\nq = \" x \"\r\ne =\r\n");
        assert_eq!(wrong, []);
        let values: Vec<_> = entries.iter().map(|e| (e.key.as_str(), e.value.as_str(), e.line)).collect();
        assert_eq!(values, [("k", "v = w", 4), ("q", " x ", 5), ("e", "", 6)]);
    }

    #[test]
    fn every_wrong_line_is_named() {
        let Ini { wrong, .. } = read("x = 1\n[a]\nk = 1\nk = 2\nhello\n[a]\n[b\n");
        let lines: Vec<_> = wrong.iter().map(|w| w.line).collect();
        assert_eq!(lines, [1, 4, 5, 6, 7]);
        assert!(wrong[1].what.contains("line 3"), "{}", wrong[1].what);
    }
}
