//! The effective configuration as INI text: defaults included, secrets redacted.

use std::fmt::Write;

use super::Config;

/// INI text that parses to the same settings once the secrets are put back.
#[must_use]
pub fn render(config: &Config) -> String {
    let mut text = String::new();
    let mut current = "";
    for (section, key, value) in &config.effective {
        if current != *section {
            let gap = if current.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{gap}[{section}]");
            current = section;
        }
        let line = match value {
            Some(value) => format!("{key} = {}", quoted(value)),
            None => format!("# {key} is not set"),
        };
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// Quotes a value whose own quotes or blanks the parser would strip.
fn quoted(value: &str) -> String {
    let in_quotes = value.len() > 1 && value.starts_with('"') && value.ends_with('"');
    if in_quotes || value.trim() != value { format!("\"{value}\"") } else { value.to_owned() }
}
