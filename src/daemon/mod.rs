//! The running parts of the daemon, one file each, and here the one that starts and stops them.
//!
//! Threads: the gate takes requests from the network; a few workers decrypt and parse; the writer commits;
//! the responder answers; the converters call WeCom. Data flows in one direction, and each thread ends
//! when the one before it has.

pub mod admin;
pub mod bell;
pub mod callback;
pub mod converter;
pub mod details;
pub mod doubt;
pub mod gate;
mod lockfile;
pub mod metrics;
pub mod reconciler;
pub mod recorder;
pub mod server;
pub mod throttle;

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::config::{Config, Keys, Secret};
use crate::directory::openid::Backoff;
use crate::stop::Stop;
use crate::store::openids::recent_api_calls;
use crate::store::writer::WriterThread;
use crate::store::{StoreError, Writer, open_reader, open_writer, set_state, state};
use crate::wecom::api::{Api, Client, SecretKind, Settings, clock};
use crate::wecom::crypt::{Crypt, EncodingAesKey};
use admin::{Admin, AdminError, Watched};
use callback::Endpoint;
use converter::{Converter, Policy};
use details::{Details, DetailsWorker};
use doubt::Doubts;
use gate::{Budget, Gate, Limits, Routes};
use lockfile::{Door, Knocks};
pub use lockfile::{is_running, knock, lock, watch_position};
use metrics::Metrics;
use reconciler::Reconciler;
use recorder::Recorder;
use server::{Server, Threads};

/// Requests that may be with the workers and the writer at the same time: what can share a commit.
const IN_FLIGHT: usize = 32;
/// Client connections at a time.
const CONNECTIONS: usize = 4096;
/// Descriptors for the database, the log, API calls and what the runtime needs.
const RESERVED_DESCRIPTORS: usize = 64;
/// How often the database is looked at when nothing calls for it. Less than the patience of the `reconcile` command.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// The same where commands cannot be heard.
const LOOK_OFTEN: Duration = Duration::from_secs(2);
/// systemd sends SIGKILL much later; WeCom waits 5 s for an answer.
const STOP_WITHIN: Duration = Duration::from_millis(4500);

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is not usable after all.
    #[error("{0}")]
    Config(String),
    /// The database is not usable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another daemon has this database.
    #[error(
        "{0}: another wecom-dirsync works with this database; stop it first (systemctl stop wecom-dirsync)"
    )]
    Taken(PathBuf),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}; is something else using this port? ([callback] listen)")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// The admin address cannot be listened on.
    #[error(
        "cannot listen on {address}: {error}; set [admin] listen to another address, or leave it empty to do without the admin listener"
    )]
    ListenAdmin {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// The system refuses a thread, a socket or a file.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

impl From<AdminError> for StartError {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Store(error) => Self::Store(error),
            AdminError::System(error) => Self::System(error),
        }
    }
}

/// The converter and its threads.
type Converters = (Arc<Converter>, Vec<std::thread::JoinHandle<()>>);

/// The daemon at work.
pub struct Daemon {
    gate: Gate,
    server: Arc<Server>,
    threads: Threads,
    converter: Option<Converters>,
    details: Option<Arc<DetailsWorker>>,
    /// The threads of details and comparison.
    askers: Vec<JoinHandle<()>>,
    knocks: Option<Knocks>,
    writer: Writer,
    writer_thread: WriterThread,
    admin: Option<Admin>,
    stop: Stop,
    _lock: File,
}

impl Daemon {
    /// Starts everything; when it returns, callbacks are answered.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let endpoints = endpoints(config)?;
        let lock = lock(&config.database.path)?;
        let admin_listener = config.admin_listen.map(admin_listener).transpose()?;
        let connection = open_writer(&config.database.path, config.database.mode)?;
        let position = watch_position(&lock, &connection, clock())?;
        let (writer, writer_thread) = Writer::start_with(connection, position)?;
        announce(&writer)?;

        let stop = Stop::default();
        let metrics = Arc::new(Metrics::default());
        let doubts = Arc::new(Doubts::default());
        let client = Arc::new(client(config, &writer, &metrics, &stop));
        let door = door(&config.database.path);
        let look_again = if door.is_some() { LOOK_AGAIN } else { LOOK_OFTEN };
        let Asking { converter, details, threads: askers } =
            start_asking(config, client, &writer, &doubts, &stop, look_again)?;
        let knocks = door.map(|door| listen_at(door, converter.as_ref(), &doubts)).transpose()?;

