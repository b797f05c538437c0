//! `demo`: from the saved callback URL to the first openid, on this machine.
//!
//! The daemon, its sockets and its database are real; only WeCom's API is a stand-in.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::unix_time::unix_now;

use super::table::Table;
use super::{Failure, load, print};
use crate::daemon::{Daemon, is_running};
use crate::demo::sender::{Sender, contact_event};
use crate::demo::standin::{Company, StandIn};
use crate::store::queries::table as query;
use crate::store::{Connection, open_reader};
use crate::wecom::callback::crypt::{Crypt, EncodingAesKey};

const TOKEN: &str = "QDG6eK";
const KEY: &str = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C";
/// First line of a demo's configuration. A folder with any other configuration is not overwritten.
const MARKER: &str = "# Written by `wecom-dirsync demo`, which recreates these files at each start.";
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn demo(folder: &Path) -> Result<(), Failure> {
    let demo = Demo::start(folder)?;
    let outcome = demo.play();
    demo.daemon.stop();
    drop(demo.stand_in);
    outcome?;
    let ini = demo.ini.display();
    print(&format!(
        "
The daemon has stopped. Queries for its database:
  sqlite3 {db} 'select * from active_members'
  sqlite3 {db} 'select * from pending_members'
  sqlite3 {db} 'select * from recent_events'
  {me} member -c {ini} zhangsan

Next, for your own company, make a configuration and follow the steps that it prints:
  {me} init
",
        db = demo.database.display(),
        me = std::env::args().next().unwrap_or_else(|| "wecom-dirsync".into()),
    ))
}

struct Demo {
    stand_in: StandIn,
    daemon: Daemon,
    sender: Sender,
    reader: Connection,
    corp_id: String,
    ini: PathBuf,
    database: PathBuf,
}

impl Demo {
    fn start(folder: &Path) -> Result<Self, Failure> {
        let ini = folder.join("sync.ini");
        let database = folder.join("directory.db");
        let failure = |what: &str| Failure::Other(format!("{}: {what}", folder.display()));
        let is_demo = std::fs::read_to_string(&ini).is_ok_and(|text| text.starts_with(MARKER));
        if (database.exists() || ini.exists()) && !is_demo {
            return Err(failure("the files here are not a demo's; name another folder: demo FOLDER"));
        }
        if is_running(&database) {
            return Err(failure("a daemon uses the database in this folder; stop it first"));
        }
        let cannot = |error: std::io::Error| failure(&error.to_string());
        std::fs::create_dir_all(folder).map_err(cannot)?;
        for leftover in ["directory.db", "directory.db-wal", "directory.db-shm"] {
            match std::fs::remove_file(folder.join(leftover)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(cannot(error)),
                _ => {}
            }
        }
        let stand_in = StandIn::start()?;
        let Company { corp_id, app_secret, .. } = stand_in.company(|company| company.clone());
        let text = format!(
            "{MARKER}\n[wecom]\ncorp_id = {corp_id}\napp_secret = {app_secret}\napi_base = {}\nproxy = none\n\
             [callback]\nlisten = 127.0.0.1:0\ntoken = {TOKEN}\nencoding_aes_key = {KEY}\n\
             [admin]\nlisten =\n",
            stand_in.base_url()
        );
        std::fs::write(&ini, text).map_err(cannot)?;
        let config = load(Some(&ini))?;
        let daemon = Daemon::start(&config, None)?;
        let key = EncodingAesKey::parse(KEY).map_err(|error| Failure::Other(error.to_string()))?;
        let url = format!("http://{}/callback", daemon.address());
        let sender = Sender::new(&url, Crypt::new(TOKEN, key, &corp_id), &corp_id);
        let reader = open_reader(&database)?;
        Ok(Self { stand_in, daemon, sender, reader, corp_id, ini, database })
    }

    fn play(&self) -> Result<(), Failure> {
        let address = self.daemon.address();
        print(&format!("A daemon runs on {address}, and a stand-in for WeCom's API beside it.\n"))?;
        self.step(1, "The callback URL is saved in the admin console; WeCom checks that it is ours")?;
        let (status, body) = self.sender.verify("1616140317555161061").map_err(Failure::Other)?;
        self.note(&format!("GET  -> {status} {body}: verified"))?;

        self.step(2, "A department is made, and 张三 (zhangsan) and 李四 (lisi) join it")?;
        self.event("create_party", "<Id>2</Id><Name>研发部</Name><ParentId>1</ParentId>")?;
        for (userid, name) in [("zhangsan", "张三"), ("lisi", "李四")] {
            self.stand_in.company(|company| company.hire(userid));
            let inner = format!("<UserID>{userid}</UserID><Name>{name}</Name><Department>2</Department>");
            self.event("create_user", &inner)?;
        }

        self.step(3, "The daemon asks for their openids at once, but they have not signed in yet: 43004")?;
        self.wait_until("SELECT count(*) = 2 FROM members WHERE openid_errcode = 43004")?;
        self.show("SELECT userid, name, why, tried, next_try FROM pending_members ORDER BY userid DESC")?;

        self.step(4, "张三 signs in to WeCom; an update_user comes, and the daemon asks again at once")?;
        self.stand_in.company(|company| company.sign_in("zhangsan", "oDjGHs-1yCnGrRovBj2yHij5JAAA"));
        let begun = Instant::now();
        self.event("update_user", "<UserID>zhangsan</UserID><Status>1</Status>")?;
        self.wait_until("SELECT openid_state = 'converted' FROM members WHERE userid = 'zhangsan'")?;
        self.note(&format!("converted {} ms after the event was sent", begun.elapsed().as_millis()))?;

        self.step(5, "That is the directory now; 李四 is tried again by itself, or when an event names him")?;
        self.show(
            "SELECT userid, name, departments, openid, openid_state FROM active_members ORDER BY userid DESC",
        )
    }

    fn step(&self, number: u32, what: &str) -> Result<(), Failure> {
        print(&format!("\n{number}. {what}\n"))
    }

    fn note(&self, what: &str) -> Result<(), Failure> {
        print(&format!("   {what}\n"))
    }

    fn event(&self, change_type: &str, inner: &str) -> Result<(), Failure> {
        let event = contact_event(&self.corp_id, unix_now().0, change_type, inner);
        let begun = Instant::now();
        let (status, body) = self.sender.send(&event).map_err(Failure::Other)?;
        let took = begun.elapsed().as_secs_f64() * 1000.0;
        self.note(&format!("POST {change_type} -> {status} {body} ({took:.1} ms, on disk)"))
    }

    fn wait_until(&self, sql: &str) -> Result<(), Failure> {
        let until = Instant::now() + TIMEOUT;
        loop {
            if query(&self.reader, sql)?.last().is_some_and(|row| row == &["1"]) {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(Failure::Other(format!("not true after {TIMEOUT:?}: {sql}")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn show(&self, sql: &str) -> Result<(), Failure> {
        let rows = query(&self.reader, sql)?;
        let mut table = Table::default();
        rows.iter().for_each(|row| table.measure(row));
        for row in &rows {
            self.note(&table.line(row))?;
        }
        Ok(())
    }
}
