//! An INI parser that keeps line numbers, because every error names file, line and key; the INI crates keep none.
//!
//! Messages never quote a line, because a misplaced line may be a secret.

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) section: String,
    pub(super) key: String,
    /// Without surrounding blanks and one pair of double quotes.
    pub(super) value: String,
    /// The line number, counted from 1.
    pub(super) line: usize,
}

#[derive(Debug, Default)]
pub(super) struct Ini {
    /// In the order of the file; a key may occur twice.
    pub(super) entries: Vec<Entry>,
    /// Each section's name and line, also of an empty section.
    pub(super) sections: Vec<(String, usize)>,
    /// Line and text of each syntax error.
    pub(super) errors: Vec<(usize, String)>,
}

/// Parses INI text. Comments are whole lines that begin with `#` or `;`. A byte order mark and CRLF are accepted.
pub(super) fn read(text: &str) -> Ini {
    let mut ini = Ini::default();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        if let Err(what) = ini.add(number + 1, line.trim()) {
            ini.errors.push((number + 1, what));
        }
    }
    ini
}

impl Ini {
    /// Adds what the line means, also if it is written wrongly: one error then has no consequences on the lines below.
    fn add(&mut self, number: usize, line: &str) -> Result<(), String> {
        if line.is_empty() || line.starts_with(['#', ';']) {
            return Ok(());
        }
        if let Some((name, error)) = section(line) {
            let first = self.sections.iter().find(|(known, _)| known == name).map(|(_, line)| *line);
            self.sections.push((name.to_owned(), number));
            let first = first
                .map(|first| format!("duplicate section: it begins on line {first} already; merge the two"));
            return error.map(str::to_owned).or(first).map_or(Ok(()), Err);
        }
        let at = line.find(['=', '＝']).ok_or(
            "this is neither [section] nor key = value nor a comment (# or ; at the beginning of the line)",
        )?;
        let (key, value) = line.split_at(at);
        let ascii = value.strip_prefix('=');
        let (section, _) =
            self.sections.last().ok_or("key = value before the first [section]; move it into its section")?;
        self.entries.push(Entry {
            section: section.clone(),
            key: key.trim().to_owned(),
            value: unquote(ascii.unwrap_or_else(|| value.trim_start_matches('＝')).trim()).to_owned(),
            line: number,
        });
        ascii.map(|_| ()).ok_or_else(|| "the equals sign ＝ is full-width; write =".to_owned())
    }
}

/// The name in a section's line, and what is wrong with the line; `None` if it is no section.
fn section(line: &str) -> Option<(&str, Option<&'static str>)> {
    let rest = line.strip_prefix(['[', '【', '［'])?;
    let is_wide = line.contains(['【', '［', '】', '］']);
    let (name, after) = rest.split_once([']', '】', '］']).unwrap_or((rest, "no bracket"));
    let error = if is_wide {
        Some("the brackets 【】 are full-width; write [name]")
    } else if after.is_empty() {
        None
    } else {
        Some("a section is written [name]; a comment needs a line of its own")
    };
    Some((name.trim(), error))
}

/// Removes one pair of double quotes around the whole value.
pub(super) fn unquote(value: &str) -> &str {
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_files_comments_and_quotes_are_read() {
        let Ini { entries, errors, .. } =
            read("\u{feff}# c\r\n[a]\r\n; c\r\nk = v = w \r\nq = \" x \"\r\ne =\r\n");
        assert_eq!(errors, []);
        let values: Vec<_> = entries.iter().map(|e| (e.key.as_str(), e.value.as_str(), e.line)).collect();
        assert_eq!(values, [("k", "v = w", 4), ("q", " x ", 5), ("e", "", 6)]);
    }

    #[test]
    fn full_width_signs_are_named_and_what_they_mean_is_read() {
        let Ini { entries, errors, sections } = read("【a】\nk＝v=w\n［b]\nk = ＝\n[c] # c\n[d\nk=1\n");
        let found: Vec<_> = entries.iter().map(|e| (e.section.as_str(), e.value.as_str())).collect();
        assert_eq!(found, [("a", "v=w"), ("b", "＝"), ("d", "1")]);
        assert_eq!(sections.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        let parts = ["【】 are full-width", "＝ is full-width", "【】 are full-width", "comment", "[name]"];
        assert_eq!(errors.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 2, 3, 5, 6]);
        assert!(errors.iter().zip(parts).all(|((_, what), part)| what.contains(part)), "{errors:?}");
    }

    #[test]
    fn every_syntax_error_names_its_line_and_repeats_nothing_of_it() {
        let Ini { errors, .. } = read("hush = 1\n[a]\nk = 1\nhush\n[a]\n[hush\n");
        let lines: Vec<_> = errors.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 4, 5, 6]);
        assert!(errors[2].1.contains("line 2"), "{errors:?}");
        assert!(errors.iter().all(|(_, what)| !what.contains("hush")), "{errors:?}");
    }
}
