//! What `run` needs besides valid settings: rights on files, free ports, the lock, a database of this version.
//!
//! Root examines for the user of the unit, because root itself may do everything.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Access, access, statvfs};
use rustix::io::Errno;

use super::failure::{EX_CONFIG, EX_NOPERM, FAILURE, Failure};
use crate::config::Config;
use crate::daemon::{StartError, is_running};
use crate::store::StoreError;
use crate::store::file::{beside, folder_of, recognise, version_in_header};
use crate::store::holders::{self, Holder};
use crate::store::open::known_version;

/// The command of a daemon's process.
const DAEMON: &str = "wecom-dirsync";

/// What was found: remarks, and what prevents a start.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) notes: Vec<String>,
    problems: Vec<(u8, String)>,
}

impl Findings {
    fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    fn problem(&mut self, code: u8, text: String) {
        self.problems.push((code, text));
    }

    /// The failure that `run` would end with; the least temporary one decides on the exit status.
    pub(super) fn failure(&self) -> Option<Failure> {
        let code = self.problems.iter().map(|(code, _)| *code).max()?;
        let lines = self.problems.iter().map(|(_, text)| text.clone()).collect();
        Some(Failure::NotReady { lines, code })
    }
}

/// Examines what the daemon needs. Changes nothing.
pub(super) fn examine(config: &Config) -> Findings {
    let mut findings = Findings::default();
    let unit = config.unit().and_then(|name| Unit::load(&name));
    let actor = Actor::of(unit.as_ref(), &mut findings);
    files(config, unit.as_ref(), &actor, &mut findings);
    let runs = is_running(&config.database.path);
    let holders = holders::of_file(&beside(&config.database.path, ".lock"));
    let is_daemon = |holder: &Holder| holder.name.as_deref().is_none_or(|name| name == DAEMON);
    if runs && (holders.is_empty() || holders.iter().any(is_daemon)) {
        findings.note("the daemon runs, and holds the lock of the database".to_owned());
    } else if runs {
        let what = format!("the lock of the database is held by {}; end it", holders::list(&holders));
        findings.problem(FAILURE, what);
    }
    database(&config.database.path, &mut findings);
    ports(config, unit.as_ref(), runs, &mut findings);
    findings
}

/// A unit of the packages, as systemd has it.
#[derive(Debug, Default)]
struct Unit {
    name: String,
    user: String,
    group: String,
    /// Folders that the unit may write to; `None`: all.
    writable: Option<Vec<PathBuf>>,
    /// Names of LoadCredential.
    credentials: Vec<String>,
    may_bind_privileged: bool,
    /// Addresses of its socket unit, if that listens.
    listens: Vec<String>,
}

impl Unit {
    /// `None` without systemd or without the unit.
    fn load(name: &str) -> Option<Self> {
        if !sd_notify::booted().unwrap_or(false) {
            return None;
        }
        let service = show(&format!("{name}.service"))?;
        let value =
            |key: &str| service.iter().find(|(k, _)| k == key).map_or("", |(_, value)| value.as_str());
        if value("LoadState") != "loaded" {
            return None;
        }
        let folders = |key: &str, base: &str| -> Vec<PathBuf> {
            value(key)
                .split_whitespace()
                .map(|folder| Path::new(base).join(folder.trim_start_matches(['-', '+'])))
                .collect()
        };
        let writable = (value("ProtectSystem") == "strict").then(|| {
            let kinds = [
                ("StateDirectory", "/var/lib"),
                ("LogsDirectory", "/var/log"),
                ("RuntimeDirectory", "/run"),
                ("ReadWritePaths", "/"),
            ];
            kinds.iter().flat_map(|(key, base)| folders(key, base)).collect()
        });
        let text =
            output(Command::new("systemctl").arg("cat").arg(format!("{name}.service"))).unwrap_or_default();
        let credentials = text.lines().filter_map(|line| {
            let (key, value) = line.split_once('=')?;
            let name = value.split(':').next().filter(|name| !name.is_empty())?;
            matches!(
                key,
                "LoadCredential" | "LoadCredentialEncrypted" | "SetCredential" | "SetCredentialEncrypted"
            )
            .then(|| name.to_owned())
        });
        let socket = show(&format!("{name}.socket")).unwrap_or_default();
        let is_active = socket.iter().any(|(key, value)| key == "ActiveState" && value == "active");
        let listens = socket.iter().filter(|(key, _)| is_active && key == "Listen");
        Some(Self {
            name: name.to_owned(),
            user: value("User").to_owned(),
            group: value("Group").to_owned(),
            writable,
            credentials: credentials.collect(),
            may_bind_privileged: value("AmbientCapabilities").contains("cap_net_bind_service"),
            // Such as `127.0.0.1:8080 (Stream)`.
            listens: listens
                .filter_map(|(_, value)| value.split_whitespace().next().map(str::to_owned))
                .collect(),
        })
    }

