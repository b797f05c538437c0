//! Foreign clocks that are wrong, alone and in pairs: the Date of answers, CreateTime of events, this machine's clock
//! (`shim/clock.c`). `CLOCK_ALL=1` tries all pairs.

use std::collections::BTreeSet;

use crate::common::{CORP, Lab, Settings, concurrently, eventually, now, shim, text};
use wecom_dirsync::demo::sender::contact_event;

const DAY: i64 = 86_400;
const YEARS_75: i64 = 75 * 365 * DAY;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Date(i64),
    Event(i64),
    EventInMillis,
    Local(i64),
}

/// A lab whose three clocks can be set.
struct Clocks {
    lab: Lab,
    create_time: fn(i64) -> i64,
    /// Seconds by which the right time of the lab is ahead of this machine's: [`Clocks::tick`] replaces waiting.
    ahead: i64,
    date_error: i64,
    local_error: i64,
}

impl Clocks {
    fn start(more: &str) -> Self {
        let mut lab = Lab::idle(Settings { reconcile: true, more, ..Settings::default() });
        lab.stand_in.company(|company| {
            for userid in ["kept", "moved", "leaves", "returns", "lost"] {
                company.hire(userid);
            }
        });
        let mut command = lab.prepared(&["run"]);
        command.env("LD_PRELOAD", shim("clock")).env("CLOCK_SHIFT", lab.folder.path().join("shift"));
        lab.start_as(command);
        lab.wait_for("SELECT count(*) FROM reconciles WHERE outcome = 'ok'", "1");
        if !more.contains("never") {
            // No answer of before comes late.
            lab.wait_for(
                "SELECT count(*) FROM members WHERE details_state = 'known' AND openid_attempts > 0",
                "5",
            );
            // It asks for all of them.
            lab.wait_for("SELECT count(*) FROM daemon_state WHERE name = 'drift'", "1");
        }
        Self { lab, create_time: |at| at, ahead: 0, date_error: 0, local_error: 0 }
    }

    fn set(&mut self, wrong: &[Wrong]) {
        for wrong in wrong {
            match *wrong {
                Wrong::Date(seconds) => self.date_error = seconds,
                Wrong::Local(seconds) => self.local_error = seconds,
                Wrong::EventInMillis => self.create_time = |at| at * 1000,
                Wrong::Event(YEARS_75) => self.create_time = |at| at + YEARS_75,
                Wrong::Event(DAY) => self.create_time = |at| at + DAY,
                Wrong::Event(_) => self.create_time = |at| at - DAY,
            }
        }
        self.apply();
    }

    fn mend(&mut self) {
        (self.date_error, self.local_error) = (0, 0);
        self.create_time = |at| at;
        self.apply();
    }

    /// The right time.
    fn time(&self) -> i64 {
        now() + self.ahead
    }

    /// The next second begins on all clocks.
    fn tick(&mut self) {
        self.ahead += 1;
        self.apply();
    }

    fn apply(&self) {
        self.lab.stand_in.shift_date(self.ahead + self.date_error);
        let file = self.lab.folder.path().join("shift.new");
        std::fs::write(&file, (self.ahead + self.local_error).to_string()).unwrap();
        std::fs::rename(&file, self.lab.folder.path().join("shift")).unwrap();
    }

    /// An event in a second of its own.
    fn event(&mut self, change_type: &str, inner: &str) {
        self.tick();
        self.lab.event((self.create_time)(self.time()), change_type, inner);
    }

    fn reconcile(&mut self) -> String {
        self.tick();
        let output = self.lab.command(&["reconcile", "--json"]);
        format!("{}{}", text(&output.stdout), text(&output.stderr))
    }

