//! The configuration: INI text to typed settings, with errors that name file, line and key.
//!
//! `ini` parses lines, `reader` takes one key at a time, `sections` states all keys, `values` and `credential` their
//! forms, and `warnings` what is valid but risky.

pub(crate) mod completion;
mod credential;
mod ini;
mod proxy;
mod reader;
pub mod reload;
mod secret;
mod sections;
mod values;
mod warnings;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;

use crate::system_error::{Operation, explain};
use crate::wecom::callback::crypt::{Crypt, EncodingAesKey, InvalidAesKey};
use crate::wecom::query::url_encode;
use crate::wecom::redact::secrets_of_url;

pub(crate) use proxy::Proxy;
pub use reader::Surroundings;
pub use secret::Secret;
pub(crate) use sections::corp_id as parse_corp_id;

/// Where the configuration is looked for, in this order, without `-c FILE`.
pub(crate) const PLACES: [&str; 2] = ["sync.ini", "/etc/wecom-dirsync/sync.ini"];

/// Length of the longest accepted INI, in bytes.
const MAX_INI: u64 = 1024 * 1024;

/// All settings of one INI file: defaults filled in, paths resolved, secrets read from their files.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) file: PathBuf,
    pub(crate) wecom: Wecom,
    pub(crate) callback: Callback,
    pub(crate) app_callback: Option<AppCallback>,
    pub(crate) database: Database,
    pub(crate) openid: Openid,
    /// Whether `user/get` may be called.
    pub(crate) fetch_details: bool,
    pub(crate) reconcile: Reconcile,
    pub(crate) retention: Retention,
    /// `None`: the admin listener is off.
    pub(crate) admin_listen: Option<SocketAddr>,
    pub(crate) notify: Notify,
    pub(crate) log: Log,
    /// Section, key and printed value of every setting; `None`: a secret that is not set.
    effective: Vec<(&'static str, &'static str, Option<String>)>,
    secrets: Vec<StoredSecret>,
}

