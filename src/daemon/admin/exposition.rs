//! The text of `/metrics`, in the Prometheus format.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Bucket, Histogram, Metric, MetricFamily, MetricType};
use prometheus::{IntGauge, IntGaugeVec, Opts, TEXT_FORMAT, TextEncoder};

use crate::daemon::log_limiter::LogLimiter;
use crate::daemon::metrics::{Metrics, valid};
use crate::directory::UnixSeconds;
use crate::directory::openid::OpenidState;
use crate::gate::{GateStats, LatencySnapshot};
use crate::store::Connection;
use crate::store::file::beside;
use crate::store::monitor::{last_event, last_reconcile, members_by_state, oldest_pending};
use crate::store::reconciles::{ReconcileOutcome, last_reconciles};
use crate::store::state::{DRIFT, Drift};
use crate::unix_time::unix_now;
use crate::wecom::clock::SharedClock;

/// The media type of the text.
pub(super) const CONTENT_TYPE: &str = TEXT_FORMAT;

/// Lifetime of a count of the members, in multiples of the time that it took: counting takes a bounded share of the
/// time, for any size of the company and any scrape interval.
const LIFETIME: u32 = 20;

/// One pending member in so many of all members is many.
const MANY: i64 = 12;

/// Members by state, and when the member that is pending longest became known.
#[derive(Clone, Copy)]
struct Members {
    by_state: [(OpenidState, i64); 3],
    oldest_pending: Option<UnixSeconds>,
}

/// Collects and encodes all metrics.
pub(super) struct Exposition {
    metrics: Arc<Metrics>,
    gate: Arc<GateStats>,
    wecom_clock: SharedClock,
    reader: Connection,
    /// The database's file.
    database: PathBuf,
    process: ProcessCollector,
    counted: Option<(Instant, Duration, Members)>,
    /// Answers of the gate that are in [`Metrics`], by status.
    gate_answers: HashMap<u16, u64>,
    errors: LogLimiter,
}

impl Exposition {
    pub(super) fn new(
        metrics: Arc<Metrics>,
        gate: Arc<GateStats>,
        wecom_clock: SharedClock,
        (reader, database): (Connection, PathBuf),
    ) -> Self {
        let (gate_answers, errors) = Default::default();
        let process = ProcessCollector::for_self();
        Self { metrics, gate, wecom_clock, reader, database, process, counted: None, gate_answers, errors }
    }

    /// All metrics as of now.
    pub(super) fn text(&mut self) -> prometheus::Result<String> {
        let gate = self.gate.snapshot();
        // A request that the gate gives up and the server answers nevertheless counts twice.
        for (status, count) in gate.refused {
            let before = self.gate_answers.insert(status, count).unwrap_or(0);
            self.metrics.answered(status, false, count.saturating_sub(before));
        }
        let mut families = self.metrics.registry().gather();
        families.extend(self.process.collect());
        families.extend(self.files());
        families.push(histogram(
            "wecom_dirsync_callback_duration_seconds",
            "From a complete callback request to its answer.",
            &gate.answered,
        ));
        let help = "WeCom's clock, as estimated, less this machine's.";
        families.extend(gauge(
            "wecom_dirsync_clock_offset_seconds",
            help,
            self.wecom_clock.estimate().offset,
        ));
        let build = Opts::new("wecom_dirsync_build_info", "The version that runs; the value is always 1.")
            .const_label("version", env!("CARGO_PKG_VERSION"));
        families.extend(set(build, 1));
        match self.directory(unix_now()) {
            Ok(directory) => families.extend(directory),
            // An unknown figure is left out: an old one would look valid.
            Err(error) => {
                if let Some(more) = self.errors.admit(Instant::now()) {
                    log::warn!(
                        "admin: the database cannot be read for /metrics: {error} more_since_last={more}"
                    );
                }
            }
        }
        TextEncoder::new().encode_to_string(&families)
    }

    fn directory(&mut self, now: UnixSeconds) -> crate::store::Result<Vec<MetricFamily>> {
        let Members { by_state, oldest_pending } = self.members()?;
        let help = "Present members by the state of their openid.";
        let members = valid(IntGaugeVec::new(Opts::new("wecom_dirsync_members", help), &["openid_state"]));
        for (state, count) in by_state {
            members.with_label_values(&[state.as_str()]).set(count);
        }
        let mut families = members.collect();
        families.extend(gauge(
            "wecom_dirsync_oldest_pending_seconds",
            "Creation time of the pending member that has waited longest for an openid; 0 if none is pending.",
            oldest_pending.map_or(0, |since| now.since(since).max(0)),
        ));
        if let Some(at) = last_event(&self.reader)? {
            let help = "Time of receipt of the last event, in unix time.";
            families.extend(gauge("wecom_dirsync_last_event_timestamp_seconds", help, at.0));
        }
        if let Some(at) = last_reconcile(&self.reader)? {
            let help = "When the last comparison with WeCom ended, in unix time.";
            families.extend(gauge("wecom_dirsync_last_reconcile_timestamp_seconds", help, at.0));
        }
        // Of the last one that reached its end: another decides nothing about deletions.
        let (_, decided) = last_reconciles(&self.reader)?;
        let is_blocked = decided.is_some_and(|last| last.outcome == ReconcileOutcome::Blocked);
        let help = "Whether the last comparison with WeCom would delete more than allowed.";
        families.extend(gauge("wecom_dirsync_comparison_blocked", help, i64::from(is_blocked)));
        if let Some((_, Drift { asked, different })) = DRIFT.get(&self.reader)? {
            let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
            let help = "Members that the last daily sample requested from WeCom.";
            families.extend(gauge("wecom_dirsync_drift_sampled_members", help, number(asked)));
            let help = "Members of the last daily sample whose fields differed from WeCom's.";
            families.extend(gauge("wecom_dirsync_drift_differing_members", help, number(different)));
        }
        Ok(families)
    }

