//! The configuration: INI text to typed settings, with errors that name file, line and key.

mod credential;
mod ini;
mod proxy;
mod reader;
mod render;
mod secret;
mod values;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;

use crate::wecom::redact::secrets_of_url;

pub use proxy::{ChosenProxy, Proxy};
pub use reader::Surroundings;
pub use render::render;
pub use secret::Secret;

/// Where a configuration is looked for when none is named.
const PLACES: [&str; 2] = ["sync.ini", "/etc/wecom-dirsync/sync.ini"];

/// Longest configuration, in bytes.
const LONGEST: u64 = 1024 * 1024;

/// The whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it is from.
    pub file: PathBuf,
    /// `[wecom]`
    pub wecom: Wecom,
    /// `[callback]`
    pub callback: Callback,
    /// `[callback.app]`
    pub app_callback: Option<AppCallback>,
    /// `[database]`
    pub database: Database,
    /// `[openid]`
    pub openid: Openid,
    /// `[details]`: whether user/get may be asked.
    pub fetch_details: bool,
    /// `[reconcile]`
    pub reconcile: Reconcile,
    /// `[retention]`
    pub retention: Retention,
    /// `[admin]` listen; none: off.
    pub admin_listen: Option<SocketAddr>,
    /// `[notify]`
    pub notify: Notify,
    /// `[log]`
    pub log: Log,
    /// Key of each secret and the file that it is from, for [`Config::remarks`].
    pub secret_files: Vec<(String, PathBuf)>,
}

/// `[wecom]`
#[derive(Debug, Clone)]
pub struct Wecom {
    /// The company.
    pub corp_id: String,
    /// Secret of contacts sync.
    pub contacts_secret: Option<Secret>,
    /// Secret of an app.
    pub app_secret: Option<Secret>,
    /// Base URL, without a slash at the end.
    pub api_base: String,
    /// Certificate authorities besides the system's and the built-in ones.
    pub ca_file: Option<CaFile>,
    /// The way there.
    pub proxy: Proxy,
    /// One API call.
    pub timeout: Duration,
    /// All API calls together.
    pub calls_per_minute: u32,
}

/// `[wecom] ca_file`
#[derive(Debug, Clone)]
pub struct CaFile {
    /// The file.
    pub path: PathBuf,
    /// Its certificates, in DER.
    pub certificates: Vec<Vec<u8>>,
}

/// Token and key of a callback URL.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Token.
    pub token: Secret,
    /// EncodingAESKey, 43 characters that decode.
    pub encoding_aes_key: Secret,
}

/// `[callback]`
#[derive(Debug, Clone)]
pub struct Callback {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The URL's path.
    pub path: String,
    /// The keys.
    pub keys: Keys,
    /// Other pairs of token and key that are still accepted, while they are being changed.
    pub previous: Previous,
    /// Threads that answer.
    pub threads: usize,
    /// Longest body, in bytes.
    pub max_body: usize,
    /// Whom messages must be meant for.
    pub receive_id: String,
    /// The path that answers probes of load balancers; none: no path does.
    pub probe_path: Option<String>,
    /// Whether every connection begins with a PROXY protocol header.
    pub proxy_protocol: bool,
}

/// `[callback.app]`
#[derive(Debug, Clone)]
pub struct AppCallback {
    /// The URL's path.
    pub path: String,
    /// The keys.
    pub keys: Keys,
    /// Other pairs of token and key that are still accepted, while they are being changed.
    pub previous: Previous,
    /// Whom messages must be meant for.
    pub receive_id: String,
}

/// Token and key of a callback URL before they were changed in the console; either may stand alone.
#[derive(Debug, Clone, Default)]
pub struct Previous {
    /// The former token.
    pub token: Option<Secret>,
    /// The former EncodingAESKey, 43 characters that decode.
    pub encoding_aes_key: Option<Secret>,
}

impl Keys {
    /// All pairs that are accepted, these first. Token and key may be changed one after the other, so each
    /// token goes with each key.
    #[must_use]
    pub fn with(&self, previous: &Previous) -> Vec<Self> {
        let tokens = std::iter::once(&self.token).chain(&previous.token);
        let pairs = tokens.flat_map(|token| {
            let keys = std::iter::once(&self.encoding_aes_key).chain(&previous.encoding_aes_key);
            keys.map(|key| Self { token: token.clone(), encoding_aes_key: key.clone() })
        });
        pairs.collect()
    }
}

/// `[database]`
#[derive(Debug, Clone)]
pub struct Database {
    /// The file.
    pub path: PathBuf,
    /// Its file mode.
    pub mode: u32,
}

/// `[openid]`
#[derive(Debug, Clone)]
pub struct Openid {
    /// Whether userids are converted at all.
    pub enabled: bool,
    /// Conversions at the same time.
    pub workers: usize,
    /// Wait after the first refusal.
    pub retry_first: Duration,
    /// Longest wait.
    pub retry_max: Duration,
    /// Age at which an openid is asked for again; zero: never.
    pub recheck_after: Duration,
}

/// `[reconcile]`
#[derive(Debug, Clone)]
pub struct Reconcile {
    /// Whether the directory is compared with WeCom.
    pub enabled: bool,
    /// How often.
    pub every: Duration,
    /// More deletions than this share are not made.
    pub max_delete_percent: u32,
}

/// `[retention]`
#[derive(Debug, Clone)]
pub struct Retention {
    /// How long events are kept.
    pub events: Duration,
    /// How long changes are kept.
    pub changes: Duration,
    /// How long members are kept after their deletion.
    pub deleted_members: Duration,
}

