//! Doubt: whenever something may have been missed, the directory is to be compared with WeCom soon.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::store::Connection;

use crate::daemon::wakeup::Wakeup;
use crate::directory::UnixSeconds;
use crate::store::get_state;

/// WeCom delivers three times, some 5 s apart: whoever is away longer may have missed something.
const THREE_TRIES: i64 = 15;
/// So many members refused for good within [`WAVE_WITHIN`] mean that the directory is not what it was.
const WAVE: u32 = 5;
const WAVE_WITHIN: Duration = Duration::from_secs(600);
/// A wave is a doubt once a day at most: comparing tries those members again, which refuses them again.
const WAVES_APART: Duration = Duration::from_secs(86_400);

#[derive(Default)]
struct State {
    reason: Option<String>,
    refusals: u32,
    first_refusal: Option<Instant>,
    last_wave: Option<Instant>,
}

/// ReconcileTriggers that are not in the database yet: the database itself may be what fails.
#[derive(Default)]
pub struct ReconcileTriggers {
    state: Mutex<State>,
    /// Rung for a new one.
    pub wakeup: Wakeup,
}

impl ReconcileTriggers {
    /// Something may have been missed.
    pub fn request(&self, reason: impl Into<String>) {
        self.lock().reason.get_or_insert_with(|| reason.into());
        self.wakeup.notify();
    }

    /// Takes what there is, to write it down.
    pub fn take(&self) -> Option<String> {
        self.lock().reason.take()
    }

    /// WeCom said of a member that there is nothing to convert.
    pub fn refused_for_good(&self, now: Instant) {
        let mut state = self.lock();
        if state.first_refusal.is_none_or(|first| now.saturating_duration_since(first) > WAVE_WITHIN) {
            state.first_refusal = Some(now);
            state.refusals = 0;
        }
        state.refusals += 1;
        let lately = |wave: Instant| now.saturating_duration_since(wave) < WAVES_APART;
        if state.refusals >= WAVE && !state.last_wave.is_some_and(lately) {
            state.last_wave = Some(now);
            drop(state);
            self.request("WeCom does not know many members");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether something may have been missed before this start, judged by what the last run left.
///
/// # Errors
/// Whatever SQLite says.
pub fn before_start(connection: &Connection, now: UnixSeconds) -> crate::store::Result<Option<String>> {
    if get_state(connection, "daemon")?.is_some() {
        return Ok(Some("the daemon ended without notice".into()));
    }
    let stopped = get_state(connection, "stopped")?.map(|(at, _)| now.since(at));
    Ok(stopped
        .filter(|away| *away > THREE_TRIES || *away < 0)
        .map(|away| format!("the daemon did not run for {away} s")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wave_of_refusals_is_a_doubt_once_a_day() {
        let (triggers, now) = (ReconcileTriggers::default(), Instant::now());
        for _ in 0..4 {
            triggers.refused_for_good(now);
        }
        assert_eq!(triggers.take(), None);
        triggers.refused_for_good(now + WAVE_WITHIN * 2);
        assert_eq!(triggers.take(), None, "too long ago to be one wave");
        for _ in 0..20 {
            triggers.refused_for_good(now + WAVE_WITHIN * 2);
        }
        assert!(triggers.take().is_some());
        for _ in 0..20 {
            triggers.refused_for_good(now + WAVE_WITHIN * 4);
        }
        assert_eq!(triggers.take(), None);
        for _ in 0..20 {
            triggers.refused_for_good(now + WAVE_WITHIN * 2 + WAVES_APART);
        }
        assert!(triggers.take().is_some());
    }

    #[test]
    fn the_first_reason_stays_until_it_is_taken() {
        let triggers = ReconcileTriggers::default();
        triggers.request("a");
        triggers.request("b");
        assert_eq!(triggers.take().as_deref(), Some("a"));
        assert_eq!(triggers.take(), None);
    }
}
