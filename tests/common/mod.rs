//! A lab: the real binary on real sockets and a real database, with the stand-in for WeCom's API.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs
)]

pub mod http;
pub mod load;
pub mod proc;

use std::ffi::OsStr;
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::Value as Json;
use tempfile::TempDir;
use wecom_dirsync::demo::sender::{Sender, contact_event};
use wecom_dirsync::demo::standin::StandIn;
use wecom_dirsync::wecom::callback::crypt::{Crypt, EncodingAesKey};

pub const CORP: &str = "wx5823bf96d3bd56c7";
pub const TOKEN: &str = "QDG6eK";
pub const KEY: &str = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C";
/// How long a condition is waited for: long, because the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Lab {
    pub folder: TempDir,
    database: PathBuf,
    pub stand_in: StandIn,
    child: Option<Child>,
    pub address: SocketAddr,
    /// The admin listener, if it is on.
    pub admin: Option<SocketAddr>,
    speed: u32,
}

/// What a lab's configuration may have besides.
#[derive(Default, Clone)]
pub struct Settings<'a> {
    pub wecom: &'a str,
    pub callback: &'a str,
    pub openid: &'a str,
    /// Where the admin listener is; empty: nowhere.
    pub admin: &'a str,
    pub more: &'a str,
    /// Whether the lab has the secret of contacts sync, so that it compares.
    pub reconcile: bool,
    /// How many times as fast the monotonic clock of the lab's processes runs; 0 and 1: as fast as the test's.
    pub speed: u32,
}

pub fn crypt() -> Crypt {
    Crypt::new(TOKEN, EncodingAesKey::parse(KEY).unwrap(), CORP)
}

pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_wecom-dirsync")
}

/// This machine's clock.
pub fn now() -> i64 {
    wecom_dirsync::unix_time::unix_now().0
}

/// Tries again until it succeeds; its last error after [`PATIENCE`].
fn retry<E>(mut attempt: impl FnMut() -> Result<(), E>) -> Result<(), E> {
    let until = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            result => return result,
        }
    }
}

/// Waits for a condition.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let result = retry(|| if condition() { Ok(()) } else { Err(()) });
    assert!(result.is_ok(), "waited in vain: {what}");
}

/// Asserts that something took less than `limit`. On a busy machine it may take longer by ten times what an event takes
/// with an undisturbed daemon now.
#[track_caller]
pub fn assert_prompt(took: Duration, limit: Duration) {
    if took < limit {
        return;
    }
    let undisturbed = Lab::new(Settings { openid: "enabled = no", ..Settings::default() });
    let event = |n| {
        let begun = Instant::now();
        undisturbed.event(now(), "create_user", &format!("<UserID>u{n}</UserID>"));
        begun.elapsed()
    };
    let usual = (0..20).map(event).max().unwrap();
    assert!(took < limit + usual * 10, "{took:?}, not {limit:?}; undisturbed {usual:?}");
}

/// Cases of one test that are checked at the same time. They mostly sleep.
const CONCURRENT: usize = 20;

/// Checks all cases, several at a time.
pub fn concurrently<T: Send>(cases: impl IntoIterator<Item = T>, check: impl Fn(T) + Sync) {
    on_threads(CONCURRENT, || {}, cases, check);
}

/// Checks all cases on all processors, at the lowest priority: tests that wait for a daemon run beside this one.
pub fn on_all_processors<T: Send>(cases: impl IntoIterator<Item = T>, check: impl Fn(T) + Sync) {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    // On Linux the priority is that of the calling thread.
    let yield_to_others = || {
        rustix::process::nice(19).unwrap();
    };
    on_threads(processors, yield_to_others, cases, check);
}