        let listener = listener(config.callback.listen)?;
        let wanted = Budget { max_connections: CONNECTIONS, max_in_flight: IN_FLIGHT };
        let reserved = RESERVED_DESCRIPTORS + admin_listener.as_ref().map_or(0, |_| admin::DESCRIPTORS);
        let budget = gate::descriptor_budget(wanted, reserved);
        let folder = config.database.path.parent().unwrap_or(Path::new("."));
        let (http, backend) = gate::private_server(budget.max_in_flight, folder)?;
        let routes = endpoints.iter().fold(Routes::new(), |r, e| r.with(e.path.clone(), &["GET", "POST"]));
        let server = Arc::new(Server {
            http,
            endpoints,
            corp_id: config.wecom.corp_id.clone(),
            max_body: config.callback.max_body,
            writer: writer.clone(),
            wakers: server::Wakers {
                converter: converter.as_ref().map(|(converter, _)| Arc::clone(converter)),
                details: details.clone(),
                doubts,
            },
            metrics: Arc::clone(&metrics),
            refusals: throttle::Throttle::default(),
        });
        let threads = server::start(&server, config.callback.threads)?;
        let limits = Limits {
            max_connections: budget.max_connections,
            max_body: config.callback.max_body,
            ..Limits::default()
        };
        let gate = Gate::start(listener, routes, limits, backend)?;
        let watched = Watched { metrics, gate: gate.stats(), writer: writer.clone() };
        let admin = admin_listener
            .map(|listener| Admin::start(listener, watched, &config.database.path, budget != wanted))
            .transpose()?;
        Ok(Self {
            gate,
            server,
            threads,
            converter,
            details,
            askers,
            knocks,
            writer,
            writer_thread,
            admin,
            stop,
            _lock: lock,
        })
    }

    /// Where callbacks are listened for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.gate.local_addr()
    }

    /// Where the admin listener is, if it is on.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// Whether a part that everything depends on has ended by itself.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.gate.is_finished() || self.writer_thread.is_finished()
    }

    /// Ends everything within 5 s: accepted requests are answered, what is committed stays committed, and
    /// what was being asked of WeCom is due again at the next start.
    pub fn stop(self) {
        let deadline = Instant::now() + STOP_WITHIN;
        let left = || deadline.saturating_duration_since(Instant::now());
        self.stop.give();
        if let Some(admin) = self.admin {
            admin.stop(Duration::from_millis(200));
        }
        if let Some(knocks) = self.knocks {
            knocks.stop();
        }
        if let Some((converter, _)) = &self.converter {
            converter.wake_all();
        }
        self.server.wakers.doubts.bell.ring();
        self.gate.stop(left().saturating_sub(Duration::from_millis(500)));
        self.threads.stop(&self.server, left().saturating_sub(Duration::from_millis(300)));
        if let Some(details) = &self.details {
            details.wake();
        }
        let converters = self.converter.iter().flat_map(|(_, threads)| threads);
        let askers: Vec<_> = converters.chain(&self.askers).collect();
        // One that is waiting for WeCom is left behind: its answer can wait, it is asked for again.
        while askers.iter().any(|t| !t.is_finished()) && left() > Duration::from_secs(1) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let written = self.writer.run(left(), |connection| {
            set_state(connection, "daemon", clock(), None)?;
            set_state(connection, "stopped", clock(), Some(&json!(true)))?;
            set_state(connection, reconciler::PROGRESS, clock(), None)?;
            set_state(connection, "pauses", clock(), None)
        });
        if let Err(error) = written {
            log::warn!("the end of the service could not be noted: {error}");
        }
        drop((self.server, self.converter));
        self.writer.close();
        if !self.writer_thread.join_within(left()) {
            log::warn!("the database was not closed in time; nothing acknowledged is lost");
        }
    }
}

/// The socket that systemd hands over, if it does (sd_listen_fds(3)); else one of our own.
fn listener(address: SocketAddr) -> Result<TcpListener, StartError> {
    if let Some(listener) = listenfd::ListenFd::from_env().take_tcp_listener(0)? {
        log::info!("listening on the socket that was handed over; [callback] listen is ignored");
        return Ok(listener);
    }
    gate::bind(address).map_err(|error| StartError::Listen { address, error })
}

fn admin_listener(address: SocketAddr) -> Result<TcpListener, StartError> {
    gate::bind(address).map_err(|error| StartError::ListenAdmin { address, error })
}

/// The callback URLs and their keys.
fn endpoints(config: &Config) -> Result<Vec<Endpoint>, StartError> {
    let crypt = |keys: &Keys| -> Result<Crypt, StartError> {
        let key = EncodingAesKey::parse(keys.encoding_aes_key.expose());
        let key = key.map_err(|error| StartError::Config(error.to_string()))?;
        Ok(Crypt::new(keys.token.expose(), key, &config.callback.receive_id))
    };
    let callback = &config.callback;
    let mut keys = vec![crypt(&callback.keys)?];
    if let Some(previous) = &callback.previous {
        keys.push(crypt(previous)?);
    }
    let mut endpoints = vec![Endpoint { path: callback.path.clone(), keys }];
    if let Some(app) = &config.app_callback {
        endpoints.push(Endpoint { path: app.path.clone(), keys: vec![crypt(&app.keys)?] });
    }
    Ok(endpoints)
}

