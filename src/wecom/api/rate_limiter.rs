//! Rate limiter of all API calls: a sliding window of one minute, an even rate within it, a limit per API, and a fair
//! share for each priority. Pure: the time is a parameter.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::endpoints::Api;

/// A minute as WeCom counts it, with a second of tolerance for network delay.
const WINDOW: Duration = Duration::from_secs(61);
/// Calls of one API per minute; WeCom allows 10,000 (doc 90454).
pub(super) const API_PER_MINUTE: usize = 8_000;
/// Calls of one API per hour; WeCom allows 150,000 (doc 90454).
const API_PER_HOUR: usize = 120_000;
/// The burst is one of this many parts of the calls per window. What a burst uses is not there for the even rate.
const BURST_PARTS: f64 = 50.0;
/// Smallest burst in calls, also of a low rate.
const MIN_BURST: f64 = 3.0;
/// The burst takes at most this share of the calls per window from the even rate.
const MAX_BURST_SHARE: f64 = 0.1;
/// A caller counts as waiting for this long after its wait.
const WAITING_GRACE: Duration = Duration::from_millis(500);

/// Which calls precede others when the rate is exhausted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priority {
    /// An event named the member just now; precedes all others.
    Now,
    /// A conversion that is due. This and the next two get equal shares.
    Conversion,
    /// Details of a changed member.
    Details,
    /// A call of a reconcile, of which there may be many.
    Reconcile,
    /// Details of all members in a new database; only while no other caller waits.
    Fill,
}

