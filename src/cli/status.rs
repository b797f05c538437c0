//! `status`: counts, pauses, clock, comparisons and refusals, as text or JSON.

use std::fmt::Write;
use std::path::Path;

use crate::store::Connection;
use crate::unix_time::unix_now;
use serde_json::{Value as Json, json};

use super::{Failure, load_without_secrets, print, print_json};
use crate::config::Config;
use crate::daemon::is_running;
use crate::daemon::refusals::advice::remedy;
use crate::directory::UnixSeconds;
use crate::store::clashes;
use crate::store::open_reader;
use crate::store::queries::{Counts, counts, local_time};
use crate::store::reconciles::{ReconcileRecord, last_reconciles};
use crate::store::refusals::{RefusalRow, refusals_since};
use crate::store::state::{
    CLOCK, ClockState, ComparisonDue, DAEMON, DRIFT, Drift, PAUSES, PauseState, RECONCILE_PROGRESS,
    ReconcileProgress, reconcile_request,
};
use crate::text::printable;

/// Age of the refusals in the text output, in seconds.
const DAY: i64 = 86_400;

pub(super) fn status(path: Option<&Path>, as_json: bool) -> Result<(), Failure> {
    let config = load_without_secrets(path)?;
    let connection = open_reader(&config.database.path)?;
    let now = unix_now();
    // One transaction: all figures belong to one snapshot.
    connection.hold_snapshot()?;
    let counts = counts(&connection, now)?;
    let running = is_running(&config.database.path);
    // The state that an ended daemon left behind is obsolete.
    let daemon = DAEMON.get(&connection)?.filter(|_| running);
    let pauses = PAUSES.get(&connection)?.filter(|_| running).map_or_else(Vec::new, |(_, pauses)| pauses);
    let epoch = crate::store::epoch::epoch(&connection)?;
    let openid_clashes = clashes::clashes(&connection)?;
    let clock_estimate = CLOCK.get(&connection)?.filter(|_| running).map(|(_, estimate)| estimate);
    let comparison = ComparisonStatus::read(&connection, &config)?;
    if as_json {
        let object = json!({
            "running": running,
            "pid": daemon.as_ref().map(|(_, daemon)| daemon.pid),
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
            "conversion": why_not_converting(&config).map_or_else(|| "on".to_owned(), |why| format!("off: {why}")),
            "clock": clock_estimate,
            "openid_clashes": clashes::to_json(&openid_clashes),
            "pauses": pauses,
            "details": {
                "due": counts.details_due,
                "denied": counts.details_denied,
            },
            "comparison": comparison.to_json(),
            "refusals": refusals_json(&refusals_since(&connection, UnixSeconds(i64::MIN))?, &paths(&config)),
        });
        return print_json(&object);
    }

    let when = |at: Option<UnixSeconds>| -> Result<String, Failure> {
        Ok(match at {
            Some(at) => format!("{} ({})", local_time(&connection, at)?, distance(now, at)),
            None => "never".into(),
        })
    };
    let mut text = String::new();
    let _ = writeln!(text, "database       {}", printable(&config.database.path.display().to_string()));
    let _ = match &daemon {
        Some((at, daemon)) => {
            writeln!(text, "daemon         running since {}, pid {}", when(Some(*at))?, daemon.pid)
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
    let of_epoch = epoch.as_ref().map_or_else(String::new, |epoch| format!(" of epoch {}", printable(epoch)));
    let _ = writeln!(text, "last change    #{}{of_epoch}", counts.last_change);
    for (openid, userids) in &openid_clashes {
        let _ = writeln!(
            text,
            "OPENID CLASH   {} have the same openid {}",
            userids.join(" and "),
            printable(openid)
        );
        let _ = writeln!(
            text,
            "               one is wrong, or one person has two userids: remove one in WeCom's admin console"
        );
    }
    if let Some(line) = clock_estimate.as_ref().map(clock_line) {
        let _ = writeln!(text, "clock          {line}");
    }
    if let Some(why) = why_not_converting(&config) {
        let _ = writeln!(text, "conversion     off: {why}");
    }
    if counts.details_due + counts.details_denied > 0 {
        let (due, denied) = (counts.details_due, counts.details_denied);
        let _ = writeln!(text, "details        {due} due, {denied} denied by WeCom");
    }
    comparison.write(&mut text, when)?;
    for PauseState { what, reason, errcode, errmsg, until, advice, .. } in &pauses {
        let errcode = errcode.map(|code| format!("errcode {code}, ")).unwrap_or_default();
        let line = format!("{what} ({reason}): {errcode}{errmsg}");
        let _ = writeln!(text, "PAUSED         {}", printable(&line));
        let _ = writeln!(text, "               {}", printable(advice));
        let _ = writeln!(text, "               tried again {}", when(Some(UnixSeconds(*until)))?);
    }
    for row in refusals_since(&connection, now.plus(-DAY))? {
        let RefusalRow { cause, path, last_at, count, last_client, .. } = row;
        let last = when(Some(last_at))?;
        let _ = writeln!(text, "refused        {count} x {cause} at {path}, last {last} from {last_client}");
        let _ = writeln!(text, "               {}", remedy(&cause, &paths(&config)));
    }
    print(&text)
}

/// The offset of WeCom's clock from this machine's, with a remedy where one is needed.
fn clock_line(estimate: &ClockState) -> String {
    let ClockState { offset_seconds: offset, agreement, date_contradicts_by } = estimate;
    if let Some(seconds) = date_contradicts_by {
        return format!(
            "the Date of WeCom's responses differs by {seconds} s, and no event confirms it; deletions by comparisons are held: \
             check this machine's clock (NTP), and the gateways and caches in front of api_base"
        );
    }
    let advice = if offset.abs() > 60 { "; synchronise this machine's clock (NTP)" } else { "" };
    format!("WeCom's clock is {offset:+} s from this machine's ({}){advice}", printable(agreement))
}

fn paths(config: &Config) -> Vec<String> {
    let app = config.app_callback.as_ref().map(|app| &app.path);
    std::iter::once(&config.callback.path).chain(app).cloned().collect()
}

fn refusals_json(rows: &[RefusalRow], paths: &[String]) -> Json {
    let rows = rows.iter().map(|row| {
        json!({
            "cause": row.cause,
            "path": row.path,
            "first_at": row.first_at.0,
            "last_at": row.last_at.0,
            "count": row.count,
            "last_client": row.last_client,
            "advice": remedy(&row.cause, paths),
        })
    });
    Json::Array(rows.collect())
}

/// The last, the due and the running comparison, and why comparisons are off.
struct ComparisonStatus {
    off: Option<&'static str>,
    last: Option<ReconcileRecord>,
    due: Option<ComparisonDue>,
    progress: Option<ReconcileProgress>,
    drift: Option<(UnixSeconds, Drift)>,
}

impl ComparisonStatus {
    fn read(connection: &Connection, config: &Config) -> crate::store::Result<Self> {
        let off = match &config.wecom.contacts_secret {
            None => Some("[wecom] contacts_secret is not set"),
            Some(_) if !config.reconcile.enabled => Some("[reconcile] enabled is no"),
            Some(_) => None,
        };
        Ok(Self {
            off,
            last: last_reconciles(connection)?.0,
            due: reconcile_request(connection)?,
            progress: RECONCILE_PROGRESS.get(connection)?.map(|(_, progress)| progress),
            drift: DRIFT.get(connection)?,
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
            "due": self.due.as_ref().map(|due| json!({"since": due.since, "reason": due.reason})),
            "progress": self.progress,
            "drift": self.drift.as_ref().map(|(at, drift)| json!({"at": at.0, "found": drift})),
        })
    }

    fn write(
        &self,
        text: &mut String,
        when: impl Fn(Option<UnixSeconds>) -> Result<String, Failure>,
    ) -> Result<(), Failure> {
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
        if let Some(ReconcileProgress { phase, done, of }) = &self.progress {
            let of = of.map_or_else(String::new, |of| format!(" of {of}"));
            let _ = writeln!(text, "               {}: {done}{of}", printable(phase));
        }
        if let Some(due) = &self.due {
            let since = when(Some(UnixSeconds(due.since)))?;
            let _ = writeln!(text, "               due since {since}: {}", printable(&due.reason));
        }
        if let Some((at, Drift { asked, different })) = &self.drift {
            let at = when(Some(*at))?;
            let _ = writeln!(text, "daily sample   {different} of {asked} members differed, {at}");
        }
        Ok(())
    }
}

/// The setting that disables conversion, if one does.
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
    fn distances_have_a_readable_unit() {
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
