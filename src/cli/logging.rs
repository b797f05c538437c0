//! Where log lines go and how they look there.
//!
//! systemd's journal has its own time stamps and reads a level from `<N>` at a line's beginning, so that is
//! what standard error gets, unless a person is watching; a person and a file get times.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;

use log::{Level, LevelFilter, Log, Metadata, Record};
use simplelog::{CombinedLogger, Config as Format, ConfigBuilder, SharedLogger, WriteLogger};

use super::Failure;
use crate::config;
use crate::text::printable;

/// Sets the log up, for the whole process.
pub(super) fn start(settings: &config::Log) -> Result<(), Failure> {
    let cannot = |what: String| Failure::Other(what);
    let logger: Box<dyn SharedLogger> = match &settings.file {
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).mode(0o640).open(path);
            let file =
                file.map_err(|error| cannot(format!("{}: cannot write the log: {error}", path.display())))?;
            WriteLogger::new(LevelFilter::Trace, with_times(), file)
        }
        None if std::io::stderr().is_terminal() => {
            WriteLogger::new(LevelFilter::Trace, with_times(), std::io::stderr())
        }
        None => Box::new(Journal),
    };
    CombinedLogger::init(vec![Box::new(OwnLines(logger))]).map_err(|error| cannot(error.to_string()))?;
    // The only filter by level, since the control socket changes it.
    log::set_max_level(settings.level);
    Ok(())
}

/// Makes a panic a line of the log, too. What it says is told only of this program's own: a library's may contain a URL,
/// and with it secrets.
pub(super) fn tell_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let said = payload.downcast_ref::<&str>().copied();
        let said = said.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
        let (file, line) = panic.location().map_or(("", 0), |at| (at.file(), at.line()));
        let said = if file.starts_with("src/") { format!(" ({said})") } else { String::new() };
        let file = within_its_crate(file);
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("without a name");
        log::error!(
            "thread {thread}: panic at {file}:{line}{said}; what it was doing has failed. If it comes again, please report it"
        );
    }));
}

/// Where the compiler and the libraries lay when this was built is nobody's business.
fn within_its_crate(file: &str) -> &str {
    match file.split_once("/registry/src/") {
        Some((_, rest)) => rest.split_once('/').map_or(rest, |(_, rest)| rest),
        None => file.split_once("/library/").map_or(file, |(_, rest)| rest),
    }
}

fn with_times() -> Format {
    let mut builder = ConfigBuilder::new();
    builder
        .set_time_format_rfc3339()
        .set_thread_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off);
    if builder.set_time_offset_to_local().is_err() {
        // The zone cannot be found out safely in a process that has threads already: UTC then.
    }
    builder.build()
}

/// Lets only this program's own lines through: what libraries log may contain URLs, and with them secrets.
struct OwnLines(Box<dyn SharedLogger>);

impl Log for OwnLines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("wecom_dirsync") && self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // One call is one line: names and messages in it may contain line breaks.
        let text = record.args().to_string();
        let mut line = Record::builder();
        line.metadata(record.metadata().clone());
        self.0.log(&line.args(format_args!("{}", printable(&text))).build());
    }

    fn flush(&self) {
        self.0.flush();
    }
}

impl SharedLogger for OwnLines {
    fn level(&self) -> LevelFilter {
        self.0.level()
    }

    fn config(&self) -> Option<&Format> {
        self.0.config()
    }

    fn as_log(self: Box<Self>) -> Box<dyn Log> {
        self
    }
}

/// Standard error as the journal reads it.
struct Journal;

impl Log for Journal {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let priority = match record.level() {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 6,
            Level::Debug | Level::Trace => 7,
        };
        // There is nobody left to tell if this fails.
        let _ = writeln!(std::io::stderr().lock(), "<{priority}>{}", record.args());
    }

    fn flush(&self) {}
}

impl SharedLogger for Journal {
    fn level(&self) -> LevelFilter {
        LevelFilter::Trace
    }

    fn config(&self) -> Option<&Format> {
        None
    }

    fn as_log(self: Box<Self>) -> Box<dyn Log> {
        self
    }
}
