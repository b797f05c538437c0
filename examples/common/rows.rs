//! Compares every row of a database with the events that were acknowledged.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used, missing_docs)]

use rusqlite::{Connection, Row};

use super::events::{CREATE_TIME, event, member};

/// Columns of the table `members` as [`member`] has them. The peers keep the lists as text.
const PEER: &str =
    "userid, name, department, mobile, position, email, CAST(status AS TEXT), is_leader_in_dept";
const OURS: &str = "userid, name,
    (SELECT group_concat(d.department_id, ',' ORDER BY d.position) FROM member_departments AS d WHERE d.userid = m.userid),
    mobile, position, email, CAST(status AS TEXT),
    (SELECT group_concat(d.is_leader, ',' ORDER BY d.position) FROM member_departments AS d WHERE d.userid = m.userid)";

/// The members and the events 0 to `count`, each once and with its content, and no others.
pub fn verify(db: &Connection, is_ours: bool, count: usize) {
    let members = format!("SELECT {} FROM members AS m", if is_ours { OURS } else { PEER });
    compare(db, &members, count, member);
    let events = "SELECT subject, event, change_type, CAST(create_time AS TEXT), payload FROM events";
    compare(db, events, count, |n| {
        let [userid, ..] = member(n);
        [userid, "change_contact".into(), "create_user".into(), CREATE_TIME.to_string(), event(n)]
    });
}

/// The first column is the userid.
fn compare<const N: usize>(
    db: &Connection,
    sql: &str,
    count: usize,
    expected: impl Fn(usize) -> [String; N],
) {
    let mut statement = db.prepare(sql).unwrap();
    let texts = |row: &Row<'_>| -> rusqlite::Result<Vec<String>> { (0..N).map(|n| row.get(n)).collect() };
    let mut seen = vec![false; count];
    for found in statement.query_map([], texts).unwrap() {
        let found = found.unwrap();
        let n: usize =
            found[0].strip_prefix("user").and_then(|n| n.parse().ok()).expect("an expected userid");
        assert_eq!(found, expected(n), "{sql}");
        assert!(!std::mem::replace(&mut seen[n], true), "user{n} comes twice: {sql}");
    }
    let lost = seen.iter().filter(|seen| !**seen).count();
    assert_eq!(lost, 0, "acknowledged and lost: {sql}");
}