    /// Whether systemd makes this folder when it starts the unit.
    fn makes(&self, folder: &Path) -> bool {
        self.writable.as_ref().is_some_and(|all| all.iter().any(|writable| folder == writable))
    }

    /// Whether its sandbox lets it write to this folder.
    fn may_write_to(&self, folder: &Path) -> bool {
        self.writable.as_ref().is_none_or(|all| all.iter().any(|writable| folder.starts_with(writable)))
    }
}

/// Properties of a unit.
fn show(unit: &str) -> Option<Vec<(String, String)>> {
    let properties = "LoadState,ActiveState,User,Group,ProtectSystem,StateDirectory,LogsDirectory,RuntimeDirectory,\
                      ReadWritePaths,AmbientCapabilities,Listen";
    let text = output(Command::new("systemctl").args(["show", "--property", properties, unit]))?;
    let pair = |line: &str| line.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    Some(text.lines().filter_map(pair).collect())
}

/// Standard output of a command that succeeds.
fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Who the daemon runs as.
enum Actor {
    /// This process's own user.
    Own,
    /// Another user and group.
    Other(String, String),
}

/// Rights on a path.
const READ: (&str, Access) = ("-r", Access::READ_OK);
const WRITE: (&str, Access) = ("-w", Access::WRITE_OK);
const ENTER: (&str, Access) = ("-x", Access::EXEC_OK);

impl Actor {
    fn of(unit: Option<&Unit>, findings: &mut Findings) -> Self {
        let is_root = rustix::process::geteuid().is_root();
        let Some(unit) = unit.filter(|unit| is_root && !unit.user.is_empty() && unit.user != "root") else {
            return Self::Own;
        };
        let group = if unit.group.is_empty() { &unit.user } else { &unit.group };
        let actor = Self::Other(unit.user.clone(), group.clone());
        if actor.may(&[ENTER], Path::new("/")) {
            return actor;
        }
        let what = format!("paths are tested as root, because setpriv cannot become {}:{group}", unit.user);
        findings.note(what);
        Self::Own
    }

    /// Whether it has all of these rights.
    fn may(&self, rights: &[(&str, Access)], path: &Path) -> bool {
        match self {
            Self::Own => rights.iter().all(|(_, right)| access(path, *right).is_ok()),
            Self::Other(user, group) => rights.iter().all(|(option, _)| {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", user, "--regid", group, "--init-groups", "test", option]).arg(path);
                output(&mut command).is_some()
            }),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Own => "this user",
            Self::Other(user, _) => user,
        }
    }
}

