//! From entries to settings: every key of the contract, its default and its range.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;

use super::credential::{self, LONGEST_FILE};
use super::ini::{self, Entry};
use super::values;
use super::{
    AppCallback, CaFile, Callback, Config, ConfigError, Database, Keys, Log, Notify, Openid, Previous, Proxy,
    Reconcile, Retention, Secret, Wecom,
};
use crate::wecom::api::network::parse_proxy;
use crate::wecom::api::tls::certificates;
use crate::wecom::callback::crypt::EncodingAesKey;

/// What of the machine a configuration depends on; given, so that reading it is a function of its input.
pub struct Surroundings<'a> {
    /// `$CREDENTIALS_DIRECTORY` (systemd's LoadCredential).
    pub credentials_directory: Option<PathBuf>,
    /// Reads a secret's file. An error's text is shown, so it must not contain what is in the file.
    #[allow(clippy::type_complexity)]
    pub read_file: Box<dyn Fn(&Path) -> std::io::Result<String> + 'a>,
}

impl Surroundings<'_> {
    /// The machine as it is.
    #[must_use]
    pub fn real() -> Self {
        Self {
            credentials_directory: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            read_file: Box::new(|path| read_text(path, LONGEST_FILE)),
        }
    }
}

/// Reads a text file of at most `longest` bytes; waits for no FIFO's other end.
pub(super) fn read_text(path: &Path, longest: u64) -> std::io::Result<String> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_dir() {
        return Err(std::io::Error::other("it is a directory, not a file"));
    }
    let mut bytes = Vec::new();
    file.take(longest + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > longest {
        return Err(std::io::Error::other(format!("it is larger than {longest} bytes")));
    }
    credential::decode(bytes).map_err(|what| std::io::Error::other(format!("it {what}")))
}

const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);

impl Config {
    /// Reads a configuration from text. All that is wrong is told, not only the first.
    ///
    /// # Errors
    /// [`ConfigError`]; it never contains the value of a secret.
    pub fn parse(text: &str, file: &Path, surroundings: &Surroundings<'_>) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(text, file, surroundings);
        let config = reader.config();
        reader.unknown();
        match config {
            Some(config) if reader.wrong.is_empty() => Ok(config),
            _ => {
                reader.wrong.sort();
                Err(ConfigError(reader.wrong.into_iter().map(|(_, text)| text).collect()))
            }
        }
    }
}

/// A value for a message. A URL may hold a password.
fn without_password(value: &str) -> Cow<'_, str> {
    match (value.find("://"), value.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            let (before, after) = (value.get(..scheme).unwrap_or(""), value.get(at..).unwrap_or(""));
            Cow::Owned(format!("{before}://[redacted]{after}"))
        }
        _ => Cow::Borrowed(value),
    }
}

struct Reader<'a> {
    file: &'a Path,
    surroundings: &'a Surroundings<'a>,
    entries: BTreeMap<(String, String), Entry>,
    /// With the line that each begins on.
    sections: Vec<(String, usize)>,
    /// Every key that was asked for: what is left over is unknown.
    known: Vec<(&'static str, String)>,
    wrong: Vec<(usize, String)>,
    /// Key and file of each secret that is in a file of its own; the key and the INI for one that is not.
    secret_files: Vec<(String, PathBuf)>,
}

impl<'a> Reader<'a> {
    fn new(text: &str, file: &'a Path, surroundings: &'a Surroundings<'a>) -> Self {
        let ini::Ini { entries, sections, wrong } = ini::read(text);
        let entries = entries.into_iter().map(|entry| ((entry.section.clone(), entry.key.clone()), entry));
        let mut reader = Self {
            file,
            surroundings,
            entries: entries.collect(),
            sections,
            known: Vec::new(),
            wrong: Vec::new(),
            secret_files: Vec::new(),
        };
        for wrong in wrong {
            reader.complain(wrong.line, &wrong.what);
        }
        reader
    }

    fn complain(&mut self, line: usize, what: &str) {
        let file = self.file.display();
        let place = if line == 0 { format!("{file}") } else { format!("{file}:{line}") };
        self.wrong.push((line, format!("{place}: {what}")));
    }

