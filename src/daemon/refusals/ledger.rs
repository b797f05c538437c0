//! Selects the refusals that are logged, and counts all for the table. Pure.
//!
//! Each pair of cause and path has at most one line a minute. Strangers choose the paths, so few unknown ones are
//! tracked at a time; all others count as one. A request with msg_signature and echostr is always logged: an
//! administrator saves the URL in the console and reads the log.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::directory::UnixSeconds;
use crate::gate::without_slash;
use crate::store::refusals::RefusalRow;
use crate::text::printable;

/// Minimum interval between two lines for a pair of cause and path.
const LINE_INTERVAL: Duration = Duration::from_secs(60);
/// Lines in that interval for requests with msg_signature and echostr: no administrator saves a URL so often.
const VERIFICATIONS: u32 = 300;
/// Unknown paths that are tracked at a time: of requests with msg_signature, and of others.
const UNKNOWN_PATHS: usize = 10;
/// Time without a request after which an unknown path is no longer tracked.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);
/// Characters of a path or an address list that are shown.
const MAX_SHOWN: usize = 100;
/// Pairs of cause and path that are tracked at a time.
const MAX_PAIRS: usize = 256;
/// The path of a request without a request line.
const NO_PATH: &str = "-";
/// Stands for all paths that are not tracked.
const OTHER_PATHS: &str = "(other)";

/// A refused request and the reason.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refused<'a> {
    pub status: u16,
    /// The stable name of the reason.
    pub cause: &'static str,
    /// Without the query; empty if there was no request line.
    pub path: &'a str,
    /// Whether the query has msg_signature.
    pub is_signed: bool,
    /// Whether the query has msg_signature and echostr.
    pub is_verification: bool,
    /// Address and port, as the gate sees them.
    pub peer: &'a str,
    pub forwarded_for: Option<&'a str>,
}

/// A log line to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Escaped, of at most 100 characters.
    pub(super) path: String,
    /// Lines of this pair that were suppressed since the last one.
    pub(super) more: u64,
    /// Whether the next verifications of this minute have no line.
    pub(super) is_last: bool,
}

type Pair = (&'static str, String);

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// The configured callback paths, always tracked.
    known: Vec<String>,
    signed: HashMap<String, Instant>,
    unsigned: HashMap<String, Instant>,
    lines: HashMap<Pair, (Instant, u64)>,
    verifications: Option<(Instant, u32)>,
    pending: HashMap<Pair, RefusalRow>,
}

impl Ledger {
    pub(super) fn new(known: Vec<String>) -> Self {
        Self { known, ..Self::default() }
    }

    /// Counts a refusal; returns the line to log, if any.
    pub(super) fn note(&mut self, refused: &Refused<'_>, now: Instant, at: UnixSeconds) -> Option<Line> {
        let shown = if refused.path.is_empty() { NO_PATH.to_owned() } else { short(refused.path) };
        let pair = (refused.cause, self.tracked(refused, &shown, now));
        self.count(pair.clone(), refused, at);
        if refused.is_verification {
            return self.verification(shown, now);
        }
        let lines = &mut self.lines;
        if lines.len() >= MAX_PAIRS && !lines.contains_key(&pair) {
            lines.retain(|_, (last, _)| now.saturating_duration_since(*last) < LINE_INTERVAL);
        }
        let pair = if lines.len() < MAX_PAIRS || lines.contains_key(&pair) { pair } else { other(&pair) };
        let path = pair.1.clone();
        match lines.get_mut(&pair) {
            Some((last, more)) if now.saturating_duration_since(*last) < LINE_INTERVAL => {
                *more = more.saturating_add(1);
                None
            }
            earlier => {
                let more = earlier.map_or(0, |(_, more)| *more);
                lines.insert(pair, (now, 0));
                Some(Line { path, more, is_last: false })
            }
        }
    }

