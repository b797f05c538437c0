//! `run`: the daemon in the foreground, until a signal ends it.

use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use log::Level;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::failure::{FAILURE, Failure};
use super::load;
use super::logging::{self, Logging, Times};
use super::start_failures::{StartFailures, Verdict};
use crate::config::Config;
use crate::config::reload::Differences;
use crate::daemon::{Daemon, service_manager};
use crate::text::printable;

/// Interval of the checks whether a thread has ended by itself.
const CHECK: Duration = Duration::from_secs(30);

pub(super) fn run(path: Option<&Path>) -> ExitCode {
    let times = Times::new();
    let mut log = None;
    // The sender is kept: without the thread of the signals, a wait for one must not end at once.
    let (sender, signals) = channel();
    let mut socket = None;
    let served = begin(sender.clone(), &mut socket)
        .and_then(|()| Service::start(path, (times, &mut log), socket.as_ref()))
        .and_then(|service| {
            StartFailures::clear();
            service.serve(&signals)
        });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure, log.as_ref(), (&signals, socket));
            ExitCode::from(failure.start_exit_code())
        }
    }
}

/// Forwards signals from now on, so that one during the start stops the daemon, and takes the socket that systemd passed
/// (sd_listen_fds(3)).
fn begin(sender: Sender<i32>, socket: &mut Option<TcpListener>) -> Result<(), Failure> {
    *socket = listenfd::ListenFd::from_env().take_tcp_listener(0)?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let forward = move || signals.forever().try_for_each(|signal| sender.send(signal));
    std::thread::Builder::new().name("signals".into()).spawn(forward)?;
    Ok(())
}

/// Prints or logs why the daemon ends, and delays the end of a start that failed before.
fn report(
    failure: &Failure,
    log: Option<&Logging>,
    (signals, socket): (&Receiver<i32>, Option<TcpListener>),
) {
    let lines = failure.lines();
    service_manager::notify(&[NotifyState::Status(&printable(&lines.join("; ")))]);
    let may_pass = failure.start_exit_code() == FAILURE;
    let Verdict { is_logged, wait } = StartFailures::count(&lines.join("\n"), may_pass);
    for line in lines.iter().filter(|_| is_logged) {
        if log.is_some_and(|log| log.is_file() || log.is_standard_error()) {
            log::error!("{line}");
        }
        if !log.is_some_and(Logging::is_standard_error) {
            let priority = if logging::is_journal() { logging::priority(Level::Error) } else { "" };
            eprintln!("{priority}wecom-dirsync: {}", printable(line));
        }
    }
    // Clients that wait would make systemd start the daemon again at once.
    let has_clients = !may_pass && socket.as_ref().is_some_and(drop_clients);
    if may_pass || has_clients {
        let until = Instant::now() + wait;
        while let Ok(SIGHUP) = signals.recv_timeout(until.saturating_duration_since(Instant::now())) {}
    }
    if let Some(socket) = socket.filter(|_| has_clients) {
        drop_clients(&socket);
    }
}

/// Closes the connections that wait to be accepted; false if there are none.
fn drop_clients(socket: &TcpListener) -> bool {
    if socket.set_nonblocking(true).is_err() {
        return false;
    }
    let mut any = false;
    while socket.accept().is_ok() {
        any = true;
    }
    any
}

struct Service<'a> {
    daemon: Daemon,
    log: &'a Logging,
    /// The settings of the start; those that need a restart are still in effect.
    started: Config,
    /// The settings that the last reload read.
    current: Config,
}

impl<'a> Service<'a> {
    fn start(
        path: Option<&Path>,
        (times, log): (Times, &'a mut Option<Logging>),
        socket: Option<&TcpListener>,
    ) -> Result<Self, Failure> {
        let config = load(path)?;
        let log = &*log.insert(Logging::start(&config.log, times)?);
        logging::log_panics();
        let daemon = Daemon::start(&config, socket.map(TcpListener::try_clone).transpose()?)?;
        // Not before, because a start that fails again and again would repeat them.
        for warning in config.warnings() {
            log::warn!("{warning}");
        }
        log::info!(
            "ready: version={} callbacks=http://{}{} admin={} database={}",
            env!("CARGO_PKG_VERSION"),
            daemon.address(),
            config.callback.path,
            daemon.admin_address().map_or_else(|| "off".into(), |address| format!("http://{address}")),
            config.database.path.display()
        );
        service_manager::ready();
        Ok(Self { daemon, log, started: config.clone(), current: config })
    }

    /// Serves until a signal ends it.
    fn serve(mut self, signals: &Receiver<i32>) -> Result<(), Failure> {
        let signal = loop {
            match signals.recv_timeout(CHECK) {
                Ok(SIGHUP) => self.reload(),
                Ok(signal) => break Some(signal),
                Err(RecvTimeoutError::Timeout) if !self.daemon.is_broken() => {}
                Err(_) => break None,
            }
        };
        service_manager::stopping();
        match signal {
            Some(SIGTERM) => log::info!("stopping: SIGTERM"),
            Some(_) => log::info!("stopping: SIGINT"),
            None => log::error!("stopping: a thread of the daemon has ended; please report this"),
        }
        self.daemon.stop();
        log::info!("stopped");
        match signal {
            Some(_) => Ok(()),
            None => Err(Failure::Other("a thread of the daemon ended by itself; the log names it".into())),
        }
    }

    /// Reads the INI and the files of secrets again, and uses what it can.
    fn reload(&mut self) {
        service_manager::reloading();
        let notice = self.try_reload().unwrap_or_else(|failure| {
            let lines = failure.lines();
            for line in &lines {
                log::error!("reload: {line}");
            }
            log::error!("reload: the former settings stay in effect");
            Some(format!("RELOAD FAILED, the former settings stay: {}", lines.join("; ")))
        });
        self.daemon.set_notice(notice);
        service_manager::ready();
    }

    /// Returns what needs a restart, for the status line.
    fn try_reload(&mut self) -> Result<Option<String>, Failure> {
        let new = load(Some(&self.started.file))?;
        let Differences { mut restart, .. } = self.started.differences(&new);
        // All else may belong to the other company.
        if new.wecom.corp_id != self.started.wecom.corp_id {
            return Err(Failure::Other("[wecom] corp_id has changed; restart the service to use it".into()));
        }
        let Differences { live, .. } = self.current.differences(&new);
        self.log.reload(&new.log)?;
        self.daemon.reload(&new)?;
        self.current = new;
        let changed = if live.is_empty() { "nothing".to_owned() } else { live.join(", ") };
        log::info!("reloaded: changed {changed}");
        let credentials = self.current.changed_credentials();
        if !credentials.is_empty() {
            let names = credentials.join(", ");
            log::warn!(
                "reload: systemd passes credentials at the start only; restart to use the new {names}"
            );
        }
        if !restart.is_empty() {
            log::warn!("reload: restart to use {}", restart.join(", "));
        }
        restart.extend(credentials);
        Ok((!restart.is_empty()).then(|| format!("restart to use {}", restart.join(", "))))
    }
}
