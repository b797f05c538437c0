//! `backup`: a verified copy of the database, as one file or as the newest of a folder.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::{Failure, load, print};
use crate::store::backup::{copy, date_for_file};
use crate::store::file::folder_of;
use crate::text::printable;
use crate::unix_time::unix_now;

/// Before and after the date in the name of a file of a folder.
const PREFIX: &str = "directory-";
const SUFFIX: &str = ".db";
/// Length of `YYYYMMDD-HHMMSS`.
const DATE: usize = 15;

pub(super) fn backup(path: Option<&Path>, destination: &Path, keep: Option<usize>) -> Result<(), Failure> {
    let config = load(path)?;
    let target = match keep {
        None => destination.to_owned(),
        Some(_) => {
            if !destination.is_dir() {
                return Err(at(destination)("with --keep, this must be a folder; create it (mkdir -m 0700)"));
            }
            let date = date_for_file(unix_now())?;
            destination.join(format!("{PREFIX}{date}{SUFFIX}"))
        }
    };
    if target.symlink_metadata().is_ok() {
        return Err(at(&target)(exists(&target)));
    }
    let partial = Partial::create(&target)?;
    let copied = copy(&config.database.path, &partial.path)?;
    partial.publish(&target)?;
    let mut text = format!(
        "{}: {} members, up to change #{}\n",
        printable(&target.display().to_string()),
        copied.members,
        copied.last_change
    );
    for old in keep.map_or_else(|| Ok(Vec::new()), |keep| surplus(destination, keep))? {
        std::fs::remove_file(&old).map_err(|error| at(&old)(&format!("cannot be deleted: {error}")))?;
        text.push_str(&format!("{}: deleted, older\n", printable(&old.display().to_string())));
    }
    print(&text)?;
    match copied.findings.first() {
        None => Ok(()),
        Some(first) => Err(Failure::Other(format!(
            "the copy has {} disagreements, the first: {}; most likely the database has them, too: run check --database",
            copied.findings.len(),
            printable(first)
        ))),
    }
}

fn exists(target: &Path) -> &'static str {
    if target.is_dir() {
        "this is a folder; name a file in it, or add --keep N for dated files"
    } else {
        "this exists already, and a backup never replaces a file; name another one"
    }
}

fn at(path: &Path) -> impl Fn(&str) -> Failure {
    move |what| Failure::Other(format!("{}: {what}", path.display()))
}

/// The copy while it is made; dropping it deletes the file.
struct Partial {
    path: PathBuf,
}

impl Partial {
    fn create(target: &Path) -> Result<Self, Failure> {
        let name = target.file_name().ok_or_else(|| at(target)("this names no file"))?;
        let name = format!(".{}.{}.partial", name.to_string_lossy(), std::process::id());
        let path = folder_of(target).join(name);
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        created.map_err(|error| at(&path)(&format!("cannot be created: {error}")))?;
        Ok(Self { path })
    }

    /// Syncs the copy and gives it its name, if that is still free.
    fn publish(self, target: &Path) -> Result<(), Failure> {
        let named = || -> io::Result<()> {
            File::open(&self.path)?.sync_all()?;
            match renameat_with(CWD, &self.path, CWD, target, RenameFlags::NOREPLACE) {
                // Some file systems cannot rename so, but link.
                Err(Errno::INVAL | Errno::NOSYS) => std::fs::hard_link(&self.path, target)?,
                renamed => renamed?,
            }
            File::open(folder_of(target))?.sync_all()
        };
        named().map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => at(target)(exists(target)),
            _ => at(target)(&format!("cannot be written: {error}")),
        })
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Also after a rename, when it is gone. SQLite leaves no file beside it, unless it fails.
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(self.path.with_extension("partial-journal"));
    }
}

/// The backups of the folder beyond the newest `keep`. Other files are never touched.
fn surplus(folder: &Path, keep: usize) -> Result<Vec<PathBuf>, Failure> {
    let mut backups = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_backup) && entry.file_type()?.is_file() {
            backups.push(entry.path());
        }
    }
    backups.sort();
    backups.truncate(backups.len().saturating_sub(keep));
    Ok(backups)
}

fn is_backup(name: &str) -> bool {
    let date = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
    date.is_some_and(|date| {
        date.len() == DATE
            && date.bytes().enumerate().all(|(n, b)| if n == 8 { b == b'-' } else { b.is_ascii_digit() })
    })
}

#[cfg(test)]
mod tests {
    use super::is_backup;

    #[test]
    fn only_names_of_backups_are_deleted() {
        assert!(is_backup("directory-20261125-212300.db"));
        for other in
            ["directory.db", "directory-20261125.db", "directory-20261125-21230x.db", "a-20261125-212300.db"]
        {
            assert!(!is_backup(other), "{other}");
        }
    }
}
