//! Takes settings out of INI entries, one key at a time: value or default, the printed form, and every error.
//!
//! [`super::sections`] states which keys there are. A key that nothing has taken at the end is unknown.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use strsim::osa_distance;

use super::credential::{self, MAX_FILE};
use super::ini::{self, Entry};
use super::secret::redact_url;
use super::values::{self, show_duration};
use super::{Config, ConfigError, Secret, StoredSecret};

/// What a configuration depends on besides its text; a parameter, so that [`Config::parse`] is a function of its input.
pub struct Surroundings<'a> {
    /// `$CREDENTIALS_DIRECTORY` (systemd's LoadCredential).
    pub credentials_directory: Option<PathBuf>,
    /// Whether a secret that is missing or cannot be read is an error.
    pub needs_secrets: bool,
    /// Reads a secret's file. An error must not contain what is in the file, because it is printed.
    #[allow(clippy::type_complexity)]
    pub read_file: Box<dyn Fn(&Path) -> std::io::Result<String> + 'a>,
}

impl Surroundings<'_> {
    /// Those of this process.
    pub(crate) fn real() -> Self {
        Self {
            credentials_directory: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            needs_secrets: true,
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
        reader.report_unknown();
        reader.report_duplicates();
        if reader.errors.is_empty() {
            return Ok(config);
        }
        // What is missing in the file as a whole may follow from an error on a line.
        reader.errors.sort_by_key(|(line, _)| (*line == 0, *line));
        let is_denied = reader.denied == reader.errors.len();
        Err(ConfigError { lines: reader.errors.into_iter().map(|(_, text)| text).collect(), is_denied })
    }
}

type Key = &'static str;
/// An error completes "KEY: "VALUE" ..".
pub(super) type Parsed<T> = Result<T, String>;

pub(super) struct Reader<'a> {
    pub(super) file: &'a Path,
    pub(super) surroundings: &'a Surroundings<'a>,
    /// The section of the keys that are read now.
    pub(super) section: Key,
    entries: BTreeMap<(String, String), Entry>,
    /// Repeated keys, with the line of the first occurrence.
    duplicates: Vec<(Entry, usize)>,
    pub(super) sections: Vec<(String, usize)>,
    /// Section, key and line of every key that was taken; line 0: not set.
    known: Vec<(Key, String, usize)>,
    pub(super) errors: Vec<(usize, String)>,
    /// How many of them are files that this process may not read.
    denied: usize,
    /// Section, key and printed value of every setting; `None`: a secret that is not set.
    pub(super) effective: Vec<(Key, Key, Option<String>)>,
    pub(super) secrets: Vec<StoredSecret>,
}

