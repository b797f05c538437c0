//! What storage may do to the daemon: never a `success` without the row, 503 in time, one message, and it goes on by
//! itself when the trouble is over. `shim/disk.c` is the disk that fails, and that loses its power.
//!
//! `POWER_ROUNDS=1000 cargo test --release --test suite power` cuts the power as often as you like.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::common::load::Acknowledged;
use crate::common::{self, CORP, Lab, Settings, assert_prompt, concurrently, eventually, now, shim, text};
use wecom_dirsync::demo::sender::contact_event;

/// A lab whose database lies on a disk of the shim's.
struct Disk {
    lab: Lab,
}

impl Disk {
    fn new() -> Self {
        Self::of(Settings { openid: "enabled = no", ..Settings::default() })
    }

    fn of(settings: Settings<'_>) -> Self {
        let mut disk = Self { lab: Lab::idle(settings) };
        disk.lab.stand_in.company(|company| company.hire("zhangsan"));
        disk.is_now("well");
        disk.start();
        disk
    }

    fn start(&mut self) {
        let mut command = self.lab.prepared(&["run"]);
        command.env("LD_PRELOAD", shim("disk")).env("DISK_FAULT", self.control());
        self.lab.start_as(command);
    }

    fn control(&self) -> PathBuf {
        self.lab.folder.path().join("disk-fault")
    }

    fn is_now(&self, fault: &str) {
        let new = self.control().with_extension("new");
        std::fs::write(&new, fault).unwrap();
        std::fs::rename(new, self.control()).unwrap();
    }

    /// kill -9, and the disk forgets writes that were not synced: all of them, or the latest ones only.
    fn power_fails(&mut self, rng: &mut fastrand::Rng) {
        self.lab.kill();
        for file in ["directory.db", "directory.db-wal"] {
            forget_unsynced(&self.lab.folder.path().join(file), rng);
        }
        // Memory, not a file: it does not outlive the power.
        let _ = std::fs::remove_file(self.lab.folder.path().join("directory.db-shm"));
    }
}

fn forget_unsynced(path: &Path, rng: &mut fastrand::Rng) {
    let undo = path.with_file_name(format!("{}.undo", path.file_name().unwrap().to_str().unwrap()));
    let Ok(records) = std::fs::read(&undo) else { return };
    std::fs::remove_file(undo).unwrap();
    let mut changes = Vec::new();
    let mut rest = records.as_slice();
    while rest.len() >= 24 {
        let number = |at: usize| u64::from_ne_bytes(rest[at..at + 8].try_into().unwrap());
        let (size, at, length) = (number(0), number(8), usize::try_from(number(16)).unwrap());
        let Some(content) = rest.get(24..24 + length) else { break };
        changes.push((size, at, content));
        rest = &rest[24 + length..];
    }
    let survivors = if rng.bool() { 0 } else { rng.usize(0..=changes.len()) };
    let Ok(file) = OpenOptions::new().write(true).open(path) else { return };
    for (size, at, content) in changes.into_iter().skip(survivors).rev() {
        file.write_all_at(content, at).unwrap();
        file.set_len(size).unwrap();
    }
}

fn creation(userid: &str) -> String {
    contact_event(CORP, now(), "create_user", &format!("<UserID>{userid}</UserID>"))
}

fn errors(lab: &Lab) -> usize {
    lab.log().lines().filter(|line| line.contains(" [ERROR] ")).count()
}

/// Events are refused in time, and said to be so once; then, after `mended`, all is as before.
fn refused_until(lab: &Lab, advice: &str, mended: impl FnOnce()) {
    let begun = lab.processor_time();
    let longest = Mutex::new(Duration::ZERO);
    let refused = |n: u32| {
        let sent = Instant::now();
        let reply = lab.sender().send(&creation(&format!("refused{n}"))).unwrap();
        assert_eq!(reply.0, 503, "{advice}: {reply:?}");
        let mut longest = longest.lock().unwrap();
        *longest = longest.max(sent.elapsed());
    };
    refused(0);
    concurrently(1..5, refused);
    let longest = longest.into_inner().unwrap();
    assert_prompt(longest, Duration::from_secs(5));
    std::thread::sleep(Duration::from_millis(500));
    assert!(lab.processor_time() - begun < 0.5, "{advice}: it keeps the processor busy");
    assert_eq!(errors(lab), 1, "{advice}: {}", lab.log());
    assert!(lab.log().contains(advice), "{advice}: {}", lab.log());
    let told = lab.log().lines().find(|line| line.contains(" [ERROR] ")).unwrap_or_default().to_owned();
    eprintln!("503 within {:.1} ms; {told}", longest.as_secs_f64() * 1000.0);
    mended();
    eventually("it goes on", || lab.sender().send(&creation("after")).unwrap().0 == 200);
    assert_eq!(lab.value("SELECT count(*) FROM members WHERE userid = 'after'"), "1");
    assert!(lab.log().contains("takes writes again"), "{}", lab.log());
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let disk = Disk::new();
    disk.lab.event(now(), "create_user", "<UserID>before</UserID>");
    disk.is_now("full");
    refused_until(&disk.lab, "the disk is full; make room", || disk.is_now("well"));
    assert_eq!(disk.lab.value("SELECT count(*) FROM members"), "2");
}

