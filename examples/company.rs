//! A large company compared with WeCom: fills an empty database from a stand-in that lists as fast as it can, then
//! compares again with some changed, and prints the program's own time and memory, by phase. Everything stays on
//! 127.0.0.1.
//!
//!     cargo build --release && cargo run --release --example company -- 10000 100000 1000000
//!
//! The arguments are numbers of members.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

#[path = "common/daemon.rs"]
mod daemon;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use daemon::{CORP, Daemon, KEY, TOKEN, crypt};
use rusqlite::Connection;
use wecom_dirsync::demo::sender::{Sender, contact_event};
use wecom_dirsync::demo::standin::{Department, StandIn, User};
use wecom_dirsync::unix_time::unix_now;

fn main() {
    println!("members   what          wall s   own cpu s   peak MiB   callbacks p50/p99/max ms   phases (s)");
    for members in std::env::args().skip(1).map(|n| n.parse::<usize>().expect("a number of members")) {
        let stand_in = StandIn::start().unwrap();
        stand_in.company(|company| {
            for id in 2..=500u32 {
                let parent = id / 8 + 1;
                company.departments.insert(id, Department { name: format!("部门{id}"), parent, order: id });
            }
            for n in 0..members {
                let departments = vec![u32::try_from(n % 500).unwrap() + 1];
                let userid = format!("user{n:08}");
                company.put(User { userid, departments, visible: true, ..User::default() });
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let daemon = start(folder.path(), &stand_in);
        compare(&daemon, members, "first fill", 1);
        // The events are dated ahead: the next comparison must not be older than what they said.
        std::thread::sleep(Duration::from_secs(3));
        // Half a thousandth moves, a few leave, a few come; the next comparison finds out.
        stand_in.company(|company| {
            for n in (0..members).step_by(2000) {
                company.user_mut(&format!("user{n:08}")).unwrap().departments = vec![7];
                company.dismiss(&format!("user{:08}", n + 1));
                company.hire(&format!("new{n:08}"));
            }
        });
        // Without waiting for it.
        let mut command = daemon.command(&["reconcile"]).spawn().unwrap();
        std::thread::spawn(move || command.wait());
        compare(&daemon, members, "comparison", 2);
    }
}

/// Follows the comparison of this number to its end, callbacks coming all the time.
fn compare(daemon: &Daemon, members: usize, what: &str, seq: i64) {
    let begun = Instant::now();
    let cpu = daemon.cpu();
    let (mut phases, mut times): (BTreeMap<String, f64>, Vec<Duration>) = (BTreeMap::new(), Vec::new());
    let sender = sender(daemon);
    let db = db(daemon);
    let mut last = Instant::now();
    for n in 0.. {
        let inner = format!("<UserID>event{seq}-{n}</UserID><Name>x</Name><Department>1</Department>");
        let sent = Instant::now();
        let reply = sender.send(&contact_event(CORP, unix_now().0 + 2, "create_user", &inner)).unwrap();
        assert_eq!(reply, (200, "success".into()));
        times.push(sent.elapsed());
        let phase: Option<String> = db
            .query_row(
                "SELECT value ->> 'phase' FROM daemon_state WHERE name = 'reconcile_progress'",
                [],
                |r| r.get(0),
            )
            .ok();
        *phases.entry(phase.unwrap_or_else(|| "-".into())).or_default() += last.elapsed().as_secs_f64();
        last = Instant::now();
        let outcome: Option<String> =
            db.query_row("SELECT outcome FROM reconciles WHERE seq = ?1", [seq], |row| row.get(0)).ok();
        if let Some(outcome) = outcome.filter(|outcome| outcome != "running") {
            let note = db.query_row("SELECT note FROM reconciles WHERE seq = ?1", [seq], |row| {
                row.get::<_, String>(0)
            });
            assert_eq!(outcome, "ok", "{note:?}");
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let wall: f64 = db
        .query_row("SELECT finished_at - started_at FROM reconciles WHERE seq = ?1", [seq], |row| row.get(0))
        .unwrap();
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    let phases: Vec<String> =
        phases.iter().filter(|(_, s)| **s >= 0.5).map(|(phase, s)| format!("{phase} {s:.1}")).collect();
    println!(
        "{members:>8}  {what:<12} {wall:>7.0} {:>11.1} {:>10.1}   {:>7.1} {:>7.1} {:>7.1}   {}  [{:.0} s watched]",
        daemon.cpu() - cpu,
        daemon.peak_mib(),
        at(0.5),
        at(0.99),
        at(1.0),
        phases.join(", "),
        begun.elapsed().as_secs_f64(),
    );
}

fn start(folder: &Path, stand_in: &StandIn) -> Daemon {
    let (app, contacts) =
        stand_in.company(|company| (company.app_secret.clone(), company.contacts_secret.clone()));
    let ini = format!(
        "[wecom]\ncorp_id = {CORP}\napp_secret = {app}\ncontacts_secret = {contacts}\napi_base = {}\n\
         calls_per_minute = 1000000\n[callback]\nlisten = 127.0.0.1:0\ntoken = {TOKEN}\nencoding_aes_key = {KEY}\n\
         [openid]\nenabled = no\n[details]\nfetch = never\n[admin]\nlisten =\n",
        stand_in.base_url()
    );
    Daemon::start(folder, &ini)
}

fn sender(daemon: &Daemon) -> Sender {
    let url = format!("http://{}/callback", daemon.address);
    Sender::new(&url, crypt(), CORP)
}

fn db(daemon: &Daemon) -> Connection {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let db = Connection::open_with_flags(daemon.database(), flags).unwrap();
    db.busy_timeout(Duration::from_secs(5)).unwrap();
    db
}
