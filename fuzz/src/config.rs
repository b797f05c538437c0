//! The configuration: an operator's INI text.

use std::path::Path;

use wecom_dirsync::config::{Config, Secret, Surroundings, render};

use super::Draw;

const FILE: &str = "/etc/w/sync.ini";
const KEY: &str = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C";
/// Secrets that no output may contain.
const TOKEN: &str = "Tq7Zx2Kd9Lm4Vb";
const SECRET: &str = "s-9f3Hq2Wd8Pz5Rk";

/// The input is a whole text, the end of a valid one, or choices from which keys are composed.
pub fn check(data: &[u8]) {
    let mut draw = Draw(data);
    match draw.byte() % 4 {
        0 => {
            let given = String::from_utf8_lossy(draw.0);
            text(&given, &given);
        }
        1 => {
            let given = String::from_utf8_lossy(draw.0);
            text(&(good() + &given), &given);
        }
        _ => {
            let given = String::from_utf8_lossy(draw.0).into_owned();
            text(&compose(&mut draw), &given);
        }
    }
}

fn good() -> String {
    format!(
        "[wecom]\ncorp_id = ww1\ncontacts_secret = {SECRET}\n[callback]\ntoken = {TOKEN}\nencoding_aes_key = {KEY}\n"
    )
}

#[rustfmt::skip]
const KEYS: [(&str, &[&str]); 11] = [
    ("wecom", &["app_secret", "app_secret_file", "api_base", "timeout", "calls_per_minute"]),
    ("callback", &[
        "listen", "path", "token_previous", "encoding_aes_key_previous", "threads", "max_body", "receive_id",
    ]),
    ("callback.app", &["path", "token", "encoding_aes_key", "token_file", "encoding_aes_key_file"]),
    ("database", &["path", "mode"]),
    ("openid", &["enabled", "max_concurrent_calls", "retry_first", "retry_max", "recheck_after"]),
    ("details", &["fetch"]),
    ("reconcile", &["enabled", "every", "max_delete_percent"]),
    ("retention", &["events", "changes", "deleted_members"]),
    ("admin", &["listen"]),
    ("notify", &[
        "on_change_command", "robot_webhook", "robot_webhook_file", "webhook_url", "webhook_url_file", "heartbeat_url",
        "heartbeat_every", "oldest_pending_over", "no_event_for",
    ]),
    ("log", &["level", "file"]),
];
const USUAL: [&str; 16] = [
    "yes",
    "off",
    "1",
    "60",
    "90s",
    "24h",
    "7d",
    "64KiB",
    "0640",
    "localhost:80",
    "[::1]:0",
    "never",
    "/app",
    "https://x.y/z/",
    "debug",
    "\" x \"",
];

/// Composes keys of sections, with usual values or the input up to the next line end.
fn compose(draw: &mut Draw<'_>) -> String {
    let mut text = good().replace("[callback]", "timeout = 9s\n[callback]");
    // These two sections are already open and must not be opened again.
    let mut wecom = String::new();
    let mut callback = String::new();
    let mut others = String::new();
    while !draw.done() {
        let (section, keys) = draw.of(&KEYS);
        let part = match section {
            "wecom" => &mut wecom,
            "callback" => &mut callback,
            _ => {
                others += &format!("[{section}]\n");
                &mut others
            }
        };
        for _ in 0..1 + draw.below(3) {
            let key = draw.of(keys);
            let value = match draw.byte() {
                0..100 if key.ends_with("_file") => {
                    ["key", "token"][usize::from(key.starts_with("token"))].into()
                }
                0..100 if key.starts_with("token") => TOKEN.into(),
                0..100 if key.starts_with("encoding") => KEY.into(),
                n @ 0..100 => USUAL[usize::from(n) % USUAL.len()].into(),
                _ => String::from_utf8_lossy(draw.until(b'\n')),
            };
            *part += &format!("{key} = {value}\n");
        }
    }
    text = text.replace("timeout = 9s\n", &wecom);
    text + &callback + &others
}

fn parse(text: &str) -> Result<Config, Vec<String>> {
    let surroundings = Surroundings {
        credentials_directory: None,
        needs_secrets: true,
        read_file: Box::new(|path| match path.to_str() {
            Some("/etc/w/key") => Ok(format!("{KEY}\n")),
            Some("/etc/w/token") => Ok(format!("{TOKEN}\r\n")),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        }),
    };
    Config::parse(text, Path::new(FILE), &surroundings).map_err(|error| error.lines)
}

/// `given` is the part of the text from the input; a secret that it contains may be shown.
fn text(text: &str, given: &str) {
    let hidden = |shown: &str| {
        for secret in [TOKEN, SECRET, KEY] {
            assert!(!shown.contains(secret) || given.contains(secret), "{secret} is shown");
        }
    };
    let config = match parse(text) {
        Ok(config) => config,
        Err(lines) => {
            assert!(!lines.is_empty());
            for line in &lines {
                assert!(line.starts_with(FILE), "{line:?} does not name the file");
                assert!(!line.contains('\n'), "{line:?} is more than a line");
                hidden(line);
            }
            return;
        }
    };
    hidden(&format!("{config:?}{}", config.warnings().join("\n")));
    let shown = render(&config);
    hidden(&shown);
    // The rendered text, with the secrets inserted, is the same configuration.
    let with_secrets = put_back(&shown, &config);
    let again = parse(&with_secrets).unwrap_or_else(|wrong| panic!("{with_secrets:?} is refused: {wrong:?}"));
    assert_eq!(render(&again), shown);
    assert_eq!(secrets(&again), secrets(&config), "{with_secrets}");
}

fn put_back(shown: &str, config: &Config) -> String {
    let mut section = "";
    let mut text = String::new();
    for line in shown.lines() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
        }
        let (key, value) = line.split_once(" = ").unwrap_or((line, ""));
        let secret = config.secret(section, key).filter(|_| value == "[redacted]");
        text += &match secret {
            Some(secret) => format!("{key} = \"{}\"\n", secret.expose()),
            None => format!("{line}\n"),
        };
    }
    text
}

fn secrets(config: &Config) -> [Option<&str>; 11] {
    let all = [
        ("wecom", "contacts_secret"),
        ("wecom", "app_secret"),
        ("notify", "robot_webhook"),
        ("callback", "token"),
        ("callback", "encoding_aes_key"),
        ("callback", "token_previous"),
        ("callback", "encoding_aes_key_previous"),
        ("callback.app", "token"),
        ("callback.app", "encoding_aes_key"),
        ("callback.app", "token_previous"),
        ("callback.app", "encoding_aes_key_previous"),
    ];
    all.map(|(section, key)| config.secret(section, key).map(Secret::expose))
}
