//! Senders that are interrupted: what was acknowledged until then must be there afterwards.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use rusqlite::Connection;
use wecom_dirsync::demo::sender::{Sender, contact_event};

use super::{CORP, crypt};

/// Members whose creation was acknowledged in all rounds so far.
#[derive(Default)]
pub struct Acknowledged {
    next: AtomicUsize,
    userids: Mutex<Vec<String>>,
}

impl Acknowledged {
    /// Sends creations over so many connections for a while, then interrupts the daemon in the middle of them.
    pub fn until(&self, url: &str, senders: usize, time: Duration, interrupt: impl FnOnce()) {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..senders {
                scope.spawn(|| {
                    let sender = Sender::new(url, crypt(), CORP);
                    while !over.load(Relaxed) {
                        let userid = format!("u{}", self.next.fetch_add(1, Relaxed));
                        let inner = format!("<UserID>{userid}</UserID>");
                        let sent = sender.send(&contact_event(CORP, 5, "create_user", &inner));
                        if matches!(sent, Ok((200, _))) {
                            self.userids.lock().unwrap().push(userid);
                        }
                    }
                });
            }
            std::thread::sleep(time);
            interrupt();
            over.store(true, Relaxed);
        });
    }

    pub fn count(&self) -> usize {
        self.userids.lock().unwrap().len()
    }

    /// How many of them have no row, as a member or as an event.
    pub fn lost(&self, db: &Connection) -> rusqlite::Result<usize> {
        let sql = "SELECT 1 FROM members JOIN events ON subject = userid WHERE userid = ?1";
        let (mut row, mut lost) = (db.prepare(sql)?, 0);
        for userid in self.userids.lock().unwrap().iter() {
            lost += usize::from(!row.exists([userid])?);
        }
        Ok(lost)
    }
}
