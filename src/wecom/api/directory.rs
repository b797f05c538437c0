//! The APIs that tell what the directory is: members, departments, tags; from JSON to the directory's types.
//!
//! An unreadable row is skipped, counted and named; the other rows count.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::answer::{Answer, ApiObserver};
pub use super::answer::{NotSeen, Seen};
use super::client::{Call, Client};
use super::endpoints::{Api, SecretKind};
use super::failures::Item;
use super::json::{integer, shown};
use super::rate_limiter::Priority;
use crate::directory::attributes::normal_attributes;
use crate::directory::text::{self, json_text, normal};
use crate::directory::{DepartmentField, DepartmentId, Field, Fields, MemberField, TagId, UserId, Value};
use crate::wecom::query::url_encode;

/// Members asked for in one page; WeCom's largest (doc 96067).
pub const PAGE: u32 = 10_000;
/// Skipped rows that are named.
const NAMED: usize = 5;

/// Rows, or values of a row, that make no sense: how many, and the first of them by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skipped {
    /// How many.
    pub count: usize,
    named: Vec<String>,
}

impl Skipped {
    fn add(&mut self, what: impl FnOnce() -> String) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(what());
        }
    }

    /// Adds those of another part of the answer.
    pub fn extend(&mut self, other: Self) {
        self.count += other.count;
        self.named.extend(other.named);
        self.named.truncate(NAMED);
    }

    /// The same, each named as part of `whole`.
    #[must_use]
    pub fn within(self, whole: &str) -> Self {
        let named = self.named.iter().map(|what| format!("{whole}: {what}"));
        Self { count: self.count, named: named.collect() }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
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

/// A page of user/list_id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// A row for each member and department.
    pub rows: Vec<(UserId, DepartmentId)>,
    /// Members of rows whose department makes no sense: they are there, and their departments are not known.
    pub odd: Vec<UserId>,
    /// Rows without a readable userid.
    pub nameless: Skipped,
    /// The rows of `odd`.
    pub skipped: Skipped,
    /// Leads to the next page; empty: this was the last.
    pub next_cursor: String,
}

/// Departments and what was told of each.
pub type Departments = BTreeMap<DepartmentId, Fields<DepartmentField>>;

/// A listing of departments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DepartmentList {
    /// Those that can be read.
    pub departments: Departments,
    /// Rows of no department: the id cannot be read.
    pub nameless: Skipped,
    /// Values that cannot be read, of departments that are listed.
    pub skipped: Skipped,
}

/// A listing of tags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TagList {
    /// Those that can be read; none: the name cannot be.
    pub tags: BTreeMap<TagId, Option<String>>,
    /// Rows of no tag: the id cannot be read.
    pub nameless: Skipped,
    /// Names that cannot be read.
    pub skipped: Skipped,
}

/// What tag/get shows of a tag.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TagContent {
    /// userlist
    pub members: BTreeSet<UserId>,
    /// partylist
    pub departments: BTreeSet<DepartmentId>,
    /// Entries, or whole lists, that cannot be read: what is not in the lists above may be in the tag all the same.
    pub skipped: Skipped,
}

impl<L: ApiObserver> Client<L> {
    /// A call of the comparison.
    fn read<T>(
        &self,
        (api, secret): (Api, SecretKind),
        item: Item,
        (query, body): (&str, Option<&Json>),
        parse: impl Fn(&Json) -> Result<T, String>,
    ) -> Result<Seen<T>, NotSeen> {
        let call = Call { api, secret, item, query, body, priority: Priority::Reconcile };
        self.call(&call, |answer: &Answer| parse(&answer.json))
    }

    fn list<T>(
        &self,
        (api, secret): (Api, SecretKind),
        parse: impl Fn(&Json) -> Result<T, String>,
    ) -> Result<Seen<T>, NotSeen> {
        self.read((api, secret), Item::Listing(api), ("", None), parse)
    }

