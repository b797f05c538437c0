//! One method of [`Client`] per API of the directory; [`super::directory`] parses the answers.

use serde_json::{Value as Json, json};

use super::admission::Entry;
use super::answer::{ApiObserver, ApiOutcome};
use super::client::{Call, Client};
use super::directory::{self, DepartmentList, Page, Skipped, TagContent, TagList};
use super::endpoints::{Api, SecretKind};
use super::failure_tracker::Item;
use super::json::shown;
use super::rate_limiter::Priority;
use crate::directory::{DepartmentField, DepartmentId, Fields, MemberField, TagId, UserId};
use crate::wecom::query::url_encode;

impl<L: ApiObserver> Client<L> {
    /// Requests a member's openid (user/convert_to_openid).
    pub(crate) fn convert_to_openid(&self, userid: &UserId, entry: Entry) -> ApiOutcome<String> {
        let body = json!({"userid": userid.as_str()});
        let (api, secret) = (Api::ConvertToOpenid, SecretKind::App);
        let item = Item::Member(userid.clone());
        self.call(&Call { api, secret, item, query: "", body: Some(&body) }, entry, |answer| {
            let openid = answer.json.get("openid");
            let text = openid.and_then(Json::as_str).map(str::trim).unwrap_or_default();
            let is_openid = (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
            let error = || format!("the answer has errcode 0 and no openid: {}", shown(openid));
            is_openid.then(|| text.to_owned()).ok_or_else(error)
        })
    }

    /// Requests a member's fields (user/get).
    pub(crate) fn user_get(
        &self,
        userid: &UserId,
        secret: SecretKind,
        entry: Entry,
    ) -> ApiOutcome<(UserId, Fields<MemberField>)> {
        let query = format!("&userid={}", url_encode(userid.as_str()));
        let item = Item::Member(userid.clone());
        let call = Call { api: Api::UserGet, secret, item, query: &query, body: None };
        self.call(&call, entry, |answer| match directory::member(&answer.json)? {
            found if found.0 == *userid => Ok(found),
            (found, _) => Err(format!("the answer is about another member: {found}")),
        })
    }

    /// Requests one page of all members' ids (user/list_id), at most `limit` rows.
    pub(crate) fn list_ids(&self, cursor: &str, limit: u32) -> ApiOutcome<Page> {
        let body = json!({"cursor": cursor, "limit": limit});
        let (api, secret) = (Api::UserListId, SecretKind::Contacts);
        self.read((api, secret), Item::Listing(api), ("", Some(&body)), directory::page)
    }

    /// Requests all departments, without their names (department/simplelist).
    pub(crate) fn department_ids(&self) -> ApiOutcome<DepartmentList> {
        let parse = |json: &Json| directory::departments(json, "department_id");
        self.list(Api::DepartmentSimpleList, SecretKind::Contacts, parse)
    }

    /// Requests the departments that this secret may see, with their names (department/list).
    pub(crate) fn departments(&self, secret: SecretKind) -> ApiOutcome<DepartmentList> {
        self.list(Api::DepartmentList, secret, |json| directory::departments(json, "department"))
    }

    /// Requests one department (department/get).
    pub(crate) fn department(
        &self,
        id: DepartmentId,
        secret: SecretKind,
    ) -> ApiOutcome<Fields<DepartmentField>> {
        let query = format!("&id={id}");
        self.read((Api::DepartmentGet, secret), Item::Department(id), (&query, None), |json| {
            let department = json.get("department").ok_or("the answer has no department")?;
            match directory::department(department, &mut Skipped::default())? {
                (found, fields) if found == id => Ok(fields),
                (found, _) => Err(format!("the answer is about another department: {found}")),
            }
        })
    }

    /// Requests the tags that this secret may see (tag/list).
    pub(crate) fn tags(&self, secret: SecretKind) -> ApiOutcome<TagList> {
        self.list(Api::TagList, secret, directory::tags)
    }

    /// Requests a tag's members and departments (tag/get).
    pub(crate) fn tag(&self, id: TagId, secret: SecretKind) -> ApiOutcome<TagContent> {
        let query = format!("&tagid={id}");
        self.read((Api::TagGet, secret), Item::Tag(id), (&query, None), directory::tag_content)
    }

    fn list<T>(
        &self,
        api: Api,
        secret: SecretKind,
        parse: impl Fn(&Json) -> Result<T, String>,
    ) -> ApiOutcome<T> {
        self.read((api, secret), Item::Listing(api), ("", None), parse)
    }

    fn read<T>(
        &self,
        (api, secret): (Api, SecretKind),
        item: Item,
        (query, body): (&str, Option<&Json>),
        parse: impl Fn(&Json) -> Result<T, String>,
    ) -> ApiOutcome<T> {
        let call = Call { api, secret, item, query, body };
        self.call(&call, Entry::Waiting(Priority::Reconcile), |answer| parse(&answer.json))
    }
}
