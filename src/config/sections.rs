//! Every section and key of the contract, with its default and range. The order is that in which `check` prints them.

use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use super::Notify;
use super::reader::Reader;
use super::secret::{redact_url, redact_urls};
use super::values;
use super::{
    AppCallback, Callback, Config, Database, Keys, Log, Openid, Previous, Proxy, Reconcile, Wecom, credential,
};
use crate::wecom::api::MAX_CONCURRENT_CALLS;
use crate::wecom::api::network::parse_proxy;
use crate::wecom::api::tls::certificates;
use crate::wecom::callback::crypt::EncodingAesKey;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);

impl Reader<'_> {
    /// Where it records an error, the result contains a default or an empty value.
    pub(super) fn config(&mut self) -> Config {
        let wecom = self.wecom();
        let callback = self.callback(&wecom.corp_id);
        let app_callback = self.app_callback(&wecom.corp_id);
        self.check_paths(&callback, app_callback.as_ref());
        self.section = "database";
        let database = Database {
            path: self.path("path", "directory.db"),
            mode: self.value("mode", 0o600, values::file_mode, |mode| format!("{mode:04o}")),
        };
        let openid = self.openid();
        self.section = "details";
        let fetch = self.plain("fetch", "auto".to_owned(), |text| match text {
            "auto" | "never" => Ok(text.to_owned()),
            _ => Err("is neither auto nor never".into()),
        });
        self.section = "reconcile";
        let reconcile = Reconcile {
            enabled: self.yes_no("enabled", true),
            every: self.duration("every", DAY, MINUTE..=YEAR),
            max_delete_percent: self.number("max_delete_percent", 5, 0..=100),
        };
        self.section = "retention";
        for (key, days) in [("events", 30), ("changes", 90), ("deleted_members", 365)] {
            self.duration(key, DAY * days, DAY..=YEAR * 100);
        }
        self.section = "admin";
        let admin_listen = self.optional("listen", Some(([127, 0, 0, 1], 9180).into()), values::address);
        let notify = self.notify();
        self.section = "log";
        let none_of = |_| "is none of off, error, warn, info, debug, trace".to_owned();
        let level = |text: &str| text.parse().map_err(none_of);
        let format = |text: &str| match text {
            "text" | "json" => Ok(text.to_owned()),
            _ => Err("is neither text nor json".into()),
        };
        let log = Log {
            level: self.value("level", LevelFilter::Info, level, |level| level.as_str().to_ascii_lowercase()),
            is_json: self.plain("format", "text".to_owned(), format) == "json",
            file: Some(self.path("file", "")).filter(|path| !path.as_os_str().is_empty()),
        };
        Config {
            file: self.file.to_owned(),
            wecom,
            callback,
            app_callback,
            database,
            openid,
            fetch_details: fetch == "auto",
            reconcile,
            admin_listen,
            notify,
            log,
            effective: std::mem::take(&mut self.effective),
            secrets: std::mem::take(&mut self.secrets),
        }
    }

    fn wecom(&mut self) -> Wecom {
        self.section = "wecom";
        let corp_id = self.plain("corp_id", String::new(), corp_id);
        if self.line_of("wecom", "corp_id") == 0 {
            self.missing("corp_id", "copy 企业ID from 我的企业 in the admin console");
        }
        let contacts_secret = self.secret("contacts_secret", |_| Ok(()));
        let app_secret = self.secret("app_secret", |_| Ok(()));
        if let (Some(contacts), Some(app)) = (&contacts_secret, &app_secret)
            && contacts.expose() == app.expose()
            && !app.expose().is_empty()
        {
            let what = "[wecom] app_secret and contacts_secret are the same; one is of the app, the other of 通讯录同步";
            self.error(0, what);
        }
        let api_base = self.plain("api_base", "https://qyapi.weixin.qq.com".into(), values::base_url);
        let (ca_file, authorities) = self.ca_file();
        Wecom {
            corp_id,
            contacts_secret,
            app_secret,
            api_base,
            ca_file,
            authorities,
            proxy: self.proxy(),
            timeout: self.duration("timeout", SECOND * 10, SECOND..=MINUTE),
            calls_per_minute: self.number("calls_per_minute", 5000, 1..=1_000_000),
        }
    }

    fn ca_file(&mut self) -> (Option<PathBuf>, Vec<Vec<u8>>) {
        let path = self.path("ca_file", "");
        if path.as_os_str().is_empty() {
            return (None, Vec::new());
        }
        let certificates = match (self.surroundings.read_file)(&path) {
            Ok(pem) => certificates(&pem),
            Err(_) if !self.surroundings.needs_secrets => Ok(Vec::new()),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Err("is not PEM (openssl x509 -inform der -in FILE makes it so)".into())
            }
            Err(error) => Err(format!("cannot be read: {error}")),
        };
        let certificates = certificates.unwrap_or_else(|what| {
            let line = self.line_of("wecom", "ca_file");
            self.error_of(line, "ca_file", &format!("{} {what}", path.display()));
            Vec::new()
        });
        (Some(path), certificates)
    }

    fn proxy(&mut self) -> Proxy {
        let found = self.secret_text("proxy").filter(|(text, ..)| !text.is_empty());
        self.show("proxy", found.as_ref().map_or_else(String::new, |(text, ..)| redact_url(text)));
        let Some((text, line, file)) = found else { return Proxy::Environment };
        if text == "none" {
            return Proxy::Direct;
        }
        let masked = "has *** where `check` replaced a password; write the password itself";
        let masked = if text.contains(":***@") { Err(masked.into()) } else { Ok(()) };
        if let Err(what) = parse_proxy(&text).map(|_| ()).and(masked) {
            self.error_of(line, "proxy", &what);
        }
        Proxy::Url(self.keep("proxy", file, text))
    }

    fn callback(&mut self, corp_id: &str) -> Callback {
        self.section = "callback";
        let size = |text: &str| match values::size(text)? {
            size @ 0x400..=0x0100_0000 => Ok(size),
            _ => Err("is not from 1KiB to 16MiB".into()),
        };
        let listen = self.plain("listen", ([127, 0, 0, 1], 8080).into(), values::address);
        Callback {
            listen,
            is_listen_set: self.line_of("callback", "listen") != 0,
            path: self.plain("path", "/callback".into(), values::url_path),
            keys: self.keys(),
            previous: self.previous(),
            threads: self.count("threads", 4, 1..=256),
            max_body: self.value("max_body", 256 * 1024, size, values::show_size),
            receive_id: self.receive_id(corp_id),
            probe_path: self.optional("probe_path", None, values::url_path),
            proxy_protocol: self.yes_no("proxy_protocol", false),
        }
    }

    fn app_callback(&mut self, corp_id: &str) -> Option<AppCallback> {
        self.sections.iter().find(|(name, _)| name == "callback.app")?;
        self.section = "callback.app";
        let path = self.plain("path", String::new(), values::url_path);
        if self.line_of("callback.app", "path") == 0 {
            self.missing("path", "the path of the app's own callback URL, such as /app");
        }
        let (keys, previous) = (self.keys(), self.previous());
        Some(AppCallback { path, keys, previous, receive_id: self.receive_id(corp_id) })
    }

    fn receive_id(&mut self, corp_id: &str) -> String {
        let parse = |text: &str| Ok(if text.is_empty() { corp_id } else { text }.to_owned());
        self.plain("receive_id", corp_id.to_owned(), parse)
    }

    fn check_paths(&mut self, callback: &Callback, app: Option<&AppCallback>) {
        let are_valid = self.is_valid("callback", "path") && self.is_valid("callback.app", "path");
        if are_valid && app.is_some_and(|app| app.path == callback.path) {
            self.error(0, "[callback.app] path: must differ from that of [callback]");
        }
        if let Some(probe) = &callback.probe_path
            && are_valid
            && (callback.path == *probe || app.is_some_and(|app| app.path == *probe))
        {
            let what =
                format!("probe_path: {probe} is the path of a callback; choose another, such as /ping");
            self.error(self.line_of("callback", "probe_path"), &format!("[callback] {what}"));
        }
    }

    fn keys(&mut self) -> Keys {
        let token = self.secret("token", is_token);
        let encoding_aes_key = self.secret("encoding_aes_key", is_aes_key);
        for key in ["token", "encoding_aes_key"] {
            let key_file = format!("{key}_file");
            if self.surroundings.needs_secrets
                && [key, &key_file].iter().all(|key| self.line_of(self.section, key) == 0)
            {
                let remedy = "copy it from where the callback URL is set in the admin console, or let \
                              `wecom-dirsync init` generate both keys";
                self.missing(key, remedy);
            }
        }
        Keys { token: token.unwrap_or_default(), encoding_aes_key: encoding_aes_key.unwrap_or_default() }
    }

    fn previous(&mut self) -> Previous {
        Previous {
            token: self.optional_secret("token_previous", is_token),
            encoding_aes_key: self.optional_secret("encoding_aes_key_previous", is_aes_key),
        }
    }

    fn openid(&mut self) -> Openid {
        self.section = "openid";
        let concurrent = |text: &str| match (text, text.parse()) {
            ("auto", _) => Ok(None),
            (_, Ok(number @ 1..=MAX_CONCURRENT_CALLS)) => Ok(Some(number)),
            _ => Err(format!("is neither auto nor a number from 1 to {MAX_CONCURRENT_CALLS}")),
        };
        let show_concurrent =
            |number: &Option<usize>| number.map_or_else(|| "auto".into(), |number| number.to_string());
        let openid = Openid {
            enabled: self.yes_no("enabled", true),
            max_concurrent_calls: self.value("max_concurrent_calls", None, concurrent, show_concurrent),
            retry_first: self.duration("retry_first", MINUTE, SECOND..=DAY * 30),
            retry_max: self.duration("retry_max", DAY, SECOND..=DAY * 30),
            recheck_after: self.duration("recheck_after", Duration::ZERO, Duration::ZERO..=YEAR * 100),
        };
        let are_valid = ["retry_first", "retry_max"].iter().all(|key| self.is_valid("openid", key));
        if are_valid && openid.retry_first > openid.retry_max {
            self.error(0, "[openid] retry_first is longer than retry_max; make it shorter");
        }
        openid
    }

    fn notify(&mut self) -> Notify {
        self.section = "notify";
        let any = |text: &str| Ok(text.to_owned());
        let command = self.value("on_change_command", String::new(), any, |text| redact_urls(text));
        Notify {
            on_change_command: Some(command).filter(|command| !command.is_empty()),
            robot_webhook: self.secret("robot_webhook", is_robot),
            webhook_url: self.secret("webhook_url", is_url),
            heartbeat_url: self.secret("heartbeat_url", is_url),
            heartbeat_every: self.duration("heartbeat_every", MINUTE, SECOND..=DAY),
            oldest_pending_over: self.duration("oldest_pending_over", Duration::ZERO, Duration::ZERO..=YEAR),
            no_event_for: self.duration("no_event_for", Duration::ZERO, Duration::ZERO..=YEAR),
        }
    }
}

