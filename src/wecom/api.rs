//! WeCom's API, as all threads share it: token, pace, pauses and retries are settled here, so that a
//! caller hears only what concerns its member, or that it must wait.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

pub use super::apis::{Api, SecretKind};
use super::clock::SharedClock;
pub use super::clock::clock;
use super::envelope::url_encode;
use super::errcode::{Reaction, Reason, reaction};
use super::pace::{Pace, Urgency};
use super::pauses::{Pause, Pauses, Trouble};
use super::token::TokenCell;
pub use super::transport::Answer;
use super::transport::Transport;
use crate::directory::UserId;
use crate::stop::Stop;

/// Why a call has no answer for its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// Calls of this kind are paused, and for what; try again then. Nobody's fault here.
    Paused(Instant, Reason),
    /// Others go first; only for [`Urgency::Fill`], whose caller may have something better to ask meanwhile.
    Crowded(Duration),
    /// The daemon is ending.
    Stopped,
    /// This secret is not configured.
    NoSecret,
}

/// What WeCom said of one member.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// It did what was asked.
    Done(Answer),
    /// Not now, maybe later (43004, or an errcode that is not known).
    NotYet(Answer),
    /// Not unless something changes.
    Never(Answer),
}

/// How a call ended, for the record.
#[derive(Debug, Clone)]
pub struct Record {
    /// Which.
    pub api: Api,
    /// The member it was about.
    pub userid: Option<UserId>,
    /// WeCom's errcode, if it answered.
    pub errcode: Option<i64>,
    /// WeCom's errmsg, or what went wrong.
    pub errmsg: String,
    /// How long it took.
    pub took: Duration,
}

/// Hears of calls and pauses.
pub trait Listener: Send + Sync {
    /// A call was made.
    fn called(&self, record: Record);
    /// A pause began (true) or ended.
    fn paused(&self, pause: &Pause, begins: bool);
    /// The pauses in force changed: these are all.
    fn pauses(&self, all: &[Pause]);
}

/// What the API client needs to know.
#[derive(Clone)]
pub struct Settings {
    /// Such as `https://qyapi.weixin.qq.com`.
    pub api_base: String,
    /// The company.
    pub corp_id: String,
    /// Secret of an app, if configured.
    pub app_secret: Option<String>,
    /// Secret of contacts sync, if configured.
    pub contacts_secret: Option<String>,
    /// Bounds one call.
    pub timeout: Duration,
    /// All calls together.
    pub calls_per_minute: u32,
    /// Takes the Date of answers, and stamps them.
    pub clock: SharedClock,
}

/// The API client; shared by reference.
pub struct Client<L> {
    settings: Settings,
    transport: Transport,
    listener: L,
    stop: Stop,
    pace: Mutex<Pace>,
    pauses: Mutex<Pauses>,
    tokens: [Mutex<TokenCell>; 2],
    /// Copies of the current tokens, for keeping them out of texts without waiting for a fetch.
    known_tokens: Mutex<[Option<String>; 2]>,
    /// Held while WeCom wants calls one at a time.
    turn: Mutex<()>,
    unknown_in_a_row: Mutex<(i64, u32)>,
}

/// Tries of one call when WeCom is busy.
const BUSY_TRIES: u32 = 3;
/// So many members in a row with the same unknown errcode, and it is everybody's problem.
const UNKNOWN_IN_A_ROW: u32 = 5;

/// How one exchange ended.
enum Step {
    Said(Said),
    RenewToken(Answer),
    Busy(Answer),
    Trouble(Trouble),
}

impl<L: Listener> Client<L> {
    /// A client; nothing is called yet.
    #[must_use]
    pub fn new(settings: Settings, listener: L, stop: Stop) -> Self {
        Self {
            transport: Transport::new(settings.timeout, &settings.api_base, settings.clock.clone()),
            pace: Mutex::new(Pace::new(settings.calls_per_minute, Instant::now())),
            pauses: Mutex::default(),
            tokens: Default::default(),
            known_tokens: Mutex::default(),
            turn: Mutex::default(),
            unknown_in_a_row: Mutex::default(),
            settings,
            listener,
            stop,
        }
    }

