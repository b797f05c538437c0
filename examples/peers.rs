//! Measures the real binary beside programs in Go and Node that do the plain part of its job (`benches/peers`), all
//! in one run and by turns. Everything stays on 127.0.0.1.
//!
//!     cargo run --release --example peers -- 20000 3
//!
//! The arguments are the number of events of each measurement, and the number of rounds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr, missing_docs)]

#[path = "common/daemon.rs"]
mod daemon;
#[path = "common/events.rs"]
mod events;
#[path = "common/programs.rs"]
mod programs;
#[path = "common/rows.rs"]
mod rows;

use std::path::Path;

use daemon::proc::written;
use events::{fdatasyncs, load, percentile, requests};
use programs::{Program, URL_PATH, available};
use rusqlite::Connection;

const CONNECTIONS: [usize; 3] = [64, 16, 1];

/// What the figures are compared with.
const REFERENCE: &str = "Go, group commit";

/// Of one measurement, or the medians of several.
#[derive(Clone, Copy)]
struct Figures {
    /// Events a second.
    rate: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Processor time of the server for 1,000 events, in seconds.
    cpu: f64,
    /// Written to disks for an event.
    written_kb: f64,
    /// Bytes of the database file for an event, when the WAL is empty.
    stored: f64,
}

fn main() {
    let number = |n, default| std::env::args().nth(n).map_or(default, |text| text.parse().expect("a number"));
    let (events, rounds): (usize, usize) = (number(1, 20_000), number(2, 3));
    assert!((1000..=200_000).contains(&events), "1000 to 200000 events");
    assert!((1..=20).contains(&rounds), "1 to 20 rounds");
    // Beside the binary: elsewhere temporary files may be in memory, where a sync costs nothing.
    let beside = std::env::current_exe().unwrap();
    let folder = tempfile::tempdir_in(beside.parent().unwrap()).unwrap();
    let programs = available(folder.path());
    describe_machine(folder.path());
    for program in &programs {
        println!("- {}: {}", program.name, program.versions);
    }
    for connections in CONNECTIONS {
        let mut figures = vec![Vec::new(); programs.len()];
        for round in 1..=rounds {
            for (program, figures) in programs.iter().zip(&mut figures) {
                let measured = measure(program, connections, events, &folder.path().join("run"));
                let Figures { rate, .. } = measured;
                eprintln!("{connections} connections, round {round}: {}: {rate:.0} events/s", program.name);
                figures.push(measured);
            }
        }
        println!("\n{connections} connections, {events} events, medians of {rounds} rounds:\n");
        print_figures(&programs, &figures);
        println!();
        print_ratios(&programs, &figures);
    }
}

fn measure(program: &Program, connections: usize, events: usize, folder: &Path) -> Figures {
    // A program that runs for weeks has warm caches and compiled code.
    let warm_up = events / 20;
    let server = program.start(folder);
    load(server.address, connections, &requests(URL_PATH, 0..warm_up));
    let requests = requests(URL_PATH, warm_up..warm_up + events);
    let (cpu_before, written_before) = (server.cpu(), written(server.pid()));
    let (times, took) = load(server.address, connections, &requests);
    let (cpu, written) = (server.cpu() - cpu_before, written(server.pid()) - written_before);
    let database = server.database();
    // Killed, not stopped: what is acknowledged is there all the same.
    drop(server);
    let db = Connection::open(&database).unwrap();
    let is_busy: bool = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
    assert!(!is_busy, "somebody reads the database");
    let stored = std::fs::metadata(&database).unwrap().len();
    rows::verify(&db, program.is_ours(), warm_up + events);
    drop(db);
    std::fs::remove_dir_all(folder).unwrap();
    let at = |share| percentile(&times, share).as_secs_f64() * 1000.0;
    Figures {
        rate: events as f64 / took.as_secs_f64(),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        cpu: cpu * 1000.0 / events as f64,
        written_kb: written as f64 / 1000.0 / events as f64,
        stored: stored as f64 / (warm_up + events) as f64,
    }
}

fn print_figures(programs: &[Program], figures: &[Vec<Figures>]) {
    println!(
        "| {:<18} | events/s | p50 ms | p99 ms | CPU s per 1,000 events | KB written per event | bytes stored per event |",
        "program"
    );
    println!(
        "|{:-<20}|---------:|-------:|-------:|-----------------------:|---------------------:|-----------------------:|",
        ""
    );
    for (program, figures) in programs.iter().zip(figures) {
        let of = |pick: fn(&Figures) -> f64| median(figures.iter().map(pick).collect());
        println!(
            "| {:<18} | {:>8.0} | {:>6.2} | {:>6.2} | {:>22.3} | {:>20.1} | {:>22.0} |",
            program.name,
            of(|f| f.rate),
            of(|f| f.p50_ms),
            of(|f| f.p99_ms),
            of(|f| f.cpu),
            of(|f| f.written_kb),
            of(|f| f.stored),
        );
    }
}

/// Each round's figures over those of [`REFERENCE`] in the same round: what slows the machine for a while, slows both.
fn print_ratios(programs: &[Program], figures: &[Vec<Figures>]) {
    let Some(reference) = programs.iter().position(|program| program.name == REFERENCE) else {
        println!("No ratios: {REFERENCE} is missing.");
        return;
    };
    println!(
        "| over {REFERENCE:<16} | events/s (lowest to highest) |  p50 |  p99 |  CPU | written | stored |"
    );
    println!("|{:-<23}|-----------------------------:|-----:|-----:|-----:|--------:|-------:|", "");
    for (program, own) in programs.iter().zip(figures) {
        let ratios = |pick: fn(&Figures) -> f64| -> Vec<f64> {
            own.iter().zip(&figures[reference]).map(|(own, other)| pick(own) / pick(other)).collect()
        };
        let of = |pick| median(ratios(pick));
        let rates = ratios(|f| f.rate);
        let lowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = rates.iter().copied().fold(0.0, f64::max);
        println!(
            "| {:<21} | {:>28} | {:>4.2} | {:>4.2} | {:>4.2} | {:>7.2} | {:>6.2} |",
            program.name,
            format!("{:.2} ({lowest:.2} to {highest:.2})", median(rates)),
            of(|f| f.p50_ms),
            of(|f| f.p99_ms),
            of(|f| f.cpu),
            of(|f| f.written_kb),
            of(|f| f.stored),
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len().is_multiple_of(2) { f64::midpoint(values[half - 1], values[half]) } else { values[half] }
}

fn describe_machine(folder: &Path) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    // The mount point with the longest path holds the folder.
    let mounts = read("/proc/mounts");
    let mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let holding = mounts.filter(|mount| mount.len() > 2 && folder.starts_with(mount[1]));
    let disk = holding.max_by_key(|mount| mount[1].len());
    let disk = disk.map_or("unknown".into(), |mount| format!("{} on {}", mount[2], mount[0]));
    println!("- machine: {cores} cores, {model}; Linux {}", read("/proc/sys/kernel/osrelease").trim());
    println!("- disk: {disk}, fdatasync of one page {:.0}/s", fdatasyncs(folder));
    println!("- load average at the start: {}", read("/proc/loadavg").trim());
}
