//! Hostile clients of every kind at the callback port, for a moment each, and legitimate events that must
//! not notice. The long form is `examples/attack.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "common/attack/mod.rs"]
mod attack;
mod common;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use attack::hostile::Kind;
use attack::legitimate::{self, Tally};
use attack::{Aftermath, Plan, Report, Target, attack};
use common::{Lab, Settings, proc};

const PLAN: Plan = Plan { time: Duration::from_millis(700), connections: 200, per_second: 50 };

/// A daemon to be attacked in this way.
fn lab(kind: Kind) -> (Kind, Lab, Target) {
    // Room for 200,000 open tags; for all else the default.
    let callback = if kind == Kind::DeepXml { "max_body = 640KiB" } else { "" };
    let lab = Lab::new(Settings { callback, openid: "enabled = no", ..Settings::default() });
    let target = Target { address: lab.address, pid: lab.pid(), database: lab.database() };
    (kind, lab, target)
}

/// Attacks a daemon, and sends the same events to one that nobody attacks: what the machine is busy with besides slows
/// both.
fn attack_beside<'a>(kind: Kind, target: &'a Target, control: &Lab) -> (Aftermath<'a>, Tally) {
    let (url, done) = (control.url("/callback"), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let control = scope.spawn(|| legitimate::steadily(&url, PLAN.per_second, &done));
        let aftermath = attack(target, kind, PLAN);
        done.store(true, Relaxed);
        (aftermath, control.join().unwrap())
    })
}

fn judge(kind: Kind, report: &Report, control: &Tally) {
    let Report { legitimate, before, after, rest, made, lost, .. } = report;
    let (acknowledged, slowest) = (legitimate.acknowledged.len(), legitimate.within(0.99));
    let usual = control.within(0.99);
    println!(
        "{kind:?}: {made} connections, {acknowledged} events, {slowest:?} ({usual:?} undisturbed), {:.1} MiB",
        after.peak_mib
    );
    assert!(*made >= 200, "{kind:?}: only {made} hostile connections");
    assert!(legitimate.failures.is_empty(), "{kind:?}: {:?}", legitimate.failures);
    assert!(acknowledged > 10, "{kind:?}: {acknowledged} events");
    assert!(
        slowest < Duration::from_millis(1400) + usual * 5,
        "{kind:?}: {slowest:?}, undisturbed {usual:?}"
    );
    assert_eq!(*lost, 0, "{kind:?}");
    assert!(rest.is_some(), "{kind:?}: {before:?} before, and in the end {after:?}");
    assert!(after.peak_mib < 64.0, "{kind:?}: {:.1} MiB", after.peak_mib);
    // One answer for all that fails behind the signature, so that nothing can be learnt from it. Large requests
    // may be refused while too many of them wait.
    let expected: &[u16] = match kind {
        Kind::OracleProbing | Kind::Forged | Kind::Undecryptable => &[403],
        Kind::Namespaces | Kind::DeepXml | Kind::Pipelining => &[400, 503],
        Kind::Replay => &[200, 503],
        _ => &[400, 408, 411, 413, 431, 503],
    };
    let unexpected: Vec<_> = report.statuses.iter().filter(|status| !expected.contains(status)).collect();
    assert!(unexpected.is_empty(), "{kind:?}: {unexpected:?}");
    let is_answered = matches!(kind, Kind::OracleProbing | Kind::Forged | Kind::Undecryptable | Kind::Replay);
    assert!(!is_answered || report.statuses.contains(&expected[0]), "{kind:?}: {:?}", report.statuses);
}

/// What replayed events may make the database grow by, with the legitimate ones and the write-ahead log.
fn judge_size(kind: Kind, target: &Target) {
    let size =
        |end: &str| std::fs::metadata(format!("{}{end}", target.database.display())).map_or(0, |m| m.len());
    let all = size("") + size("-wal");
    assert!(all < 8 * 1024 * 1024, "{kind:?}: {all} bytes");
}

#[test]
fn hostile_clients_of_no_kind_keep_anybody_waiting() {
    let labs: Vec<_> = Kind::ALL.into_iter().map(lab).collect();
    // One attack after the other; only the rest after them is waited for together.
    let control = Lab::new(Settings { openid: "enabled = no", ..Settings::default() });
    let attacks: Vec<_> =
        labs.iter().map(|(kind, _lab, target)| attack_beside(*kind, target, &control)).collect();
    for ((aftermath, control), (kind, _, target)) in attacks.into_iter().zip(&labs) {
        judge(*kind, &aftermath.wait(), &control);
        judge_size(*kind, target);
    }
}
