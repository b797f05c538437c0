//! `status`: how it stands, for a person or as JSON.

use std::fmt::Write;
use std::path::Path;

use rusqlite::Connection;
use serde_json::{Value as Json, json};

use super::{Failure, load, print, print_json, shown};
use crate::config::Config;
use crate::daemon::details::DRIFT;
use crate::daemon::is_running;
use crate::daemon::reconciler::PROGRESS;
use crate::directory::UnixSeconds;
use crate::store::clashes::clashes;
use crate::store::epoch::position;
use crate::store::queries::{Counts, counts, local_time};
use crate::store::reconciles::{Reconcile, last_reconciles};
use crate::store::state::doubts;
use crate::store::{get_state, open_reader};
use crate::text::printable;
use crate::wecom::api::clock;

pub(super) fn status(path: Option<&Path>, as_json: bool) -> Result<(), Failure> {
    let config = load(path)?;
    let connection = open_reader(&config.database.path)?;
    let now = clock();
    // One transaction: all figures are of the same moment.
    let connection = connection.unchecked_transaction()?;
    let counts = counts(&connection, now)?;
    let running = is_running(&config.database.path);
    // What a daemon that is gone said is no longer so.
    let said = |name| if running { get_state(&connection, name) } else { Ok(None) };
    let daemon = said("daemon")?;
    let pauses = said("pauses")?.map_or_else(|| json!([]), |(_, pauses)| pauses);
    let clashes = clashes(&connection)?;
    let epoch = position(&connection)?.epoch;
    let comparison = Comparison::read(&connection, &config)?;
    if as_json {
        let object = json!({
            "running": running,
            "pid": daemon.as_ref().and_then(|(_, d)| d.get("pid").cloned()),
            "started_at": daemon.as_ref().map(|(at, _)| at.0),
            "database": config.database.path.display().to_string(),
            "members": {
                "pending": counts.pending,
                "converted": counts.converted,
                "failed": counts.failed,
                "deleted": counts.deleted,
            },
            "due": counts.due,
            "oldest_pending_seconds": counts.oldest_pending.map(|since| now.since(since).max(0)),
            "next_attempt_at": counts.next_attempt.map(|at| at.0),
            "departments": counts.departments,
            "tags": counts.tags,
            "events": counts.events,
            "last_event_at": counts.last_event.map(|at| at.0),
            "last_change_seq": counts.last_change,
            "epoch": epoch,
            "openid_clashes": clashes.iter().map(|clash| json!({"openid": clash.openid, "userids": clash.userids})).collect::<Vec<_>>(),
            "conversion": why_not_converting(&config).map_or_else(|| "on".to_owned(), |why| format!("off: {why}")),
            "pauses": pauses,
            "details": {
                "due": counts.details_due,
                "denied": counts.details_denied,
            },
            "comparison": comparison.to_json(),
        });
        return print_json(&object);
    }

    let when = |at: Option<UnixSeconds>| -> Result<String, Failure> {
        Ok(match at {
            Some(at) => format!("{} ({})", local_time(&connection, at)?, distance(now, at)),
            None => "never".into(),
        })
    };
    let pauses = shown(&pauses);
    let mut text = String::new();
    let _ = writeln!(text, "database       {}", printable(&config.database.path.display().to_string()));
    let _ = match &daemon {
        Some((at, daemon)) => {
            let pid = daemon.get("pid").cloned().unwrap_or_default();
            writeln!(text, "daemon         running since {}, pid {pid}", when(Some(*at))?)
        }
        None if running => writeln!(text, "daemon         running"),
        None => writeln!(text, "daemon         not running; callbacks are not answered"),
    };
    let _ = writeln!(text, "last event     {}", when(counts.last_event)?);
    let _ = writeln!(text, "members        {}", counts.pending + counts.converted + counts.failed);
    let _ = writeln!(text, "  converted    {}", counts.converted);
    let _ = writeln!(text, "  pending      {}{}", counts.pending, backlog(&counts, now));
    let _ = writeln!(text, "  failed       {}", counts.failed);
    let _ = writeln!(text, "departments    {}", counts.departments);
    let _ = writeln!(text, "tags           {}", counts.tags);
    let _ = writeln!(text, "last change    #{} of epoch {}", counts.last_change, printable(&epoch));
    for clash in &clashes {
        let userids = clash.userids.join(", ");
        let _ = writeln!(text, "OPENID CLASH   {userids} have the same openid {}", printable(&clash.openid));
    }
    if let Some(why) = why_not_converting(&config) {
        let _ = writeln!(text, "conversion     off: {why}");
    }
    if counts.details_due + counts.details_denied > 0 {
        let (due, denied) = (counts.details_due, counts.details_denied);
        let _ = writeln!(text, "details        {due} to be asked for, {denied} that WeCom does not show");
    }
    comparison.write(&mut text, when)?;
    for pause in pauses.as_array().into_iter().flatten() {
        let word = |key: &str| pause.get(key).and_then(Json::as_str).unwrap_or("");
        let until = pause.get("until").and_then(Json::as_i64).map(UnixSeconds);
        let errcode = pause.get("errcode").and_then(Json::as_i64).map(|code| format!("errcode {code}, "));
        let _ = writeln!(
            text,
            "PAUSED         {} ({}): {}{}",
            word("what"),
            word("reason"),
            errcode.unwrap_or_default(),
            word("errmsg")
        );
        let _ = writeln!(text, "               {}", word("advice"));
        let _ = writeln!(text, "               tried again {}", when(until)?);
    }
    print(&text)
}

