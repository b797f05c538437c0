//! The log: this program's own lines, one per call, on standard error or in a file.
//!
//! The journal adds its own time stamps and reads the level from `<N>`. Lines begin with it only if standard error is the
//! journal's stream, by `$JOURNAL_STREAM`; anywhere else they have time and level.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, PoisonError, RwLock};

use log::{Level, LevelFilter, Log, Metadata, Record};
use simplelog::{Config as Format, ConfigBuilder, SharedLogger, WriteLogger};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::failure::Failure;
use crate::config;
use crate::text::printable;

/// The process's log, as the settings have it.
pub(super) struct Logging {
    times: Times,
    sink: Arc<RwLock<Sink>>,
}

/// How lines show the time. Made before the first thread starts: with threads, the time zone cannot be read safely.
#[derive(Clone)]
pub(super) struct Times(Format);

/// Where and how lines are written.
struct Sink {
    form: Form,
    /// Whether lines go to the journal, without a file in between.
    is_journal: bool,
    /// Whether lines go to standard error.
    is_stderr: bool,
}

enum Form {
    /// Nothing but the text; the journal has the time.
    Plain,
    Timed(Box<dyn SharedLogger>),
    Json(Box<dyn Fn(&str) + Send + Sync>),
}

impl Logging {
    /// Sets up the log of the whole process; once.
    pub(super) fn start(settings: &config::Log, times: Times) -> Result<Self, Failure> {
        let sink = Arc::new(RwLock::new(Sink::open(settings, &times)?));
        let lines = Lines { sink: Arc::clone(&sink) };
        log::set_boxed_logger(Box::new(lines)).map_err(|error| Failure::Other(error.to_string()))?;
        // The only filter by level, because the control socket changes it.
        log::set_max_level(settings.level);
        Ok(Self { times, sink })
    }

    /// Uses other settings. Opens the file again, which may have been moved away. On an error, nothing is changed.
    pub(super) fn reload(&self, settings: &config::Log) -> Result<(), Failure> {
        let sink = Sink::open(settings, &self.times)?;
        *self.sink.write().unwrap_or_else(PoisonError::into_inner) = sink;
        log::set_max_level(settings.level);
        Ok(())
    }

    /// Whether a line of the log is what a reader of standard error expects there: in the journal, and as JSON.
    pub(super) fn is_standard_error(&self) -> bool {
        let sink = self.sink.read().unwrap_or_else(PoisonError::into_inner);
        sink.is_journal || (sink.is_stderr && matches!(sink.form, Form::Json(_)))
    }

    pub(super) fn is_file(&self) -> bool {
        !self.sink.read().unwrap_or_else(PoisonError::into_inner).is_stderr
    }
}

/// Whether standard error is the stream of the journal: `$JOURNAL_STREAM` has its device and inode (systemd.exec(5)). A
/// process inherits the variable also where its standard error is something else.
pub(super) fn is_journal() -> bool {
    let Some((device, inode)) = std::env::var("JOURNAL_STREAM").ok().and_then(|stream| {
        stream.split_once(':').and_then(|(d, i)| Some((d.parse().ok()?, i.parse().ok()?)))
    }) else {
        return false;
    };
    rustix::fs::fstat(std::io::stderr()).is_ok_and(|found| (found.st_dev, found.st_ino) == (device, inode))
}

impl Times {
    pub(super) fn new() -> Self {
        let mut builder = ConfigBuilder::new();
        builder
            .set_time_format_rfc3339()
            .set_thread_level(LevelFilter::Off)
            .set_target_level(LevelFilter::Off)
            .set_location_level(LevelFilter::Off);
        // UTC, where the time zone cannot be read safely because the process has threads already.
        let _ = builder.set_time_offset_to_local();
        Self(builder.build())
    }
}

impl Sink {
    fn open(settings: &config::Log, times: &Times) -> Result<Self, Failure> {
        let is_stderr = settings.file.is_none();
        let is_journal = is_stderr && is_journal();
        let form = match &settings.file {
            Some(path) => {
                let file = OpenOptions::new().create(true).append(true).mode(0o640).open(path);
                let file = file.map_err(|error| Failure::Log { path: path.display().to_string(), error })?;
                if settings.is_json {
                    Form::Json(Box::new(move |line| write_line(&file, line)))
                } else {
                    Form::timed(file, times)
                }
            }
            None if settings.is_json => {
                Form::Json(Box::new(|line| write_line(std::io::stderr().lock(), line)))
            }
            None if is_journal => Form::Plain,
            None => Form::timed(std::io::stderr(), times),
        };
        Ok(Self { form, is_journal, is_stderr })
    }

    fn write(&self, level: Level, text: &str) {
        let priority = if self.is_journal { priority(level) } else { "" };
        match &self.form {
            Form::Plain => write_line(std::io::stderr().lock(), &format!("{priority}{text}")),
            Form::Json(write) => write(&format!("{priority}{}", json(level, text))),
            Form::Timed(logger) => {
                let mut line = Record::builder();
                logger.log(&line.level(level).args(format_args!("{text}")).build());
            }
        }
    }
}

impl Form {
    fn timed(target: impl Write + Send + 'static, Times(format): &Times) -> Self {
        Self::Timed(WriteLogger::new(LevelFilter::Trace, format.clone(), target))
    }
}

/// One write, so that lines of several threads do not mix. A failure cannot be reported: this is where it would go.
fn write_line(mut target: impl Write, line: &str) {
    let _ = target.write_all(format!("{line}\n").as_bytes());
}

/// The prefix by which the journal knows the level (sd-daemon(3)).
pub(super) fn priority(level: Level) -> &'static str {
    match level {
        Level::Error => "<3>",
        Level::Warn => "<4>",
        Level::Info => "<6>",
        Level::Debug | Level::Trace => "<7>",
    }
}

fn json(level: Level, text: &str) -> String {
    let now = OffsetDateTime::now_utc();
    let now = now.replace_millisecond(now.millisecond()).unwrap_or(now);
    let time = now.format(&Rfc3339).unwrap_or_default();
    let level = level.as_str().to_ascii_lowercase();
    serde_json::json!({"time": time, "level": level, "message": text}).to_string()
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

/// Drops the lines of libraries, because they may contain URLs, and with them secrets.
struct Lines {
    sink: Arc<RwLock<Sink>>,
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
        self.sink.read().unwrap_or_else(PoisonError::into_inner).write(record.level(), &printable(&text));
    }

    fn flush(&self) {}
}
