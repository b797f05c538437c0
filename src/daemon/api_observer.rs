//! Hears what the API client does: calls go into the database, pauses into the log and into `status`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::metrics::Metrics;
use crate::store::openids::{ApiCall, record_api_call};
use crate::store::state::{PAUSES, PauseState};
use crate::store::{StoreError, Writer};
use crate::wecom::api::circuit_breaker::{Pause, Scope};
use crate::wecom::api::{ApiObserver, Record, clock};

/// How long a record may wait for the database; it is dropped then.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes to the database through the writer.
pub struct ApiRecorder {
    /// Where to.
    pub writer: Writer,
    /// What the admin listener shows.
    pub metrics: Arc<Metrics>,
}

impl ApiObserver for ApiRecorder {
    fn called(&self, record: Record) {
        let millis = u64::try_from(record.took.as_millis()).unwrap_or(u64::MAX);
        log::debug!(
            "api={} userid={} errcode={} millis={millis}",
            record.api.path(),
            record.userid.as_ref().map_or("-", |userid| userid.as_str()),
            record.errcode.map_or_else(|| "-".into(), |code| code.to_string()),
        );
        self.metrics.api_call(record.api.path(), record.errcode);
        let call = ApiCall {
            at: clock(),
            api: record.api.path(),
            userid: record.userid,
            errcode: record.errcode,
            errmsg: record.errmsg,
            millis,
        };
        self.writer.submit(
            Instant::now() + PATIENCE,
            move |connection| record_api_call(connection, &call),
            not_written("a call of WeCom's API"),
        );
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
            Instant::now() + PATIENCE,
            move |connection| PAUSES.set(connection, clock(), &all),
            not_written("the pauses"),
        );
    }
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
