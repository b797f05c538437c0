//! Comparing with WeCom: the real binary against the stand-in, with a pretend company that changes behind the
//! daemon's back, and listings that are wrong in every way.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Lab, Settings, assert_prompt, binary, concurrently, eventually, now, text};
use fastrand::Rng;
use rusqlite::Connection;
use serde_json::Value as Json;
use wecom_dirsync::demo::standin::{Company, Department, Fault, ListingFault, Tag, User};

/// Only comparing: no conversions, no details.
fn quiet() -> Settings<'static> {
    Settings {
        openid: "enabled = no",
        more: "[details]\nfetch = never\n[reconcile]\nenabled = no\n",
        reconcile: true,
        ..Settings::default()
    }
}

fn user(n: usize, departments: &[u32]) -> User {
    let (userid, name) = (format!("user{n:05}"), format!("成员{n}"));
    User { userid, name, departments: departments.to_vec(), visible: true, ..User::default() }
}

/// A company of so many members in some departments, with some tags.
fn found(company: &mut Company, members: usize, departments: u32, tags: u32, rng: &mut Rng) {
    for id in 2..=departments {
        let parent = rng.u32(1..id);
        company
            .departments
            .insert(id, Department { name: format!("部门{id}"), parent, order: rng.u32(1..9) });
    }
    for n in 0..members {
        let mut ids: Vec<u32> = (0..rng.usize(1..3)).map(|_| rng.u32(1..=departments)).collect();
        ids.dedup();
        company.put(user(n, &ids));
    }
    for id in 1..=tags {
        let members = (0..rng.usize(0..20)).map(|_| format!("user{:05}", rng.usize(0..members))).collect();
        let departments = (0..rng.usize(0..3)).map(|_| rng.u32(1..=departments)).collect();
        company.tags.insert(id, Tag { name: format!("标签{id}"), members, departments });
    }
}

/// The directory as the company would have it, in comparable text.
fn of_company(company: &Company) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for user in company.users() {
        let departments: BTreeSet<u32> = user.departments.iter().copied().collect();
        all.insert(format!("member {}", user.userid), format!("{departments:?}"));
    }
    for (id, Department { name, parent, order }) in &company.departments {
        all.insert(format!("department {id}"), format!("{name} {parent} {order}"));
    }
    for (id, tag) in &company.tags {
        all.insert(format!("tag {id}"), format!("{} {:?} {:?}", tag.name, tag.members, tag.departments));
    }
    all
}

fn of_database(db: &Connection) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut rows = |sql: &str| {
        let mut statement = db.prepare(sql).unwrap();
        let mut found = statement.query([]).unwrap();
        while let Some(row) = found.next().unwrap() {
            all.insert(row.get::<_, String>(0).unwrap(), row.get::<_, String>(1).unwrap());
        }
    };
    let set =
        |sql: &str| format!("(SELECT coalesce(group_concat(x, ', '), '') FROM (SELECT {sql} ORDER BY 1))");
    let departments = set("department_id AS x FROM member_departments AS md WHERE md.userid = m.userid");
    rows(&format!(
        "SELECT 'member ' || userid, '{{' || {departments} || '}}' FROM members AS m WHERE deleted_at IS NULL"
    ));
    rows(
        "SELECT 'department ' || id, coalesce(name, '?') || ' ' || parent_id || ' ' || \"order\" FROM departments
         WHERE deleted_at IS NULL",
    );
    let members = set("'\"' || userid || '\"' AS x FROM tag_members AS tm WHERE tm.tag_id = t.id");
    let departments = set("department_id AS x FROM tag_departments AS td WHERE td.tag_id = t.id");
    rows(&format!(
        "SELECT 'tag ' || id, coalesce(name, '?') || ' {{' || {members} || '}} {{' || {departments} || '}}' FROM tags AS t
         WHERE deleted_at IS NULL"
    ));
    all
}

fn is_exact(lab: &Lab) {
    let (expected, found) = (lab.stand_in.company(|company| of_company(company)), of_database(&lab.db()));
    for (key, value) in &expected {
        assert_eq!(found.get(key), Some(value), "{key}");
    }
    assert_eq!(found.len(), expected.len(), "{:?}", found.keys().find(|key| !expected.contains_key(*key)));
}

fn outcome(report: &Json) -> &str {
    report["outcome"].as_str().unwrap()
}

