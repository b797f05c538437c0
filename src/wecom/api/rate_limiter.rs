//! How often WeCom may be called: never more than so many times in any minute, evenly, far below WeCom's
//! limits for each API, and fairly between those who want to call. Pure: the time is given.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::endpoints::Api;

/// A minute as WeCom counts it, with a second to spare for what the network delays.
const WINDOW: Duration = Duration::from_secs(61);
/// Calls of one API in a minute; WeCom allows 10,000 (doc 90454).
const API_PER_MINUTE: usize = 8_000;
/// Calls of one API in an hour; WeCom allows 150,000 (doc 90454).
const API_PER_HOUR: usize = 120_000;

/// For what a call is made: who goes first when calls are short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Something has just happened that this call is about; goes before all others.
    Now,
    /// Conversions that are due. These three share fairly.
    Conversion,
    /// Details of members that changed.
    Details,
    /// Comparing the directory with WeCom.
    Reconcile,
    /// Details of all members of a company that is new here: only when nobody else wants to call.
    Fill,
}

impl Priority {
    /// Its place among those who share fairly.
    fn share(self) -> Option<usize> {
        match self {
            Self::Now | Self::Fill => None,
            Self::Conversion => Some(0),
            Self::Details => Some(1),
            Self::Reconcile => Some(2),
        }
    }
}

/// One of those who share: how much it had, and until when it is known to want more.
#[derive(Debug, Clone, Copy)]
struct Share {
    served: f64,
    wants_until: Instant,
}

/// The limiter of all API calls together.
#[derive(Debug)]
pub struct RateLimiter {
    per_minute: usize,
    /// Calls of the last window, oldest first.
    calls: VecDeque<(Instant, Api)>,
    per_api: HashMap<Api, ApiCalls>,
    /// Calls that may be made at once now; grows with time up to `burst`.
    ready: f64,
    burst: f64,
    since: Instant,
    shares: [Share; 3],
}

impl RateLimiter {
    /// At most `per_minute` calls (1 at least) in any minute.
    #[must_use]
    pub fn new(per_minute: u32, now: Instant) -> Self {
        let per_minute = per_minute.max(1);
        let burst = f64::from((per_minute / 10).max(1));
        Self {
            per_minute: usize::try_from(per_minute).unwrap_or(usize::MAX),
            calls: VecDeque::new(),
            per_api: HashMap::new(),
            ready: burst,
            burst,
            since: now,
            shares: [Share { served: 0.0, wants_until: now }; 3],
        }
    }

    /// Counts calls that were made so long ago, the oldest first: another run's count in the same minute.
    pub fn called_before(&mut self, calls: impl IntoIterator<Item = (Api, Duration)>, now: Instant) {
        for (api, ago) in calls {
            let Some(at) = now.checked_sub(ago).filter(|_| ago < WINDOW) else { continue };
            self.calls.push_back((at, api));
            self.per_api.entry(api).or_default().made(at);
        }
    }

    /// Counts a call that is made now.
    ///
    /// # Errors
    /// How long to wait before asking again, if it may not be made now.
    pub fn take(&mut self, now: Instant, api: Api, priority: Priority) -> Result<(), Duration> {
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
            return Err(self.wants(priority, now, wait));
        }
        // That one API is used up is no reason for others to leave anything to whoever wants it.
        let of_api = self.per_api.entry(api).or_default();
        if of_api.in_window >= API_PER_MINUTE {
            return Err(until_free(self.calls.iter().find(|(_, of)| *of == api)));
        }
        of_api.may(now)?;

        // Exact up to 2^52 calls a minute.
        #[allow(clippy::cast_precision_loss)]
        let per_second = self.per_minute as f64 / 60.0;
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        self.ready = (self.ready + passed * per_second).min(self.burst);
        self.since = now;
        let needed = match priority {
            Priority::Now => 1.0,
            // Leaves a reserve for what is urgent.
            _ => 1.0_f64.max(self.burst / 2.0),
        };
        // A whole call's worth may be missing a rounding error.
        if self.ready + 1e-9 < needed {
            let wait = Duration::from_secs_f64((needed - self.ready) / per_second);
            return Err(self.wants(priority, now, wait.max(Duration::from_millis(1))));
        }
        if self.others_first(priority, now) {
            let wait = Duration::from_secs_f64((1.0 / per_second).clamp(0.001, 1.0));
            return Err(self.wants(priority, now, wait));
        }
        if let Some(share) = priority.share() {
            self.shares[share].served += 1.0;
        }
        self.ready -= 1.0;
        self.calls.push_back((now, api));
        self.per_api.entry(api).or_default().made(now);
        Ok(())
    }

    /// Remembers who has to wait, so that others leave it its share.
    fn wants(&mut self, priority: Priority, now: Instant, wait: Duration) -> Duration {
        let Some(share) = priority.share() else { return wait };
        if self.shares[share].wants_until < now {
            // Whoever wanted nothing for a while has nothing to catch up on.
            let active = self.shares.iter().filter(|other| other.wants_until >= now);
            let least = active.map(|other| other.served).fold(f64::INFINITY, f64::min);
            if least.is_finite() {
                self.shares[share].served = self.shares[share].served.max(least);
            }
        }
        self.shares[share].wants_until = now + wait + Duration::from_millis(500);
        wait
    }

    fn others_first(&self, priority: Priority, now: Instant) -> bool {
        let mut wanting = self.shares.iter().enumerate().filter(|(_, share)| share.wants_until > now);
        match priority {
            Priority::Now => false,
            Priority::Fill => wanting.next().is_some(),
            _ => priority.share().is_some_and(|own| {
                wanting.any(|(other, share)| other != own && share.served + 1.0 <= self.shares[own].served)
            }),
        }
    }
}

