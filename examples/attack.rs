//! Attacks the callback port of the real binary, one kind of hostile client after the other, while somebody
//! else sends events who must not notice. Everything stays on 127.0.0.1.
//!
//!     cargo build --release && cargo run --release --example attack -- 60 2000
//!
//! The arguments are seconds for each kind, hostile connections at a time, and the kinds, if not all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

#[path = "../tests/common/attack/mod.rs"]
mod attack;
#[path = "common/daemon.rs"]
mod daemon;

use std::path::Path;
use std::time::Duration;

use attack::hostile::Kind;
use attack::{CORP, KEY, Plan, Report, TOKEN, Target, attack};
use daemon::{Daemon, proc};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |n: usize, default| arguments.get(n).map_or(default, |text| text.parse().expect("a number"));
    let (seconds, connections) = (number(0, 60), number(1, 2000));
    let named = arguments.get(2..).unwrap_or_default();
    let plan = Plan { time: Duration::from_secs(seconds as u64), connections, per_second: 50 };
    println!("{seconds} s for each kind, {connections} hostile connections, 50 legitimate events a second");
    println!("at rest: seconds after the attack until threads and descriptors are as before\n");
    println!(
        "{:<13} {:>9} {:>9} | {:>5} {:>5} {:>4} {:>4} {:>7} {:>7} {:>7} | {:>11} {:>14} {:>9} {:>8} | {:>7}",
        "kind",
        "connects",
        "answers",
        "sent",
        "ackd",
        "fail",
        "lost",
        "p50 ms",
        "p99 ms",
        "max ms",
        "threads",
        "descriptors",
        "MiB after",
        "peak MiB",
        "at rest"
    );
    for kind in Kind::ALL {
        let name = format!("{kind:?}");
        if named.is_empty() || named.iter().any(|n| n.eq_ignore_ascii_case(&name)) {
            let folder = tempfile::tempdir().unwrap();
            let daemon = start(folder.path(), kind);
            let target = Target { address: daemon.address, pid: daemon.pid(), database: daemon.database() };
            let report = attack(&target, kind, plan).wait();
            print(&name, &report);
            complaints(&daemon);
        }
    }
}

fn print(name: &str, report: &Report) {
    let Report { legitimate, before, peak, after, rest, made, answered, lost, .. } = report;
    let (acknowledged, failed) = (legitimate.acknowledged.len(), legitimate.failures.len());
    let at = |share| legitimate.within(share).as_secs_f64() * 1000.0;
    println!(
        "{name:<13} {made:>9} {answered:>9} | {:>5} {acknowledged:>5} {failed:>4} {lost:>4} {:>7.1} {:>7.1} {:>7.1} \
         | {:>11} {:>14} {:>9.1} {:>8.1} | {:>7}",
        acknowledged + failed,
        at(0.5),
        at(0.99),
        at(1.0),
        format!("{}/{}/{}", before.threads, peak.threads, after.threads),
        format!("{}/{}/{}", before.descriptors, peak.descriptors, after.descriptors),
        after.rss_mib,
        after.peak_mib,
        rest.map_or("never".into(), |rest| format!("{:.1} s", rest.as_secs_f64())),
    );
    println!("    statuses: {:?}", report.statuses);
    for failure in legitimate.failures.iter().take(3) {
        println!("    failed: {failure}");
    }
}

fn start(folder: &Path, kind: Kind) -> Daemon {
    // Room for 200,000 open tags; for all else the default.
    let more = if kind == Kind::DeepXml { "max_body = 640KiB\n" } else { "" };
    let ini = format!(
        "[wecom]\ncorp_id = {CORP}\n[callback]\nlisten = 127.0.0.1:0\ntoken = {TOKEN}\nencoding_aes_key = {KEY}\n{more}\
         [openid]\nenabled = no\n[admin]\nlisten =\n"
    );
    Daemon::start(folder, &ini)
}

/// What the daemon itself thinks went wrong.
fn complaints(daemon: &Daemon) {
    let log = daemon.log();
    let bad = log.lines().filter(|line| line.contains(" [ERROR] ") || line.contains("gate:"));
    bad.take(5).for_each(|line| println!("    log: {line}"));
}
