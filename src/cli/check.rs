//! `check`: validates the configuration and prints the effective one, secrets redacted.

use std::path::Path;

use super::{Failure, load, print};
use crate::config::render;
use crate::text::printable;

pub(super) fn check(path: Option<&Path>) -> Result<(), Failure> {
    let config = load(path)?;
    let file = config.file.display().to_string();
    let mut text = format!("# {}: the configuration is valid; in effect are:\n", printable(&file));
    for warning in config.warnings() {
        text.push_str(&format!("# note: {}\n", printable(&warning)));
    }
    text.push('\n');
    for line in render(&config).lines() {
        text.push_str(&printable(line));
        text.push('\n');
    }
    print(&text)
}
