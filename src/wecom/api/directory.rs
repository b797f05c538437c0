//! Answers about members, departments and tags: from JSON to the directory's types.
//!
//! An unreadable row is skipped, counted and named; the others are used. Errors name what the answer lacks.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::json::{integer, shown};
use crate::directory::attributes::normal_attributes;
use crate::directory::text::{self, json_text, normal};
use crate::directory::{DepartmentField, DepartmentId, Field, Fields, MemberField, TagId, UserId, Value};

/// Rows per page of user/list_id: the largest that WeCom allows (doc 96067).
pub(crate) const PAGE: u32 = 10_000;
/// Skipped rows that are named; the others are only counted.
const MAX_NAMED: usize = 5;

/// Unreadable rows, or unreadable values of rows: their number, and the first few by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skipped {
    /// All of them, named or not.
    pub count: usize,
    named: Vec<String>,
}

impl Skipped {
    fn add(&mut self, what: impl FnOnce() -> String) {
        self.count += 1;
        if self.named.len() < MAX_NAMED {
            self.named.push(what());
        }
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.count += other.count;
        self.named.extend(other.named);
        self.named.truncate(MAX_NAMED);
    }

    /// Prefixes each name with `whole: `.
    pub(crate) fn within(self, whole: &str) -> Self {
        let named = self.named.iter().map(|what| format!("{whole}: {what}"));
        Self { count: self.count, named: named.collect() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.named.join(", "))?;
        match self.count - self.named.len().min(self.count) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// An answer of user/list_id: one page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// One row per member and department.
    pub rows: Vec<(UserId, DepartmentId)>,
    /// Members of rows with an unreadable department: present, their departments unknown.
    pub odd: Vec<UserId>,
    /// Rows without a readable userid.
    pub nameless: Skipped,
    /// The rows of `odd`, by name.
    pub skipped: Skipped,
    /// Cursor of the next page; empty on the last page.
    pub next_cursor: String,
}

/// The readable fields of each department.
pub type Departments = BTreeMap<DepartmentId, Fields<DepartmentField>>;

/// An answer of department/list or department/simplelist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DepartmentList {
    /// Departments with a readable id.
    pub departments: Departments,
    /// Rows without a readable id.
    pub nameless: Skipped,
    /// Unreadable values of the listed departments.
    pub skipped: Skipped,
}

/// An answer of tag/list, by tag id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TagList {
    /// The name of each tag; `None` if it is unreadable.
    pub tags: BTreeMap<TagId, Option<String>>,
    /// Rows without a readable id.
    pub nameless: Skipped,
    /// Tags with an unreadable name.
    pub skipped: Skipped,
}

/// An answer of tag/get: the members and departments of a tag.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TagContent {
    /// The readable entries of userlist.
    pub members: BTreeSet<UserId>,
    /// The readable entries of partylist.
    pub departments: BTreeSet<DepartmentId>,
    /// Unreadable entries or lists: members and departments missing above may still be in the tag.
    pub skipped: Skipped,
}

fn list<'a>(json: &'a Json, key: &str) -> Result<&'a Vec<Json>, String> {
    let found = json.get(key);
    found.and_then(Json::as_array).ok_or_else(|| format!("the answer has no list {key}: {}", shown(found)))
}

/// Parses an answer of user/list_id.
pub fn page(json: &Json) -> Result<Page, String> {
    let next_cursor = match json.get("next_cursor") {
        None | Some(Json::Null) => String::new(),
        Some(Json::String(cursor)) => cursor.clone(),
        Some(Json::Number(cursor)) => cursor.to_string(),
        odd => return Err(format!("next_cursor is no text: {}", shown(odd))),
    };
    let mut page = Page { next_cursor, ..Page::default() };
    for row in list(json, "dept_user")? {
        let department = row.get("department");
        match (userid(row.get("userid")), department.and_then(id)) {
            (Some(userid), Some(id)) => page.rows.push((userid, DepartmentId(id))),
            (Some(userid), None) => {
                page.skipped.add(|| format!("member {userid}: department {}", shown(department)));
                page.odd.push(userid);
            }
            (None, _) => page.nameless.add(|| format!("userid {}", shown(row.get("userid")))),
        }
    }
    Ok(page)
}

