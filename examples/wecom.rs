//! WeCom for a daemon that something else started: the stand-in for its API, and a sender of callbacks.
//!
//! `cargo run --release --example wecom -- CALLBACK_URL`. Prints the lines of an INI's `[wecom]`, then obeys lines of
//! standard input, and answers each with one line:
//!
//! - `verify`: a verification request, as saving the URL sends it
//! - `create USERID`: the member joins, and `create_user` is sent
//! - `sign-in USERID OPENID`: the member becomes convertible, and `update_user` is sent
//! - `start`: begins to send `create_user` of load1, load2, .. at 100 a second, each over a connection of its own
//! - `stop`: ends that, and prints how many were acknowledged and what happened to the others
//!
//! It ends with standard input.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use wecom_dirsync::demo::sender::{Sender, contact_event};
use wecom_dirsync::demo::standin::{Company, StandIn};
use wecom_dirsync::wecom::callback::crypt::{Crypt, EncodingAesKey};

const TOKEN: &str = "QDG6eK";
const KEY: &str = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C";
/// What events were answered with, and how often.
type Outcomes = BTreeMap<String, usize>;

/// The sender of `start` ends by itself after so many events.
const MOST: usize = 30_000;

#[derive(Clone)]
struct Wecom {
    url: String,
    corp_id: String,
}

impl Wecom {
    /// A new one has no connection yet.
    fn sender(&self) -> Sender {
        let crypt = Crypt::new(TOKEN, EncodingAesKey::parse(KEY).unwrap(), &self.corp_id);
        Sender::new(&self.url, crypt, &self.corp_id)
    }

    /// `success`, or what came instead.
    fn event(&self, change_type: &str, inner: &str) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let event = contact_event(&self.corp_id, now.try_into().unwrap(), change_type, inner);
        match self.sender().send(&event) {
            Ok((200, body)) if body == "success" => body,
            Ok((status, _)) => format!("status {status}"),
            Err(error) => error,
        }
    }

    fn create(&self, userid: &str) -> String {
        self.event(
            "create_user",
            &format!("<UserID>{userid}</UserID><Name>{userid}</Name><Department>1</Department>"),
        )
    }

    /// Sends until `ended`.
    fn load(&self, ended: &AtomicBool) -> Outcomes {
        let mut outcomes = Outcomes::new();
        for n in 1..=MOST {
            if ended.load(Ordering::Relaxed) {
                break;
            }
            *outcomes.entry(self.create(&format!("load{n}"))).or_default() += 1;
            std::thread::sleep(Duration::from_millis(10));
        }
        outcomes
    }
}

fn main() {
    let url = std::env::args().nth(1).expect("the URL of the callbacks");
    let stand_in = StandIn::start().expect("a port of 127.0.0.1");
    let Company { corp_id, app_secret, .. } = stand_in.company(|company| company.clone());
    println!("corp_id = {corp_id}");
    println!("app_secret = {app_secret}");
    println!("api_base = {}", stand_in.base_url());
    let wecom = Wecom { url, corp_id };
    let mut load: Option<(Arc<AtomicBool>, JoinHandle<Outcomes>)> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("UTF-8");
        let answer = match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["verify"] => match wecom.sender().verify("1616140317555161061") {
                Ok((200, body)) if body == "1616140317555161061" => "verified".into(),
                other => format!("{other:?}"),
            },
            ["create", userid] => {
                stand_in.company(|company| company.hire(userid));
                wecom.create(userid)
            }
            ["sign-in", userid, openid] => {
                stand_in.company(|company| company.sign_in(userid, openid));
                wecom.event("update_user", &format!("<UserID>{userid}</UserID><Status>1</Status>"))
            }
            ["start"] => {
                let ended = Arc::new(AtomicBool::new(false));
                let (wecom, flag) = (wecom.clone(), Arc::clone(&ended));
                load = Some((ended, std::thread::spawn(move || wecom.load(&flag))));
                "started".into()
            }
            ["stop"] => {
                let (ended, thread) = load.take().expect("start comes before stop");
                ended.store(true, Ordering::Relaxed);
                let mut outcomes = thread.join().expect("the sender");
                let acknowledged = outcomes.remove("success").unwrap_or(0);
                format!("acknowledged={acknowledged} others={outcomes:?}")
            }
            _ => panic!("unknown: {line}"),
        };
        println!("{answer}");
    }
}
