//! The deletion guard over a day: many comparisons delete no more than one may.

use crate::common::{Lab, Settings, text};
use serde_json::Value as Json;

fn reconcile(lab: &Lab, more: &[&str]) -> Json {
    let output = lab.command(&[&["reconcile", "--json"], more].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)))
}

#[test]
fn deletions_in_slices_are_bounded_like_one() {
    let more = "[details]\nfetch = never\n[reconcile]\nenabled = no\n";
    let mut lab = Lab::new(Settings { openid: "enabled = no", more, reconcile: true, ..Settings::default() });
    lab.stand_in.company(|company| (0..100).for_each(|n| company.hire(&format!("user{n:03}"))));
    assert_eq!(reconcile(&lab, &[])["outcome"], "ok");
    let dismiss = |lab: &Lab, which: std::ops::Range<usize>| {
        lab.stand_in.company(|company| which.for_each(|n| company.dismiss(&format!("user{n:03}"))));
    };
    let present = "SELECT count(*) FROM members WHERE deleted_at IS NULL";
    dismiss(&lab, 0..5);
    assert_eq!(reconcile(&lab, &[])["outcome"], "ok");
    dismiss(&lab, 5..9);
    assert_eq!(reconcile(&lab, &[])["outcome"], "ok");
    assert_eq!(lab.value(present), "91");
    dismiss(&lab, 9..11);
    lab.terminate();
    lab.start();
    let blocked = reconcile(&lab, &[]);
    assert_eq!(blocked["outcome"], "blocked", "9 and 2 of 100, also after a restart");
    let notes = blocked["notes"].to_string();
    assert!(notes.contains("2 deletions, after 9 within a day, are more"), "{notes}");
    assert_eq!(lab.value(present), "91");
    assert_eq!(reconcile(&lab, &["--allow-deletes", "2"])["outcome"], "ok");
    assert_eq!(lab.value(present), "89");

    let db = rusqlite::Connection::open(lab.database()).unwrap();
    db.execute_batch(
        "UPDATE daemon_state SET value = replace(value, '\"at\":', '\"at\":-') WHERE name = 'comparison_deletions'",
    )
    .unwrap();
    dismiss(&lab, 11..20);
    assert_eq!(reconcile(&lab, &[])["outcome"], "ok", "a day later");
    assert_eq!(lab.value(present), "80");
}
