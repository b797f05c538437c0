//! The real binary, started by an example.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../../tests/common/proc.rs"]
pub mod proc;

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use proc::Figures;
use wecom_dirsync::wecom::callback::crypt::{Crypt, EncodingAesKey};

pub const CORP: &str = "wx5823bf96d3bd56c7";
pub const TOKEN: &str = "QDG6eK";
pub const KEY: &str = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C";
/// How long a program may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn crypt() -> Crypt {
    Crypt::new(TOKEN, EncodingAesKey::parse(KEY).unwrap(), CORP)
}

/// A daemon whose files are in a folder of its own; it ends with this.
pub struct Daemon {
    child: Child,
    folder: PathBuf,
    pub address: SocketAddr,
}

impl Daemon {
    /// Starts it with this configuration, and waits until it is ready.
    pub fn start(folder: &Path, ini: &str) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("sync.ini"), ini).unwrap();
        Self::spawn(binary(&["run"], folder), folder)
    }

    /// Starts a program that writes to its standard error where it receives callbacks, as the real binary does.
    pub fn spawn(mut command: Command, folder: &Path) -> Self {
        let log = File::create(folder.join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("the binary: cargo build --release");
        let mut daemon = Self { child, folder: folder.to_owned(), address: ([127, 0, 0, 1], 0).into() };
        let begun = Instant::now();
        loop {
            let log = daemon.log();
            // Whole lines only: the address may be half written.
            let mut ready = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            if let Some(rest) = ready.find_map(|line| line.split("callbacks=http://").nth(1)) {
                daemon.address = rest.split('/').next().unwrap().parse().unwrap();
                return daemon;
            }
            let ended = daemon.child.try_wait().unwrap();
            assert!(ended.is_none() && begun.elapsed() < PATIENCE, "not ready: {log}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap()
    }

    pub fn database(&self) -> PathBuf {
        self.folder.join("directory.db")
    }

    /// A command beside it, which says nothing.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = binary(arguments, &self.folder);
        command.stderr(Stdio::null());
        command
    }

    /// Processor time so far, in seconds.
    pub fn cpu(&self) -> f64 {
        proc::processor_time(self.pid())
    }

    pub fn peak_mib(&self) -> f64 {
        Figures::of(self.pid()).peak_mib
    }
}

/// The binary lies beside the examples' folder.
fn binary(arguments: &[&str], folder: &Path) -> Command {
    let mut command =
        Command::new(std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("wecom-dirsync"));
    command.args(arguments).arg("-c").arg(folder.join("sync.ini")).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
