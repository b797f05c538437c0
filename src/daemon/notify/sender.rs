//! Delivers notices: runs the command, posts to the robot and the webhook. On a thread of its own, with timeouts.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value as Json, json};

use super::Message;
use super::condition::Notice;
use super::outbox::Channel;
use crate::wecom::api::webhook::Webhook;
use crate::wecom::robot;

/// Time for the command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval of the checks whether the command has ended.
const CHECK: Duration = Duration::from_millis(20);

/// Notices for one channel, oldest first.
pub(super) struct Job {
    pub(super) channel: Channel,
    pub(super) notices: Vec<Notice>,
}

/// What became of a [`Job`].
pub(super) struct Delivery {
    pub(super) channel: Channel,
    /// Those that were delivered.
    pub(super) notices: Vec<Notice>,
    /// Why the next one was not.
    pub(super) failure: Option<String>,
}

/// The configured channels.
pub(super) struct Senders {
    pub(super) command: Option<String>,
    pub(super) robot: Option<Webhook>,
    pub(super) webhook: Option<Webhook>,
    /// This machine's name, which every message has.
    pub(super) host: String,
}

impl Senders {
    pub(super) fn channels(&self) -> Vec<Channel> {
        // The command last: it may take longest.
        let configured = [
            (Channel::Robot, self.robot.is_some()),
            (Channel::Webhook, self.webhook.is_some()),
            (Channel::Command, self.command.is_some()),
        ];
        configured.into_iter().filter(|(_, is_set)| *is_set).map(|(channel, _)| channel).collect()
    }

    /// Works until the jobs' sender is dropped.
    pub(super) fn run(&self, jobs: &Receiver<Job>, results: &Sender<Message>) {
        while let Ok(Job { channel, notices }) = jobs.recv() {
            let delivery = self.deliver(channel, &notices);
            if results.send(Message::Delivered(delivery)).is_err() {
                return;
            }
        }
    }

    /// The robot's message has as many notices as fit; the other channels get one each.
    fn deliver(&self, channel: Channel, notices: &[Notice]) -> Delivery {
        let (count, result) = match (channel, notices.first()) {
            (Channel::Command, Some(notice)) => (1, self.run_command(notice)),
            (Channel::Webhook, Some(notice)) => (1, self.post(notice)),
            (Channel::Robot, Some(_)) => self.tell_robot(notices),
            (_, None) => (0, Ok(())),
        };
        let delivered = if result.is_ok() { count } else { 0 };
        Delivery {
            channel,
            notices: notices.iter().take(delivered).cloned().collect(),
            failure: result.err(),
        }
    }

    fn tell_robot(&self, notices: &[Notice]) -> (usize, Result<(), String>) {
        let Some(webhook) = &self.robot else { return (0, Ok(())) };
        let paragraph = |notice: &Notice| {
            let state = if notice.begins { "异常" } else { "恢复" };
            format!("【{state}】{}", notice.text.zh)
        };
        let paragraphs: Vec<String> = notices.iter().map(paragraph).collect();
        let heading = format!("通讯录同步 wecom-dirsync（{}）", self.host);
        let (message, count) = robot::message(&heading, &paragraphs);
        (count, webhook.request(Some(&message)).and_then(|answer| robot::read_answer(&answer)))
    }

    fn post(&self, notice: &Notice) -> Result<(), String> {
        let Some(webhook) = &self.webhook else { return Ok(()) };
        webhook.request(Some(&self.object(notice))).map(|_| ())
    }

    /// The notice as programs get it.
    fn object(&self, notice: &Notice) -> Json {
        json!({
            "program": "wecom-dirsync",
            "version": env!("CARGO_PKG_VERSION"),
            "host": self.host,
            "condition": notice.condition,
            "change": change(notice),
            "at": notice.at,
            "text": notice.text.en,
            "text_zh": notice.text.zh,
        })
    }

    fn run_command(&self, notice: &Notice) -> Result<(), String> {
        let Some(command) = &self.command else { return Ok(()) };
        let spawned = Command::new("/bin/sh")
            .args(["-c", command])
            .env("WECOM_DIRSYNC_CONDITION", &notice.condition)
            .env("WECOM_DIRSYNC_CHANGE", change(notice))
            .env("WECOM_DIRSYNC_TEXT", &notice.text.en)
            .env("WECOM_DIRSYNC_TEXT_ZH", &notice.text.zh)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // So that a timeout ends what the command has started, too.
            .process_group(0)
            .spawn();
        let mut child = spawned.map_err(|error| format!("cannot be started: {error}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            // Less than a pipe holds; the command need not read it.
            let _ = stdin.write_all(format!("{}\n", self.object(notice)).as_bytes());
        }
        wait(&mut child, COMMAND_TIMEOUT)
    }
}

fn change(notice: &Notice) -> &'static str {
    if notice.begins { "begins" } else { "ends" }
}

/// Waits for the command, and ends its process group after `timeout`.
fn wait(child: &mut Child, timeout: Duration) -> Result<(), String> {
    let until = Instant::now() + timeout;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("it ended with {status}")),
            Ok(None) if Instant::now() < until => std::thread::sleep(CHECK),
            Ok(None) => {
                let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
                // The group may have ended just now.
                let _ = pid.map(|pid| kill_process_group(pid, Signal::KILL));
                let _ = child.wait();
                return Err(format!("it did not end within {} s", timeout.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::Text;
    use super::*;

    fn notice() -> Notice {
        let text = Text { en: "is blocked".into(), zh: "被拦截".into() };
        Notice { condition: "blocked".into(), begins: true, at: 5, text }
    }

    fn senders(command: String) -> Senders {
        Senders { command: Some(command), robot: None, webhook: None, host: "h".into() }
    }

    #[test]
    fn the_command_gets_the_notice_in_its_environment_and_on_standard_input() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let command = format!(
            "{{ echo \"$WECOM_DIRSYNC_CONDITION $WECOM_DIRSYNC_CHANGE $WECOM_DIRSYNC_TEXT\"; cat; }} > {}",
            out.display()
        );
        let delivery = senders(command).deliver(Channel::Command, &[notice(), notice()]);
        assert_eq!((delivery.notices.len(), delivery.failure), (1, None));
        let text = std::fs::read_to_string(out).unwrap();
        let (first, rest) = text.split_once('\n').unwrap();
        assert_eq!(first, "blocked begins is blocked");
        let object: Json = serde_json::from_str(rest).unwrap();
        assert_eq!((&object["change"], &object["text_zh"]), (&json!("begins"), &json!("被拦截")));
    }

    #[test]
    fn a_command_that_fails_or_does_not_end_is_a_failure() {
        let failure = |command: &str| senders(command.into()).deliver(Channel::Command, &[notice()]).failure;
        assert!(failure("exit 3").unwrap().contains("exit status: 3"));
        assert!(failure("/nonexistent/program").unwrap().contains("127"));
        let mut child =
            Command::new("/bin/sh").args(["-c", "sleep 600 & wait"]).process_group(0).spawn().unwrap();
        let begun = Instant::now();
        assert!(wait(&mut child, Duration::from_millis(100)).unwrap_err().contains("did not end"));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}
