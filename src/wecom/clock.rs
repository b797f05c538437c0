//! The estimate of WeCom's clock, shared by all threads; [`crate::directory::clock`] computes it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::directory::UnixSeconds;
use crate::directory::clock::{Estimate, LocalTime, Moment, Stamped, WecomClock};
use crate::unix_time::unix_now;

type Observer = Box<dyn Fn(Estimate) + Send + Sync>;

struct Shared {
    clock: Mutex<WecomClock>,
    started: Instant,
    observer: Observer,
}

/// WeCom's clock. Clones share one estimate.
#[derive(Clone)]
pub struct SharedClock(Arc<Shared>);

impl Default for SharedClock {
    fn default() -> Self {
        Self::new(|_| {})
    }
}

impl SharedClock {
    /// A clock without readings. It calls `observer`, which must not block, with the estimate after each reading.
    pub fn new(observer: impl Fn(Estimate) + Send + Sync + 'static) -> Self {
        let (clock, started) = (Mutex::default(), Instant::now());
        Self(Arc::new(Shared { clock, started, observer: Box::new(observer) }))
    }

    pub(crate) fn estimate(&self) -> Estimate {
        self.with(|clock, now| clock.estimate(now))
    }

    /// Local time and estimate, for the store.
    pub(crate) fn moment(&self) -> Moment {
        Moment { local: unix_now(), latest: self.estimate().latest() }
    }

    /// Stamps an event that arrives now; see [`WecomClock::stamp_event`].
    pub(crate) fn stamp_event(&self, create_time: UnixSeconds) -> Stamped {
        self.read(|clock, now| clock.stamp_event(create_time, now))
    }

    /// Stamps an API answer that arrives now; see [`WecomClock::stamp_answer`].
    pub(crate) fn stamp_answer(&self, date: Option<UnixSeconds>, took: Duration) -> UnixSeconds {
        self.read(|clock, now| clock.stamp_answer(date, took, now))
    }

    fn read<T>(&self, reading: impl FnOnce(&mut WecomClock, LocalTime) -> T) -> T {
        let (read, estimate) = self.with(|clock, now| (reading(clock, now), clock.estimate(now)));
        (self.0.observer)(estimate);
        read
    }

    fn with<T>(&self, work: impl FnOnce(&mut WecomClock, LocalTime) -> T) -> T {
        let mut shared = self.0.clock.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut shared, LocalTime { wall: unix_now(), uptime: self.0.started.elapsed() })
    }
}
