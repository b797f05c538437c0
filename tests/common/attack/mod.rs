//! Hostile clients against a running daemon, while a legitimate sender sends events.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, missing_docs)]

pub mod crowd;
pub mod hostile;
pub mod legitimate;

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::proc::Figures;
use crowd::Crowd;
use hostile::Kind;
use legitimate::Tally;
use wecom_dirsync::wecom::callback::crypt::{Crypt, EncodingAesKey};

pub const CORP: &str = "wx5823bf96d3bd56c7";
pub const TOKEN: &str = "QDG6eK";
pub const KEY: &str = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C";
/// Nothing that a client began may be left after this.
pub const REST_WITHIN: Duration = Duration::from_secs(30);

pub fn crypt() -> Crypt {
    Crypt::new(TOKEN, EncodingAesKey::parse(KEY).unwrap(), CORP)
}

/// The daemon under attack.
pub struct Target {
    pub address: SocketAddr,
    pub pid: u32,
    pub database: PathBuf,
}

/// How hard, and how long.
#[derive(Clone, Copy)]
pub struct Plan {
    pub time: Duration,
    pub connections: usize,
    /// Legitimate events a second.
    pub per_second: u32,
}

/// What came of an attack.
pub struct Report {
    pub legitimate: Tally,
    pub before: Figures,
    /// The most threads and descriptors while it lasted.
    pub peak: Figures,
    pub after: Figures,
    /// From the end of the attack until threads and descriptors were as before.
    pub rest: Option<Duration>,
    /// Hostile connections made, and answers that they got.
    pub made: u64,
    pub answered: u64,
    /// The statuses that the hostile clients saw.
    pub statuses: BTreeSet<u16>,
    /// Events that were acknowledged and are not in the database.
    pub lost: usize,
}

/// An attack that is over, whose clients are still there.
pub struct Aftermath<'a> {
    target: &'a Target,
    crowd: Crowd,
    ended: Instant,
    report: Report,
}

/// One attack on a daemon that has nothing else to do.
pub fn attack(target: &Target, kind: Kind, plan: Plan) -> Aftermath<'_> {
    let url = format!("http://{}/callback", target.address);
    // What is opened only at the first event is not of the attack.
    let mut legitimate = legitimate::one(&url);
    std::thread::sleep(Duration::from_millis(100));
    let before = Figures::of(target.pid);
    let (done, mut peak) = (AtomicBool::new(false), before);
    let crowd = Crowd::start(target.address, kind, plan.connections);
    std::thread::scope(|scope| {
        let senders = scope.spawn(|| legitimate::steadily(&url, plan.per_second, &done));
        let end = Instant::now() + plan.time;
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
            peak.raise(&Figures::of(target.pid));
        }
        done.store(true, Relaxed);
        legitimate.add(senders.join().unwrap());
    });
    crowd.fall_silent();
    let (rest, made, answered, lost) = (None, 0, 0, lost(target, &legitimate));
    let statuses = BTreeSet::new();
    let report = Report { legitimate, before, peak, after: before, rest, made, answered, statuses, lost };
    Aftermath { target, crowd, ended: Instant::now(), report }
}

impl Aftermath<'_> {
    /// Waits until the daemon is at rest.
    pub fn wait(self) -> Report {
        let Self { target, crowd, ended, mut report } = self;
        // Other attacks may have come in between.
        let begun = Instant::now();
        while report.rest.is_none() && begun.elapsed() < REST_WITHIN {
            std::thread::sleep(Duration::from_millis(10));
            let now = Figures::of(target.pid);
            report.rest = now.at_rest(&report.before).then(|| ended.elapsed());
        }
        report.after = Figures::of(target.pid);
        (report.made, report.answered, report.statuses) = crowd.disperse();
        report
    }
}

fn lost(target: &Target, tally: &Tally) -> usize {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let db = rusqlite::Connection::open_with_flags(&target.database, flags).unwrap();
    let sql = "SELECT userid FROM members JOIN events ON subject = userid AND outcome = 'applied'";
    let mut query = db.prepare(sql).unwrap();
    let found: Result<HashSet<String>, _> = query.query_map([], |row| row.get(0)).unwrap().collect();
    let found = found.unwrap();
    tally.acknowledged.iter().filter(|(userid, _)| !found.contains(userid)).count()
}
