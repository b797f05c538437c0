//! `doctor`: live checks of this machine, WeCom's API and the public callback URL, with one remedy for each failure.
//!
//! [`finding`], [`wecom`], [`url`], [`reply`] and most of [`local`] judge, and know no network; this file and [`url_probe`] ask.

mod finding;
mod local;
mod reply;
mod url;
mod url_probe;
mod wecom;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Failure, load, print, print_json};
use crate::config::{Config, ConfigError};
use crate::daemon::api_observer::settings;
use crate::daemon::is_running;
use crate::daemon::refusals::advice::remedy;
use crate::directory::UnixSeconds;
use crate::store::monitor::last_event;
use crate::store::refusals::{RefusalRow, refusals_since};
use crate::store::sample::latest_member;
use crate::store::state::DAEMON;
use crate::store::{Connection, open_reader};
use crate::unix_time::unix_now;
use crate::wecom::api::probe::{ProbeOutcome, Prober};
use crate::wecom::api::{Api, SecretKind};
use crate::wecom::clock::SharedClock;
use finding::{Finding, Level, count, in_words};
use reply::{Verdict, judge_reply, plus_lost, refused_by_daemon};
pub(super) use url::CallbackUrl;
use url_probe::{Characters, Reply, UrlProber, Verification};

/// Age of the refusals that are shown, in seconds.
const DAY: i64 = 86_400;
/// Events within this time (seconds) show that WeCom reaches the daemon.
const EVENTS_ARRIVE: i64 = 7 * DAY;
/// Rows of refusals that are shown.
const REFUSALS: usize = 5;
/// A userid that no company has; WeCom's refusal names the address that it sees.
const NOBODY: &str = "wecom-dirsync-doctor";
/// Time for the daemon to write a refusal, which it does once a second.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(2500);

pub(super) fn doctor(path: Option<&Path>, url: Option<&CallbackUrl>, as_json: bool) -> Result<(), Failure> {
    let config = load(path)?;
    let mut findings = configuration(&config);
    let reader = open_reader(&config.database.path);
    let running = is_running(&config.database.path);
    findings.push(daemon(running));
    let pid = reader.as_ref().ok().and_then(|reader| DAEMON.get(reader).ok().flatten());
    let pid = pid.filter(|_| running).map(|(_, daemon)| daemon.pid);
    if let Some(user) = local::service_user(pid) {
        findings.extend(local::paths(&config, &user));
    }
    findings.push(match &reader {
        Ok(reader) => local::database(reader, &config.database.path),
        Err(error) => local::unusable_database(error),
    });
    findings.extend(local::disk(&config.database.path));
    let reader = reader.ok();
    findings.extend(api(&config, reader.as_ref())?);
    match url {
        Some(url) => findings.extend(public_url(&config, url, reader.as_ref())?),
        None => {
            findings.push(Finding::ok("url", "not tried; name the callback URL: doctor --url https://.."))
        }
    }
    if let Some(reader) = &reader {
        findings.extend(refusals(&config, reader)?);
    }
    report(&findings, as_json)
}

fn report(findings: &[Finding], as_json: bool) -> Result<(), Failure> {
    if as_json {
        let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
        print_json(&json!({"level": worst, "findings": findings}))?;
    } else {
        print(&in_words(findings))?;
    }
    match count(findings, Level::MustFix) {
        0 => Ok(()),
        1 => Err(Failure::Other("1 check must be fixed; its remedy is in the report".into())),
        many => Err(Failure::Other(format!("{many} checks must be fixed; their remedies are in the report"))),
    }
}

fn configuration(config: &Config) -> Vec<Finding> {
    let valid = Finding::ok("configuration", format!("{} is valid", config.file.display()));
    // A warning states its remedy itself.
    let warnings = config.warnings().into_iter();
    let warnings =
        warnings.map(|what| Finding { level: Level::Warning, ..Finding::ok("configuration", what) });
    std::iter::once(valid).chain(warnings).collect()
}

fn daemon(running: bool) -> Finding {
    if running {
        return Finding::ok("daemon", "it is running");
    }
    let remedy = "start it: systemctl start wecom-dirsync";
    Finding::warning("daemon", "it is not running; callbacks are not answered", remedy)
}

/// Asks WeCom's API: a token for each secret, each API once, its clock, and this machine's address.
fn api(config: &Config, reader: Option<&Connection>) -> Result<Vec<Finding>, Failure> {
    let secrets = [
        (SecretKind::App, config.wecom.app_secret.is_some()),
        (SecretKind::Contacts, config.wecom.contacts_secret.is_some()),
    ];
    if secrets.iter().all(|(_, is_set)| !is_set) {
        return Ok(vec![Finding::ok("token", "not tried, as no secret is set")]);
    }
    let settings = match settings(config, SharedClock::default()) {
        Ok(settings) => settings,
        Err(error) => return Err(Failure::Start(error)),
    };
    let prober = Prober::new(settings);
    let (mut findings, mut errmsgs, mut answered) = (Vec::new(), Vec::new(), false);
    let mut heed = |outcome: &ProbeOutcome| {
        if let ProbeOutcome::Answered { errmsg, .. } = outcome {
            errmsgs.push(errmsg.clone());
            answered = true;
        }
    };
    let member = reader.and_then(|reader| latest_member(reader).ok().flatten());
    for (secret, _) in secrets.into_iter().filter(|(_, is_set)| *is_set) {
        let (outcome, token) = prober.token(secret);
        heed(&outcome);
        findings.push(wecom::judge_token(secret, &outcome));
        let Some(token) = token else { continue };
        for row in wecom::CALLS.into_iter().filter(|(of, ..)| *of == secret) {
            let (_, api, _) = row;
            // Of a real member, the answer shows which fields WeCom hides.
            let userid = member.as_deref().filter(|_| api == Api::UserGet).unwrap_or(NOBODY);
            let outcome = prober.call(api, &token, userid);
            heed(&outcome);
            findings.push(wecom::judge_call(row, &outcome, config.wecom.app_secret.is_some()));
        }
    }
    findings.extend(wecom::judge_address(errmsgs.iter().map(String::as_str)));
    if answered {
        findings.push(wecom::judge_clock(&prober.clock()));
    }
    Ok(findings)
}

