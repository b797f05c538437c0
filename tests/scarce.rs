//! What the system may refuse to give: descriptors and threads. The service lives on, or ends so that it is
//! started again; it is never there and deaf.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "common/attack/mod.rs"]
mod attack;
mod common;

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use attack::crowd::Crowd;
use attack::hostile::Kind;
use common::proc::{self, Figures};
use common::{Lab, Settings, binary, eventually, now, text};

/// Words that make a command another user's, whom a number of threads binds, where this is root's test.
fn as_somebody() -> Vec<&'static str> {
    let user = Command::new("id").arg("-u").output().unwrap();
    let root = text(&user.stdout).trim() == "0";
    if root { vec!["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"] } else { Vec::new() }
}

/// The daemon's command line as somebody's, perhaps with a limit on the way.
fn command(lab: &Lab, limit: Option<&str>) -> Command {
    std::fs::set_permissions(lab.folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let mut words = as_somebody();
    words.extend(limit.iter().flat_map(|limit| ["prlimit", limit]));
    words.extend([binary(), "run", "-c"]);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(lab.ini());
    command
}

/// Sets a limit of the running daemon; only the soft one, so that it can be raised again.
fn set_limit(who: &[&str], lab: &Lab, limit: &str) {
    let (words, pid) = ([who, &["prlimit", "--pid"]].concat(), lab.pid().to_string());
    let status = Command::new(words[0]).args(&words[1..]).arg(pid).arg(limit).status().unwrap();
    assert!(status.success(), "{limit}");
}

/// Whether a new event is acknowledged.
fn is_served(lab: &Lab, n: usize) -> bool {
    let inner = format!("<UserID>u{n}</UserID><Department>1</Department>");
    let event = wecom_dirsync::demo::sender::contact_event(common::CORP, now(), "create_user", &inner);
    lab.sender().send(&event).is_ok_and(|reply| reply == (200, "success".into()))
}

#[test]
fn descriptors_that_run_out_under_way_leave_the_service_slower_and_not_deaf() {
    let lab = Lab::new(Settings { openid: "enabled = no", ..Settings::default() });
    assert!(is_served(&lab, 0));
    let before = Figures::of(lab.pid());
    // Much less than it was promised when it started.
    set_limit(&[], &lab, &format!("--nofile={}:", before.descriptors + 20));
    let crowd = Crowd::start(lab.address, Kind::Idle, 400);
    eventually("they are used up", || lab.log().contains("cannot take connections for now"));
    let begun = Instant::now();
    let served = (1..=40).filter(|n| is_served(&lab, *n)).count();
    eprintln!("{served} of 40 while descriptors were used up, in {:?}", begun.elapsed());
    assert!(served >= 30, "{served} of 40");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let complaints = lab.log().matches("cannot take connections").count();
    assert!(complaints < 5, "the log is not flooded: {complaints}");
    set_limit(&[], &lab, "--nofile=8192:");
    crowd.disperse();
    for n in 41..60 {
        assert!(is_served(&lab, n));
    }
    eventually("all is as before", || Figures::of(lab.pid()).descriptors <= before.descriptors);
}

/// A member joins who can be converted.
fn signed_in(lab: &Lab, userid: &str) {
    lab.stand_in.company(|company| {
        company.hire(userid);
        company.sign_in(userid, &format!("openid-{userid}"));
    });
    lab.event(now(), "create_user", &format!("<UserID>{userid}</UserID><Department>1</Department>"));
}

#[test]
fn without_new_threads_the_service_goes_on_and_conversion_does_afterwards() {
    let mut lab = Lab::idle(Settings::default());
    let command = command(&lab, None);
    lab.start_as(command);
    let before = Figures::of(lab.pid());
    set_limit(&as_somebody(), &lab, "--nproc=1:");
    signed_in(&lab, "first");
    let crowd = Crowd::start(lab.address, Kind::Forged, 200);
    for n in 0..20 {
        assert!(is_served(&lab, n));
    }
    std::thread::sleep(Duration::from_secs(1));
    crowd.disperse();
    assert!(Figures::of(lab.pid()).threads <= before.threads);
    set_limit(&as_somebody(), &lab, "--nproc=4096:");
    signed_in(&lab, "second");
    for userid in ["first", "second"] {
        let sql = format!("SELECT openid_state FROM members WHERE userid = '{userid}'");
        lab.wait_for(&sql, "converted");
    }
    let log = lab.log();
    assert!(log.contains(": panic at std/"), "the HTTP client did want a thread: {log}");
    assert_eq!(log.matches("no thread for another call").count(), 1, "{log}");
    assert!(log.lines().all(|line| line.starts_with("20")), "only lines of the log: {log}");
}

#[test]
fn with_too_few_threads_it_ends_with_a_failure_that_systemd_answers() {
    for limit in ["--nproc=3", "--nproc=12", "--nproc=24", "--nproc=36"] {
        let lab = Lab::idle(Settings::default());
        let mut command = command(&lab, Some(limit));
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > Duration::from_secs(15) {
                child.kill().unwrap();
                panic!("{limit}: it is there, and deaf");
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        // 78 would mean not to try again.
        assert!(!matches!(status.code(), Some(0 | 78)), "{limit}: {status:?}");
    }
}
