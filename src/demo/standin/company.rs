//! The simulated company: its directory, and WeCom's answers about it. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Map, Value as Json, json};

/// A member of the simulated company.
#[derive(Debug, Clone, Default)]
pub struct User {
    /// Spelling in answers; look-ups ignore case.
    pub userid: String,
    /// The field `name` of user/get.
    pub name: String,
    /// Ids in the member's own order.
    pub departments: Vec<u32>,
    /// `None` before the member signs in: conversion is refused with 43004.
    pub openid: Option<String>,
    /// Whether the app's visible range covers the member.
    pub visible: bool,
    /// Further fields of its user/get answer.
    pub details: Map<String, Json>,
}

/// A department of the simulated company.
#[derive(Debug, Clone, Default)]
pub struct Department {
    /// Only in department/list and department/get.
    pub name: String,
    /// The field `parentid` of its answers.
    pub parent: u32,
    /// The field `order` of its answers.
    pub order: u32,
}

/// A tag of the simulated company.
#[derive(Debug, Clone, Default)]
pub struct Tag {
    /// The field `tagname` of its answers.
    pub name: String,
    /// Userids in the list `userlist`.
    pub members: BTreeSet<String>,
    /// Ids in the list `partylist`.
    pub departments: BTreeSet<u32>,
}

/// A fault of the listing of members (user/list_id). Pages count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListingFault {
    /// This page is empty and has a next cursor.
    EmptyPage(usize),
    /// This page is empty and has no next cursor.
    EndsEmpty(usize),
    /// This page has no next cursor, although rows are left.
    EndsEarly(usize),
    /// From this page on the cursor stays the same.
    SameCursor(usize),
    /// This page repeats the previous one.
    SamePage(usize),
    /// From this page on each answer is this errcode.
    BreaksOff(usize, i64),
}

/// The simulated company and its settings in WeCom's admin console.
#[derive(Debug, Clone)]
pub struct Company {
    /// The 企业ID that gettoken requires.
    pub corp_id: String,
    /// The secret of contacts sync (通讯录同步).
    pub contacts_secret: String,
    /// The secret of the app that converts.
    pub app_secret: String,
    /// The expires_in of gettoken in seconds.
    pub token_lifetime: u64,
    /// Replaces `token_lifetime` in gettoken's answer, to test invalid values.
    pub token_life: Option<Json>,
    /// Each token expires after one call.
    pub tokens_work_once: bool,
    /// The departments by their ids.
    pub departments: BTreeMap<u32, Department>,
    /// The tags by their ids.
    pub tags: BTreeMap<u32, Tag>,
    /// The errcode that refuses an API (path) to a secret ("app" or "contacts").
    pub forbidden: HashMap<(&'static str, &'static str), i64>,
    /// Maximum number of rows in a page of user/list_id.
    pub page: usize,
    /// Injected into the listing of members.
    pub listing_fault: Option<ListingFault>,
    pages_given: usize,
    users: BTreeMap<String, User>,
    /// The secret of each issued token.
    tokens: HashMap<String, String>,
    /// The errcode of each token that is no longer valid.
    dead_tokens: HashMap<String, i64>,
}

impl Default for Company {
    fn default() -> Self {
        Self {
            corp_id: "wx5823bf96d3bd56c7".into(),
            contacts_secret: "stand-in-contacts-secret".into(),
            app_secret: "stand-in-app-secret".into(),
            token_lifetime: 7200,
            token_life: None,
            tokens_work_once: false,
            departments: BTreeMap::from([(1, Department { name: "总公司".into(), parent: 0, order: 1 })]),
            tags: BTreeMap::new(),
            forbidden: HashMap::new(),
            page: 10_000,
            listing_fault: None,
            pages_given: 0,
            users: BTreeMap::new(),
            tokens: HashMap::new(),
            dead_tokens: HashMap::new(),
        }
    }
}

/// A call as the stand-in parsed it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The path below `/cgi-bin/`, such as `user/get`.
    pub api: String,
    /// The query's parameters, each percent-decoded once.
    pub query: HashMap<String, String>,
    /// The body as JSON; null if it is not JSON.
    pub body: Json,
}

impl Request {
    fn query(&self, key: &str) -> &str {
        self.query.get(key).map_or("", String::as_str)
    }

    /// The userid in the body or the query.
    pub fn userid(&self) -> Option<String> {
        let in_body = self.body.get("userid").and_then(Json::as_str);
        in_body.or(self.query.get("userid").map(String::as_str)).map(str::to_owned)
    }
}

