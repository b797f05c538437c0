//! `init`: what it writes, what it refuses, and what it prints.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::common::{binary, text};

const CORP: &str = "ww0123456789abcdef";
/// As the package installs it, with settings and comments of an operator.
const PACKAGE: &str = "\u{feff}# 企业微信\r\n[wecom]\r\n# (1) 企业ID\r\n# corp_id =\r\ntimeout = 7s\r\n\
    [callback]\r\n;  path of the proxy\r\npath = /wecom\r\ntoken =\r\n  encoding_aes_key=\r\n\
    # [callback.app]\r\n# token =\r\n[database]\r\npath = /var/lib/wecom-dirsync/directory.db";

fn init(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("init").args(arguments).current_dir(folder).stdin(Stdio::null());
    command.output().unwrap()
}

fn value(ini: &str, key: &str) -> String {
    let line = ini.lines().find_map(|line| line.trim().strip_prefix(&format!("{key} = ")));
    line.unwrap_or_else(|| panic!("no {key}: {ini}")).to_owned()
}

/// A folder with a sync.ini.
fn with_ini(ini: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sync.ini");
    std::fs::write(&file, ini).unwrap();
    (folder, file)
}

fn files(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).collect()
}

#[test]
fn a_new_file_is_valid_has_keys_of_its_own_and_is_never_overwritten() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut keys = Vec::new();
    for folder in &folders {
        let output = init(folder.path(), &["--corp-id", CORP]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let file = folder.path().join("sync.ini");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640);
        let ini = std::fs::read_to_string(&file).unwrap();
        let (token, key) = (value(&ini, "token"), value(&ini, "encoding_aes_key"));
        for (text, length) in [(&token, 32), (&key, 43)] {
            assert_eq!(text.len(), length);
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        }
        assert_eq!(value(&ini, "corp_id"), CORP);
        let shown = text(&output.stdout) + &text(&output.stderr);
        assert!(!shown.contains(&token) && !shown.contains(&key), "{shown}");
        let check = Command::new(binary()).arg("check").current_dir(folder).output().unwrap();
        assert_eq!(check.status.code(), Some(0), "{check:?}");

        let again = init(folder.path(), &["--corp-id", CORP]);
        assert_eq!(again.status.code(), Some(1), "{again:?}");
        assert!(text(&again.stderr).contains("[callback] token is set already on line"), "{again:?}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), ini);
        assert_eq!(files(folder.path()), ["sync.ini"]);
        keys.extend([token, key]);
    }
    assert!(keys[0] != keys[2] && keys[1] != keys[3], "random keys are the same");
}

#[test]
fn the_packages_file_is_completed_and_keeps_all_else_byte_for_byte() {
    let (folder, file) = with_ini(PACKAGE);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let link = folder.path().join("link.ini");
    std::os::unix::fs::symlink("sync.ini", &link).unwrap();
    let output = init(folder.path(), &["link.ini", "--corp-id", CORP]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let ini = std::fs::read_to_string(&file).unwrap();
    let expected = PACKAGE
        .replace("# corp_id =\r", &format!("corp_id = {CORP}\r"))
        .replace("\ntoken =\r", &format!("\ntoken = {}\r", value(&ini, "token")))
        .replace("encoding_aes_key=\r", &format!("encoding_aes_key = {}\r", value(&ini, "encoding_aes_key")));
    assert_eq!(ini, expected);
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640);
    let shown = text(&output.stdout);
    assert!(
        shown.contains("https://YOUR-DOMAIN/wecom") && shown.contains("the value of line 9 of"),
        "{shown}"
    );
}

