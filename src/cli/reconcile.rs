//! `reconcile`: compares the directory with WeCom, by the daemon if it runs, else here.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use log::LevelFilter;
use serde_json::Value as Json;

use super::logging::{Logging, Times};
use super::{Failure, load, print, print_json};
use crate::config::{Config, ConfigError};
use crate::daemon::api_observer::ApiRecorder;
use crate::daemon::control::{ControlClient, Request, Response};
use crate::daemon::reconciler::report::in_words;
use crate::daemon::reconciler::{Comparison, ReconcileRequest, compare};
use crate::daemon::{client, is_running, lock};
use crate::directory::comparison::Guard;
use crate::shutdown::Shutdown;
use crate::store::epoch::HighWaterMark;
use crate::store::file::recognise;
use crate::store::open::open_in_memory;
use crate::store::state::ReconcileProgress;
use crate::store::{StoreError, Writer, open_reader, open_writer};
use crate::unix_time::unix_now;

/// Time for the daemon to accept the request.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(20);
/// A comparison may wait for WeCom's limits; the connection shows whether the daemon still runs.
const REPORT_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Interval of progress lines where standard error is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

pub(super) fn reconcile(
    path: Option<&Path>,
    request: ReconcileRequest,
    as_json: bool,
) -> Result<(), Failure> {
    let config = load(path)?;
    if config.wecom.contacts_secret.is_none() {
        return Err(Failure::Config(ConfigError::from(format!(
            "{}: [wecom] contacts_secret is not set; listing members needs the secret of contacts sync (通讯录同步)",
            config.file.display()
        ))));
    }
    let shown = Shown::new();
    let report = if is_running(&config.database.path) {
        by_the_daemon(&config, request, &shown)?
    } else {
        here(&config, request, &shown)?
    };
    shown.clear();
    if as_json {
        print_json(&report)?;
    } else {
        print(&in_words(&super::shown(&report)))?;
    }
    match report.get("outcome").and_then(Json::as_str) {
        Some("ok" | "partial") => Ok(()),
        Some("blocked") if request.dry_run => Ok(()),
        Some("blocked") => Err(Failure::Other(
            "deletions are blocked; the note states how many and how to allow them".into(),
        )),
        _ => Err(Failure::Other("the comparison did not finish; the note states why".into())),
    }
}

/// Has the daemon compare, since only one process may call WeCom at its rate limit.
fn by_the_daemon(config: &Config, request: ReconcileRequest, shown: &Shown) -> Result<Json, Failure> {
    let database = open_reader(&config.database.path)?;
    let unanswered = |error: std::io::Error| {
        Failure::Other(format!(
            "the running daemon does not answer on its control socket ({error}); only root and the daemon's user may \
             use it; see the daemon's log"
        ))
    };
    let mut client = ControlClient::request(&database, &Request::Reconcile(request)).map_err(unanswered)?;
    let mut timeout = ACCEPT_TIMEOUT;
    loop {
        match client.receive(timeout) {
            Ok(Some(Response::Accepted)) => {
                timeout = REPORT_TIMEOUT;
                shown.line("requested from the running daemon");
            }
            Ok(Some(Response::Progress(progress))) => shown.at(&progress),
            Ok(Some(Response::Report(report))) => return Ok(report),
            Ok(Some(Response::Error(what))) => return Err(Failure::Other(what)),
            Ok(Some(_)) => {}
            Ok(None) => return Err(unanswered(std::io::ErrorKind::TimedOut.into())),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                let what = "the daemon ended during the comparison; the directory is consistent, try again";
                return Err(Failure::Other(what.into()));
            }
            Err(error) => return Err(unanswered(error)),
        }
    }
}

fn here(config: &Config, request: ReconcileRequest, shown: &Shown) -> Result<Json, Failure> {
    let settings = crate::config::Log { level: LevelFilter::Warn, is_json: false, file: None };
    Logging::start(&settings, Times::new())?;
    let path = &config.database.path;
    // No daemon may start during the comparison: each process has its own rate limiter.
    recognise(path)?;
    let lock = if request.dry_run { None } else { Some(lock(path)?) };
    let shutdown = Shutdown::default();
    let (writer, thread) = match &lock {
        Some(lock) => {
            let database = open_writer(path, config.database.mode)?;
            let mark = HighWaterMark::open(&database, lock.try_clone()?, unix_now(), fastrand::u64(..))?;
            Writer::start_marking(database, Some(mark))?
        }
        // The client's call records are discarded.
        None => Writer::start(open_in_memory()?)?,
    };
    let reader = match open_reader(path) {
        Err(StoreError::Missing(_)) if request.dry_run => open_in_memory()?,
        reader => reader?,
    };
    let client: crate::wecom::api::Client<ApiRecorder> = client(config, &writer, &Arc::default(), &shutdown)?;
    let progress = |progress: ReconcileProgress| shown.at(&progress);
    let comparison = Comparison {
        client: &client,
        reader: &reader,
        writer: (!request.dry_run).then_some(&writer),
        shutdown: &shutdown,
        guard: Guard { percent: config.reconcile.max_delete_percent, allowed: request.allow_deletes },
        progress: &progress,
    };
    let report = compare(&comparison, "the reconcile command");
    writer.close();
    let _ = thread.join_within(Duration::from_secs(10));
    Ok(report?.to_json(request.dry_run))
}

/// Progress: a bar on a terminal, else a line every [`LINE_EVERY`].
struct Shown {
    bar: Option<ProgressBar>,
    last_line: std::cell::Cell<Instant>,
}

impl Shown {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(ProgressBar::new_spinner);
        Self { bar, last_line: std::cell::Cell::new(Instant::now()) }
    }

    fn at(&self, ReconcileProgress { phase, done, of }: &ReconcileProgress) {
        let Some(bar) = &self.bar else {
            if self.last_line.get().elapsed() >= LINE_EVERY {
                self.last_line.set(Instant::now());
                let of = of.map_or_else(String::new, |of| format!(" of {of}"));
                self.line(&format!("{phase}: {done}{of}"));
            }
            return;
        };
        let template = match of {
            Some(of) => {
                bar.set_length(u64::try_from(*of).unwrap_or(u64::MAX));
                "{msg} [{bar:30}] {pos}/{len}, {eta} left"
            }
            None => "{spinner} {msg} {pos}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(phase.clone());
        bar.set_position(u64::try_from(*done).unwrap_or(u64::MAX));
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => eprintln!("wecom-dirsync: {}", crate::text::printable(text)),
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
