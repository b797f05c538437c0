//! `check`: is the configuration right, and what does it come to?

use std::path::Path;

use super::{Failure, load, print};
use crate::config::render;

pub(super) fn check(path: Option<&Path>) -> Result<(), Failure> {
    let config = load(path)?;
    let mut text = format!("# {}: the configuration is valid; this is what holds\n", config.file.display());
    for remark in config.remarks() {
        text.push_str(&format!("# note: {remark}\n"));
    }
    text.push('\n');
    text.push_str(&render(&config));
    print(&text)
}
