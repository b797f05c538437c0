//! What SQLite leaves of deleted rows in the files.

use std::path::Path;
use std::time::{Duration, Instant};

use memchr::memmem::Finder;

use crate::store::connection::Connection;
use crate::store::error::StoreError;
use crate::store::file::{open_for_good, read_chunk};
use crate::store::sqlite::file_watch::truncate_wal;

/// Length of the pieces in which a file is searched.
const CHUNK: usize = 1024 * 1024;
/// Time for readers to end, so that the WAL can be emptied.
const READERS_END: Duration = Duration::from_secs(10);

/// Removes what SQLite left of deleted rows: empties the WAL, searches the file for `traces`, and rewrites it if it has any.
/// True if it was rewritten.
pub(crate) fn clean_files(
    connection: &Connection,
    path: &Path,
    traces: &[String],
) -> Result<bool, StoreError> {
    empty_wal(connection)?;
    if !contains_any(path, traces).map_err(StoreError::cannot_open(path))? {
        return Ok(false);
    }
    connection.sqlite().busy_timeout(READERS_END)?;
    connection.script("VACUUM")?;
    empty_wal(connection)?;
    Ok(true)
}

fn empty_wal(connection: &Connection) -> Result<(), StoreError> {
    let until = Instant::now() + READERS_END;
    while !truncate_wal(connection)? {
        if Instant::now() > until {
            return Err(StoreError::Locked.with_holders(connection.path()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Whether the file contains one of the texts, ignoring the case of ASCII letters.
fn contains_any(path: &Path, texts: &[String]) -> std::io::Result<bool> {
    let texts: Vec<Vec<u8>> = texts.iter().map(|text| text.to_ascii_lowercase().into_bytes()).collect();
    let finders: Vec<Finder<'_>> = texts.iter().map(Finder::new).collect();
    let overlap = texts.iter().map(Vec::len).max().unwrap_or(0);
    let file = open_for_good(path)?;
    let mut buffer = vec![0; CHUNK + overlap];
    let mut at = 0;
    loop {
        let length = read_chunk(&file, &mut buffer, at)?;
        let chunk = buffer.get_mut(..length).unwrap_or_default();
        chunk.make_ascii_lowercase();
        if finders.iter().any(|finder| finder.find(chunk).is_some()) {
            return Ok(true);
        }
        if length < CHUNK + overlap {
            return Ok(false);
        }
        at += CHUNK as u64;
    }
}
