//! The running parts of the daemon, one file each, and here the one that starts and stops them.
//!
//! Threads: the gate takes requests from the network; a few workers decrypt and parse; the writer commits;
//! the responder answers; the converters call WeCom. Data flows in one direction, and each thread ends
//! when the one before it has.

pub mod admin;
pub mod api_observer;
pub mod callback;
pub mod clock_reporter;
pub mod converter;
pub mod details;
pub mod event_clock;
pub mod gate_observer;
pub mod hour;
mod lockfile;
pub mod log_limiter;
pub mod metrics;
pub mod reconciler;
pub mod refusals;
pub mod server;
pub mod wakeup;

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::config::{Config, Keys, Previous, Secret};
use crate::directory::openid::Backoff;
use crate::gate::{Budget, Gate, Limits, Routes};
use crate::shutdown::Shutdown;
use crate::store::epoch::HighWaterMark;
use crate::store::file::recognise;
use crate::store::openids::recent_api_calls;
use crate::store::writer::WriterThread;
use crate::store::{StoreError, Writer, open_reader, open_writer, set_state, state};
use crate::wecom::api::network::Network;
use crate::wecom::api::{Api, Client, SecretKind, Settings, clock};
use crate::wecom::callback::crypt::{Crypt, EncodingAesKey};
use crate::wecom::clock::SharedClock;
use crate::wecom::redact::{Redactor, secrets_of_url};
use admin::{Admin, AdminError, Watched};
use api_observer::ApiRecorder;
use callback::Endpoint;
use clock_reporter::ClockReporter;
use converter::{Converter, Policy};
use details::{Details, DetailsWorker};
use event_clock::EventClock;
use gate_observer::GateObserver;
use lockfile::{Door, Knocks};
pub use lockfile::{is_running, knock, lock};
use metrics::Metrics;
use reconciler::Reconciler;
use reconciler::triggers::ReconcileTriggers;
use refusals::Refusals;
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
    refusals_thread: JoinHandle<()>,
    knocks: Option<Knocks>,
    writer: Writer,
    writer_thread: WriterThread,
    admin: Option<Admin>,
    shutdown: Shutdown,
    _lock: File,
}

impl Daemon {
    /// Starts everything; when it returns, callbacks are answered.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let endpoints = endpoints(config)?;
        recognise(&config.database.path)?;
        let lock = lock(&config.database.path)?;
        let admin_listener = config.admin_listen.map(admin_listener).transpose()?;
        let database = open_writer(&config.database.path, config.database.mode)?;
        let mark = HighWaterMark::open(&database, lock.try_clone()?, clock(), fastrand::u64(..))
            .map_err(StoreError::from)?;
        let (writer, writer_thread) = Writer::start_marking(database, Some(mark))?;
        announce(&writer)?;

        let shutdown = Shutdown::default();
        let metrics = Arc::new(Metrics::default());
        let triggers = Arc::new(ReconcileTriggers::default());
        let client = Arc::new(client(config, &writer, &metrics, &shutdown)?);
        let wecom_clock = client.clock().clone();
        let door = door(&config.database.path);
        let look_again = if door.is_some() { LOOK_AGAIN } else { LOOK_OFTEN };
        let Asking { converter, details, threads: askers } =
            start_asking(config, client, &writer, &triggers, &shutdown, look_again)?;
        let knocks = door.map(|door| listen_at(door, converter.as_ref(), &triggers)).transpose()?;

