//! The command line: one file per command, and what they share.
//!
//! This is the only part that prints. Results go to standard output; an error is one line on standard
//! error that says what, where and what to do.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod changes;
mod check;
mod demo;
mod export;
mod logging;
mod member;
mod reconcile;
mod retry;
mod run;
mod status;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::Value as Json;

use crate::config::{Config, ConfigError};
use crate::daemon::StartError;
use crate::daemon::reconciler::ReconcileRequest;
use crate::store::StoreError;
use crate::store::epoch::Position;
use crate::text::{printable, printable_json};

/// Keeps an exact local copy of your WeCom (企业微信) directory in one SQLite file, and turns userids into
/// openids.
#[derive(Parser)]
#[command(version, max_term_width = 100, after_help = "Try it without an account: wecom-dirsync demo")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct ConfigFile {
    /// The configuration [default: ./sync.ini, then /etc/wecom-dirsync/sync.ini]
    #[arg(short, long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Answer callbacks and convert userids, until SIGTERM or SIGINT
    Run(ConfigFile),
    /// Validate the configuration and print what holds, secrets left out
    Check(ConfigFile),
    /// Show counts by state, what waits and for how long, and what is paused
    Status {
        #[command(flatten)]
        config: ConfigFile,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show one member: its fields, its openid's state, and its story
    Member {
        #[command(flatten)]
        config: ConfigFile,
        /// The member, also by a former userid
        userid: String,
    },
    /// Make conversions of members without an openid due now
    Retry {
        #[command(flatten)]
        config: ConfigFile,
        /// These members
        #[arg(value_name = "USERID", required_unless_present = "all")]
        userids: Vec<String>,
        /// All members without an openid, also those that WeCom refuses
        #[arg(long, conflicts_with = "userids")]
        all: bool,
    },
    /// Compare the directory with WeCom, repair it, and print what was different
    Reconcile {
        #[command(flatten)]
        config: ConfigFile,
        /// Only print what is different; write nothing
        #[arg(long)]
        dry_run: bool,
        /// Make up to N deletions, the number that a blocked comparison printed
        #[arg(long, value_name = "N")]
        allow_deletes: Option<usize>,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print the change feed, one JSON object a line
    Changes {
        #[command(flatten)]
        config: ConfigFile,
        /// Only changes after this one: SEQ or EPOCH:SEQ, as the lines before gave them
        #[arg(long, value_name = "[EPOCH:]SEQ", default_value = "0")]
        since: Position,
        /// Go on as changes come
        #[arg(long)]
        follow: bool,
    },
    /// Write the present members to standard output
    Export {
        #[command(flatten)]
        config: ConfigFile,
        /// How
        #[arg(long, value_enum)]
        format: export::Format,
    },
    /// Play the whole story on this machine, against a built-in stand-in for WeCom
    Demo {
        /// Where to leave the database and its configuration [default: ./demo-wecom-dirsync]
        #[arg(value_name = "FOLDER")]
        folder: Option<PathBuf>,
    },
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Start(#[from] StartError),
    /// The change feed does not go on from where the consumer was.
    #[error("{0}")]
    PositionGone(String),
    #[error("{0}")]
    Other(String),
}

impl From<crate::store::Error> for Failure {
    fn from(error: crate::store::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Other(error.to_string())
    }
}

impl Failure {
    /// A line for each error of the configuration; else one.
    fn lines(&self) -> Vec<String> {
        match self {
            Self::Config(ConfigError(lines)) => lines.clone(),
            other => vec![other.to_string()],
        }
    }

    /// 78 is sysexits' EX_CONFIG: systemd need not try again before somebody has mended it.
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::Start(StartError::Config(_)) => ExitCode::from(78),
            Self::PositionGone(_) => ExitCode::from(3),
            _ => ExitCode::from(1),
        }
    }
}

/// Runs the command that the arguments name. Usage errors end the process with 2, as clap does.
#[must_use]
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(file) => run::run(file.config.as_deref()),
        Command::Check(file) => check::check(file.config.as_deref()),
        Command::Status { config, json } => status::status(config.config.as_deref(), json),
        Command::Member { config, userid } => member::member(config.config.as_deref(), &userid),
        Command::Retry { config, userids, all } => retry::retry(config.config.as_deref(), &userids, all),
        Command::Reconcile { config, dry_run, allow_deletes, json } => {
            let request = ReconcileRequest { dry_run, allow_deletes };
            reconcile::reconcile(config.config.as_deref(), request, json)
        }
        Command::Changes { config, since, follow } => {
            changes::changes(config.config.as_deref(), &since, follow)
        }
        Command::Export { config, format } => export::export(config.config.as_deref(), format),
        Command::Demo { folder } => demo::demo(folder.as_deref().unwrap_or(Path::new("demo-wecom-dirsync"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            for line in failure.lines() {
                eprintln!("wecom-dirsync: {}", printable(&line));
            }
            failure.exit_code()
        }
    }
}

fn load(path: Option<&Path>) -> Result<Config, Failure> {
    Ok(Config::load(path)?)
}

/// Prints a JSON object over several lines, safe for a terminal.
fn print_json(object: &Json) -> Result<(), Failure> {
    print(&printable_json(&format!("{object:#}\n")))
}

/// The same JSON with all its texts printable, for people.
fn shown(json: &Json) -> Json {
    match json {
        Json::String(text) => Json::from(printable(text)),
        Json::Array(items) => items.iter().map(shown).collect(),
        Json::Object(map) => {
            map.iter().map(|(key, value)| (printable(key).into_owned(), shown(value))).collect()
        }
        other => other.clone(),
    }
}

/// Prints to standard output; that somebody closed it (`| head`) is no error.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
