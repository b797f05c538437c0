//! The programs that are compared: the real binary, and the peers in `benches/peers` as far as this machine has them.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::daemon::{CORP, Daemon, KEY, TOKEN};

/// The path of the callback URL.
pub const URL_PATH: &str = "/wecom/callback";

/// Where Debian's packages of Go libraries have their sources.
const DEBIAN_GOPATH: &str = "/usr/share/gocode";

pub struct Program {
    pub name: &'static str,
    /// What it is made of.
    pub versions: String,
    /// How the peer is started; `None` for the real binary.
    peer: Option<Vec<PathBuf>>,
}

impl Program {
    pub fn is_ours(&self) -> bool {
        self.peer.is_none()
    }

    /// Starts it with an empty database in this folder.
    pub fn start(&self, folder: &Path) -> Daemon {
        let Some((program, arguments)) = self.peer.as_deref().and_then(<[PathBuf]>::split_first) else {
            let ini = format!(
                "[wecom]\ncorp_id = {CORP}\n[callback]\nlisten = 127.0.0.1:0\npath = {URL_PATH}\ntoken = {TOKEN}\n\
                 encoding_aes_key = {KEY}\n[openid]\nenabled = no\n[admin]\nlisten =\n"
            );
            return Daemon::start(folder, &ini);
        };
        std::fs::create_dir_all(folder).unwrap();
        let mut command = Command::new(program);
        command.args(arguments).env("PEER_LISTEN", "127.0.0.1:0").env("PEER_PATH", URL_PATH);
        command.env("PEER_DB", folder.join("directory.db")).env("PEER_TOKEN", TOKEN);
        command.env("PEER_AES_KEY", KEY).env("PEER_RECEIVE_ID", CORP);
        Daemon::spawn(command, folder)
    }
}

/// Builds what can be built, into this folder; says in one line each what is missing.
pub fn available(folder: &Path) -> Vec<Program> {
    let mut programs = vec![ours()];
    match go(folder) {
        Ok((binary, versions)) => {
            for (name, commit) in [("Go, group commit", "-commit=group"), ("Go, commit each", "-commit=each")]
            {
                let peer = Some(vec![binary.clone(), commit.into()]);
                programs.push(Program { name, versions: versions.clone(), peer });
            }
        }
        Err(missing) => println!("Go is skipped: {missing}"),
    }
    match node() {
        Ok((script, versions)) => {
            let peer = Some(vec!["node".into(), script]);
            programs.push(Program { name: "Node, group commit", versions, peer });
        }
        Err(missing) => println!("Node is skipped: {missing}"),
    }
    programs
}

/// The release binary, built anew if a source has changed.
fn ours() -> Program {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    build.args(["build", "--release", "--locked", "--quiet", "--bin", "wecom-dirsync"]);
    assert!(build.status().unwrap().success(), "the real binary does not build");
    let versions = format!("{}, SQLite {}", env!("CARGO_PKG_VERSION"), rusqlite::version());
    Program { name: "wecom-dirsync", versions, peer: None }
}

fn go(folder: &Path) -> Result<(PathBuf, String), String> {
    let gopath = output(Command::new("go").args(["env", "GOPATH"]))
        .map_err(|_| "the command go is missing (Debian: golang-go)")?;
    let binary = folder.join("go-peer");
    let mut build = Command::new("go");
    build.current_dir(sources().join("go-group-commit")).args(["build", "-o"]).arg(&binary).arg(".");
    // Without modules nothing is fetched: the libraries are those that are installed.
    build.env("GO111MODULE", "off").env("GOFLAGS", "").env("GOPATH", format!("{gopath}:{DEBIAN_GOPATH}"));
    output(&mut build).map_err(|error| {
        format!(
            "it does not build (Debian: golang-go gcc libc6-dev golang-github-mattn-go-sqlite3-dev): {error}"
        )
    })?;
    let versions = output(Command::new(&binary).arg("-version"))?;
    Ok((binary, versions))
}

fn node() -> Result<(PathBuf, String), String> {
    output(Command::new("node").arg("--version")).map_err(|_| "the command node is missing")?;
    let script = sources().join("node/server.js");
    let versions = output(Command::new("node").arg(&script).arg("--version"))
        .map_err(|_| "its packages are missing or do not load: npm ci in benches/peers/node")?;
    Ok((script, versions))
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers")
}

/// What a command prints; the first telling line of its complaints if it fails.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let complaints = String::from_utf8_lossy(&output.stderr);
    let telling = complaints.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#'));
    // Go lists the folders where it looked in further lines.
    Err(telling.unwrap_or("it fails without a word").trim().trim_end_matches(" in any of:").to_owned())
}