    /// One page of all members' ids (user/list_id).
    ///
    /// # Errors
    /// [`NotSeen`].
    pub fn list_ids(&self, cursor: &str, limit: u32) -> Result<Seen<Page>, NotSeen> {
        let body = json!({"cursor": cursor, "limit": limit});
        let call = (Api::UserListId, SecretKind::Contacts);
        self.read(call, Item::Listing(Api::UserListId), ("", Some(&body)), page)
    }

    /// A member's fields (user/get).
    ///
    /// # Errors
    /// [`NotSeen`].
    pub fn user_get(
        &self,
        userid: &UserId,
        secret: SecretKind,
        priority: Priority,
    ) -> Result<Seen<(UserId, Fields<MemberField>)>, NotSeen> {
        let query = format!("&userid={}", url_encode(userid.as_str()));
        let item = Item::Member(userid.clone());
        let call = Call { api: Api::UserGet, secret, item, query: &query, body: None, priority };
        self.call(&call, |answer| {
            let found = member(&answer.json)?;
            if found.0 == *userid {
                Ok(found)
            } else {
                Err(format!("the answer is about another member: {}", found.0))
            }
        })
    }

    /// All departments without their names (department/simplelist).
    ///
    /// # Errors
    /// [`NotSeen`].
    pub fn department_ids(&self) -> Result<Seen<DepartmentList>, NotSeen> {
        let call = (Api::DepartmentSimpleList, SecretKind::Contacts);
        self.list(call, |json| departments(json, "department_id"))
    }

    /// The departments that this secret may see, with their names (department/list).
    ///
    /// # Errors
    /// [`NotSeen`].
    pub fn departments(&self, secret: SecretKind) -> Result<Seen<DepartmentList>, NotSeen> {
        self.list((Api::DepartmentList, secret), |json| departments(json, "department"))
    }

    /// One department (department/get).
    ///
    /// # Errors
    /// [`NotSeen`].
    pub fn department(
        &self,
        id: DepartmentId,
        secret: SecretKind,
    ) -> Result<Seen<Fields<DepartmentField>>, NotSeen> {
        let query = format!("&id={id}");
        self.read((Api::DepartmentGet, secret), Item::Department(id), (&query, None), |json| {
            let shown = json.get("department").ok_or("the answer has no department")?;
            match department(shown, &mut Skipped::default())? {
                (found, fields) if found == id => Ok(fields),
                (found, _) => Err(format!("the answer is about another department: {found}")),
            }
        })
    }

    /// The tags that this secret may see (tag/list), by id, with their names.
    ///
    /// # Errors
    /// [`NotSeen`].
    pub fn tags(&self, secret: SecretKind) -> Result<Seen<TagList>, NotSeen> {
        self.list((Api::TagList, secret), tags)
    }

    /// Who and what is in a tag (tag/get).
    ///
    /// # Errors
    /// [`NotSeen`].
    pub fn tag(&self, id: TagId, secret: SecretKind) -> Result<Seen<TagContent>, NotSeen> {
        let query = format!("&tagid={id}");
        self.read((Api::TagGet, secret), Item::Tag(id), (&query, None), tag_content)
    }
}

/// A list that the answer must have.
fn list<'a>(json: &'a Json, key: &str) -> Result<&'a Vec<Json>, String> {
    let found = json.get(key);
    found.and_then(Json::as_array).ok_or_else(|| format!("the answer has no list {key}: {}", shown(found)))
}