        let listener = listener(config.callback.listen)?;
        let wanted = Budget { max_connections: CONNECTIONS, max_in_flight: IN_FLIGHT };
        let reserved = RESERVED_DESCRIPTORS + admin_listener.as_ref().map_or(0, |_| admin::DESCRIPTORS);
        let budget = crate::gate::descriptor_budget(wanted, reserved);
        let folder = config.database.path.parent().unwrap_or(Path::new("."));
        let (http, upstreams) = crate::gate::private_server(budget.max_in_flight, folder)?;
        let refusals = Arc::new(Refusals::new(endpoints.iter().map(|e| e.path.clone()).collect()));
        let refusals_thread = refusals.start(writer.clone())?;
        let routes = endpoints.iter().fold(Routes::new(), |r, e| r.with_callback(&e.path, &["GET", "POST"]));
        let routes = match &config.callback.probe_path {
            Some(path) => routes.with_probe(path),
            None => routes,
        };
        let server = Arc::new(Server {
            http,
            endpoints,
            corp_id: config.wecom.corp_id.clone(),
            event_clock: EventClock::new(wecom_clock.clone()),
            writer: writer.clone(),
            wakers: server::Wakers {
                converter: converter.as_ref().map(|(converter, _)| Arc::clone(converter)),
                details: details.clone(),
                triggers: Arc::clone(&triggers),
            },
            metrics: Arc::clone(&metrics),
            refusals: Arc::clone(&refusals),
        });
        let threads = server::start(&server, config.callback.threads)?;
        let limits = Limits {
            max_connections: budget.max_connections,
            max_body: config.callback.max_body,
            proxy_protocol: config.callback.proxy_protocol,
            ..Limits::default()
        };
        let observer = Arc::new(GateObserver::new(refusals, Arc::clone(&metrics), triggers));
        let gate = Gate::start(listener, routes, limits, upstreams, Some(observer))?;
        let compares = config.reconcile.enabled && config.wecom.contacts_secret.is_some();
        let watched =
            Watched { metrics, gate: gate.stats(), writer: writer.clone(), clock: wecom_clock, compares };
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
            refusals_thread,
            knocks,
            writer,
            writer_thread,
            admin,
            shutdown,
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
        self.shutdown.trigger();
        if let Some(admin) = self.admin {
            admin.stop(Duration::from_millis(200));
        }
        if let Some(knocks) = self.knocks {
            knocks.stop();
        }
        if let Some((converter, _)) = &self.converter {
            converter.wake_all();
        }
        self.server.wakers.triggers.wakeup.notify();
        self.gate.stop(left().saturating_sub(Duration::from_millis(500)));
        self.threads.stop(&self.server, left().saturating_sub(Duration::from_millis(300)));
        self.server.refusals.end();
        if let Some(details) = &self.details {
            details.wake();
        }
        let converters = self.converter.iter().flat_map(|(_, threads)| threads);
        let askers: Vec<_> = converters.chain(&self.askers).chain([&self.refusals_thread]).collect();
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
    crate::gate::bind(address).map_err(|error| StartError::Listen { address, error })
}

fn admin_listener(address: SocketAddr) -> Result<TcpListener, StartError> {
    crate::gate::bind(address).map_err(|error| StartError::ListenAdmin { address, error })
}

