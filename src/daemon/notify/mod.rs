//! Notices to operators about conditions that begin or end, and heartbeats.
//!
//! The thread `notify` observes the conditions and keeps what is to be sent in `daemon_state`; `notify-send` delivers, and
//! `heartbeat` calls its URL while events can be made durable. No callback waits for any of them.

mod condition;
mod messages;
mod outbox;
mod sender;

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::commit_probe::commit;
use super::metrics::Metrics;
use super::threads::Threads;
use super::{Shared, StartError};
use crate::config::{Config, Notify};
use crate::directory::UnixSeconds;
use crate::shutdown::Shutdown;
use crate::store::clashes::clashes;
use crate::store::monitor::{last_event, oldest_pending};
use crate::store::reconciles::{ReconcileOutcome, last_reconciles};
use crate::store::state::NOTICES;
use crate::store::{Connection, StoreError, Writer};
use crate::unix_time::unix_now;
use crate::wecom::api::errcode::Reason;
use crate::wecom::api::webhook::Webhook;
use crate::wecom::clock::SharedClock;
use condition::{Announcements, Condition, Holds};
use messages::Text;
use outbox::{Channel, Outbox};
use sender::{Delivery, Job, Senders};

/// Interval of the observations.
const INTERVAL: Duration = Duration::from_secs(15);
/// Lifetime of the search for the longest waiting member, in multiples of the time that it took.
const PENDING_LIFETIME: u32 = 1000;
/// Time for the commit that shows whether events can be made durable: as long as a callback has.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(4);
/// The heartbeat stops if the last commit that succeeded is older.
const FRESH: Duration = Duration::from_secs(60);
/// Time for a request to a robot, a webhook or a heartbeat URL.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// After a start, pauses and clock are not known again at once, so their ends count only then.
const SETTLED: Duration = Duration::from_secs(600);
/// An offset of the clock of more seconds is a condition.
const NOTABLE_OFFSET: i64 = 60;

/// What the thread `notify` waits for.
enum Message {
    Delivered(Delivery),
    Stop,
}

/// The handle of the threads; [`Notifier::stop`] ends them.
pub(super) struct Notifier(Sender<Message>);

impl Notifier {
    /// Starts the threads that the configuration needs; `None` if it needs none.
    pub(super) fn start(
        config: &Config,
        shared: &Shared,
        threads: &mut Threads,
    ) -> Result<Option<Self>, StartError> {
        let notify = &config.notify;
        let client = |url: Option<String>| -> Result<Option<Webhook>, StartError> {
            let Some(url) = url else { return Ok(None) };
            let network = super::api_observer::network(config, &url)?;
            Ok(Some(Webhook::new(&url, network, REQUEST_TIMEOUT)))
        };
        let text =
            |secret: &Option<crate::config::Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
        let senders = Senders {
            command: notify.on_change_command.clone(),
            robot: client(notify.robot_url(&config.wecom.api_base))?,
            webhook: client(text(&notify.webhook_url))?,
            host: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
        };
        let heartbeat = client(text(&notify.heartbeat_url))?;
        let channels = senders.channels();
        if channels.is_empty() && heartbeat.is_none() {
            return Ok(None);
        }
        let (to_observer, messages) = channel();
        let (jobs, to_do) = sync_channel(channels.len());
        let committed = Arc::<LastCommit>::default();
        let observer = Observer {
            writer: shared.writer.clone(),
            reader: shared.reader()?,
            metrics: Arc::clone(&shared.metrics),
            clock: shared.client.clock().clone(),
            settings: notify.clone(),
            channels,
            current: Stored::default(),
            stored: Stored::default(),
            started: Instant::now(),
            not_durable: None,
            pending: None,
            in_flight: Vec::new(),
            committed: Arc::clone(&committed),
            shared: shared.clone(),
        };
        let results = to_observer.clone();
        threads.spawn("notify-send", move || senders.run(&to_do, &results))?;
        threads.spawn("notify", move || observer.run(&messages, &jobs))?;
        if let Some(webhook) = heartbeat {
            let (every, shutdown) = (notify.heartbeat_every, shared.shutdown.clone());
            threads.spawn("heartbeat", move || beat(&webhook, every, &committed, &shutdown))?;
        }
        Ok(Some(Self(to_observer)))
    }

    /// Ends the threads; what is not delivered is delivered after the next start.
    pub(super) fn stop(&self) {
        // The thread may have ended already.
        let _ = self.0.send(Message::Stop);
    }
}

/// When a commit succeeded last, for the heartbeat.
type LastCommit = Mutex<Option<Instant>>;