/// What user/list_id says. This and the following are public for those who try what WeCom may answer.
///
/// # Errors
/// What the answer lacks.
pub fn page(json: &Json) -> Result<Page, String> {
    let next_cursor = match json.get("next_cursor") {
        None | Some(Json::Null) => String::new(),
        Some(Json::String(cursor)) => cursor.clone(),
        Some(Json::Number(cursor)) => cursor.to_string(),
        odd => return Err(format!("next_cursor is no text: {}", shown(odd))),
    };
    let mut page = Page {
        rows: Vec::new(),
        odd: Vec::new(),
        nameless: Skipped::default(),
        skipped: Skipped::default(),
        next_cursor,
    };
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

/// A userid; all digits, it may have come as a number.
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

/// What department/simplelist and department/list say; they differ in the `key` of the list.
///
/// # Errors
/// What the answer lacks.
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

/// What is said of one department, in a list or by department/get. Values that make no sense are skipped.
///
/// # Errors
/// It has no id that can be read.
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
        let Some(told) = json.get(key) else { continue };
        let value = match field {
            DepartmentField::Name => told.as_str().map(Value::text),
            DepartmentField::ParentId => id(told).map(|parent| Value::Int(parent.into())),
            DepartmentField::Order => integer(told).map(Value::Int),
        };
        match value {
            Some(value) => {
                fields.insert(*field, value);
            }
            None => skipped.add(|| format!("department {own}: {key} {}", shown(Some(told)))),
        }
    }
    Ok((DepartmentId(own), fields))
}

/// What tag/list says.
///
/// # Errors
/// What the answer lacks.
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

/// What tag/get says. Entries that make no sense are skipped, and so is a list that is none.
///
/// # Errors
/// It has neither list.
pub fn tag_content(json: &Json) -> Result<TagContent, String> {
    let mut found = TagContent::default();
    let members = list(json, "userlist");
    let departments = list(json, "partylist");
    if let (Err(what), Err(_)) = (&members, &departments) {
        return Err(what.clone());
    }
    match members {
        Ok(members) => {
            for member in members {
                match userid(member.get("userid")) {
                    Some(userid) => {
                        found.members.insert(userid);
                    }
                    None => found.skipped.add(|| format!("userid {}", shown(member.get("userid")))),
                }
            }
        }
        Err(what) => found.skipped.add(|| what),
    }
    match departments {
        Ok(departments) => {
            for department in departments {
                match id(department) {
                    Some(id) => {
                        found.departments.insert(DepartmentId(id));
                    }
                    None => found.skipped.add(|| format!("department id {}", shown(Some(department)))),
                }
            }
        }
        Err(what) => found.skipped.add(|| what),
    }
    Ok(found)
}

/// What user/get says. One that the secret may not see is absent: that says nothing. One that
/// makes no sense is passed over, as absent.
///
/// # Errors
/// It has no userid that can be read.
pub fn member(json: &Json) -> Result<(UserId, Fields<MemberField>), String> {
    let told = json.get("userid");
    let userid = userid(told).ok_or_else(|| format!("the answer has no userid: {}", shown(told)))?;
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

/// A number, in quotes or not, as gender; an empty text empties it, as an event's empty element does.
fn number(json: &Json) -> Option<Value> {
    if json.as_str().is_some_and(|text| text.trim().is_empty()) {
        return Some(Value::Cleared);
    }
    id(json).map(|number| Value::Int(number.into()))
}

fn ids(json: &Json, key: &str) -> Option<Vec<u32>> {
    json.get(key)?.as_array()?.iter().map(id).collect()
}

/// The departments that the member leads, of those that it is in.
fn leads(json: &Json) -> Option<Value> {
    let (departments, flags) = (ids(json, "department")?, ids(json, "is_leader_in_dept")?);
    let led = departments.into_iter().zip(flags).filter(|(_, flag)| *flag == 1);
    Some(Value::Ids(led.map(|(id, _)| id).collect()))
}

/// As events write it: userids with commas between.
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

    #[test]
    fn user_get_tells_the_same_as_an_event_would() {
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
    fn answers_without_what_was_asked_for_are_none() {
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
    fn an_odd_row_is_skipped_and_named_and_costs_no_other() {
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
    fn many_skipped_rows_are_counted_and_few_named() {
        let rows: Vec<Json> = (0..100).map(|n| json!({"tagid": format!("x{n}")})).collect();
        let skipped = tags(&json!({"taglist": rows})).unwrap().nameless;
        assert!(skipped.to_string().ends_with("tagid \"x4\" and 95 more"), "{skipped}");
    }
}
