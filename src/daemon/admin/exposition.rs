//! The counters and the directory's figures as Prometheus reads them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::store::Connection;
use crate::unix_time::unix_now;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{TEXT_FORMAT, TextEncoder};

use crate::daemon::log_limiter::LogLimiter;
use crate::daemon::metrics::Metrics;
use crate::directory::UnixSeconds;
use crate::directory::openid::OpenidState;
use crate::gate::{GateStats, LatencySnapshot};
use crate::store::monitor::{last_event, last_reconcile, members_by_state, oldest_pending};
use crate::wecom::clock::SharedClock;

/// The media type of what is answered.
pub(super) const CONTENT_TYPE: &str = TEXT_FORMAT;

/// A count of the members is good for so many times as long as it took: counting takes a small part of
/// the time, however large the company is and however often somebody asks.
const GOOD_FOR: u32 = 20;

/// From one member in so many on, those who wait are many.
const MANY: i64 = 12;

/// Members by state, and when the longest waiting became known.
#[derive(Clone, Copy)]
struct Members {
    by_state: [(OpenidState, i64); 3],
    oldest_pending: Option<UnixSeconds>,
}

/// Makes the text of `/metrics`.
pub(super) struct Exposition {
    metrics: Arc<Metrics>,
    gate: Arc<GateStats>,
    wecom_clock: SharedClock,
    reader: Connection,
    counted: Option<(Instant, Duration, Members)>,
    complaints: LogLimiter,
}

impl Exposition {
    pub(super) fn new(
        metrics: Arc<Metrics>,
        gate: Arc<GateStats>,
        wecom_clock: SharedClock,
        reader: Connection,
    ) -> Self {
        Self { metrics, gate, wecom_clock, reader, counted: None, complaints: LogLimiter::default() }
    }

    /// All metrics as of now.
    pub(super) fn text(&mut self) -> prometheus::Result<String> {
        let mut families = self.counters();
        match self.directory(unix_now()) {
            Ok(directory) => families.extend(directory),
            // What is not known is left out: an old figure would look like a good one.
            Err(error) => {
                if let Some(more) = self.complaints.tell(Instant::now()) {
                    log::warn!(
                        "admin: the database cannot be read for /metrics: {error} more_since_last={more}"
                    );
                }
            }
        }
        families.retain(|family| !family.get_metric().is_empty());
        TextEncoder::new().encode_to_string(&families)
    }

    fn counters(&self) -> Vec<MetricFamily> {
        let (metrics, gate) = (&self.metrics, self.gate.snapshot());
        let callbacks = metrics.callbacks(&gate).into_iter();
        let events = metrics.events().into_iter();
        let calls = metrics.api_calls().into_iter();
        let paused = metrics.paused().into_iter();
        vec![
            counter(
                "wecom_dirsync_callbacks_total",
                "Requests to the callback listener, by how they were answered.",
                callbacks.map(|(result, count)| (labels(&[("result", result.as_str())]), count)),
            ),
            histogram(
                "wecom_dirsync_callback_duration_seconds",
                "From a complete callback request to its answer.",
                &gate.answered,
            ),
            counter(
                "wecom_dirsync_events_total",
                "Events made durable, by ChangeType (or Event, where that is empty) and by what became of them.",
                events.map(|(event, outcome, count)| {
                    (labels(&[("change_type", event), ("outcome", outcome.as_str())]), count)
                }),
            ),
            counter(
                "wecom_dirsync_api_calls_total",
                "Calls of WeCom's API, by errcode; none: without an answer that could be read.",
                calls.map(|(api, errcode, count)| (labels(&[("api", api), ("errcode", &errcode)]), count)),
            ),
            gauge(
                "wecom_dirsync_api_paused",
                "Whether calls of WeCom's API are paused for this reason.",
                paused.map(|(reason, paused)| {
                    (labels(&[("reason", reason.as_str())]), f64::from(u8::from(paused)))
                }),
            ),
            gauge(
                "wecom_dirsync_clock_offset_seconds",
                "WeCom's clock, as estimated, less this machine's.",
                [(Vec::new(), float(self.wecom_clock.estimate().offset))],
            ),
            gauge(
                "wecom_dirsync_build_info",
                "The version that runs; the value is always 1.",
                [(labels(&[("version", env!("CARGO_PKG_VERSION"))]), 1.0)],
            ),
        ]
    }

