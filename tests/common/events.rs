//! Random sets of events about a small company, and the directory that they come to.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, missing_docs)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;

use fastrand::Rng;
use wecom_dirsync::demo::sender::contact_event;
use wecom_dirsync::directory::UnixSeconds;
use wecom_dirsync::store::Connection;
use wecom_dirsync::store::open::open_in_memory;
use wecom_dirsync::store::{Applied, NewEvent, apply_event};
use wecom_dirsync::wecom::callback::message;

pub const CORP: &str = "wx5823bf96d3bd56c7";

/// An event that the generator made: enough to write its XML, or to spoil it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub at: i64,
    pub change_type: &'static str,
    /// Element names and values, in order.
    pub elements: Vec<(&'static str, String)>,
}

impl Made {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.elements.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str())
    }

    pub fn xml(&self) -> String {
        let inner: String =
            self.elements.iter().map(|(name, value)| format!("<{name}>{value}</{name}>")).collect();
        contact_event(CORP, self.at, self.change_type, &inner)
    }

    /// The same news as another callback URL tells it: not the same bytes.
    pub fn xml_of_another_url(&self) -> String {
        self.xml().replace("</xml>", "<AgentID>7</AgentID></xml>")
    }
}

/// How large the company is.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    pub members: usize,
    pub departments: u32,
    pub tags: u32,
    pub events: usize,
}

/// A random set of events in order of time. It covers: creation, update (any subset of the fields, some
/// emptied), deletion and re-creation of members; renames, in chains and circles, in any case, and updates
/// under former names; creation, update and deletion of departments; tags gaining and losing members and
/// departments. Events of members and tags have distinct times; those of departments share seconds with
/// them.
///
/// `possible`: only what can happen in a company, as far as userids go: who is created is not there, who is
/// changed is, and nobody is renamed to a userid in use. Else anything goes.
pub fn make(rng: &mut Rng, scale: Scale, possible: bool) -> Vec<Made> {
    let mut at = 1_700_000_000;
    let mut events = Vec::new();
    let mut present = BTreeSet::new();
    let mut former: BTreeMap<String, String> = BTreeMap::new();
    for _ in 0..rng.usize(1..=scale.events) {
        at += rng.i64(1..4);
        let made = make_one(rng, scale, at);
        if rng.u32(0..5) == 0 {
            events.push(make_department(rng, scale, at));
        }
        if !possible || happens(&made, &mut present, &mut former) {
            events.push(made);
        }
    }
    events
}

/// Whether this can happen now; if so, it does.
fn happens(made: &Made, present: &mut BTreeSet<String>, former: &mut BTreeMap<String, String>) -> bool {
    let Some(userid) = made.get("UserID").map(str::to_ascii_lowercase) else { return true };
    match (made.change_type, made.get("NewUserID").map(str::to_ascii_lowercase)) {
        ("create_user", _) => {
            former.remove(&userid);
            present.insert(userid)
        }
        ("delete_user", _) => present.remove(&userid),
        (_, Some(new)) if new != userid => {
            if present.contains(&new) || !present.remove(&userid) {
                return false;
            }
            former.remove(&new);
            former.insert(userid, new.clone());
            present.insert(new)
        }
        // Some way back to somebody who is there.
        _ => {
            let mut name = userid;
            for _ in 0..8 {
                if present.contains(&name) {
                    return true;
                }
                match former.get(&name) {
                    Some(next) => name = next.clone(),
                    None => return false,
                }
            }
            false
        }
    }
}

fn name(rng: &mut Rng, scale: Scale) -> String {
    let n = rng.usize(0..scale.members);
    if rng.u32(0..6) == 0 { format!("User{n}") } else { format!("user{n}") }
}

fn make_one(rng: &mut Rng, scale: Scale, at: i64) -> Made {
    let userid = name(rng, scale);
    match rng.u32(0..20) {
        0..5 => member(rng, scale, at, "create_user", userid),
        5..11 => member(rng, scale, at, "update_user", userid),
        11..14 => Made { at, change_type: "delete_user", elements: vec![("UserID", userid)] },
        14..17 => {
            let to = name(rng, scale);
            let mut made = member(rng, scale, at, "update_user", userid);
            made.elements.insert(1, ("NewUserID", to));
            made
        }
        _ => tag(rng, scale, at),
    }
}

fn member(rng: &mut Rng, scale: Scale, at: i64, change_type: &'static str, userid: String) -> Made {
    let mut elements = vec![("UserID", userid)];
    let text =
        |rng: &mut Rng| if rng.u32(0..4) == 0 { String::new() } else { format!("v{}", rng.u32(0..1000)) };
    for field in ["Name", "Position", "Mobile", "Alias", "DirectLeader"] {
        if rng.u32(0..3) == 0 {
            elements.push((field, text(rng)));
        }
    }
    for field in ["Status", "Gender"] {
        if rng.u32(0..4) == 0 {
            elements.push((field, rng.u32(0..3).to_string()));
        }
    }
    let mut departments: Vec<u32> = (1..=scale.departments).collect();
    rng.shuffle(&mut departments);
    departments.truncate(rng.usize(0..=3));
    let list = |items: Vec<String>| items.join(",");
    if rng.bool() {
        elements.push(("Department", list(departments.iter().map(u32::to_string).collect())));
    }
    if rng.u32(0..3) == 0 {
        elements
            .push(("IsLeaderInDept", list(departments.iter().map(|_| rng.u32(0..2).to_string()).collect())));
    }
    if rng.u32(0..4) == 0 {
        let item =
            format!("<Item><Name>n</Name><Type>0</Type><Text><Value>{}</Value></Text></Item>", rng.u32(0..9));
        elements.push(("ExtAttr", item));
    }
    Made { at, change_type, elements }
}