    fn take(&mut self, section: &'static str, key: &str) -> Option<Entry> {
        self.known.push((section, key.to_owned()));
        self.entries.remove(&(section.to_owned(), key.to_owned()))
    }

    /// The line of an entry that nothing has taken yet; 0 if there is none.
    fn line_of(&self, section: &str, key: &str) -> usize {
        self.entries.get(&(section.to_owned(), key.to_owned())).map_or(0, |entry| entry.line)
    }

    /// A setting that `parse` understands. A value that it does not is complained of.
    fn value<T>(
        &mut self,
        section: &'static str,
        key: &str,
        default: T,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        let Some(entry) = self.take(section, key) else { return default };
        match parse(&entry.value) {
            Ok(value) => value,
            Err(what) => {
                let comment = entry.value.contains(" #") || entry.value.contains(" ;");
                let hint = if comment { "; comments stand on lines of their own" } else { "" };
                let shown: String = without_password(&entry.value).chars().take(60).collect();
                self.complain(entry.line, &format!("[{section}] {key}: {shown:?} {what}{hint}"));
                default
            }
        }
    }

    fn number(&mut self, section: &'static str, key: &str, default: u32, range: RangeInclusive<u32>) -> u32 {
        self.value(section, key, default, |text| match text.parse() {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => Err(format!("is not a number from {} to {}", range.start(), range.end())),
        })
    }

    fn duration(
        &mut self,
        section: &'static str,
        key: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        self.value(section, key, default, |text| {
            let duration = values::duration(text)?;
            if range.contains(&duration) {
                return Ok(duration);
            }
            let shown = values::show_duration;
            Err(format!("is not from {} to {}", shown(*range.start()), shown(*range.end())))
        })
    }

    /// A text that is not empty, or nothing.
    fn text(&mut self, section: &'static str, key: &str) -> Option<String> {
        self.value(section, key, None, |text| Ok((!text.is_empty()).then(|| text.to_owned())))
    }

