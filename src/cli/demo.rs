//! `demo`: the story that everybody who connects to WeCom lives through, played on this machine.

use std::path::Path;

use super::Failure;

pub(super) fn demo(_folder: &Path) -> Result<(), Failure> {
    Ok(())
}
