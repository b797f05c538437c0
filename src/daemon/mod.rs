//! The running parts of the daemon, one file or folder each, and here the start and the stop of all.
//!
//! Data flows in one direction: the gate takes requests, workers decrypt and parse them, the writer commits, the
//! responder answers, the dispatcher of calls asks WeCom. The stop follows the same order.

pub(crate) mod admin;
pub(crate) mod api_observer;
pub mod callbacks;
mod calls;
pub(crate) mod clock_reporter;
mod commit_probe;
pub(crate) mod control;
pub(crate) mod converter;
pub(crate) mod details;
pub(crate) mod gate_observer;
pub(crate) mod hour;
mod lockfile;
pub(crate) mod log_limiter;
pub(crate) mod metrics;
mod notify;
pub(crate) mod reconciler;
pub(crate) mod refusals;
pub(crate) mod service_manager;
pub(crate) mod threads;
pub(crate) mod wakeup;

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::shutdown::Shutdown;
use crate::store::epoch::HighWaterMark;
use crate::store::file::recognise;
use crate::store::openids::ApiCall;
use crate::store::state::{self, DAEMON, PAUSES, RECONCILE_PROGRESS, RunningDaemon, STOPPED};
use crate::store::writer::WriterThread;
use crate::store::{Connection, StoreError, Writer, open_reader, open_writer};
use crate::system_error::{Operation, explain};
use crate::unix_time::unix_now;
use crate::wecom::api::Client;
use admin::Admin;
pub(crate) use api_observer::client;
use api_observer::{ApiRecorder, record_calls};
use callbacks::Callbacks;
pub(crate) use calls::MemberCalls;
use control::{Control, ControlEndpoint};
pub(crate) use lockfile::{is_running, lock};
use metrics::Metrics;
use notify::Notifier;
use reconciler::triggers::ReconcileTriggers;
use reconciler::{ReconcileSettings, Reconciler};
use service_manager::Supervision;
use threads::Threads;

/// Longest interval between checks of the database for due work: the clock may be set.
const CHECK_DATABASE: Duration = Duration::from_secs(15);
/// Bounds the stop. WeCom waits 5 s for an answer; systemd sends SIGKILL much later.
const STOP_TIMEOUT: Duration = Duration::from_millis(4500);
/// Time for one attempt to commit.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(4);

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is not usable in this environment.
    #[error("{0}")]
    Config(String),
    /// The database is not usable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another daemon holds the lock of this database.
    #[error(
        "{0}: another wecom-dirsync works with this database; stop it first (systemctl stop wecom-dirsync)"
    )]
    Taken(PathBuf),
    /// The callback listener's address is not usable.
    #[error("cannot listen on {address} ([callback] listen): {}", explain(Operation::Listen, .error))]
    Listen {
        /// The address in the configuration.
        address: SocketAddr,
        /// The error of bind(2) or listen(2).
        error: std::io::Error,
    },
    /// The admin listener's address is not usable.
    #[error(
        "cannot listen on {address} ([admin] listen): {}; or leave it empty to do without the admin listener", explain(Operation::Listen, .error)
    )]
    ListenAdmin {
        /// The address in the configuration.
        address: SocketAddr,
        /// The error of bind(2) or listen(2).
        error: std::io::Error,
    },
    /// The system refuses a thread, a socket or a file.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// What all parts use; clones share it.
#[derive(Clone)]
pub(crate) struct Shared {
    pub client: Arc<Client<ApiRecorder>>,
    pub writer: Writer,
    pub triggers: Arc<ReconcileTriggers>,
    /// The counters and the pauses in force.
    pub metrics: Arc<Metrics>,
    pub shutdown: Shutdown,
    pub database: PathBuf,
}

impl Shared {
    fn new(config: &Config, writer: Writer) -> Result<Self, StartError> {
        let (metrics, shutdown) = (Arc::default(), Shutdown::default());
        let client = Arc::new(client(config, &writer, &metrics, &shutdown)?);
        let (triggers, database) = (Arc::default(), config.database.path.clone());
        Ok(Self { client, writer, triggers, metrics, shutdown, database })
    }

