//! What the system says of a running daemon.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, missing_docs)]

/// At one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub threads: usize,
    pub descriptors: usize,
    pub rss_mib: f64,
    pub peak_mib: f64,
}

impl Figures {
    pub fn of(pid: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon lives");
        let number = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_whitespace().nth(1).and_then(|value| value.parse::<f64>().ok()).unwrap_or_default()
        };
        Self {
            threads: number("Threads:") as usize,
            descriptors: std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the daemon lives").count(),
            rss_mib: number("VmRSS:") / 1024.0,
            peak_mib: number("VmHWM:") / 1024.0,
        }
    }

    pub fn at_rest(&self, before: &Self) -> bool {
        self.threads <= before.threads && self.descriptors <= before.descriptors
    }

    pub fn raise(&mut self, now: &Self) {
        self.threads = self.threads.max(now.threads);
        self.descriptors = self.descriptors.max(now.descriptors);
    }
}

/// Processor time so far, in seconds, at the usual hundred ticks.
pub fn processor_time(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the daemon lives");
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// Bytes that it caused to be written to disks so far.
pub fn written(pid: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).expect("the daemon lives");
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.expect("a kernel with task I/O accounting").parse().unwrap()
}
