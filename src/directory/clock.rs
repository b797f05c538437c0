//! An estimate of WeCom's clock, which dates every event and every API answer.
//!
//! There are three time sources: the CreateTime of events as they arrive, the HTTP Date of API answers, and this
//! machine's clock. Each may be wrong: a gateway writes its own Date, a cache repeats an old one, an event carries
//! milliseconds, a machine boots in 1970. The estimate is the time on which two sources agree. Date together with
//! CreateTime outweighs the local clock. An old CreateTime proves nothing: events may arrive days late.
//!
//! The kernel's clock status (adjtimex) is not used. The service's unit forbids the call (`ProtectClock`), and its result
//! would not change the estimate: an unsupported local clock is never preferred to a Date, and CreateTime suffices to support
//! one.

use std::collections::VecDeque;
use std::time::Duration;

use super::time::UnixSeconds;

/// Time sources that differ by at most this (seconds) agree. Events are delivered up to some minutes late.
pub(crate) const TOLERANCE: i64 = 300;
/// Number of events whose CreateTime is kept.
const EVENTS: usize = 16;
/// Age at which an event's time expires, because the monotonic clock stops while the machine is suspended.
const EVENT_EXPIRES: Duration = Duration::from_secs(24 * 3600);
/// Age at which the Date of an answer expires.
const DATE_EXPIRES: Duration = Duration::from_secs(3600);
/// A call that takes longer than this may have begun in the second before the Date of its answer.
const PROMPT: Duration = Duration::from_millis(50);

/// A reading of this machine's clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LocalTime {
    /// The wall clock, which may be set at any time.
    pub wall: UnixSeconds,
    /// A monotonic clock of any origin; projects earlier readings to now.
    pub uptime: Duration,
}

/// The time of a write: by the local clock, and the limit of plausible stamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// This machine's wall clock, for records.
    pub local: UnixSeconds,
    /// The latest stamp that is plausible on WeCom's clock; `None` while no two time sources agree.
    pub latest: Option<UnixSeconds>,
}

impl From<UnixSeconds> for Moment {
    fn from(local: UnixSeconds) -> Self {
        Self { local, latest: None }
    }
}

/// Which time sources agree on the estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agreement {
    /// The Date of answers and the local clock.
    DateAndLocal,
    /// The Date of answers and CreateTime; the local clock is wrong.
    DateAndEvents,
    /// CreateTime and the local clock.
    EventsAndLocal,
    /// There is only the local clock, or nothing supports it.
    None,
}

impl Agreement {
    /// The name in `status --json`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DateAndLocal => "date and local clock",
            Self::DateAndEvents => "date and events",
            Self::EventsAndLocal => "events and local clock",
            Self::None => "none",
        }
    }
}

/// WeCom's clock at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// The time on WeCom's clock.
    pub now: UnixSeconds,
    /// WeCom's clock minus the local clock, in seconds.
    pub offset: i64,
    /// The sources that support `now`.
    pub agreement: Agreement,
    /// Date minus local clock in seconds, if they disagree and no event supports the Date. The answer may come from a cache or
    /// a gateway with a wrong clock, so it proves no deletion.
    pub contradiction: Option<i64>,
}

impl Estimate {
    /// The latest stamp that is plausible; `None` while no two time sources agree.
    #[must_use]
    pub fn latest(&self) -> Option<UnixSeconds> {
        (self.agreement != Agreement::None).then(|| self.now.plus(TOLERANCE))
    }
}

/// The time that a source showed at `uptime`.
#[derive(Debug, Clone, Copy)]
struct Reading {
    time: UnixSeconds,
    uptime: Duration,
}

impl Reading {
    /// The time that the source would show now; `None` if the reading has expired.
    fn project(&self, now: LocalTime, expires: Duration) -> Option<UnixSeconds> {
        let age = now.uptime.saturating_sub(self.uptime);
        (age <= expires).then(|| self.time.plus(seconds(age)))
    }
}

/// The time that an event is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamped {
    /// CreateTime, or the time of receipt on WeCom's clock.
    pub at: UnixSeconds,
    /// Whether `at` is the time of receipt, because CreateTime is too far ahead.
    pub clamped: bool,
}

/// The readings of the time sources.
#[derive(Debug, Default)]
pub(crate) struct WecomClock {
    date: Option<Reading>,
    /// Readings of CreateTime, the newest last.
    events: VecDeque<Reading>,
    event_arrived: bool,
}

