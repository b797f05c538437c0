//! Notices that are not delivered yet, one bounded queue per channel. Pure.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::condition::Notice;
use crate::directory::UnixSeconds;

/// Notices of one channel that are kept; the oldest are dropped first.
const MAX_NOTICES: usize = 100;
/// Wait after a failed delivery in seconds: first, and the longest after doubling.
const BACKOFF: (i64, i64) = (60, 3600);

/// A recipient of notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Channel {
    Command,
    Robot,
    Webhook,
}

impl Channel {
    /// Its key in the section `[notify]`.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Command => "on_change_command",
            Self::Robot => "robot_webhook",
            Self::Webhook => "webhook_url",
        }
    }

    /// Minimum interval between deliveries in seconds. WeCom's robot takes 20 messages a minute.
    fn pace(self) -> i64 {
        if self == Self::Robot { 3 } else { 0 }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Queue {
    notices: VecDeque<Notice>,
    /// Failed deliveries in a row.
    failures: u32,
    /// Unix time of the next attempt.
    next_at: i64,
}

/// The queues of all channels. They are stored, so that a restart loses nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outbox(BTreeMap<Channel, Queue>);

impl Outbox {
    /// Forgets channels that are no longer configured, and what failed: a restart may follow a correction.
    pub(super) fn restart(&mut self, channels: &[Channel]) {
        self.0.retain(|channel, _| channels.contains(channel));
        for queue in self.0.values_mut() {
            (queue.failures, queue.next_at) = (0, 0);
        }
    }

    /// Queues a notice for each channel; returns the number of older ones that were dropped.
    pub(super) fn push(&mut self, channels: &[Channel], notice: &Notice) -> usize {
        let mut dropped = 0;
        for channel in channels {
            let queue = self.0.entry(*channel).or_default();
            queue.notices.push_back(notice.clone());
            if queue.notices.len() > MAX_NOTICES {
                queue.notices.pop_front();
                dropped += 1;
            }
        }
        dropped
    }

    /// The notices of a channel that may be delivered now, oldest first.
    pub(super) fn due(&self, channel: Channel, now: UnixSeconds) -> Option<Vec<Notice>> {
        let queue = self.0.get(&channel).filter(|queue| !queue.notices.is_empty())?;
        // After the clock was set back, the stored time may lie far ahead.
        let wait = queue.next_at - now.0;
        (wait <= 0 || wait > BACKOFF.1).then(|| queue.notices.iter().cloned().collect())
    }

    /// Seconds until the next notice is due; `None` if none is queued.
    pub(super) fn next_in(&self, now: UnixSeconds) -> Option<i64> {
        let queues = self.0.values().filter(|queue| !queue.notices.is_empty());
        queues.map(|queue| (queue.next_at - now.0).max(0)).min()
    }

    /// Removes the notices that were delivered, the oldest `notices` of the channel.
    pub(super) fn delivered(&mut self, channel: Channel, notices: &[Notice], now: UnixSeconds) {
        let Some(queue) = self.0.get_mut(&channel) else { return };
        // Newer ones may have displaced some meanwhile.
        queue.notices.retain(|notice| !notices.contains(notice));
        (queue.failures, queue.next_at) = (0, now.0 + channel.pace());
    }

    /// Backs off; returns whether this is the first failure in a row.
    pub(super) fn failed(&mut self, channel: Channel, now: UnixSeconds) -> bool {
        let Some(queue) = self.0.get_mut(&channel) else { return false };
        let (first, longest) = BACKOFF;
        queue.next_at = now.0 + (first << queue.failures.min(10)).min(longest);
        queue.failures = queue.failures.saturating_add(1);
        queue.failures == 1
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::Text;
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_700_000_000);

    fn notice(at: i64) -> Notice {
        let text = Text { en: "x".into(), zh: "y".into() };
        Notice { condition: "blocked".into(), begins: true, at, text }
    }

    #[test]
    fn a_failed_channel_backs_off_alone_and_loses_nothing() {
        let both = [Channel::Robot, Channel::Command];
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(&both, &notice(1)), 0);
        assert!(outbox.failed(Channel::Robot, NOW) && !outbox.failed(Channel::Robot, NOW));
        assert_eq!(outbox.due(Channel::Robot, NOW.plus(119)), None);
        assert_eq!(outbox.due(Channel::Command, NOW).unwrap().len(), 1);
        outbox.delivered(Channel::Command, &[notice(1)], NOW);
        assert_eq!(outbox.next_in(NOW), Some(120));
        let stored = serde_json::to_string(&outbox).unwrap();
        let outbox: Outbox = serde_json::from_str(&stored).unwrap();
        assert_eq!(outbox.due(Channel::Robot, NOW.plus(120)), Some(vec![notice(1)]));
        for _ in 0..100 {
            outbox.clone().failed(Channel::Robot, NOW);
        }
        assert!(outbox.due(Channel::Robot, NOW.plus(-90_000)).is_some(), "the clock was set back");
    }

    #[test]
    fn the_robot_is_paced_and_the_queue_is_bounded() {
        let mut outbox = Outbox::default();
        let dropped: usize = (0..150).map(|at| outbox.push(&[Channel::Robot], &notice(at))).sum();
        assert_eq!(dropped, 50);
        let due = outbox.due(Channel::Robot, NOW).unwrap();
        assert_eq!((due.len(), due[0].at), (100, 50));
        outbox.delivered(Channel::Robot, &due[..3], NOW);
        assert_eq!(outbox.due(Channel::Robot, NOW.plus(2)), None);
        assert_eq!(outbox.due(Channel::Robot, NOW.plus(3)).unwrap()[0].at, 53);
        outbox.failed(Channel::Robot, NOW);
        outbox.restart(&[Channel::Robot]);
        assert_eq!(outbox.next_in(NOW), Some(0));
        outbox.restart(&[Channel::Webhook]);
        assert_eq!(outbox.next_in(NOW), None);
    }

    #[test]
    fn the_backoff_doubles_up_to_an_hour() {
        let mut outbox = Outbox::default();
        outbox.push(&[Channel::Webhook], &notice(1));
        let waits = (0..9).map(|_| {
            outbox.failed(Channel::Webhook, NOW);
            outbox.next_in(NOW).unwrap()
        });
        assert_eq!(waits.collect::<Vec<_>>(), [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
    }
}