fn files(config: &Config, unit: Option<&Unit>, actor: &Actor, findings: &mut Findings) {
    let is_credential = |file: &Path| {
        let name = file.file_name().and_then(|name| name.to_str());
        unit.is_some_and(|unit| unit.credentials.iter().any(|known| Some(known.as_str()) == name))
    };
    let to_read = config.files().into_iter().filter(|file| *file == config.file || !is_credential(file));
    for file in to_read.filter(|file| !actor.may(&[READ], file)) {
        let (file, who) = (file.display(), actor.name());
        findings.problem(
            EX_NOPERM,
            format!("{file}: {who} may not read it; chgrp it to the service's group, mode 0640"),
        );
    }
    let log = config.log.file.iter().map(|file| (file, "log"));
    for (file, what) in [(&config.database.path, "database")].into_iter().chain(log) {
        let folder = folder_of(file);
        let (shown, who) = (folder.display(), actor.name());
        if !folder.is_dir() {
            // systemd makes its own folders when it starts the unit.
            if unit.is_none_or(|unit| !unit.makes(folder)) {
                let what = format!(
                    "{shown}: the folder of the {what} does not exist; create it, or change [{what}] in the INI"
                );
                findings.problem(EX_CONFIG, what);
            }
            continue;
        }
        if let Some(unit) = unit.filter(|unit| !unit.may_write_to(folder)) {
            let name = &unit.name;
            let what = format!(
                "{shown}: the unit may not write there; use /var/lib/{} for the {what}, or add ReadWritePaths={shown} to \
                 {name}.service (systemctl edit {name})",
                name.replace('@', "/")
            );
            findings.problem(EX_NOPERM, what);
        } else if access(folder, Access::WRITE_OK) == Err(Errno::ROFS) {
            let what = format!("{shown}: the file system of the {what} is read-only; remount it");
            findings.problem(FAILURE, what);
        } else if statvfs(folder).is_ok_and(|found| found.f_bavail == 0) {
            let what = format!("{shown}: the disk of the {what} is full; make room on it");
            findings.problem(FAILURE, what);
        } else if !actor.may(&[WRITE, ENTER], folder) {
            findings.problem(
                EX_NOPERM,
                format!("{shown}: {who} may not write to the folder of the {what}; chown it"),
            );
        } else if file.exists() && !actor.may(&[READ, WRITE], file) {
            let file = file.display();
            findings.problem(EX_NOPERM, format!("{file}: {who} may not write to this file; chown it"));
        }
    }
}

/// Inspects the file itself: a connection would create files beside it, perhaps as root.
fn database(path: &Path, findings: &mut Findings) {
    let version = recognise(path).and_then(|()| version_in_header(path));
    match version {
        Ok(None) => findings.note("there is no database yet; `run` creates it".to_owned()),
        Ok(Some(found)) if found < known_version() => {
            findings.note(format!("the database has the older schema {found}; `run` migrates it"));
        }
        Ok(Some(_)) => {}
        // A missing right or folder is reported as such.
        Err(StoreError::CannotOpen { .. }) => {}
        Err(error) => {
            let failure = Failure::Store(error);
            findings.problem(failure.start_exit_code(), failure.to_string());
        }
    }
}

fn ports(config: &Config, unit: Option<&Unit>, runs: bool, findings: &mut Findings) {
    let listen = config.callback.listen;
    let sockets = unit.map(|unit| unit.listens.as_slice()).unwrap_or_default();
    match (unit, sockets) {
        (Some(unit), [passed, ..]) => {
            findings.note(format!("callbacks arrive at {passed}, which {}.socket holds", unit.name));
            let is_other = passed.parse::<SocketAddr>().is_ok_and(|passed| passed != listen);
            if config.callback.is_listen_set && is_other {
                findings.note(config.ignored_listen(passed));
            }
        }
        _ => {
            port(listen, runs, findings, |error| StartError::Listen { address: listen, error });
            if let Some(unit) =
                unit.filter(|unit| (1..1024).contains(&listen.port()) && !unit.may_bind_privileged)
            {
                let name = &unit.name;
                let what = format!(
                    "cannot listen on {listen}: ports below 1024 need {name}.socket (systemctl enable --now \
                     {name}.socket)"
                );
                findings.problem(EX_NOPERM, what);
            }
        }
    }
    if let Some(address) = config.admin_listen {
        port(address, runs, findings, |error| StartError::ListenAdmin { address, error });
    }
}

fn port(
    address: SocketAddr,
    runs: bool,
    findings: &mut Findings,
    failure: impl FnOnce(std::io::Error) -> StartError,
) {
    match crate::gate::bind(address) {
        Ok(_) => {}
        Err(error) if runs && error.kind() == std::io::ErrorKind::AddrInUse => {
            findings.note(format!("port {address} is in use while the daemon runs, probably by it"));
        }
        Err(error) => {
            let failure = Failure::Start(failure(error));
            findings.problem(failure.start_exit_code().max(FAILURE), failure.to_string());
        }
    }
}
