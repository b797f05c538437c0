//! `reconcile`: compares the directory with WeCom, by the daemon if it runs, else here.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use log::LevelFilter;
use serde_json::Value as Json;

use super::{Failure, load, logging, print, print_json};
use crate::config::{Config, ConfigError};
use crate::daemon::api_observer::ApiRecorder;
use crate::daemon::reconciler::report::in_words;
use crate::daemon::reconciler::{Engine, PROGRESS, Progress, REPORT, WISH, Wish, compare};
use crate::daemon::{client, is_running, knock, lock};
use crate::directory::comparison::Guard;
use crate::shutdown::Shutdown;
use crate::store::epoch::HighWaterMark;
use crate::store::file::recognise;
use crate::store::open::{open_beside, open_in_memory};
use crate::store::state::take_first;
use crate::store::{StoreError, Writer, get_state, open_reader, open_writer, set_state};
use crate::unix_time::unix_now;

/// How often it is looked for the daemon's report.
const LOOK: Duration = Duration::from_millis(200);
/// A daemon that shows neither progress nor a report for so long does not take the wish up.
const TAKEN_UP: Duration = Duration::from_secs(20);
/// Interval of progress lines where standard error is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

pub(super) fn reconcile(path: Option<&Path>, wish: Wish, as_json: bool) -> Result<(), Failure> {
    let config = load(path)?;
    if config.wecom.contacts_secret.is_none() {
        return Err(Failure::Config(ConfigError(vec![format!(
            "{}: [wecom] contacts_secret is not set; listing members needs the secret of contacts sync (通讯录同步)",
            config.file.display()
        )])));
    }
    let shown = Shown::new();
    let report = if is_running(&config.database.path) {
        by_the_daemon(&config, wish, &shown)?
    } else {
        here(&config, wish, &shown)?
    };
    shown.clear();
    if as_json {
        print_json(&report)?;
    } else {
        print(&in_words(&super::shown(&report)))?;
    }
    match report.get("outcome").and_then(Json::as_str) {
        Some("ok" | "partial") => Ok(()),
        Some("blocked") if wish.dry_run => Ok(()),
        Some("blocked") => Err(Failure::Other(
            "deletions are blocked; the note states how many and how to allow them".into(),
        )),
        _ => Err(Failure::Other("the comparison did not finish; the note states why".into())),
    }
}

/// Leaves the wish for the daemon and waits for its report: only one may call WeCom at its pace.
fn by_the_daemon(config: &Config, wish: Wish, shown: &Shown) -> Result<Json, Failure> {
    let beside = open_beside(&config.database.path)?;
    let id = format!("{:016x}", fastrand::u64(..));
    set_state(&beside, &format!("{WISH}{id}"), unix_now(), Some(&wish.to_json()))?;
    knock(&config.database.path);
    shown.line("asked the running daemon");
    let report = format!("{REPORT}{id}");
    let mut sign = Instant::now();
    let give_up = |what: &str| {
        // Nobody waits for it any more; it must not be granted later.
        set_state(&beside, &format!("{WISH}{id}"), unix_now(), None)?;
        Err(Failure::Other(what.into()))
    };
    loop {
        if get_state(&beside, &report)?.is_some()
            && let Some((_, report)) = take_first(&beside, &report)?
        {
            return Ok(report);
        }
        if !is_running(&config.database.path) {
            return give_up("the daemon ended in the middle; the directory is whole, try again");
        }
        if let Some((_, progress)) = get_state(&beside, PROGRESS)? {
            sign = Instant::now();
            let number = |key| progress.get(key).and_then(Json::as_u64).and_then(|n| usize::try_from(n).ok());
            let phase = progress.get("phase").and_then(Json::as_str).unwrap_or("");
            shown.at(phase, number("done").unwrap_or(0), number("of"));
        }
        if sign.elapsed() > TAKEN_UP {
            return give_up(
                "the running daemon does not take it up; if contacts_secret was set after its start, restart the daemon; else see its log",
            );
        }
        std::thread::sleep(LOOK);
    }
}

fn here(config: &Config, wish: Wish, shown: &Shown) -> Result<Json, Failure> {
    logging::start(&crate::config::Log { level: LevelFilter::Warn, file: None })?;
    let path = &config.database.path;
    // No daemon may start in the middle: each would keep its own pace.
    recognise(path)?;
    let lock = if wish.dry_run { None } else { Some(lock(path)?) };
    let shutdown = Shutdown::default();
    let (writer, thread) = match &lock {
        Some(lock) => {
            let database = open_writer(path, config.database.mode)?;
            let mark = HighWaterMark::open(&database, lock.try_clone()?, unix_now(), fastrand::u64(..))?;
            Writer::start_marking(database, Some(mark))?
        }
        // What the client records of its calls goes nowhere.
        None => Writer::start(open_in_memory()?)?,
    };
    let reader = match open_reader(path) {
        Err(StoreError::Missing(_)) if wish.dry_run => open_in_memory()?,
        reader => reader?,
    };
    let client: crate::wecom::api::Client<ApiRecorder> = client(config, &writer, &Arc::default(), &shutdown)?;
    let tell = |progress: Progress| shown.at(progress.phase, progress.done, progress.of);
    let engine = Engine {
        client: &client,
        reader: &reader,
        writer: (!wish.dry_run).then_some(&writer),
        shutdown: &shutdown,
        guard: Guard { percent: config.reconcile.max_delete_percent, allowed: wish.allow_deletes },
        tell: &tell,
    };
    let report = compare(&engine, "the reconcile command");
    writer.close();
    let _ = thread.join_within(Duration::from_secs(10));
    Ok(report?.to_json(wish.dry_run))
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

    fn at(&self, phase: &str, done: usize, of: Option<usize>) {
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
                bar.set_length(u64::try_from(of).unwrap_or(u64::MAX));
                "{msg} [{bar:30}] {pos}/{len}, {eta} left"
            }
            None => "{spinner} {msg} {pos}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(phase.to_owned());
        bar.set_position(u64::try_from(done).unwrap_or(u64::MAX));
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