    fn verification(&mut self, path: String, now: Instant) -> Option<Line> {
        let fresh =
            self.verifications.filter(|(since, _)| now.saturating_duration_since(*since) < LINE_INTERVAL);
        let (since, before) = fresh.unwrap_or((now, 0));
        self.verifications = Some((since, before.saturating_add(1)));
        let is_last = before.saturating_add(1) == VERIFICATIONS;
        (before < VERIFICATIONS).then_some(Line { path, more: 0, is_last })
    }

    /// The path if it is configured or tracked, else [`OTHER_PATHS`].
    fn tracked(&mut self, refused: &Refused<'_>, shown: &str, now: Instant) -> String {
        let path = without_slash(refused.path);
        if shown == NO_PATH || self.known.iter().any(|known| known == path) {
            return without_slash(shown).to_owned();
        }
        let paths = if refused.is_signed { &mut self.signed } else { &mut self.unsigned };
        if paths.len() >= UNKNOWN_PATHS && !paths.contains_key(shown) {
            paths.retain(|_, last| now.saturating_duration_since(*last) < FORGOTTEN);
        }
        if paths.len() >= UNKNOWN_PATHS && !paths.contains_key(shown) {
            return OTHER_PATHS.to_owned();
        }
        paths.insert(shown.to_owned(), now);
        shown.to_owned()
    }

    fn count(&mut self, pair: Pair, refused: &Refused<'_>, at: UnixSeconds) {
        let room = self.pending.len() < MAX_PAIRS || self.pending.contains_key(&pair);
        let pair = if room { pair } else { other(&pair) };
        let (cause, path) = (pair.0.to_owned(), pair.1.clone());
        let row = self.pending.entry(pair).or_insert_with(|| RefusalRow {
            cause,
            path,
            first_at: at,
            last_at: at,
            count: 0,
            last_client: String::new(),
        });
        row.count = row.count.saturating_add(1);
        row.last_at = at;
        row.last_client = client(refused);
    }

    /// Takes the rows that are not written yet.
    pub(super) fn take(&mut self) -> Vec<RefusalRow> {
        self.pending.drain().map(|(_, row)| row).collect()
    }

