//! Killed at any moment, under load: what was acknowledged is there.
//!
//! `cargo test --test crash` kills 50 times; `CRASH_ROUNDS=1000 cargo test --release --test crash` as often
//! as you like.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod common;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::{CORP, Lab, Settings, crypt};
use wecom_dirsync::demo::sender::{Sender, contact_event};

const SENDERS: usize = 16;

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    let rounds = std::env::var("CRASH_ROUNDS").map_or(50, |n| n.parse().unwrap());
    let mut lab = Lab::idle(Settings { openid: "enabled = no", ..Settings::default() });
    let acknowledged = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    let mut rng = fastrand::Rng::with_seed(9);
    for _ in 0..rounds {
        lab.start();
        let over = AtomicBool::new(false);
        let url = lab.url("/callback");
        std::thread::scope(|scope| {
            for _ in 0..SENDERS {
                scope.spawn(|| {
                    let sender = Sender::new(&url, crypt(), CORP);
                    while !over.load(Ordering::Relaxed) {
                        let userid = format!("u{}", next.fetch_add(1, Ordering::Relaxed));
                        let event =
                            contact_event(CORP, 5, "create_user", &format!("<UserID>{userid}</UserID>"));
                        if matches!(sender.send(&event), Ok((200, _))) {
                            acknowledged.lock().unwrap().push(userid);
                        }
                    }
                });
            }
            std::thread::sleep(Duration::from_micros(rng.u64(5_000..150_000)));
            lab.kill();
            over.store(true, Ordering::Relaxed);
        });
    }
    let db = lab.db();
    assert_eq!(common::value(&db, "PRAGMA integrity_check"), "ok");
    let acknowledged = acknowledged.into_inner().unwrap();
    let mut found =
        db.prepare("SELECT 1 FROM members JOIN events ON subject = userid WHERE userid = ?1").unwrap();
    let lost = acknowledged.iter().filter(|userid| !found.exists([userid.as_str()]).unwrap()).count();
    eprintln!("rounds={rounds} acknowledged={} lost={lost}", acknowledged.len());
    assert!(acknowledged.len() > rounds, "hardly anything was acknowledged");
    assert_eq!(lost, 0);
}