impl Priority {
    /// Index of its share, if it has one.
    fn share(self) -> Option<usize> {
        match self {
            Self::Now | Self::Fill => None,
            Self::Conversion => Some(0),
            Self::Details => Some(1),
            Self::Reconcile => Some(2),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Share {
    served: f64,
    waiting_until: Instant,
}

#[derive(Debug)]
pub(super) struct RateLimiter {
    per_minute: usize,
    /// Calls of the last window, oldest first.
    calls: VecDeque<(Instant, Api)>,
    per_api: HashMap<Api, ApiCalls>,
    /// Token bucket: calls that may be made at once; refilled evenly up to `burst`.
    bucket: f64,
    burst: f64,
    /// Even rate: a burst and a window at this rate are `per_minute` calls, so that the window does not stop all callers,
    /// the urgent ones included, until a burst is a minute old.
    per_second: f64,
    refilled_at: Instant,
    shares: [Share; 3],
}

impl RateLimiter {
    /// Allows at most `per_minute` calls (at least 1) in any minute.
    pub(super) fn new(per_minute: u32, now: Instant) -> Self {
        let mut limiter = Self {
            per_minute: 0,
            calls: VecDeque::new(),
            per_api: HashMap::new(),
            bucket: f64::INFINITY,
            burst: 0.0,
            per_second: 0.0,
            refilled_at: now,
            shares: [Share { served: 0.0, waiting_until: now }; 3],
        };
        limiter.set_rate(per_minute);
        limiter
    }

    /// Allows another number of calls from now on; those of the last minute count.
    pub(super) fn set_rate(&mut self, per_minute: u32) {
        let per_minute = per_minute.max(1);
        let all = f64::from(per_minute);
        self.burst = (all / BURST_PARTS).max(MIN_BURST).min(all);
        self.per_second = (all - self.burst.min(all * MAX_BURST_SHARE)) / WINDOW.as_secs_f64();
        self.per_minute = usize::try_from(per_minute).unwrap_or(usize::MAX);
        self.bucket = self.bucket.min(self.burst);
    }

    /// Counts calls of a previous run, given their ages, oldest first: WeCom counts them in the same minute.
    pub(super) fn called_before(&mut self, calls: impl IntoIterator<Item = (Api, Duration)>, now: Instant) {
        for (api, age) in calls {
            let Some(at) = now.checked_sub(age).filter(|_| age < WINDOW) else { continue };
            self.calls.push_back((at, api));
            self.per_api.entry(api).or_default().count(at);
        }
    }

    /// Counts a call that is made now, or returns how long to wait before the next attempt.
    pub(super) fn try_acquire(&mut self, now: Instant, api: Api, priority: Priority) -> Result<(), Duration> {
        while let Some((call, of)) = self.calls.front().copied()
            && now.saturating_duration_since(call) >= WINDOW
        {
            self.calls.pop_front();
            self.per_api.entry(of).or_default().in_window -= 1;
        }
        let until_free = |oldest: Option<&(Instant, Api)>| {
            oldest.map_or(WINDOW, |(call, _)| (*call + WINDOW).saturating_duration_since(now))
        };
        if self.calls.len() >= self.per_minute {
            let wait = until_free(self.calls.front());
            return Err(self.record_wait(priority, now, wait));
        }
        // Not recorded as waiting: other APIs need not yield to a caller whose own API is exhausted.
        let of_api = self.per_api.entry(api).or_default();
        if of_api.in_window >= API_PER_MINUTE {
            return Err(until_free(self.calls.iter().find(|(_, of)| *of == api)));
        }
        of_api.check_hour(now)?;

        let per_second = self.per_second;
        let passed = now.saturating_duration_since(self.refilled_at).as_secs_f64();
        self.bucket = (self.bucket + passed * per_second).min(self.burst);
        self.refilled_at = now;
        let needed = match priority {
            Priority::Now => 1.0,
            // Half a burst is reserved for Priority::Now.
            _ => 1.0_f64.max(self.burst / 2.0),
        };
        // Tolerates rounding errors.
        if self.bucket + 1e-9 < needed {
            let wait = Duration::from_secs_f64((needed - self.bucket) / per_second);
            return Err(self.record_wait(priority, now, wait.max(Duration::from_millis(1))));
        }
        if self.must_yield(priority, now) {
            let wait = Duration::from_secs_f64((1.0 / per_second).clamp(0.001, 1.0));
            return Err(self.record_wait(priority, now, wait));
        }
        if let Some(share) = priority.share() {
            self.shares[share].served += 1.0;
        }
        self.bucket -= 1.0;
        self.calls.push_back((now, api));
        self.per_api.entry(api).or_default().count(now);
        Ok(())
    }

    /// Marks the priority as waiting, so that the others yield its share. Returns `wait`.
    fn record_wait(&mut self, priority: Priority, now: Instant, wait: Duration) -> Duration {
        let Some(share) = priority.share() else { return wait };
        if self.shares[share].waiting_until < now {
            // Idle callers accrue no credit.
            let active = self.shares.iter().filter(|other| other.waiting_until >= now);
            let least = active.map(|other| other.served).fold(f64::INFINITY, f64::min);
            if least.is_finite() {
                self.shares[share].served = self.shares[share].served.max(least);
            }
        }
        self.shares[share].waiting_until = now + wait + WAITING_GRACE;
        wait
    }

    fn must_yield(&self, priority: Priority, now: Instant) -> bool {
        let mut waiting = self.shares.iter().enumerate().filter(|(_, share)| share.waiting_until > now);
        match priority {
            Priority::Now => false,
            Priority::Fill => waiting.next().is_some(),
            _ => priority.share().is_some_and(|own| {
                waiting.any(|(other, share)| other != own && share.served + 1.0 <= self.shares[own].served)
            }),
        }
    }
}

#[derive(Debug, Default)]
struct ApiCalls {
    in_window: usize,
    /// The last hour in windows: start of each, and the calls in it.
    minutes: VecDeque<(Instant, usize)>,
    in_hour: usize,
}

impl ApiCalls {
    /// The error is how long to wait until the hour has room.
    fn check_hour(&mut self, now: Instant) -> Result<(), Duration> {
        // A window counts until its last call is an hour old.
        let hour = WINDOW * 61;
        while let Some((began, calls)) = self.minutes.front()
            && now.saturating_duration_since(*began) >= hour
        {
            self.in_hour -= calls;
            self.minutes.pop_front();
        }
        match self.minutes.front() {
            Some((oldest, _)) if self.in_hour >= API_PER_HOUR => {
                Err((*oldest + hour).saturating_duration_since(now))
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, now: Instant) {
        self.in_window += 1;
        self.in_hour += 1;
        match self.minutes.back_mut() {
            Some((began, calls)) if now.saturating_duration_since(*began) < WINDOW => *calls += 1,
            _ => self.minutes.push_back((now, 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const API: Api = Api::ConvertToOpenid;

    /// Calls at the highest rate allowed until `seconds` after `start`; returns the time of each call in milliseconds.
    fn run(limiter: &mut RateLimiter, start: Instant, seconds: u64, priority: Priority) -> Vec<u128> {
        let (mut now, mut made) = (start.max(limiter.refilled_at), Vec::new());
        while now < start + Duration::from_secs(seconds) {
            match limiter.try_acquire(now, API, priority) {
                Ok(()) => made.push(now.duration_since(start).as_millis()),
                Err(wait) => now += wait,
            }
        }
        made
    }

    /// The most calls in any 61 s.
    fn busiest(made: &[u128]) -> usize {
        let within = |i: usize| made[i..].iter().take_while(|at| **at < made[i] + WINDOW.as_millis()).count();
        (0..made.len()).map(within).max().unwrap_or(0)
    }

    proptest! {
        #[test]
        fn no_minute_ever_has_more_calls_than_allowed(per_minute in 1u32..400) {
            let start = Instant::now();
            let made = run(&mut RateLimiter::new(per_minute, start), start, 300, Priority::Now);
            let limit = usize::try_from(per_minute).unwrap();
            prop_assert!(busiest(&made) <= limit, "{} > {limit}", busiest(&made));
            prop_assert!(made.len() >= limit * 4, "only {} calls in five minutes", made.len());
        }

        /// Many callers of every priority at the same time, with calls of any duration, that come, go and are late.
        #[test]
        fn no_61_seconds_have_more_calls_than_allowed_whoever_makes_them(
            per_minute in 1u32..300,
            callers in proptest::collection::vec((0usize..5, 0u64..3000, 0u64..200, 0u64..120), 1..12),
        ) {
            use Priority::{Conversion, Details, Fill, Now, Reconcile};
            let start = Instant::now();
            let mut limiter = RateLimiter::new(per_minute, start);
            let mut next: Vec<u128> = callers.iter().map(|(.., pause)| u128::from(pause * 1000)).collect();
            let mut made = Vec::new();
            while let Some((who, at)) = next.iter().copied().enumerate().min_by_key(|(_, at)| *at) {
                if at > 250_000 {
                    break;
                }
                let (priority, took, late, _) = callers[who];
                let now = start + Duration::from_millis(u64::try_from(at).unwrap());
                let priority = [Now, Conversion, Details, Reconcile, Fill][priority];
                let wait = match limiter.try_acquire(now, API, priority) {
                    Ok(()) => {
                        made.push(at);
                        u128::from(took)
                    }
                    Err(wait) => wait.as_millis() + 1 + u128::from(late),
                };
                next[who] = at + wait;
            }
            prop_assert!(busiest(&made) <= usize::try_from(per_minute).unwrap(), "{}", busiest(&made));
        }
    }

    #[test]
    fn calls_of_a_previous_run_count_until_they_are_a_minute_old() {
        let start = Instant::now() + WINDOW;
        let mut limiter = RateLimiter::new(20, start);
        limiter.called_before([(API, WINDOW), (API, Duration::from_secs(31))], start);
        limiter.called_before((0..19).map(|_| (API, Duration::from_secs(1))), start);
        assert_eq!(limiter.try_acquire(start, API, Priority::Now), Err(Duration::from_secs(30)));
        assert_eq!(limiter.try_acquire(start + Duration::from_secs(30), API, Priority::Now), Ok(()));
    }

    #[test]
    fn another_rate_applies_at_once_and_earlier_calls_count() {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(6000, start);
        let made = run(&mut limiter, start, 1, Priority::Now).len();
        assert!(made > 60, "{made}");
        limiter.set_rate(60);
        assert!(limiter.try_acquire(start + Duration::from_secs(2), API, Priority::Now).is_err());
        let later = start + Duration::from_secs(70);
        let made = run(&mut limiter, later, 61, Priority::Now).len();
        assert!((50..=60).contains(&made), "{made}");
    }

    #[test]
    fn conversions_leave_a_reserve_for_urgent_calls() {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(600, start);
        while limiter.try_acquire(start, API, Priority::Conversion).is_ok() {}
        let urgent = (0..100).filter(|_| limiter.try_acquire(start, API, Priority::Now).is_ok()).count();
        assert!((5..=6).contains(&urgent), "{urgent}");
    }

    #[test]
    fn urgent_calls_find_a_reserve_at_any_time_of_a_long_fill() {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(6000, start);
        for minute in 1..5 {
            let filled = run(&mut limiter, start, minute * 60, Priority::Conversion).len();
            let now = start + Duration::from_secs(minute * 60);
            let urgent = (0..100).filter(|_| limiter.try_acquire(now, API, Priority::Now).is_ok()).count();
            assert!(urgent >= 50, "{urgent} in minute {minute} after {filled}");
        }
    }

    /// Runs several callers that obey their waits and whose calls take `millis`; returns the calls that each made.
    fn compete(per_minute: u32, seconds: u64, callers: &[(Priority, u64)]) -> Vec<usize> {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(per_minute, start);
        let mut next: Vec<Instant> = callers.iter().map(|_| start).collect();
        let mut made = vec![0; callers.len()];
        loop {
            let Some((who, now)) = next.iter().copied().enumerate().min_by_key(|(_, at)| *at) else {
                return made;
            };
            if now > start + Duration::from_secs(seconds) {
                return made;
            }
            let (priority, millis) = callers[who];
            next[who] = match limiter.try_acquire(now, API, priority) {
                Ok(()) => {
                    made[who] += 1;
                    now + Duration::from_millis(millis)
                }
                Err(wait) => now + wait,
            };
        }
    }

    #[test]
    fn shares_are_equal_for_any_number_of_threads() {
        use Priority::{Conversion, Details, Fill, Reconcile};
        for per_minute in [60, 600, 5000] {
            let callers = [Conversion, Conversion, Conversion, Details, Reconcile, Fill].map(|p| (p, 5));
            let made = compete(per_minute, 600, &callers);
            let conversions: usize = made[..3].iter().sum();
            let total: usize = made.iter().sum();
            for share in [conversions, made[3], made[4]] {
                assert!(share * 100 > total * 30, "{per_minute}: {made:?}");
            }
            assert!(made[5] * 20 < total, "Priority::Fill goes last: {made:?}");
            let possible = usize::try_from(per_minute).unwrap() * 10;
            assert!(total * 100 > possible * 90, "the rate is used up: {total} of {possible}");
        }
    }

    #[test]
    fn a_caller_alone_may_use_the_whole_rate() {
        for priority in [Priority::Reconcile, Priority::Fill] {
            let made = compete(600, 600, &[(priority, 0)]);
            assert!(made[0] > 5600, "{made:?}");
        }
    }

    #[test]
    fn others_use_what_a_slow_or_occasional_caller_does_not() {
        use Priority::{Conversion, Details, Reconcile};
        for (priority, millis) in [(Reconcile, 80), (Details, 1000)] {
            let callers = [vec![(priority, millis)], vec![(Conversion, 80); 9]].concat();
            let made = compete(5000, 600, &callers);
            assert!(made[0] > 500_000 / usize::try_from(millis).unwrap(), "it is served at once: {made:?}");
            assert!(made.iter().sum::<usize>() > 50_000 * 96 / 100, "{made:?}");
        }
    }

    #[test]
    fn one_api_stays_below_wecoms_hourly_limit_and_others_continue() {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(20_000, start);
        let made = run(&mut limiter, start, 3600, Priority::Now);
        assert!(made.len() <= API_PER_HOUR, "{}", made.len());
        let first = made.iter().take_while(|at| **at < 60_000).count();
        assert!(first <= API_PER_MINUTE, "{first}");
        let later = start + Duration::from_secs(3600);
        assert!(limiter.try_acquire(later, API, Priority::Now).is_err());
        assert!(limiter.try_acquire(later, Api::UserGet, Priority::Now).is_ok());
    }
}
