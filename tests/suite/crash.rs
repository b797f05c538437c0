//! Killed at any moment, under load: what was acknowledged is there.
//!
//! `cargo test --test suite crash::` kills 50 times; `CRASH_ROUNDS=1000 cargo test --release --test suite crash::` as often
//! as you like.

use std::time::Duration;

use crate::common::load::Acknowledged;
use crate::common::{Lab, Settings, value};

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    let rounds = std::env::var("CRASH_ROUNDS").map_or(50, |n| n.parse().unwrap());
    let mut lab = Lab::idle(Settings { openid: "enabled = no", ..Settings::default() });
    let acknowledged = Acknowledged::default();
    let mut rng = fastrand::Rng::with_seed(9);
    for _ in 0..rounds {
        lab.start();
        let time = Duration::from_micros(rng.u64(5_000..150_000));
        acknowledged.until(&lab.url("/callback"), 16, time, || lab.kill());
    }
    let db = lab.db();
    assert_eq!(value(&db, "PRAGMA integrity_check"), "ok");
    let (count, lost) = (acknowledged.count(), acknowledged.lost(&db).unwrap());
    eprintln!("rounds={rounds} acknowledged={count} lost={lost}");
    assert!(count > rounds, "hardly anything was acknowledged");
    assert_eq!(lost, 0);
}
