//! Takes settings out of INI entries, one key at a time: value or default, the printed form, and every error.
//!
//! [`super::sections`] states which keys there are. A key that nothing has taken at the end is unknown.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::credential::{self, MAX_FILE};
use super::ini::{self, Entry, Ini};
use super::secret::redact_url;
use super::values::{self, show_duration};
use super::{Config, ConfigError, Secret, StoredSecret};

/// What a configuration depends on besides its text; a parameter, so that [`Config::parse`] is a function of its input.
pub struct Surroundings<'a> {
    /// `$CREDENTIALS_DIRECTORY` (systemd's LoadCredential).
    pub credentials_directory: Option<PathBuf>,
    /// Reads a secret's file. An error must not contain what is in the file, because it is printed.
    #[allow(clippy::type_complexity)]
    pub read_file: Box<dyn Fn(&Path) -> std::io::Result<String> + 'a>,
}

impl Surroundings<'_> {
    pub(super) fn real() -> Self {
        Self {
            credentials_directory: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            read_file: Box::new(|path| read_text(path, MAX_FILE)),
        }
    }
}

/// Reads a UTF-8 file of at most `max` bytes. Does not wait for the other end of a FIFO.
pub(super) fn read_text(path: &Path, max: u64) -> std::io::Result<String> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_dir() {
        return Err(std::io::Error::other("it is a directory, not a file"));
    }
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max {
        return Err(std::io::Error::other(format!("it is larger than {max} bytes")));
    }
    credential::decode(bytes).map_err(|what| std::io::Error::other(format!("it {what}")))
}

impl Config {
    /// Parses INI text. The error lists everything that is wrong, not only the first.
    ///
    /// # Errors
    /// [`ConfigError`]; it never contains the value of a secret.
    pub fn parse(text: &str, file: &Path, surroundings: &Surroundings<'_>) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(text, file, surroundings);
        let config = reader.config();
        reader.unknown();
        match config {
            Some(config) if reader.errors.is_empty() => Ok(config),
            _ => {
                reader.errors.sort();
                Err(ConfigError(reader.errors.into_iter().map(|(_, text)| text).collect()))
            }
        }
    }
}

pub(super) struct Reader<'a> {
    pub(super) file: &'a Path,
    pub(super) surroundings: &'a Surroundings<'a>,
    /// The section of the keys that are read now.
    pub(super) section: &'static str,
    entries: BTreeMap<(String, String), Entry>,
    /// Entries whose key occurred before, with the line of the first.
    duplicates: Vec<(Entry, usize)>,
    sections: Vec<(String, usize)>,
    /// Section, key and line of every key that was taken; line 0: not set.
    known: Vec<(&'static str, String, usize)>,
    pub(super) errors: Vec<(usize, String)>,
    /// Section, key and printed value of every setting; `None`: a secret that is not set.
    pub(super) effective: Vec<(&'static str, &'static str, Option<String>)>,
    pub(super) secrets: Vec<StoredSecret>,
}

impl<'a> Reader<'a> {
    fn new(text: &str, file: &'a Path, surroundings: &'a Surroundings<'a>) -> Self {
        let Ini { entries: all, sections, errors } = ini::read(text);
        let (mut entries, mut duplicates) = (BTreeMap::<_, Entry>::new(), Vec::new());
        for entry in all {
            let name = (entry.section.clone(), entry.key.clone());
            match entries.get(&name) {
                Some(first) => duplicates.push((entry, first.line)),
                None => drop(entries.insert(name, entry)),
            }
        }
        let mut reader = Self {
            file,
            surroundings,
            section: "",
            entries,
            duplicates,
            sections,
            known: Vec::new(),
            errors: Vec::new(),
            effective: Vec::new(),
            secrets: Vec::new(),
        };
        for (line, what) in errors {
            reader.error(line, &what);
        }
        reader
    }

    /// Line 0 is the file as a whole.
    pub(super) fn error(&mut self, line: usize, what: &str) {
        let file = self.file.display();
        let place = if line == 0 { format!("{file}") } else { format!("{file}:{line}") };
        self.errors.push((line, format!("{place}: {what}")));
    }

    pub(super) fn error_of(&mut self, line: usize, key: &str, what: &str) {
        self.error(line, &format!("[{}] {key}: {what}", self.section));
    }

    pub(super) fn missing(&mut self, key: &str, remedy: &str) {
        self.error(0, &format!("[{}] {key} is missing: {remedy}", self.section));
    }