    fn directory(&mut self, now: UnixSeconds) -> crate::store::Result<Vec<MetricFamily>> {
        let members = self.members()?;
        let waiting = members.oldest_pending.map_or(0, |since| now.since(since).max(0));
        let by_state = members.by_state.into_iter();
        let time = |time: Option<UnixSeconds>| time.map(|time| (Vec::new(), float(time.0)));
        Ok(vec![
            gauge(
                "wecom_dirsync_members",
                "Present members by the state of their openid.",
                by_state.map(|(state, count)| (labels(&[("openid_state", state.as_str())]), float(count))),
            ),
            gauge(
                "wecom_dirsync_oldest_pending_seconds",
                "Since when the member that has waited longest for an openid is known; 0 if nobody waits.",
                [(Vec::new(), float(waiting))],
            ),
            gauge(
                "wecom_dirsync_last_event_timestamp_seconds",
                "When the last event came, in unix time.",
                time(last_event(&self.reader)?),
            ),
            gauge(
                "wecom_dirsync_last_reconcile_timestamp_seconds",
                "When the last comparison with WeCom ended, in unix time.",
                time(last_reconcile(&self.reader)?),
            ),
        ])
    }

    fn members(&mut self) -> crate::store::Result<Members> {
        if let Some((at, took, members)) = &self.counted
            && at.elapsed() < took.saturating_mul(GOOD_FOR)
        {
            return Ok(*members);
        }
        let begun = Instant::now();
        let by_state = members_by_state(&self.reader)?;
        let all = by_state.iter().map(|(_, count)| count).sum::<i64>();
        let waiting = by_state.iter().filter(|(state, _)| *state == OpenidState::Pending);
        let many = waiting.map(|(_, count)| count).sum::<i64>() > all / MANY;
        let members = Members { by_state, oldest_pending: oldest_pending(&self.reader, many)? };
        self.counted = Some((Instant::now(), begun.elapsed(), members));
        Ok(members)
    }
}

fn labels(pairs: &[(&str, &str)]) -> Vec<LabelPair> {
    let label = |(name, value): &(&str, &str)| {
        let mut label = LabelPair::default();
        label.set_name((*name).to_owned());
        label.set_value((*value).to_owned());
        label
    };
    pairs.iter().map(label).collect()
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn counter(name: &str, help: &str, samples: impl IntoIterator<Item = (Vec<LabelPair>, u64)>) -> MetricFamily {
    let metric = |(labels, count): (Vec<LabelPair>, u64)| {
        let mut counter = Counter::default();
        counter.set_value(float(i64::try_from(count).unwrap_or(i64::MAX)));
        let mut metric = Metric::from_label(labels);
        metric.set_counter(counter);
        metric
    };
    family(name, help, MetricType::COUNTER, samples.into_iter().map(metric).collect())
}

fn gauge(name: &str, help: &str, samples: impl IntoIterator<Item = (Vec<LabelPair>, f64)>) -> MetricFamily {
    let metric = |(labels, value)| {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::from_label(labels);
        metric.set_gauge(gauge);
        metric
    };
    family(name, help, MetricType::GAUGE, samples.into_iter().map(metric).collect())
}

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
    family(name, help, MetricType::HISTOGRAM, vec![metric])
}

/// Exact up to 2^53, which no count or time here reaches.
#[allow(clippy::cast_precision_loss)]
fn float(number: i64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open::open_in_memory;

    fn exposition(reader: Connection) -> Exposition {
        Exposition::new(Arc::default(), Arc::default(), SharedClock::default(), reader)
    }

    #[test]
    fn what_is_not_known_yet_is_left_out_and_the_rest_is_zero() {
        let text = exposition(open_in_memory().unwrap()).text().unwrap();
        assert!(text.contains("\nwecom_dirsync_members{openid_state=\"failed\"} 0\n"), "{text}");
        assert!(text.contains("\nwecom_dirsync_oldest_pending_seconds 0\n"), "{text}");
        assert!(text.contains("\nwecom_dirsync_callbacks_total{result=\"unavailable\"} 0\n"), "{text}");
        assert!(!text.contains("last_event") && !text.contains("last_reconcile"), "{text}");
        assert!(!text.contains("events_total") && !text.contains("api_calls_total"), "{text}");
    }

    #[test]
    fn a_finished_reconcile_is_told() {
        let db = open_in_memory().unwrap();
        db.execute_batch(
            "INSERT INTO reconciles (started_at, finished_at, reason, outcome) VALUES (1, 1700000000, 'test', 'ok')",
        )
        .unwrap();
        let text = exposition(db).text().unwrap();
        assert!(text.contains("\nwecom_dirsync_last_reconcile_timestamp_seconds 1700000000\n"), "{text}");
    }

    #[test]
    fn a_database_that_cannot_be_read_costs_only_its_own_figures() {
        let text = exposition(Connection::open_in_memory().unwrap()).text().unwrap();
        assert!(text.contains("wecom_dirsync_callbacks_total{"), "{text}");
        assert!(!text.contains("wecom_dirsync_members"), "{text}");
    }
}