    /// Counts calls that a run before made, so long ago each.
    pub fn called_before(&self, calls: impl IntoIterator<Item = (Api, Duration)>) {
        lock(&self.pace).called_before(calls, Instant::now());
    }

    /// Asks for a member's openid.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub fn convert_to_openid(&self, userid: &UserId, urgency: Urgency) -> Result<Said, NoAnswer> {
        let body = json!({"userid": userid.as_str()});
        self.call(Api::ConvertToOpenid, SecretKind::App, Some(userid), "", Some(&body), urgency, |answer| {
            answer.json.get("openid").and_then(Json::as_str).is_some_and(|openid| !openid.is_empty())
        })
    }

    /// The estimate of WeCom's clock.
    #[must_use]
    pub fn clock(&self) -> &SharedClock {
        &self.settings.clock
    }

    /// When calls of this kind may be made again, if they are paused now.
    #[must_use]
    pub fn blocked_until(&self, api: Api, secret: SecretKind) -> Option<Instant> {
        lock(&self.pauses).blocked_until(api, secret, Instant::now())
    }

    /// Whether this secret is configured.
    #[must_use]
    pub fn has_secret(&self, secret: SecretKind) -> bool {
        self.secret(secret).is_some()
    }

    fn secret(&self, secret: SecretKind) -> Option<&str> {
        match secret {
            SecretKind::App => self.settings.app_secret.as_deref(),
            SecretKind::Contacts => self.settings.contacts_secret.as_deref(),
        }
    }

    /// A call that only reads, and concerns this member if any; see the functions of `wecom::read`.
    pub(super) fn read(
        &self,
        (api, secret): (Api, SecretKind),
        userid: Option<&UserId>,
        request: (&str, Option<&Json>),
        urgency: Urgency,
        complete: impl Fn(&Answer) -> bool,
    ) -> Result<Said, NoAnswer> {
        let (query, body) = request;
        self.call(api, secret, userid, query, body, urgency, complete)
    }

    /// One call, with everything that may have to be done for it. `complete` tells whether an answer of
    /// errcode 0 has what was asked for.
    #[allow(clippy::too_many_arguments)]
    fn call(
        &self,
        api: Api,
        secret: SecretKind,
        userid: Option<&UserId>,
        query: &str,
        body: Option<&Json>,
        urgency: Urgency,
        complete: impl Fn(&Answer) -> bool,
    ) -> Result<Said, NoAnswer> {
        let (mut renewed, mut busy) = (false, 0);
        loop {
            self.admit(api, secret)?;
            let token = match self.token(secret, urgency) {
                Ok(token) => token,
                Err(no_answer) => {
                    lock(&self.pauses).not_probed(api, secret, Instant::now());
                    return Err(no_answer);
                }
            };
            let one_at_a_time = lock(&self.pauses).one_at_a_time();
            let _turn = one_at_a_time.then(|| lock(&self.turn));
            if let Err(no_answer) = self.wait_for_pace(api, urgency) {
                lock(&self.pauses).not_probed(api, secret, Instant::now());
                return Err(no_answer);
            }
            let url = format!(
                "{}/cgi-bin/{}?access_token={}{query}",
                self.settings.api_base,
                api.path(),
                url_encode(&token)
            );
            match self.exchange(api, userid, &url, body, &complete) {
                Step::Said(said) => {
                    self.over(api, secret);
                    return Ok(said);
                }
                Step::RenewToken(_) if !renewed => {
                    renewed = true;
                    lock(self.token_cell(secret)).invalidate(&token);
                    lock(&self.pauses).not_probed(api, secret, Instant::now());
                }
                Step::RenewToken(answer) => {
                    let reason = Reason::Unknown;
                    let errmsg = format!("a fresh access_token is refused: {}", answer.errmsg);
                    let trouble = Trouble { reason, errcode: Some(answer.errcode), errmsg };
                    return Err(self.trouble(api, secret, &trouble));
                }
                Step::Busy(_) if busy + 1 < BUSY_TRIES => {
                    busy += 1;
                    lock(&self.pauses).not_probed(api, secret, Instant::now());
                    if self.stop.sleep(Duration::from_millis(200 << busy)) {
                        return Err(NoAnswer::Stopped);
                    }
                }
                Step::Busy(answer) => {
                    let (reason, errcode) = (Reason::Network, Some(answer.errcode));
                    let trouble = Trouble { reason, errcode, errmsg: answer.errmsg };
                    return Err(self.trouble(api, secret, &trouble));
                }
                Step::Trouble(trouble) => return Err(self.trouble(api, secret, &trouble)),
            }
        }
    }

    fn admit(&self, api: Api, secret: SecretKind) -> Result<(), NoAnswer> {
        if self.stop.given() {
            return Err(NoAnswer::Stopped);
        }
        if self.secret(secret).is_none() {
            return Err(NoAnswer::NoSecret);
        }
        lock(&self.pauses).admit(api, secret, Instant::now()).map_err(paused)
    }

    fn wait_for_pace(&self, api: Api, urgency: Urgency) -> Result<(), NoAnswer> {
        loop {
            let taken = lock(&self.pace).take(Instant::now(), api, urgency);
            let Err(wait) = taken else { return Ok(()) };
            if urgency == Urgency::Fill && api != Api::GetToken {
                return Err(NoAnswer::Crowded(wait));
            }
            if self.stop.sleep(wait) {
                return Err(NoAnswer::Stopped);
            }
        }
    }

    /// The secret's token; fetched by whoever comes first, while the others wait for it.
    fn token(&self, secret: SecretKind, urgency: Urgency) -> Result<String, NoAnswer> {
        let mut cell = lock(self.token_cell(secret));
        if let Some(token) = cell.fresh(Instant::now()) {
            return Ok(token.text.clone());
        }
        let api = Api::GetToken;
        if self.stop.given() {
            return Err(NoAnswer::Stopped);
        }
        // Whoever held the lock before may have failed for all of us.
        lock(&self.pauses).admit_within(api, secret, Instant::now()).map_err(paused)?;
        self.wait_for_pace(api, urgency)?;
        let Some(corp_secret) = self.secret(secret) else { return Err(NoAnswer::NoSecret) };
        let url = format!(
            "{}/cgi-bin/{}?corpid={}&corpsecret={}",
            self.settings.api_base,
            api.path(),
            url_encode(&self.settings.corp_id),
            url_encode(corp_secret)
        );
        let has_token = |answer: &Answer| answer.json.get("access_token").is_some_and(Json::is_string);
        match self.exchange(api, None, &url, None, has_token) {
            Step::Said(Said::Done(answer)) => {
                let text = answer.json.get("access_token").and_then(Json::as_str).unwrap_or("").to_owned();
                let expires_in = answer.json.get("expires_in").and_then(Json::as_u64).unwrap_or(7200);
                let token = cell.put(text, expires_in, Instant::now());
                lock(&self.known_tokens)[secret as usize] = cell.text().map(str::to_owned);
                self.over(api, secret);
                Ok(token.text)
            }
            Step::Said(Said::NotYet(answer) | Said::Never(answer))
            | Step::RenewToken(answer)
            | Step::Busy(answer) => {
                // No member is asked about here: whatever it is, it is everybody's.
                let reason = if answer.errcode == -1 { Reason::Network } else { Reason::Unknown };
                let trouble = Trouble { reason, errcode: Some(answer.errcode), errmsg: answer.errmsg };
                Err(self.trouble(api, secret, &trouble))
            }
            Step::Trouble(trouble) => Err(self.trouble(api, secret, &trouble)),
        }
    }

    fn token_cell(&self, secret: SecretKind) -> &Mutex<TokenCell> {
        &self.tokens[secret as usize]
    }

    fn exchange(
        &self,
        api: Api,
        userid: Option<&UserId>,
        url: &str,
        body: Option<&Json>,
        complete: impl Fn(&Answer) -> bool,
    ) -> Step {
        let begun = Instant::now();
        let outcome = self.transport.exchange(url, body);
        let outcome = outcome.map(|mut answer| {
            answer.errmsg = self.without_secrets(&answer.errmsg);
            answer
        });
        let (errcode, errmsg) = match &outcome {
            Ok(answer) => (Some(answer.errcode), answer.errmsg.clone()),
            Err(what) => (None, what.clone()),
        };
        self.listener.called(Record { api, userid: userid.cloned(), errcode, errmsg, took: begun.elapsed() });
        let answer = match outcome {
            Ok(answer) => answer,
            Err(errmsg) => return Step::Trouble(Trouble { reason: Reason::Network, errcode: None, errmsg }),
        };
        let reaction = reaction(answer.errcode);
        if reaction != Reaction::Unknown {
            *lock(&self.unknown_in_a_row) = (0, 0);
        }
        match reaction {
            Reaction::Done if complete(&answer) => Step::Said(Said::Done(answer)),
            Reaction::Done => {
                let errmsg = "the answer lacks what was asked for".to_owned();
                Step::Trouble(Trouble { reason: Reason::Network, errcode: Some(0), errmsg })
            }
            Reaction::RenewToken => Step::RenewToken(answer),
            Reaction::Busy => Step::Busy(answer),
            Reaction::NotYet => Step::Said(Said::NotYet(answer)),
            Reaction::Never => Step::Said(Said::Never(answer)),
            Reaction::Pause(reason) => {
                Step::Trouble(Trouble { reason, errcode: Some(answer.errcode), errmsg: answer.errmsg })
            }
            Reaction::Unknown => self.unknown(answer),
        }
    }

    fn unknown(&self, answer: Answer) -> Step {
        let mut row = lock(&self.unknown_in_a_row);
        let (code, times) = *row;
        *row = (answer.errcode, if code == answer.errcode { times.saturating_add(1) } else { 1 });
        if row.1 < UNKNOWN_IN_A_ROW {
            return Step::Said(Said::NotYet(answer));
        }
        Step::Trouble(Trouble {
            reason: Reason::Unknown,
            errcode: Some(answer.errcode),
            errmsg: answer.errmsg,
        })
    }

    /// WeCom's texts have no secrets that we know of; a gateway's might.
    fn without_secrets(&self, text: &str) -> String {
        let mut clean = text.to_owned();
        let secrets = [&self.settings.app_secret, &self.settings.contacts_secret];
        let tokens = lock(&self.known_tokens).clone();
        for secret in secrets.into_iter().chain(&tokens).flatten().filter(|secret| !secret.is_empty()) {
            if clean.contains(secret.as_str()) {
                clean = clean.replace(secret.as_str(), "[redacted]");
            }
        }
        clean
    }

    fn trouble(&self, api: Api, secret: SecretKind, trouble: &Trouble) -> NoAnswer {
        let (now, clock) = (Instant::now(), clock());
        let mut pauses = lock(&self.pauses);
        if let Some(new) = pauses.begin((api, secret), trouble, (now, clock)) {
            self.listener.paused(&new, true);
        }
        self.listener.pauses(&pauses.iter().cloned().collect::<Vec<_>>());
        NoAnswer::Paused(pauses.blocked_until(api, secret, now).unwrap_or(now), trouble.reason)
    }

    fn over(&self, api: Api, secret: SecretKind) {
        let mut pauses = lock(&self.pauses);
        let over = pauses.over(api, secret);
        if over.is_empty() {
            return;
        }
        for pause in &over {
            self.listener.paused(pause, false);
        }
        self.listener.pauses(&pauses.iter().cloned().collect::<Vec<_>>());
    }
}

fn paused((until, reason): (Instant, Reason)) -> NoAnswer {
    NoAnswer::Paused(until, reason)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