    /// The lengths of the database's files.
    fn files(&self) -> Vec<MetricFamily> {
        let length = |path: &Path| i64::try_from(std::fs::metadata(path).ok()?.len()).ok();
        let files = [
            ("wecom_dirsync_database_bytes", "Length of the database's file.", length(&self.database)),
            (
                "wecom_dirsync_wal_bytes",
                "Length of the database's WAL.",
                length(&beside(&self.database, "-wal")),
            ),
        ];
        files
            .into_iter()
            .filter_map(|(name, help, length)| Some(gauge(name, help, length?)))
            .flatten()
            .collect()
    }

    fn members(&mut self) -> crate::store::Result<Members> {
        if let Some((at, took, members)) = &self.counted
            && at.elapsed() < took.saturating_mul(LIFETIME)
        {
            return Ok(*members);
        }
        let begun = Instant::now();
        let by_state = members_by_state(&self.reader)?;
        let all = by_state.iter().map(|(_, count)| count).sum::<i64>();
        let pending = by_state.iter().filter(|(state, _)| *state == OpenidState::Pending);
        let many = pending.map(|(_, count)| count).sum::<i64>() > all / MANY;
        let members = Members { by_state, oldest_pending: oldest_pending(&self.reader, many)? };
        self.counted = Some((Instant::now(), begun.elapsed(), members));
        Ok(members)
    }
}

fn gauge(name: &str, help: &str, value: i64) -> Vec<MetricFamily> {
    set(Opts::new(name, help), value)
}

fn set(opts: Opts, value: i64) -> Vec<MetricFamily> {
    let gauge = valid(IntGauge::with_opts(opts));
    gauge.set(value);
    gauge.collect()
}

/// A histogram that the gate has counted.
fn histogram(name: &str, help: &str, latencies: &LatencySnapshot) -> MetricFamily {
    let mut cumulative = 0;
    let buckets = latencies.buckets.iter().map(|(bound, count)| {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound.as_secs_f64());
        bucket.set_cumulative_count(cumulative);
        bucket
    });
    let buckets = buckets.collect();
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(cumulative + latencies.over);
    histogram.set_sample_sum(latencies.sum.as_secs_f64());
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(MetricType::HISTOGRAM);
    family.set_metric(vec![metric]);
    family
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::connection::values;
    use crate::store::open::open_in_memory;

    fn exposition(reader: Connection) -> Exposition {
        let files = (reader, PathBuf::from("/nonexistent/directory.db"));
        Exposition::new(Arc::default(), Arc::default(), SharedClock::default(), files)
    }

    #[test]
    fn what_is_not_known_yet_is_left_out_and_the_rest_is_zero() {
        let text = exposition(open_in_memory().unwrap()).text().unwrap();
        assert!(text.contains("\nwecom_dirsync_members{openid_state=\"failed\"} 0\n"), "{text}");
        assert!(text.contains("\nwecom_dirsync_oldest_pending_seconds 0\n"), "{text}");
        assert!(text.contains("\nwecom_dirsync_callbacks_total{result=\"unavailable\"} 0\n"), "{text}");
        assert!(!text.contains("last_event") && !text.contains("last_reconcile"), "{text}");
        assert!(!text.contains("drift") && !text.contains("database_bytes") && !text.contains("wal_bytes"));
        assert!(!text.contains("events_total") && !text.contains("api_calls_total"), "{text}");
    }

    #[test]
    fn a_finished_reconcile_has_its_time() {
        let db = open_in_memory().unwrap();
        db.script(
            "INSERT INTO reconciles (started_at, finished_at, reason, outcome) VALUES (1, 1700000000, 'test', 'ok')",
        )
        .unwrap();
        let text = exposition(db).text().unwrap();
        assert!(text.contains("\nwecom_dirsync_last_reconcile_timestamp_seconds 1700000000\n"), "{text}");
    }

    #[test]
    fn a_blocked_comparison_shows_until_one_that_is_not_reaches_its_end() {
        let db = open_in_memory().unwrap();
        let blocked = |db: &Connection| {
            let (_, decided) = last_reconciles(db).unwrap();
            decided.is_some_and(|last| last.outcome == ReconcileOutcome::Blocked)
        };
        for (outcome, expected) in
            [("ok", false), ("blocked", true), ("failed", true), ("running", true), ("partial", false)]
        {
            let sql =
                "INSERT INTO reconciles (started_at, finished_at, reason, outcome) VALUES (1, 2, 'test', ?1)";
            db.execute(sql, values![outcome]).unwrap();
            assert_eq!(blocked(&db), expected, "{outcome}");
        }
        let text = exposition(db).text().unwrap();
        assert!(text.contains("\nwecom_dirsync_comparison_blocked 0\n"), "{text}");
    }

    #[test]
    fn a_database_that_cannot_be_read_costs_only_its_own_figures() {
        let text = exposition(rusqlite::Connection::open_in_memory().unwrap().into()).text().unwrap();
        assert!(text.contains("wecom_dirsync_callbacks_total{"), "{text}");
        assert!(!text.contains("wecom_dirsync_members"), "{text}");
    }
}