/// `[notify]`
#[derive(Debug, Clone)]
pub struct Notify {
    /// Run at each change of state.
    pub on_change_command: Option<String>,
    /// A group robot's webhook; its URL has a key.
    pub robot_webhook: Option<Secret>,
    /// Called regularly while all is well.
    pub heartbeat_url: Option<String>,
    /// How regularly.
    pub heartbeat_every: Duration,
}

/// `[log]`
#[derive(Debug, Clone)]
pub struct Log {
    /// How much.
    pub level: LevelFilter,
    /// Where to; none: standard error.
    pub file: Option<PathBuf>,
}

/// Why there is no configuration: one line for each thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

impl Config {
    /// Reads the configuration: the file that is named, else `./sync.ini`, else
    /// `/etc/wecom-dirsync/sync.ini`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let file = match path {
            Some(path) => path.to_owned(),
            None => PLACES.iter().map(PathBuf::from).find(|place| place.exists()).ok_or_else(|| {
                ConfigError(vec![format!(
                    "no configuration: neither ./{} nor {} is there; name one with -c FILE, or copy sync.example.ini to ./{}",
                    PLACES[0], PLACES[1], PLACES[0]
                )])
            })?,
        };
        let unreadable =
            |what: String| ConfigError(vec![format!("{}: cannot be read: {what}", file.display())]);
        let text = reader::read_text(&file, LONGEST).map_err(|error| unreadable(error.to_string()))?;
        Self::parse(&text, &file, &Surroundings::real())
    }

    /// Every secret text of the configuration, for keeping them out of what others wrote.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        let callback = self.callback.keys.with(&self.callback.previous);
        let app = self.app_callback.iter().flat_map(|app| app.keys.with(&app.previous));
        let secrets = callback.into_iter().chain(app).flat_map(|keys| [keys.token, keys.encoding_aes_key]);
        let secrets = secrets.chain(self.wecom.contacts_secret.clone()).chain(self.wecom.app_secret.clone());
        let mut texts: Vec<String> = secrets.map(|secret| secret.expose().to_owned()).collect();
        let proxy = match &self.wecom.proxy {
            Proxy::Url(url) => Some(url.clone()),
            Proxy::Environment | Proxy::Direct => None,
        };
        for url in proxy.iter().chain(&self.notify.robot_webhook) {
            texts.extend(secrets_of_url(url.expose()));
        }
        texts
    }

    /// Things that are valid but deserve a word, one line each.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        let sample =
            self.callback.keys.encoding_aes_key.expose() == "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C";
        if sample {
            remarks.push(
                "[callback] has WeCom's published sample key: fine for a first try, but everybody knows it"
                    .into(),
            );
        }
        let mut secrets_of = BTreeMap::<&Path, Vec<&str>>::new();
        for (key, file) in &self.secret_files {
            secrets_of.entry(file).or_default().push(key);
        }
        for (file, keys) in secrets_of.into_iter().filter(|(file, _)| is_readable_by_all(file)) {
            remarks.push(format!(
                "{}: every user of this machine can read {} in it; chmod o-r {0}",
                file.display(),
                keys.join(", ")
            ));
        }
        if let Some(app) = &self.app_callback {
            let (ours, apps) = (&self.callback.keys, &app.keys);
            if ours.token.expose() == apps.token.expose() {
                remarks.push(
                    "[callback] token and [callback.app] token are the same: WeCom makes one for each".into(),
                );
            }
            if ours.encoding_aes_key.expose() == apps.encoding_aes_key.expose() {
                remarks.push(
                    "[callback] encoding_aes_key and [callback.app] encoding_aes_key are the same: WeCom makes one for each"
                        .into(),
                );
            }
        }
        if is_plain_to_another_host(&self.wecom.api_base) {
            remarks.push(format!(
                "[wecom] api_base {}: secrets and tokens go over the network unencrypted; use https://",
                self.wecom.api_base
            ));
        }
        if !self.openid.enabled {
            remarks.push("[openid] enabled is no: userids are not converted to openids".into());
        } else if self.wecom.app_secret.is_none() {
            remarks.push("[wecom] app_secret is not set: userids are not converted to openids".into());
        }
        if self.wecom.contacts_secret.is_none() {
            remarks.push(
                "[wecom] contacts_secret is not set: what callbacks miss is not found by comparing with WeCom".into(),
            );
        }
        match self.wecom.chosen_proxy(|name| std::env::var(name).ok()) {
            Ok(Some(proxy)) if !matches!(self.wecom.proxy, Proxy::Url(_)) => {
                remarks.push(format!("WeCom's API is called through the proxy of {}", proxy.source));
            }
            Ok(_) => {}
            Err(what) => remarks.push(format!("the daemon would not start here: {what}")),
        }
        if !self.callback.listen.ip().is_loopback() {
            remarks.push(format!(
                "[callback] listen {} is open to others: put a reverse proxy with TLS before it where you can",
                self.callback.listen
            ));
        }
        if self.callback.proxy_protocol && !self.callback.listen.ip().is_loopback() {
            remarks.push(
                "[callback] proxy_protocol is yes: whoever reaches the port can name any client address in the log"
                    .into(),
            );
        }
        if let Some(address) = self.admin_listen.filter(|address| !address.ip().is_loopback()) {
            remarks.push(format!(
                "[admin] listen {address} is open to others and asks for no password: keep it inside your network"
            ));
        }
        remarks.push("not in effect in this version: [retention], [notify]".into());
        remarks
    }
}

fn is_readable_by_all(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o004 != 0)
}

/// http:// to a host that is not this one.
fn is_plain_to_another_host(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let authority = rest.split('/').next().unwrap_or(rest);
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    let is_here = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    !(is_here || host.eq_ignore_ascii_case("localhost"))
}

#[cfg(test)]
mod tests;
