//! Reports the offset between WeCom's clock and this machine's: in the log, and for `status`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::directory::clock::Estimate;
use crate::store::Writer;
use crate::store::state::{CLOCK, ClockState};
use crate::unix_time::unix_now;

/// An offset of more seconds than this is logged.
const NOTABLE: i64 = 60;
/// Offsets whose difference is smaller (seconds) count as the same: a Date has whole seconds.
const STEP: i64 = 5;
/// Minimum interval between equal log lines: every second answer may pass a gateway with a wrong clock.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// How long a record may wait for the database before it is dropped.
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Reported {
    recorded: Option<Estimate>,
    state: State,
    logged: HashMap<State, Instant>,
}

/// The relation of WeCom's clock to this machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum State {
    #[default]
    Agreed,
    Offset,
    Contradiction,
}

impl State {
    fn of(estimate: Estimate) -> Self {
        match estimate {
            Estimate { contradiction: Some(_), .. } => Self::Contradiction,
            Estimate { offset, .. } if offset.abs() > NOTABLE => Self::Offset,
            _ => Self::Agreed,
        }
    }
}

/// Logs and records estimates that differ from the last one.
pub(crate) struct ClockReporter {
    writer: Writer,
    reported: Mutex<Reported>,
}

impl ClockReporter {
    pub(crate) fn new(writer: Writer) -> Self {
        Self { writer, reported: Mutex::default() }
    }

    /// Takes the estimate after each reading of a time source.
    pub(crate) fn report(&self, estimate: Estimate) {
        let now = Instant::now();
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let state = State::of(estimate);
        let is_long_ago = |at: &Instant| now.saturating_duration_since(*at) >= LOG_INTERVAL;
        if state != reported.state && reported.logged.get(&state).is_none_or(is_long_ago) {
            reported.state = state;
            reported.logged.insert(state, now);
            log_change(state, estimate);
        }
        let is_same = |last: Estimate| {
            last.agreement == estimate.agreement
                && last.contradiction.is_some() == estimate.contradiction.is_some()
                && last.offset.saturating_sub(estimate.offset).abs() < STEP
        };
        if reported.recorded.is_some_and(is_same) {
            return;
        }
        reported.recorded = Some(estimate);
        let state = ClockState {
            offset_seconds: estimate.offset,
            agreement: estimate.agreement.as_str().to_owned(),
            date_contradicts_by: estimate.contradiction,
        };
        self.writer.submit(
            now + RECORD_TIMEOUT,
            move |connection| CLOCK.set(connection, unix_now(), &state),
            |written| {
                if let Err(error) = written {
                    log::debug!("the offset of WeCom's clock could not be recorded: {error}");
                }
            },
        );
    }
}

fn log_change(state: State, estimate: Estimate) {
    match state {
        State::Agreed => {
            log::info!("clock: WeCom's clock and this machine's agree again, offset {} s", estimate.offset)
        }
        State::Offset => log::warn!(
            "clock: this machine's clock is {} s {} WeCom's, according to {}; synchronise it (NTP); the directory uses WeCom's time",
            estimate.offset.abs(),
            if estimate.offset > 0 { "behind" } else { "ahead of" },
            estimate.agreement.as_str(),
        ),
        State::Contradiction => log::warn!(
            "clock: the Date of WeCom's answers differs from this machine's clock by {} s, and no event confirms it; \
             comparisons delete nothing meanwhile: check this machine's clock (NTP), and the gateways and caches in front of api_base",
            estimate.contradiction.unwrap_or_default(),
        ),
    }
}