#[derive(Debug, Clone)]
pub(crate) struct Wecom {
    pub(crate) corp_id: String,
    pub(crate) contacts_secret: Option<Secret>,
    pub(crate) app_secret: Option<Secret>,
    /// Without a slash at the end.
    pub(crate) api_base: String,
    pub(crate) ca_file: Option<PathBuf>,
    /// Certificate authorities of `ca_file`, in DER.
    pub(crate) authorities: Vec<Vec<u8>>,
    pub(crate) proxy: Proxy,
    /// Upper limit for one API call.
    pub(crate) timeout: Duration,
    pub(crate) calls_per_minute: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Keys {
    pub(crate) token: Secret,
    /// Has 43 characters that decode to 32 bytes.
    pub(crate) encoding_aes_key: Secret,
}

impl Keys {
    /// The keys as the callback protocol uses them, for messages to `receive_id`.
    pub(crate) fn crypt(&self, receive_id: &str) -> Result<Crypt, InvalidAesKey> {
        let key = EncodingAesKey::parse(self.encoding_aes_key.expose())?;
        Ok(Crypt::new(self.token.expose(), key, receive_id))
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Callback {
    pub(crate) listen: SocketAddr,
    /// Whether the INI sets `listen`.
    pub(crate) is_listen_set: bool,
    pub(crate) path: String,
    pub(crate) keys: Keys,
    pub(crate) previous: Previous,
    pub(crate) threads: usize,
    /// Length of the longest accepted body, in bytes.
    pub(crate) max_body: usize,
    pub(crate) receive_id: String,
    /// Answers 200 to a load balancer's health checks.
    pub(crate) probe_path: Option<String>,
    pub(crate) proxy_protocol: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct AppCallback {
    pub(crate) path: String,
    pub(crate) keys: Keys,
    pub(crate) previous: Previous,
    pub(crate) receive_id: String,
}

/// The keys before a rotation, accepted beside the present ones; either may be set alone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Previous {
    pub(crate) token: Option<Secret>,
    pub(crate) encoding_aes_key: Option<Secret>,
}

impl Keys {
    /// All accepted pairs, the present one first. Each token goes with each key, because the console may change one
    /// before the other.
    #[must_use]
    pub(crate) fn with(&self, previous: &Previous) -> Vec<Self> {
        let tokens = std::iter::once(&self.token).chain(&previous.token);
        let pairs = tokens.flat_map(|token| {
            let keys = std::iter::once(&self.encoding_aes_key).chain(&previous.encoding_aes_key);
            keys.map(|key| Self { token: token.clone(), encoding_aes_key: key.clone() })
        });
        pairs.collect()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Database {
    pub(crate) path: PathBuf,
    pub(crate) mode: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Openid {
    pub(crate) enabled: bool,
    /// Limit of calls in flight for conversions and details; `None` (`auto`) follows pace and latency.
    pub(crate) max_concurrent_calls: Option<usize>,
    pub(crate) retry_first: Duration,
    pub(crate) retry_max: Duration,
    /// Age at which a converted openid is requested again; zero: never.
    pub(crate) recheck_after: Duration,
}

/// How often the directory is compared with WeCom, and how many deletions a comparison may make.
#[derive(Debug, Clone)]
pub struct Reconcile {
    pub(crate) enabled: bool,
    pub(crate) every: Duration,
    /// Larger shares of deletions are blocked.
    pub(crate) max_delete_percent: u32,
}

/// The recipients of notices, and their conditions. URLs are secrets: they contain keys.
#[derive(Debug, Clone)]
pub(crate) struct Notify {
    /// Run by `/bin/sh -c` for each notice.
    pub(crate) on_change_command: Option<String>,
    /// A group robot's URL, or only its key.
    pub(crate) robot_webhook: Option<Secret>,
    pub(crate) webhook_url: Option<Secret>,
    pub(crate) heartbeat_url: Option<Secret>,
    pub(crate) heartbeat_every: Duration,
    /// Zero: never.
    pub(crate) oldest_pending_over: Duration,
    /// Zero: never.
    pub(crate) no_event_for: Duration,
}

impl Notify {
    /// The URL of the group robot. A bare key belongs to the robots of `api_base`.
    pub(crate) fn robot_url(&self, api_base: &str) -> Option<String> {
        let robot = self.robot_webhook.as_ref()?.expose();
        let url = || format!("{api_base}/cgi-bin/webhook/send?key={}", url_encode(robot));
        Some(if robot.contains("://") { robot.to_owned() } else { url() })
    }
}

/// Ages at which rows are deleted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    pub(crate) events: Duration,
    pub(crate) changes: Duration,
    /// Since the deletion.
    pub(crate) deleted_members: Duration,
}

#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub(crate) level: LevelFilter,
    pub(crate) is_json: bool,
    /// `None`: the log goes to standard error.
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Clone)]
struct StoredSecret {
    section: &'static str,
    key: &'static str,
    /// The INI, or the file that KEY_file names.
    file: PathBuf,
    value: Secret,
}

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .lines.join("\n"))]
pub struct ConfigError {
    /// One line for each error, in the order of the file.
    pub lines: Vec<String>,
    /// Whether this process lacks the right to read a file, and nothing else is wrong.
    pub is_denied: bool,
}

impl From<String> for ConfigError {
    fn from(line: String) -> Self {
        Self { lines: vec![line], is_denied: false }
    }
}

impl Config {
    /// Reads and parses `path`, else `./sync.ini`, else `/etc/wecom-dirsync/sync.ini`.
    ///
    /// # Errors
    /// [`ConfigError`], also if no file is found or it cannot be read.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_in(path, &Surroundings::real())
    }

    /// As [`Config::load`], for a command that needs no secret: a secret that is missing or cannot be read is no error.
    ///
    /// # Errors
    /// [`ConfigError`], also if no file is found or it cannot be read.
    pub fn load_without_secrets(path: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_in(path, &Surroundings { needs_secrets: false, ..Surroundings::real() })
    }

    fn load_in(path: Option<&Path>, surroundings: &Surroundings<'_>) -> Result<Self, ConfigError> {
        let file = match path {
            Some(path) => path.to_owned(),
            None => PLACES.iter().map(PathBuf::from).find(|place| place.exists()).ok_or_else(|| {
                format!(
                    "no configuration: found neither ./{} nor {}; name one with -c FILE, or make one with `wecom-dirsync init`",
                    PLACES[0], PLACES[1]
                )
            })?,
        };
        let text = read_ini(&file).map_err(|error| ConfigError {
            lines: vec![format!(
                "{}: cannot be read: {}",
                file.display(),
                explain(Operation::ReadConfig, &error)
            )],
            is_denied: error.kind() == std::io::ErrorKind::PermissionDenied,
        })?;
        Self::parse(&text, &file, surroundings)
    }