    /// Whether rows are not written yet.
    pub(super) fn has_news(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes back rows that could not be written.
    pub(super) fn put_back(&mut self, rows: Vec<RefusalRow>) {
        for row in rows {
            let Some(cause) = super::advice::ALL.iter().map(|a| a.cause).find(|cause| *cause == row.cause)
            else {
                continue;
            };
            let (pair, room) = ((cause, row.path.clone()), self.pending.len() < MAX_PAIRS);
            match self.pending.get_mut(&pair) {
                Some(later) => {
                    later.count = later.count.saturating_add(row.count);
                    later.first_at = later.first_at.min(row.first_at);
                }
                None if room => {
                    self.pending.insert(pair, row);
                }
                None => {}
            }
        }
    }
}

fn other(pair: &Pair) -> Pair {
    (pair.0, OTHER_PATHS.to_owned())
}

/// The forwarded address, if there is one, and the peer.
fn client(refused: &Refused<'_>) -> String {
    match refused.forwarded_for {
        Some(forwarded) => format!("{} via {}", short(forwarded), refused.peer),
        None => refused.peer.to_owned(),
    }
}

/// Escapes and shortens a text that a client chose.
pub(super) fn short(text: &str) -> String {
    let cut: String = text.chars().take(MAX_SHOWN).collect();
    let mut shown = printable(&cut).replace('"', "\\\"");
    if cut.len() < text.len() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: UnixSeconds = UnixSeconds(1_700_000_000);

    fn ledger() -> Ledger {
        Ledger::new(vec!["/callback".into()])
    }

    fn refused<'a>(cause: &'static str, path: &'a str) -> Refused<'a> {
        Refused { cause, path, peer: "192.0.2.7:81", ..Refused::default() }
    }

    #[test]
    fn each_cause_and_path_has_a_line_a_minute_of_its_own() {
        let (mut ledger, now) = (ledger(), Instant::now());
        let mut more = |cause, path, seconds| {
            let line = ledger.note(&refused(cause, path), now + Duration::from_secs(seconds), AT);
            line.map(|line| line.more)
        };
        assert_eq!(more("signature", "/callback", 0), Some(0));
        assert_eq!(more("decryption", "/callback", 1), Some(0));
        assert_eq!(more("signature", "/app", 2), Some(0));
        assert_eq!(more("signature", "/callback", 3), None);
        assert_eq!(more("signature", "/callback/", 59), None);
        assert_eq!(more("signature", "/callback", 60), Some(2));
        assert_eq!(more("signature", "/callback", 61), None);
    }

    #[test]
    fn a_verification_always_has_its_line_up_to_an_absurd_number() {
        let (mut ledger, now) = (ledger(), Instant::now());
        let verification =
            Refused { is_signed: true, is_verification: true, ..refused("signature", "/callback") };
        let lines: Vec<_> = (0..400).map(|_| ledger.note(&verification, now, AT)).collect();
        assert!(lines[..300].iter().all(Option::is_some) && lines[300..].iter().all(Option::is_none));
        assert_eq!(lines.iter().flatten().filter(|line| line.is_last).count(), 1);
        assert!(ledger.note(&verification, now + LINE_INTERVAL, AT).is_some());
        assert_eq!(ledger.take()[0].count, 401, "all are counted");
    }

    #[test]
    fn a_scanner_floods_neither_log_nor_memory_nor_table() {
        let (mut ledger, now) = (ledger(), Instant::now());
        let mut lines = 0;
        for n in 0..5000 {
            let path = format!("/{n}\u{1b}[31m{}", "x".repeat(n));
            for cause in ["not_found", "timeout"] {
                lines += usize::from(ledger.note(&refused(cause, &path), now, AT).is_some());
            }
        }
        assert_eq!(lines, 2 * (UNKNOWN_PATHS + 1));
        let signed = Refused { is_signed: true, ..refused("not_found", "/calback") };
        assert_eq!(ledger.note(&signed, now, AT).unwrap().path, "/calback", "WeCom's own request is logged");
        let rows = ledger.take();
        assert_eq!(rows.len(), 2 * (UNKNOWN_PATHS + 1) + 1);
        assert!(rows.iter().all(|row| row.path.len() < 400 && !row.path.contains('\u{1b}')));
        let tomorrow = now + FORGOTTEN;
        assert_eq!(ledger.note(&refused("not_found", "/new"), tomorrow, AT).unwrap().path, "/new");
    }

    #[test]
    fn what_could_not_be_written_is_counted_later() {
        let (mut ledger, now) = (ledger(), Instant::now());
        let forwarded = Refused { forwarded_for: Some("203.0.113.9\n"), ..refused("tls", "") };
        ledger.note(&forwarded, now, AT);
        let rows = ledger.take();
        ledger.note(&forwarded, now, AT.plus(5));
        ledger.put_back(rows);
        let rows = ledger.take();
        let row = &rows[0];
        assert_eq!((rows.len(), row.count, row.path.as_str()), (1, 2, "-"));
        assert_eq!((row.first_at, row.last_at), (AT, AT.plus(5)));
        assert_eq!(row.last_client, "203.0.113.9\\n via 192.0.2.7:81");
        assert!(ledger.take().is_empty());
    }

    #[test]
    fn pairs_are_bounded() {
        let (mut ledger, now) = (ledger(), Instant::now());
        ledger.known = (0..400).map(|n| format!("/{n}")).collect();
        for n in 0..400 {
            ledger.note(&refused("tls", &format!("/{n}")), now, AT);
        }
        assert!(ledger.lines.len() <= MAX_PAIRS + 1 && ledger.take().len() <= MAX_PAIRS + 1);
    }
}