fn is_url(text: &str) -> Result<(), String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let has_host = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', '?', '#', ':']));
    has_host.then_some(()).ok_or("is not a URL such as https://example.com/path".into())
}

/// A robot's URL, or only the key in it.
fn is_robot(text: &str) -> Result<(), String> {
    if text.contains("://") { is_url(text) } else { Ok(()) }
}

/// A corp id as WeCom issues them. An error completes "VALUE ..".
pub(crate) fn corp_id(text: &str) -> Result<String, String> {
    let fits = |b| u8::is_ascii_alphanumeric(&b) || b == b'_' || b == b'-';
    if text.is_empty() {
        return Err("is empty; copy 企业ID from 我的企业 > 企业信息 in the admin console".into());
    }
    if !text.bytes().all(fits) {
        return Err("is not a corp id (企业ID), such as ww0123456789abcdef".into());
    }
    if credential::is_placeholder(text) {
        return Err("is a placeholder; copy 企业ID from 我的企业 in the admin console".into());
    }
    Ok(text.to_owned())
}

fn is_token(text: &str) -> Result<(), String> {
    let fits = (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric());
    fits.then_some(()).ok_or("is not 1 to 32 letters and digits; copy it again from the console".into())
}

fn is_aes_key(text: &str) -> Result<(), String> {
    let n = text.chars().count();
    if n != 43 {
        return Err(format!("is {n} characters long, WeCom's have 43; copy it again from the console"));
    }
    let parsed = EncodingAesKey::parse(text).map(|_| ());
    parsed.map_err(|_| "is not all letters and digits; copy it again from the console".into())
}
