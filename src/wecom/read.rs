//! The APIs that tell what the directory is: members, departments, tags; from JSON to the directory's types.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::api::{Answer, Api, Client, Listener, NoAnswer, Said, SecretKind};
use super::envelope::url_encode;
use super::pace::Urgency;
use crate::directory::attributes::normal_attributes;
use crate::directory::text::{self, json_number, json_text, normal};
use crate::directory::{
    DepartmentField, DepartmentId, Field, Fields, MemberField, TagId, UnixSeconds, UserId, Value,
};

/// What WeCom showed, and as of when.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen<T> {
    /// It.
    pub what: T,
    /// When it was asked for, on WeCom's clock.
    pub at: UnixSeconds,
}

/// Why WeCom showed nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotSeen {
    /// There is no such thing, or this secret may not see it.
    Refused {
        /// WeCom's errcode.
        errcode: i64,
        /// WeCom's errmsg.
        errmsg: String,
    },
    /// There is no answer now.
    NoAnswer(NoAnswer),
}

/// Members asked for in one page; WeCom's largest (doc 96067).
pub const PAGE: u32 = 10_000;

/// A page of user/list_id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// A row for each member and department.
    pub rows: Vec<(UserId, DepartmentId)>,
    /// Rows that cannot be read.
    pub unreadable: usize,
    /// Leads to the next page; empty: this was the last.
    pub next_cursor: String,
}

/// Departments and what was told of each.
pub type Departments = BTreeMap<DepartmentId, Fields<DepartmentField>>;

/// What tag/get shows of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagContent {
    /// userlist
    pub members: BTreeSet<UserId>,
    /// partylist
    pub departments: BTreeSet<DepartmentId>,
}

impl<L: Listener> Client<L> {
    /// One page of all members' ids (user/list_id).
    ///
    /// # Errors
    /// [`NotSeen`].
    pub fn list_ids(&self, cursor: &str, limit: u32) -> Result<Seen<Page>, NotSeen> {
        let body = json!({"cursor": cursor, "limit": limit});
        let call = (Api::UserListId, SecretKind::Contacts);
        let said = self
            .read(call, None, ("", Some(&body)), Urgency::Reconcile, |answer| page(&answer.json).is_some());
        seen(said, |answer| page(&answer.json))
    }

    /// A member's fields (user/get).
    ///
    /// # Errors
    /// [`NotSeen`].
    pub fn user_get(
        &self,
        userid: &UserId,
        secret: SecretKind,
        urgency: Urgency,
    ) -> Result<Seen<(UserId, Fields<MemberField>)>, NotSeen> {
        let query = format!("&userid={}", url_encode(userid.as_str()));
        let member = |answer: &Answer| {
            let found = member(&answer.json)?;
            // Of somebody else, whatever the reason, it tells nothing of this one.
            (found.0 == *userid).then_some(found)
        };
        let call = (Api::UserGet, secret);
        let said = self.read(call, Some(userid), (&query, None), urgency, |answer| member(answer).is_some());
        seen(said, member)
    }

    /// All departments without their names (department/simplelist).
    ///
    /// # Errors
    /// [`NotSeen`].
    pub fn department_ids(&self) -> Result<Seen<Departments>, NotSeen> {
        let read = |answer: &Answer| departments(&answer.json, "department_id");
        let call = (Api::DepartmentSimpleList, SecretKind::Contacts);
        seen(self.read(call, None, ("", None), Urgency::Reconcile, |answer| read(answer).is_some()), read)
    }

    /// The departments that this secret may see, with their names (department/list).
    ///
    /// # Errors
    /// [`NotSeen`].
    pub fn departments(&self, secret: SecretKind) -> Result<Seen<Departments>, NotSeen> {
        let read = |answer: &Answer| departments(&answer.json, "department");
        let call = (Api::DepartmentList, secret);
        seen(self.read(call, None, ("", None), Urgency::Reconcile, |answer| read(answer).is_some()), read)
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
        let read = |answer: &Answer| match department(answer.json.get("department")?)? {
            (found, fields) if found == id => Some(fields),
            _ => None,
        };
        let query = format!("&id={id}");
        let call = (Api::DepartmentGet, secret);
        seen(self.read(call, None, (&query, None), Urgency::Reconcile, |answer| read(answer).is_some()), read)
    }

    /// The tags that this secret may see (tag/list), by id, with their names.
    ///
    /// # Errors
    /// [`NotSeen`].
    pub fn tags(&self, secret: SecretKind) -> Result<Seen<BTreeMap<TagId, String>>, NotSeen> {
        let read = |answer: &Answer| tags(&answer.json);
        let call = (Api::TagList, secret);
        seen(self.read(call, None, ("", None), Urgency::Reconcile, |answer| read(answer).is_some()), read)
    }

