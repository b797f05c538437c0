//! Counts events of the last hour in spans of a minute.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::directory::UnixSeconds;

const HOUR: Duration = Duration::from_secs(3600);
/// Length of a span. It bounds the memory.
const SPAN: Duration = Duration::from_secs(60);

/// A sliding count, exact to one span.
#[derive(Debug, Default)]
pub(crate) struct LastHour(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Beginning and count of each span, the oldest first.
    spans: VecDeque<(Instant, u64)>,
    last: Option<(Instant, UnixSeconds)>,
}

impl LastHour {
    pub(crate) fn note(&self, now: Instant, at: UnixSeconds) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.last = Some((now, at));
        state.spans.retain(|(begun, _)| now.saturating_duration_since(*begun) < HOUR);
        match state.spans.back_mut() {
            Some((begun, count)) if now.saturating_duration_since(*begun) < SPAN => {
                *count = count.saturating_add(1);
            }
            _ => state.spans.push_back((now, 1)),
        }
    }

    /// The count of the last hour and the time of the last event; `None` if that is an hour ago.
    pub(crate) fn get(&self, now: Instant) -> Option<(u64, UnixSeconds)> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, last) = state.last.filter(|(last, _)| now.saturating_duration_since(*last) < HOUR)?;
        let recent =
            state.spans.iter().filter(|(begun, _)| now.saturating_duration_since(*begun) < HOUR + SPAN);
        Some((recent.map(|(_, count)| count).sum(), last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_slides_and_ends_an_hour_after_the_last() {
        let (hour, begun) = (LastHour::default(), Instant::now());
        let minutes = |n: u64| begun + Duration::from_secs(60 * n);
        assert_eq!(hour.get(begun), None);
        for minute in [0, 0, 30, 59] {
            hour.note(minutes(minute), UnixSeconds(1000 + minute as i64));
        }
        assert_eq!(hour.get(minutes(59)), Some((4, UnixSeconds(1059))));
        assert_eq!(hour.get(minutes(62)), Some((2, UnixSeconds(1059))));
        assert_eq!(hour.get(minutes(118)), Some((1, UnixSeconds(1059))));
        assert_eq!(hour.get(minutes(119)), None);
        for _ in 0..100_000 {
            hour.note(minutes(200), UnixSeconds(5));
        }
        assert_eq!(hour.get(minutes(200)), Some((100_000, UnixSeconds(5))));
        assert_eq!(hour.0.lock().unwrap().spans.len(), 1);
    }
}