#[test]
fn the_packages_own_file_becomes_valid_and_keeps_its_database() {
    let package = include_str!("../../packaging/sync.ini");
    let (folder, file) = with_ini(package);
    let output = init(folder.path(), &["--corp-id", CORP]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let ini = std::fs::read_to_string(&file).unwrap();
    let changed = package.lines().zip(ini.lines()).filter(|(before, after)| before != after);
    let changed: Vec<_> = changed.map(|(before, _)| before).collect();
    assert_eq!(changed, ["# corp_id =", "# token =", "# encoding_aes_key ="]);
    assert_eq!(package.lines().count(), ini.lines().count());
    let check = Command::new(binary()).arg("check").current_dir(&folder).output().unwrap();
    assert!(text(&check.stdout).contains("path = /var/lib/wecom-dirsync/directory.db"), "{check:?}");
}

#[test]
fn a_file_with_any_callback_key_is_refused_untouched() {
    for (ini, key) in [
        (include_str!("../../sync.example.ini"), "[callback] token"),
        ("[callback]\ntoken = T1\n", "[callback] token"),
        ("[callback]\ntoken_file = /run/token\n", "[callback] token_file"),
        ("[callback]\ntoken =\nencoding_aes_key = K\n", "[callback] encoding_aes_key"),
        ("[callback]\ntoken_previous = T0\n", "[callback] token_previous"),
        ("[callback.app]\ntoken = T2\n", "[callback.app] token"),
    ] {
        let (folder, file) = with_ini(ini);
        let output = init(folder.path(), &["sync.ini", "--corp-id", CORP]);
        assert_eq!(output.status.code(), Some(1), "{key}: {output:?}");
        assert!(text(&output.stderr).contains(&format!("sync.ini: {key} is set already")), "{output:?}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), ini);
        assert_eq!(files(folder.path()), ["sync.ini"]);
    }
}

#[test]
fn other_errors_of_a_file_are_all_told_and_nothing_is_written() {
    let ini = "[wecom]\ncorp_id =\n[callback]\ntoken =\nencoding_aes_key =\nthreds = 4\nmax_body = x\n";
    let (folder, file) = with_ini(ini);
    for arguments in [&[][..], &["--corp-id", CORP]] {
        let output = init(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let errors = text(&output.stderr);
        assert_eq!(errors.lines().count(), 2, "{errors}");
        assert!(errors.contains("sync.ini:6: ") && errors.contains("sync.ini:7: "), "{errors}");
        assert_eq!((std::fs::read_to_string(&file).unwrap().as_str(), output.stdout), (ini, Vec::new()));
    }
}

#[test]
fn a_corp_id_that_is_wrong_or_another_is_refused() {
    let (folder, file) = with_ini("[wecom]\ncorp_id = ww1\n");
    for (id, expected) in [("ww2", "corp_id on line 2 differs from --corp-id"), ("ww1", "")] {
        let output = init(folder.path(), &["--corp-id", id]);
        assert_eq!(output.status.success(), expected.is_empty(), "{output:?}");
        assert!(text(&output.stderr).contains(expected), "{output:?}");
    }
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("[wecom]\ncorp_id = ww1\n\n[callback]\n"));
    for id in ["企业ID", "wwxxxxxxxx", ""] {
        let output = init(folder.path(), &["new.ini", "--corp-id", id]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stderr).contains("--corp-id: "), "{output:?}");
        assert_eq!(files(folder.path()), ["sync.ini"]);
    }
}

#[test]
fn without_a_terminal_nothing_is_asked_and_the_checklist_begins_with_the_corp_id() {
    let folder = tempfile::tempdir().unwrap();
    let output = init(folder.path(), &["new.ini"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let shown = text(&output.stdout);
    assert!(shown.contains("  1. 我的企业 > 企业信息 > 企业ID"), "{shown}");
    let check =
        Command::new(binary()).args(["check", "-c", "new.ini"]).current_dir(&folder).output().unwrap();
    let errors = text(&check.stderr);
    assert_eq!((check.status.code(), errors.lines().count()), (Some(78), 1), "{errors}");
    assert!(errors.contains("[wecom] corp_id: "), "{errors}");
}

#[test]
fn the_checklist_follows_the_order_that_the_console_permits() {
    let folder = tempfile::tempdir().unwrap();
    let shown = text(&init(folder.path(), &["--corp-id", CORP]).stdout);
    let mut from = 0;
    for part in [
        "ICP备案",
        "wecom-dirsync run -c sync.ini",
        "http://127.0.0.1:8080/callback",
        "安全与管理 > 管理工具 > 通讯录同步: first 开启API接口同步",
        "设置接收事件服务器",
        "企业可信IP",
        "contacts_secret",
        "应用管理 > 应用 > 自建",
        "设置可信域名",
        "企业可信IP",
        "app_secret",
        "wecom-dirsync check -c sync.ini",
    ] {
        let found = shown[from..].find(part);
        assert!(found.is_some(), "{part} is missing, or not in its place:\n{shown}");
        from += found.unwrap() + part.len();
    }
}

#[test]
fn at_a_terminal_the_corp_id_is_asked_until_it_is_one() {
    // Answers each prompt with the next line.
    const PTY: &str = r#"
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], [sys.argv[1], "init"])
shown, answers = b"", ["wwxxxxxx", "ww0123456789abcdef"]
while True:
    try:
        part = os.read(terminal, 4096)
    except OSError:
        break
    if not part:
        break
    shown += part
    if answers and shown.count(b"later): ") > 2 - len(answers):
        os.write(terminal, answers.pop(0).encode() + b"\n")
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("python3").args(["-c", PTY, binary()]).current_dir(&folder).output().unwrap();
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert_eq!(shown.matches("later): ").count(), 2, "{shown}");
    assert!(shown.contains("is a placeholder"), "{shown}");
    let ini = std::fs::read_to_string(folder.path().join("sync.ini")).unwrap();
    assert_eq!(value(&ini, "corp_id"), CORP);
}

/// Runs `init` as root with a group database of its own, if this machine permits both; `None`: it does not.
fn init_with_groups(folder: &Path, groups: &str) -> Option<Output> {
    std::fs::write(folder.join("group"), groups).unwrap();
    let isolated = |script: &str| {
        let mut command = Command::new("unshare");
        let script = format!("mount --bind group /etc/group && {script}");
        command.args(["-m", "sh", "-c", &script, "sh", binary()]).current_dir(folder).output()
    };
    isolated("true").ok().filter(|output| output.status.success())?;
    Some(isolated("exec \"$1\" init etc/sync.ini").unwrap())
}

#[test]
fn the_services_group_may_read_the_file() {
    for (groups, expected) in [("root:x:0:\nwecom-dirsync:x:4711:\n", 4711), ("root:x:0:\n", 42)] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("etc/sync.ini");
        std::fs::create_dir(file.parent().unwrap()).unwrap();
        std::fs::write(&file, PACKAGE).unwrap();
        // Only root can do that, and mount.
        let is_root = std::os::unix::fs::chown(&file, Some(41), Some(42)).is_ok();
        match init_with_groups(folder.path(), groups).filter(|_| is_root) {
            Some(output) => {
                assert_eq!(output.status.code(), Some(0), "{output:?}");
                let found = std::fs::metadata(&file).unwrap();
                assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (41, expected, 0o640));
            }
            None => eprintln!("skipped: it takes root and mount namespaces"),
        }
    }
}
