//! The first fill of a company with openids and details, from a stand-in whose answers take a while: prints the minutes
//! beside those that the pace allows. Everything stays on 127.0.0.1.
//!
//!     cargo build --release && cargo run --release --example first_fill -- 100000 5000 80
//!
//! The arguments are the number of members, calls_per_minute, and milliseconds per answer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

#[path = "common/daemon.rs"]
mod daemon;

use std::time::{Duration, Instant};

use daemon::{CORP, Daemon, KEY, TOKEN};
use wecom_dirsync::demo::standin::{Call, StandIn, User};

const APIS: [&str; 2] = ["user/convert_to_openid", "user/get"];

fn main() {
    let mut numbers = std::env::args().skip(1).map(|n| n.parse::<usize>().expect("a number"));
    let mut number = |default| numbers.next().unwrap_or(default);
    let (members, per_minute, latency) = (number(100_000), number(5000), number(80));
    let stand_in = StandIn::start().unwrap();
    stand_in.set_latency(Duration::from_millis(u64::try_from(latency).unwrap()));
    stand_in.company(|company| {
        for n in 0..members {
            let userid = format!("user{n:08}");
            company.put(User {
                userid: userid.clone(),
                departments: vec![1],
                visible: true,
                ..User::default()
            });
            company.sign_in(&userid, &format!("openid-{n}"));
        }
    });
    let (app, contacts) =
        stand_in.company(|company| (company.app_secret.clone(), company.contacts_secret.clone()));
    let ini = format!(
        "[wecom]\ncorp_id = {CORP}\napp_secret = {app}\ncontacts_secret = {contacts}\napi_base = {}\n\
         calls_per_minute = {per_minute}\n[callback]\nlisten = 127.0.0.1:0\ntoken = {TOKEN}\n\
         encoding_aes_key = {KEY}\n[admin]\nlisten =\n",
        stand_in.base_url()
    );
    let folder = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let daemon = Daemon::start(folder.path(), &ini);
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let db = rusqlite::Connection::open_with_flags(daemon.database(), flags).unwrap();
    db.busy_timeout(Duration::from_secs(5)).unwrap();
    let done = "SELECT count(*) FROM members WHERE openid_state = 'converted' AND details_state = 'known'";
    while db.query_row(done, [], |row| row.get::<_, i64>(0)).unwrap() < i64::try_from(members).unwrap() {
        std::thread::sleep(Duration::from_millis(100));
    }
    let took = begun.elapsed().as_secs_f64() / 60.0;

    let calls = stand_in.calls();
    let allowed = calls.len() as f64 / per_minute as f64;
    println!("{members} members, {per_minute} calls a minute, {latency} ms an answer");
    println!(
        "{took:.2} minutes for {} calls; the pace allows {allowed:.2}; ratio {:.3}",
        calls.len(),
        took / allowed
    );
    for api in APIS {
        let of_api: Vec<&Call> = calls.iter().filter(|call| call.api == api).collect();
        let minutes = (of_api[of_api.len() - 1].at - of_api[0].at).as_secs_f64() / 60.0;
        let peak = of_api.iter().map(|call| call.in_flight).max().unwrap_or(0);
        println!(
            "{api}: {:.0} a minute for {minutes:.2} minutes, at most {peak} in flight",
            of_api.len() as f64 / minutes
        );
    }
    let within = |i: usize| {
        calls[i..].iter().take_while(|call| call.at - calls[i].at < Duration::from_secs(61)).count()
    };
    println!("at most {} calls in 61 s", (0..calls.len()).step_by(50).map(within).max().unwrap_or(0));
    println!("the daemon: {:.1} s of processor time, {:.1} MiB at most", daemon.cpu(), daemon.peak_mib());
}
