//! Single calls for a diagnosis: each is made once, without circuit breaker, rate limiter and retry, and its outcome is
//! returned as it is.

use std::net::IpAddr;

use serde_json::{Value as Json, json};

use super::answer::Answer;
use super::client::Settings;
use super::endpoints::{Api, SecretKind};
use super::token;
use super::transport::Transport;
use crate::directory::clock::Estimate;
use crate::wecom::query::url_encode;
use crate::wecom::redact::secrets_of_url;

/// Fields of user/get that WeCom hides from some apps (doc 90196).
const HIDDEN: [&str; 7] = ["name", "mobile", "email", "biz_mail", "gender", "avatar", "address"];

/// What came of a call; all texts are redacted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProbeOutcome {
    Answered {
        errcode: i64,
        errmsg: String,
        /// Of [`HIDDEN`], what a successful answer of user/get lacks.
        hidden: Vec<&'static str>,
    },
    /// No answer, or one that cannot be used.
    Failed { what: String, advice: Option<&'static str> },
}

/// A client for single calls.
pub(crate) struct Prober {
    settings: Settings,
    transport: Transport,
}

impl Prober {
    /// Makes no call yet.
    pub(crate) fn new(settings: Settings) -> Self {
        settings.redactor.add_secrets(secrets_of_url(&settings.api_base));
        let transport = Transport::new(settings.timeout, settings.network.clone(), settings.clock.clone());
        Self { settings, transport }
    }

    /// Fetches a token. `None` without an answer that has one.
    pub(crate) fn token(&self, secret: SecretKind) -> (ProbeOutcome, Option<String>) {
        let corp_secret = match secret {
            SecretKind::App => self.settings.app_secret.as_deref(),
            SecretKind::Contacts => self.settings.contacts_secret.as_deref(),
        };
        let (corp_id, corp_secret) =
            (url_encode(&self.settings.corp_id), url_encode(corp_secret.unwrap_or_default()));
        let parameters = format!("corpid={corp_id}&corpsecret={corp_secret}");
        let (outcome, answer) = self.exchange(Api::GetToken, &parameters, None);
        match answer.filter(|answer| answer.errcode == 0).map(|answer| token::read(&answer)) {
            Some(Ok((token, _))) => {
                self.settings.redactor.add_token(&token);
                (outcome, Some(token))
            }
            Some(Err(what)) => (ProbeOutcome::Failed { what, advice: None }, None),
            None => (outcome, None),
        }
    }

    /// Calls an API with this token. `userid` is the member of the APIs about one member.
    pub(crate) fn call(&self, api: Api, token: &str, userid: &str) -> ProbeOutcome {
        let (query, body) = match api {
            Api::UserGet => (format!("&userid={}", url_encode(userid)), None),
            Api::ConvertToOpenid => (String::new(), Some(json!({"userid": userid}))),
            Api::UserListId => (String::new(), Some(json!({"cursor": "", "limit": 1}))),
            _ => (String::new(), None),
        };
        let parameters = format!("access_token={}{query}", url_encode(token));
        let (mut outcome, answer) = self.exchange(api, &parameters, body.as_ref());
        if let (Api::UserGet, Some(answer), ProbeOutcome::Answered { errcode: 0, hidden, .. }) =
            (api, answer, &mut outcome)
        {
            *hidden = HIDDEN.into_iter().filter(|field| answer.json.get(field).is_none()).collect();
        }
        outcome
    }

    /// WeCom's clock according to the answers so far.
    pub(crate) fn clock(&self) -> Estimate {
        self.settings.clock.estimate()
    }

    fn exchange(&self, api: Api, parameters: &str, body: Option<&Json>) -> (ProbeOutcome, Option<Answer>) {
        let url = format!("{}/cgi-bin/{}?{parameters}", self.settings.api_base, api.path());
        let redactor = &self.settings.redactor;
        match self.transport.exchange(&url, body) {
            Ok(answer) => {
                let errmsg = redactor.clean(&answer.errmsg);
                let errcode = answer.errcode;
                (ProbeOutcome::Answered { errcode, errmsg, hidden: Vec::new() }, Some(answer))
            }
            Err(error) => {
                let what = redactor.clean(&error.what);
                (ProbeOutcome::Failed { what, advice: error.advice() }, None)
            }
        }
    }
}

/// The caller's address in an errmsg, such as `.., from ip: 203.0.113.9, more info at ..`.
pub(crate) fn caller_address(errmsg: &str) -> Option<IpAddr> {
    let is_part = |c: char| c.is_ascii_hexdigit() || c == '.' || c == ':';
    let after = errmsg.to_ascii_lowercase().find("ip:").map(|at| at + "ip:".len())?;
    let words = errmsg.get(after..)?.split(|c| !is_part(c));
    words.filter(|word| !word.is_empty()).find_map(|word| word.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_that_wecom_sees_is_found_in_its_errmsg() {
        for (errmsg, address) in [
            (
                "not allow to access from your ip, hint: [1700000000_7_abc], from ip: 203.0.113.9, more info at \
                 https://open.work.weixin.qq.com/devtool/query?e=60020",
                Some("203.0.113.9"),
            ),
            ("userid not found, from ip: 2001:db8::7, more info", Some("2001:db8::7")),
            ("not allow to access from your ip: 198.51.100.4", Some("198.51.100.4")),
            ("require subscribe", None),
            ("zip: none", None),
            ("version 1.2.3.4", None),
        ] {
            assert_eq!(caller_address(errmsg).map(|ip| ip.to_string()).as_deref(), address, "{errmsg}");
        }
    }
}