#[test]
fn an_empty_database_fills_itself_with_members_departments_tags_details_and_openids() {
    let mut lab = Lab::idle(Settings { reconcile: true, ..Settings::default() });
    lab.stand_in.company(|company| {
        found(company, 300, 12, 5, &mut Rng::with_seed(1));
        company.page = 70;
        company.user_mut("user00007").unwrap().openid = Some("o7".into());
    });
    lab.start();
    lab.wait_for("SELECT outcome FROM reconciles WHERE finished_at IS NOT NULL", "ok");
    is_exact(&lab);
    lab.wait_for("SELECT openid FROM members WHERE userid = 'user00007'", "o7");
    lab.wait_for("SELECT count(*) FROM members WHERE details_state = 'known'", "300");
    assert_eq!(lab.value("SELECT name FROM members WHERE userid = 'user00123'"), "成员123");
    assert_eq!(lab.value("SELECT reason FROM reconciles"), "first fill");
    let status = text(&lab.command(&["status"]).stdout);
    assert!(status.contains("comparison     ok"), "{status}");
}

/// Changes the company behind the daemon's back; the names of what was touched.
fn diverge(company: &mut Company, members: usize, rng: &mut Rng, times: usize) -> BTreeSet<String> {
    let mut touched = BTreeSet::new();
    let departments = u32::try_from(company.departments.len()).unwrap();
    for n in 0..times {
        let somebody = format!("user{:05}", rng.usize(0..members));
        match n % 6 {
            0 => {
                let new = user(members + n, &[rng.u32(1..=departments)]);
                touched.insert(format!("member {}", new.userid));
                company.put(new);
            }
            // Few enough for the guard.
            1 if n < 60 && company.user_mut(&somebody).is_some() => {
                company.dismiss(&somebody);
                touched.extend(
                    company
                        .tags
                        .iter_mut()
                        .filter_map(|(id, tag)| tag.members.remove(&somebody).then(|| format!("tag {id}"))),
                );
                touched.insert(format!("member {somebody}"));
            }
            2 => {
                if let Some(user) = company.user_mut(&somebody) {
                    user.departments = vec![rng.u32(1..=departments), 1];
                    user.departments.dedup();
                    touched.insert(format!("member {somebody}"));
                }
            }
            3 => {
                let id = rng.u32(2..=departments);
                let department = company.departments.get_mut(&id).unwrap();
                department.name = format!("改名{n}");
                department.order = rng.u32(1..9);
                touched.insert(format!("department {id}"));
            }
            4 => {
                // Renamed: for whoever missed the event, somebody went and somebody came.
                if let Some(mut user) = company.user_mut(&somebody).cloned().filter(|_| n < 60) {
                    company.dismiss(&somebody);
                    for (id, tag) in &mut company.tags {
                        if tag.members.remove(&somebody) {
                            touched.insert(format!("tag {id}"));
                        }
                    }
                    user.userid = format!("renamed{n:05}");
                    touched.extend([format!("member {somebody}"), format!("member {}", user.userid)]);
                    company.put(user);
                }
            }
            _ => {
                let id = *rng.choice(company.tags.keys().collect::<Vec<_>>()).unwrap();
                let exists = company.user_mut(&somebody).is_some();
                let tag = company.tags.get_mut(&id).unwrap();
                // What comes into a tag or leaves it has news, too.
                let (before, new) = (tag.departments.clone(), BTreeSet::from([rng.u32(1..=departments)]));
                touched.extend(before.symmetric_difference(&new).map(|id| format!("department {id}")));
                tag.departments = new;
                if exists {
                    touched.insert(format!("member {somebody}"));
                    if !tag.members.remove(&somebody) {
                        tag.members.insert(somebody);
                    }
                }
                touched.insert(format!("tag {id}"));
            }
        }
    }
    touched
}

/// Every row, whole.
fn rows(db: &wecom_dirsync::store::Connection) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (kind, key, tables) in [
        ("member", "userid", &["members", "member_departments"][..]),
        ("department", "id", &["departments"]),
        ("tag", "id", &["tags"]),
    ] {
        for table in tables {
            for row in wecom_dirsync::store::queries::table(db, &format!("SELECT {key} AS k, * FROM {table}"))
                .unwrap()
                .into_iter()
                .skip(1)
            {
                all.entry(format!("{kind} {}", row[0])).or_insert_with(String::new).push_str(&row.join("|"));
            }
        }
    }
    all
}