/// A userid; one of digits alone may be a JSON number.
fn userid(json: Option<&Json>) -> Option<UserId> {
    match json? {
        Json::String(text) => text::userid(text),
        Json::Number(number) => text::userid(&number.as_u64()?.to_string()),
        _ => None,
    }
}

fn id(json: &Json) -> Option<u32> {
    u32::try_from(integer(json)?).ok()
}

/// Parses an answer of department/simplelist or department/list; they differ in the `key` of the list.
pub fn departments(json: &Json, key: &str) -> Result<DepartmentList, String> {
    let mut found = DepartmentList::default();
    for row in list(json, key)? {
        match department(row, &mut found.skipped) {
            Ok((id, fields)) => {
                found.departments.insert(id, fields);
            }
            Err(what) => found.nameless.add(|| what),
        }
    }
    Ok(found)
}

/// Parses one department, of a list or of department/get. Adds unreadable values to `skipped`; an unreadable id is an
/// error, as the row names no department then.
pub fn department(
    json: &Json,
    skipped: &mut Skipped,
) -> Result<(DepartmentId, Fields<DepartmentField>), String> {
    let own = json.get("id");
    let own = own.and_then(id).ok_or_else(|| format!("department id {}", shown(own)))?;
    let mut fields = Fields::new();
    for field in DepartmentField::ALL {
        let key = match field {
            DepartmentField::Name => "name",
            DepartmentField::ParentId => "parentid",
            DepartmentField::Order => "order",
        };
        let Some(found) = json.get(key) else { continue };
        let value = match field {
            DepartmentField::Name => found.as_str().map(Value::text),
            DepartmentField::ParentId => id(found).map(|parent| Value::Int(parent.into())),
            DepartmentField::Order => integer(found).map(Value::Int),
        };
        match value {
            Some(value) => {
                fields.insert(*field, value);
            }
            None => skipped.add(|| format!("department {own}: {key} {}", shown(Some(found)))),
        }
    }
    Ok((DepartmentId(own), fields))
}

/// Parses an answer of tag/list.
pub fn tags(json: &Json) -> Result<TagList, String> {
    let mut found = TagList::default();
    for row in list(json, "taglist")? {
        let (tag, name) = (row.get("tagid"), row.get("tagname"));
        let Some(tag) = tag.and_then(id) else {
            found.nameless.add(|| format!("tagid {}", shown(tag)));
            continue;
        };
        if !name.is_some_and(Json::is_string) {
            found.skipped.add(|| format!("tag {tag}: tagname {}", shown(name)));
        }
        let name = name.and_then(Json::as_str).map(|name| normal(name).into_owned());
        found.tags.insert(TagId(tag), name);
    }
    Ok(found)
}

/// Parses an answer of tag/get. Skips an unreadable entry or list; the error is that both lists are missing.
pub fn tag_content(json: &Json) -> Result<TagContent, String> {
    let mut found = TagContent::default();
    let members = list(json, "userlist");
    let departments = list(json, "partylist");
    if let (Err(what), Err(_)) = (&members, &departments) {
        return Err(what.clone());
    }
    for member in members.iter().copied().flatten() {
        match userid(member.get("userid")) {
            Some(userid) => drop(found.members.insert(userid)),
            None => found.skipped.add(|| format!("userid {}", shown(member.get("userid")))),
        }
    }
    for department in departments.iter().copied().flatten() {
        match id(department) {
            Some(id) => drop(found.departments.insert(DepartmentId(id))),
            None => found.skipped.add(|| format!("department id {}", shown(Some(department)))),
        }
    }
    for what in members.err().into_iter().chain(departments.err()) {
        found.skipped.add(|| what);
    }
    Ok(found)
}