/// How often one API was called.
#[derive(Debug, Default)]
struct ApiCalls {
    /// In the last window.
    in_window: usize,
    /// In the last hour: when a minute began, and the calls in it.
    minutes: VecDeque<(Instant, usize)>,
    in_hour: usize,
}

impl ApiCalls {
    fn may(&mut self, now: Instant) -> Result<(), Duration> {
        // A minute's calls count until the last of them is an hour old.
        let over = WINDOW * 61;
        while let Some((began, calls)) = self.minutes.front()
            && now.saturating_duration_since(*began) >= over
        {
            self.in_hour -= calls;
            self.minutes.pop_front();
        }
        match self.minutes.front() {
            Some((oldest, _)) if self.in_hour >= API_PER_HOUR => {
                Err((*oldest + over).saturating_duration_since(now))
            }
            _ => Ok(()),
        }
    }

    fn made(&mut self, now: Instant) {
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

    /// Calls as fast as it may for `seconds`; when each was made, in milliseconds.
    fn run(pace: &mut RateLimiter, start: Instant, seconds: u64, priority: Priority) -> Vec<u128> {
        let (mut now, mut made) = (start, Vec::new());
        while now < start + Duration::from_secs(seconds) {
            match pace.take(now, API, priority) {
                Ok(()) => made.push(now.duration_since(start).as_millis()),
                Err(wait) => now += wait,
            }
        }
        made
    }

    proptest! {
        #[test]
        fn no_minute_ever_has_more_calls_than_allowed(per_minute in 1u32..400) {
            let start = Instant::now();
            let made = run(&mut RateLimiter::new(per_minute, start), start, 300, Priority::Now);
            let limit = usize::try_from(per_minute).unwrap();
            for (i, first) in made.iter().enumerate() {
                let within = made[i..].iter().take_while(|t| **t < first + 60_000).count();
                prop_assert!(within <= limit, "{within} > {limit}");
            }
            prop_assert!(made.len() >= limit * 4, "only {} calls in five minutes", made.len());
        }
    }

    #[test]
    fn calls_of_a_run_before_count_until_they_are_a_minute_old() {
        let start = Instant::now() + WINDOW;
        let mut pace = RateLimiter::new(20, start);
        pace.called_before([(API, WINDOW), (API, Duration::from_secs(31))], start);
        pace.called_before((0..19).map(|_| (API, Duration::from_secs(1))), start);
        assert_eq!(pace.take(start, API, Priority::Now), Err(Duration::from_secs(30)));
        assert_eq!(pace.take(start + Duration::from_secs(30), API, Priority::Now), Ok(()));
    }

    #[test]
    fn what_can_wait_leaves_a_reserve_for_what_is_urgent() {
        let start = Instant::now();
        let mut pace = RateLimiter::new(600, start);
        while pace.take(start, API, Priority::Conversion).is_ok() {}
        let urgent = (0..100).filter(|_| pace.take(start, API, Priority::Now).is_ok()).count();
        assert!((25..=30).contains(&urgent), "{urgent}");
    }

    /// Several callers, each asking again when it is told to; how many calls each made.
    fn compete(per_minute: u32, seconds: u64, callers: &[Priority]) -> Vec<usize> {
        let start = Instant::now();
        let mut pace = RateLimiter::new(per_minute, start);
        let mut next: Vec<Instant> = callers.iter().map(|_| start).collect();
        let mut made = vec![0; callers.len()];
        loop {
            let Some((who, now)) = next.iter().copied().enumerate().min_by_key(|(_, at)| *at) else {
                return made;
            };
            if now > start + Duration::from_secs(seconds) {
                return made;
            }
            next[who] = match pace.take(now, API, callers[who]) {
                Ok(()) => {
                    made[who] += 1;
                    // The call itself takes a while.
                    now + Duration::from_millis(5)
                }
                Err(wait) => now + wait,
            };
        }
    }

    #[test]
    fn those_who_share_get_the_same_however_many_threads_they_have() {
        use Priority::{Conversion, Details, Fill, Reconcile};
        for per_minute in [60, 600, 5000] {
            let made =
                compete(per_minute, 600, &[Conversion, Conversion, Conversion, Details, Reconcile, Fill]);
            let conversions: usize = made[..3].iter().sum();
            let total: usize = made.iter().sum();
            for share in [conversions, made[3], made[4]] {
                assert!(share * 100 > total * 30, "{per_minute}: {made:?}");
            }
            assert!(made[5] * 20 < total, "what fills goes last: {made:?}");
            let possible = usize::try_from(per_minute).unwrap() * 10;
            assert!(total * 100 > possible * 90, "nothing is wasted: {total} of {possible}");
        }
    }

    #[test]
    fn alone_anybody_may_use_everything() {
        for priority in [Priority::Reconcile, Priority::Fill] {
            let made = compete(600, 600, &[priority]);
            assert!(made[0] > 5500, "{made:?}");
        }
    }

    #[test]
    fn one_api_stays_below_wecoms_hourly_limit_and_others_go_on() {
        let start = Instant::now();
        let mut pace = RateLimiter::new(20_000, start);
        let made = run(&mut pace, start, 3600, Priority::Now);
        assert!(made.len() <= API_PER_HOUR, "{}", made.len());
        let first = made.iter().take_while(|at| **at < 60_000).count();
        assert!(first <= API_PER_MINUTE, "{first}");
        let later = start + Duration::from_secs(3600);
        assert!(pace.take(later, API, Priority::Now).is_err());
        assert!(pace.take(later, Api::UserGet, Priority::Now).is_ok());
    }
}