    /// A secret, given as KEY or by KEY_file. Complaints never show its value.
    fn secret(
        &mut self,
        section: &'static str,
        key: &str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Option<Secret> {
        let (text, line) = self.secret_text(section, key)?;
        if let Err(what) = credential::judge(&text).and_then(|()| check(&text)) {
            self.complain(line, &format!("[{section}] {key}: {what}"));
            return None;
        }
        Some(Secret::new(text))
    }

    /// The text of a secret, from the INI or a file of its own, and the line that names it.
    fn secret_text(&mut self, section: &'static str, key: &str) -> Option<(String, usize)> {
        let direct = self.take(section, key);
        let by_file = self.take(section, &format!("{key}_file"));
        let (text, line) = match (direct, by_file) {
            (Some(entry), Some(file)) => {
                let what = format!(
                    "[{section}] {key}_file: {key} is given on line {} too; keep one of them",
                    entry.line
                );
                self.complain(file.line, &what);
                return None;
            }
            (Some(entry), None) => {
                self.secret_files.push((format!("[{section}] {key}"), self.file.to_owned()));
                (entry.value, entry.line)
            }
            (None, Some(entry)) => {
                let path = self.secret_path(&entry.value);
                match (self.surroundings.read_file)(&path) {
                    Ok(text) => {
                        self.secret_files.push((format!("[{section}] {key}_file"), path));
                        (text, entry.line)
                    }
                    Err(error) => {
                        let what =
                            format!("[{section}] {key}_file: {} cannot be read: {error}", path.display());
                        self.complain(entry.line, &what);
                        return None;
                    }
                }
            }
            (None, None) => return None,
        };
        Some((credential::trim(&text).to_owned(), line))
    }

    fn secret_path(&self, value: &str) -> PathBuf {
        let credential = self.surroundings.credentials_directory.as_ref().map(|folder| folder.join(value));
        match credential {
            Some(path) if Path::new(value).is_relative() && path.exists() => path,
            _ => self.relative(value),
        }
    }

    /// Relative paths are from the INI file's folder.
    fn relative(&self, value: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(value)
    }

    fn missing(&mut self, section: &str, key: &str, why: &str) {
        self.complain(0, &format!("[{section}] {key} is missing: {why}"));
    }

    fn config(&mut self) -> Option<Config> {
        let wecom = self.wecom();
        let probe_line = self.line_of("callback", "probe_path");
        let (callback, app_callback) = (self.callback(&wecom.corp_id), self.app_callback(&wecom.corp_id));
        if let (Some(callback), Some(app)) = (&callback, &app_callback)
            && callback.path == app.path
        {
            self.complain(0, "[callback.app] path: must be another one than that of [callback]");
        }
        if let Some(callback) = &callback
            && let Some(probe) = &callback.probe_path
            && (callback.path == *probe || app_callback.as_ref().is_some_and(|app| app.path == *probe))
        {
            let what = format!(
                "[callback] probe_path: {probe} is the path of a callback; choose another, such as /ping"
            );
            self.complain(probe_line, &what);
        }
        let database = Database {
            path: {
                let path = self.text("database", "path").unwrap_or_else(|| "directory.db".into());
                self.relative(&path)
            },
            mode: self.value("database", "mode", 0o600, values::file_mode),
        };
        let openid = self.openid();
        let fetch_details = self.value("details", "fetch", true, |text| match text {
            "auto" => Ok(true),
            "never" => Ok(false),
            _ => Err("is neither auto nor never".into()),
        });
        let reconcile = Reconcile {
            enabled: self.value("reconcile", "enabled", true, values::boolean),
            every: self.duration("reconcile", "every", DAY, Duration::from_secs(60)..=YEAR),
            max_delete_percent: self.number("reconcile", "max_delete_percent", 5, 0..=100),
        };
        let retention = Retention {
            events: self.duration("retention", "events", DAY * 30, DAY..=YEAR * 100),
            changes: self.duration("retention", "changes", DAY * 90, DAY..=YEAR * 100),
            deleted_members: self.duration("retention", "deleted_members", DAY * 365, DAY..=YEAR * 100),
        };
        let admin_default: SocketAddr = ([127, 0, 0, 1], 9180).into();
        let admin_listen = self.value("admin", "listen", Some(admin_default), |text| match text {
            "" => Ok(None),
            text => values::address(text).map(Some),
        });
        let notify = Notify {
            on_change_command: self.text("notify", "on_change_command"),
            robot_webhook: self.secret("notify", "robot_webhook", |_| Ok(())),
            heartbeat_url: self.text("notify", "heartbeat_url"),
            heartbeat_every: self.duration(
                "notify",
                "heartbeat_every",
                Duration::from_secs(60),
                Duration::from_secs(1)..=DAY,
            ),
        };
        let log = Log {
            level: self.value("log", "level", LevelFilter::Info, |text| {
                text.parse().map_err(|_| "is none of off, error, warn, info, debug, trace".into())
            }),
            file: self.text("log", "file").map(|path| self.relative(&path)),
        };
        let file = self.file.to_owned();
        Some(Config {
            file,
            wecom,
            callback: callback?,
            app_callback,
            database,
            openid,
            fetch_details,
            reconcile,
            retention,
            admin_listen,
            notify,
            log,
            secret_files: std::mem::take(&mut self.secret_files),
        })
    }

    fn wecom(&mut self) -> Wecom {
        let corp_id = self.value("wecom", "corp_id", None, |text| {
            let fits =
                !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            if !text.is_empty() && credential::is_placeholder(text) {
                return Err("is a placeholder; copy 企业ID from 我的企业 in the admin console".into());
            }
            if fits { Ok(Some(text.to_owned())) } else { Err("is not a corp id (企业ID)".into()) }
        });
        if corp_id.is_none() && !self.wrong.iter().any(|(_, text)| text.contains("[wecom] corp_id")) {
            self.missing("wecom", "corp_id", "copy 企业ID from 我的企业 in the admin console");
        }
        let contacts_secret = self.secret("wecom", "contacts_secret", |_| Ok(()));
        let app_secret = self.secret("wecom", "app_secret", |_| Ok(()));
        if let (Some(contacts), Some(app)) = (&contacts_secret, &app_secret)
            && contacts.expose() == app.expose()
        {
            let what = "[wecom] app_secret and contacts_secret are the same; one is of the app, the other of 通讯录同步";
            self.complain(0, what);
        }
        Wecom {
            corp_id: corp_id.unwrap_or_default(),
            contacts_secret,
            app_secret,
            api_base: self.value("wecom", "api_base", "https://qyapi.weixin.qq.com".into(), values::base_url),
            ca_file: self.ca_file(),
            proxy: self.proxy(),
            timeout: self.duration(
                "wecom",
                "timeout",
                Duration::from_secs(10),
                Duration::from_secs(1)..=Duration::from_secs(60),
            ),
            calls_per_minute: self.number("wecom", "calls_per_minute", 5000, 1..=1_000_000),
        }
    }

    fn ca_file(&mut self) -> Option<CaFile> {
        let entry = self.take("wecom", "ca_file").filter(|entry| !entry.value.is_empty())?;
        let path = self.relative(&entry.value);
        let certificates = match (self.surroundings.read_file)(&path) {
            Ok(pem) => certificates(&pem),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Err("is not PEM (openssl x509 -inform der -in FILE makes it so)".into())
            }
            Err(error) => Err(format!("cannot be read: {error}")),
        };
        match certificates {
            Ok(certificates) => Some(CaFile { path, certificates }),
            Err(what) => {
                self.complain(entry.line, &format!("[wecom] ca_file: {} {what}", path.display()));
                None
            }
        }
    }