impl WecomClock {
    /// Estimates WeCom's clock at `now`.
    pub(crate) fn estimate(&self, now: LocalTime) -> Estimate {
        let local = now.wall;
        // Position of the newest event that supports a time; greater is newer.
        let support = |at: UnixSeconds| {
            self.events
                .iter()
                .rposition(|event| event.project(now, EVENT_EXPIRES).is_some_and(|time| agree(time, at)))
        };
        let date = self.date.and_then(|date| date.project(now, DATE_EXPIRES));
        let (estimate, agreement) = match date {
            Some(date) if agree(date, local) => (date, Agreement::DateAndLocal),
            Some(date) if support(date) > support(local) => (date, Agreement::DateAndEvents),
            _ if support(local).is_some() => (local, Agreement::EventsAndLocal),
            _ => (local, Agreement::None),
        };
        let contradiction = date.filter(|date| !agree(*date, estimate)).map(|date| date.since(local));
        Estimate { now: estimate, offset: estimate.since(local), agreement, contradiction }
    }

    /// Stamps an event that arrives now with its CreateTime, or with the estimate if CreateTime is ahead of it. An old
    /// CreateTime is kept: the event is late.
    pub(crate) fn stamp_event(&mut self, create_time: UnixSeconds, now: LocalTime) -> Stamped {
        self.event_arrived = true;
        self.events.push_back(Reading { time: create_time, uptime: now.uptime });
        if self.events.len() > EVENTS {
            self.events.pop_front();
        }
        let estimate = self.estimate(now).now;
        let clamped = create_time.since(estimate) > TOLERANCE;
        Stamped { at: if clamped { estimate } else { create_time }, clamped }
    }

    /// Stamps an API answer that arrives now with the time of its request on WeCom's clock, `took` earlier. Rounds down, so
    /// that events from the request on outrank the answer.
    pub(crate) fn stamp_answer(
        &mut self,
        date: Option<UnixSeconds>,
        took: Duration,
        now: LocalTime,
    ) -> UnixSeconds {
        if let Some(time) = date {
            self.date = Some(Reading { time, uptime: now.uptime });
        }
        let estimate = self.estimate(now).now;
        let at = match date {
            None => estimate,
            // No event has confirmed either clock yet; the answer must not outrank future events.
            Some(date) if !self.event_arrived => date.min(now.wall),
            Some(date) if date.since(estimate) > TOLERANCE => estimate,
            Some(date) => date,
        };
        let age = if took <= PROMPT { 0 } else { seconds(took).saturating_add(1) };
        at.plus(-age)
    }
}

