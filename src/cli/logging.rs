//! The log: this program's own lines, one per call, on standard error or in a file.
//!
//! The journal adds its own time stamps and reads the level from `<N>`, so standard error gets `<N>` unless it is a
//! terminal. A terminal and a file get times.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;

use log::{Level, LevelFilter, Log, Metadata, Record};
use simplelog::{Config as Format, ConfigBuilder, SharedLogger, WriteLogger};

use super::Failure;
use crate::config;
use crate::text::printable;

/// Sets up the log of the whole process; once.
pub(super) fn start(settings: &config::Log) -> Result<(), Failure> {
    let timed: Option<Box<dyn SharedLogger>> = match &settings.file {
        Some(path) => {
            let file =
                OpenOptions::new().create(true).append(true).mode(0o640).open(path).map_err(|error| {
                    Failure::Other(format!("{}: cannot write the log: {error}", path.display()))
                })?;
            Some(WriteLogger::new(LevelFilter::Trace, with_times(), file))
        }
        None if std::io::stderr().is_terminal() => {
            Some(WriteLogger::new(LevelFilter::Trace, with_times(), std::io::stderr()))
        }
        None => None,
    };
    log::set_boxed_logger(Box::new(Lines { timed })).map_err(|error| Failure::Other(error.to_string()))?;
    // The only filter by level, because the control socket changes it.
    log::set_max_level(settings.level);
    Ok(())
}

/// Logs every panic as one line. Only the message of this program's own panic is logged: a library's may contain a URL,
/// and with it a secret.
pub(super) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let message = payload.downcast_ref::<&str>().copied();
        let message =
            message.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
        let (file, line) = panic.location().map_or(("", 0), |at| (at.file(), at.line()));
        let message = if file.starts_with("src/") { format!(" ({message})") } else { String::new() };
        let file = within_its_crate(file);
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("without a name");
        log::error!(
            "thread {thread}: panic at {file}:{line}{message}; the work in progress failed. If it recurs, please report it"
        );
    }));
}

/// Removes the folders of the machine that built this program.
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
    // UTC, where the time zone cannot be read safely because the process has threads already.
    let _ = builder.set_time_offset_to_local();
    builder.build()
}

/// Drops the lines of libraries, because they may contain URLs, and with them secrets.
struct Lines {
    /// Writes lines with times; `None`: lines for the journal.
    timed: Option<Box<dyn SharedLogger>>,
}

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("wecom_dirsync") && metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // A name in the text may contain line breaks, but one call is one line.
        let text = record.args().to_string();
        let text = printable(&text);
        if let Some(timed) = &self.timed {
            let mut line = Record::builder();
            line.metadata(record.metadata().clone());
            return timed.log(&line.args(format_args!("{text}")).build());
        }
        let priority = match record.level() {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 6,
            Level::Debug | Level::Trace => 7,
        };
        // A failure cannot be reported: standard error is where it would go.
        let _ = writeln!(std::io::stderr().lock(), "<{priority}>{text}");
    }

    fn flush(&self) {
        if let Some(timed) = &self.timed {
            timed.flush();
        }
    }
}
