//! What is said of a wrong configuration, and where `-c` may stand.

use std::process::{Command, Output};

use crate::common::{KEY, TOKEN, binary, text};

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
