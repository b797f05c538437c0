//! `check --database`: every kind of disagreement is found, and repaired; events repair what they touch.

use crate::common::{Lab, Settings, now, text, value};
use crate::replica::Replica;

/// Five members in two departments, one renamed, one deleted; a tag with a member and a department.
fn lab() -> Lab {
    let lab = Lab::new(Settings { openid: "enabled = no", ..Settings::default() });
    let at = now() - 1000;
    lab.event(at, "create_party", "<Id>1</Id><Name>公司</Name><ParentId>0</ParentId>");
    lab.event(at, "create_party", "<Id>2</Id><Name>研发</Name><ParentId>1</ParentId><Order>7</Order>");
    for userid in ["a", "b", "c", "d", "e"] {
        let inner = format!(
            "<UserID>{userid}</UserID><Name>张{userid}</Name><Mobile>1380000</Mobile><Department>1,2</Department>\
             <IsLeaderInDept>0,1</IsLeaderInDept><Alias></Alias>"
        );
        lab.event(at + 1, "create_user", &inner);
    }
    lab.event(at + 2, "update_user", "<UserID>d</UserID><NewUserID>d2</NewUserID>");
    lab.event(at + 3, "delete_user", "<UserID>e</UserID>");
    lab.event(
        at + 4,
        "update_tag",
        "<TagId>7</TagId><AddUserItems>a,B</AddUserItems><AddPartyItems>2</AddPartyItems>",
    );
    lab
}

fn damage_by(lab: &Lab, sql: &str) {
    rusqlite::Connection::open(lab.database()).unwrap().execute_batch(sql).unwrap();
}

fn check(lab: &Lab, repair: bool) -> (Option<i32>, String) {
    let mut arguments = vec!["check", "--database"];
    arguments.extend(repair.then_some("--repair"));
    let output = lab.command(&arguments);
    (output.status.code(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
}

/// Statements that damage the database, and what `check` says of each.
const DAMAGE: [(&str, &str); 16] = [
    ("UPDATE members SET name = 'x' WHERE userid = 'a'", "userid=a: name"),
    ("UPDATE members SET mobile = NULL, alias = NULL WHERE userid = 'b'", "userid=b: alias, mobile"),
    ("UPDATE members SET deleted_at = 5 WHERE userid = 'c'", "userid=c: "),
    ("UPDATE members SET deleted_at = NULL WHERE userid = 'e'", "userid=e: deleted_at"),
    ("UPDATE members SET event_time = 5 WHERE userid = 'a'", "userid=a: event_time"),
    ("DELETE FROM members WHERE userid = 'd2'", "userid=d2: no row"),
    ("DELETE FROM member_facts WHERE userid = 'a'", "userid=a: no fact"),
    (
        "DELETE FROM member_departments WHERE userid = 'c' AND department_id = 2",
        "userid=c: department, leader_of",
    ),
    ("UPDATE member_departments SET is_leader = 1 WHERE userid = 'c'", "userid=c: leader_of"),
    ("DELETE FROM tag_members WHERE userid = 'b'", "userid=b: tags"),
    ("INSERT INTO tag_members VALUES (7, 'nobody')", "userid=nobody: tags"),
    ("DELETE FROM tag_departments", "department 2: tags"),
    ("UPDATE departments SET name = 'x', \"order\" = NULL WHERE id = 2", "department 2: name, order"),
    ("DELETE FROM department_facts WHERE id = 1", "department 1: no fact"),
    ("UPDATE tags SET deleted_at = 5", "tag 7: deleted_at"),
    ("DELETE FROM changes WHERE action = 'deleted'", "changes: no line \"deleted\" of member e"),
];

#[test]
fn every_disagreement_is_found_and_repaired() {
    let mut lab = lab();
    let (code, output) = check(&lab, false);
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("agree (5 members, 3 departments and tags, "), "{output}");
    let (code, output) = check(&lab, true);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("another wecom-dirsync works with this database"), "{output}");
    lab.terminate();
    let tables = |lab: &Lab| Replica::of_tables(&lab.db().into()).comparable();
    let before = tables(&lab);
    for (damage, finding) in DAMAGE {
        damage_by(&lab, damage);
        let (code, output) = check(&lab, false);
        assert_eq!(code, Some(1), "{damage}: {output}");
        assert!(output.contains(finding), "{damage}: {output}");
        let (code, output) = check(&lab, true);
        assert_eq!(code, Some(0), "{damage}: {output}");
        assert!(output.contains(finding), "{damage}: {output}");
        let (code, output) = check(&lab, false);
        assert_eq!(code, Some(0), "{damage}: {output}");
        assert_eq!(tables(&lab), before, "{damage}");
    }
}

