//! The real binary, started by an example.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../../tests/common/proc.rs"]
pub mod proc;

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use proc::Figures;
use wecom_dirsync::wecom::callback::crypt::{Crypt, EncodingAesKey};

pub const CORP: &str = "wx5823bf96d3bd56c7";
pub const TOKEN: &str = "QDG6eK";
pub const KEY: &str = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C";

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
        let log = File::create(folder.join("log")).unwrap();
        let mut command = binary(&["run"], folder);
        let child = command.stderr(log).spawn().expect("the binary: cargo build --release");
        let mut daemon = Self { child, folder: folder.to_owned(), address: ([127, 0, 0, 1], 0).into() };
        while daemon.address.port() == 0 {
            std::thread::sleep(Duration::from_millis(5));
            if let Some(rest) = daemon.log().split("callbacks=http://").nth(1) {
                daemon.address = rest.split('/').next().unwrap().parse().unwrap();
            }
        }
        daemon
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