fn agree(a: UnixSeconds, b: UnixSeconds) -> bool {
    a.since(b).unsigned_abs() <= TOLERANCE.unsigned_abs()
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUE: i64 = 1_790_000_000;
    const DAY: i64 = 86_400;
    const YEARS_75: i64 = 75 * 365 * DAY;

    /// `second` seconds after the beginning, on a machine whose wall clock is off by `error`.
    fn local(second: i64, error: i64) -> LocalTime {
        let uptime = Duration::from_secs(u64::try_from(second).unwrap());
        LocalTime { wall: UnixSeconds(TRUE + second + error), uptime }
    }

    fn at(second: i64, error: i64) -> UnixSeconds {
        UnixSeconds(TRUE + second + error)
    }

    #[test]
    fn one_wrong_source_is_outvoted() {
        for error in [YEARS_75, DAY, -DAY, TRUE * 999] {
            let mut clock = WecomClock::default();
            // A wrong Date.
            clock.stamp_event(at(0, 0), local(0, 0));
            let stamp = clock.stamp_answer(Some(at(1, error)), Duration::ZERO, local(1, 0));
            let estimate = clock.estimate(local(1, 0));
            assert_eq!((estimate.now, estimate.agreement), (at(1, 0), Agreement::EventsAndLocal), "{error}");
            assert_eq!(estimate.contradiction, Some(error));
            assert!(stamp <= at(1, 0), "{error}: {stamp}");
            // A wrong CreateTime.
            let mut clock = WecomClock::default();
            clock.stamp_answer(Some(at(0, 0)), Duration::ZERO, local(0, 0));
            let stamped = clock.stamp_event(at(1, error), local(1, 0));
            let expected = if error > 0 { at(1, 0) } else { at(1, error) };
            assert_eq!(stamped, Stamped { at: expected, clamped: error > 0 });
            assert_eq!(clock.estimate(local(1, 0)).agreement, Agreement::DateAndLocal);
            // A wrong local clock.
            let mut clock = WecomClock::default();
            clock.stamp_answer(Some(at(0, 0)), Duration::ZERO, local(0, error));
            let stamped = clock.stamp_event(at(1, 0), local(1, error));
            assert_eq!(stamped, Stamped { at: at(1, 0), clamped: false });
            let estimate = clock.estimate(local(1, error));
            assert_eq!((estimate.now, estimate.agreement), (at(1, 0), Agreement::DateAndEvents), "{error}");
            assert_eq!((estimate.offset, estimate.contradiction), (-error, None));
        }
    }

    #[test]
    fn until_an_event_arrives_an_answer_has_the_earlier_of_two_times() {
        for (date, wall, expected) in [(0, 0, 0), (DAY, 0, 0), (-DAY, 0, -DAY), (0, DAY, 0), (0, -DAY, -DAY)]
        {
            let stamp = WecomClock::default().stamp_answer(Some(at(0, date)), Duration::ZERO, local(0, wall));
            assert_eq!(stamp, at(0, expected), "{date} {wall}");
        }
        let without_date = WecomClock::default().stamp_answer(None, Duration::ZERO, local(0, 7));
        assert_eq!(without_date, at(0, 7));
    }

    #[test]
    fn a_late_event_proves_nothing_and_keeps_its_time() {
        let mut clock = WecomClock::default();
        clock.stamp_answer(Some(at(0, 0)), Duration::ZERO, local(0, 0));
        for days in 1..30 {
            let stamped = clock.stamp_event(at(days, -days * DAY), local(days, 0));
            assert_eq!(stamped, Stamped { at: at(days, -days * DAY), clamped: false });
        }
        let estimate = clock.estimate(local(40, 0));
        assert_eq!((estimate.agreement, estimate.contradiction), (Agreement::DateAndLocal, None));
    }

    #[test]
    fn the_estimate_recovers_with_the_first_reading_after_a_fault() {
        let mut clock = WecomClock::default();
        for second in 0..20 {
            clock.stamp_answer(Some(at(second, DAY)), Duration::ZERO, local(second, 0));
            clock.stamp_event(at(second, DAY), local(second, 0));
        }
        assert_eq!(clock.estimate(local(20, 0)).agreement, Agreement::DateAndEvents, "two agree");
        let stamped = clock.stamp_event(at(21, 0), local(21, 0));
        assert_eq!(stamped, Stamped { at: at(21, 0), clamped: false });
        assert_eq!(clock.estimate(local(21, 0)).agreement, Agreement::EventsAndLocal);
        clock.stamp_answer(Some(at(22, 0)), Duration::ZERO, local(22, 0));
        assert_eq!(clock.estimate(local(22, 0)).agreement, Agreement::DateAndLocal);
    }

    #[test]
    fn without_two_that_agree_nothing_is_restamped() {
        let mut clock = WecomClock::default();
        assert_eq!(clock.estimate(local(0, 0)).latest(), None);
        clock.stamp_answer(Some(at(0, DAY)), Duration::ZERO, local(0, 0));
        let estimate = clock.estimate(local(0, 0));
        assert_eq!((estimate.latest(), estimate.contradiction), (None, Some(DAY)));
        clock.stamp_event(at(1, 0), local(1, 0));
        assert_eq!(clock.estimate(local(1, 0)).latest(), Some(at(1, TOLERANCE)));
    }

    #[test]
    fn a_slow_answer_is_stamped_rather_too_early() {
        let now = local(100, 0);
        let stamp = |took| WecomClock::default().stamp_answer(Some(at(100, 0)), took, now);
        assert_eq!(stamp(Duration::from_millis(20)), at(100, 0));
        assert_eq!(stamp(Duration::from_millis(300)), at(99, 0));
        assert_eq!(stamp(Duration::from_millis(4300)), at(95, 0));
    }

    #[test]
    fn readings_expire() {
        let mut clock = WecomClock::default();
        clock.stamp_answer(Some(at(0, DAY)), Duration::ZERO, local(0, 0));
        assert!(clock.estimate(local(3600, 0)).contradiction.is_some());
        assert_eq!(clock.estimate(local(3601, 0)).contradiction, None);
    }
}
