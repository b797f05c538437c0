//! The Prometheus rules and the Grafana dashboard ask for what the real /metrics shows, and the rules pass promtool.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{CORP, Lab, Settings, eventually, now, text};
use crate::exposition::Exposition;
use serde_json::Value as Json;
use wecom_dirsync::demo::sender::contact_event;
use wecom_dirsync::demo::standin::Fault;

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(path)
}

fn metrics(lab: &Lab) -> Exposition {
    let url = format!("http://{}/metrics", lab.admin.unwrap());
    Exposition::read(&ureq::get(url).call().unwrap().body_mut().read_to_string().unwrap())
}

/// A daemon that has seen everything once, so that /metrics shows all that it can.
fn everything() -> (Lab, Exposition) {
    let mut lab = Lab::idle(Settings { admin: "127.0.0.1:0", reconcile: true, ..Settings::default() });
    lab.stand_in.company(|company| company.hire("a"));
    lab.start();
    lab.wait_for("SELECT outcome FROM reconciles", "ok");
    lab.event(now(), "create_user", "<UserID>b</UserID>");
    assert_eq!(lab.sender().send(&contact_event(CORP, now(), "create_user", "")).unwrap().0, 200);
    lab.stand_in.fail(None, Fault::Errcode(60020), usize::MAX);
    let db = rusqlite::Connection::open(lab.database()).unwrap();
    db.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    // The daily sample would come in a day.
    db.execute_batch(
        "INSERT OR REPLACE INTO daemon_state (name, at, value) VALUES ('drift', 1, '{\"asked\":20,\"different\":1}')",
    )
    .unwrap();
    let mut told = metrics(&lab);
    eventually("all families are there", || {
        told = metrics(&lab);
        told.sum("wecom_dirsync_events_total") >= 2.0 && told.sum("wecom_dirsync_api_calls_total") >= 1.0
    });
    (lab, told)
}

/// A selector of a query: the metric, and the values that it demands of each label.
#[derive(Debug)]
struct Selector {
    metric: String,
    labels: Vec<(String, Vec<String>)>,
}

/// The selectors of this program's metrics in a PromQL expression.
fn selectors(expression: &str) -> Vec<Selector> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) = ["wecom_dirsync_", "process_"].iter().filter_map(|prefix| rest.find(prefix)).min()
    {
        rest = &rest[start..];
        let (metric, after) = rest.split_at(rest.find(|c| !is_name(c)).unwrap_or(rest.len()));
        let matchers = after.strip_prefix('{').map(|inner| inner.split_once('}').expect("a selector ends").0);
        let label = |matcher: &str| {
            let (name, value) = matcher.split_once(['=', '!']).expect("a matcher");
            let value = value.trim_start_matches(['=', '~']).trim_matches('"');
            (name.trim().to_owned(), value.split('|').map(str::to_owned).collect())
        };
        let labels =
            matchers.unwrap_or_default().split(',').filter(|part| !part.trim().is_empty()).map(label);
        found.push(Selector { metric: metric.to_owned(), labels: labels.collect() });
        rest = after;
    }
    found
}

/// Labels that Prometheus adds when it scrapes.
const OF_PROMETHEUS: [&str; 2] = ["job", "instance"];

fn check(place: &str, expression: &str, told: &Exposition) -> usize {
    let selectors = selectors(expression);
    for Selector { metric, labels } in &selectors {
        assert!(told.samples.iter().any(|(name, ..)| name == metric), "{place}: /metrics has no {metric}");
        for (label, values) in labels.iter().filter(|(label, _)| !OF_PROMETHEUS.contains(&label.as_str())) {
            let known = told.label_values(metric, label);
            for value in values {
                assert!(
                    known.contains(&value.as_str()),
                    "{place}: {metric} has no {label}=\"{value}\": {known:?}"
                );
            }
        }
    }
    selectors.len()
}

/// The expressions of the rules' file. Each is one line.
fn rules() -> Vec<String> {
    let text = std::fs::read_to_string(file("prometheus/rules.yml")).unwrap();
    text.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).map(str::to_owned).collect()
}

#[test]
fn rules_and_dashboard_ask_for_what_the_daemon_shows() {
    let (_lab, told) = everything();
    let rules = rules();
    assert!(rules.len() >= 14);
    let mut count = 0;
    for rule in &rules {
        count += check("rules.yml", rule, &told);
    }
    assert!(count >= rules.len(), "each asks for something of ours, but `up`");

    let dashboard: Json =
        serde_json::from_str(&std::fs::read_to_string(file("grafana/wecom-dirsync.json")).unwrap()).unwrap();
    let mut asked = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            assert!(check(panel["title"].as_str().unwrap(), expression, &told) > 0, "{expression}");
            asked.extend(selectors(expression).into_iter().map(|selector| selector.metric));
        }
    }
    // The dashboard leaves out only what its panels cannot use.
    let unused = [
        "process_max_fds",
        "process_start_time_seconds",
        "process_virtual_memory_bytes",
        "wecom_dirsync_build_info",
    ];
    for family in told.types.keys().filter(|family| !unused.contains(&family.as_str())) {
        assert!(asked.iter().any(|metric| metric.starts_with(family)), "the dashboard has no {family}");
    }
}

#[test]
fn a_rule_for_what_does_not_exist_is_noticed() {
    let (_lab, told) = everything();
    for wrong in [
        "wecom_dirsync_callbacks > 0",
        "rate(wecom_dirsync_callbacks_total{result=\"unavailible\"}[5m]) > 0",
        "wecom_dirsync_api_paused{reason=~\"secret|adress\"} == 1",
    ] {
        assert!(std::panic::catch_unwind(|| check("test", wrong, &told)).is_err(), "{wrong}");
    }
}

#[test]
fn promtool_accepts_the_rules_and_their_tests() {
    let promtool = |arguments: &[&str]| {
        Command::new("promtool").args(arguments).current_dir(file("prometheus")).output()
    };
    if promtool(&["--version"]).is_err() {
        eprintln!("promtool is not installed (Debian: prometheus): the rules are not tried with it");
        return;
    }
    for arguments in [["check", "rules", "rules.yml"], ["test", "rules", "rules.test.yml"]] {
        let output = promtool(&arguments).unwrap();
        assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    }
}