    fn proxy(&mut self) -> Proxy {
        let Some((text, line)) = self.secret_text("wecom", "proxy").filter(|(text, _)| !text.is_empty())
        else {
            return Proxy::Environment;
        };
        if text == "none" {
            return Proxy::Direct;
        }
        if let Err(what) = parse_proxy(&text) {
            self.complain(line, &format!("[wecom] proxy: {what}"));
        }
        Proxy::Url(Secret::new(text))
    }

    fn callback(&mut self, corp_id: &str) -> Option<Callback> {
        let listen = self.value("callback", "listen", ([127, 0, 0, 1], 8080).into(), values::address);
        let path = self.value("callback", "path", "/callback".into(), url_path);
        let keys = self.keys("callback");
        let previous = self.previous("callback");
        let threads = self.number("callback", "threads", 4, 1..=256);
        let max_body = self.value("callback", "max_body", 256 * 1024, |text| {
            let size = values::size(text)?;
            let range = 1024..=16 * 1024 * 1024;
            usize::try_from(size)
                .ok()
                .filter(|size| range.contains(size))
                .ok_or("is not from 1KiB to 16MiB".into())
        });
        let receive_id = self.receive_id("callback", corp_id);
        let probe_path = self.value("callback", "probe_path", None, |text| {
            if text.is_empty() { Ok(None) } else { url_path(text).map(Some) }
        });
        let proxy_protocol = self.value("callback", "proxy_protocol", false, values::boolean);
        let threads = usize::try_from(threads).unwrap_or(1);
        Some(Callback {
            listen,
            path,
            keys: keys?,
            previous,
            threads,
            max_body,
            receive_id,
            probe_path,
            proxy_protocol,
        })
    }

    fn receive_id(&mut self, section: &'static str, corp_id: &str) -> String {
        self.text(section, "receive_id").unwrap_or_else(|| corp_id.to_owned())
    }

    fn app_callback(&mut self, corp_id: &str) -> Option<AppCallback> {
        if !self.sections.iter().any(|(section, _)| section == "callback.app") {
            return None;
        }
        let path = self.value("callback.app", "path", String::new(), url_path);
        if path.is_empty() {
            self.missing("callback.app", "path", "the path of the app's own callback URL, such as /app");
        }
        let keys = self.keys("callback.app");
        let previous = self.previous("callback.app");
        let receive_id = self.receive_id("callback.app", corp_id);
        Some(AppCallback { path, keys: keys?, previous, receive_id })
    }