/// Parses an answer of user/get. An unreadable field counts as absent, like one that the secret may not see.
pub fn member(json: &Json) -> Result<(UserId, Fields<MemberField>), String> {
    let found = json.get("userid");
    let userid = userid(found).ok_or_else(|| format!("the answer has no userid: {}", shown(found)))?;
    let mut fields = Fields::new();
    for field in MemberField::ALL {
        let value = match field {
            MemberField::Department => ids(json, "department").map(Value::Ids),
            MemberField::LeaderOf => leads(json),
            MemberField::DirectLeader => direct_leader(json),
            MemberField::ExtAttr => json.get("extattr").and_then(|ext| ext.get("attrs")).and_then(attributes),
            MemberField::Gender | MemberField::Status | MemberField::MainDepartment => {
                json.get(field.name()).and_then(number)
            }
            _ => json.get(field.name()).and_then(json_text).map(|text| Value::text(&text)),
        };
        fields.extend(value.map(|value| (*field, value)));
    }
    Ok((userid, fields))
}

/// A number, quoted or not, such as gender; an empty text clears the field, as an event's empty element does.
fn number(json: &Json) -> Option<Value> {
    if json.as_str().is_some_and(|text| text.trim().is_empty()) {
        return Some(Value::Cleared);
    }
    id(json).map(|number| Value::Int(number.into()))
}

fn ids(json: &Json, key: &str) -> Option<Vec<u32>> {
    json.get(key)?.as_array()?.iter().map(id).collect()
}

/// The departments of `department` whose flag in is_leader_in_dept is 1.
fn leads(json: &Json) -> Option<Value> {
    let (departments, flags) = (ids(json, "department")?, ids(json, "is_leader_in_dept")?);
    let led = departments.into_iter().zip(flags).filter(|(_, flag)| *flag == 1);
    Some(Value::Ids(led.map(|(id, _)| id).collect()))
}

/// The list in the form of an event: userids separated by commas.
fn direct_leader(json: &Json) -> Option<Value> {
    let list = json.get("direct_leader")?.as_array()?.iter();
    let userids: Option<Vec<&str>> = list.map(Json::as_str).collect();
    text::userid_list(userids?).map(|list| Value::text(&list))
}