/// The callback URLs and their keys.
fn endpoints(config: &Config) -> Result<Vec<Endpoint>, StartError> {
    let crypts = |keys: &Keys, previous: &Previous, receive_id: &str| -> Result<Vec<Crypt>, StartError> {
        let crypt = |keys: &Keys| {
            let key = EncodingAesKey::parse(keys.encoding_aes_key.expose());
            let key = key.map_err(|error| StartError::Config(error.to_string()))?;
            Ok(Crypt::new(keys.token.expose(), key, receive_id))
        };
        keys.with(previous).iter().map(crypt).collect()
    };
    let callback = &config.callback;
    let keys = crypts(&callback.keys, &callback.previous, &callback.receive_id)?;
    let mut endpoints = vec![Endpoint { path: callback.path.clone(), keys, app: false }];
    if let Some(app) = &config.app_callback {
        let keys = crypts(&app.keys, &app.previous, &app.receive_id)?;
        endpoints.push(Endpoint { path: app.path.clone(), keys, app: true });
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

fn listen_at(
    door: Door,
    converter: Option<&Converters>,
    triggers: &Arc<ReconcileTriggers>,
) -> std::io::Result<Knocks> {
    let converter = converter.map(|(converter, _)| Arc::clone(converter));
    let wakeup = triggers.wakeup.clone();
    door.listen(move || {
        if let Some(converter) = &converter {
            converter.look();
        }
        wakeup.notify();
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
    client: Arc<Client<ApiRecorder>>,
    writer: &Writer,
    triggers: &Arc<ReconcileTriggers>,
    shutdown: &Shutdown,
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
        let (client, triggers) = (Arc::clone(&client), Arc::clone(triggers));
        asking.converter =
            Some(Converter::start(client, writer.clone(), reader()?, policy, triggers, shutdown.clone())?);
    }
    if client.has_secret(SecretKind::App) && config.fetch_details {
        let client = Arc::clone(&client);
        let details =
            Details { client, writer: writer.clone(), reader: reader()?, shutdown: shutdown.clone() };
        let (worker, thread) = details.start()?;
        asking.details = Some(worker);
        asking.threads.push(thread);
    }
    if client.has_secret(SecretKind::Contacts) {
        let reconciler = Reconciler {
            client,
            writer: writer.clone(),
            reader: reader()?,
            shutdown: shutdown.clone(),
            settings: config.reconcile.clone(),
            triggers: Arc::clone(triggers),
            look_again,
            converter: asking.converter.as_ref().map(|(converter, _)| Arc::clone(converter)),
            details: asking.details.clone(),
        };
        asking.threads.push(reconciler.start()?);
    }
    Ok(asking)
}

/// The client of WeCom's API, as configured.
///
/// # Errors
/// [`StartError::Config`]: the environment names a proxy that cannot be used.
pub fn client(
    config: &Config,
    writer: &Writer,
    metrics: &Arc<Metrics>,
    shutdown: &Shutdown,
) -> Result<Client<ApiRecorder>, StartError> {
    let proxy = config.wecom.chosen_proxy(|name| std::env::var(name).ok()).map_err(StartError::Config)?;
    let proxy = proxy.as_ref().map(|proxy| proxy.url.expose());
    let authorities = config.wecom.ca_file.as_ref().map_or_else(Vec::new, |file| file.certificates.clone());
    let network = Network::new(&config.wecom.api_base, proxy, authorities);
    let secrets = config.secrets().into_iter().chain(proxy.iter().flat_map(|url| secrets_of_url(url)));
    let text = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
    let settings = Settings {
        api_base: config.wecom.api_base.clone(),
        network: network.map_err(|what| StartError::Config(format!("the proxy {what}")))?,
        corp_id: config.wecom.corp_id.clone(),
        app_secret: text(&config.wecom.app_secret),
        contacts_secret: text(&config.wecom.contacts_secret),
        redactor: Redactor::new(secrets),
        timeout: config.wecom.timeout,
        calls_per_minute: config.wecom.calls_per_minute,
        clock: reported_clock(writer),
    };
    let recorder = ApiRecorder { writer: writer.clone(), metrics: Arc::clone(metrics) };
    let client = Client::new(settings, recorder, shutdown.clone());
    client.called_before(called_before(writer));
    Ok(client)
}

/// The estimate of WeCom's clock, reported when it changes.
fn reported_clock(writer: &Writer) -> SharedClock {
    let reporter = ClockReporter::new(writer.clone());
    SharedClock::new(move |estimate| reporter.report(estimate))
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
        if let Some(reason) = reconciler::triggers::before_start(connection, now)? {
            state::request_reconcile(connection, &reason, now)?;
        }
        // Whoever left a wish for the daemon before this one has gone, or may ask again.
        state::forget_all(connection, reconciler::WISH)?;
        set_state(connection, "daemon", now, Some(&myself))?;
        set_state(connection, reconciler::PROGRESS, now, None)?;
        set_state(connection, "pauses", clock(), None)
    })
}