    fn keys(&mut self, section: &'static str) -> Option<Keys> {
        let complaints = self.wrong.len();
        let (token, key) = (self.token(section, "token"), self.aes_key(section, "encoding_aes_key"));
        let told = self.wrong.len() > complaints;
        match (token, key) {
            (Some(token), Some(encoding_aes_key)) => return Some(Keys { token, encoding_aes_key }),
            _ if told => {}
            (token, _) => {
                let key = if token.is_none() { "token" } else { "encoding_aes_key" };
                self.missing(section, key, "copy it from where the callback URL is set in the admin console");
            }
        }
        None
    }

    /// What was in force before it was changed in the console; either half may be given alone.
    fn previous(&mut self, section: &'static str) -> Previous {
        Previous {
            token: self.token(section, "token_previous"),
            encoding_aes_key: self.aes_key(section, "encoding_aes_key_previous"),
        }
    }

    fn token(&mut self, section: &'static str, key: &str) -> Option<Secret> {
        self.secret(section, key, |text| {
            let fits = (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric());
            if fits {
                Ok(())
            } else {
                Err("is not 1 to 32 letters and digits; copy it again from the console".into())
            }
        })
    }

    fn aes_key(&mut self, section: &'static str, key: &str) -> Option<Secret> {
        self.secret(section, key, |text| {
            let n = text.chars().count();
            if n != 43 {
                return Err(format!(
                    "is {n} characters long, WeCom's have 43; copy it again from the console"
                ));
            }
            let bad = || "is not all letters and digits; copy it again from the console".to_owned();
            EncodingAesKey::parse(text).map(|_| ()).map_err(|_| bad())
        })
    }

    fn openid(&mut self) -> Openid {
        let second = Duration::from_secs(1);
        let openid = Openid {
            enabled: self.value("openid", "enabled", true, values::boolean),
            workers: usize::try_from(self.number("openid", "workers", 2, 1..=64)).unwrap_or(1),
            retry_first: self.duration("openid", "retry_first", second * 60, second..=DAY * 30),
            retry_max: self.duration("openid", "retry_max", DAY, second..=DAY * 30),
            recheck_after: self.duration(
                "openid",
                "recheck_after",
                Duration::ZERO,
                Duration::ZERO..=YEAR * 100,
            ),
        };
        if openid.retry_first > openid.retry_max {
            self.complain(0, "[openid] retry_first is longer than retry_max; make it shorter");
        }
        openid
    }

    /// Complains of what nothing asked for, and names what may have been meant.
    fn unknown(&mut self) {
        for (section, line) in self.sections.clone() {
            let known = || self.known.iter().map(|(section, _)| *section);
            if !known().any(|known| known == section) {
                let nearest =
                    known().min_by_key(|known| values::distance(known, &section)).unwrap_or("wecom");
                self.complain(line, &format!("there is no section [{section}]; did you mean [{nearest}]?"));
                self.entries.retain(|(of, _), _| *of != section);
            }
        }
        let left: Vec<Entry> = std::mem::take(&mut self.entries).into_values().collect();
        for entry in left {
            let what = if let Some((other, _)) = self.known.iter().find(|(_, key)| *key == entry.key) {
                format!("[{}] has no key {}; it belongs to [{other}]", entry.section, entry.key)
            } else {
                let here = self.known.iter().filter(|(section, _)| *section == entry.section);
                let nearest = here.map(|(_, key)| key).min_by_key(|key| values::distance(key, &entry.key));
                let nearest = nearest.map_or("", String::as_str);
                format!("[{}] has no key {}; did you mean {nearest}?", entry.section, entry.key)
            };
            self.complain(entry.line, &what);
        }
    }
}

fn url_path(text: &str) -> Result<String, String> {
    let fits = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && !b"?#%".contains(&b));
    if !fits {
        return Err("is not a path such as /callback".into());
    }
    // A slash at the end makes no difference.
    let path = text.trim_end_matches('/');
    Ok(if path.is_empty() { "/" } else { path }.to_owned())
}