/// Each refused event is a reason to compare, which cannot be written down either.
#[test]
fn doubts_that_a_full_disk_does_not_take_are_no_reason_for_haste() {
    let disk = Disk::of(Settings { openid: "enabled = no", reconcile: true, ..Settings::default() });
    disk.lab.wait_for_first_comparison();
    disk.is_now("full");
    assert_eq!(disk.lab.sender().send(&creation("refused")).unwrap().0, 503);
    eventually("the request for a comparison cannot be recorded", || {
        disk.lab.log().contains("comparisons are postponed")
    });
    let begun = disk.lab.processor_time();
    std::thread::sleep(Duration::from_secs(1));
    let busy = disk.lab.processor_time() - begun;
    assert!(busy < 0.2, "it keeps the processor busy: {busy} s of one");
    disk.is_now("well");
    let due = "SELECT count(*) FROM daemon_state WHERE name = 'comparison_due'";
    eventually("it is written down", || disk.lab.value(due) == "1");
    assert_eq!(disk.lab.log().matches("comparisons are postponed").count(), 1, "{}", disk.lab.log());
}

#[test]
fn a_disk_that_fails_to_write_refuses_and_recovers() {
    let disk = Disk::new();
    disk.is_now("broken");
    refused_until(&disk.lab, "the disk of the database fails", || disk.is_now("well"));
}

#[test]
fn a_disk_that_fails_to_sync_refuses_and_recovers() {
    let disk = Disk::new();
    disk.is_now("nosync");
    refused_until(&disk.lab, "the disk of the database fails", || disk.is_now("well"));
}

#[test]
fn a_database_that_is_moved_away_refuses_until_it_is_back() {
    let lab = Lab::plain();
    let aside = lab.folder.path().join("aside.db");
    std::fs::rename(lab.database(), &aside).unwrap();
    refused_until(&lab, "put the same file back, or restart", || {
        std::fs::rename(&aside, lab.database()).unwrap();
    });
}

#[test]
fn a_damaged_database_is_refused_with_what_to_do() {
    let mut lab = Lab::plain();
    lab.event(now(), "create_user", "<UserID>a</UserID>");
    lab.terminate();
    let file = OpenOptions::new().write(true).open(lab.database()).unwrap();
    let length = file.metadata().unwrap().len();
    file.write_all_at(&vec![0xa5; usize::try_from(length - 200).unwrap()], 200).unwrap();
    for command in ["run", "status"] {
        let output = lab.command(&[command]);
        assert_eq!(output.status.code(), Some(1), "{command}: {output:?}");
        let errors = text(&output.stderr);
        let last = errors.lines().last().unwrap();
        assert!(last.contains("the database is damaged") && last.contains("put a copy in"), "{errors}");
    }
}

/// The daemon that runs while somebody overwrites the file.
#[test]
fn a_database_that_is_damaged_under_the_daemon_refuses_and_says_so() {
    let lab = Lab::plain();
    lab.event(now(), "create_user", "<UserID>a</UserID>");
    // Somebody else's commit makes the daemon drop what it remembers of the file; and nothing is left in the WAL.
    let other = rusqlite::Connection::open(lab.database()).unwrap();
    other.execute("INSERT INTO daemon_state VALUES ('other', 1, '1')", []).unwrap();
    other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let file = OpenOptions::new().write(true).open(lab.database()).unwrap();
    let length = file.metadata().unwrap().len();
    file.write_all_at(&vec![0xa5; usize::try_from(length - 4096).unwrap()], 4096).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while !lab.log().contains("the database is damaged") {
        assert!(Instant::now() < until, "{}", lab.log());
        let reply = lab.sender().send(&creation(&format!("u{}", fastrand::u32(..)))).unwrap();
        assert!(matches!(reply.0, 200 | 503), "{reply:?}");
    }
}

