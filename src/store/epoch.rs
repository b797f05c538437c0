//! The epoch of the change feed: change numbers are unique only within one epoch.
//!
//! After a restore of an older copy, the database would give used numbers to other changes. The lock file, which no copy
//! contains, stores the high-water mark of each epoch; a database below its mark begins a new epoch.

use std::fs::File;
use std::os::unix::fs::FileExt;

use serde_json::{Value as Json, json};

use super::Result;
use super::connection::Connection;
use super::file::read_at_most;
use super::state::{get_state, set_state};
use crate::directory::UnixSeconds;

/// In `daemon_state`: the epoch, a random word.
const EPOCH: &str = "epoch";
/// Maximum number of epochs in the lock file.
const REMEMBERED: usize = 16;
/// Maximum length that is read from the lock file, in bytes.
const MAX_LENGTH: usize = 4096;

/// The epoch of this database; `None` before the first start of a daemon.
pub(crate) fn epoch(connection: &Connection) -> Result<Option<String>> {
    Ok(get_state(connection, EPOCH)?.and_then(|(_, epoch)| epoch.as_str().map(str::to_owned)))
}

/// The highest change number, of stored and of pruned changes.
pub(crate) fn last_change(connection: &Connection) -> Result<i64> {
    Ok(connection.ledger()?.last_change)
}

/// The content of the lock file: the highest change number of each epoch, the latest epoch first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Marks(Vec<(String, i64)>);

impl Marks {
    /// Parses lines of an epoch and a number; skips other lines.
    fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (epoch, number) = line.trim().split_once(' ')?;
            Some((epoch.to_owned(), number.trim().parse().ok()?))
        };
        Self(text.lines().filter_map(line).take(REMEMBERED).collect())
    }

    fn text(&self) -> String {
        self.0.iter().map(|(epoch, number)| format!("{epoch} {number}\n")).collect()
    }

    fn of(&self, epoch: &str) -> Option<i64> {
        self.0.iter().find(|(known, _)| known == epoch).map(|(_, number)| *number)
    }

    fn set(&mut self, epoch: &str, number: i64) {
        self.0.retain(|(known, _)| known != epoch);
        self.0.insert(0, (epoch.to_owned(), number));
        self.0.truncate(REMEMBERED);
    }
}

/// Maintains the highest change number in the lock file.
pub struct HighWaterMark {
    file: File,
    marks: Marks,
    epoch: String,
    written: i64,
    failed: bool,
}

impl HighWaterMark {
    /// Compares the database with the lock file; begins a new epoch, named by `random`, if the database has none or is an
    /// older copy.
    pub fn open(connection: &Connection, file: File, now: UnixSeconds, random: u64) -> Result<Self> {
        let marks = Marks::parse(&read(&file));
        let last = last_change(connection)?;
        let known = epoch(connection)?;
        let mark = known.as_deref().and_then(|epoch| marks.of(epoch));
        let epoch = match (known, mark) {
            (Some(epoch), mark) if mark.is_none_or(|mark| last >= mark) => epoch,
            (known, mark) => {
                let epoch = format!("{:012x}", random & 0xffff_ffff_ffff);
                set_state(connection, EPOCH, now, Some(&json!(epoch)))?;
                if let (Some(former), Some(mark)) = (known, mark) {
                    log::warn!(
                        "the database is an older copy: its last change is #{last}, that of epoch {former} was #{mark}; \
                         epoch {epoch} of the change feed begins, and consumers must read the whole directory again"
                    );
                }
                epoch
            }
        };
        let mut mark = Self { file, marks, epoch, written: last, failed: false };
        mark.write(last);
        Ok(mark)
    }

    /// Writes the highest committed number; called before the commit is acknowledged.
    pub(super) fn note(&mut self, connection: &Connection) {
        match last_change(connection) {
            Ok(last) if self.written != last => self.write(last),
            Ok(_) => {}
            Err(error) => log::debug!("the highest change number cannot be read: {error}"),
        }
    }