    /// Tries until `work` and the records of its API calls are committed: a locked database must not cost another call.
    /// [`StoreError::Closed`] after the shutdown signal; other errors are of the data.
    fn commit<T: Send + 'static>(
        &self,
        calls: Vec<ApiCall>,
        work: impl Fn(&Connection) -> crate::store::Result<T> + Send + Clone + 'static,
    ) -> Result<T, StoreError> {
        let calls: Arc<[ApiCall]> = calls.into();
        loop {
            let (calls, work) = (Arc::clone(&calls), work.clone());
            let written = self.writer.run(COMMIT_TIMEOUT, move |connection| {
                record_calls(connection, &calls)?;
                work(connection)
            });
            match written {
                Err(StoreError::Closed) => return Err(StoreError::Closed),
                Err(error) if !error.is_of_the_data() => {
                    if self.shutdown.sleep(Duration::from_secs(1)) {
                        return Err(StoreError::Closed);
                    }
                }
                written => return written,
            }
        }
    }

    /// A connection of the caller's own, for reading.
    fn reader(&self) -> Result<Connection, StoreError> {
        open_reader(&self.database)
    }
}

/// A running daemon; dropping it does not stop its threads.
pub struct Daemon {
    shared: Shared,
    callbacks: Callbacks,
    calls: MemberCalls,
    reconcile: ReconcileSettings,
    /// Of the parts that call WeCom, and of the refusals.
    threads: Threads,
    control: Option<Control>,
    admin: Option<Admin>,
    notifier: Option<Notifier>,
    supervision: Supervision,
    writer_thread: WriterThread,
    _lock: File,
}

impl Daemon {
    /// Starts all parts; callbacks are answered when it returns.
    /// `socket`: the callback listener that was handed over, instead of `[callback] listen`.
    pub fn start(config: &Config, socket: Option<TcpListener>) -> Result<Self, StartError> {
        let endpoints = callbacks::endpoints(config)?;
        let database = &config.database;
        recognise(&database.path)?;
        let lock = lock(&database.path)?;
        let admin = config.admin_listen.map(Admin::listen).transpose()?;
        let connection = open_writer(&database.path, database.mode)?;
        let mark = HighWaterMark::open(&connection, lock.try_clone()?, unix_now(), fastrand::u64(..))
            .map_err(StoreError::from)?;
        let control = ControlEndpoint::bind(&database.path)?;
        let committed = control.as_ref().map(ControlEndpoint::commit_observer);
        let (writer, writer_thread) = Writer::start_notifying(connection, Some(mark), committed)?;
        let mut running = RunningDaemon {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            control: control.as_ref().map(|control| control.path().to_owned()),
            callbacks: None,
            admin: None,
        };
        record_start(&writer, running.clone())?;

        let shared = Shared::new(config, writer)?;
        let mut threads = Threads::default();
        let calls = MemberCalls::start(config, &shared, &mut threads)?;
        let reconcile = ReconcileSettings::new(&config.reconcile);
        let can_compare = Reconciler::start(&reconcile, &shared, &calls, &mut threads)?;
        let control = control.map(|control| control.start(&shared, &calls, can_compare)).transpose()?;
        let reserved = admin.as_ref().map_or(0, |_| admin::DESCRIPTORS);
        let mut callbacks =
            Callbacks::start(config, (endpoints, socket), (&shared, &calls), reserved, &mut threads)?;
        let notifier = Notifier::start(config, &shared, &mut threads)?;
        let compares = can_compare && config.reconcile.enabled;
        let admin =
            admin.map(|listener| Admin::start(listener, &shared, &callbacks, compares)).transpose()?;
        (running.callbacks, running.admin) = (Some(callbacks.address()), admin.as_ref().map(Admin::address));
        if let Err(error) = record_listeners(&shared.writer, running) {
            log::warn!("the addresses of the listeners could not be recorded: {error}");
        }
        let supervision = Supervision::default();
        supervision.start(&shared, callbacks.probes(), &mut threads)?;
        Ok(Self {
            shared,
            callbacks,
            calls,
            reconcile,
            threads,
            control,
            admin,
            notifier,
            supervision,
            writer_thread,
            _lock: lock,
        })
    }

