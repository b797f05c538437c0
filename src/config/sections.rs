//! Every section and key of the contract, with its default and range. The order is that in which `check` prints them.

use std::net::SocketAddr;
use std::time::Duration;

use log::LevelFilter;

use super::reader::Reader;
use super::secret::{redact_url, redact_urls};
use super::values;
use super::{
    AppCallback, Callback, Config, Database, Keys, Log, Notify, Openid, Previous, Proxy, Reconcile,
    Retention, Wecom, credential,
};
use crate::wecom::api::network::parse_proxy;
use crate::wecom::api::tls::certificates;
use crate::wecom::callback::crypt::EncodingAesKey;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);

impl Reader<'_> {
    /// `None` if a callback's keys are missing or wrong; other errors leave a default in place.
    pub(super) fn config(&mut self) -> Option<Config> {
        let wecom = self.wecom();
        let callback = self.callback(&wecom.corp_id);
        let app_callback = self.app_callback(&wecom.corp_id);
        self.check_paths(callback.as_ref(), app_callback.as_ref());
        self.section = "database";
        let database = Database {
            path: self.path("path", Some("directory.db")).unwrap_or_default(),
            mode: self.value("mode", 0o600, values::file_mode, |mode| format!("{mode:04o}")),
        };
        let openid = self.openid();
        self.section = "details";
        let fetch_details = self.value(
            "fetch",
            true,
            |text| match text {
                "auto" => Ok(true),
                "never" => Ok(false),
                _ => Err("is neither auto nor never".into()),
            },
            |fetch| if *fetch { "auto".into() } else { "never".into() },
        );
        self.section = "reconcile";
        let reconcile = Reconcile {
            enabled: self.yes_no("enabled", true),
            every: self.duration("every", DAY, MINUTE..=YEAR),
            max_delete_percent: self.number("max_delete_percent", 5, 0..=100),
        };
        self.section = "retention";
        let retention = Retention {
            events: self.duration("events", DAY * 30, DAY..=YEAR * 100),
            changes: self.duration("changes", DAY * 90, DAY..=YEAR * 100),
            deleted_members: self.duration("deleted_members", DAY * 365, DAY..=YEAR * 100),
        };
        self.section = "admin";
        let admin_default: SocketAddr = ([127, 0, 0, 1], 9180).into();
        let admin_listen = self.value(
            "listen",
            Some(admin_default),
            |text| if text.is_empty() { Ok(None) } else { values::address(text).map(Some) },
            |address| address.map_or_else(String::new, |address| address.to_string()),
        );
        self.section = "notify";
        let notify = Notify {
            on_change_command: self.optional(
                "on_change_command",
                |text| Ok(text.to_owned()),
                |text| redact_urls(text),
            ),
            robot_webhook: self.secret("robot_webhook", |_| Ok(())),
            heartbeat_url: self.secret_url("heartbeat_url"),
            heartbeat_every: self.duration("heartbeat_every", MINUTE, SECOND..=DAY),
        };
        self.section = "log";
        let log = Log {
            level: self.value(
                "level",
                LevelFilter::Info,
                |text| text.parse().map_err(|_| "is none of off, error, warn, info, debug, trace".into()),
                |level| level.as_str().to_ascii_lowercase(),
            ),
            file: self.path("file", None),
        };
        Some(Config {
            file: self.file.to_owned(),
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
            effective: std::mem::take(&mut self.effective),
            secrets: std::mem::take(&mut self.secrets),
        })
    }

    fn wecom(&mut self) -> Wecom {
        self.section = "wecom";
        let errors = self.errors.len();
        let corp_id = self.plain("corp_id", String::new(), |text| {
            if !text.is_empty() && credential::is_placeholder(text) {
                return Err("is a placeholder; copy 企业ID from 我的企业 in the admin console".into());
            }
            let fits =
                !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            if fits { Ok(text.to_owned()) } else { Err("is not a corp id (企业ID)".into()) }
        });
        if corp_id.is_empty() && self.errors.len() == errors {
            self.missing("corp_id", "copy 企业ID from 我的企业 in the admin console");
        }
        let contacts_secret = self.secret("contacts_secret", |_| Ok(()));
        let app_secret = self.secret("app_secret", |_| Ok(()));
        if let (Some(contacts), Some(app)) = (&contacts_secret, &app_secret)
            && contacts.expose() == app.expose()
        {
            let what = "[wecom] app_secret and contacts_secret are the same; one is of the app, the other of 通讯录同步";
            self.error(0, what);
        }
        Wecom {
            corp_id,
            contacts_secret,
            app_secret,
            api_base: self.plain("api_base", "https://qyapi.weixin.qq.com".into(), values::base_url),
            authorities: self.ca_file(),
            proxy: self.proxy(),
            timeout: self.duration("timeout", SECOND * 10, SECOND..=MINUTE),
            calls_per_minute: self.number("calls_per_minute", 5000, 1..=1_000_000),
        }
    }

    fn ca_file(&mut self) -> Vec<Vec<u8>> {
        let Some(path) = self.path("ca_file", None) else { return Vec::new() };
        let certificates = match (self.surroundings.read_file)(&path) {
            Ok(pem) => certificates(&pem),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Err("is not PEM (openssl x509 -inform der -in FILE makes it so)".into())
            }
            Err(error) => Err(format!("cannot be read: {error}")),
        };
        certificates.unwrap_or_else(|what| {
            let line = self.line_of("wecom", "ca_file");
            self.error_of(line, "ca_file", &format!("{} {what}", path.display()));
            Vec::new()
        })
    }

    fn proxy(&mut self) -> Proxy {
        let found = self.secret_text("proxy").filter(|(text, ..)| !text.is_empty());
        let shown = found.as_ref().map_or_else(String::new, |(text, ..)| redact_url(text));
        self.shows("proxy", shown);
        let Some((text, line, file)) = found else { return Proxy::Environment };
        if text == "none" {
            return Proxy::Direct;
        }
        if let Err(what) = parse_proxy(&text) {
            self.error_of(line, "proxy", &what);
        } else if text.contains(":***@") {
            self.error_of(
                line,
                "proxy",
                "has *** where `check` replaced a password; write the password itself",
            );
        }
        Proxy::Url(self.keep("proxy", file, text))
    }

    fn callback(&mut self, corp_id: &str) -> Option<Callback> {
        self.section = "callback";
        let listen = self.plain("listen", ([127, 0, 0, 1], 8080).into(), values::address);
        let path = self.plain("path", "/callback".into(), values::url_path);
        let (keys, previous) = (self.keys(), self.previous());
        let threads = self.count("threads", 4, 1..=256);
        let max_body = self.value(
            "max_body",
            256 * 1024,
            |text| match values::size(text)? {
                size @ 0x400..=0x0100_0000 => Ok(size),
                _ => Err("is not from 1KiB to 16MiB".into()),
            },
            values::show_size,
        );
        let receive_id = self.receive_id(corp_id);
        let probe_path = self.optional("probe_path", values::url_path, String::clone);
        let proxy_protocol = self.yes_no("proxy_protocol", false);
        let max_body = usize::try_from(max_body).unwrap_or(usize::MAX);
        let keys = keys?;
        Some(Callback {
            listen,
            path,
            keys,
            previous,
            threads,
            max_body,
            receive_id,
            probe_path,
            proxy_protocol,
        })
    }

    fn receive_id(&mut self, corp_id: &str) -> String {
        let parse = |text: &str| Ok(if text.is_empty() { corp_id } else { text }.to_owned());
        self.plain("receive_id", corp_id.to_owned(), parse)
    }

    fn app_callback(&mut self, corp_id: &str) -> Option<AppCallback> {
        if !self.has_section("callback.app") {
            return None;
        }
        self.section = "callback.app";
        let path = self.plain("path", String::new(), values::url_path);
        if path.is_empty() {
            self.missing("path", "the path of the app's own callback URL, such as /app");
        }
        let (keys, previous) = (self.keys(), self.previous());
        let receive_id = self.receive_id(corp_id);
        Some(AppCallback { path, keys: keys?, previous, receive_id })
    }

    fn check_paths(&mut self, callback: Option<&Callback>, app: Option<&AppCallback>) {
        let Some(callback) = callback else { return };
        if app.is_some_and(|app| app.path == callback.path) {
            self.error(0, "[callback.app] path: must differ from that of [callback]");
        }
        if let Some(probe) = &callback.probe_path
            && (callback.path == *probe || app.is_some_and(|app| app.path == *probe))
        {
            let what = format!(
                "[callback] probe_path: {probe} is the path of a callback; choose another, such as /ping"
            );
            let line = self.line_of("callback", "probe_path");
            self.error(line, &what);
        }
    }

    fn keys(&mut self) -> Option<Keys> {
        let errors = self.errors.len();
        let token = self.secret("token", is_token);
        let encoding_aes_key = self.secret("encoding_aes_key", is_aes_key);
        if self.errors.len() == errors && (token.is_none() || encoding_aes_key.is_none()) {
            let key = if token.is_none() { "token" } else { "encoding_aes_key" };
            self.missing(key, "copy it from where the callback URL is set in the admin console");
        }
        Some(Keys { token: token?, encoding_aes_key: encoding_aes_key? })
    }

    fn previous(&mut self) -> Previous {
        Previous {
            token: self.optional_secret("token_previous", is_token),
            encoding_aes_key: self.optional_secret("encoding_aes_key_previous", is_aes_key),
        }
    }

    fn openid(&mut self) -> Openid {
        self.section = "openid";
        let openid = Openid {
            enabled: self.yes_no("enabled", true),
            workers: self.count("workers", 2, 1..=64),
            retry_first: self.duration("retry_first", MINUTE, SECOND..=DAY * 30),
            retry_max: self.duration("retry_max", DAY, SECOND..=DAY * 30),
            recheck_after: self.duration("recheck_after", Duration::ZERO, Duration::ZERO..=YEAR * 100),
        };
        if openid.retry_first > openid.retry_max {
            self.error(0, "[openid] retry_first is longer than retry_max; make it shorter");
        }
        openid
    }
}

fn is_token(text: &str) -> Result<(), String> {
    let fits = (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric());
    if fits {
        Ok(())
    } else {
        Err("is not 1 to 32 letters and digits; copy it again from the console".into())
    }
}

fn is_aes_key(text: &str) -> Result<(), String> {
    let n = text.chars().count();
    if n != 43 {
        return Err(format!("is {n} characters long, WeCom's have 43; copy it again from the console"));
    }
    let parsed = EncodingAesKey::parse(text).map(|_| ());
    parsed.map_err(|_| "is not all letters and digits; copy it again from the console".into())
}