#[test]
fn a_foreign_openid_is_found_and_replaced_by_the_one_that_wecom_gave() {
    let mut lab = Lab::plain();
    lab.hire("a");
    lab.stand_in.company(|company| company.sign_in("a", "o-a"));
    lab.event(now(), "update_user", "<UserID>a</UserID><Status>1</Status>");
    lab.wait_for("SELECT openid_state FROM members WHERE userid = 'a'", "converted");
    lab.terminate();
    let openid = lab.value("SELECT openid FROM members WHERE userid = 'a'");
    for damage in [
        "UPDATE members SET openid = 'of-somebody-else'",
        "UPDATE members SET openid = NULL, openid_state = 'failed'",
        // The openid may be all that is left.
        "DELETE FROM member_facts",
    ] {
        damage_by(&lab, damage);
        assert_eq!(check(&lab, false).0, Some(1), "{damage}");
        assert_eq!(check(&lab, true).0, Some(0), "{damage}");
        assert_eq!(check(&lab, false).0, Some(0), "{damage}");
        let row = lab.value("SELECT openid || ' ' || openid_state FROM members WHERE userid = 'a'");
        assert_eq!(row, format!("{openid} converted"), "{damage}");
    }
}

#[test]
fn an_index_that_disagrees_with_its_table_is_rebuilt() {
    let mut lab = lab();
    lab.terminate();
    let sql = "PRAGMA writable_schema = ON; \
               UPDATE sqlite_schema SET sql = replace(sql, 'IS NOT NULL', 'IS NULL') WHERE name = 'members_by_openid'";
    damage_by(&lab, sql);
    let (code, output) = check(&lab, false);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("members_by_openid"), "{output}");
    assert_eq!(check(&lab, true).0, Some(0));
    assert_eq!(check(&lab, false).0, Some(0));
}

#[test]
fn an_event_repairs_the_rows_that_it_touches() {
    let lab = lab();
    for damage in [
        "UPDATE members SET name = 'x', deleted_at = 5 WHERE userid = 'a'",
        "DELETE FROM members WHERE userid = 'b'",
        "UPDATE departments SET name = 'x' WHERE id = 2",
        "DELETE FROM member_facts WHERE userid = 'c'",
    ] {
        damage_by(&lab, damage);
    }
    for userid in ["a", "b", "c"] {
        lab.event(now(), "update_user", &format!("<UserID>{userid}</UserID><Position>p</Position>"));
    }
    lab.event(now(), "update_party", "<Id>2</Id><Order>8</Order>");
    let (code, output) = check(&lab, false);
    assert_eq!(code, Some(0), "{output}");
    let db = lab.db();
    let names = "SELECT group_concat(name) FROM (SELECT name FROM active_members ORDER BY userid)";
    assert_eq!(value(&db, names), "张a,张b,张c,张d");
    assert_eq!(value(&db, "SELECT name FROM departments WHERE id = 2"), "研发");
    assert_eq!(lab.log().matches("rows disagreed with the facts").count(), 4, "{}", lab.log());
    Replica::assert_feed_equals_tables(&lab.db().into());
}
