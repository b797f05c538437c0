//! The writer: a thread that owns the only writing connection and commits in groups.
//!
//! A commit costs one sync of the disk regardless of its size, so all waiting jobs are committed together, and answered after
//! the commit. If one of them fails, they run again, each in its own savepoint, so that it fails alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Result;
use super::connection::Connection;
use super::epoch::HighWaterMark;
use super::error::StoreError;
use super::failure_log::FailureLog;
use super::open::Opened;
use super::sqlite::file_watch::{Watch, truncate_wal};

/// Capacity of the queue, far above the number of concurrent callbacks; further jobs are refused.
const QUEUE: usize = 4096;
/// Longest uninterrupted wait for a lock; new jobs with a shorter deadline are admitted in between.
const LOCK_WAIT: Duration = Duration::from_millis(200);
/// Maximum number of jobs per commit, which bounds the wait of the first one.
const GROUP: usize = 512;

/// Work for the writer. `run` is called again if another job of the group fails.
trait Work: Send {
    fn run(&mut self, connection: &Connection) -> Result<(), StoreError>;
    fn reply(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Task<T, W, R> {
    work: W,
    done: Option<T>,
    reply: R,
}

impl<T, W, R> Work for Task<T, W, R>
where
    T: Send,
    W: FnMut(&Connection) -> Result<T, StoreError> + Send,
    R: FnOnce(Result<T, StoreError>) + Send,
{
    fn run(&mut self, connection: &Connection) -> Result<(), StoreError> {
        self.done = Some((self.work)(connection)?);
        Ok(())
    }

    fn reply(self: Box<Self>, committed: Result<(), StoreError>) {
        let Self { done, reply, .. } = *self;
        reply(committed.and_then(|()| done.ok_or(StoreError::Closed)));
    }
}

/// An observer of commits, called on the writer's thread with its connection.
pub(crate) type Committed = Box<dyn Fn(&Connection) + Send>;

/// An entry of the queue.
enum Message {
    Job(Job),
    /// Commit all earlier jobs, and end.
    Close,
}

struct Job {
    deadline: Instant,
    work: Box<dyn Work>,
}

/// The handle to the writer's thread; cheap to clone.
#[derive(Clone)]
pub struct Writer {
    queue: SyncSender<Message>,
}

/// The writer's thread: ends after [`Writer::close`], or when every [`Writer`] is dropped.
pub struct WriterThread(JoinHandle<()>);

impl WriterThread {
    /// Whether the thread has ended, perhaps by a panic.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for the thread's end for at most `patience`; false if it still runs.
    #[must_use]
    pub fn join_within(self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while !self.0.is_finished() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.join();
        true
    }

    fn join(self) {
        if self.0.join().is_err() {
            log::error!("the database writer ended in a panic; please report this");
        }
    }
}

impl Writer {
    /// Starts the thread on this connection.
    ///
    /// # Errors
    /// If the thread cannot be created.
    pub fn start(database: impl Into<Opened>) -> std::io::Result<(Self, WriterThread)> {
        Self::start_marking(database, None)
    }

    /// As [`Writer::start`], and maintains the high-water mark of the change numbers.
    ///
    /// # Errors
    /// If the thread cannot be created.
    pub fn start_marking(
        database: impl Into<Opened>,
        mark: Option<HighWaterMark>,
    ) -> std::io::Result<(Self, WriterThread)> {
        Self::start_notifying(database, mark, None)
    }

    /// As [`Writer::start_marking`], and calls `committed` after each commit, before the replies.
    pub fn start_notifying(
        database: impl Into<Opened>,
        mark: Option<HighWaterMark>,
        committed: Option<Committed>,
    ) -> std::io::Result<(Self, WriterThread)> {
        let database: Opened = database.into();
        let (queue, jobs) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("writer".into())
            .spawn(move || write_until_closed(&database, &jobs, mark, committed.as_ref()))?;
        Ok((Self { queue }, WriterThread(thread)))
    }

    /// Submits work without blocking. `reply` is called once, after the commit or with an error at `deadline` at the latest.
    pub fn submit<T, W, R>(&self, deadline: Instant, work: W, reply: R)
    where
        T: Send + 'static,
        W: FnMut(&Connection) -> Result<T, StoreError> + Send + 'static,
        R: FnOnce(Result<T, StoreError>) + Send + 'static,
    {
        let work = Box::new(Task { work, done: None, reply });
        match self.queue.try_send(Message::Job(Job { deadline, work })) {
            Err(TrySendError::Full(Message::Job(job))) => job.work.reply(Err(StoreError::Locked)),
            Err(TrySendError::Disconnected(Message::Job(job))) => job.work.reply(Err(StoreError::Closed)),
            _ => {}
        }
    }

    /// Ends the thread after the commit of all earlier jobs. Later jobs get [`StoreError::Closed`].
    pub fn close(&self) {
        let _ = self.queue.send(Message::Close);
    }

    /// Submits work and waits for its commit for at most `patience`.
    ///
    /// # Errors
    /// [`StoreError`]; the work is rolled back.
    pub fn run<T, W>(&self, patience: Duration, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnMut(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (sender, receiver) = sync_channel(1);
        self.submit(Instant::now() + patience, work, move |result| {
            let _ = sender.send(result);
        });
        receiver.recv().unwrap_or(Err(StoreError::Closed))
    }
}

fn write_until_closed(
    connection: &Connection,
    queue: &Receiver<Message>,
    mut mark: Option<HighWaterMark>,
    committed: Option<&Committed>,
) {
    let mut jobs = Jobs { queue, closing: false };
    let mut failures = FailureLog::default();
    let mut watch = Watch::new(connection);
    while let Some(first) = jobs.wait() {
        let mut group = vec![first];
        jobs.take_waiting(&mut group);
        match begin(connection, &mut jobs, &mut group, &mut failures) {
            Ok(true) => {
                commit(connection, group, &mut watch, &mut failures, (mark.as_mut(), committed));
                watch.limit_wal(connection, Instant::now());
            }
            Ok(false) => {}
            Err(error) => refuse(group, &error, &mut failures),
        }
    }
    if let Err(error) = truncate_wal(connection) {
        log::debug!("no last checkpoint: {error}");
    }
}

/// The receiving end of the queue.
struct Jobs<'a> {
    queue: &'a Receiver<Message>,
    closing: bool,
}

impl Jobs<'_> {
    /// Waits for the next job; `None` if the queue is closed.
    fn wait(&mut self) -> Option<Job> {
        if self.closing {
            return None;
        }
        match self.queue.recv() {
            Ok(Message::Job(job)) => Some(job),
            Ok(Message::Close) | Err(_) => None,
        }
    }

    fn take_waiting(&mut self, group: &mut Vec<Job>) {
        while group.len() < GROUP && !self.closing {
            match self.queue.try_recv() {
                Ok(Message::Job(job)) => group.push(job),
                Ok(Message::Close) => self.closing = true,
                Err(_) => return,
            }
        }
    }
}

/// Begins a transaction. While another process holds the lock, refuses each job at its deadline; false if no job is left.
fn begin(
    connection: &Connection,
    jobs: &mut Jobs<'_>,
    group: &mut Vec<Job>,
    failures: &mut FailureLog,
) -> Result<bool, StoreError> {
    while let Some(earliest) = group.iter().map(|job| job.deadline).min() {
        // In short waits, because a new job may have an earlier deadline.
        let left = earliest.saturating_duration_since(Instant::now());
        let patience = left.clamp(Duration::from_millis(1), LOCK_WAIT);
        connection.sqlite().busy_timeout(patience)?;
        match connection.begin() {
            Ok(()) => return Ok(true),
            Err(StoreError::Locked) => {}
            Err(error) => return Err(error),
        }
        let now = Instant::now();
        let (late, rest): (Vec<Job>, Vec<Job>) =
            std::mem::take(group).into_iter().partition(|job| job.deadline <= now);
        *group = rest;
        if !late.is_empty() {
            let locked = StoreError::Locked.with_holders(connection.path());
            refuse(late, &locked, failures);
        }
        jobs.take_waiting(group);
    }
    Ok(false)
}

fn commit(
    connection: &Connection,
    mut group: Vec<Job>,
    watch: &mut Watch,
    failures: &mut FailureLog,
    (mark, committed): (Option<&mut HighWaterMark>, Option<&Committed>),
) {
    let result = match group.iter_mut().try_for_each(|job| run(connection, job)) {
        // Savepoints cost each job a tenth of its time, so only a group with a job that fails has them.
        Err(_) if group.len() > 1 => run_apart(connection, &mut group, failures),
        result => result,
    };
    match result.and_then(|()| connection.commit()).and_then(|()| watch.still_there()) {
        Ok(()) => {
            failures.end();
            if let Some(mark) = mark {
                mark.note(connection);
            }
            if let Some(committed) = committed {
                committed(connection);
            }
            for job in group {
                job.work.reply(Ok(()));
            }
        }
        Err(error) => {
            connection.roll_back();
            refuse(group, &error, failures);
        }
    }
}

/// Runs the jobs of a group again, each in its own savepoint; removes and refuses those that fail. An error: SQLite rolled
/// back the whole transaction.
fn run_apart(
    connection: &Connection,
    group: &mut Vec<Job>,
    failures: &mut FailureLog,
) -> Result<(), StoreError> {
    connection.roll_back();
    connection.begin()?;
    let mut at = 0;
    while let Some(job) = group.get_mut(at) {
        match connection.savepoint(|connection| run(connection, job)) {
            Ok(()) => at += 1,
            Err(error) if !connection.in_transaction() => return Err(error),
            Err(error) => refuse(vec![group.remove(at)], &error, failures),
        }
    }
    Ok(())
}

fn run(connection: &Connection, job: &mut Job) -> Result<(), StoreError> {
    // A panic must cost only this job, not the writer's thread.
    catch_unwind(AssertUnwindSafe(|| job.work.run(connection))).unwrap_or(Err(StoreError::Panicked))
}

fn refuse(group: Vec<Job>, error: &StoreError, failures: &mut FailureLog) {
    if group.is_empty() {
        return;
    }
    if !error.is_of_the_data() {
        failures.begin(error);
    }
    for job in group {
        job.work.reply(Err(error.again()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open::open_writer;

    #[test]
    fn work_that_comes_while_other_work_waits_for_a_lock_is_refused_in_its_own_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let (writer, thread) = Writer::start(open_writer(&path, 0o600).unwrap()).unwrap();
        let shell = rusqlite::Connection::open(&path).unwrap();
        shell.execute_batch("BEGIN IMMEDIATE").unwrap();
        let (patient, patiently) = sync_channel(1);
        let begun = Instant::now();
        writer.submit(begun + Duration::from_secs(20), |_| Ok(()), move |done| patient.send(done).unwrap());
        // Long enough for the writer to be waiting for the lock.
        std::thread::sleep(Duration::from_millis(300));
        let refused = writer.run(Duration::from_millis(500), |_| Ok(()));
        assert!(matches!(refused, Err(StoreError::Locked | StoreError::LockedBy(_))), "{refused:?}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        shell.execute_batch("ROLLBACK").unwrap();
        assert!(patiently.recv().unwrap().is_ok());
        writer.close();
        assert!(thread.join_within(Duration::from_secs(5)));
    }

    #[test]
    fn a_job_that_fails_or_panics_costs_no_other_job_of_its_group_and_leaves_no_gap() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let (writer, thread) = Writer::start(open_writer(&path, 0o600).unwrap()).unwrap();
        let shell = rusqlite::Connection::open(&path).unwrap();
        // All jobs wait for the lock, so that one group takes them.
        shell.execute_batch("BEGIN IMMEDIATE").unwrap();
        let (sender, results) = sync_channel(8);
        let submit = |n: i64, fails: fn(&Connection) -> Result<(), StoreError>| {
            let sender = sender.clone();
            let work = move |connection: &Connection| {
                let change = crate::directory::Change::new(
                    crate::directory::diff::Entity::Tag,
                    n.to_string(),
                    crate::directory::Action::Created,
                    serde_json::Map::new(),
                );
                crate::store::changes::write_changes(
                    connection,
                    &[change],
                    crate::directory::UnixSeconds(1),
                )?;
                fails(connection)
            };
            let deadline = Instant::now() + Duration::from_secs(20);
            writer.submit(deadline, work, move |done| sender.send((n, done.is_ok())).unwrap());
        };
        submit(1, |_| Ok(()));
        submit(2, |connection| connection.execute("INSERT INTO ledger VALUES (2, 0, 0)", &[]).map(|_| ()));
        submit(3, |_| Ok(()));
        submit(4, |_| std::panic::panic_any("expected"));
        submit(5, |_| Ok(()));
        shell.execute_batch("ROLLBACK").unwrap();
        let mut replies: Vec<_> = (0..5).map(|_| results.recv().unwrap()).collect();
        replies.sort_unstable();
        assert_eq!(replies, [(1, true), (2, false), (3, true), (4, false), (5, true)]);
        let lines =
            "SELECT group_concat(seq || ':' || key) || ' ' || (SELECT last_change FROM ledger) FROM changes";
        let lines: String = shell.query_row(lines, [], |row| row.get(0)).unwrap();
        assert_eq!(lines, "1:1,2:3,3:5 3");
        writer.close();
        assert!(thread.join_within(Duration::from_secs(5)));
    }
}