    /// Who and what is in a tag (tag/get).
    ///
    /// # Errors
    /// [`NotSeen`].
    pub fn tag(&self, id: TagId, secret: SecretKind) -> Result<Seen<TagContent>, NotSeen> {
        let read = |answer: &Answer| tag_content(&answer.json);
        let query = format!("&tagid={id}");
        let call = (Api::TagGet, secret);
        seen(self.read(call, None, (&query, None), Urgency::Reconcile, |answer| read(answer).is_some()), read)
    }
}

fn seen<T>(said: Result<Said, NoAnswer>, read: impl Fn(&Answer) -> Option<T>) -> Result<Seen<T>, NotSeen> {
    match said.map_err(NotSeen::NoAnswer)? {
        Said::Done(answer) => match read(&answer) {
            Some(what) => Ok(Seen { what, at: answer.asked_at }),
            None => Err(NotSeen::Refused { errcode: 0, errmsg: "the answer cannot be read".into() }),
        },
        Said::NotYet(answer) | Said::Never(answer) => {
            Err(NotSeen::Refused { errcode: answer.errcode, errmsg: answer.errmsg })
        }
    }
}

/// What user/list_id says. This and the following are public for those who try what WeCom may answer; `None`
/// if it is not what was asked for.
#[must_use]
pub fn page(json: &Json) -> Option<Page> {
    let listed = json.get("dept_user")?.as_array()?;
    let row = |row: &Json| -> Option<(UserId, DepartmentId)> {
        Some((text::userid(row.get("userid")?.as_str()?)?, DepartmentId(id(row.get("department")?)?)))
    };
    let rows: Vec<_> = listed.iter().filter_map(row).collect();
    let next_cursor = json.get("next_cursor").and_then(Json::as_str).unwrap_or("").to_owned();
    Some(Page { unreadable: listed.len() - rows.len(), rows, next_cursor })
}

fn id(json: &Json) -> Option<u32> {
    json_number(json)
}

/// What department/simplelist and department/list say; they differ in the `key` of the list.
#[must_use]
pub fn departments(json: &Json, key: &str) -> Option<Departments> {
    json.get(key)?.as_array()?.iter().map(department).collect()
}

/// What is said of one department, in a list or by department/get.
#[must_use]
pub fn department(json: &Json) -> Option<(DepartmentId, Fields<DepartmentField>)> {
    let mut fields = Fields::new();
    for field in DepartmentField::ALL {
        let value = match field {
            DepartmentField::Name => json.get("name").and_then(Json::as_str).map(Value::text),
            DepartmentField::ParentId => json.get("parentid").and_then(number),
            DepartmentField::Order => json.get("order").and_then(number),
        };
        fields.extend(value.map(|value| (*field, value)));
    }
    Some((DepartmentId(id(json.get("id")?)?), fields))
}

/// What tag/list says.
#[must_use]
pub fn tags(json: &Json) -> Option<BTreeMap<TagId, String>> {
    let listed = json.get("taglist")?.as_array()?.iter();
    listed
        .map(|tag| Some((TagId(id(tag.get("tagid")?)?), normal(tag.get("tagname")?.as_str()?).into_owned())))
        .collect()
}

/// What tag/get says. A text that is no userid is passed over: the directory has nobody of that name either.
#[must_use]
pub fn tag_content(json: &Json) -> Option<TagContent> {
    let members = json.get("userlist")?.as_array()?.iter();
    let members = members.map(|member| member.get("userid")?.as_str());
    let members = members.collect::<Option<Vec<_>>>()?;
    let departments = json.get("partylist")?.as_array()?.iter().map(|json| id(json).map(DepartmentId));
    Some(TagContent {
        members: members.into_iter().filter_map(text::userid).collect(),
        departments: departments.collect::<Option<_>>()?,
    })
}

/// What user/get says. One that the secret may not see is absent: that says nothing. One that
/// makes no sense is passed over, as absent.
#[must_use]
pub fn member(json: &Json) -> Option<(UserId, Fields<MemberField>)> {
    let userid = text::userid(json.get("userid")?.as_str()?)?;
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
    Some((userid, fields))
}

/// A number, in quotes or not, as gender; an empty text empties it, as an event's empty element does.
fn number(json: &Json) -> Option<Value> {
    if json.as_str().is_some_and(|text| text.trim().is_empty()) {
        return Some(Value::Emptied);
    }
    json_number(json).map(|number| Value::Int(number.into()))
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
            (MemberField::Position, Value::Emptied),
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
        assert_eq!(departments(&json!({"errcode": 0}), "department"), None);
        assert_eq!(departments(&json!({"department": [{"name": "?"}]}), "department"), None);
        assert_eq!(tags(&json!({"taglist": [{"tagid": "x", "tagname": "y"}]})), None);
        assert_eq!(tag_content(&json!({"userlist": [{"name": "?"}], "partylist": []})), None);
        let odd = json!({"userlist": [{"userid": "张三"}, {"userid": "a"}], "partylist": []});
        assert_eq!(tag_content(&odd).unwrap().members.len(), 1, "one odd name does not cost the others");
        assert_eq!(member(&json!({"name": "张三"})), None);
    }
}