    fn present(&self) -> BTreeSet<String> {
        let db = self.lab.db();
        let mut query = db.prepare("SELECT userid FROM members WHERE deleted_at IS NULL").unwrap();
        query.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    fn company(&self) -> BTreeSet<String> {
        self.lab.stand_in.company(|company| company.users().map(|user| user.userid.clone()).collect())
    }

    /// Whoever is with WeCom and not here, although the daemon knew of it.
    fn assert_nobody_wrongly_deleted(&self, when: &str) {
        let (present, company) = (self.present(), self.company());
        let missing: Vec<_> =
            ["kept", "moved", "returns"].iter().filter(|u| !present.contains(**u)).collect();
        assert!(missing.is_empty(), "{when}: {missing:?} of {company:?}\n{}", self.lab.log());
    }
}

/// What happens in every company, while clocks are wrong and after.
fn live_through(wrong: &[Wrong], more: &str) {
    let mut clocks = Clocks::start(more);
    clocks.set(wrong);
    let name = |company: &mut wecom_dirsync::demo::standin::Company, userid: &str, name: &str| {
        company.user_mut(userid).unwrap().name = name.into();
    };

    // While the clocks are wrong, events come, others are lost, and the directory is compared.
    clocks.lab.stand_in.company(|company| {
        name(company, "kept", "一");
        company.dismiss("leaves");
        company.dismiss("lost");
        company.hire("joined");
        company.user_mut("moved").unwrap().departments = vec![1, 2];
    });
    clocks.event("update_user", "<UserID>kept</UserID><Name>一</Name>");
    clocks.event("delete_user", "<UserID>leaves</UserID>");
    clocks.event("create_user", "<UserID>joined</UserID><Name>joined</Name><Department>1</Department>");
    let during = clocks.reconcile();
    clocks.assert_nobody_wrongly_deleted(&format!("{wrong:?} during {during}"));
    let report = &during[..during.rfind('}').map_or(0, |end| end + 1)];
    let report: serde_json::Value = serde_json::from_str(report).unwrap_or_default();
    let directory_is_right = clocks.present() == clocks.company();
    assert!(report["outcome"] != "ok" || directory_is_right, "{wrong:?}: {during}\n{:?}", clocks.present());

    // The clocks are right again. What comes now counts, and one comparison repairs the rest.
    clocks.mend();
    clocks.lab.stand_in.company(|company| {
        name(company, "kept", "二");
        company.dismiss("joined");
        company.hire("leaves");
    });
    clocks.event("update_user", "<UserID>kept</UserID><Name>二</Name>");
    clocks.event("delete_user", "<UserID>joined</UserID>");
    clocks.event("create_user", "<UserID>leaves</UserID><Name>leaves</Name><Department>1</Department>");
    let after = clocks.reconcile();
    assert!(
        after.contains("\"outcome\":\"ok\"") || after.contains("\"outcome\": \"ok\""),
        "{wrong:?}: {after}"
    );
    assert_eq!(clocks.present(), clocks.company(), "{wrong:?}: {after}\n{}", clocks.lab.log());
    let moved = "SELECT group_concat(department_id) FROM member_departments WHERE userid = 'moved'";
    assert_eq!(clocks.lab.value(moved), "1,2", "{wrong:?}");
    clocks.lab.wait_for("SELECT name FROM members WHERE userid = 'kept'", "二");
    for table in ["members", "departments", "tags"] {
        let ahead = format!("SELECT count(*) FROM {table} WHERE event_time > {}", clocks.time() + 300);
        assert_eq!(clocks.lab.value(&ahead), "0", "{wrong:?}: {table}");
    }

    // Nobody is frozen. Details of before, which WeCom may still be asked for, would be newer than the event.
    let due = "SELECT count(*) FROM members WHERE userid = 'kept' AND details_state = 'due'";
    if !more.contains("never") {
        clocks.lab.wait_for(due, "0");
    }
    clocks.event("update_user", "<UserID>kept</UserID><Name>三</Name>");
    assert_eq!(clocks.lab.value("SELECT name FROM members WHERE userid = 'kept'"), "三", "{wrong:?}");
    clocks.event("delete_user", "<UserID>kept</UserID>");
    assert!(!clocks.present().contains("kept"), "{wrong:?}");
}

fn witnesses() -> [Vec<Wrong>; 3] {
    let errors = [YEARS_75, DAY, -DAY];
    let mut events: Vec<Wrong> = errors.map(Wrong::Event).to_vec();
    events.push(Wrong::EventInMillis);
    [errors.map(Wrong::Date).to_vec(), events, errors.map(Wrong::Local).to_vec()]
}

#[test]
fn one_wrong_clock_deletes_nobody_and_freezes_nobody() {
    let scenarios: Vec<Vec<Wrong>> = witnesses().into_iter().flatten().map(|wrong| vec![wrong]).collect();
    concurrently(scenarios, |wrong| live_through(&wrong, ""));
}

#[test]
fn two_wrong_clocks_delete_nobody_and_freeze_nobody_for_longer_than_a_comparison() {
    let [date, events, local] = witnesses();
    let mut scenarios = Vec::new();
    for (one, other) in [(&date, &events), (&date, &local), (&events, &local)] {
        for a in one {
            scenarios.extend(other.iter().map(|b| vec![*a, *b]));
        }
    }
    if std::env::var_os("CLOCK_ALL").is_none() {
        // Those that agree with each other, and one of each other kind.
        let same = |pair: &[Wrong]| matches!(pair, [Wrong::Date(a), Wrong::Event(b) | Wrong::Local(b)] | [Wrong::Event(a), Wrong::Local(b)] if a == b);
        let mut turn = 0;
        scenarios.retain(|pair| {
            turn += 1;
            same(pair) || turn % 8 == 0
        });
    }
    concurrently(scenarios, |wrong| live_through(&wrong, ""));
}

#[test]
fn stamps_are_corrected_also_where_no_details_may_be_fetched() {
    let wrong = [
        vec![Wrong::Date(DAY), Wrong::Local(DAY)],
        vec![Wrong::Date(YEARS_75), Wrong::Event(YEARS_75)],
        vec![Wrong::EventInMillis],
    ];
    concurrently(wrong, |wrong| live_through(&wrong, "[details]\nfetch = never"));
}

#[test]
fn an_implausible_create_time_is_reported_once_with_its_subject_and_kept_in_the_event() {
    let mut clocks = Clocks::start("");
    let at = now();
    for (n, millis) in [(1, at * 1000), (2, at * 1000 + 1)] {
        clocks.lab.event(millis, "update_user", &format!("<UserID>kept</UserID><Position>p{n}</Position>"));
    }
    clocks.event("update_user", "<UserID>kept</UserID><Position>p3</Position>");
    assert_eq!(clocks.lab.value("SELECT position FROM members WHERE userid = 'kept'"), "p3");
    let log = clocks.lab.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("ahead of WeCom's clock")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains("subject=\"kept\""), "{log}");
    assert_eq!(clocks.lab.value("SELECT count(*) FROM events WHERE create_time > 10000000000"), "2");
    clocks.event("delete_user", "<UserID>kept</UserID>");
    assert!(!clocks.present().contains("kept"));
}

