//! Deletion by age: what goes, what stays, and that a replay of what is gone has no effect.

use crate::common::{CORP, Lab, Settings, eventually, now, text};
use wecom_dirsync::demo::sender::contact_event;

const DAY: i64 = 86_400;

/// A daemon whose wall clock the test sets ahead.
struct Aged {
    lab: Lab,
    days: i64,
}

impl Aged {
    fn start(more: &str) -> Self {
        // The Date of answers would be that of the real clock.
        let more = &format!("[details]\nfetch = never\n{more}");
        let lab = Lab::idle(Settings { openid: "enabled = no", more, speed: 4, ..Settings::default() });
        let mut aged = Self { lab, days: 0 };
        aged.run();
        aged
    }

    fn run(&mut self) {
        let shift = self.lab.folder.path().join("shift");
        std::fs::write(&shift, (self.days * DAY).to_string()).unwrap();
        let mut command = self.lab.prepared(&["run"]);
        command.env("CLOCK_SHIFT", shift);
        self.lab.start_as(command);
    }

    /// Restarts the daemon this many days after the beginning, and sends an event of that time: two clocks agree then.
    fn restart_after(&mut self, days: i64) {
        self.lab.terminate();
        self.days = days;
        self.run();
        self.event(0, "create_user", &format!("<UserID>after{days}</UserID><Name>n</Name>"));
    }

    fn now(&self) -> i64 {
        now() + self.days * DAY
    }

    fn event(&self, later: i64, change_type: &str, inner: &str) -> String {
        let event = contact_event(CORP, self.now() + later, change_type, inner);
        self.send(&event);
        event
    }

    fn send(&self, event: &str) {
        assert_eq!(self.lab.sender().send(event).unwrap(), (200, "success".into()), "{event}");
    }

    fn assert_database_agrees(&self) {
        let output = self.lab.command(&["check", "--database"]);
        let printed = text(&output.stdout);
        assert!(output.status.success() && printed.contains("agree ("), "{printed}");
    }

