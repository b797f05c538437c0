//! The errors of a wrong configuration, and where `-c` may stand.

use std::process::{Command, Output};

use crate::common::{KEY, Lab, Settings, TOKEN, binary, text};

/// The lines of `check` about a configuration, without the file's name.
fn errors(ini: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("sync.ini"), ini).unwrap();
    let output = Command::new(binary()).arg("check").current_dir(folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let lines = text(&output.stderr);
    lines.lines().map(|line| line.strip_prefix("wecom-dirsync: sync.ini").unwrap().to_owned()).collect()
}

/// Each error begins with its place and contains the text; there are no others.
fn assert_errors(ini: &str, expected: &[(&str, &str)]) {
    let found = errors(ini);
    let fits = |(line, (place, part)): (&String, &(&str, &str))| {
        line.starts_with(&format!("{place}: ")) && line.contains(part)
    };
    assert!(found.len() == expected.len() && found.iter().zip(expected).all(fits), "{ini}\n{found:#?}");
}

#[test]
fn full_width_signs_are_named_and_have_no_consequences() {
    let keys = format!("token ＝ {TOKEN}\nencoding_aes_key = {KEY}");
    assert_errors(
        &format!("【wecom】\ncorp_id = ww1\n［callback］\n{keys}\n"),
        &[
            (":1", "the brackets 【】 are full-width; write [name]"),
            (":3", "are full-width"),
            (":4", "the equals sign ＝ is full-width; write ="),
        ],
    );
}

#[test]
fn all_errors_are_told_at_once_and_causes_before_consequences() {
    assert_errors(
        "[wecom]\ncorpid = ww1\ntimeout = soon\n[callbak]\ntoken = x\n[callback] # ours\nthreads = 0\n[openid]\n\
         retry_first = 2m\nretry_max = fast\n",
        &[
            (":2", "has no key corpid; did you mean corp_id?"),
            (":3", "\"soon\" is not a duration"),
            (":4", "no section [callbak]; did you mean [callback]?"),
            (":6", "a comment needs a line of its own"),
            (":7", "\"0\" is not a number"),
            (":10", "\"fast\" is not a duration"),
            ("", "[wecom] corp_id is missing"),
            ("", "[callback] token is missing"),
            ("", "[callback] encoding_aes_key is missing"),
        ],
    );
}

#[test]
fn a_name_is_suggested_only_if_it_is_near() {
    let with = |line: &str| {
        let keys = format!("[callback]\ntoken = {TOKEN}\nencoding_aes_key = {KEY}\n");
        errors(&format!("[wecom]\ncorp_id = ww1\n{keys}{line} = hush\n")).join("\n")
    };
    for (line, expected) in [
        ("lisetn", "did you mean listen?"),
        ("Path", "did you mean path?"),
        ("encoding_aeskey", "did you mean encoding_aes_key?"),
        ("max-body", "did you mean max_body?"),
        ("api_bse", "did you mean [wecom] api_base?"),
    ] {
        let found = with(line);
        assert!(
            found.starts_with(":6: [callback] has no key ") && found.ends_with(expected),
            "{line}: {found}"
        );
    }
    // Also two edits of four characters are another word; a name that is not near may be a secret, so it is not shown.
    for line in ["bats", "key", "secret", "aes_key", "port", "url", "host"] {
        let found = with(line);
        assert!(
            found.starts_with(":6: [callback] has no key of this name; it has listen, "),
            "{line}: {found}"
        );
    }
}

#[test]
fn the_configuration_may_be_named_before_or_after_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let ini = format!("[wecom]\ncorp_id = ww1\n[callback]\ntoken = {TOKEN}\nencoding_aes_key = {KEY}\n");
    std::fs::write(folder.path().join("a.ini"), ini).unwrap();
    let run = |arguments: &[&str]| -> Output {
        Command::new(binary()).args(arguments).current_dir(folder.path()).output().unwrap()
    };
    for arguments in [
        &["-c", "a.ini", "check"][..],
        &["check", "-c", "a.ini"],
        &["--config", "a.ini", "check"],
        &["check", "--config=a.ini"],
        // The nearer one counts.
        &["-c", "none.ini", "check", "-c", "a.ini"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert!(text(&output.stdout).contains("a.ini: the configuration is valid"), "{output:?}");
    }
    let output = run(&["-c", "a.ini", "member", "nobody"]);
    assert!(text(&output.stderr).contains("there is no database yet"), "{output:?}");
    for arguments in [
        &["-c", "a.ini", "demo"][..],
        &["demo", "-c", "a.ini"],
        &["-c", "a.ini", "init", "b.ini"],
        &["init", "-c", "a.ini", "b.ini"],
        &["-c", "a.ini"],
    ] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    let made = run(&["-c", "c.ini", "init", "--corp-id", "ww1"]);
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    assert!(folder.path().join("c.ini").exists());
}

#[test]
fn an_address_that_is_not_of_this_machine_and_a_port_in_use_have_their_own_remedies() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    // 192.0.2.0/24 is for documentation (RFC 5737): no machine has it.
    for (address, expected) in [
        ("192.0.2.1:8080", "this machine does not have this address; choose one that `ip addr` shows"),
        (&*taken, "another program uses this port; find it with `ss -ltnp`"),
    ] {
        for section in ["callback", "admin"] {
            let lab = Lab::idle(Settings::default());
            let ini = std::fs::read_to_string(lab.ini()).unwrap();
            let ini = match section {
                "callback" => ini.replace("127.0.0.1:0", address),
                _ => ini.replace("[admin]\nlisten =", &format!("[admin]\nlisten = {address}")),
            };
            std::fs::write(lab.ini(), ini).unwrap();
            let output = lab.command(&["run"]);
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            let line = format!("cannot listen on {address} ([{section}] listen): {expected}");
            assert!(text(&output.stderr).contains(&line), "{output:?}");
        }
    }
}

#[test]
fn a_database_without_a_folder_and_a_configuration_that_cannot_be_written_name_the_folder() {
    let lab = Lab::idle(Settings::default());
    let ini = std::fs::read_to_string(lab.ini()).unwrap();
    for (path, expected) in [
        ("none/directory.db", "its folder does not exist; create the folder for the service's user"),
        ("sync.ini/directory.db", "a part of its path is a file, not a folder; correct [database] path"),
    ] {
        std::fs::write(lab.ini(), format!("{ini}[database]\npath = {path}\n")).unwrap();
        let output = lab.command(&["run"]);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        assert!(text(&output.stderr).contains(expected), "{output:?}");
    }
    let init =
        Command::new(binary()).args(["init", "none/sync.ini"]).current_dir(&lab.folder).output().unwrap();
    assert_eq!(init.status.code(), Some(1), "{init:?}");
    let expected = "none/sync.ini: cannot be written: its folder does not exist; create the folder first";
    assert!(text(&init.stderr).contains(expected), "{init:?}");
    let check = Command::new(binary()).args(["check", "-c", "none.ini"]).output().unwrap();
    assert!(text(&check.stderr).contains("none.ini: cannot be read: there is no such file"), "{check:?}");
}