fn attributes(json: &Json) -> Option<Value> {
    Some(Value::Attrs(normal_attributes(json.as_array()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn user_get_yields_the_same_fields_as_an_event() {
        let (userid, fields) = member(&json!({
            "errcode": 0, "userid": "ZhangSan", "name": "张三", "department": [1, 2], "order": [3, 4],
            "position": "", "gender": "1", "status": 1, "is_leader_in_dept": [1, 0], "main_department": 2,
            "direct_leader": ["lisi", "wangwu"], "unheard_of": true,
            "extattr": {"attrs": [{"type": 0, "name": "工号", "value": "007", "text": {"value": "007"}}]},
        }))
        .unwrap();
        assert_eq!(userid.as_str(), "ZhangSan");
        let expected = Fields::from([
            (MemberField::Name, Value::text("张三")),
            (MemberField::Department, Value::Ids(vec![1, 2])),
            (MemberField::Position, Value::Cleared),
            (MemberField::Gender, Value::Int(1)),
            (MemberField::Status, Value::Int(1)),
            (MemberField::LeaderOf, Value::Ids(vec![1])),
            (MemberField::MainDepartment, Value::Int(2)),
            (MemberField::DirectLeader, Value::text("lisi,wangwu")),
            (
                MemberField::ExtAttr,
                Value::Attrs(json!([{"type": 0, "name": "工号", "text": {"value": "007"}}])),
            ),
        ]);
        assert_eq!(fields, expected);
    }

    #[test]
    fn answers_without_the_requested_part_are_errors() {
        for (answer, defect) in [
            (departments(&json!({"errcode": 0}), "department").map(drop), "no list department: missing"),
            (page(&json!({"dept_user": null})).map(drop), "no list dept_user: null"),
            (page(&json!({"dept_user": [], "next_cursor": {}})).map(drop), "next_cursor"),
            (tags(&json!({"taglist": "x"})).map(drop), "no list taglist: \"x\""),
            (tag_content(&json!({})).map(drop), "no list userlist"),
            (member(&json!({"name": "张三"})).map(drop), "no userid: missing"),
            (member(&json!({"userid": ""})).map(drop), "no userid: \"\""),
        ] {
            let error = answer.unwrap_err();
            assert!(error.contains(defect), "{error}");
        }
    }

    #[test]
    fn an_unreadable_row_is_skipped_and_named_and_the_others_are_used() {
        let members = page(&json!({"dept_user": [
            {"userid": "a", "department": 1}, {"userid": "b", "department": "2"}, {"userid": "c", "department": 3.0},
            {"userid": "d", "department": -1}, {"userid": "李四", "department": 1}, {"department": 1}, null,
            {"userid": 10007, "department": 1}, {"userid": "e", "department": 4_294_967_296_u64}, {"userid": "f"},
        ], "next_cursor": null})).unwrap();
        let rows: Vec<_> = members.rows.iter().map(|(userid, id)| (userid.as_str(), id.0)).collect();
        assert_eq!(rows, [("a", 1), ("b", 2), ("c", 3), ("10007", 1)]);
        assert_eq!(members.odd.iter().map(UserId::as_str).collect::<Vec<_>>(), ["d", "e", "f"]);
        assert_eq!(members.nameless.count, 3);
        assert_eq!(members.nameless.to_string(), "userid \"李四\", userid missing, userid missing");
        assert!(members.skipped.to_string().starts_with("member d: department -1, "), "{}", members.skipped);

        let list = departments(
            &json!({"department": [
                {"id": 1, "name": "x", "parentid": 0, "order": 1}, {"id": "2", "name": null, "parentid": "1"},
                {"id": -1, "name": "y"}, {"id": 3.0, "parentid": -1, "order": 1e300}, {"name": "z"}, "w",
            ]}),
            "department",
        )
        .unwrap();
        let ids: Vec<_> = list.departments.keys().map(|id| id.0).collect();
        assert_eq!(ids, [1, 2, 3]);
        assert_eq!(
            list.departments[&DepartmentId(2)],
            Fields::from([(DepartmentField::ParentId, Value::Int(1))])
        );
        assert_eq!((list.nameless.count, list.skipped.count), (3, 3));
        assert!(list.skipped.to_string().contains("department 2: name null"), "{}", list.skipped);

        let list = tags(&json!({"taglist": [
            {"tagid": "2", "tagname": "x"}, {"tagid": 3, "tagname": null}, {"tagid": "y", "tagname": "z"}, [],
        ]}))
        .unwrap();
        assert_eq!(list.tags, BTreeMap::from([(TagId(2), Some("x".into())), (TagId(3), None)]));
        assert_eq!((list.nameless.count, list.skipped.count), (2, 1));

        let content = tag_content(&json!({
            "userlist": [{"userid": "张三"}, {"userid": "a"}, {"name": "?"}], "partylist": [1, "2", -3],
        }))
        .unwrap();
        assert_eq!((content.members.len(), content.departments.len(), content.skipped.count), (1, 2, 3));
        let content = tag_content(&json!({"userlist": null, "partylist": [1]})).unwrap();
        assert_eq!((content.departments.len(), content.skipped.count), (1, 1));
    }

    #[test]
    fn all_skipped_rows_are_counted_and_five_named() {
        let rows: Vec<Json> = (0..100).map(|n| json!({"tagid": format!("x{n}")})).collect();
        let skipped = tags(&json!({"taglist": rows})).unwrap().nameless;
        assert!(skipped.to_string().ends_with("tagid \"x4\" and 95 more"), "{skipped}");
    }
}
