//! Observes the API client: calls are recorded in the database, pauses are logged and shown by `status`.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::StartError;
use super::clock_reporter::ClockReporter;
use super::metrics::Metrics;
use crate::config::{Config, Secret};
use crate::shutdown::Shutdown;
use crate::store::openids::{ApiCall, recent_api_calls, record_api_call};
use crate::store::state::{PAUSES, PauseState};
use crate::store::{Connection, StoreError, Writer};
use crate::unix_time::unix_now;
use crate::wecom::api::circuit_breaker::{Pause, Scope};
use crate::wecom::api::network::Network;
use crate::wecom::api::{Api, ApiObserver, CallRecord, Client, Reloadable, Settings};
use crate::wecom::clock::SharedClock;
use crate::wecom::redact::{Redactor, secrets_of_url};

/// How long a record may wait for the database before it is dropped.
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time to read the calls of the last minute at the start.
const READ_TIMEOUT: Duration = Duration::from_secs(4);

thread_local! {
    /// Records of this thread's calls while [`collect_calls`] runs.
    static COLLECTED: RefCell<Option<Vec<ApiCall>>> = const { RefCell::new(None) };
}

/// Runs `work`, and returns the records of its calls instead of writing them: the caller commits them together with the
/// outcome.
pub(super) fn collect_calls<T>(work: impl FnOnce() -> T) -> (T, Vec<ApiCall>) {
    COLLECTED.set(Some(Vec::new()));
    let result = work();
    (result, COLLECTED.take().unwrap_or_default())
}

/// Writes the records of calls.
pub(super) fn record_calls(connection: &Connection, calls: &[ApiCall]) -> crate::store::Result<()> {
    calls.iter().try_for_each(|call| record_api_call(connection, call))
}

/// Has the writer write the records of calls that have no outcome to commit.
pub(super) fn submit_calls(writer: &Writer, calls: Vec<ApiCall>) {
    if !calls.is_empty() {
        writer.submit(
            Instant::now() + RECORD_TIMEOUT,
            move |connection| record_calls(connection, &calls),
            not_written("a call of WeCom's API"),
        );
    }
}

/// The daemon's observer of the API client.
pub(crate) struct ApiRecorder {
    writer: Writer,
    metrics: Arc<Metrics>,
}

impl ApiObserver for ApiRecorder {
    fn called(&self, record: CallRecord) {
        let millis = u64::try_from(record.took.as_millis()).unwrap_or(u64::MAX);
        log::debug!(
            "api={} userid={} errcode={} millis={millis}",
            record.api.path(),
            record.userid.as_ref().map_or("-", |userid| userid.as_str()),
            record.errcode.map_or_else(|| "-".into(), |code| code.to_string()),
        );
        self.metrics.api_call(record.api.path(), record.errcode);
        let call = ApiCall {
            at: unix_now(),
            api: record.api.path(),
            userid: record.userid,
            errcode: record.errcode,
            errmsg: record.errmsg,
            millis,
        };
        COLLECTED.with_borrow_mut(|collected| match collected {
            Some(calls) => calls.push(call),
            None => submit_calls(&self.writer, vec![call]),
        });
    }

    fn paused(&self, pause: &Pause, begins: bool) {
        let what = scope_in_words(pause.scope);
        if !begins {
            log::info!("{what} resumed: {} is over", pause.reason.as_str());
            return;
        }
        let level = if pause.reason.needs_operator() { log::Level::Error } else { log::Level::Warn };
        let errcode = pause.errcode.map_or_else(String::new, |code| format!("errcode {code}: "));
        log::log!(
            level,
            "{what} paused, tried again by itself in {} s: {errcode}{}; {}",
            pause.until_clock.since(pause.since),
            pause.errmsg,
            pause.advice
        );
    }

    fn pauses(&self, all: &[Pause]) {
        let state = |pause: &Pause| PauseState {
            what: scope_in_words(pause.scope),
            reason: pause.reason.as_str().to_owned(),
            errcode: pause.errcode,
            errmsg: pause.errmsg.clone(),
            since: pause.since.0,
            until: pause.until_clock.0,
            advice: pause.advice.to_owned(),
        };
        let all: Vec<PauseState> = all.iter().map(state).collect();
        self.metrics.set_pauses(all.clone());
        self.writer.submit(
            Instant::now() + RECORD_TIMEOUT,
            move |connection| PAUSES.set(connection, unix_now(), &all),
            not_written("the pauses"),
        );
    }
}