#[test]
fn what_was_missed_is_repaired_and_nothing_else_is_touched() {
    let members = std::env::var("RECONCILE_MEMBERS").map_or(1500, |n| n.parse().unwrap());
    let (departments, tags) = (u32::try_from(members / 40).unwrap(), 50);
    concurrently(0..3, |seed| {
        let mut rng = Rng::with_seed(seed);
        let mut lab = Lab::idle(quiet());
        lab.stand_in.company(|company| found(company, members, departments, tags, &mut rng));
        assert_eq!(outcome(&lab.reconcile(&[])), "ok", "without a daemon");
        is_exact(&lab);
        lab.start();
        let (before, last) = (rows(&lab.db().into()), lab.value("SELECT max(seq) FROM changes"));
        let touched = lab.stand_in.company(|company| diverge(company, members, &mut rng, 200));

        let plan = lab.reconcile(&["--dry-run"]);
        assert_eq!(rows(&lab.db().into()), before, "a dry run writes nothing");
        let report = lab.reconcile(&[]);
        assert_eq!(outcome(&report), "ok", "{report}");
        assert_eq!(plan["plan"]["members"], report["plan"]["members"]);
        is_exact(&lab);

        let after = rows(&lab.db().into());
        for (key, row) in &before {
            assert!(touched.contains(key) || after.get(key) == Some(row), "{key} was touched");
        }
        let changed = "SELECT DISTINCT entity || ' ' || key FROM changes WHERE seq > ?1";
        let db = lab.db();
        let mut statement = db.prepare(changed).unwrap();
        let changed: Vec<String> =
            statement.query_map([last], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
        assert!(changed.iter().all(|key| touched.contains(key)), "{changed:?}");
        assert!(changed.len() > 80, "{}", changed.len());

        let again = lab.reconcile(&[]);
        assert_eq!((again["done"]["created"].as_u64(), again["deletions"].as_u64()), (Some(0), Some(0)));
        assert_eq!(again["done"]["updated"], 0, "{again}");
    });
}

/// A company of 60 in pages of 10, all of them known; then three leave.
fn three_leave() -> Lab {
    let lab = Lab::new(quiet());
    lab.stand_in.company(|company| {
        found(company, 60, 3, 2, &mut Rng::with_seed(4));
        company.page = 10;
    });
    assert_eq!(outcome(&lab.reconcile(&[])), "ok");
    lab.stand_in.company(|company| {
        for n in [3, 30, 59] {
            company.dismiss(&format!("user{n:05}"));
        }
        company.put(user(77, &[1]));
    });
    lab
}

const PRESENT: &str = "SELECT count(*) FROM members WHERE deleted_at IS NULL";

#[test]
fn a_listing_that_is_wrong_deletes_nobody_whatever_is_wrong_with_it() {
    let mut wrong: Vec<ListingFault> = Vec::new();
    for page in 1..=6 {
        wrong.extend([
            ListingFault::EmptyPage(page),
            ListingFault::EndsEmpty(page),
            ListingFault::SameCursor(page),
            ListingFault::BreaksOff(page, 45033 + 1_000_000),
        ]);
        wrong.extend((page > 1).then_some(ListingFault::SamePage(page)));
    }
    // One company for a few of them: after each comparison the next one waits for another second.
    concurrently(wrong.chunks(3), |wrong| {
        let lab = three_leave();
        for listing_fault in wrong {
            lab.stand_in.company(|company| company.listing_fault = Some(listing_fault.clone()));
            let report = lab.reconcile(&[]);
            assert_eq!(report["done"]["deleted"], 0, "{listing_fault:?}: {report}");
            assert_ne!(outcome(&report), "ok", "{listing_fault:?}");
            assert!(lab.value(PRESENT).parse::<u32>().unwrap() >= 60, "{listing_fault:?}");
        }
        lab.stand_in.company(|company| company.listing_fault = None);
        assert_eq!(outcome(&lab.reconcile(&[])), "ok");
        is_exact(&lab);
    });
}

#[test]
fn whoever_a_listing_lacks_is_asked_for_by_name_and_stays_if_wecom_knows_it() {
    let lab = three_leave();
    // It ends early and looks complete: user00030 and later are asked for, and but for the gone they are there.
    lab.stand_in.company(|company| company.listing_fault = Some(ListingFault::EndsEarly(5)));
    let report = lab.reconcile(&[]);
    assert!(report["notes"].to_string().contains("WeCom knows most of those"), "{report}");
    assert_eq!(report["done"]["deleted"], 0);
    lab.stand_in.company(|company| company.listing_fault = None);
    lab.stand_in.company(|company| company.put(user(30, &[1])));
    let asked = lab.stand_in.count("user/get");
    assert_eq!(outcome(&lab.reconcile(&[])), "ok");
    assert_eq!(lab.stand_in.count("user/get") - asked, 4, "both by name, with both secrets, and nobody else");
    is_exact(&lab);
}

#[test]
fn too_many_deletions_wait_for_the_operator_and_the_rest_is_done() {
    let lab = Lab::new(quiet());
    lab.stand_in.company(|company| found(company, 100, 3, 2, &mut Rng::with_seed(5)));
    assert_eq!(outcome(&lab.reconcile(&[])), "ok");
    lab.stand_in.company(|company| {
        for n in 0..30 {
            company.dismiss(&format!("user{n:05}"));
        }
        company.put(user(777, &[1]));
        company.tags.values_mut().for_each(|tag| tag.members.clear());
    });
    let output = lab.command(&["reconcile"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("--allow-deletes 30"), "{}", text(&output.stdout));
    assert_eq!(lab.value(PRESENT), "101", "the new one came, nobody went");
    assert_eq!(lab.value("SELECT outcome FROM reconciles ORDER BY seq DESC LIMIT 1"), "blocked");
    let status = text(&lab.command(&["status"]).stdout);
    assert!(status.contains("blocked") && status.contains("--allow-deletes 30"), "{status}");
    assert!(lab.log().contains("--allow-deletes 30"));

    assert_eq!(outcome(&lab.reconcile(&["--allow-deletes", "29"])), "blocked");
    assert_eq!(lab.value(PRESENT), "101");
    let report = lab.reconcile(&["--allow-deletes", "30"]);
    assert_eq!((outcome(&report), report["done"]["deleted"].as_u64()), ("ok", Some(30)));
    is_exact(&lab);
    assert!(!text(&lab.command(&["status"]).stdout).contains("blocked"));
}

#[test]
fn events_that_come_during_a_comparison_win() {
    concurrently(["user/list_id", "department/simplelist", "tag/list", "tag/get", "user/get"], |api| {
        let lab = Lab::new(quiet());
        lab.stand_in.company(|company| {
            found(company, 40, 3, 1, &mut Rng::with_seed(6));
            company.page = 10;
        });
        assert_eq!(outcome(&lab.reconcile(&[])), "ok");
        // One is missing, so that somebody is asked for by name, too.
        lab.stand_in.company(|company| company.dismiss("user00001"));
        let calls = lab.stand_in.count(api);
        lab.stand_in.fail(Some(api), Fault::Delay(Duration::from_millis(700)), 3);
        std::thread::scope(|scope| {
            let report = scope.spawn(|| lab.reconcile(&[]));
            eventually("it is under way", || lab.stand_in.count(api) > calls);
            // The stand-in does not know of these: whatever it lists contradicts them.
            let at = now() + 1;
            lab.event(at, "delete_user", "<UserID>user00039</UserID>");
            lab.event(at, "create_user", "<UserID>fresh</UserID><Department>2</Department>");
            lab.event(at, "update_user", "<UserID>user00005</UserID><Department>3,1</Department>");
            lab.event(at, "update_user", "<UserID>user00001</UserID><Position>here</Position>");
            lab.event(at, "update_party", "<Id>2</Id><Name>new name</Name>");
            lab.event(at, "update_tag", "<TagId>1</TagId><AddUserItems>user00005</AddUserItems>");
            report.join().unwrap();
        });
        for (sql, expected) in [
            ("SELECT count(*) FROM members WHERE userid = 'user00039' AND deleted_at IS NULL", "0"),
            ("SELECT count(*) FROM members WHERE userid = 'fresh' AND deleted_at IS NULL", "1"),
            ("SELECT group_concat(department_id) FROM member_departments WHERE userid = 'user00005'", "1,3"),
            ("SELECT count(*) FROM members WHERE userid = 'user00001' AND deleted_at IS NULL", "1"),
            ("SELECT name FROM departments WHERE id = 2", "new name"),
            ("SELECT count(*) FROM tag_members WHERE tag_id = 1 AND userid = 'user00005'", "1"),
        ] {
            assert_eq!(lab.value(sql), expected, "{api}: {sql}");
        }
    });
}

#[test]
fn what_a_secret_may_not_do_is_told_once_and_the_rest_goes_on() {
    let cases = [
        ("department/simplelist", "contacts", true),
        ("department/list", "app", true),
        ("tag/list", "contacts", true),
        ("tag/get", "contacts", true),
        ("user/get", "app", true),
        ("user/list_id", "contacts", false),
    ];
    let cases = cases.into_iter().flat_map(|case| [48002, 48009].map(|errcode| (case, errcode)));
    concurrently(cases, |((api, refused, compared), errcode)| {
        let lab = Lab::new(quiet());
        lab.stand_in.company(|company| {
            found(company, 20, 3, 2, &mut Rng::with_seed(7));
            company.forbidden.insert((api, refused), errcode);
        });
        let report = lab.reconcile(&[]);
        assert_eq!(lab.value(PRESENT), if compared { "20" } else { "0" }, "{api}: {report}");
        assert_eq!(lab.value("SELECT count(*) FROM departments"), "3", "{api}: {report}");
        lab.reconcile(&[]);
        let told = lab.log().lines().filter(|line| line.contains(&format!("{api} with"))).count();
        let is_asked = api != "user/get";
        assert_eq!(told, usize::from(is_asked), "{api} {errcode}: {}", lab.log());
    });
}

#[test]
fn an_address_that_is_not_allowed_ends_the_comparison_and_it_comes_again_by_itself() {
    let mut lab = Lab::idle(Settings { reconcile: true, ..Settings::default() });
    lab.stand_in.company(|company| found(company, 20, 3, 2, &mut Rng::with_seed(8)));
    lab.stand_in.fail(
        Some("user/list_id"),
        Fault::Refusal(60020, "not allow to access from your ip".into()),
        1,
    );
    lab.start();
    lab.wait_for("SELECT outcome FROM reconciles", "failed");
    let log = lab.log();
    assert_eq!(
        log.lines().filter(|line| line.contains("企业可信IP") && line.contains("paused")).count(),
        1,
        "{log}"
    );
    // An operator who has just mended it does not wait.
    lab.terminate();
    lab.start();
    lab.wait_for("SELECT outcome FROM reconciles ORDER BY seq DESC LIMIT 1", "ok");
    is_exact(&lab);
}

#[test]
fn doubts_bring_a_comparison_soon() {
    let mut lab = Lab::idle(quiet_with_schedule());
    lab.stand_in.company(|company| company.hire("zhang"));
    lab.start();
    lab.wait_for("SELECT outcome FROM reconciles", "ok");
    // Triggers do not start comparisons continuously.
    lab.age_comparisons();
    let job = "<xml><ToUserName>wx5823bf96d3bd56c7</ToUserName><FromUserName>sys</FromUserName><CreateTime>1700000000</CreateTime>\
        <MsgType>event</MsgType><Event>batch_job_result</Event><BatchJob><JobId>j</JobId><JobType>sync_user</JobType>\
        <ErrCode>0</ErrCode></BatchJob></xml>";
    assert_eq!(lab.sender().send(job).unwrap().0, 200);
    lab.wait_for("SELECT reason FROM reconciles WHERE seq = 2 AND outcome = 'ok'", "batch job sync_user");
    lab.age_comparisons();
    lab.kill();
    lab.start();
    lab.wait_for(
        "SELECT reason FROM reconciles WHERE seq = 3 AND outcome = 'ok'",
        "the daemon ended without notice",
    );
    assert_eq!(lab.value("SELECT count(*) FROM daemon_state WHERE name = 'comparison_due'"), "0");
}

fn quiet_with_schedule() -> Settings<'static> {
    Settings { more: "[details]\nfetch = never\n", ..quiet() }
}

#[test]
fn a_comparison_that_is_stopped_in_the_middle_ends_in_time_and_starts_over() {
    let mut lab = Lab::idle(quiet_with_schedule());
    lab.stand_in.company(|company| {
        found(company, 60, 3, 2, &mut Rng::with_seed(9));
        company.page = 10;
    });
    lab.stand_in.fail(Some("tag/get"), Fault::Hang, 1);
    lab.start();
    eventually("it hangs", || lab.stand_in.count("tag/get") == 1);
    let (code, took) = lab.terminate();
    assert_eq!(code, Some(0));
    assert_prompt(took, Duration::from_secs(5));
    lab.start();
    lab.wait_for("SELECT outcome FROM reconciles ORDER BY seq DESC LIMIT 1", "ok");
    assert_eq!(lab.value("SELECT outcome FROM reconciles WHERE seq = 1"), "stopped");
    is_exact(&lab);
}

#[test]
fn details_that_an_event_does_not_tell_are_asked_for_and_absent_fields_change_nothing() {
    let lab = Lab::plain();
    lab.stand_in.company(|company| {
        let mut user = user(1, &[1]);
        user.details.insert("position".into(), "工程师".into());
        user.details.insert(
            "extattr".into(),
            serde_json::json!({"attrs": [{"type": 0, "name": "工号", "text": {"value": "7"}}]}),
        );
        company.put(user);
    });
    lab.event(now(), "create_user", "<UserID>user00001</UserID><Department>1</Department>");
    lab.wait_for("SELECT details_state FROM members", "known");
    assert_eq!(
        lab.value("SELECT name || position || (ext_attr ->> '$[0].text.value') FROM members"),
        "成员1工程师7"
    );
    assert_eq!(lab.value("SELECT mobile FROM members"), "null", "absent says nothing");
    lab.event(now(), "update_user", "<UserID>user00001</UserID><Mobile>139</Mobile>");
    lab.stand_in.company(|company| company.user_mut("user00001").unwrap().name = "改名".into());
    lab.event(now() + 1, "update_user", "<UserID>user00001</UserID><Department>1</Department>");
    lab.wait_for("SELECT name FROM members", "改名");
    assert_eq!(lab.value("SELECT mobile FROM members"), "139");
    // An event with the fields needs no asking.
    let asked = lab.stand_in.count("user/get");
    lab.event(now(), "create_user", "<UserID>full</UserID><Name>全</Name><Department>1</Department>");
    assert_eq!(lab.value("SELECT details_state FROM members WHERE userid = 'full'"), "known");
    assert_eq!(lab.stand_in.count("user/get"), asked);
}

#[test]
fn details_that_are_refused_are_denied_and_not_asked_for_endlessly() {
    // One call at a time, so that none is under way at the first refusal.
    let lab = Lab::new(Settings { openid: "max_concurrent_calls = 1", ..Settings::default() });
    lab.stand_in.company(|company| {
        company.hire("hidden");
        company.user_mut("hidden").unwrap().visible = false;
    });
    lab.event(now(), "create_user", "<UserID>hidden</UserID><Department>1</Department>");
    lab.wait_for("SELECT details_state FROM members", "denied");
    lab.stand_in.company(|company| {
        company.forbidden.insert(("user/get", "app"), 48009);
        (0..30).for_each(|n| company.put(user(n, &[1])));
    });
    let asked = lab.stand_in.count("user/get");
    for n in 0..30 {
        lab.event(now(), "create_user", &format!("<UserID>user{n:05}</UserID><Department>1</Department>"));
    }
    lab.wait_for("SELECT count(*) FROM members WHERE details_state = 'denied'", "31");
    assert_eq!(lab.stand_in.count("user/get") - asked, 1);
    assert_eq!(lab.log().lines().filter(|line| line.contains("user/get with app_secret paused")).count(), 1);
    // Conversions went on.
    lab.wait_for("SELECT count(*) FROM members WHERE openid_errcode = 43004", "30");
}

#[test]
fn an_openid_is_asked_for_again_when_it_is_old_and_a_changed_one_is_a_change() {
    let speed = 5;
    let lab = Lab::new(Settings { openid: "recheck_after = 30d", speed, ..Settings::default() });
    lab.hire("zhang");
    lab.stand_in.company(|company| company.sign_in("zhang", "old"));
    lab.event(now(), "update_user", "<UserID>zhang</UserID><Status>1</Status>");
    lab.wait_for("SELECT openid FROM members", "old");
    let age = || {
        let db = Connection::open(lab.database()).unwrap();
        db.busy_timeout(Duration::from_secs(5)).unwrap();
        db.execute_batch("UPDATE members SET openid_updated_at = openid_updated_at - 31*86400").unwrap();
    };
    lab.stand_in.company(|company| company.sign_in("zhang", "new"));
    age();
    lab.wait_for("SELECT openid FROM members", "new");
    let change = "SELECT fields FROM changes WHERE action = 'openid' ORDER BY seq DESC LIMIT 1";
    assert_eq!(lab.value(change), r#"{"openid":["old","new"]}"#);
    // Refused now: the openid that is known stays, and it is not asked for all the time.
    lab.stand_in.company(|company| company.user_mut("zhang").unwrap().openid = None);
    age();
    lab.wait_for("SELECT openid_errcode FROM members", "43004");
    assert_eq!(lab.value("SELECT openid || openid_state FROM members"), "newconverted");
    let calls = lab.stand_in.count("user/convert_to_openid");
    assert!(!lab.stand_in.wait_for(Duration::from_secs(7) / speed, |all| {
        all.iter().filter(|call| call.api == "user/convert_to_openid").count() > calls
    }));
}

#[test]
fn the_daily_sample_tells_drift_and_mends_it() {
    let mut lab = Lab::plain();
    // What is fetched now is older than the sample by more than a call may take on a busy machine.
    lab.stand_in.shift_date(-100);
    for n in 0..5 {
        lab.stand_in.company(|company| company.put(user(n, &[1])));
        let inner = format!("<UserID>user{n:05}</UserID><Department>1</Department>");
        lab.event(now() - 200, "create_user", &inner);
    }
    lab.wait_for("SELECT count(*) FROM members WHERE details_state = 'known'", "5");
    lab.terminate();
    let db = Connection::open(lab.database()).unwrap();
    db.execute_batch("DELETE FROM daemon_state WHERE name = 'drift'").unwrap();
    lab.stand_in.company(|company| company.user_mut("user00003").unwrap().name = "漂移".into());
    lab.stand_in.shift_date(0);
    lab.start();
    lab.wait_for("SELECT value FROM daemon_state WHERE name = 'drift'", r#"{"asked":5,"different":1}"#);
    assert_eq!(lab.value("SELECT name FROM members WHERE userid = 'user00003'"), "漂移");
    assert!(text(&lab.command(&["status"]).stdout).contains("1 of 5"));
}

#[test]
fn calls_of_all_kinds_together_never_exceed_the_limit_in_any_minute() {
    // A minute of the daemon's in a quarter of one.
    let speed = 4;
    let minute = Duration::from_secs(60) / speed;
    let settings =
        Settings { wecom: "calls_per_minute = 120", reconcile: true, speed, ..Settings::default() };
    let mut lab = Lab::idle(settings);
    lab.stand_in.company(|company| {
        found(company, 400, 8, 60, &mut Rng::with_seed(2));
        company.page = 20;
    });
    lab.start();
    let begun = Instant::now();
    let long = Duration::from_secs(75) / speed + Duration::from_secs(5);
    let enough = lab.stand_in.wait_for(long, |calls| calls.len() > 150);
    assert!(enough, "only {} calls", lab.stand_in.calls().len());
    let calls = lab.stand_in.calls();
    for (n, call) in calls.iter().enumerate() {
        let minute = calls[n..].iter().take_while(|later| later.at - call.at < minute).count();
        assert!(minute <= 120, "{minute} calls in a minute");
    }
    assert!(begun.elapsed() > Duration::from_secs(50) / speed);
    let of = |api: &str| calls.iter().filter(|call| call.api == api).count();
    for api in ["user/convert_to_openid", "user/list_id", "tag/get"] {
        assert!(of(api) > 5, "{api}: {}", of(api));
    }
}

#[test]
fn an_app_whose_address_is_not_allowed_does_not_keep_contacts_sync_from_listing() {
    let lab = Lab::idle(quiet());
    lab.stand_in.company(|company| found(company, 20, 3, 2, &mut Rng::with_seed(10)));
    // Names of departments are asked for with the app's secret first.
    let refusal = Fault::Refusal(60020, "not allow to access from your ip".into());
    lab.stand_in.fail(Some("department/list"), refusal, 1);
    let report = lab.reconcile(&[]);
    assert_eq!(outcome(&report), "ok", "{report}");
    is_exact(&lab);
}

#[test]
fn what_was_seen_before_the_network_failed_is_kept() {
    // No answer at all ends the comparison; one that cannot be used costs only what it should have shown.
    concurrently([(Fault::Reset, "failed"), (Fault::Garbage, "partial")], |(fault, expected)| {
        let lab = Lab::idle(Settings { speed: 8, ..quiet() });
        lab.stand_in.company(|company| found(company, 20, 3, 2, &mut Rng::with_seed(11)));
        lab.stand_in.fail(Some("tag/list"), fault, 1000);
        let report = lab.reconcile(&[]);
        assert_eq!((outcome(&report), report["done"]["created"].as_u64()), (expected, Some(23)), "{report}");
        assert_eq!(lab.value(PRESENT), "20");
    });
}

#[test]
fn an_app_that_does_not_know_a_member_is_not_believed_against_contacts_sync() {
    let lab = Lab::idle(quiet());
    lab.stand_in.company(|company| {
        (0..61).for_each(|n| company.put(user(n, &[1])));
        company.page = 10;
    });
    assert_eq!(outcome(&lab.reconcile(&[])), "ok");
    // The last page is not given, and the listing looks complete. WeCom says 60111 to an app for whoever is
    // outside its visible range, too.
    lab.stand_in.company(|company| company.listing_fault = Some(ListingFault::EndsEarly(6)));
    lab.stand_in.fail(Some("user/get"), Fault::Refusal(60111, "userid not found".into()), 1);
    let report = lab.reconcile(&[]);
    assert_eq!(report["done"]["deleted"], 0, "{report}");
    assert_eq!(lab.value(PRESENT), "61");
}

#[test]
fn details_are_asked_for_again_once_allowed_even_if_the_first_member_is_out_of_range() {
    let mut lab = Lab::idle(Settings { reconcile: true, ..Settings::default() });
    lab.stand_in.company(|company| {
        company.hire("aaa");
        company.hire("bbb");
        company.user_mut("aaa").unwrap().visible = false;
        company.forbidden.insert(("user/get", "app"), 48009);
    });
    lab.start();
    lab.wait_for("SELECT count(*) FROM members WHERE details_state = 'denied'", "2");
    lab.terminate();
    lab.stand_in.company(|company| company.forbidden.clear());
    lab.start();
    lab.wait_for("SELECT details_state FROM members WHERE userid = 'bbb'", "known");
    lab.wait_for("SELECT details_state FROM members WHERE userid = 'aaa'", "denied");
    lab.wait_for("SELECT count(*) FROM daemon_state WHERE name = 'details_denied'", "0");
}

#[test]
fn details_of_whoever_just_changed_do_not_wait_behind_a_first_fill() {
    let mut lab =
        Lab::idle(Settings { wecom: "calls_per_minute = 120", reconcile: true, ..Settings::default() });
    lab.stand_in.company(|company| found(company, 200, 2, 0, &mut Rng::with_seed(12)));
    lab.start();
    let converts = || lab.stand_in.count("user/convert_to_openid") > 10;
    eventually("conversions take all that there is", converts);
    lab.hire("fresh");
    lab.wait_for("SELECT details_state FROM members WHERE userid = 'fresh'", "known");
    assert!(lab.stand_in.count("user/convert_to_openid") < 190);
}

#[test]
fn calls_of_a_run_before_count_in_the_same_minute() {
    let mut lab =
        Lab::idle(Settings { wecom: "calls_per_minute = 20", reconcile: true, ..Settings::default() });
    let db = wecom_dirsync::store::open_writer(&lab.database(), 0o600).unwrap();
    let call = "INSERT INTO api_calls (at, api, errcode, errmsg, millis) VALUES (?1, 'tag/get', 0, '', 1)";
    for _ in 0..20 {
        db.execute(call, &[now().into()]).unwrap();
    }
    drop(db);
    lab.start();
    assert!(!lab.stand_in.wait_for(Duration::from_secs(4), |calls| !calls.is_empty()));
}

#[test]
fn the_command_does_not_wait_for_ever_for_a_daemon_that_cannot_compare() {
    let lab = Lab::new(Settings { speed: 5, ..Settings::default() });
    let ini = std::fs::read_to_string(lab.ini()).unwrap();
    std::fs::write(lab.ini(), ini.replace("[callback]", "contacts_secret = new\n[callback]")).unwrap();
    let output = lab.command(&["reconcile"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("restart the daemon"), "{}", text(&output.stderr));
}

/// Runs `reconcile` on a terminal; what the terminal got.
fn on_a_terminal(lab: &Lab) -> String {
    let mut command = Command::new("script");
    let reconcile = format!("'{}' reconcile -c '{}'", binary(), lab.ini().display());
    command.args(["-qec", &reconcile, "/dev/null"]).env("TERM", "xterm").stdin(Stdio::null());
    let output = command.output().expect("script, of util-linux, gives a command a terminal");
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

#[test]
fn on_a_terminal_a_bar_shows_the_progress_and_leaves_only_the_report() {
    let mut lab = Lab::idle(quiet());
    lab.stand_in.company(|company| found(company, 20, 3, 12, &mut Rng::with_seed(13)));
    for is_running in [false, true] {
        if is_running {
            lab.start();
        }
        // Longer than the daemon's interval between two reports of its progress.
        lab.stand_in.fail(Some("tag/get"), Fault::Delay(Duration::from_millis(250)), 12);
        let shown = on_a_terminal(&lab);
        let bars: Vec<&str> = shown.split('\r').filter(|line| line.contains("tags [")).collect();
        assert!(
            bars.iter().any(|bar| bar.contains("/12, ") && bar.contains("left")),
            "{is_running}: {shown:?}"
        );
        let done = |bar: &&str| bar.split("] ").nth(1)?.split('/').next()?.parse::<u32>().ok();
        let done: Vec<u32> = bars.iter().filter_map(done).collect();
        assert!(done.len() > 1 && done.is_sorted() && done[0] < done[done.len() - 1], "{done:?}");
        // The last thing about the bar is that its line is emptied; the report follows.
        let report = shown.rsplit("\u{1b}[2K").next().unwrap();
        assert!(report.contains("ok") && !report.contains('['), "{is_running}: {report:?}");
    }
}
