//! Which settings take effect by a reload, and which need a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Config, StoredSecret};

/// Settings that a reload applies.
const LIVE: [(&str, &[&str]); 6] = [
    ("wecom", &["contacts_secret", "app_secret", "calls_per_minute"]),
    (
        "callback",
        &[
            "token",
            "encoding_aes_key",
            "token_previous",
            "encoding_aes_key_previous",
            "receive_id",
            "max_body",
        ],
    ),
    (
        "callback.app",
        &["token", "encoding_aes_key", "token_previous", "encoding_aes_key_previous", "receive_id"],
    ),
    ("openid", &["max_concurrent_calls", "retry_first", "retry_max", "recheck_after"]),
    ("reconcile", &["every", "max_delete_percent"]),
    ("log", &["level", "format", "file"]),
];

/// Settings that differ between two configurations, as `[section] key`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    /// Those that a reload applies.
    pub live: Vec<String>,
    /// Those that need a restart.
    pub restart: Vec<String>,
}

type Values<'a> = BTreeMap<(&'static str, &'static str), (Option<&'a str>, Option<&'a str>)>;

impl Config {
    /// What differs in `new`. A secret or an app's callback that is added or removed needs a restart, because parts of the
    /// daemon start with it.
    #[must_use]
    pub fn differences(&self, new: &Self) -> Differences {
        let (before, after) = (self.values(), new.values());
        let mut differences = Differences::default();
        for name @ (section, key) in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
            let (old, now) = (before.get(name), after.get(name));
            if old == now {
                continue;
            }
            let is_live = LIVE.iter().any(|(of, keys)| of == section && keys.contains(key));
            let is_set = |value: Option<&(Option<&str>, _)>| value.is_some_and(|(shown, _)| shown.is_some());
            let starts_a_part = match *section {
                "wecom" => is_set(old) != is_set(now),
                "callback.app" => self.app_callback.is_some() != new.app_callback.is_some(),
                _ => false,
            };
            let list =
                if is_live && !starts_a_part { &mut differences.live } else { &mut differences.restart };
            list.push(format!("[{section}] {key}"));
        }
        if self.wecom.authorities != new.wecom.authorities {
            differences.restart.push("[wecom] ca_file".to_owned());
            differences.restart.dedup();
        }
        differences
    }

    /// Printed value of each setting, and the text of a secret.
    fn values(&self) -> Values<'_> {
        let settings = self.effective.iter();
        settings
            .map(|(section, key, shown)| {
                let secret = self.secret(section, key).map(|secret| secret.expose());
                ((*section, *key), (shown.as_deref(), secret))
            })
            .collect()
    }

    /// Keys whose file beside the INI is newer than the copy that the service manager made at the start
    /// (`$CREDENTIALS_DIRECTORY`).
    #[must_use]
    pub fn changed_credentials(&self) -> Vec<String> {
        let Some(folder) = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from) else {
            return Vec::new();
        };
        let is_newer = |stored: &&StoredSecret| {
            let name = stored.file.strip_prefix(&folder).ok();
            let source = name.map(|name| self.file.parent().unwrap_or(Path::new("")).join(name));
            source.is_some_and(|source| changed_at(&source) > changed_at(&stored.file))
        };
        let newer = self.secrets.iter().filter(is_newer);
        newer.map(|StoredSecret { section, key, .. }| format!("[{section}] {key}_file")).collect()
    }
}

/// The last change of the content or of the file, in nanoseconds: a file that was moved here keeps its time of modification.
fn changed_at(path: &Path) -> Option<(i64, i64)> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(path).ok()?;
    Some((found.ctime(), found.ctime_nsec()).max((found.mtime(), found.mtime_nsec())))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Surroundings;

    const BEGIN: &str = "[wecom]\ncorp_id = ww1\n";
    const CALLBACK: &str =
        "[callback]\ntoken = T1\nencoding_aes_key = jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C\n";

    fn config(wecom: &str, more: &str) -> Config {
        let surroundings = Surroundings {
            credentials_directory: None,
            needs_secrets: true,
            read_file: Box::new(|_| Err(std::io::ErrorKind::NotFound.into())),
        };
        let text = format!("{BEGIN}{wecom}\n{CALLBACK}{more}\n");
        Config::parse(&text, Path::new("/etc/w/sync.ini"), &surroundings).unwrap()
    }

    #[test]
    fn a_reload_takes_secrets_rates_and_limits_and_names_the_rest() {
        let old = config("app_secret = abc", "");
        assert_eq!(old.differences(&old), Differences::default());
        let differences = |wecom: &str, more: &str| {
            let Differences { live, restart } = old.differences(&config(wecom, more));
            (live.join(" "), restart.join(" "))
        };
        let live = |names: &str| (names.to_owned(), String::new());
        let restart = |names: &str| (String::new(), names.to_owned());
        assert_eq!(differences("app_secret = abd", ""), live("[wecom] app_secret"));
        assert_eq!(
            differences("", ""),
            restart("[wecom] app_secret"),
            "the converter does not run without one"
        );
        assert_eq!(differences("app_secret = abc", "token_previous = T0"), live("[callback] token_previous"));
        assert_eq!(differences("app_secret = abc", "threads = 5"), restart("[callback] threads"));
        let both = differences("app_secret = abc", "[log]\nlevel = debug\n[admin]\nlisten =");
        assert_eq!(both, ("[log] level".to_owned(), "[admin] listen".to_owned()));
    }

    #[test]
    fn live_keys_exist() {
        let config = config(
            "app_secret = abc",
            "[callback.app]\npath = /a\ntoken = T2\nencoding_aes_key = \
            kWxPEV2UEDyxWpmPdKC3F4dgPDmOvfKX1HGnEUDS1aR\n",
        );
        let values = config.values();
        for (section, keys) in LIVE {
            for key in keys.iter().filter(|key| !key.ends_with("_previous")) {
                assert!(values.contains_key(&(section, *key)), "[{section}] {key}");
            }
        }
    }
}