    /// The warning that systemd's socket has another address than `[callback] listen`, with the remedy.
    pub(crate) fn ignored_listen(&self, passed: &str) -> String {
        let unit = self.unit().unwrap_or_else(|| "UNIT".to_owned());
        let listen = self.callback.listen;
        format!(
            "[callback] listen {listen} has no effect, because systemd listens on {passed}; to listen on {listen}, write the \
             three lines [Socket], ListenStream= and ListenStream={listen} into \
             /etc/systemd/system/{unit}.socket.d/listen.conf, then systemctl daemon-reload && systemctl stop {unit}.service \
             {unit}.socket && systemctl start {unit}.service; or delete the line from the INI"
        )
    }

    /// Section, keys and receive_id of the callback with this path, else those of `[callback]`.
    pub(crate) fn callback_at(&self, path: &str) -> (&'static str, &Keys, &str) {
        match self.app_callback.as_ref().filter(|app| app.path == path) {
            Some(app) => ("callback.app", &app.keys, &app.receive_id),
            None => ("callback", &self.callback.keys, &self.callback.receive_id),
        }
    }

    /// The unit of the packages that runs this configuration, such as `wecom-dirsync` or `wecom-dirsync@NAME`; `None` for a
    /// file in another folder.
    #[must_use]
    pub fn unit(&self) -> Option<String> {
        let file = self.file.canonicalize().unwrap_or_else(|_| self.file.clone());
        let is_packaged = file.parent() == Path::new(PLACES[1]).parent();
        let name = file.file_name()?.to_str()?.strip_suffix(".ini").filter(|_| is_packaged)?;
        Some(if name == "sync" { "wecom-dirsync".to_owned() } else { format!("wecom-dirsync@{name}") })
    }

    /// The texts that a log or an error must not contain. Of a URL, only its secret parts.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        let texts = self.secrets.iter().flat_map(|StoredSecret { key, value, .. }| match *key {
            "proxy" => secrets_of_url(value.expose()),
            "robot_webhook" | "webhook_url" | "heartbeat_url" if value.expose().contains("://") => {
                let mut secrets = secrets_of_url(value.expose());
                secrets.extend(long_segments(value.expose()));
                secrets
            }
            _ => vec![value.expose().to_owned()],
        });
        texts.collect()
    }

    /// The INI and the files that it names, without those that the daemon writes.
    pub(crate) fn files(&self) -> BTreeSet<&Path> {
        let secrets = self.secrets.iter().map(|secret| secret.file.as_path());
        secrets.chain([self.file.as_path()]).chain(self.wecom.ca_file.as_deref()).collect()
    }

    /// A secret that is set, by its section and key (without `_file`).
    #[must_use]
    pub fn secret(&self, section: &str, key: &str) -> Option<&Secret> {
        self.secrets.iter().find(|s| s.section == section && s.key == key).map(|s| &s.value)
    }
}

/// The parts of a URL's path that may be keys, as those of many chat and monitoring services are.
fn long_segments(url: &str) -> impl Iterator<Item = String> {
    const SHORTEST_KEY: usize = 16;
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    path.split('/').skip(1).filter(|segment| segment.len() >= SHORTEST_KEY).map(str::to_owned)
}

/// The text of an INI file.
pub(crate) fn read_ini(file: &Path) -> std::io::Result<String> {
    reader::read_text(file, MAX_INI)
}

/// A new Token and EncodingAESKey, of the form that WeCom's console generates.
pub(crate) fn callback_keys() -> Result<(Secret, Secret), getrandom::Error> {
    Ok((credential::random(32)?, credential::random(43)?))
}

/// The effective configuration as INI text, defaults included. It parses to the same settings once the redacted secrets
/// are put back.
#[must_use]
pub fn render(config: &Config) -> String {
    let mut text = String::new();
    let mut current = "";
    for (section, key, value) in &config.effective {
        if current != *section {
            let gap = if current.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{gap}[{section}]");
            current = section;
        }
        let line = match value {
            Some(value) => format!("{key} = {}", quoted(value)),
            None => format!("# {key} is not set"),
        };
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// Quotes a value whose own quotes or blanks the parser would strip.
fn quoted(value: &str) -> String {
    let in_quotes = value.len() > 1 && value.starts_with('"') && value.ends_with('"');
    if in_quotes || value.trim() != value { format!("\"{value}\"") } else { value.to_owned() }
}

#[cfg(test)]
mod tests;
