//! A daemon that nobody calls: it sleeps, and still hears at once what commands want.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod common;

use std::time::{Duration, Instant};

use common::{Lab, Settings, eventually};

/// How often the daemon's threads have been woken so far.
fn wake_ups(lab: &Lab) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", lab.pid())).unwrap();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).ok())
        .filter_map(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            line.map(|number| number.trim().parse::<u64>().unwrap())
        })
        .sum()
}

/// A company of one, who has not signed in yet.
fn lab() -> Lab {
    let settings = Settings { reconcile: true, admin: "127.0.0.1:0", ..Settings::default() };
    let lab = Lab::idle(settings);
    lab.stand_in.company(|company| company.hire("zhangsan"));
    lab
}

fn wait_for_the_fill(lab: &Lab) {
    lab.wait_for_first_comparison();
    lab.wait_for("SELECT openid_attempts FROM members WHERE userid = 'zhangsan'", "1");
}

/// How long it takes until each command has its effect.
fn both_commands(lab: &Lab) -> (Duration, Duration) {
    let begun = Instant::now();
    let output = lab.command(&["reconcile", "--dry-run"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let reconcile = begun.elapsed();
    let begun = Instant::now();
    let output = lab.command(&["retry", "zhangsan"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    eventually("WeCom is asked again", || lab.stand_in.count("user/convert_to_openid") == 2);
    (reconcile, begun.elapsed())
}

#[test]
fn an_idle_daemon_sleeps_and_hears_commands_at_once() {
    let mut lab = lab();
    lab.start();
    wait_for_the_fill(&lab);
    let measured = Duration::from_secs(4);
    // What was under way comes to rest at its own time: the details settle for 2 s, and tiny_http's spare threads end after 5.
    let mut woken = 0;
    eventually("it sleeps", || {
        let before = wake_ups(&lab);
        std::thread::sleep(measured);
        woken = wake_ups(&lab).saturating_sub(before);
        woken <= 4
    });
    eprintln!("{woken} wake-ups in {measured:?}");
    let (reconcile, retry) = both_commands(&lab);
    eprintln!("reconcile took {reconcile:?}, retry {retry:?}");
    assert!(reconcile < Duration::from_secs(5) && retry < Duration::from_secs(5), "{reconcile:?} {retry:?}");
}
