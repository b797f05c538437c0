//! Who sends what WeCom sends, at a steady pace.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use wecom_dirsync::demo::sender::{Sender, contact_event};

use super::{CORP, crypt};

/// As many send at the same time: so few that each is slow, so many that a slow answer delays no other.
const SENDERS: u32 = 16;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// What came of the legitimate events.
#[derive(Default)]
pub struct Tally {
    /// The members whose creation was acknowledged, and how long it took.
    pub acknowledged: Vec<(String, Duration)>,
    /// What came instead.
    pub failures: Vec<String>,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.acknowledged.extend(other.acknowledged);
        self.failures.extend(other.failures);
    }

    /// The time within which this share of the acknowledgements came.
    pub fn within(&self, share: f64) -> Duration {
        let mut times: Vec<Duration> = self.acknowledged.iter().map(|(_, time)| *time).collect();
        times.sort_unstable();
        let place = (times.len().saturating_sub(1) as f64 * share) as usize;
        times.get(place).copied().unwrap_or_default()
    }

    /// Sends another event that nobody has sent before.
    fn send(&mut self, sender: &Sender) {
        let userid = format!("member{}", NEXT.fetch_add(1, Relaxed));
        let inner = format!("<UserID>{userid}</UserID><Name>张三</Name><Department>1,2</Department>");
        let event = contact_event(CORP, 1_700_000_000, "create_user", &inner);
        let begun = Instant::now();
        match sender.send(&event) {
            Ok((200, body)) if body == "success" => self.acknowledged.push((userid, begun.elapsed())),
            Ok((status, _)) => self.failures.push(format!("{status} after {:?}", begun.elapsed())),
            Err(error) => self.failures.push(format!("{error} after {:?}", begun.elapsed())),
        }
    }
}

/// One event.
pub fn one(url: &str) -> Tally {
    let mut tally = Tally::default();
    tally.send(&Sender::new(url, crypt(), CORP));
    tally
}

/// Sends until it is done; half of the senders keep their connection, half have a new one for each event.
pub fn steadily(url: &str, per_second: u32, done: &AtomicBool) -> Tally {
    let begun = Instant::now();
    let pause = Duration::from_secs(1) / per_second;
    let work = |first: u32| {
        let (mut tally, kept) = (Tally::default(), Sender::new(url, crypt(), CORP));
        let mut turn = first;
        while !done.load(Relaxed) {
            std::thread::sleep((begun + pause * turn).saturating_duration_since(Instant::now()));
            if first.is_multiple_of(2) {
                tally.send(&kept);
            } else {
                tally.send(&Sender::new(url, crypt(), CORP));
            }
            turn += SENDERS;
        }
        tally
    };
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS).map(|first| scope.spawn(move || work(first))).collect();
        senders.into_iter().fold(Tally::default(), |mut all, sender| {
            all.add(sender.join().unwrap());
            all
        })
    })
}
