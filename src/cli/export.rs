//! `export`: current members as CSV for a spreadsheet, or as JSON lines for a program.

use std::io::{BufWriter, Write};
use std::path::Path;

use clap::ValueEnum;
use serde_json::Value as Json;

use super::{Failure, load_without_secrets};
use crate::store::open_reader;
use crate::store::queries::{EXPORTED, export_members};
use crate::text::{printable_cell, printable_json};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For Excel: UTF-8 with a byte order mark; formulas are neutralised
    Csv,
    /// One JSON object per line
    Ndjson,
}

pub(super) fn export(path: Option<&Path>, format: Format) -> Result<(), Failure> {
    let config = load_without_secrets(path)?;
    let connection = open_reader(&config.database.path)?;
    connection.hold_snapshot()?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut written = match format {
        Format::Csv => write!(out, "\u{feff}{}\r\n", EXPORTED.join(",")),
        Format::Ndjson => Ok(()),
    };
    export_members(&connection, |row| {
        let line = match format {
            Format::Ndjson => printable_json(&Json::Object(row).to_string()).into_owned() + "\n",
            Format::Csv => {
                let cells = EXPORTED.iter().map(|name| cell(row.get(*name).unwrap_or(&Json::Null)));
                cells.collect::<Vec<_>>().join(",") + "\r\n"
            }
        };
        if written.is_ok() {
            written = out.write_all(line.as_bytes());
        }
        written.is_ok()
    })?;
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A CSV cell. `'` precedes text that a spreadsheet would evaluate as a formula.
fn cell(value: &Json) -> String {
    let text = match value {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        Json::Array(items) => {
            let items =
                items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned));
            items.collect::<Vec<_>>().join("; ")
        }
        other => other.to_string(),
    };
    let is_text = !value.is_number();
    let text = printable_cell(&text);
    // Excel treats the full-width signs as the ASCII ones.
    let formula = is_text && text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']);
    let text = if formula { format!("'{text}") } else { text.into_owned() };
    let needs_quotes =
        text.contains([',', '"', '\n', '\r', '\t', ';', '\'']) || text.trim_matches(' ') != text;
    if needs_quotes { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_spreadsheet_evaluates_no_cell() {
        let cases = [
            (json!(null), ""),
            (json!("张三"), "张三"),
            (json!("a,b"), "\"a,b\""),
            (json!("say \"hi\""), "\"say \"\"hi\"\"\""),
            (json!("=1+1"), "\"'=1+1\""),
            (json!("+8613800000000"), "\"'+8613800000000\""),
            (json!("@x"), "\"'@x\""),
            (json!("-x"), "\"'-x\""),
            (json!(-5), "-5"),
            (json!(["a/b", "c"]), "\"a/b; c\""),
            (json!("two\nlines"), "\"two\nlines\""),
            (json!("a\tb"), "\"a\tb\""),
            (json!("\t=1"), "\"'\t=1\""),
            (json!("＝1+1"), "\"'＝1+1\""),
            (json!("a\u{1b}[31m\u{202e}\u{9b}"), "a\\u{1b}[31m\\u{202e}\\u{9b}"),
        ];
        for (value, expected) in cases {
            assert_eq!(cell(&value), expected);
        }
    }
}
