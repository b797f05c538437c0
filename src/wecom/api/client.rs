//! WeCom's API, as all threads share it: token, pace, pauses and retries are settled here, so that a
//! caller hears only what concerns its item, or that it must wait.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::answer::{Answer, ApiObserver, NoAnswer, NotSeen, Record, Seen};
use super::circuit_breaker::{CircuitBreaker, Scope, Trouble};
use super::endpoints::{Api, SecretKind};
use super::errcode::{Reaction, Reason, reaction};
use super::failures::{Failures, Item, Opens};
use super::network::{Failure, Network};
use super::rate_limiter::{Priority, RateLimiter};
use super::token::{self, TokenCell};
use super::transport::Transport;
use crate::directory::UserId;
use crate::shutdown::Shutdown;
use crate::wecom::clock::SharedClock;
use crate::wecom::clock::clock;
use crate::wecom::query::url_encode;
use crate::wecom::redact::Redactor;

/// What the API client needs to know.
#[derive(Clone)]
pub struct Settings {
    /// Such as `https://qyapi.weixin.qq.com`.
    pub api_base: String,
    /// The way there.
    pub network: Network,
    /// The company.
    pub corp_id: String,
    /// Secret of an app, if configured.
    pub app_secret: Option<String>,
    /// Secret of contacts sync, if configured.
    pub contacts_secret: Option<String>,
    /// Keeps secrets out of everything that answers and errors say.
    pub redactor: Redactor,
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
    shutdown: Shutdown,
    pace: Mutex<RateLimiter>,
    pauses: Mutex<CircuitBreaker>,
    failures: Mutex<Failures>,
    tokens: [Mutex<TokenCell>; 2],
    /// Held while WeCom wants calls one at a time.
    turn: Mutex<()>,
}

/// A call as its caller wants it.
pub(super) struct Call<'a> {
    pub(super) api: Api,
    pub(super) secret: SecretKind,
    pub(super) item: Item,
    /// What follows the access_token, from `&` on.
    pub(super) query: &'a str,
    pub(super) body: Option<&'a Json>,
    pub(super) priority: Priority,
}

impl<L: ApiObserver> Client<L> {
    /// A client; nothing is called yet.
    #[must_use]
    pub fn new(settings: Settings, listener: L, shutdown: Shutdown) -> Self {
        Self {
            transport: Transport::new(settings.timeout, settings.network.clone(), settings.clock.clone()),
            pace: Mutex::new(RateLimiter::new(settings.calls_per_minute, Instant::now())),
            pauses: Mutex::default(),
            failures: Mutex::default(),
            tokens: Default::default(),
            turn: Mutex::default(),
            settings,
            listener,
            shutdown,
        }
    }

    /// Counts calls that a run before made, so long ago each.
    pub fn called_before(&self, calls: impl IntoIterator<Item = (Api, Duration)>) {
        lock(&self.pace).called_before(calls, Instant::now());
    }

