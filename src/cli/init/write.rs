//! Writes the configuration atomically, readable by the service's group.

use crate::store::file::folder_of;
use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

/// The service's group, which the package creates.
const GROUP: &str = "wecom-dirsync";
const MODE: u32 = 0o640;

/// Whether the service's group may read the file.
pub(super) enum Ownership {
    /// It may, or there is no such group.
    Settled,
    /// Only root may give the file to the group.
    NotOurs,
}

impl Ownership {
    pub(super) fn note(&self, file: &Path) -> String {
        match self {
            Self::Settled => String::new(),
            Self::NotOurs => {
                let file = file.display();
                format!("Only root may give it to the service's group: sudo chgrp {GROUP} {file}\n")
            }
        }
    }
}

/// Replaces the file, or creates it if `is_new`, never over another file. Owner and group of a replaced file stay, unless
/// the service's group exists.
pub(super) fn replace(file: &Path, text: &str, is_new: bool) -> std::io::Result<Ownership> {
    // A symbolic link stays one: its target is replaced.
    let target = if is_new { file.to_owned() } else { file.canonicalize()? };
    let folder = folder_of(&target);
    let present = if is_new { None } else { Some(std::fs::metadata(&target)?) };
    let mut new = tempfile::Builder::new().prefix(".sync.ini.").tempfile_in(folder)?;
    new.write_all(text.as_bytes())?;
    let group = group_id(&std::fs::read_to_string("/etc/group").unwrap_or_default(), GROUP);
    let is_given = |group: u32| match fchown(&new, None, Some(group)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(false),
        Err(error) => Err(error),
    };
    if let Some(present) = &present
        && is_given(present.gid())?
    {
        // Only root may change the owner.
        let _ = fchown(&new, Some(present.uid()), None);
    }
    let is_settled = group.map_or(Ok(true), is_given)?;
    new.as_file().set_permissions(Permissions::from_mode(MODE))?;
    new.as_file().sync_all()?;
    let persisted = if is_new { new.persist_noclobber(&target) } else { new.persist(&target) };
    persisted.map_err(|error| error.error)?;
    File::open(folder)?.sync_all()?;
    Ok(if is_settled { Ownership::Settled } else { Ownership::NotOurs })
}

/// The id of a local group. Packages create system groups in this file, so other databases need not be searched.
fn group_id(groups: &str, name: &str) -> Option<u32> {
    let mut rows = groups.lines().map(|line| line.split(':'));
    let mut row = rows.find(|row| row.clone().next() == Some(name))?;
    row.nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let groups = "root:x:0:\nwecom-dirsync2:x:7:\nwecom-dirsync:x:998:a,b\nbroken\n";
        assert_eq!(group_id(groups, GROUP), Some(998));
        assert_eq!((group_id(groups, "broken"), group_id("", GROUP)), (None, None));
    }
}