    /// Uses the settings of `config` that take effect without a restart, those of [`crate::config::reload`]. No request is
    /// lost.
    ///
    /// # Errors
    /// A key is not usable; nothing was changed.
    pub fn reload(&self, config: &Config) -> Result<(), StartError> {
        let endpoints = callbacks::endpoints(config)?;
        self.shared.client.reload(api_observer::reloadable(config));
        self.callbacks.reload(endpoints, config.callback.max_body);
        if let Some(converter) = &self.calls.converter {
            converter.reload(&config.openid);
        }
        self.reconcile.replace(&config.reconcile);
        // Pauses may have ended.
        self.calls.wake();
        self.shared.triggers.wakeup.notify();
        Ok(())
    }

    /// Shows this notice in the status line of the service manager, until the next call.
    pub fn set_notice(&self, notice: Option<String>) {
        self.supervision.set_notice(notice);
    }

    /// The address of the callback listener.
    pub fn address(&self) -> SocketAddr {
        self.callbacks.address()
    }

    /// The address of the admin listener; `None` if it is off.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// Whether a thread that lives as long as the daemon has ended by itself.
    pub fn is_broken(&self) -> bool {
        self.callbacks.is_broken() || self.threads.has_ended() || self.writer_thread.is_finished()
    }

    /// Ends all parts within 5 s: accepted requests are answered, and calls of WeCom's API without an answer are due
    /// again at the next start.
    pub fn stop(self) {
        let deadline = Instant::now() + STOP_TIMEOUT;
        self.shared.shutdown.trigger();
        if let Some(admin) = self.admin {
            admin.stop(Duration::from_millis(200));
        }
        if let Some(control) = self.control {
            control.stop(deadline);
        }
        self.calls.wake();
        self.supervision.wake();
        self.shared.triggers.wakeup.notify();
        if let Some(notifier) = &self.notifier {
            notifier.stop();
        }
        self.callbacks.stop(deadline);
        // A call that waits for WeCom is left behind.
        self.threads.join_until(deadline.checked_sub(Duration::from_secs(1)).unwrap_or(deadline));
        let left = || deadline.saturating_duration_since(Instant::now());
        // A database that another program locks must not take the time that closing needs.
        if let Err(error) =
            record_stop(&self.shared.writer, left().saturating_sub(Duration::from_millis(500)))
        {
            log::warn!("the end of the service could not be noted: {error}");
        }
        self.shared.writer.close();
        if !self.writer_thread.join_within(left()) {
            log::warn!("the database was not closed in time; nothing acknowledged is lost");
        }
    }
}

/// Shows the commands that the daemon runs and nothing is paused, and requests a comparison if callbacks may have been
/// missed before.
fn record_start(writer: &Writer, daemon: RunningDaemon) -> Result<(), StoreError> {
    writer.run(COMMIT_TIMEOUT, move |connection| {
        let now = unix_now();
        if let Some(reason) = reconciler::triggers::before_start(connection, now)? {
            state::request_reconcile(connection, &reason, now)?;
        }
        DAEMON.set(connection, now, &daemon)?;
        RECONCILE_PROGRESS.remove(connection)?;
        PAUSES.remove(connection)
    })
}

/// Programs that let the system choose a port find it in this row.
fn record_listeners(writer: &Writer, daemon: RunningDaemon) -> Result<(), StoreError> {
    writer.run(COMMIT_TIMEOUT, move |connection| DAEMON.set(connection, unix_now(), &daemon))
}

fn record_stop(writer: &Writer, timeout: Duration) -> Result<(), StoreError> {
    writer.run(timeout, |connection| {
        DAEMON.remove(connection)?;
        STOPPED.set(connection, unix_now(), &true)?;
        RECONCILE_PROGRESS.remove(connection)?;
        PAUSES.remove(connection)
    })
}
