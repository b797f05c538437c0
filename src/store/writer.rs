//! The writer: a thread that owns the only writing connection and commits in groups.
//!
//! A commit costs one sync of the disk regardless of its size, so all waiting jobs are committed together. Each job runs in
//! its own savepoint and is answered after the commit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;

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

/// Work for the writer. `run` may be called again if the group is restarted.
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
    W: FnMut(&Connection) -> rusqlite::Result<T> + Send,
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
    /// Jobs without a reply yet.
    waiting: Arc<AtomicUsize>,
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
        Ok((Self { queue, waiting: Arc::default() }, WriterThread(thread)))
    }

    /// Submits work without blocking. `reply` is called once, after the commit or with an error at `deadline` at the latest.
    pub fn submit<T, W, R>(&self, deadline: Instant, work: W, reply: R)
    where
        T: Send + 'static,
        W: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
        R: FnOnce(Result<T, StoreError>) + Send + 'static,
    {
        self.waiting.fetch_add(1, Relaxed);
        let waiting = Arc::clone(&self.waiting);
        let reply = move |result| {
            waiting.fetch_sub(1, Relaxed);
            reply(result);
        };
        let work = Box::new(Task { work, done: None, reply });
        match self.queue.try_send(Message::Job(Job { deadline, work })) {
            Err(TrySendError::Full(Message::Job(job))) => job.work.reply(Err(StoreError::Locked)),
            Err(TrySendError::Disconnected(Message::Job(job))) => job.work.reply(Err(StoreError::Closed)),
            _ => {}
        }
    }

    /// The number of jobs without a reply, that of the caller included.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
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
        W: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
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
        connection.busy_timeout(patience)?;
        match connection.execute_batch("BEGIN IMMEDIATE").map_err(StoreError::from) {
            Ok(()) => return Ok(true),
            Err(StoreError::Locked) => {}
            Err(error) => return Err(error),
        }
        let now = Instant::now();
        let (late, rest): (Vec<Job>, Vec<Job>) =
            std::mem::take(group).into_iter().partition(|job| job.deadline <= now);
        *group = rest;
        if !late.is_empty() {
            let locked = StoreError::Locked.with_holders(connection.path().map(Path::new));
            refuse(late, &locked, failures);
        }
        jobs.take_waiting(group);
    }
    Ok(false)
}

fn commit(
    connection: &Connection,
    group: Vec<Job>,
    watch: &mut Watch,
    failures: &mut FailureLog,
    (mark, committed): (Option<&mut HighWaterMark>, Option<&Committed>),
) {
    let mut done = Vec::with_capacity(group.len());
    let mut rest = group.into_iter();
    let mut failed = None;
    for mut job in rest.by_ref() {
        match in_savepoint(connection, job.work.as_mut()) {
            Ok(()) => done.push(job),
            // SQLite rolled back the whole transaction, hence all jobs of the group.
            Err(error) if connection.is_autocommit() => {
                failed = Some(error);
                done.push(job);
                break;
            }
            Err(error) => refuse(vec![job], &error, failures),
        }
    }
    let result = match failed {
        Some(error) => Err(error),
        None => connection.execute_batch("COMMIT").map_err(StoreError::from),
    };
    let result = result.and_then(|()| watch.still_there());
    match result {
        Ok(()) => {
            failures.end();
            if let Some(mark) = mark {
                mark.note(connection);
            }
            if let Some(committed) = committed {
                committed(connection);
            }
            for job in done {
                job.work.reply(Ok(()));
            }
        }
        Err(error) => {
            if !connection.is_autocommit()
                && let Err(error) = connection.execute_batch("ROLLBACK")
            {
                log::error!("database: a failed transaction cannot be rolled back: {error}");
            }
            done.extend(rest);
            refuse(done, &error, failures);
        }
    }
}

fn in_savepoint(connection: &Connection, work: &mut dyn Work) -> Result<(), StoreError> {
    connection.prepare_cached("SAVEPOINT work")?.execute([])?;
    // A panic must cost only this job, not the writer's thread.
    let result = catch_unwind(AssertUnwindSafe(|| work.run(connection))).unwrap_or_else(|_| {
        Err(StoreError::Sqlite(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CONSTRAINT),
            Some("the program failed on this data; please report it".into()),
        )))
    });
    if result.is_err() && !connection.is_autocommit() {
        connection.prepare_cached("ROLLBACK TO work")?.execute([])?;
    }
    if !connection.is_autocommit() {
        connection.prepare_cached("RELEASE work")?.execute([])?;
    }
    result
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
        let shell = Connection::open(&path).unwrap();
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
}
