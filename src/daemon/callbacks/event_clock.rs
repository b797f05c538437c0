//! Stamps events at their arrival: an implausible CreateTime is corrected, and logged once for each subject.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::store::NewEvent;
use crate::wecom::clock::SharedClock;

/// Subjects that are kept; further ones are not logged.
const SUBJECTS: usize = 1000;

pub(super) struct EventClock {
    clock: SharedClock,
    reported: Mutex<HashSet<String>>,
}

impl EventClock {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self { clock, reported: Mutex::default() }
    }

    /// Replaces an implausible time of the event. Its row in `events` keeps the original.
    pub(super) fn stamp(&self, event: &mut NewEvent) {
        let Some(create_time) = event.create_time else { return };
        let stamped = self.clock.stamp_event(create_time);
        event.latest = self.clock.estimate().latest();
        let Some(meaning) = &mut event.meaning else { return };
        meaning.at = stamped.at;
        if stamped.clamped && self.is_new(&event.subject) {
            log::warn!(
                "event carries a time ahead of WeCom's clock; its time of receipt is used instead \
                 subject={:?} create_time={create_time} received={}",
                event.subject,
                stamped.at
            );
        }
    }

    fn is_new(&self, subject: &str) -> bool {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        reported.len() < SUBJECTS && reported.insert(subject.chars().take(80).collect())
    }
}