/// The value of [`NOTICES`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Stored {
    announcements: Announcements,
    outbox: Outbox,
}

struct Observer {
    writer: Writer,
    reader: Connection,
    metrics: Arc<Metrics>,
    clock: SharedClock,
    settings: Notify,
    channels: Vec<Channel>,
    /// What is announced and to be sent.
    current: Stored,
    /// The last value of `current` that was committed.
    stored: Stored,
    started: Instant,
    /// Since when, and why events cannot be made durable.
    not_durable: Option<(UnixSeconds, String)>,
    /// When and how long the longest waiting member was looked for, and its creation time.
    pending: Option<(Instant, Duration, Option<UnixSeconds>)>,
    /// Channels whose job has no result yet.
    in_flight: Vec<Channel>,
    committed: Arc<LastCommit>,
    shared: Shared,
}

impl Observer {
    fn run(mut self, messages: &Receiver<Message>, jobs: &SyncSender<Job>) {
        self.stored = match NOTICES.get(&self.reader) {
            Ok(found) => found.and_then(|(_, json)| serde_json::from_value(json).ok()).unwrap_or_default(),
            Err(error) => {
                log::warn!("notices of the last run cannot be read: {error}");
                Stored::default()
            }
        };
        self.current = self.stored.clone();
        self.current.outbox.restart(&self.channels);
        let mut next = Instant::now();
        loop {
            if Instant::now() >= next {
                self.observe(unix_now());
                next = Instant::now() + INTERVAL;
            }
            if self.stored != self.current {
                self.store();
            }
            self.send(jobs, unix_now());
            let due = self.current.outbox.next_in(unix_now()).filter(|_| self.in_flight.is_empty());
            let due = due.map_or(INTERVAL, |seconds| Duration::from_secs(seconds.unsigned_abs().max(1)));
            let wait = due.min(next.saturating_duration_since(Instant::now()));
            match messages.recv_timeout(wait) {
                Ok(Message::Delivered(delivery)) => self.heed(&delivery, unix_now()),
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Observes all conditions, and queues notices of what changed.
    fn observe(&mut self, now: UnixSeconds) {
        self.try_commit(now);
        let mut observed = self.pauses();
        let not_durable = self.not_durable.as_ref();
        observed.push((
            Condition::NotDurable,
            not_durable.map(|(since, error)| Holds { since: *since, text: Text::not_durable(error) }),
        ));
        self.observe_clock(&mut observed, now);
        if let Err(error) = self.read(&mut observed, now) {
            log::debug!("conditions in the database are not known: {error}");
        }
        for notice in self.current.announcements.observe(&observed, now) {
            log::info!(
                "notice condition={} change={} text={:?}",
                notice.condition,
                if notice.begins { "begins" } else { "ends" },
                notice.text.en
            );
            let dropped = self.current.outbox.push(&self.channels, &notice);
            if dropped > 0 {
                log::warn!("{dropped} old notices are dropped: too many could not be delivered");
            }
        }
    }

    fn try_commit(&mut self, now: UnixSeconds) {
        let committed = commit(&self.writer, COMMIT_TIMEOUT);
        *self.committed.lock().unwrap_or_else(PoisonError::into_inner) = committed.is_ok().then(Instant::now);
        self.not_durable = match committed {
            // The daemon ends.
            Ok(()) | Err(StoreError::Closed) => None,
            Err(error) => {
                let since = self.not_durable.as_ref().map_or(now, |(since, _)| *since);
                Some((since, error.to_string()))
            }
        };
    }

    /// Pauses and clock begin anew with each run, so in the first minutes their absence proves nothing.
    fn is_settled(&self) -> bool {
        self.started.elapsed() >= SETTLED
    }

    fn pauses(&self) -> Vec<(Condition, Option<Holds>)> {
        let all = self.metrics.pauses();
        let of = |reason: Reason| {
            let pauses: Vec<_> = all.iter().filter(|pause| pause.reason == reason.as_str()).collect();
            let since = pauses.iter().map(|pause| pause.since).min()?;
            Some(Holds { since: UnixSeconds(since), text: Text::paused(reason, &pauses) })
        };
        let observed = Reason::ALL.map(|reason| (Condition::Paused(reason), of(reason)));
        observed.into_iter().filter(|(_, holds)| holds.is_some() || self.is_settled()).collect()
    }

    fn observe_clock(&self, observed: &mut Vec<(Condition, Option<Holds>)>, now: UnixSeconds) {
        let estimate = self.clock.estimate();
        let offset = estimate.contradiction.unwrap_or(estimate.offset);
        let holds =
            (offset.abs() > NOTABLE_OFFSET).then(|| Holds { since: now, text: Text::clock_offset(offset) });
        if holds.is_some() || self.is_settled() {
            observed.push((Condition::ClockOffset, holds));
        }
    }

    /// The conditions that the database shows.
    fn read(
        &mut self,
        observed: &mut Vec<(Condition, Option<Holds>)>,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let holds = |text| Some(Holds { since: now, text });
        if let (Some(last), _) = last_reconciles(&self.reader)? {
            match last.outcome {
                ReconcileOutcome::Blocked => {
                    observed.push((Condition::Blocked, holds(Text::blocked(&last.note))));
                }
                ReconcileOutcome::Ok | ReconcileOutcome::Partial => observed.push((Condition::Blocked, None)),
                // Whether deletions are blocked is decided by a comparison that reaches its end.
                ReconcileOutcome::Running | ReconcileOutcome::Failed | ReconcileOutcome::Stopped => {}
            }
        }
        let clashes = clashes(&self.reader)?.len();
        let clash = (clashes > 0).then(|| holds(Text::openid_clash(clashes))).flatten();
        observed.push((Condition::OpenidClash, clash));
        let seconds = |limit: Duration| i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
        let limit = seconds(self.settings.no_event_for);
        if let Some(last) = last_event(&self.reader)?.filter(|_| limit > 0) {
            let silence = now.since(last);
            let silent = (silence > limit).then(|| holds(Text::no_event(silence))).flatten();
            observed.push((Condition::NoEvent, silent));
        }
        let limit = seconds(self.settings.oldest_pending_over);
        if limit > 0 {
            let age = self.oldest_pending()?.map_or(0, |since| now.since(since));
            let late = (age > limit).then(|| holds(Text::oldest_pending(age, limit))).flatten();
            observed.push((Condition::OldestPending, late));
        }
        Ok(())
    }

    fn oldest_pending(&mut self) -> Result<Option<UnixSeconds>, StoreError> {
        if let Some((at, took, found)) = self.pending
            && at.elapsed() < took.saturating_mul(PENDING_LIFETIME)
        {
            return Ok(found);
        }
        let begun = Instant::now();
        let found = oldest_pending(&self.reader, false)?;
        self.pending = Some((Instant::now(), begun.elapsed(), found));
        Ok(found)
    }

    /// Stores what is announced and to be sent. Until it succeeds, a restart would repeat it.
    fn store(&mut self) {
        let value = match serde_json::to_value(&self.current) {
            Ok(value) => value,
            Err(error) => return log::error!("notices cannot be stored: {error}; please report this"),
        };
        let written =
            self.writer.run(COMMIT_TIMEOUT, move |connection| NOTICES.set(connection, unix_now(), &value));
        match written {
            Ok(()) => self.stored = self.current.clone(),
            Err(error) => log::debug!("notices could not be stored: {error}"),
        }
    }

    /// Gives each idle channel what is due.
    fn send(&mut self, jobs: &SyncSender<Job>, now: UnixSeconds) {
        for channel in &self.channels {
            if self.in_flight.contains(channel) {
                continue;
            }
            let Some(notices) = self.current.outbox.due(*channel, now) else { continue };
            if jobs.try_send(Job { channel: *channel, notices }).is_ok() {
                self.in_flight.push(*channel);
            }
        }
    }

    fn heed(&mut self, delivery: &Delivery, now: UnixSeconds) {
        let Delivery { channel, notices, failure } = delivery;
        self.in_flight.retain(|busy| busy != channel);
        match failure {
            None => self.current.outbox.delivered(*channel, notices, now),
            Some(why) => {
                if self.current.outbox.failed(*channel, now) {
                    let why = self.shared.client.clean(why);
                    log::warn!("[notify] {}: a notice is not delivered, tried again: {why}", channel.key());
                }
            }
        }
    }
}

/// Calls the heartbeat URL while events can be made durable.
fn beat(webhook: &Webhook, every: Duration, committed: &LastCommit, shutdown: &Shutdown) {
    let mut fails = false;
    loop {
        if shutdown.sleep(every) {
            return;
        }
        let last = *committed.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|at| at.elapsed() > FRESH) {
            continue;
        }
        let called = webhook.request(None);
        match &called {
            Ok(_) if fails => log::info!("[notify] heartbeat_url: works again"),
            Err(why) if !fails => {
                log::warn!("[notify] heartbeat_url: {why}; tried again every {} s", every.as_secs());
            }
            _ => {}
        }
        fails = called.is_err();
    }
}
