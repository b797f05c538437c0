//! A large company: every command and view that a person waits for answers in under a second.
//!
//! `cargo test --release --test scale -- --ignored --nocapture` prints what was measured.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod common;
#[path = "common/events.rs"]
mod events;

use std::time::{Duration, Instant};

use common::{CORP, Lab, Settings};
use wecom_dirsync::demo::sender::contact_event;
use wecom_dirsync::store::open_writer;

const MEMBERS: usize = 100_000;
const DEPARTMENTS: usize = 5_000;

#[test]
#[ignore = "takes a release build to mean anything"]
fn a_hundred_thousand_members_in_five_thousand_departments_answer_within_a_second() {
    let lab = Lab::idle(Settings { openid: "enabled = no", ..Settings::default() });
    let db = open_writer(&lab.database(), 0o600).unwrap();
    let begun = Instant::now();
    let fill = |db: &wecom_dirsync::store::Connection| -> wecom_dirsync::store::Result<()> {
        for id in 1..=DEPARTMENTS {
            let inner = format!("<Id>{id}</Id><Name>部门{id}</Name><ParentId>{}</ParentId>", id / 8);
            events::deliver(db, &contact_event(CORP, 5, "create_party", &inner));
        }
        for n in 0..MEMBERS {
            let inner = format!(
                "<UserID>user{n}</UserID><Name>张{n}</Name><Department>{},{}</Department><Mobile>138{n:08}</Mobile>",
                n % DEPARTMENTS + 1,
                n * 7 % DEPARTMENTS + 1
            );
            events::deliver(db, &contact_event(CORP, 6, "create_user", &inner));
        }
        Ok(())
    };
    db.transaction(fill).unwrap();
    eprintln!(
        "{MEMBERS} members, {DEPARTMENTS} departments; applied at {:.0}/s",
        MEMBERS as f64 / begun.elapsed().as_secs_f64()
    );
    drop(db);

    let mut slow = Vec::new();
    let mut measure = |what: &str, work: &dyn Fn()| {
        let begun = Instant::now();
        work();
        let took = begun.elapsed();
        eprintln!("{what:<40} {:>6} ms", took.as_millis());
        if took > Duration::from_secs(1) {
            slow.push(what.to_owned());
        }
    };
    let commands = [
        &["status"][..],
        &["member", "user77777"],
        &["export", "--format", "csv"],
        &["export", "--format", "ndjson"],
        &["changes", "--since", "104000"],
    ];
    for command in commands {
        measure(&command.join(" "), &|| assert!(lab.command(command).status.success()));
    }
    for sql in [
        "SELECT * FROM active_members",
        "SELECT * FROM active_members WHERE userid = 'user5'",
        "SELECT * FROM pending_members",
        "SELECT * FROM recent_events",
        "SELECT * FROM department_tree",
    ] {
        let rows = || wecom_dirsync::store::queries::table(&lab.db().into(), sql).unwrap().len();
        measure(sql, &|| assert!(rows() > 1));
    }
    assert!(slow.is_empty(), "slower than a second: {slow:?}");
}