/// Asks the public URL.
fn public_url(
    config: &Config,
    url: &CallbackUrl,
    reader: Option<&Connection>,
) -> Result<Vec<Finding>, Failure> {
    let callback = &config.callback;
    let app = config.app_callback.as_ref();
    let paths: Vec<&str> =
        std::iter::once(&callback.path).chain(app.map(|app| &app.path)).map(String::as_str).collect();
    let (_, keys, receive_id) = config.callback_at(url.path.trim_end_matches('/'));
    let crypt = keys.crypt(receive_id);
    let crypt = crypt.map_err(|error| Failure::Config(ConfigError::from(error.to_string())))?;
    let prober = UrlProber::new(&url.url, &config.wecom.authorities).map_err(Failure::Other)?;
    let verify = |characters| prober.verify(&crypt, characters).map_err(Failure::Other);
    let since = unix_now();
    let first = verify(Characters::WithPlus)?;

    let mut findings: Vec<Finding> = url::judge_path(url, &paths).into_iter().collect();
    if !prober.addresses().is_empty() {
        findings.push(url::judge_addresses(&url.authority, &prober.addresses()));
    }
    match prober.trust() {
        Some(trust) => findings.push(url::judge_trust(&trust, &url.authority, unix_now())),
        None if url.is_https => {}
        None => findings.push(Finding::warning(
            "url.tls",
            "the URL is http://: requests are encrypted and signed by WeCom, but their size and time are visible",
            "serve it with https://",
        )),
    }
    let reply = match &first.outcome {
        Ok(reply) => reply,
        Err(why) => {
            let last = reader.and_then(|reader| last_event(reader).ok().flatten());
            let events_arrive = last.is_some_and(|at| since.since(at) < EVENTS_ARRIVE);
            findings.push(url::judge_unreachable(why, &url.authority, events_arrive));
            return Ok(findings);
        }
    };
    let listen = callback.listen.to_string();
    let judge = |sent: &Verification, reply: &Reply| judge_reply(reply, &sent.text, &sent.echostr, &listen);
    let Some(verdict) = judge(&first, reply) else {
        findings.push(Finding::ok(
            "url.response",
            "a signed verification comes back decrypted, and nothing else with it",
        ));
        // The second request shows the time without connection set-up, and with what is cached.
        let again = verify(Characters::WithPlus)?.outcome;
        findings.push(url::judge_time(again.map_or(reply.took, |again| again.took.min(reply.took))));
        return Ok(findings);
    };
    let verdict = match verdict.cause {
        "forbidden" | "bad_request" => {
            let plain = verify(Characters::Plain)?;
            if plain.outcome.as_ref().is_ok_and(|reply| judge(&plain, reply).is_none()) {
                plus_lost()
            } else {
                with_the_daemons_record(verdict, reader, since)
            }
        }
        _ => verdict,
    };
    let Verdict { cause, what, remedy } = verdict;
    findings.push(Finding::must_fix("url.response", format!("{what} ({cause})"), remedy));
    Ok(findings)
}

/// Adds the cause that the daemon of this machine recorded, if it is the one that answered.
fn with_the_daemons_record(verdict: Verdict, reader: Option<&Connection>, since: UnixSeconds) -> Verdict {
    let Some(reader) = reader else { return verdict };
    let until = Instant::now() + REFUSAL_TIMEOUT;
    loop {
        if let Some(row) = refusals_since(reader, since).unwrap_or_default().first() {
            return refused_by_daemon(&row.cause, verdict);
        }
        if Instant::now() >= until {
            return verdict;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The refusals of the last day.
fn refusals(config: &Config, reader: &Connection) -> Result<Vec<Finding>, Failure> {
    let app = config.app_callback.as_ref().map(|app| &app.path);
    let paths: Vec<String> = std::iter::once(&config.callback.path).chain(app).cloned().collect();
    let rows = refusals_since(reader, unix_now().plus(-DAY))?;
    let shown = rows.iter().take(REFUSALS).map(|row| {
        let RefusalRow { cause, path, count, last_client, .. } = row;
        let what = format!("{count} x {cause} at {path} within a day, last from {last_client}");
        Finding::warning("refusals", what, remedy(cause, &paths))
    });
    let mut findings: Vec<Finding> = shown.collect();
    if rows.len() > REFUSALS {
        let more = rows.len() - REFUSALS;
        findings.push(Finding::warning("refusals", format!("{more} more causes and paths"), "see status"));
    }
    if rows.is_empty() {
        findings.push(Finding::ok("refusals", "no request was refused within a day"));
    }
    Ok(findings)
}
