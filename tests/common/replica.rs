//! What a consumer makes of the change feed, to be compared with the tables.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json, json};
use wecom_dirsync::store::Connection;
use wecom_dirsync::store::connection::{Column, FromColumn, Row as Found};
use wecom_dirsync::store::queries::table;

type Row = BTreeMap<String, String>;

/// The directory, rebuilt from nothing by these rules alone: `created` begins a row; `updated` and `openid` change
/// fields; `renamed` moves the row of the old userid to the new one, over a row that is there; `deleted` removes the
/// row; a tag's `member` and `department` come and go.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Replica {
    members: BTreeMap<String, Row>,
    departments: BTreeMap<String, Row>,
    /// Tag, kind of item, item.
    tags: BTreeSet<(String, String, String)>,
}

impl Replica {
    /// By the lines that the command `changes` prints.
    pub fn of_lines(lines: &str) -> Self {
        let mut replica = Self::default();
        for line in lines.lines() {
            let change: Json = serde_json::from_str(line).unwrap();
            let word = |name: &str| change[name].as_str().unwrap();
            let fields = change["fields"].as_object().unwrap();
            replica.apply(word("entity"), word("key").to_ascii_lowercase(), word("action"), fields);
        }
        replica
    }

    /// By the rows of the table `changes`.
    pub fn of_feed(connection: &Connection) -> Self {
        let mut replica = Self::default();
        let sql = "SELECT entity, key, action, fields FROM changes ORDER BY seq";
        for row in table(connection, sql).unwrap().into_iter().skip(1) {
            let fields: Map<String, Json> = serde_json::from_str(&row[3]).unwrap();
            replica.apply(&row[0], row[1].to_ascii_lowercase(), &row[2], &fields);
        }
        replica
    }

    fn apply(&mut self, entity: &str, key: String, action: &str, fields: &Map<String, Json>) {
        if entity == "tag" {
            return self.apply_to_tag(&key, fields);
        }
        let rows = if entity == "member" { &mut self.members } else { &mut self.departments };
        match action {
            "created" => {
                rows.insert(key.clone(), Row::new());
            }
            "deleted" => {
                rows.remove(&key).unwrap_or_else(|| panic!("{entity} {key} is deleted but was not there"));
                return;
            }
            "renamed" => {
                let old = fields["userid"][0].as_str().unwrap().to_ascii_lowercase();
                let row = rows.remove(&old).unwrap_or_else(|| panic!("{old} is renamed but was not there"));
                rows.insert(key.clone(), row);
            }
            _ => {}
        }
        let row = rows.get_mut(&key).unwrap_or_else(|| panic!("{action} of {entity} {key}: it is not there"));
        for (name, change) in fields {
            let was = row.insert(name.clone(), shown(&change[1]));
            if action == "updated" {
                assert_eq!(
                    was.as_deref().unwrap_or("null"),
                    shown(&change[0]),
                    "{key} {name}: the old value"
                );
            }
        }
        row.retain(|name, value| value != "null" && name != "deleted_at");
    }

    fn apply_to_tag(&mut self, tag: &str, fields: &Map<String, Json>) {
        for kind in ["member", "department"] {
            let Some(change) = fields.get(kind) else { continue };
            let item = |value: &Json| (tag.to_owned(), kind.to_owned(), shown(value).to_ascii_lowercase());
            if change[0].is_null() {
                assert!(self.tags.insert(item(&change[1])), "{tag} {change}: it came twice");
            } else {
                assert!(self.tags.remove(&item(&change[0])), "{tag} {change}: it was not there");
            }
        }
    }

    /// The same by the tables of the directory.
    pub fn of_tables(connection: &Connection) -> Self {
        let mut replica = Self::default();
        let members = "SELECT userid, name, alias, mobile, telephone, email, biz_mail, position, gender, status, avatar, \
                       address, main_department, direct_leader, ext_attr, openid FROM members WHERE deleted_at IS NULL";
        let departments = "SELECT id, name, parent_id, \"order\" FROM departments WHERE deleted_at IS NULL";
        for (sql, rows) in [(members, &mut replica.members), (departments, &mut replica.departments)] {
            let read = |row: &Found<'_>| {
                let cell = |n| match row.column(n).unwrap() {
                    Column::Null => None,
                    Column::Int(number) => Some(number.to_string()),
                    other => String::from_column(other),
                };
                let cells = row.names().enumerate().filter_map(|(n, name)| Some((name.to_owned(), cell(n)?)));
                rows.insert(cell(0).unwrap().to_ascii_lowercase(), cells.collect());
                Ok(true)
            };
            connection.for_each(sql, &[], read).unwrap();
        }
        let sql = "SELECT lower(userid), department_id, is_leader FROM member_departments ORDER BY userid, position";
        let mut lists: BTreeMap<String, (Vec<i64>, Vec<i64>)> = BTreeMap::new();
        for row in table(connection, sql).unwrap().into_iter().skip(1) {
            let (list, led) = lists.entry(row[0].clone()).or_default();
            list.push(row[1].parse().unwrap());
            led.extend((row[2] == "1").then_some(list[list.len() - 1]));
        }
        for (key, (list, led)) in lists {
            let row = replica.members.get_mut(&key).unwrap();
            row.extend(
                [("department", list), ("leader_of", led)]
                    .map(|(name, ids)| (name.into(), json!(ids).to_string())),
            );
        }
        let sql = "SELECT tag_id, 'member', lower(userid) FROM tag_members \
                   UNION ALL SELECT tag_id, 'department', department_id FROM tag_departments";
        let tags = table(connection, sql).unwrap().into_iter().skip(1);
        replica.tags.extend(tags.map(|row| (row[0].clone(), row[1].clone(), row[2].clone())));
        replica
    }

    /// Asserts that the change feed rebuilds the tables.
    pub fn assert_feed_equals_tables(connection: &Connection) {
        assert_eq!(Self::of_feed(connection).comparable(), Self::of_tables(connection).comparable());
    }

    /// Without what the feed says in another form than the tables: empty lists, the order of departments that a member
    /// leads, and those of them that it does not belong to.
    #[must_use]
    pub fn comparable(mut self) -> Self {
        let ids = |row: &Row, name: &str| -> Vec<i64> {
            row.get(name).map_or_else(Vec::new, |list| serde_json::from_str(list).unwrap())
        };
        for row in self.members.values_mut() {
            let (own, mut led) = (ids(row, "department"), ids(row, "leader_of"));
            led.retain(|id| own.contains(id));
            led.sort_unstable();
            row.insert("leader_of".into(), json!(led).to_string());
            row.retain(|_, value| value != "[]");
        }
        for row in self.departments.values_mut() {
            row.remove("id");
        }
        self
    }
}

fn shown(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