impl<'a> Reader<'a> {
    fn new(text: &str, file: &'a Path, surroundings: &'a Surroundings<'a>) -> Self {
        let ini = ini::read(text);
        let mut reader = Self {
            file,
            surroundings,
            section: "",
            entries: BTreeMap::new(),
            duplicates: Vec::new(),
            sections: ini.sections,
            known: Vec::new(),
            errors: Vec::new(),
            denied: 0,
            effective: Vec::new(),
            secrets: Vec::new(),
        };
        for entry in ini.entries {
            let name = (entry.section.clone(), entry.key.clone());
            match reader.entries.get(&name) {
                Some(first) => reader.duplicates.push((entry, first.line)),
                None => drop(reader.entries.insert(name, entry)),
            }
        }
        for (line, what) in ini.errors {
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

    fn take(&mut self, key: &str) -> Option<Entry> {
        let entry = self.entries.remove(&(self.section.to_owned(), key.to_owned()));
        self.known.push((self.section, key.to_owned(), entry.as_ref().map_or(0, |entry| entry.line)));
        entry
    }

    /// The line of a key that was taken.
    pub(super) fn line_of(&self, section: &str, key: &str) -> usize {
        self.known.iter().find(|(of, name, _)| *of == section && name == key).map_or(0, |(.., line)| *line)
    }

    /// Whether a key that was taken has no error, so that its value is not a substitute.
    pub(super) fn is_valid(&self, section: &str, key: &str) -> bool {
        let line = self.line_of(section, key);
        line == 0 || self.errors.iter().all(|(of, _)| *of != line)
    }

    pub(super) fn show(&mut self, key: Key, value: impl Into<Option<String>>) {
        self.effective.push((self.section, key, value.into()));
    }

    /// The setting, or `default` if it is not set or wrong. `show` prints it so that `parse` reads it back.
    pub(super) fn value<T>(
        &mut self,
        key: Key,
        default: T,
        parse: impl Fn(&str) -> Parsed<T>,
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
        self.show(key, show(&value));
        value
    }

    /// A setting that is printed as its type prints itself.
    pub(super) fn plain<T: Display>(&mut self, key: Key, default: T, parse: impl Fn(&str) -> Parsed<T>) -> T {
        self.value(key, default, parse, T::to_string)
    }

    /// `None` if it is empty.
    pub(super) fn optional<T: Display>(
        &mut self,
        key: Key,
        default: Option<T>,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> Option<T> {
        let parse = |text: &str| if text.is_empty() { Ok(None) } else { parse(text).map(Some) };
        self.value(key, default, parse, |value| value.as_ref().map_or_else(String::new, T::to_string))
    }

    pub(super) fn number(&mut self, key: Key, default: u32, range: RangeInclusive<u32>) -> u32 {
        self.plain(key, default, |text| {
            let number = text.parse().ok().filter(|number| range.contains(number));
            number.ok_or_else(|| format!("is not a number from {} to {}", range.start(), range.end()))
        })
    }

    pub(super) fn count(&mut self, key: Key, default: u32, range: RangeInclusive<u32>) -> usize {
        usize::try_from(self.number(key, default, range)).unwrap_or(1)
    }

    pub(super) fn yes_no(&mut self, key: Key, default: bool) -> bool {
        self.value(key, default, values::boolean, |yes| if *yes { "yes".into() } else { "no".into() })
    }

    pub(super) fn duration(
        &mut self,
        key: Key,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let parse = |text: &str| {
            let duration = Some(values::duration(text)?).filter(|duration| range.contains(duration));
            let [min, max] = [range.start(), range.end()].map(show_duration);
            duration.ok_or_else(|| format!("is not from {min} to {max}"))
        };
        self.value(key, default, parse, show_duration)
    }

    /// A path, relative to the INI file's folder; an empty one is the default, which may be empty itself.
    pub(super) fn path(&mut self, key: Key, default: &str) -> PathBuf {
        let folder = self.folder();
        let resolve = |text: &str| match [text, default].into_iter().find(|path| !path.is_empty()) {
            Some(path) => folder.join(path),
            None => PathBuf::new(),
        };
        self.value(key, resolve(""), |text| Ok(resolve(text)), |path| path.display().to_string())
    }

    fn folder(&self) -> &'a Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    /// A secret, given as KEY or by KEY_file. An error never contains its value.
    pub(super) fn secret(&mut self, key: Key, check: fn(&str) -> Parsed<()>) -> Option<Secret> {
        let found = self.optional_secret(key, check);
        if found.is_none() {
            self.show(key, None);
        }
        found
    }

    /// As [`Self::secret`], but `check` prints nothing where it is not set.
    pub(super) fn optional_secret(&mut self, key: Key, check: fn(&str) -> Parsed<()>) -> Option<Secret> {
        let (text, line, file) = self.secret_text(key)?;
        if text.is_empty() && !self.surroundings.needs_secrets {
            self.show(key, "[redacted]".to_owned());
            return Some(Secret::default());
        }
        if let Err(what) = credential::validate(&text).map_err(str::to_owned).and_then(|()| check(&text)) {
            self.error_of(line, key, &what);
            return None;
        }
        self.show(key, "[redacted]".to_owned());
        Some(self.keep(key, file, text))
    }

    pub(super) fn keep(&mut self, key: Key, file: PathBuf, text: String) -> Secret {
        let value = Secret::new(text);
        self.secrets.push(StoredSecret { section: self.section, key, file, value: value.clone() });
        value
    }

    /// The text of a secret, the line that names it, and the file that contains it.
    pub(super) fn secret_text(&mut self, key: &str) -> Option<(String, usize, PathBuf)> {
        let key_file = format!("{key}_file");
        let (direct, by_file) = (self.take(key), self.take(&key_file));
        if let (Some(direct), Some(by_file)) = (&direct, &by_file) {
            let what = format!("{key} is set on line {} too; keep one of them", direct.line);
            self.error_of(by_file.line, &key_file, &what);
            return None;
        }
        if let Some(Entry { value, line, .. }) = direct {
            return Some((credential::trim(&value).to_owned(), line, self.file.to_owned()));
        }
        let Entry { value, line, .. } = by_file?;
        let path = self.secret_path(&value);
        match (self.surroundings.read_file)(&path) {
            Ok(text) => Some((credential::of_file(&text).to_owned(), line, path)),
            Err(_) if !self.surroundings.needs_secrets => Some((String::new(), line, path)),
            Err(error) => {
                // A secret in place of its path must not be printed.
                let is_path = value.len() < 32 || value.contains(['/', '.']);
                let path = if is_path { path.display().to_string() } else { "the file".into() };
                self.denied += usize::from(error.kind() == std::io::ErrorKind::PermissionDenied);
                self.error_of(line, &key_file, &format!("{path} cannot be read: {error}"));
                None
            }
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
    fn report_unknown(&mut self) {
        let known = self.known.clone();
        for (name, line) in std::mem::take(&mut self.sections) {
            if known.iter().any(|(section, ..)| *section == name) {
                continue;
            }
            let nearest = known.iter().map(|(section, ..)| (edits(section, &name), section)).min();
            let what = match nearest {
                Some((edits, section)) if is_typo(edits, section) => {
                    format!("there is no section [{name}]; did you mean [{section}]?")
                }
                _ => {
                    let mut names: Vec<_> =
                        known.iter().map(|(section, ..)| format!("[{section}]")).collect();
                    names.dedup();
                    format!("there is no section of this name; there are {}", names.join(", "))
                }
            };
            // A line that is written wrongly has its error already.
            if self.errors.iter().all(|(of, _)| *of != line) {
                self.error(line, &what);
            }
            self.entries.retain(|(section, _), _| *section != name);
        }
        for Entry { section, key, line, .. } in std::mem::take(&mut self.entries).into_values() {
            let nearest = known.iter().map(|(of, name, _)| (edits(name, &key), *of != section, of, name));
            let what = match nearest.min() {
                Some((edits, false, _, name)) if is_typo(edits, name) => {
                    format!("has no key {key}; did you mean {name}?")
                }
                Some((edits, true, of, name)) if is_typo(edits, name) => {
                    format!("has no key {key}; did you mean [{of}] {name}?")
                }
                _ => {
                    let here =
                        known.iter().filter(|(of, name, _)| *of == section && !name.ends_with("_file"));
                    let names: Vec<_> = here.map(|(_, name, _)| name.as_str()).collect();
                    format!("has no key of this name; it has {}", names.join(", "))
                }
            };
            self.error(line, &format!("[{section}] {what}"));
        }
    }

    fn report_duplicates(&mut self) {
        for (Entry { section, key, line, .. }, first) in std::mem::take(&mut self.duplicates) {
            let known = self.known.iter().any(|(of, name, _)| *of == section && *name == key);
            let name = if known { format!("[{section}] {key}: ") } else { String::new() };
            let what = format!("{name}duplicate key: already set on line {first}; delete one of them");
            self.error(line, &what);
        }
    }
}

/// Edits between a known name and a given one, in any case; two neighbours that are swapped are one edit.
fn edits(known: &str, given: &str) -> usize {
    osa_distance(known, &given.to_lowercase())
}

/// Whether so few edits make a known name that a typing error explains them.
fn is_typo(edits: usize, known: &str) -> bool {
    edits <= (known.len() / 3).clamp(1, 3)
}
