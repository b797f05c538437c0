//! Sets `WECOM_DIRSYNC_VERSION`: the version, and in a release build the commit that it is built from.
//!
//! Debug builds have no commit, because every commit would compile the crate anew.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=WECOM_DIRSYNC_COMMIT");
    let version = env!("CARGO_PKG_VERSION");
    let version = match commit() {
        Some(commit) => format!("{version} ({commit})"),
        None => version.to_owned(),
    };
    println!("cargo::rustc-env=WECOM_DIRSYNC_VERSION={version}");
}

/// `$WECOM_DIRSYNC_COMMIT`, for builds from sources without git; else git's answer. None if there is neither.
fn commit() -> Option<String> {
    if let Ok(commit) = std::env::var("WECOM_DIRSYNC_COMMIT") {
        return Some(commit).filter(|commit| !commit.is_empty());
    }
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "debug") {
        return None;
    }
    // The log of HEAD changes with every commit and checkout, also in a worktree, where .git is a file.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
    // Sources unpacked within another project's repository have no commit of their own.
    git(&["ls-files", "--error-unmatch", "build.rs"])?;
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|_| output.status.success())
}
