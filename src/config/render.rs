//! The effective configuration, for people: what holds, defaults included, secrets left out.

use std::fmt::Write;

use super::values::{show_duration, show_size};
use super::{Config, Previous, Proxy, Secret};

/// The effective configuration as INI text.
#[must_use]
pub fn render(config: &Config) -> String {
    let mut text = Text(String::new());
    text.section("wecom");
    text.line("corp_id", &config.wecom.corp_id);
    text.secret("contacts_secret", config.wecom.contacts_secret.as_ref());
    text.secret("app_secret", config.wecom.app_secret.as_ref());
    text.line("api_base", &config.wecom.api_base);
    let ca_file = config.wecom.ca_file.as_ref().map(|file| file.path.display().to_string());
    text.line("ca_file", ca_file.unwrap_or_default());
    match &config.wecom.proxy {
        Proxy::Environment => text.line("proxy", ""),
        Proxy::Direct => text.line("proxy", "none"),
        Proxy::Url(url) => text.secret("proxy", Some(url)),
    }
    text.line("timeout", show_duration(config.wecom.timeout));
    text.line("calls_per_minute", config.wecom.calls_per_minute);
    let callback = &config.callback;
    text.section("callback");
    text.line("listen", callback.listen);
    text.line("path", &callback.path);
    text.secret("token", Some(&callback.keys.token));
    text.secret("encoding_aes_key", Some(&callback.keys.encoding_aes_key));
    text.previous(&callback.previous);
    text.line("threads", callback.threads);
    text.line("max_body", show_size(u64::try_from(callback.max_body).unwrap_or(u64::MAX)));
    text.line("receive_id", &callback.receive_id);
    text.line("probe_path", callback.probe_path.as_deref().unwrap_or(""));
    text.line("proxy_protocol", yes(callback.proxy_protocol));
    if let Some(app) = &config.app_callback {
        text.section("callback.app");
        text.line("path", &app.path);
        text.secret("token", Some(&app.keys.token));
        text.secret("encoding_aes_key", Some(&app.keys.encoding_aes_key));
        text.previous(&app.previous);
        text.line("receive_id", &app.receive_id);
    }
    text.section("database");
    text.line("path", config.database.path.display());
    text.line("mode", format!("{:04o}", config.database.mode));
    text.section("openid");
    text.line("enabled", yes(config.openid.enabled));
    text.line("workers", config.openid.workers);
    text.line("retry_first", show_duration(config.openid.retry_first));
    text.line("retry_max", show_duration(config.openid.retry_max));
    text.line("recheck_after", show_duration(config.openid.recheck_after));
    text.section("details");
    text.line("fetch", if config.fetch_details { "auto" } else { "never" });
    text.section("reconcile");
    text.line("enabled", yes(config.reconcile.enabled));
    text.line("every", show_duration(config.reconcile.every));
    text.line("max_delete_percent", config.reconcile.max_delete_percent);
    text.section("retention");
    text.line("events", show_duration(config.retention.events));
    text.line("changes", show_duration(config.retention.changes));
    text.line("deleted_members", show_duration(config.retention.deleted_members));
    text.section("admin");
    text.line("listen", config.admin_listen.map_or_else(String::new, |address| address.to_string()));
    text.section("notify");
    text.line("on_change_command", config.notify.on_change_command.as_deref().unwrap_or(""));
    text.secret("robot_webhook", config.notify.robot_webhook.as_ref());
    text.line("heartbeat_url", config.notify.heartbeat_url.as_deref().unwrap_or(""));
    text.line("heartbeat_every", show_duration(config.notify.heartbeat_every));
    text.section("log");
    text.line("level", config.log.level.as_str().to_ascii_lowercase());
    text.line("file", config.log.file.as_deref().map_or_else(String::new, |path| path.display().to_string()));
    text.0
}

struct Text(String);

impl Text {
    fn section(&mut self, name: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        let _ = writeln!(self.0, "[{name}]");
    }

    fn line(&mut self, key: &str, value: impl std::fmt::Display) {
        let value = value.to_string();
        // What the reader would strip must be kept from it.
        let quoted = value.len() > 1 && value.starts_with('"') && value.ends_with('"');
        let value = if quoted || value.trim() != value { format!("\"{value}\"") } else { value };
        let _ = writeln!(self.0, "{}", format!("{key} = {value}").trim_end());
    }

    /// Only what is set.
    fn previous(&mut self, previous: &Previous) {
        for (key, secret) in
            [("token_previous", &previous.token), ("encoding_aes_key_previous", &previous.encoding_aes_key)]
        {
            if secret.is_some() {
                self.secret(key, secret.as_ref());
            }
        }
    }

    fn secret(&mut self, key: &str, secret: Option<&Secret>) {
        match secret {
            Some(secret) => self.line(key, secret),
            None => {
                let _ = writeln!(self.0, "# {key} is not set");
            }
        }
    }
}

fn yes(on: bool) -> &'static str {
    if on { "yes" } else { "no" }
}
