//! The command line: one file per command. Nothing else in the program prints.
//!
//! Results go to standard output. An error is one line on standard error: what failed, where, and the remedy.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod backup;
mod changes;
mod check;
mod demo;
mod export;
mod forget;
mod import_openids;
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

/// Keeps an exact local copy of your WeCom (企业微信) directory in one SQLite file, and converts userids to openids.
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
    /// Serve callbacks, convert userids and reconcile, until SIGTERM or SIGINT
    Run(ConfigFile),
    /// Validate the configuration and print the effective one, secrets redacted
    Check {
        #[command(flatten)]
        config: ConfigFile,
        /// Verify the database as well: the file, its rows and indexes, the change feed
        #[arg(long)]
        database: bool,
        /// Correct what disagrees, while the service is stopped
        #[arg(long, requires = "database")]
        repair: bool,
    },
    /// Show counts by state, age of the backlog, last event and comparison, pauses
    Status {
        #[command(flatten)]
        config: ConfigFile,
        /// Print the result as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show one member: fields, openid state, and its history
    Member {
        #[command(flatten)]
        config: ConfigFile,
        /// Present or former userid of the member
        userid: String,
    },
    /// Make conversions of members without an openid due now
    Retry {
        #[command(flatten)]
        config: ConfigFile,
        /// Members whose conversion becomes due
        #[arg(value_name = "USERID", required_unless_present = "all")]
        userids: Vec<String>,
        /// All members without an openid, failed ones included
        #[arg(long, conflicts_with = "userids")]
        all: bool,
    },
    /// Compare the directory with WeCom, merge the differences, and print them
    Reconcile {
        #[command(flatten)]
        config: ConfigFile,
        /// Print the differences; change nothing
        #[arg(long)]
        dry_run: bool,
        /// Allow N deletions, the number that a blocked comparison printed
        #[arg(long, value_name = "N")]
        allow_deletes: Option<usize>,
        /// Print the result as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print the change feed, one JSON object per line
    Changes {
        #[command(flatten)]
        config: ConfigFile,
        /// Start after this change; each line contains its epoch and seq [default: before the oldest kept change]
        #[arg(long, value_name = "[EPOCH:]SEQ")]
        since: Option<Position>,
        /// Keep printing changes as they are committed
        #[arg(long)]
        follow: bool,
    },
    /// Write the current members to standard output
    Export {
        #[command(flatten)]
        config: ConfigFile,
        /// Format, for a spreadsheet or for programs
        #[arg(long, value_enum)]
        format: export::Format,
    },
    /// Make a verified copy of the database while the daemon runs; never over an existing file
    Backup {
        #[command(flatten)]
        config: ConfigFile,
        /// New file; with --keep, an existing folder
        #[arg(value_name = "DEST")]
        destination: PathBuf,
        /// Make a dated file in the folder DEST, and delete all but the newest N
        #[arg(long, value_name = "N", value_parser = parse_count)]
        keep: Option<usize>,
    },
    /// Import openids that are known from elsewhere, for members without one
    ImportOpenids {
        #[command(flatten)]
        config: ConfigFile,
        /// CSV file with the columns userid and openid
        csv: PathBuf,
        /// Print what would be imported; change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Erase a departed member from every table; backups and log files are not touched
    Forget {
        #[command(flatten)]
        config: ConfigFile,
        /// Last userid of the member
        userid: String,
    },
    /// Try the daemon on this machine, against a built-in stand-in for WeCom
    Demo {
        /// Folder for the database and its configuration [default: ./demo-wecom-dirsync]
        #[arg(value_name = "FOLDER")]
        folder: Option<PathBuf>,
    },
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Start(#[from] StartError),
    /// The change feed cannot continue at the consumer's position: pruned, or of another epoch.
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
    /// One line for each error of the configuration; else a single line.
    fn lines(&self) -> Vec<String> {
        match self {
            Self::Config(ConfigError(lines)) => lines.clone(),
            other => vec![other.to_string()],
        }
    }

    /// 78 is EX_CONFIG of sysexits: the unit does not restart the daemon after it.
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::Start(StartError::Config(_)) => ExitCode::from(78),
            Self::PositionGone(_) => ExitCode::from(3),
            _ => ExitCode::from(1),
        }
    }
}

/// The arguments, parsed. Help and usage errors end the process with 0 and 2.
fn arguments() -> Cli {
    Cli::try_parse().unwrap_or_else(|error| {
        // An error repeats arguments: they are parsed again with control characters escaped, which fails alike.
        let printable =
            std::env::args_os().map(|argument| printable(&argument.to_string_lossy()).into_owned());
        Cli::try_parse_from(printable).err().unwrap_or(error).exit()
    })
}

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let done = match arguments().command {
        Command::Run(file) => run::run(file.config.as_deref()),
        Command::Check { config, database, repair } => {
            check::check(config.config.as_deref(), database, repair)
        }
        Command::Status { config, json } => status::status(config.config.as_deref(), json),
        Command::Member { config, userid } => member::member(config.config.as_deref(), &userid),
        Command::Retry { config, userids, all } => retry::retry(config.config.as_deref(), &userids, all),
        Command::Reconcile { config, dry_run, allow_deletes, json } => {
            let request = ReconcileRequest { dry_run, allow_deletes };
            reconcile::reconcile(config.config.as_deref(), request, json)
        }
        Command::Changes { config, since, follow } => {
            changes::changes(config.config.as_deref(), since.as_ref(), follow)
        }
        Command::Export { config, format } => export::export(config.config.as_deref(), format),
        Command::Backup { config, destination, keep } => {
            backup::backup(config.config.as_deref(), &destination, keep)
        }
        Command::ImportOpenids { config, csv, dry_run } => {
            import_openids::import_openids(config.config.as_deref(), &csv, dry_run)
        }
        Command::Forget { config, userid } => forget::forget(config.config.as_deref(), &userid),
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

/// A number of 1 or more.
fn parse_count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "is not a number of 1 or more".into())
}

fn load(path: Option<&Path>) -> Result<Config, Failure> {
    Ok(Config::load(path)?)
}

/// Prints indented JSON with control characters escaped.
fn print_json(object: &Json) -> Result<(), Failure> {
    print(&printable_json(&format!("{object:#}\n")))
}

/// JSON with control characters in all its texts escaped, for text output.
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

/// Prints to standard output. A closed pipe (`| head`) is no error.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