    /// Asks for a member's openid.
    ///
    /// # Errors
    /// [`NotSeen`].
    pub fn convert_to_openid(&self, userid: &UserId, priority: Priority) -> Result<Seen<String>, NotSeen> {
        let body = json!({"userid": userid.as_str()});
        let call = Call {
            api: Api::ConvertToOpenid,
            secret: SecretKind::App,
            item: Item::Member(userid.clone()),
            query: "",
            body: Some(&body),
            priority,
        };
        self.call(&call, |answer| {
            let openid = answer.json.get("openid").and_then(Json::as_str).map(str::trim).unwrap_or_default();
            let is_one =
                (1..=128).contains(&openid.len()) && openid.bytes().all(|byte| byte.is_ascii_graphic());
            if is_one {
                return Ok(openid.to_owned());
            }
            let shown = super::json::shown(answer.json.get("openid"));
            Err(format!("the answer has errcode 0 and no openid: {shown}"))
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

    /// What a pause of this reason is about, if there is one, and what to do.
    #[must_use]
    pub fn why_paused(&self, reason: Reason) -> Option<(String, &'static str)> {
        let pauses = lock(&self.pauses);
        pauses.iter().find(|pause| pause.reason == reason).map(|pause| (pause.errmsg.clone(), pause.advice))
    }

    /// A text with parts of an answer in it, fit for the log and the database.
    #[must_use]
    pub fn clean(&self, text: &str) -> String {
        self.settings.redactor.clean(text)
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

    /// One call, with everything that may have to be done for it. `parse` takes what was asked for from an answer of
    /// errcode 0, or says what is wrong with it.
    pub(super) fn call<T>(
        &self,
        call: &Call<'_>,
        parse: impl Fn(&Answer) -> Result<T, String>,
    ) -> Result<Seen<T>, NotSeen> {
        let (api, secret) = (call.api, call.secret);
        let mut renewed = false;
        loop {
            self.admit(api, secret)?;
            let token = self.token(secret, call.priority).inspect_err(|_| self.not_probed(api, secret))?;
            let one_at_a_time = lock(&self.pauses).one_at_a_time();
            let _turn = one_at_a_time.then(|| lock(&self.turn));
            self.wait_for_pace(api, call.priority).inspect_err(|_| self.not_probed(api, secret))?;
            let url = format!(
                "{}/cgi-bin/{}?access_token={}{}",
                self.settings.api_base,
                api.path(),
                url_encode(&token),
                call.query
            );
            let userid = match &call.item {
                Item::Member(userid) => Some(userid),
                _ => None,
            };
            let (answer, parsed) = match self.exchange(api, userid, &url, call.body, &parse) {
                Ok(answered) => answered,
                Err(failure) => return Err(self.failed(call, failure)),
            };
            let errcode = answer.errcode;
            let refused = || NotSeen::Refused { errcode, errmsg: answer.errmsg.clone() };
            match (reaction(errcode), parsed) {
                (Reaction::Done, Ok(what)) => {
                    self.answered(call, None);
                    return Ok(Seen { what, at: answer.asked_at });
                }
                // WeCom answered, of a listing or a tag: what it lacks is a defect of that, and no sign of a gateway.
                (Reaction::Done, Err(what)) if !matches!(call.item, Item::Member(_)) => {
                    self.answered(call, None);
                    return Err(NotSeen::Unusable { errcode: Some(0), what });
                }
                (Reaction::Done, Err(what)) => return Err(self.unusable(call, Some(0), what, None)),
                (Reaction::RenewToken, _) if !renewed => {
                    renewed = true;
                    lock(self.token_cell(secret)).invalidate(&token);
                    self.not_probed(api, secret);
                }
                (Reaction::RenewToken, _) => {
                    let errmsg = format!("a fresh access_token is refused: {}", answer.errmsg);
                    return Err(self.refused(call, Trouble::told(Reason::Unknown, errcode, errmsg)));
                }
                (Reaction::Busy, _) => {
                    let tried = lock(&self.failures).busy(&call.item);
                    let Some(tried) = tried else {
                        return Err(self.unusable(call, Some(errcode), answer.errmsg, None));
                    };
                    self.not_probed(api, secret);
                    let wait = Duration::from_millis(200 << tried.min(10));
                    return Err(NotSeen::NoAnswer(NoAnswer::Later(Instant::now() + wait)));
                }
                (Reaction::NotYet | Reaction::Never, _) => {
                    self.answered(call, None);
                    return Err(refused());
                }
                (Reaction::Pause(reason), _) => {
                    return Err(self.refused(call, Trouble::told(reason, errcode, answer.errmsg)));
                }
                (Reaction::Unknown, _) => {
                    if self.answered(call, Some(errcode)) {
                        return Err(
                            self.refused(call, Trouble::told(Reason::Unknown, errcode, answer.errmsg))
                        );
                    }
                    return Err(refused());
                }
            }
        }
    }

    fn admit(&self, api: Api, secret: SecretKind) -> Result<(), NotSeen> {
        if self.shutdown.is_triggered() {
            return Err(NotSeen::NoAnswer(NoAnswer::Stopped));
        }
        if self.secret(secret).is_none() {
            return Err(NotSeen::NoAnswer(NoAnswer::NoSecret));
        }
        lock(&self.pauses).admit(api, secret, Instant::now()).map_err(paused)
    }

    fn not_probed(&self, api: Api, secret: SecretKind) {
        lock(&self.pauses).not_probed(api, secret, Instant::now());
    }

    fn wait_for_pace(&self, api: Api, priority: Priority) -> Result<(), NotSeen> {
        loop {
            let taken = lock(&self.pace).take(Instant::now(), api, priority);
            let Err(wait) = taken else { return Ok(()) };
            if priority == Priority::Fill && api != Api::GetToken {
                return Err(NotSeen::NoAnswer(NoAnswer::Crowded(wait)));
            }
            if self.shutdown.sleep(wait) {
                return Err(NotSeen::NoAnswer(NoAnswer::Stopped));
            }
        }
    }

    /// The secret's token. The first caller fetches it while the others wait. A failure pauses all calls with the secret.
    fn token(&self, secret: SecretKind, priority: Priority) -> Result<String, NotSeen> {
        let mut cell = lock(self.token_cell(secret));
        if let Some(token) = cell.fresh(Instant::now()) {
            return Ok(token.text.clone());
        }
        let api = Api::GetToken;
        if self.shutdown.is_triggered() {
            return Err(NotSeen::NoAnswer(NoAnswer::Stopped));
        }
        // Whoever held the lock before may have failed for all of us.
        lock(&self.pauses).admit_within(api, secret, Instant::now()).map_err(paused)?;
        let trouble = |trouble: &Trouble| NotSeen::NoAnswer(self.trouble(api, secret, trouble));
        if cell.too_often(Instant::now()) {
            let errmsg = "WeCom refuses each access_token soon after giving it".into();
            let reason = Reason::Unknown;
            return Err(trouble(&Trouble { reason, errcode: None, errmsg, advice: None, scope: None }));
        }
        self.wait_for_pace(api, priority)?;
        let Some(corp_secret) = self.secret(secret) else {
            return Err(NotSeen::NoAnswer(NoAnswer::NoSecret));
        };
        let url = format!(
            "{}/cgi-bin/{}?corpid={}&corpsecret={}",
            self.settings.api_base,
            api.path(),
            url_encode(&self.settings.corp_id),
            url_encode(corp_secret)
        );
        let network = |errcode, errmsg, advice| {
            let reason = Reason::Network;
            trouble(&Trouble { reason, errcode, errmsg, advice, scope: None })
        };
        let (answer, parsed) = match self.exchange(api, None, &url, None, token::read) {
            Ok(answered) => answered,
            Err(failure) => return Err(network(None, failure.what, failure.advice)),
        };
        let (errcode, errmsg) = (answer.errcode, answer.errmsg);
        match (reaction(errcode), parsed) {
            (Reaction::Done, Ok((text, expires_in))) => {
                self.settings.redactor.add_token(&text);
                let token = cell.put(text, expires_in, Instant::now());
                self.over(api, secret);
                Ok(token.text)
            }
            (Reaction::Done, Err(what)) => Err(network(Some(0), what, None)),
            (Reaction::Busy, _) => Err(network(Some(errcode), errmsg, None)),
            (Reaction::Pause(reason), _) => Err(trouble(&Trouble::told(reason, errcode, errmsg))),
            // The call is about no member: each refusal pauses all calls with the secret.
            _ => Err(trouble(&Trouble::told(Reason::Unknown, errcode, errmsg))),
        }
    }

    fn token_cell(&self, secret: SecretKind) -> &Mutex<TokenCell> {
        &self.tokens[secret as usize]
    }

    /// One exchange, and its record. What answers and errors say has no secrets from here on.
    fn exchange<T>(
        &self,
        api: Api,
        userid: Option<&UserId>,
        url: &str,
        body: Option<&Json>,
        parse: impl Fn(&Answer) -> Result<T, String>,
    ) -> Result<(Answer, Result<T, String>), Failure> {
        let begun = Instant::now();
        let redactor = &self.settings.redactor;
        let outcome = self.transport.exchange(url, body);
        let outcome = outcome.map_err(|failure| Failure { what: redactor.clean(&failure.what), ..failure });
        let outcome = outcome.map(|mut answer| {
            answer.errmsg = redactor.clean(&answer.errmsg);
            let parsed = match answer.errcode {
                0 => parse(&answer).map_err(|what| redactor.clean(&what)),
                _ => Err(String::new()),
            };
            (answer, parsed)
        });
        let (errcode, errmsg) = match &outcome {
            Ok((answer, Err(what))) if answer.errcode == 0 => (Some(0), what.clone()),
            Ok((answer, _)) => (Some(answer.errcode), answer.errmsg.clone()),
            Err(failure) => (None, failure.what.clone()),
        };
        self.listener.called(Record { api, userid: userid.cloned(), errcode, errmsg, took: begun.elapsed() });
        outcome
    }

    /// WeCom answered about this item. True: its unknown errcode is not the item's fault.
    fn answered(&self, call: &Call<'_>, unknown: Option<i64>) -> bool {
        let is_everybodys = lock(&self.failures).answered(call.api, call.secret, &call.item, unknown);
        if !is_everybodys {
            self.over(call.api, call.secret);
        }
        is_everybodys
    }

    /// WeCom refused for a reason that concerns no single item.
    fn refused(&self, call: &Call<'_>, trouble: Trouble) -> NotSeen {
        let (api, secret) = (call.api, call.secret);
        lock(&self.failures).reached(api, secret, &call.item);
        let reached = lock(&self.pauses).reached(api, secret);
        reached.iter().for_each(|pause| self.listener.paused(pause, false));
        let no_answer = self.trouble(api, secret, &trouble);
        // The call proves nothing about the other pauses that it probed.
        self.not_probed(api, secret);
        NotSeen::NoAnswer(no_answer)
    }

    /// Nothing that can be used came back.
    fn failed(&self, call: &Call<'_>, Failure { arrived, what, advice }: Failure) -> NotSeen {
        if arrived || lock(&self.failures).unanswered(&call.item) {
            return self.unusable(call, None, what, advice);
        }
        let reason = Reason::Network;
        let trouble = Trouble { reason, errcode: None, errmsg: what, advice, scope: None };
        match self.trouble(call.api, call.secret, &trouble) {
            NoAnswer::Paused(until, reason) => NotSeen::NoAnswer(NoAnswer::Failed(until, reason)),
            no_answer => NotSeen::NoAnswer(no_answer),
        }
    }

    /// The item backs off; and if it is not the only one, or was to tell whether the trouble is over, all wait.
    fn unusable(
        &self,
        call: &Call<'_>,
        errcode: Option<i64>,
        what: String,
        advice: Option<&'static str>,
    ) -> NotSeen {
        let (api, secret, reason) = (call.api, call.secret, Reason::Network);
        let opens = lock(&self.failures).unusable(api, secret, &call.item);
        let is_probe = lock(&self.pauses).is_probing(api, secret, reason);
        let scope = match opens {
            Opens::Api => Some(Scope::Api(api, secret)),
            Opens::All | Opens::Nobody => None,
        };
        if opens != Opens::Nobody || is_probe {
            self.trouble(api, secret, &Trouble { reason, errcode, errmsg: what.clone(), advice, scope });
        }
        self.not_probed(api, secret);
        NotSeen::Unusable { errcode, what }
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

fn paused((until, reason): (Instant, Reason)) -> NotSeen {
    NotSeen::NoAnswer(NoAnswer::Paused(until, reason))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