#[test]
fn a_database_that_somebody_locks_is_waited_for_and_then_refused() {
    let lab = Lab::plain();
    let shell = lab.locked();
    refused_until(&lab, "end its transaction", || shell.execute_batch("ROLLBACK").unwrap());
}

#[test]
fn a_reader_that_does_not_end_is_told_of_and_the_wal_is_short_again_afterwards() {
    let lab = Lab::new(Settings { speed: 4, ..Settings::default() });
    let reader = lab.db();
    reader.execute_batch("BEGIN; SELECT count(*) FROM members").unwrap();
    let long = "x".repeat(150_000);
    let large = |n| {
        let inner = format!("<UserID>u{n}</UserID><Address>{long}</Address>");
        assert_eq!(lab.sender().send(&contact_event(CORP, now(), "create_user", &inner)).unwrap().0, 200);
    };
    let wal = lab.folder.path().join("directory.db-wal");
    let mut sent = 0;
    eventually("the WAL grows and that is told", || {
        if std::fs::metadata(&wal).unwrap().len() < 70 << 20 {
            (sent..sent + 20).for_each(large);
            sent += 20;
        }
        // What looks is a commit.
        lab.event(now(), "create_user", "<UserID>looks</UserID>");
        std::thread::sleep(Duration::from_millis(100));
        lab.log().contains("WAL has grown to")
    });
    reader.execute_batch("COMMIT").unwrap();
    eventually("the WAL is short", || {
        lab.event(now(), "create_user", "<UserID>looks</UserID>");
        std::thread::sleep(Duration::from_millis(100));
        std::fs::metadata(&wal).unwrap().len() < 16 << 20
    });
    assert_eq!(lab.value(&format!("SELECT count(*) = {sent} FROM members WHERE userid <> 'looks'")), "1");
}

#[test]
fn a_clock_that_was_years_ahead_keeps_nobody_waiting() {
    let mut lab = Lab::plain();
    lab.hire("a");
    lab.wait_for("SELECT openid_attempts FROM members", "1");
    lab.terminate();
    let db = rusqlite::Connection::open(lab.database()).unwrap();
    db.execute("UPDATE members SET openid_next_attempt_at = ?1", [now() + 10 * 365 * 86_400]).unwrap();
    drop(db);
    lab.stand_in.company(|company| company.sign_in("a", "openid-a"));
    lab.start();
    lab.wait_for("SELECT openid_state FROM members", "converted");
}

/// Cuts the power `rounds` times under load. How many events were acknowledged, and how many of them are gone.
fn cut_the_power(rounds: usize, fault: &str) -> (usize, usize) {
    let mut disk = Disk::new();
    disk.is_now(fault);
    let mut rng = fastrand::Rng::with_seed(11);
    let acknowledged = Acknowledged::default();
    for round in 0..rounds {
        if round > 0 {
            disk.start();
        }
        let (url, time) = (disk.lab.url("/callback"), Duration::from_micros(rng.u64(20_000..200_000)));
        acknowledged.until(&url, 8, time, || disk.power_fails(&mut rng));
    }
    let db = rusqlite::Connection::open(disk.lab.database()).unwrap();
    assert_eq!(common::value(&db, "PRAGMA integrity_check"), "ok");
    let count = acknowledged.count();
    // A disk that lies may leave no tables at all.
    let lost = acknowledged.lost(&db).unwrap_or(count);
    eprintln!("power cut {rounds} times: acknowledged={count} lost={lost}");
    (count, lost)
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_fails() {
    let rounds = std::env::var("POWER_ROUNDS").map_or(15, |n| n.parse().unwrap());
    let (acknowledged, lost) = cut_the_power(rounds, "well");
    assert!(acknowledged > rounds, "hardly anything was acknowledged: {acknowledged}");
    assert_eq!(lost, 0);
}

#[test]
fn a_disk_that_lies_is_noticed_by_this_test() {
    let (acknowledged, lost) = cut_the_power(1, "lies");
    assert!(lost > 0, "of {acknowledged}");
}
