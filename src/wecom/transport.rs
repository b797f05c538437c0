//! One HTTP exchange with WeCom's API: what came back, or why nothing did. Knows no tokens or pauses.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::clock::SharedClock;
use crate::directory::UnixSeconds;

/// The longest answer that is read; a page of 10,000 members is under 1 MiB.
const MAX_ANSWER: u64 = 16 * 1024 * 1024;

/// An answer that can be understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// WeCom's errcode; 0 if the answer had none.
    pub errcode: i64,
    /// WeCom's errmsg.
    pub errmsg: String,
    /// The whole answer.
    pub json: Json,
    /// When the question was sent, on WeCom's clock as estimated: what happened later is not in the answer.
    pub asked_at: UnixSeconds,
    /// The HTTP Date header, as it came; none: there was no header that can be read.
    pub date: Option<UnixSeconds>,
}

impl Answer {
    /// Reads the body of an answer to a question of `asked_at`.
    ///
    /// # Errors
    /// Why it cannot be understood.
    pub fn read(body: &[u8], asked_at: UnixSeconds) -> Result<Self, String> {
        let json: Json = serde_json::from_slice(body).map_err(|_| "the answer is not JSON".to_owned())?;
        if !json.is_object() {
            return Err("the answer is not a JSON object".into());
        }
        let errcode = match json.get("errcode") {
            None => 0,
            Some(code) => code.as_i64().ok_or("the answer's errcode is not a number")?,
        };
        let errmsg = json.get("errmsg").and_then(Json::as_str).unwrap_or("").chars().take(500).collect();
        Ok(Self { errcode, errmsg, json, asked_at, date: None })
    }
}

/// The HTTP client, shared by all threads.
pub(super) struct Transport {
    agent: ureq::Agent,
    clock: SharedClock,
}

impl Transport {
    /// `timeout` bounds a whole exchange, from name look-up to the last byte.
    pub(super) fn new(timeout: Duration, api_base: &str, clock: SharedClock) -> Self {
        let mut builder = ureq::Agent::config_builder();
        // Proxies are taken from the environment; none leads to this machine itself.
        if ["http://127.0.0.1", "http://localhost", "http://[::1]"]
            .iter()
            .any(|own| api_base.starts_with(own))
        {
            builder = builder.proxy(None);
        }
        let config = builder
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            // A redirect would carry the access_token to wherever it points.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("wecom-dirsync/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.into(), clock }
    }

    /// GET, or POST with a JSON body. The error says what happened, without the URL: that has secrets.
    pub(super) fn exchange(&self, url: &str, body: Option<&Json>) -> Result<Answer, String> {
        let begun = Instant::now();
        let ask = || match body {
            None => self.agent.get(url).call(),
            Some(body) => {
                self.agent.post(url).content_type("application/json; charset=utf-8").send(body.to_string())
            }
        };
        // ureq looks names up in a thread of its own, and panics when the system refuses one. The threads
        // that ask must outlive that.
        let sent = catch_unwind(AssertUnwindSafe(ask)).map_err(|_| "the HTTP client gave up: no thread?")?;
        let mut response = sent.map_err(|error| explain(&error))?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(format!("HTTP status {status}"));
        }
        let took = begun.elapsed();
        let date = response.headers().get("date").and_then(|value| value.to_str().ok()).and_then(parse_date);
        let text = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
        let text = text.map_err(|error| explain(&error))?;
        let answer = Answer::read(&text, self.clock.stamp_answer(date, took))?;
        Ok(Answer { date, ..answer })
    }
}

fn parse_date(text: &str) -> Option<UnixSeconds> {
    let date = httpdate::parse_http_date(text).ok()?;
    let since = date.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok().map(UnixSeconds)
}

/// ureq's errors in words of our own, because some of its texts contain the URL.
fn explain(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => "no answer in time".into(),
        ureq::Error::HostNotFound => "the host name of api_base is not known".into(),
        ureq::Error::ConnectionFailed => "the connection failed".into(),
        ureq::Error::Io(error) => format!("the connection failed: {}", error.kind()),
        ureq::Error::BodyExceedsLimit(_) => "the answer is too long".into(),
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::Pem(_) => {
            "the TLS connection failed (certificate?)".into()
        }
        ureq::Error::Protocol(_) => "the answer is not HTTP".into(),
        ureq::Error::InvalidProxyUrl | ureq::Error::ConnectProxyFailed(_) => "the proxy failed".into(),
        _ => "the exchange failed".into(),
    }
}