impl Company {
    /// Adds a member, or replaces the one with the same userid.
    pub fn put(&mut self, user: User) {
        self.users.insert(user.userid.to_ascii_lowercase(), user);
    }

    /// Adds a visible member of department 1 that has not signed in yet.
    pub fn hire(&mut self, userid: &str) {
        let (userid, name) = (userid.to_owned(), userid.to_owned());
        self.put(User { userid, name, departments: vec![1], visible: true, ..User::default() });
    }

    /// Gives a member an openid, as its first sign-in does.
    pub fn sign_in(&mut self, userid: &str, openid: &str) {
        if let Some(user) = self.user_mut(userid) {
            user.openid = Some(openid.to_owned());
        }
    }

    /// All members in the order of their userids.
    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.users.values()
    }

    /// Finds a member by userid, ignoring case.
    pub fn user_mut(&mut self, userid: &str) -> Option<&mut User> {
        self.users.get_mut(&userid.to_ascii_lowercase())
    }

    /// Removes a member who leaves the company.
    pub fn dismiss(&mut self, userid: &str) {
        self.users.remove(&userid.to_ascii_lowercase());
    }

    /// Invalidates all issued tokens; calls with them get this errcode (42001 or 40014).
    pub fn kill_tokens(&mut self, errcode: i64) {
        let tokens = self.tokens.keys().cloned();
        self.dead_tokens = tokens.map(|token| (token, errcode)).collect();
    }

    /// Answers a call as WeCom does; `None` if there is no such API.
    pub fn answer(&mut self, request: &Request) -> Option<Json> {
        if request.api == "gettoken" {
            return Some(self.gettoken(request));
        }
        let token = request.query("access_token");
        if token.is_empty() {
            return Some(error(41001, "access_token missing"));
        }
        if let Some(errcode) = self.dead_tokens.get(token) {
            return Some(error(*errcode, "access_token expired"));
        }
        let Some(secret) = self.tokens.get(token) else {
            return Some(error(40014, "invalid access_token"));
        };
        if self.tokens_work_once {
            self.dead_tokens.insert(token.to_owned(), 42001);
        }
        let kind = if *secret == self.app_secret { "app" } else { "contacts" };
        let forbidden = self.forbidden.iter().find(|((api, of), _)| *api == request.api && *of == kind);
        if let Some((_, errcode)) = forbidden {
            return Some(error(*errcode, "api forbidden"));
        }
        let only_for = match request.api.as_str() {
            "user/convert_to_openid" => Some("app"),
            "user/list_id" => Some("contacts"),
            _ => None,
        };
        if only_for.is_some_and(|only| only != kind) {
            return Some(error(48002, "api forbidden"));
        }
        Some(match request.api.as_str() {
            "user/convert_to_openid" => self.convert_to_openid(request),
            "user/get" => self.user_get(request, kind == "contacts"),
            "user/list_id" => self.list_id(request),
            "department/simplelist" => self.department_list("department_id", false),
            "department/list" => self.department_list("department", true),
            "department/get" => self.department_get(request),
            "tag/list" => self.tag_list(),
            "tag/get" => self.tag_get(request),
            _ => return None,
        })
    }

    fn gettoken(&mut self, request: &Request) -> Json {
        if request.query("corpid") != self.corp_id {
            return error(40013, "invalid corpid");
        }
        let secret = request.query("corpsecret");
        if secret != self.app_secret && secret != self.contacts_secret {
            return error(40001, "invalid credential");
        }
        let token = format!("stand-in-token-{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        self.tokens.insert(token.clone(), secret.to_owned());
        let life = self.token_life.clone().unwrap_or_else(|| self.token_lifetime.into());
        json!({"errcode": 0, "errmsg": "ok", "access_token": token, "expires_in": life})
    }

    fn visible(&self, request: &Request, to_all: bool) -> Result<&User, Json> {
        let userid = request.userid().unwrap_or_default().to_ascii_lowercase();
        match self.users.get(&userid) {
            None => Err(error(60111, "userid not found")),
            Some(user) if !user.visible && !to_all => {
                Err(error(60011, "no privilege to access/modify contact/party/agent"))
            }
            Some(user) => Ok(user),
        }
    }

    fn convert_to_openid(&self, request: &Request) -> Json {
        match self.visible(request, false) {
            Err(error) => error,
            Ok(User { openid: Some(openid), .. }) => json!({"errcode": 0, "errmsg": "ok", "openid": openid}),
            Ok(_) => error(43004, "require subscribe"),
        }
    }

    fn user_get(&self, request: &Request, to_all: bool) -> Json {
        match self.visible(request, to_all) {
            Err(error) => error,
            Ok(user) => {
                let mut answer = json!({
                    "errcode": 0, "errmsg": "ok", "userid": user.userid, "name": user.name,
                    "department": user.departments, "status": if user.openid.is_some() { 1 } else { 4 },
                });
                if let Some(answer) = answer.as_object_mut() {
                    answer.extend(user.details.clone());
                }
                answer
            }
        }
    }

    /// One row per member and department (doc 96067). The cursor holds the first userid of this page and of the next.
    fn list_id(&mut self, request: &Request) -> Json {
        let cursor = request.body.get("cursor").and_then(Json::as_str).unwrap_or("").to_owned();
        self.pages_given = if cursor.is_empty() { 1 } else { self.pages_given + 1 };
        let (this, listing_fault) = (self.pages_given, self.listing_fault.clone());
        let limit = request.body.get("limit").and_then(Json::as_u64).unwrap_or(10_000).clamp(1, 10_000);
        let limit = usize::try_from(limit).unwrap_or(10_000).min(self.page);
        let from = match (&listing_fault, cursor.split_once('|')) {
            (Some(ListingFault::SamePage(page)), Some((before, _))) if *page == this => before.to_owned(),
            (_, Some((_, from))) => from.to_owned(),
            (_, None) => String::new(),
        };
        let mut rows = Vec::new();
        let mut next = String::new();
        for (key, user) in self.users.range(from.clone()..) {
            if rows.len() >= limit {
                // With the start of this page, so that ListingFault::SamePage can repeat it.
                next = format!("{from}|{key}");
                break;
            }
            let of_user = user.departments.iter().map(|id| json!({"userid": user.userid, "department": id}));
            rows.extend(of_user);
        }
        match listing_fault {
            Some(ListingFault::EmptyPage(page)) if page == this => rows.clear(),
            Some(ListingFault::EndsEmpty(page)) if page == this => {
                rows.clear();
                next.clear();
            }
            Some(ListingFault::EndsEarly(page)) if page == this => next.clear(),
            Some(ListingFault::SameCursor(page)) if this >= page && this > 1 => next = cursor,
            Some(ListingFault::BreaksOff(page, errcode)) if this >= page => return error(errcode, "planned"),
            _ => {}
        }
        json!({"errcode": 0, "errmsg": "ok", "next_cursor": next, "dept_user": rows})
    }

    fn department_list(&self, key: &str, with_names: bool) -> Json {
        let listed = self.departments.iter().map(|(id, department)| department.to_json(*id, with_names));
        json!({"errcode": 0, "errmsg": "ok", key: listed.collect::<Vec<_>>()})
    }

    fn department_get(&self, request: &Request) -> Json {
        let id = request.query("id").parse().unwrap_or(0);
        match self.departments.get(&id) {
            Some(department) => {
                json!({"errcode": 0, "errmsg": "ok", "department": department.to_json(id, true)})
            }
            None => error(60123, "invalid party id"),
        }
    }

    fn tag_list(&self) -> Json {
        let listed = self.tags.iter().map(|(id, tag)| json!({"tagid": id, "tagname": tag.name}));
        json!({"errcode": 0, "errmsg": "ok", "taglist": listed.collect::<Vec<_>>()})
    }

    fn tag_get(&self, request: &Request) -> Json {
        let Some(tag) = request.query("tagid").parse().ok().and_then(|id: u32| self.tags.get(&id)) else {
            return error(40068, "invalid tagid");
        };
        let members = tag.members.iter().map(|userid| json!({"userid": userid, "name": userid}));
        json!({
            "errcode": 0, "errmsg": "ok", "tagname": tag.name, "userlist": members.collect::<Vec<_>>(),
            "partylist": tag.departments,
        })
    }
}

impl Department {
    fn to_json(&self, id: u32, with_name: bool) -> Json {
        let mut json = json!({"id": id, "parentid": self.parent, "order": self.order});
        if with_name {
            json["name"] = self.name.as_str().into();
        }
        json
    }
}

/// A refusal in the form of WeCom's answers.
pub(super) fn error(errcode: i64, errmsg: &str) -> Json {
    let hint = format!("{:016x}", fastrand::u64(..));
    let errmsg = format!(
        "{errmsg}, hint: [{hint}], from ip: 203.0.113.9, more info at https://open.work.weixin.qq.com/devtool/query?e={errcode}"
    );
    json!({"errcode": errcode, "errmsg": errmsg})
}