/// How the directory stands to WeCom's.
struct Comparison {
    off: Option<&'static str>,
    last: Option<Reconcile>,
    due: Option<(UnixSeconds, Json)>,
    progress: Option<Json>,
    drift: Option<(UnixSeconds, Json)>,
}

impl Comparison {
    fn read(connection: &Connection, config: &Config) -> rusqlite::Result<Self> {
        let off = match &config.wecom.contacts_secret {
            None => Some("[wecom] contacts_secret is not set"),
            Some(_) if !config.reconcile.enabled => Some("[reconcile] enabled is no"),
            Some(_) => None,
        };
        Ok(Self {
            off,
            last: last_reconciles(connection)?.0,
            due: doubts(connection)?,
            progress: get_state(connection, PROGRESS)?.map(|(_, progress)| progress),
            drift: get_state(connection, DRIFT)?,
        })
    }

    fn to_json(&self) -> Json {
        let last = self.last.as_ref().map(|last| {
            json!({
                "started_at": last.started_at.0,
                "finished_at": last.finished_at.map(|at| at.0),
                "reason": last.reason,
                "outcome": last.outcome.as_str(),
                "members_seen": last.members_seen,
                "created": last.effect.created,
                "updated": last.effect.updated,
                "deleted": last.effect.deleted,
                "note": last.note,
            })
        });
        json!({
            "off": self.off,
            "last": last,
            "due": self.due.as_ref().map(|(at, why)| json!({"since": at.0, "reason": why.get("reason")})),
            "progress": self.progress,
            "drift": self.drift.as_ref().map(|(at, drift)| json!({"at": at.0, "found": drift})),
        })
    }

    fn write(
        &self,
        text: &mut String,
        when: impl Fn(Option<UnixSeconds>) -> Result<String, Failure>,
    ) -> Result<(), Failure> {
        let word = |json: &Json, key: &str| {
            printable(json.get(key).and_then(Json::as_str).unwrap_or("")).into_owned()
        };
        let number = |json: &Json, key: &str| json.get(key).and_then(Json::as_u64).unwrap_or(0);
        if let Some(off) = self.off {
            let _ = writeln!(text, "comparison     off: {off}");
        }
        if let Some(last) = &self.last {
            let outcome = match last.finished_at {
                Some(_) => last.outcome.as_str(),
                None => "under way",
            };
            let began = when(Some(last.started_at))?;
            let _ = writeln!(text, "comparison     {outcome}, {began}: {}", printable(&last.reason));
            if !last.note.is_empty() {
                let _ = writeln!(text, "               {}", printable(&last.note));
            }
        }
        if let Some(progress) = &self.progress {
            let of = progress.get("of").and_then(Json::as_u64).map(|of| format!(" of {of}"));
            let (phase, done) = (word(progress, "phase"), number(progress, "done"));
            let _ = writeln!(text, "               {phase}: {done}{}", of.unwrap_or_default());
        }
        if let Some((at, why)) = &self.due {
            let _ = writeln!(text, "               due since {}: {}", when(Some(*at))?, word(why, "reason"));
        }
        if let Some((at, drift)) = &self.drift {
            let (different, asked) = (number(drift, "different"), number(drift, "asked"));
            let at = when(Some(*at))?;
            let _ = writeln!(text, "daily sample   {different} of {asked} members were different, {at}");
        }
        Ok(())
    }
}

/// Why userids are not converted at all, if they are not.
pub(super) fn why_not_converting(config: &Config) -> Option<&'static str> {
    if !config.openid.enabled {
        Some("[openid] enabled is no")
    } else if config.wecom.app_secret.is_none() {
        Some("[wecom] app_secret is not set")
    } else {
        None
    }
}

fn backlog(counts: &Counts, now: UnixSeconds) -> String {
    let (Some(oldest), Some(next)) = (counts.oldest_pending, counts.next_attempt) else {
        return String::new();
    };
    let next = if counts.due > 0 {
        format!("{} due now", counts.due)
    } else {
        format!("next try {}", distance(now, next))
    };
    format!("  (the oldest known since {}; {next})", distance(now, oldest))
}

/// `3 min ago`, `in 2 h`.
fn distance(now: UnixSeconds, at: UnixSeconds) -> String {
    let seconds = now.since(at);
    let span = match seconds.unsigned_abs() {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    };
    if seconds >= 0 { format!("{span} ago") } else { format!("in {span}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_read_well() {
        let now = UnixSeconds(1_000_000);
        for (offset, expected) in [
            (0, "0 s ago"),
            (-90, "90 s ago"),
            (-600, "10 min ago"),
            (7200, "in 2 h"),
            (864_000, "in 10 days"),
        ] {
            assert_eq!(distance(now, now.plus(offset)), expected);
        }
    }
}