/// The client of WeCom's API, as configured. [`StartError::Config`]: the proxy is not usable.
pub(crate) fn client(
    config: &Config,
    writer: &Writer,
    metrics: &Arc<Metrics>,
    shutdown: &Shutdown,
) -> Result<Client<ApiRecorder>, StartError> {
    let reporter = ClockReporter::new(writer.clone());
    let settings = settings(config, SharedClock::new(move |estimate| reporter.report(estimate)))?;
    let recorder = ApiRecorder { writer: writer.clone(), metrics: Arc::clone(metrics) };
    let client = Client::new(settings, recorder, shutdown.clone());
    client.called_before(last_minute(writer));
    Ok(client)
}

/// The settings of calls to WeCom's API. [`StartError::Config`]: the proxy is not usable.
pub(crate) fn settings(config: &Config, clock: SharedClock) -> Result<Settings, StartError> {
    let proxy = config.wecom.chosen_proxy(|name| std::env::var(name).ok()).map_err(StartError::Config)?;
    let proxy = proxy.as_ref().map(|proxy| proxy.url.expose());
    let secrets = config.secrets().into_iter().chain(proxy.iter().flat_map(|url| secrets_of_url(url)));
    let text = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
    Ok(Settings {
        api_base: config.wecom.api_base.clone(),
        network: network(config, &config.wecom.api_base)?,
        corp_id: config.wecom.corp_id.clone(),
        app_secret: text(&config.wecom.app_secret),
        contacts_secret: text(&config.wecom.contacts_secret),
        redactor: Redactor::new(secrets),
        timeout: config.wecom.timeout,
        calls_per_minute: config.wecom.calls_per_minute,
        max_concurrent_calls: config.openid.max_concurrent_calls,
        clock,
    })
}

/// The way to a URL: by the proxy for WeCom's API, unless `NO_PROXY` exempts its host. [`StartError::Config`]: the proxy is
/// not usable.
pub(crate) fn network(config: &Config, url: &str) -> Result<Network, StartError> {
    let variable = |name: &str| std::env::var(name).ok();
    let proxy = config.wecom.proxy_for(url, variable).map_err(StartError::Config)?;
    let proxy = proxy.as_ref().map(|proxy| proxy.url.expose());
    let network = Network::new(url, proxy, config.wecom.authorities.clone());
    network.map_err(|what| StartError::Config(format!("the proxy {what}")))
}

/// The settings of the client that a reload replaces.
pub(crate) fn reloadable(config: &Config) -> Reloadable {
    let text = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
    Reloadable {
        app_secret: text(&config.wecom.app_secret),
        contacts_secret: text(&config.wecom.contacts_secret),
        redacted: config.secrets(),
        calls_per_minute: config.wecom.calls_per_minute,
        max_concurrent_calls: config.openid.max_concurrent_calls,
    }
}

/// Calls of the last minute and their age. They count for WeCom's limit, whichever process made them.
fn last_minute(writer: &Writer) -> Vec<(Api, Duration)> {
    let recent = writer.run(READ_TIMEOUT, |connection| recent_api_calls(connection, 61, unix_now()));
    let recent = recent.unwrap_or_else(|error| {
        log::warn!("calls of the last minute are not known: {error}");
        Vec::new()
    });
    // Both times were rounded down to seconds, so a call may be a second younger.
    let age = |seconds: i64| Duration::from_secs(u64::try_from(seconds - 1).unwrap_or(0));
    recent.iter().filter_map(|(api, seconds)| Some((Api::of_path(api)?, age(*seconds)))).collect()
}

fn not_written(what: &'static str) -> impl FnOnce(Result<(), StoreError>) + Send {
    move |result| {
        if let Err(error) = result {
            log::debug!("{what} could not be recorded: {error}");
        }
    }
}

fn scope_in_words(scope: Scope) -> String {
    match scope {
        Scope::All => "all API calls".into(),
        Scope::Secret(secret) => format!("all API calls with {}", secret.key()),
        Scope::Api(api, secret) => format!("{} with {}", api.path(), secret.key()),
    }
}