/// Where commands knock, if the system lets it be watched.
fn door(database: &Path) -> Option<Door> {
    let door = Door::watch(database);
    door.inspect_err(|error| {
        let seconds = LOOK_OFTEN.as_secs();
        log::info!(
            "the lock file cannot be watched ({error}); what commands want is looked for every {seconds} s"
        );
    })
    .ok()
}

fn listen_at(door: Door, converter: Option<&Converters>, doubts: &Arc<Doubts>) -> std::io::Result<Knocks> {
    let converter = converter.map(|(converter, _)| Arc::clone(converter));
    let bell = doubts.bell.clone();
    door.listen(move || {
        if let Some(converter) = &converter {
            converter.look();
        }
        bell.ring();
    })
}

/// What asks WeCom.
struct Asking {
    converter: Option<Converters>,
    details: Option<Arc<DetailsWorker>>,
    threads: Vec<JoinHandle<()>>,
}

fn start_asking(
    config: &Config,
    client: Arc<Client<Recorder>>,
    writer: &Writer,
    doubts: &Arc<Doubts>,
    stop: &Stop,
    look_again: Duration,
) -> Result<Asking, StartError> {
    let reader = || open_reader(&config.database.path);
    let mut asking = Asking { converter: None, details: None, threads: Vec::new() };
    if client.has_secret(SecretKind::App) && config.openid.enabled {
        let policy = Policy {
            workers: config.openid.workers,
            backoff: Backoff { first: config.openid.retry_first, max: config.openid.retry_max },
            recheck_after: config.openid.recheck_after,
            look_again,
        };
        let (client, doubts) = (Arc::clone(&client), Arc::clone(doubts));
        asking.converter =
            Some(Converter::start(client, writer.clone(), reader()?, policy, doubts, stop.clone())?);
    }
    if client.has_secret(SecretKind::App) && config.fetch_details {
        let client = Arc::clone(&client);
        let details = Details { client, writer: writer.clone(), reader: reader()?, stop: stop.clone() };
        let (worker, thread) = details.start()?;
        asking.details = Some(worker);
        asking.threads.push(thread);
    }
    if client.has_secret(SecretKind::Contacts) {
        let reconciler = Reconciler {
            client,
            writer: writer.clone(),
            reader: reader()?,
            stop: stop.clone(),
            settings: config.reconcile.clone(),
            doubts: Arc::clone(doubts),
            look_again,
            converter: asking.converter.as_ref().map(|(converter, _)| Arc::clone(converter)),
            details: asking.details.clone(),
        };
        asking.threads.push(reconciler.start()?);
    }
    Ok(asking)
}

/// The client of WeCom's API, as configured.
#[must_use]
pub fn client(config: &Config, writer: &Writer, metrics: &Arc<Metrics>, stop: &Stop) -> Client<Recorder> {
    let text = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
    let settings = Settings {
        api_base: config.wecom.api_base.clone(),
        corp_id: config.wecom.corp_id.clone(),
        app_secret: text(&config.wecom.app_secret),
        contacts_secret: text(&config.wecom.contacts_secret),
        timeout: config.wecom.timeout,
        calls_per_minute: config.wecom.calls_per_minute,
    };
    let recorder = Recorder { writer: writer.clone(), metrics: Arc::clone(metrics) };
    let client = Client::new(settings, recorder, stop.clone());
    client.called_before(called_before(writer));
    client
}

/// Calls of the last minute, which count for WeCom whoever made them.
fn called_before(writer: &Writer) -> Vec<(Api, Duration)> {
    let recent = writer.run(Duration::from_secs(4), |connection| recent_api_calls(connection, 61, clock()));
    let recent = recent.unwrap_or_else(|error| {
        log::warn!("calls of the last minute are not known: {error}");
        Vec::new()
    });
    // Whole seconds are rounded down twice: rather too young than too old.
    let ago = |seconds: i64| Duration::from_secs(u64::try_from(seconds - 1).unwrap_or(0));
    recent.iter().filter_map(|(api, seconds)| Some((Api::of_path(api)?, ago(*seconds)))).collect()
}

/// Tells the commands beside the daemon that it has started, with nothing paused.
fn announce(writer: &Writer) -> Result<(), StoreError> {
    let myself = json!({"pid": std::process::id(), "version": env!("CARGO_PKG_VERSION")});
    writer.run(Duration::from_secs(4), move |connection| {
        let now = clock();
        if let Some(reason) = doubt::before_start(connection, now)? {
            state::doubt(connection, &reason, now)?;
        }
        // Whoever left a wish for the daemon before this one has gone, or may ask again.
        state::forget_all(connection, reconciler::WISH)?;
        set_state(connection, "daemon", now, Some(&myself))?;
        set_state(connection, reconciler::PROGRESS, now, None)?;
        set_state(connection, "pauses", clock(), None)
    })
}