    fn write(&mut self, last: i64) {
        self.marks.set(&self.epoch, last);
        self.written = last;
        let text = self.marks.text();
        let written =
            self.file.write_all_at(text.as_bytes(), 0).and_then(|()| self.file.set_len(text.len() as u64));
        match written {
            Ok(()) => self.failed = false,
            Err(error) if !std::mem::replace(&mut self.failed, true) => log::warn!(
                "the highest change number cannot be written to the lock file: {error}; until it can, a restored older \
                 copy of the database is not detected"
            ),
            Err(_) => {}
        }
    }
}

fn read(file: &File) -> String {
    let mut buffer = vec![0; MAX_LENGTH];
    let length = read_at_most(file, &mut buffer).unwrap_or_else(|error| {
        log::warn!("the lock file cannot be read: {error}");
        0
    });
    buffer.truncate(length);
    String::from_utf8_lossy(&buffer).into_owned()
}

/// A consumer's position in the change feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    /// `None` accepts any epoch.
    pub epoch: Option<String>,
    /// The number of the last change that the consumer has read; 0: none.
    pub seq: i64,
}

impl std::str::FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (epoch, seq) = match text.rsplit_once(':') {
            Some((epoch, seq)) if !epoch.is_empty() => (Some(epoch.to_owned()), seq),
            Some(_) => return Err("the epoch before the colon is missing".into()),
            None => (None, text),
        };
        let seq = seq.parse().ok().filter(|seq| *seq >= 0);
        Ok(Self { epoch, seq: seq.ok_or("a position is SEQ or EPOCH:SEQ, such as 120 or 3f2a9c0d11b7:120")? })
    }
}

/// The value of `epoch` in a change's JSON object.
pub(super) fn to_json(epoch: Option<&str>) -> Json {
    epoch.map_or(Json::Null, Json::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::connection::values;
    use crate::store::open::open_in_memory;

    const NOW: UnixSeconds = UnixSeconds(1);

    fn database(last: i64) -> Connection {
        let db = open_in_memory().unwrap();
        db.execute("UPDATE ledger SET last_change = ?1", values![last]).unwrap();
        db
    }

    fn start(db: &Connection, file: &File, random: u64) -> String {
        HighWaterMark::open(db, file.try_clone().unwrap(), NOW, random).unwrap();
        epoch(db).unwrap().unwrap()
    }

    #[test]
    fn an_older_copy_begins_a_new_epoch_and_nothing_else_does() {
        let file = tempfile::tempfile().unwrap();
        let db = database(10);
        assert_eq!(start(&db, &file, 0xa), "00000000000a");
        assert_eq!(start(&db, &file, 0xb), "00000000000a", "restarted");
        let copy = database(5);
        set_state(&copy, EPOCH, NOW, Some(&json!("00000000000a"))).unwrap();
        assert_eq!(start(&copy, &file, 0xc), "00000000000c");
        assert_eq!(start(&copy, &file, 0xd), "00000000000c");
        // The former database comes back: its numbers were not used again in its epoch.
        assert_eq!(start(&db, &file, 0xe), "00000000000a");
        let other = database(1);
        set_state(&other, EPOCH, NOW, Some(&json!("0000000000ff"))).unwrap();
        assert_eq!(start(&other, &file, 0xf), "0000000000ff", "another database is taken as it is");
    }

    #[test]
    fn the_highest_number_is_noted() {
        let file = tempfile::tempfile().unwrap();
        let db = database(10);
        let mut mark = HighWaterMark::open(&db, file.try_clone().unwrap(), NOW, 1).unwrap();
        assert_eq!(read(&file), "000000000001 10\n");
        db.execute("UPDATE ledger SET last_change = 9", &[]).unwrap();
        mark.note(&db);
        assert_eq!(read(&file), "000000000001 9\n");
    }

    #[test]
    fn positions_are_numbers_with_or_without_an_epoch() {
        let parse = |text: &str| text.parse::<Position>().ok().map(|p| (p.epoch, p.seq));
        assert_eq!(parse("7"), Some((None, 7)));
        assert_eq!(parse("ab12:7"), Some((Some("ab12".into()), 7)));
        for bad in ["", ":7", "ab:", "-1", "ab:x"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
