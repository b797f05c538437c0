//! `export`: the present members, for a spreadsheet or for a program.

use std::io::{BufWriter, Write};
use std::path::Path;

use clap::ValueEnum;
use serde_json::Value as Json;

use super::{Failure, load};
use crate::store::open_reader;
use crate::store::queries::{EXPORTED, export_members};
use crate::text::{printable_cell, printable_json};

/// How to write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For Excel: UTF-8 with a byte order mark, nothing that Excel would run as a formula
    Csv,
    /// One JSON object a line
    Ndjson,
}

pub(super) fn export(path: Option<&Path>, format: Format) -> Result<(), Failure> {
    let config = load(path)?;
    let connection = open_reader(&config.database.path)?;
    let connection = connection.unchecked_transaction()?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut failed = None;
    if format == Format::Csv {
        let names: Vec<String> = EXPORTED.iter().map(|name| (*name).to_owned()).collect();
        failed = write!(out, "\u{feff}{}\r\n", names.join(",")).err();
    }
    export_members(&connection, |row| {
        let line = match format {
            Format::Ndjson => printable_json(&Json::Object(row).to_string()).into_owned() + "\n",
            Format::Csv => {
                let cells = EXPORTED.iter().map(|name| cell(row.get(*name).unwrap_or(&Json::Null)));
                cells.collect::<Vec<_>>().join(",") + "\r\n"
            }
        };
        if failed.is_none() {
            failed = out.write_all(line.as_bytes()).err();
        }
        failed.is_none()
    })?;
    match failed.map_or_else(|| out.flush(), Err) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A value as a cell of CSV. Text that a spreadsheet would take for a formula is preceded by `'`.
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
    // Excel reads the full-width signs as it reads the ASCII ones.
    let formula = is_text && text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']);
    let text = if formula { format!("'{text}") } else { text.into_owned() };
    if text.contains([',', '"', '\n', '\r', '\t', ';', '\'']) || text.starts_with(' ') || text.ends_with(' ')
    {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells_open_rightly_in_a_spreadsheet() {
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
