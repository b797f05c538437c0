//! Settings that are valid but risky or incomplete: `check` prints them, and the daemon logs them at its start.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use super::{Config, Proxy, StoredSecret};
use crate::wecom::api::network::host_of;

/// EncodingAESKey of the sample in WeCom's documentation, which `sync.example.ini` contains.
const PUBLISHED_KEY: &str = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C";

impl Config {
    /// One line each, most severe first. Reads file modes and the environment's proxy.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut warn = |applies: bool, text: &str| {
            if applies {
                warnings.push(text.to_owned());
            }
        };
        let (keys, app) = (&self.callback.keys, self.app_callback.as_ref().map(|app| &app.keys));
        warn(
            keys.encoding_aes_key.expose() == PUBLISHED_KEY,
            "[callback] has the key of WeCom's published sample: replace it, because it is public",
        );
        for text in self.readable_by_all() {
            warn(true, &text);
        }
        warn(
            app.is_some_and(|app| app.token.expose() == keys.token.expose()),
            "[callback] token and [callback.app] token are the same: WeCom generates one for each",
        );
        warn(
            app.is_some_and(|app| app.encoding_aes_key.expose() == keys.encoding_aes_key.expose()),
            "[callback] encoding_aes_key and [callback.app] encoding_aes_key are the same: WeCom generates one for each",
        );
        let base = &self.wecom.api_base;
        warn(
            is_plain_to_another_host(base),
            &format!(
                "[wecom] api_base {base}: secrets and tokens go over the network unencrypted; use https://"
            ),
        );
        warn(!self.openid.enabled, "[openid] enabled is no: userids are not converted to openids");
        warn(
            self.openid.enabled && self.wecom.app_secret.is_none(),
            "[wecom] app_secret is not set: userids are not converted to openids",
        );
        warn(
            self.wecom.contacts_secret.is_none(),
            "[wecom] contacts_secret is not set: no comparison with WeCom finds what callbacks missed",
        );
        match self.wecom.chosen_proxy(|name| std::env::var(name).ok()) {
            Ok(Some(proxy)) => warn(
                !matches!(self.wecom.proxy, Proxy::Url(_)),
                &format!("WeCom's API is called through the proxy of {}", proxy.source),
            ),
            Ok(None) => {}
            Err(what) => warn(true, &format!("the daemon would not start here: {what}")),
        }
        let is_open = |address: &SocketAddr| !address.ip().is_loopback();
        let listen = self.callback.listen;
        warn(
            is_open(&listen),
            &format!(
                "[callback] listen {listen} accepts other hosts: put a reverse proxy with TLS in front of it"
            ),
        );
        warn(
            is_open(&listen) && self.callback.proxy_protocol,
            "[callback] proxy_protocol is yes: every host that reaches the port can forge the client address in the log",
        );
        if let Some(address) = self.admin_listen.filter(is_open) {
            warn(
                true,
                &format!(
                    "[admin] listen {address} accepts other hosts without a password: keep it inside your network"
                ),
            );
        }
        warn(true, "without effect in this version: [retention]");
        warnings
    }

    fn readable_by_all(&self) -> Vec<String> {
        use std::os::unix::fs::PermissionsExt;
        let mut keys_of = BTreeMap::<&Path, Vec<String>>::new();
        for StoredSecret { section, key, file, .. } in &self.secrets {
            let suffix = if *file == self.file { "" } else { "_file" };
            keys_of.entry(file).or_default().push(format!("[{section}] {key}{suffix}"));
        }
        let is_readable = |file: &Path| {
            std::fs::metadata(file)
                .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o004 != 0)
        };
        let files = keys_of.into_iter().filter(|(file, _)| is_readable(file));
        let lines = files.map(|(file, keys)| {
            let (file, keys) = (file.display(), keys.join(", "));
            format!("{file}: every user of this machine can read {keys} in it; chmod o-r {file}")
        });
        lines.collect()
    }
}

fn is_plain_to_another_host(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let authority = host_of(rest);
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    let is_loopback = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    !(is_loopback || host.eq_ignore_ascii_case("localhost"))
}
