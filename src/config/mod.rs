//! The configuration: INI text to typed settings, with errors that name file, line and key.
//!
//! `ini` parses lines, `reader` takes one key at a time, `sections` states all keys, `values` and `credential` their
//! forms, and `warnings` what is valid but risky.

mod credential;
mod ini;
mod proxy;
mod reader;
mod secret;
mod sections;
mod values;
mod warnings;

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;

use crate::wecom::redact::secrets_of_url;

pub(crate) use proxy::Proxy;
pub use reader::Surroundings;
pub use secret::Secret;

/// Where the configuration is looked for, in this order, without `-c FILE`.
const PLACES: [&str; 2] = ["sync.ini", "/etc/wecom-dirsync/sync.ini"];

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

#[derive(Debug, Clone)]
pub(crate) struct Callback {
    pub(crate) listen: SocketAddr,
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

/// One line for each error of the configuration, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

impl Config {
    /// Reads and parses `path`, else `./sync.ini`, else `/etc/wecom-dirsync/sync.ini`.
    ///
    /// # Errors
    /// [`ConfigError`], also if no file is found or it cannot be read.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let file = match path {
            Some(path) => path.to_owned(),
            None => PLACES.iter().map(PathBuf::from).find(|place| place.exists()).ok_or_else(|| {
                ConfigError(vec![format!(
                    "no configuration: found neither ./{} nor {}; name one with -c FILE, or copy sync.example.ini to ./{}",
                    PLACES[0], PLACES[1], PLACES[0]
                )])
            })?,
        };
        let unreadable =
            |what: String| ConfigError(vec![format!("{}: cannot be read: {what}", file.display())]);
        let text = reader::read_text(&file, MAX_INI).map_err(|error| unreadable(error.to_string()))?;
        Self::parse(&text, &file, &Surroundings::real())
    }

    /// The texts that a log or an error must not contain. Of a URL, only its secret parts.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        let texts = self.secrets.iter().flat_map(|StoredSecret { key, value, .. }| match *key {
            "proxy" | "heartbeat_url" => secrets_of_url(value.expose()),
            "robot_webhook" if value.expose().contains("://") => secrets_of_url(value.expose()),
            _ => vec![value.expose().to_owned()],
        });
        texts.collect()
    }

    /// A secret that is set, by its section and key (without `_file`).
    #[must_use]
    pub fn secret(&self, section: &str, key: &str) -> Option<&Secret> {
        self.secrets.iter().find(|s| s.section == section && s.key == key).map(|s| &s.value)
    }
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
