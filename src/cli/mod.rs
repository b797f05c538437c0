//! The command line: one file per command. Nothing else in the program prints.
//!
//! Results go to standard output. An error is one line on standard error: what failed, where, and the remedy.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod changes;
mod check;
mod demo;
mod doctor;
mod export;
mod failure;
mod init;
mod logging;
mod member;
mod members;
mod prerequisites;
mod reconcile;
mod retry;
mod run;
mod send;
mod start_failures;
mod status;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use failure::Failure;
use serde_json::Value as Json;

use crate::config::Config;
use crate::daemon::reconciler::ReconcileRequest;
use crate::store::epoch::Position;
use crate::text::{printable, printable_json};
use doctor::CallbackUrl;

/// Keeps an exact local copy of your WeCom (企业微信) directory in one SQLite file, and converts userids to openids.
#[derive(Parser)]
#[command(version = env!("WECOM_DIRSYNC_VERSION"), max_term_width = 100, after_help = "Try it without an account: wecom-dirsync demo")]
struct Cli {
    /// Also before the command; clap hands it down.
    #[command(flatten)]
    _config: ConfigFile,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct ConfigFile {
    /// The configuration [default: ./sync.ini, then /etc/wecom-dirsync/sync.ini]
    #[arg(short, long = "config", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve callbacks, convert userids and reconcile, until SIGTERM or SIGINT
    ///
    /// Runs in the foreground and ends within 5 seconds. Only one daemon may use a database at a time. All other commands
    /// work while it runs.
    Run(ConfigFile),
    /// Validate the configuration and print the effective one, secrets redacted
    ///
    /// Prints defaults too, and URLs without passwords and values of the query. Lists all errors at once. Does not call
    /// WeCom.
    Check {
        #[command(flatten)]
        config: ConfigFile,
        /// Verify the database as well: the file, its rows and indexes, the change feed
        ///
        /// Works while the service runs. The exit status is 1 if anything disagrees.
        #[arg(long)]
        database: bool,
        /// Correct what disagrees, while the service is stopped
        ///
        /// Changes nothing if it cannot correct everything.
        #[arg(long, requires = "database")]
        repair: bool,
    },
    /// Try database, clock, tokens, API permissions and the public callback URL, with a remedy for each failure
    ///
    /// Also checks the files as the service's user, the disk, the address that WeCom sees, and the requests that were refused
    /// within a day. Each check is ok, warning or MUST FIX; the exit status is 1 if anything must be fixed. Sends no event and
    /// changes nothing in WeCom.
    Doctor {
        #[command(flatten)]
        config: ConfigFile,
        /// The callback URL as WeCom's console has it
        ///
        /// Tries name, certificate, redirects, and the response to a signed verification, directly and without a proxy.
        #[arg(long, value_name = "URL", value_parser = CallbackUrl::parse)]
        url: Option<CallbackUrl>,
        /// Print the result as one JSON object
        ///
        /// Its findings have check, level (ok, warning, must_fix), what and remedy.
        #[arg(long)]
        json: bool,
    },
    /// Show counts by state, age of the backlog, last event and comparison, pauses
    ///
    /// Also shows the requests to the callback port that were refused within a day, each with its remedy.
    Status {
        #[command(flatten)]
        config: ConfigFile,
        /// Print the result as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show one member: fields, openid state, and its history
    ///
    /// The history has the latest 200 events, changes and API calls each.
    Member {
        #[command(flatten)]
        config: ConfigFile,
        /// Present or former userid of the member
        userid: String,
    },
    /// List members: all, those without an openid and why, or those that departed
    ///
    /// Prints a table. Departed members are listed as long as their rows are stored.
    Members(members::Arguments),
    /// Make conversions of members without an openid due now
    ///
    /// A running daemon attempts them at once, unless conversion is off or paused. The exit status is 1 if one of the
    /// members is unknown, deleted or converted already; the others become due nevertheless. One line for each USERID has
    /// the reason.
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
    ///
    /// A running daemon does it on request; without one, the command does it itself. The exit status is 1 if deletions are
    /// blocked.
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
        /// Start after this change; each line contains its epoch and seq
        ///
        /// Numbers are unique within an epoch, which changes when an older copy of the database is restored. The exit
        /// status is 3 if the position is gone.
        #[arg(long, value_name = "[EPOCH:]SEQ", default_value = "0")]
        since: Position,
        /// Keep printing changes as they are committed
        #[arg(long)]
        follow: bool,
    },
    /// Write the current members to standard output
    Export {
        #[command(flatten)]
        config: ConfigFile,
        /// Format, for a spreadsheet or for programs
        ///
        /// CSV is for Excel: UTF-8 with a byte order mark, and an apostrophe before text that Excel would evaluate as a
        /// formula. NDJSON is one JSON object per line.
        #[arg(long, value_enum)]
        format: export::Format,
    },
    /// Make a configuration with new callback keys, or complete the package's, and print the steps in WeCom's console
    ///
    /// Generates a Token and an EncodingAESKey. An existing file keeps all else byte for byte; one that has a Token or an
    /// EncodingAESKey, or errors, is refused. The file is replaced atomically, with mode 0640, and belongs to the group
    /// wecom-dirsync if there is one. The steps are in the order in which the console permits them.
    Init {
        #[command(flatten)]
        config: ConfigFile,
        /// The same as -c FILE [default: ./sync.ini or /etc/wecom-dirsync/sync.ini if there is one, else a new ./sync.ini]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// Corp id (企业ID); asked for if it is missing and standard input is a terminal
        #[arg(long, value_name = "ID")]
        corp_id: Option<String>,
    },
    /// Send a signed, encrypted verification or event to a URL, and judge the response as WeCom does
    ///
    /// The exit status is 1, with the cause and the remedy, unless WeCom would accept the response: status 200 within 5
    /// seconds and exactly the decrypted text, or for an event "success" or nothing, from a server with a certificate of a
    /// known authority. The keys are those of [callback.app] if the URL has its path, else of [callback]. The connection is
    /// direct, because WeCom comes from outside: neither proxy nor ca_file of the configuration is used. An event takes
    /// effect where it arrives; the next comparison corrects what WeCom does not confirm.
    Send(Box<send::Arguments>),
    /// Try the daemon on this machine, against a built-in stand-in for WeCom
    ///
    /// Goes from the saved callback URL to the first openid. A folder whose files are not from an earlier demo is refused.
    Demo {
        /// Folder for the database and its configuration [default: ./demo-wecom-dirsync]
        #[arg(value_name = "FOLDER")]
        folder: Option<PathBuf>,
        /// Refused: a demo makes its own configuration
        #[arg(short, long = "config", value_name = "FILE", hide = true)]
        config: Option<PathBuf>,
    },
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

/// Ends the process as a usage error does.
fn usage_error(what: &str) -> ! {
    use clap::CommandFactory;
    Cli::command().error(clap::error::ErrorKind::ValueValidation, what).exit()
}

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let done = match arguments().command {
        Command::Run(file) => return run::run(file.config.as_deref()),
        Command::Check { config, database, repair } => {
            check::check(config.config.as_deref(), database, repair)
        }
        Command::Doctor { config, url, json } => doctor::doctor(config.config.as_deref(), url.as_ref(), json),
        Command::Status { config, json } => status::status(config.config.as_deref(), json),
        Command::Member { config, userid } => member::member(config.config.as_deref(), &userid),
        Command::Members(arguments) => members::members(&arguments),
        Command::Retry { config, userids, all } => retry::retry(config.config.as_deref(), &userids, all),
        Command::Reconcile { config, dry_run, allow_deletes, json } => {
            let request = ReconcileRequest { dry_run, allow_deletes };
            reconcile::reconcile(config.config.as_deref(), request, json)
        }
        Command::Changes { config, since, follow } => {
            changes::changes(config.config.as_deref(), &since, follow)
        }
        Command::Export { config, format } => export::export(config.config.as_deref(), format),
        Command::Init { config: ConfigFile { config: Some(_) }, file: Some(_), .. } => {
            usage_error("init takes one file: -c FILE or FILE")
        }
        Command::Init { config, file, corp_id } => {
            init::init(file.or(config.config).as_deref(), corp_id.as_deref())
        }
        Command::Send(arguments) => send::send(&arguments),
        Command::Demo { config: Some(_), .. } => {
            usage_error("demo makes a configuration of its own: leave out -c")
        }
        Command::Demo { folder, .. } => {
            demo::demo(folder.as_deref().unwrap_or(Path::new("demo-wecom-dirsync")))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            for line in failure.lines() {
                eprintln!("wecom-dirsync: {}", printable(&line));
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

/// The command line's definition, for manual page and completions.
#[must_use]
pub fn definition() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

fn load(path: Option<&Path>) -> Result<Config, Failure> {
    Ok(Config::load(path)?)
}

/// For a command that needs no secret, so that every reader of the INI and the database can run it.
fn load_without_secrets(path: Option<&Path>) -> Result<Config, Failure> {
    Ok(Config::load_without_secrets(path)?)
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