fn on_threads<T: Send>(
    threads: usize,
    prepare: impl Fn() + Sync,
    cases: impl IntoIterator<Item = T>,
    check: impl Fn(T) + Sync,
) {
    let cases = Mutex::new(cases.into_iter().collect::<Vec<_>>().into_iter());
    let next = || cases.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        prepare();
        while let Some(case) = next() {
            check(case);
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            // The panic of the case itself, not "a scoped thread panicked".
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

/// A library of `shim/` to be preloaded; compiled once, with the C compiler that SQLite needs, too.
pub fn shim(name: &'static str) -> PathBuf {
    static COMPILED: Mutex<Vec<&str>> = Mutex::new(Vec::new());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = folder.join(format!("{name}.so"));
    let mut compiled = COMPILED.lock().unwrap();
    if !compiled.contains(&name) {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shim").join(format!("{name}.c"));
        // Renamed when complete: another test process may be loading the library.
        let new = folder.join(format!("{name}.{}.so", std::process::id()));
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&new).arg(source).arg("-ldl");
        assert!(cc.status().unwrap().success());
        std::fs::rename(new, &library).unwrap();
        compiled.push(name);
    }
    library
}

impl Lab {
    /// A lab whose daemon runs.
    pub fn new(settings: Settings<'_>) -> Self {
        let mut lab = Self::idle(settings);
        lab.start();
        lab
    }

    pub fn plain() -> Self {
        Self::new(Settings::default())
    }

    /// A lab whose daemon does not run yet.
    pub fn idle(settings: Settings<'_>) -> Self {
        let (folder, stand_in) = (tempfile::tempdir().unwrap(), StandIn::start().unwrap());
        let secret = stand_in.company(|company| company.app_secret.clone());
        let contacts = stand_in.company(|company| company.contacts_secret.clone());
        let contacts =
            if settings.reconcile { format!("contacts_secret = {contacts}\n") } else { String::new() };
        let Settings { wecom, callback, openid, admin, more, speed, .. } = settings;
        let text = format!(
            "[wecom]\ncorp_id = {CORP}\napp_secret = {secret}\napi_base = {}\n{contacts}{wecom}\n\
             [callback]\nlisten = 127.0.0.1:0\ntoken = {TOKEN}\nencoding_aes_key = {KEY}\n{callback}\n\
             [openid]\n{openid}\n[admin]\nlisten = {admin}\n{more}\n",
            stand_in.base_url()
        );
        std::fs::write(folder.path().join("sync.ini"), text).unwrap();
        Self {
            database: folder.path().join("directory.db"),
            folder,
            stand_in,
            child: None,
            address: ([127, 0, 0, 1], 0).into(),
            admin: None,
            speed: speed.max(1),
        }
    }

    pub fn start(&mut self) {
        let command = self.prepared(&["run"]);
        self.start_as(command);
    }

    /// A command of the binary with this lab's configuration and clock.
    pub fn prepared(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        let (name, rest) = arguments.split_first().unwrap();
        let mut command = Command::new(binary());
        command.arg(name).arg("-c").arg(self.ini()).args(rest);
        if self.speed > 1 {
            command.env("LD_PRELOAD", shim("clock")).env("CLOCK_SPEED", self.speed.to_string());
        }
        command
    }

    /// Starts the daemon by this command, its log going to `log`.
    pub fn start_as(&mut self, mut command: Command) {
        let log = File::create(self.log_path()).unwrap();
        let child = command.stderr(log).stdout(Stdio::null()).stdin(Stdio::null()).spawn().unwrap();
        self.child = Some(child);
        eventually("the daemon is ready", || {
            let log = self.log();
            assert!(self.child.as_mut().unwrap().try_wait().unwrap().is_none(), "the daemon ended: {log}");
            log.contains("ready:")
        });
        let address = |listener: &str| {
            let sql = format!("SELECT value ->> '{listener}' FROM daemon_state WHERE name = 'daemon'");
            self.value(&sql).parse().ok()
        };
        (self.address, self.admin) = (address("callbacks").unwrap(), address("admin"));
    }

    pub fn ini(&self) -> PathBuf {
        self.folder.path().join("sync.ini")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Processor time of the daemon so far, in seconds.
    pub fn processor_time(&self) -> f64 {
        proc::processor_time(self.pid())
    }

    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; the exit code and how long it took.
    pub fn terminate(&mut self) -> (Option<i32>, Duration) {
        let begun = Instant::now();
        signal(self.pid(), "TERM");
        let mut child = self.child.take().unwrap();
        let mut code = None;
        eventually("the daemon ends", || match child.try_wait().unwrap() {
            Some(status) => {
                code = status.code();
                true
            }
            None => false,
        });
        (code, begun.elapsed())
    }

    /// Runs another command of the binary with this lab's configuration.
    pub fn command(&self, arguments: &[&str]) -> Output {
        self.prepared(arguments).output().unwrap()
    }

    pub fn database(&self) -> PathBuf {
        self.database.clone()
    }

    /// Puts the database elsewhere, before the first start.
    pub fn set_database(&mut self, path: PathBuf) {
        let ini = std::fs::read_to_string(self.ini()).unwrap();
        std::fs::write(self.ini(), format!("{ini}\n[database]\npath = {}\n", path.display())).unwrap();
        self.database = path;
    }

    pub fn db(&self) -> Connection {
        open(&self.database())
    }

    /// The first value of the first row, as text.
    pub fn value(&self, sql: &str) -> String {
        value(&self.db(), sql)
    }

    #[track_caller]
    pub fn wait_for(&self, sql: &str, expected: &str) {
        let db = self.db();
        let attempt = || Some(value(&db, sql)).filter(|found| found != expected).map_or(Ok(()), Err);
        let result = retry(attempt);
        assert!(result.is_ok(), "{sql}: {result:?}, not {expected}\n{}", self.log());
    }

    pub fn wait_for_first_comparison(&self) {
        eventually("the first comparison", || self.log().contains("compared with WeCom outcome=ok"));
    }

    /// Another program's connection, which locks the database until it rolls back.
    pub fn locked(&self) -> Connection {
        let shell = Connection::open(self.database()).unwrap();
        shell.execute_batch("BEGIN IMMEDIATE").unwrap();
        shell
    }

    /// What `status --json` prints.
    pub fn status(&self) -> Json {
        serde_json::from_slice(&self.command(&["status", "--json"]).stdout).unwrap()
    }

    /// Runs `reconcile` and reads its report.
    pub fn reconcile(&self, arguments: &[&str]) -> Json {
        let output = self.command(&[&["reconcile", "--json"], arguments].concat());
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}\n{}", text(&output.stdout), text(&output.stderr)))
    }

    /// Number of calls of this API about this member.
    pub fn asked(&self, api: &str, userid: &str) -> usize {
        let calls = self.stand_in.calls();
        calls.iter().filter(|call| call.api == api && call.userid.as_deref() == Some(userid)).count()
    }

    /// Dates all comparisons ten minutes back, so that a trigger may bring the next one.
    pub fn age_comparisons(&self) {
        let db = Connection::open(self.database()).unwrap();
        db.busy_timeout(Duration::from_secs(5)).unwrap();
        let sql = "UPDATE reconciles SET started_at = started_at - 600, finished_at = finished_at - 600";
        db.execute_batch(sql).unwrap();
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn sender(&self) -> Sender {
        Sender::new(&self.url("/callback"), crypt(), CORP)
    }

    /// Sends an event that must be acknowledged.
    pub fn event(&self, create_time: i64, change_type: &str, inner: &str) {
        let event = contact_event(CORP, create_time, change_type, inner);
        assert_eq!(self.sender().send(&event).unwrap(), (200, "success".into()), "{event}");
    }

    /// A member joins, in the pretend company and by an event.
    pub fn hire(&self, userid: &str) {
        self.stand_in.company(|company| company.hire(userid));
        self.event(now(), "create_user", &format!("<UserID>{userid}</UserID><Department>1</Department>"));
    }

    pub fn state(&self, userid: &str) -> String {
        self.value(&format!("SELECT openid_state FROM members WHERE userid = '{userid}'"))
    }

    /// Wakes the gate ten times a second meanwhile: it waits by a system call of its own, which knows nothing of `speed`.
    pub fn nudged<T>(&self, work: impl FnOnce() -> T) -> T {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    drop(TcpStream::connect(self.address));
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
            let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            done.store(true, Relaxed);
            worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Sends bytes to the callback listener; what comes until it closes the connection.
    pub fn raw(&self, bytes: &[u8]) -> String {
        http::exchange(self.address, &[bytes])
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("---- the daemon's log ----\n{}", self.log());
        }
    }
}

pub fn open(path: &Path) -> Connection {
    let db = Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    db.busy_timeout(Duration::from_secs(5)).unwrap();
    db
}

pub fn value(db: &Connection, sql: &str) -> String {
    use rusqlite::types::Value;
    match db.query_row(sql, [], |row| row.get::<_, Value>(0)) {
        Ok(Value::Text(text)) => text,
        Ok(Value::Integer(number)) => number.to_string(),
        Ok(Value::Null) => "null".into(),
        Ok(other) => format!("{other:?}"),
        Err(rusqlite::Error::QueryReturnedNoRows) => "no row".into(),
        Err(error) => panic!("{sql}: {error}"),
    }
}

pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap();
    assert!(status.success());
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