    pub(super) fn has_section(&self, section: &str) -> bool {
        self.sections.iter().any(|(name, _)| name == section)
    }

    pub(super) fn take(&mut self, key: &str) -> Option<Entry> {
        let entry = self.entries.remove(&(self.section.to_owned(), key.to_owned()));
        self.known.push((self.section, key.to_owned(), entry.as_ref().map_or(0, |entry| entry.line)));
        entry
    }

    /// The line of a key that was taken.
    pub(super) fn line_of(&self, section: &str, key: &str) -> usize {
        self.known.iter().find(|(of, name, _)| *of == section && name == key).map_or(0, |(.., line)| *line)
    }

    pub(super) fn shows(&mut self, key: &'static str, value: impl std::fmt::Display) {
        self.effective.push((self.section, key, Some(value.to_string())));
    }

    /// The setting, or `default` if it is not set or wrong. `show` prints it so that `parse` reads it back.
    pub(super) fn value<T>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl Fn(&str) -> Result<T, String>,
        show: impl Fn(&T) -> String,
    ) -> T {
        let value = match self.take(key) {
            None => default,
            Some(entry) => parse(&entry.value).unwrap_or_else(|what| {
                let comment = entry.value.contains(" #") || entry.value.contains(" ;");
                let hint = if comment { "; a comment needs a line of its own" } else { "" };
                let shown: String = redact_url(&entry.value).chars().take(60).collect();
                self.error_of(entry.line, key, &format!("{shown:?} {what}{hint}"));
                default
            }),
        };
        self.shows(key, show(&value));
        value
    }

    /// A setting whose printed form is that of its type.
    pub(super) fn plain<T: std::fmt::Display>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        self.value(key, default, parse, T::to_string)
    }

    pub(super) fn number(&mut self, key: &'static str, default: u32, range: RangeInclusive<u32>) -> u32 {
        self.plain(key, default, |text| match text.parse() {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => Err(format!("is not a number from {} to {}", range.start(), range.end())),
        })
    }

    pub(super) fn count(&mut self, key: &'static str, default: u32, range: RangeInclusive<u32>) -> usize {
        usize::try_from(self.number(key, default, range)).unwrap_or(1)
    }

    pub(super) fn yes_no(&mut self, key: &'static str, default: bool) -> bool {
        let show = |yes: &bool| if *yes { "yes".into() } else { "no".into() };
        self.value(key, default, values::boolean, show)
    }

    pub(super) fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let parse = |text: &str| match values::duration(text)? {
            duration if range.contains(&duration) => Ok(duration),
            _ => {
                Err(format!("is not from {} to {}", show_duration(range.start()), show_duration(range.end())))
            }
        };
        self.value(key, default, parse, show_duration)
    }

    /// `None` if it is not set or empty.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
        show: impl Fn(&T) -> String,
    ) -> Option<T> {
        let parse = |text: &str| if text.is_empty() { Ok(None) } else { parse(text).map(Some) };
        self.value(key, None, parse, |value| value.as_ref().map_or_else(String::new, &show))
    }

    pub(super) fn path(&mut self, key: &'static str, default: Option<&str>) -> Option<PathBuf> {
        let folder = self.folder();
        let parse = |text: &str| match Some(text).filter(|text| !text.is_empty()).or(default) {
            Some(path) => Ok(Some(folder.join(path))),
            None => Ok(None),
        };
        let show =
            |path: &Option<PathBuf>| path.as_ref().map_or_else(String::new, |p| p.display().to_string());
        self.value(key, default.map(|path| folder.join(path)), parse, show)
    }

    /// Relative paths resolve from the INI file's folder.
    pub(super) fn folder(&self) -> &'a Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    /// A URL that may contain secrets; it is printed without them.
    pub(super) fn secret_url(&mut self, key: &'static str) -> Option<Secret> {
        let text = self.optional(key, |text| Ok(text.to_owned()), |url| redact_url(url))?;
        Some(self.keep(key, self.file.to_owned(), text))
    }

    /// A secret, given as KEY or by KEY_file. An error never contains its value.
    pub(super) fn secret(
        &mut self,
        key: &'static str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Option<Secret> {
        let found = self.optional_secret(key, check);
        if found.is_none() {
            self.effective.push((self.section, key, None));
        }
        found
    }

    /// As [`Self::secret`], but not printed at all where it is not set.
    pub(super) fn optional_secret(
        &mut self,
        key: &'static str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Option<Secret> {
        let (text, line, file) = self.secret_text(key)?;
        if let Err(what) = credential::validate(&text).map_err(str::to_owned).and_then(|()| check(&text)) {
            self.error_of(line, key, &what);
            return None;
        }
        self.shows(key, "[redacted]");
        Some(self.keep(key, file, text))
    }

    pub(super) fn keep(&mut self, key: &str, file: PathBuf, text: String) -> Secret {
        let value = Secret::new(text);
        self.secrets.push(StoredSecret {
            section: self.section,
            key: key.into(),
            file,
            value: value.clone(),
        });
        value
    }

    /// The text of a secret, the line that names it, and the file that contains it.
    pub(super) fn secret_text(&mut self, key: &str) -> Option<(String, usize, PathBuf)> {
        let key_file = format!("{key}_file");
        match (self.take(key), self.take(&key_file)) {
            (Some(entry), Some(file)) => {
                let what = format!("{key} is set on line {} too; keep one of them", entry.line);
                self.error_of(file.line, &key_file, &what);
                None
            }
            (Some(entry), None) => {
                Some((credential::trim(&entry.value).to_owned(), entry.line, self.file.to_owned()))
            }
            (None, Some(entry)) => {
                let path = self.secret_path(&entry.value);
                match (self.surroundings.read_file)(&path) {
                    Ok(text) => Some((credential::of_file(&text).to_owned(), entry.line, path)),
                    Err(error) => {
                        let what = format!("{} cannot be read: {error}", path.display());
                        self.error_of(entry.line, &key_file, &what);
                        None
                    }
                }
            }
            (None, None) => None,
        }
    }

    fn secret_path(&self, value: &str) -> PathBuf {
        let credential = self.surroundings.credentials_directory.as_ref().map(|folder| folder.join(value));
        match credential {
            Some(path) if Path::new(value).is_relative() && path.exists() => path,
            _ => self.folder().join(value),
        }
    }

    /// Reports sections and keys that nothing has taken. A name is printed only if it is close to a known one, because
    /// a line that is no setting may be a part of a secret.
    fn unknown(&mut self) {
        let known = std::mem::take(&mut self.known);
        let names = || known.iter().map(|(section, ..)| *section);
        for (section, line) in std::mem::take(&mut self.sections) {
            if names().any(|name| name == section) {
                continue;
            }
            let what = match closest(&section, names()) {
                Some(name) => format!("there is no section [{section}]; did you mean [{name}]?"),
                None => format!("there is no section of this name; there are {}", listed(names(), "[", "]")),
            };
            self.error(line, &what);
            self.entries.retain(|(of, _), _| *of != section);
        }
        for entry in std::mem::take(&mut self.entries).into_values() {
            let Entry { section, key, line, .. } = entry;
            let here = || known.iter().filter(|(of, ..)| *of == section).map(|(_, key, _)| key.as_str());
            let elsewhere = closest(&key, known.iter().map(|(_, key, _)| key.as_str()));
            let owner = elsewhere.and_then(|name| known.iter().find(|(_, key, _)| key == name));
            let what = match (closest(&key, here()), owner) {
                (_, Some((of, name, _))) if *name == key => {
                    format!("[{section}] has no key {key}; it belongs to [{of}]")
                }
                (Some(name), _) => format!("[{section}] has no key {key}; did you mean {name}?"),
                (_, Some((of, name, _))) => {
                    format!("[{section}] has no key {key}; did you mean {name}, which belongs to [{of}]?")
                }
                _ => {
                    let keys = listed(here().filter(|key| !key.ends_with("_file")), "", "");
                    format!("[{section}] has no key of this name; it has {keys}")
                }
            };
            self.error(line, &what);
        }
        for (Entry { section, key, line, .. }, first) in std::mem::take(&mut self.duplicates) {
            let is_known = known.iter().any(|(of, name, _)| *of == section && *name == key);
            let name = if is_known { format!("[{section}] {key}: ") } else { String::new() };
            self.error(
                line,
                &format!("{name}duplicate key: already set on line {first}; delete one of them"),
            );
        }
    }
}

/// The known name with the fewest edits, if so few that a typing error explains them.
fn closest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let nearest =
        known.map(|known| (strsim::levenshtein(name, known), known)).min_by_key(|(edits, _)| *edits);
    nearest.filter(|(edits, known)| *edits <= 1 + known.len() / 3).map(|(_, known)| known)
}

fn listed<'a>(names: impl Iterator<Item = &'a str>, before: &str, after: &str) -> String {
    let mut names: Vec<_> = names.map(|name| format!("{before}{name}{after}")).collect();
    names.dedup();
    names.join(", ")
}
