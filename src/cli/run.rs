//! `run`: the daemon in the foreground, until a signal ends it.

use std::path::Path;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{Failure, load, logging};
use crate::daemon::{Daemon, service_manager};

pub(super) fn run(path: Option<&Path>) -> Result<(), Failure> {
    let config = load(path)?;
    logging::start(&config.log)?;
    logging::log_panics();
    // Before the daemon starts: a signal during the start stops it.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    for warning in config.warnings() {
        log::warn!("{warning}");
    }
    let daemon = Daemon::start(&config)?;
    log::info!(
        "ready: version={} callbacks=http://{}{} admin={} database={}",
        env!("CARGO_PKG_VERSION"),
        daemon.address(),
        config.callback.path,
        daemon.admin_address().map_or_else(|| "off".into(), |address| format!("http://{address}")),
        config.database.path.display()
    );
    service_manager::ready();
    let (sender, receiver) = std::sync::mpsc::channel();
    let handle = signals.handle();
    let signals_thread = std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if signal == SIGHUP {
                log::info!("SIGHUP has no effect; restart the service to change its configuration");
            } else if sender.send(signal).is_err() {
                break;
            }
        }
    })?;
    let signal = loop {
        match receiver.recv_timeout(std::time::Duration::from_secs(30)) {
            Ok(signal) => break Some(signal),
            Err(_) if daemon.is_broken() => break None,
            Err(_) => {}
        }
    };
    handle.close();
    let _ = signals_thread.join();
    match signal {
        Some(SIGTERM) => log::info!("stopping: SIGTERM"),
        Some(_) => log::info!("stopping: SIGINT"),
        None => log::error!("stopping: a thread of the daemon has ended; please report this"),
    }
    service_manager::stopping();
    daemon.stop();
    log::info!("stopped");
    match signal {
        Some(_) => Ok(()),
        None => Err(Failure::Other("a thread of the daemon ended by itself; the log names it".into())),
    }
}