fn make_department(rng: &mut Rng, scale: Scale, at: i64) -> Made {
    let id = rng.u32(1..=scale.departments).to_string();
    let change_type = ["create_party", "update_party", "update_party", "delete_party"][rng.usize(0..4)];
    let mut elements = vec![("Id", id)];
    if change_type != "delete_party" {
        if rng.bool() {
            elements.push(("Name", format!("d{}", rng.u32(0..1000))));
        }
        if rng.bool() {
            elements.push(("ParentId", rng.u32(1..=scale.departments).to_string()));
        }
    }
    Made { at, change_type, elements }
}

fn tag(rng: &mut Rng, scale: Scale, at: i64) -> Made {
    let mut elements = vec![("TagId", rng.u32(1..=scale.tags).to_string())];
    // Nobody comes and goes at the same time.
    let mut names: Vec<String> = (0..scale.members).map(|n| format!("user{n}")).collect();
    rng.shuffle(&mut names);
    let (came, went) = (rng.usize(0..=2), rng.usize(0..=2));
    elements.push(("AddUserItems", names.iter().take(came).cloned().collect::<Vec<_>>().join(",")));
    elements
        .push(("DelUserItems", names.iter().skip(came).take(went).cloned().collect::<Vec<_>>().join(",")));
    let id = rng.u32(1..=scale.departments).to_string();
    elements.push((["AddPartyItems", "DelPartyItems"][rng.usize(0..2)], id));
    Made { at, change_type: "update_tag", elements }
}

/// An empty directory in memory. Each thread creates the schema once: what was written is rolled back on drop.
pub struct Scratch(Option<Connection>);

thread_local! {
    static EMPTY: RefCell<Vec<Connection>> = const { RefCell::new(Vec::new()) };
}

impl Scratch {
    pub fn new() -> Self {
        let connection = EMPTY.with_borrow_mut(Vec::pop).unwrap_or_else(|| open_in_memory().unwrap());
        connection.begin().unwrap();
        Self(Some(connection))
    }
}

impl Deref for Scratch {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.0.as_ref().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let connection = self.0.take().unwrap();
        connection.roll_back();
        EMPTY.with_borrow_mut(|empty| empty.push(connection));
    }
}

/// Applies one message as the daemon does.
pub fn deliver(connection: &Connection, xml: &str) -> Applied {
    let read = message::read(xml.as_bytes(), CORP).unwrap();
    let event = NewEvent {
        received_at: UnixSeconds(1_800_000_000),
        create_time: read.create_time,
        event: read.event,
        change_type: read.change_type,
        subject: read.subject,
        payload: xml.to_owned(),
        digest: digest(xml),
        meaning: read.meaning.ok(),
        latest: None,
        comparison_due: read.reconcile_reason,
    };
    apply_event(connection, &event).unwrap()
}

/// Of a few bits only, so that different messages share one now and then, as they may.
fn digest(xml: &str) -> i64 {
    let mut hasher = DefaultHasher::new();
    xml.hash(&mut hasher);
    i64::from(u32::try_from(hasher.finish() % 1_000_003).unwrap())
}

/// Everything that must not depend on the order of arrival, as comparable text.
pub fn directory(connection: &Connection, with_openids: bool) -> String {
    let openids = if with_openids {
        "SELECT userid, openid, openid_state FROM members WHERE deleted_at IS NULL ORDER BY userid"
    } else {
        "SELECT 1"
    };
    let tables = [
        openids,
        "SELECT userid, name, alias, mobile, position, gender, status, direct_leader, main_department, ext_attr, \
         event_time, deleted_at FROM members ORDER BY userid",
        "SELECT userid, department_id, is_leader, position FROM member_departments ORDER BY 1, 2",
        "SELECT id, name, parent_id, \"order\", event_time, deleted_at FROM departments ORDER BY id",
        "SELECT id, name, event_time, deleted_at FROM tags ORDER BY id",
        "SELECT tag_id, userid FROM tag_members ORDER BY 1, 2",
        "SELECT tag_id, department_id FROM tag_departments ORDER BY 1, 2",
    ];
    let mut text = String::new();
    for sql in tables {
        for row in wecom_dirsync::store::queries::table(connection, sql).unwrap() {
            text.push_str(&row.join("|"));
            text.push('\n');
        }
        text.push('\n');
    }
    text
}
