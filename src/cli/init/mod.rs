//! `init`: a configuration with new callback keys, and the ordered checklist for WeCom's console.

mod checklist;
mod write;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use super::{Failure, print};
use crate::config::completion::{find, first_callback_key, set};
use crate::config::{Config, ConfigError, PLACES, Surroundings, callback_keys, parse_corp_id, read_ini};
use crate::system_error::{Operation, explain};
use crate::text::printable;

const EXAMPLE: &str = include_str!("../../../sync.example.ini");
/// The example's first paragraph tells of a try without an account, up to this line.
const RULES: &str = "# - Comments are whole lines.";
const HEADER: &str =
    "# wecom-dirsync: made by `wecom-dirsync init`, with a Token and an EncodingAESKey of its own.\n#\n";
/// The package's folder. The service may not write the database there.
const SYSTEM_FOLDER: &str = "/etc/wecom-dirsync";
const SYSTEM_DATABASE: &str = "/var/lib/wecom-dirsync/directory.db";
/// Stands for a corp id that is still missing while the rest is validated.
const ANY_CORP_ID: &str = "ww0123456789abcdef";

pub(super) fn init(file: Option<&Path>, corp_id: Option<&str>) -> Result<(), Failure> {
    let file = file.map_or_else(default_file, Path::to_owned);
    let failure = |what: String| Failure::Other(format!("{}: {what}", file.display()));
    let existing = match read_ini(&file) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            return Err(failure(format!("cannot be read: {}", explain(Operation::ReadConfig, &error))));
        }
    };
    if let Some((key, line)) = existing.as_deref().and_then(first_callback_key) {
        return Err(failure(format!(
            "{key} is set already on line {line}, so WeCom may have these keys; nothing was changed. To begin anew, name a \
             file that does not exist: init FILE; to replace the keys, see token_previous"
        )));
    }
    let is_new = existing.is_none();
    let draft = existing.unwrap_or_else(|| new_file(&file));
    let found = find(&draft, "wecom", "corp_id").filter(|found| !found.value.is_empty());
    let corp_id = match (found, corp_id) {
        (Some(found), Some(given)) if found.value != given => {
            let what =
                format!("[wecom] corp_id on line {} differs from --corp-id; nothing was changed", found.line);
            return Err(failure(what));
        }
        (Some(found), _) => Some(found.value),
        (None, Some(given)) => {
            let parsed = parse_corp_id(given).map(Some);
            parsed.map_err(|what| Failure::Other(format!("--corp-id: {given:?} {what}")))?
        }
        (None, None) => ask_corp_id()?,
    };
    let (token, key) = callback_keys().map_err(|error| failure(format!("no random numbers: {error}")))?;
    let text = set(&draft, "wecom", "corp_id", corp_id.as_deref().unwrap_or(""));
    let text =
        set(&set(&text, "callback", "token", token.expose()), "callback", "encoding_aes_key", key.expose());
    let config = validate(&text, &file, corp_id.is_none())?;
    let ownership = write::replace(&file, &text, is_new).map_err(|error| {
        failure(format!("cannot be written: {}", explain(Operation::WriteConfig, &error)))
    })?;
    let done = if is_new { "made" } else { "completed" };
    let id = corp_id.as_ref().map_or_else(String::new, |id| format!("; corp_id is {id}"));
    print(&format!(
        "{}: {done}, with a new token and encoding_aes_key{id}\n{}\n{}",
        printable(&file.display().to_string()),
        ownership.note(&file),
        checklist::text(&config, &text, corp_id.is_some())
    ))
}

/// The file that the other commands would use, else a new one in this folder.
fn default_file() -> PathBuf {
    let places = PLACES.map(PathBuf::from);
    places.iter().find(|place| place.exists()).unwrap_or(&places[0]).clone()
}

/// The example, without its published keys.
fn new_file(file: &Path) -> String {
    let rules = EXAMPLE.find(RULES).map_or(EXAMPLE, |at| &EXAMPLE[at..]);
    let mut text = format!("{HEADER}{rules}");
    if file.parent() == Some(Path::new(SYSTEM_FOLDER)) {
        text = set(&text, "database", "path", SYSTEM_DATABASE);
    }
    // The values of the example are published.
    for (section, key) in [("wecom", "corp_id"), ("callback", "token"), ("callback", "encoding_aes_key")] {
        text = set(&text, section, key, "");
    }
    text
}

/// Every error but the missing corp id.
fn validate(text: &str, file: &Path, lacks_corp_id: bool) -> Result<Config, ConfigError> {
    let complete = lacks_corp_id.then(|| set(text, "wecom", "corp_id", ANY_CORP_ID));
    Config::parse(complete.as_deref().unwrap_or(text), file, &Surroundings::real())
}

/// Asks until the answer is a corp id or empty; asks nothing if standard input is no terminal.
fn ask_corp_id() -> Result<Option<String>, Failure> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Ok(None);
    }
    loop {
        print("corp id (企业ID, in https://work.weixin.qq.com under 我的企业 > 企业信息; empty: later): ")?;
        // Standard output is written line by line, and this line ends with the answer.
        std::io::stdout().flush()?;
        let mut line = String::new();
        input.read_line(&mut line)?;
        match line.trim() {
            "" => return Ok(None),
            id => match parse_corp_id(id) {
                Ok(id) => return Ok(Some(id)),
                Err(what) => print(&format!("{} {what}\n", printable(&format!("{id:?}"))))?,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_has_the_rules_and_no_published_value() {
        let text = new_file(Path::new("/etc/wecom-dirsync/sync.ini"));
        assert!(text.contains(&format!("#\n{RULES}")), "{text}");
        for (section, key) in [("wecom", "corp_id"), ("callback", "token"), ("callback", "encoding_aes_key")]
        {
            let published = find(EXAMPLE, section, key).unwrap().value;
            assert!(!published.is_empty() && !text.contains(&published), "{key}");
        }
        assert_eq!(find(&text, "database", "path").unwrap().value, SYSTEM_DATABASE);
        assert_eq!(find(&new_file(Path::new("sync.ini")), "database", "path"), None);
    }
}
