//! `backup` under load, and what a restore loses and repairs.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use crate::common::{CORP, Lab, Settings, eventually, now, open, text, value};
use crate::replica::Replica;
use wecom_dirsync::demo::sender::contact_event;

fn quiet() -> Settings<'static> {
    Settings { openid: "enabled = no", ..Settings::default() }
}

fn backup(lab: &Lab, arguments: &[&str]) -> (Option<i32>, String) {
    let output = lab.command(&[&["backup"], arguments].concat());
    (output.status.code(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn hire(lab: &Lab, userid: &str) {
    lab.event(
        now(),
        "create_user",
        &format!("<UserID>{userid}</UserID><Name>n</Name><Department>1</Department>"),
    );
}

#[test]
fn a_backup_is_one_private_file_that_agrees_and_never_replaces_another() {
    let lab = Lab::new(quiet());
    for userid in ["a", "b", "c"] {
        hire(&lab, userid);
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("copy.db");
    let name = file.to_str().unwrap();
    let (code, said) = backup(&lab, &[name]);
    assert_eq!((code, said), (Some(0), format!("{name}: 3 members, up to change #3\n")));
    assert_eq!(names_in(folder.path()), ["copy.db"]);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    Replica::assert_feed_equals_tables(&open(&file).into());
    let before = std::fs::read(&file).unwrap();

    hire(&lab, "d");
    let (code, said) = backup(&lab, &[name]);
    assert_eq!(code, Some(1));
    assert!(said.contains("this exists already, and a backup never replaces a file"), "{said}");
    assert_eq!(std::fs::read(&file).unwrap(), before);
    let (code, said) = backup(&lab, &[folder.path().to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(said.contains("this is a folder; name a file in it, or add --keep N"), "{said}");
    let link = folder.path().join("link.db");
    std::os::unix::fs::symlink(folder.path().join("nowhere"), &link).unwrap();
    assert_eq!(backup(&lab, &[link.to_str().unwrap()]).0, Some(1), "a dangling link counts as a file");
    let (code, said) = backup(&lab, &["/nonexistent/folder/copy.db"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("cannot be created: No such file"), "{said}");
    assert_eq!(names_in(folder.path()), ["copy.db", "link.db"], "nothing half made stays");
}

#[test]
fn only_the_newest_backups_of_a_folder_stay_and_other_files_too() {
    let mut lab = Lab::new(quiet());
    hire(&lab, "a");
    // Without a daemon as well.
    lab.terminate();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    for name in ["directory-20200101-000000.db", "directory-20210101-000000.db", "notes", "directory.db"] {
        std::fs::write(folder.path().join(name), name).unwrap();
    }
    let (code, said) = backup(&lab, &[path, "--keep", "2"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("directory-20200101-000000.db: deleted, older"), "{said}");
    let names = names_in(folder.path());
    assert_eq!(names.len(), 4, "{names:?}");
    assert_eq!(
        [names[0].as_str(), names[2].as_str(), names[3].as_str()],
        ["directory-20210101-000000.db", "directory.db", "notes"]
    );
    let made = open(&folder.path().join(&names[1]));
    assert_eq!(value(&made, "SELECT group_concat(userid) FROM members"), "a");
    assert_eq!(backup(&lab, &[path, "--keep", "0"]).0, Some(2));
    let missing = folder.path().join("missing");
    assert!(backup(&lab, &[missing.to_str().unwrap(), "--keep", "1"]).1.contains("must be a folder"));
}

#[test]
fn a_damaged_database_gives_no_backup() {
    let mut lab = Lab::new(quiet());
    hire(&lab, "a");
    lab.terminate();
    let mut bytes = std::fs::read(lab.database()).unwrap();
    let page = bytes.len() / 4096 / 2;
    bytes[page * 4096..(page + 6) * 4096].fill(0x5a);
    std::fs::write(lab.database(), bytes).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = backup(&lab, &[folder.path().join("copy.db").to_str().unwrap()]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the database is damaged"), "{said}");
    assert_eq!(names_in(folder.path()), Vec::<String>::new());
}

/// Copies a backup to another machine: another folder, without a lock file.
fn restored(lab: &Lab, backup: &Path) -> Lab {
    let other = Lab::idle(Settings { reconcile: true, ..quiet() });
    std::fs::copy(backup, other.database()).unwrap();
    lab.stand_in.company(|company| {
        let users: Vec<_> = company.users().cloned().collect();
        other.stand_in.company(|company| users.into_iter().for_each(|user| company.put(user)));
    });
    other
}

#[test]
fn a_restore_drill_loses_nothing_from_before_the_backup_and_the_rest_is_repaired() {
    let mut lab = Lab::new(quiet());
    let folder = tempfile::tempdir().unwrap();
    let file: PathBuf = folder.path().join("copy.db");
    let (sent, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let acknowledged_before = std::thread::scope(|scope| {
        for thread in 0..4 {
            let (lab, sent, stop) = (&lab, &sent, &stop);
            scope.spawn(move || {
                let sender = lab.sender();
                for n in 0.. {
                    if stop.load(Relaxed) {
                        break;
                    }
                    let userid = format!("u{thread}.{n}");
                    lab.stand_in.company(|company| company.hire(&userid));
                    let inner = format!("<UserID>{userid}</UserID><Department>1</Department>");
                    let event = contact_event(CORP, now(), "create_user", &inner);
                    assert_eq!(sender.send(&event).unwrap().0, 200);
                    sent.fetch_add(1, Relaxed);
                }
            });
        }
        eventually("there is load", || sent.load(Relaxed) > 100);
        let before = sent.load(Relaxed);
        let (code, said) = backup(&lab, &[file.to_str().unwrap()]);
        stop.store(true, Relaxed);
        assert_eq!(code, Some(0), "{said}");
        before
    });
    let in_backup: usize = value(&open(&file), "SELECT count(*) FROM members").parse().unwrap();
    assert!(in_backup >= acknowledged_before, "{in_backup} of {acknowledged_before}");
    let total = sent.load(Relaxed);
    let former_epoch = lab.value("SELECT value FROM daemon_state WHERE name = 'epoch'");
    // The machine is lost.
    lab.kill();
    let mut other = restored(&lab, &file);
    other.start();
    other.wait_for("SELECT count(*) FROM members WHERE deleted_at IS NULL", &total.to_string());
    other.wait_for("SELECT count(*) > 0 FROM reconciles WHERE outcome IN ('ok', 'partial')", "1");
    assert_ne!(other.value("SELECT value FROM daemon_state WHERE name = 'epoch'"), former_epoch);
    let since = format!("{}:5", former_epoch.trim_matches('"'));
    assert_eq!(other.command(&["changes", "--since", &since]).status.code(), Some(3), "consumers are warned");
    let check = other.command(&["check", "--database"]);
    assert!(check.status.success(), "{}", text(&check.stdout));
}

#[test]
fn a_move_of_the_stopped_database_keeps_the_epoch() {
    let mut lab = Lab::new(quiet());
    hire(&lab, "a");
    lab.terminate();
    let epoch = lab.value("SELECT value FROM daemon_state WHERE name = 'epoch'");
    let mut other = restored(&lab, &lab.database());
    other.start();
    assert_eq!(other.value("SELECT value FROM daemon_state WHERE name = 'epoch'"), epoch);
    assert_eq!(
        other.command(&["changes", "--since", &format!("{}:1", epoch.trim_matches('"'))]).status.code(),
        Some(0)
    );
}