#[test]
fn an_offset_is_logged_and_shown() {
    let mut clocks = Clocks::start("");
    clocks.set(&[Wrong::Local(-2 * 3600)]);
    clocks.event("update_user", "<UserID>kept</UserID><Position>p1</Position>");
    clocks.reconcile();
    eventually("the offset is logged", || clocks.lab.log().contains("behind WeCom's"));
    let status = |arguments: &[&str]| text(&clocks.lab.command(arguments).stdout);
    eventually("status shows the offset", || {
        status(&["status"]).contains("clock          WeCom's clock is +7")
    });
    let json: serde_json::Value = serde_json::from_str(&status(&["status", "--json"])).unwrap();
    assert!((7195..=7205).contains(&json["clock"]["offset_seconds"].as_i64().unwrap()), "{json}");
}

#[test]
fn deletions_are_held_while_the_date_is_contradicted_and_due_when_the_clocks_agree_again() {
    let mut clocks = Clocks::start("");
    clocks.set(&[Wrong::Date(-DAY)]);
    clocks.lab.stand_in.company(|company| company.dismiss("lost"));
    let held = clocks.reconcile();
    assert!(held.contains("held") && held.contains("partial"), "{held}");
    assert!(clocks.present().contains("lost"));
    clocks.mend();
    // Any answer shows that the clocks agree, such as that for a conversion.
    clocks.lab.hire("somebody");
    let due =
        "SELECT count(*) FROM daemon_state WHERE name = 'comparison_due' AND value LIKE '%clocks agree%'";
    clocks.lab.wait_for(due, "1");
    clocks.reconcile();
    assert!(!clocks.present().contains("lost"));
}

#[test]
fn a_replay_changes_nothing_after_its_first_delivery_has_left_the_events() {
    let clocks = Clocks::start("");
    let at = now();
    let create =
        contact_event(CORP, at, "create_user", "<UserID>x</UserID><Name>X</Name><Department>1</Department>");
    let delete = contact_event(CORP, at + 1, "delete_user", "<UserID>x</UserID>");
    let recreate = contact_event(
        CORP,
        at + 2,
        "create_user",
        "<UserID>y</UserID><Name>Y</Name><Department>1</Department>",
    );
    let update = contact_event(CORP, at + 3, "update_user", "<UserID>y</UserID><Name>Z</Name>");
    let all = [&create, &delete, &recreate, &update];
    for event in all {
        assert_eq!(clocks.lab.sender().send(event).unwrap().0, 200);
    }
    let directory = |clocks: &Clocks| {
        let rows = "SELECT group_concat(userid || coalesce(name, '') || coalesce(deleted_at, '')) FROM members ORDER BY userid";
        (clocks.lab.value(rows), clocks.lab.value("SELECT max(seq) FROM changes WHERE action <> 'openid'"))
    };
    let before = directory(&clocks);
    let db = rusqlite::Connection::open(clocks.lab.database()).unwrap();
    db.execute("DELETE FROM events", []).unwrap();
    for event in [all, all].concat() {
        assert_eq!(clocks.lab.sender().send(event).unwrap().0, 200);
    }
    assert_eq!(directory(&clocks), before);
}