    /// Exit code of `changes --since`, and what it said.
    fn changes_since(&self, since: &str) -> (Option<i32>, String) {
        let output = self.lab.command(&["changes", "--since", since]);
        (output.status.code(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
    }
}

/// All that the directory says, without the log of events and calls.
const DIRECTORY: &str = "SELECT group_concat(row, ' | ') FROM
    (SELECT userid || coalesce(name, '-') || coalesce(deleted_at, '') || details_state AS row FROM members
     UNION ALL SELECT id || coalesce(name, '-') || coalesce(deleted_at, '') FROM departments
     UNION ALL SELECT tag_id || userid FROM tag_members
     UNION ALL SELECT 'feed ' || max(seq) FROM changes
     UNION ALL SELECT 'due ' || count(*) FROM daemon_state WHERE name = 'comparison_due' ORDER BY 1)";

#[test]
fn events_go_before_changes_and_consumers_of_deleted_changes_are_told() {
    let mut aged = Aged::start("[retention]\nevents = 30d\nchanges = 90d\n");
    for n in 0..300 {
        aged.event(
            0,
            "create_user",
            &format!("<UserID>u{n}</UserID><Name>name{n}</Name><Department>1</Department>"),
        );
    }
    aged.event(1, "create_party", "<Id>1</Id><Name>d</Name>");
    aged.event(1, "update_tag", "<TagId>7</TagId><AddUserItems>u1</AddUserItems>");
    let before = aged.lab.value("SELECT max(seq) FROM changes");
    aged.restart_after(40);
    aged.lab.wait_for("SELECT min(seq) = max(seq) FROM events", "1");
    assert_eq!(aged.lab.value("SELECT max(seq) FROM events"), "303", "the newest stays");
    assert_eq!(aged.lab.value("SELECT min(seq) FROM changes"), "1", "changes stay longer");
    aged.assert_database_agrees();
    assert_eq!(aged.changes_since("0").0, Some(0));

    aged.restart_after(100);
    let first_kept = before.parse::<i64>().unwrap() + 1;
    aged.lab.wait_for("SELECT min(seq) FROM changes", &first_kept.to_string());
    aged.lab.wait_for(
        "SELECT count(*) FROM events WHERE received_at < (SELECT max(received_at) - 30 * 86400 FROM events)",
        "0",
    );
    assert_eq!(aged.lab.value("SELECT max(seq) FROM events"), "304", "numbers continue");
    aged.assert_database_agrees();
    let (code, said) = aged.changes_since(&(first_kept - 2).to_string());
    assert_eq!(code, Some(3), "{said}");
    let last = aged.lab.value("SELECT max(seq) FROM changes");
    let expected = format!("changes #{0} to #{0} are older than [retention] changes", first_kept - 1);
    assert!(said.contains(&expected) && said.contains(&format!("--since {last}")), "{said}");
    assert_eq!(
        aged.changes_since("0").0,
        Some(3),
        "whoever rebuilds the directory from the feed is told, too"
    );
    assert_eq!(aged.changes_since(&(first_kept - 1).to_string()).0, Some(0));
    let kept = text(&aged.lab.command(&["changes"]).stdout);
    assert!(kept.starts_with(&format!("{{\"seq\":{first_kept},")), "{kept}");

    // A pruned feed is verified as far as it goes.
    aged.event(1, "update_user", "<UserID>u1</UserID><Position>p</Position>");
    aged.lab.terminate();
    let damage = "UPDATE changes SET fields = replace(fields, '\"p\"', '\"q\"') WHERE seq = (SELECT max(seq) FROM changes)";
    rusqlite::Connection::open(aged.lab.database()).unwrap().execute_batch(damage).unwrap();
    let output = aged.lab.command(&["check", "--database"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stdout).contains("no line \"updated\" of member u1 position"),
        "{}",
        text(&output.stdout)
    );
}

#[test]
fn a_replay_of_a_deleted_event_has_no_effect() {
    let mut aged = Aged::start("[retention]\nevents = 30d\n");
    let mut sent = Vec::new();
    let mut event =
        |aged: &Aged, later, change_type, inner: &str| sent.push(aged.event(later, change_type, inner));
    event(&aged, 0, "create_user", "<UserID>a</UserID><Name>first</Name><Mobile>1</Mobile>");
    event(&aged, 1, "update_user", "<UserID>a</UserID><Name>second</Name>");
    event(&aged, 2, "delete_user", "<UserID>a</UserID>");
    event(&aged, 3, "create_user", "<UserID>a</UserID><Name>third</Name>");
    event(&aged, 3, "update_user", "<UserID>a</UserID><NewUserID>b</NewUserID>");
    event(&aged, 4, "create_user", "<UserID>a</UserID><Name>another</Name>");
    event(&aged, 5, "create_party", "<Id>2</Id><Name>one</Name>");
    event(&aged, 6, "delete_party", "<Id>2</Id>");
    event(&aged, 7, "update_tag", "<TagId>7</TagId><AddUserItems>a,b</AddUserItems>");
    event(&aged, 8, "update_tag", "<TagId>7</TagId><DelUserItems>a</DelUserItems>");
    // So many that a snapshot replaces the older ones.
    event(&aged, 0, "create_user", "<UserID>busy</UserID><Name>n</Name>");
    event(&aged, 1, "update_user", "<UserID>busy</UserID><Mobile>1</Mobile>");
    for n in 0..30 {
        event(&aged, n + 2, "update_user", &format!("<UserID>busy</UserID><Name>n{n}</Name>"));
    }
    let batch = format!(
        "<xml><ToUserName>{CORP}</ToUserName><FromUserName>sys</FromUserName><CreateTime>{}</CreateTime>\
         <MsgType>event</MsgType><Event>batch_job_result</Event><BatchJob><JobId>j</JobId><JobType>sync_user</JobType>\
         <ErrCode>0</ErrCode><ErrMsg>ok</ErrMsg></BatchJob></xml>",
        aged.now()
    );
    aged.send(&batch);
    let ahead =
        contact_event(CORP, aged.now() + 500 * DAY, "update_user", "<UserID>b</UserID><Name>ahead</Name>");
    aged.send(&ahead);
    aged.restart_after(41);
    aged.event(1, "update_user", "<UserID>busy</UserID><Name>late</Name>");
    aged.event(2, "update_user", "<UserID>b</UserID><Name>b now</Name>");
    aged.lab.wait_for(
        "SELECT count(*) FROM events WHERE received_at < (SELECT max(received_at) - 30 * 86400 FROM events)",
        "1",
    );
    assert_eq!(
        aged.lab.value("SELECT count(*) FROM member_facts WHERE userid = 'busy' AND arrival < 0"),
        "1",
        "there is a snapshot"
    );
    rusqlite::Connection::open(aged.lab.database())
        .unwrap()
        .execute_batch("DELETE FROM daemon_state WHERE name = 'comparison_due'")
        .unwrap();
    let before = aged.lab.value(DIRECTORY);
    let replayed_from = aged.lab.value("SELECT max(seq) FROM events");
    sent.extend([batch, ahead]);
    for event in &sent {
        aged.send(event);
    }
    assert_eq!(aged.lab.value(DIRECTORY), before);
    let outcomes = format!("SELECT group_concat(DISTINCT outcome) FROM events WHERE seq > {replayed_from}");
    assert_eq!(aged.lab.value(&outcomes), "stale,duplicate");
    aged.assert_database_agrees();
}

#[test]
fn a_member_that_departed_long_ago_goes_completely_and_does_not_return_by_a_replay() {
    let mut aged = Aged::start("[retention]\nevents = 30d\nchanges = 90d\ndeleted_members = 100d\n");
    let mut sent = vec![
        aged.event(
            0,
            "create_user",
            "<UserID>old.name</UserID><Name>Departed</Name><Department>1</Department>",
        ),
        aged.event(1, "update_tag", "<TagId>7</TagId><AddUserItems>old.name,stays</AddUserItems>"),
        aged.event(
            2,
            "update_user",
            "<UserID>old.name</UserID><NewUserID>gone</NewUserID><Mobile>138</Mobile>",
        ),
        aged.event(3, "delete_user", "<UserID>gone</UserID>"),
        aged.event(0, "create_user", "<UserID>first</UserID><Name>Renamed away</Name>"),
        aged.event(1, "update_user", "<UserID>first</UserID><NewUserID>leaver</NewUserID>"),
        aged.event(2, "create_user", "<UserID>first</UserID><Name>Next holder</Name>"),
        aged.event(3, "delete_user", "<UserID>leaver</UserID>"),
        aged.event(4, "delete_user", "<UserID>never.known</UserID>"),
    ];
    aged.event(0, "create_user", "<UserID>stays</UserID><Name>Stays</Name>");
    aged.restart_after(50);
    aged.event(0, "create_user", "<UserID>recent</UserID>");
    aged.event(1, "delete_user", "<UserID>recent</UserID>");
    aged.restart_after(120);
    aged.lab.wait_for("SELECT count(*) FROM members WHERE userid IN ('gone', 'leaver')", "0");
    aged.lab.wait_for("SELECT count(*) FROM member_facts WHERE userid = 'never.known'", "0");
    aged.lab.wait_for("SELECT count(*) FROM daemon_state WHERE name = 'sizes'", "1");
    let names = "('gone', 'old.name', 'leaver', 'never.known')";
    for (table, column) in [
        ("member_facts", "userid"),
        ("renames", "old_userid"),
        ("renames", "new_userid"),
        ("tag_members", "userid"),
        ("member_departments", "userid"),
    ] {
        let left = format!("SELECT count(*) FROM {table} WHERE {column} IN {names}");
        assert_eq!(aged.lab.value(&left), "0", "{table}.{column}");
    }
    let content =
        "SELECT count(*) FROM member_facts WHERE fact LIKE '%Departed%' OR fact LIKE '%Renamed away%'";
    assert_eq!(aged.lab.value(content), "0");
    assert_eq!(aged.lab.value("SELECT name FROM members WHERE userid = 'first'"), "Next holder");
    assert_eq!(aged.lab.value("SELECT group_concat(userid) FROM tag_members"), "stays");
    assert_eq!(aged.lab.value("SELECT deleted_at IS NULL FROM members WHERE userid = 'recent'"), "0");
    aged.assert_database_agrees();

    let before = aged.lab.value(DIRECTORY);
    sent.reverse();
    for event in sent.iter().chain(sent.iter().rev()) {
        aged.send(event);
    }
    assert_eq!(aged.lab.value(DIRECTORY), before);
    aged.assert_database_agrees();
    aged.event(3, "create_user", "<UserID>gone</UserID><Name>Returned</Name>");
    let returned =
        "SELECT name || coalesce(mobile, '') || (deleted_at IS NULL) FROM members WHERE userid = 'gone'";
    assert_eq!(aged.lab.value(returned), "Returned1");
    aged.assert_database_agrees();
}

#[test]
fn nothing_is_deleted_while_only_one_clock_says_that_it_is_old() {
    let mut aged = Aged::start("");
    aged.event(0, "create_user", "<UserID>a</UserID>");
    aged.event(0, "create_user", "<UserID>b</UserID>");
    aged.lab.terminate();
    aged.days = 4000;
    aged.run();
    // An event of the real time: the clock of this machine has no support.
    let event = contact_event(CORP, now(), "create_user", "<UserID>c</UserID>");
    aged.send(&event);
    // Time for two rounds.
    std::thread::sleep(std::time::Duration::from_secs(8));
    assert_eq!(aged.lab.value("SELECT count(*) FROM events"), "3");
    assert_eq!(aged.lab.value("SELECT count(*) FROM changes"), "3");
    aged.event(0, "create_user", "<UserID>d</UserID>");
    aged.lab.wait_for("SELECT min(seq) FROM events", "3");
}

#[test]
fn the_file_shrinks_and_status_shows_its_size() {
    let mut aged = Aged::start("[retention]\nevents = 30d\n");
    let payload = "x".repeat(6000);
    for n in 0..1500 {
        aged.event(0, "update_user", &format!("<UserID>u{n}</UserID><Note>{payload}</Note>"));
    }
    let size = |lab: &Lab| std::fs::metadata(lab.database()).unwrap().len();
    aged.restart_after(1);
    let before = size(&aged.lab);
    aged.restart_after(40);
    aged.lab.wait_for("SELECT min(seq) = max(seq) FROM events", "1");
    let free = |lab: &Lab| {
        let status: serde_json::Value =
            serde_json::from_slice(&lab.command(&["status", "--json"]).stdout).unwrap();
        (status["database_bytes"].as_u64().unwrap(), status["database_free_bytes"].as_u64().unwrap())
    };
    eventually("the free pages are returned", || free(&aged.lab).1 <= 1024 * 1024);
    let shown = text(&aged.lab.command(&["status"]).stdout);
    assert!(shown.contains(" MiB free)"), "{shown}");
    let (bytes, _) = free(&aged.lab);
    aged.lab.terminate();
    assert_eq!(size(&aged.lab), bytes);
    assert!(bytes * 2 < before, "{before} bytes, then {bytes}");
}

/// Events of a simulated day; `MONTH_EVENTS=50000 cargo month` for a company of 100,000.
fn events_per_day() -> usize {
    std::env::var("MONTH_EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(2000)
}

/// A month, each day with a round of deletion beside the events.
#[test]
#[ignore = "takes minutes: cargo month"]
fn a_month_of_events_leaves_size_and_latency_flat() {
    let mut aged = Aged::start("[retention]\nevents = 7d\nchanges = 7d\n");
    let (events, mut sizes) = (events_per_day(), Vec::new());
    for day in 1..=30 {
        aged.restart_after(day);
        let mut took: Vec<u128> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..8)
                .map(|worker| {
                    let (aged, sender) = (&aged, aged.lab.sender());
                    scope.spawn(move || {
                        let send = |n: usize| {
                            let (userid, note) = (n % 200, "x".repeat(300));
                            let inner = format!(
                                "<UserID>u{userid}</UserID><Name>n{n}</Name><Position>{day}</Position><Note>{note}</Note>"
                            );
                            let event = contact_event(CORP, aged.now(), "update_user", &inner);
                            let begun = std::time::Instant::now();
                            // The daemon's clock is fast: on a busy machine it has less time than 4 s.
                            while sender.send(&event).unwrap().0 != 200 {}
                            begun.elapsed().as_micros()
                        };
                        (0..events / 8).map(|n| send(n * 8 + worker)).collect::<Vec<_>>()
                    })
                })
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        // The night.
        let is_old = format!("SELECT min(received_at) >= {} FROM events", aged.now() - 7 * DAY - 3600);
        eventually("what is older than a week is deleted", || aged.lab.value(&is_old) == "1");
        took.sort_unstable();
        sizes.push(aged.lab.value("PRAGMA page_count").parse::<u64>().unwrap() * 4);
        let kept = aged.lab.value("SELECT count(*) FROM events");
        println!(
            "day {day}: {} KiB, {kept} events, p50 {} us, p99 {} us",
            sizes[sizes.len() - 1],
            took[took.len() / 2],
            took[took.len() * 99 / 100]
        );
    }
    assert!(sizes[29] * 10 < sizes[14] * 13, "{sizes:?}");
    aged.assert_database_agrees();
}
