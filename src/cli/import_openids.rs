//! `import-openids`: openids that are known from elsewhere, from a CSV file with the columns userid and openid.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Failure, load, print};
use crate::directory::UserId;
use crate::store::import::{Imported, import_openid};
use crate::store::open::open_beside;
use crate::text::printable;
use crate::unix_time::unix_now;

/// Lines of one commit: callbacks commit in between.
const BATCH: usize = 100;
/// Length of the longest accepted openid.
const MAX_OPENID: usize = 128;

/// A line of the file.
struct Line {
    number: u64,
    userid: UserId,
    openid: String,
}

pub(super) fn import_openids(path: Option<&Path>, csv: &Path, dry_run: bool) -> Result<(), Failure> {
    let config = load(path)?;
    let lines = read(csv)?;
    let connection = open_beside(&config.database.path)?;
    let (mut new, mut known, mut refused) = (0, 0, 0);
    // In a dry run, openids that earlier lines would give.
    let mut given: BTreeMap<String, UserId> = BTreeMap::new();
    for batch in lines.chunks(BATCH) {
        let mut text = String::new();
        connection.transaction(|connection| -> crate::store::Result<()> {
            for Line { number, userid, openid } in batch {
                let imported = match given.get(openid) {
                    Some(other) if other != userid => Imported::HeldBy(vec![other.as_str().to_owned()]),
                    _ => import_openid(connection, userid, openid, dry_run, unix_now())?,
                };
                let why = match imported {
                    Imported::New => {
                        new += 1;
                        given.insert(openid.clone(), userid.clone());
                        continue;
                    }
                    Imported::Known => {
                        known += 1;
                        continue;
                    }
                    Imported::UnknownUserid => "no present member has this userid".to_owned(),
                    Imported::HasAnother(other) => format!("clash: the member has openid={other}"),
                    Imported::HeldBy(others) => {
                        format!("clash: openid={openid} belongs to userid={}", others.join(","))
                    }
                };
                refused += 1;
                text.push_str(&format!("line {number}: userid={userid}: {}\n", printable(&why)));
            }
            Ok(())
        })?;
        print(&text)?;
    }
    let verb = if dry_run { "would be imported" } else { "imported" };
    print(&format!("{new} {verb}, {known} known already, {refused} not imported\n"))?;
    if refused > 0 {
        return Err(Failure::Other(format!("{refused} of {} lines were not imported", lines.len())));
    }
    Ok(())
}

/// Reads all lines before any is imported. The first may be a header.
fn read(path: &Path) -> Result<Vec<Line>, Failure> {
    let at = |what: String| Failure::Other(format!("{}: {what}", path.display()));
    let text = std::fs::read(path).map_err(|error| at(format!("cannot be read: {error}")))?;
    let text = String::from_utf8(text)
        .map_err(|_| at("is not UTF-8; save it from Excel as \"CSV UTF-8\"".into()))?;
    // Else the numbers of lines are wrong.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text).replace("\r\n", "\n");
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let mut lines = Vec::new();
    for (n, record) in reader.records().enumerate() {
        let record = record.map_err(|error| at(error.to_string()))?;
        let number = record.position().map_or(0, csv::Position::line);
        let columns: Vec<&str> = record.iter().collect();
        if n == 0 && columns.first().is_some_and(|first| first.eq_ignore_ascii_case("userid")) {
            continue;
        }
        let &[userid, openid] = columns.as_slice() else {
            let count = columns.len();
            return Err(at(format!(
                "line {number} has {count} columns; a line is userid,openid. Nothing was imported"
            )));
        };
        let userid =
            UserId::parse(userid).map_err(|bad| at(format!("line {number}: {bad}. Nothing was imported")))?;
        let fits = (1..=MAX_OPENID).contains(&openid.len())
            && openid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !fits {
            return Err(at(format!(
                "line {number}: this is no openid: 1 to {MAX_OPENID} letters, digits and -_. Nothing was imported"
            )));
        }
        lines.push(Line { number, userid, openid: openid.to_owned() });
    }
    Ok(lines)
}
