//! The pretend company: who is in it, and how WeCom would answer for it. Pure.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value as Json, json};

/// A member of the pretend company.
#[derive(Debug, Clone, Default)]
pub struct User {
    /// As WeCom writes it.
    pub userid: String,
    /// Shown by user/get.
    pub name: String,
    /// Department ids.
    pub departments: Vec<u32>,
    /// None: has not signed in yet, conversion is refused with 43004.
    pub openid: Option<String>,
    /// Whether the app's visible range covers the member.
    pub visible: bool,
}

/// The pretend company and its settings in WeCom's admin console.
#[derive(Debug, Clone)]
pub struct Company {
    /// 企业ID
    pub corp_id: String,
    /// Secret of contacts sync.
    pub contacts_secret: String,
    /// Secret of the app.
    pub app_secret: String,
    /// How long new tokens live, in seconds.
    pub token_lifetime: u64,
    users: BTreeMap<String, User>,
    /// Tokens given out, and the secret that each is for.
    tokens: HashMap<String, String>,
    /// Tokens that are no good any more, and the errcode that says so.
    dead_tokens: HashMap<String, i64>,
}

impl Default for Company {
    fn default() -> Self {
        Self {
            corp_id: "wx5823bf96d3bd56c7".into(),
            contacts_secret: "stand-in-contacts-secret".into(),
            app_secret: "stand-in-app-secret".into(),
            token_lifetime: 7200,
            users: BTreeMap::new(),
            tokens: HashMap::new(),
            dead_tokens: HashMap::new(),
        }
    }
}

/// A call as the stand-in received it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The path below `/cgi-bin/`.
    pub api: String,
    /// The query, decoded.
    pub query: HashMap<String, String>,
    /// The body as JSON; null if there is none.
    pub body: Json,
}

impl Request {
    fn query(&self, key: &str) -> &str {
        self.query.get(key).map_or("", String::as_str)
    }

    /// The member that the call is about, if it is about one.
    #[must_use]
    pub fn userid(&self) -> Option<String> {
        let in_body = self.body.get("userid").and_then(Json::as_str);
        in_body.or(self.query.get("userid").map(String::as_str)).map(str::to_owned)
    }
}

impl Company {
    /// Adds a member, or replaces the one of that userid.
    pub fn put(&mut self, user: User) {
        self.users.insert(user.userid.to_ascii_lowercase(), user);
    }

    /// Adds a visible member of department 1 who has not signed in yet.
    pub fn hire(&mut self, userid: &str) {
        let (userid, name) = (userid.to_owned(), userid.to_owned());
        self.put(User { userid, name, departments: vec![1], openid: None, visible: true });
    }

    /// The member signs in: from now on it has this openid.
    pub fn sign_in(&mut self, userid: &str, openid: &str) {
        if let Some(user) = self.user_mut(userid) {
            user.openid = Some(openid.to_owned());
        }
    }

    /// A member, ignoring case.
    pub fn user_mut(&mut self, userid: &str) -> Option<&mut User> {
        self.users.get_mut(&userid.to_ascii_lowercase())
    }

    /// A member leaves.
    pub fn dismiss(&mut self, userid: &str) {
        self.users.remove(&userid.to_ascii_lowercase());
    }

    /// All tokens given out so far are answered with this errcode (42001 or 40014) from now on.
    pub fn kill_tokens(&mut self, errcode: i64) {
        let tokens = self.tokens.keys().cloned();
        self.dead_tokens = tokens.map(|token| (token, errcode)).collect();
    }

    /// Answers a call as WeCom would. `None`: there is no such API.
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
        let (is_app, is_contacts) = (*secret == self.app_secret, *secret == self.contacts_secret);
        let allowed = match request.api.as_str() {
            "user/convert_to_openid" => is_app,
            "user/list_id" => is_contacts,
            "user/get" => true,
            _ => return None,
        };
        if !allowed {
            return Some(error(48002, "api forbidden"));
        }
        Some(match request.api.as_str() {
            "user/convert_to_openid" => self.convert_to_openid(request),
            "user/get" => self.user_get(request),
            _ => self.list_id(request),
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
        json!({"errcode": 0, "errmsg": "ok", "access_token": token, "expires_in": self.token_lifetime})
    }

    fn visible(&self, request: &Request) -> Result<&User, Json> {
        let userid = request.userid().unwrap_or_default().to_ascii_lowercase();
        match self.users.get(&userid) {
            None => Err(error(60111, "userid not found")),
            Some(user) if !user.visible => {
                Err(error(60011, "no privilege to access/modify contact/party/agent"))
            }
            Some(user) => Ok(user),
        }
    }

    fn convert_to_openid(&self, request: &Request) -> Json {
        match self.visible(request) {
            Err(error) => error,
            Ok(User { openid: Some(openid), .. }) => json!({"errcode": 0, "errmsg": "ok", "openid": openid}),
            Ok(_) => error(43004, "require subscribe"),
        }
    }

    fn user_get(&self, request: &Request) -> Json {
        match self.visible(request) {
            Err(error) => error,
            Ok(user) => json!({
                "errcode": 0, "errmsg": "ok", "userid": user.userid, "name": user.name,
                "department": user.departments, "status": if user.openid.is_some() { 1 } else { 4 },
            }),
        }
    }

    /// One row per member and department; the cursor is the userid to go on from (doc 96067).
    fn list_id(&self, request: &Request) -> Json {
        let cursor = request.body.get("cursor").and_then(Json::as_str).unwrap_or("").to_owned();
        let limit = request.body.get("limit").and_then(Json::as_u64).unwrap_or(10_000).clamp(1, 10_000);
        let limit = usize::try_from(limit).unwrap_or(10_000);
        let mut rows = Vec::new();
        let mut next = "";
        for (key, user) in self.users.range(cursor..) {
            if rows.len() >= limit {
                next = key;
                break;
            }
            let of_user = user.departments.iter().map(|id| json!({"userid": user.userid, "department": id}));
            rows.extend(of_user);
        }
        json!({"errcode": 0, "errmsg": "ok", "next_cursor": next, "dept_user": rows})
    }
}

/// An answer that refuses, in the shape of WeCom's.
#[must_use]
pub(super) fn error(errcode: i64, errmsg: &str) -> Json {
    let hint = format!("{:016x}", fastrand::u64(..));
    let errmsg = format!(
        "{errmsg}, hint: [{hint}], from ip: 203.0.113.9, more info at https://open.work.weixin.qq.com/devtool/query?e={errcode}"
    );
    json!({"errcode": errcode, "errmsg": errmsg})
}
