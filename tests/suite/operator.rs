//! What an operator is shown: errors of the configuration, `check`, and names with control characters. No secret is
//! in any of them.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::common::{self, KEY, Lab, Settings, text};
use wecom_dirsync::config::{Config, Surroundings, render};
use wecom_dirsync::store::Connection;
use wecom_dirsync::store::open::open_writer;

/// Writes a row without the daemon: the directory accepts such names from every source.
fn insert_member(db: &Connection, userid: &str, name: &str) {
    db.execute(
        "INSERT INTO members (userid, name, openid_state, openid_next_attempt_at, openid_revision, details_state,
             created_at, updated_at, event_time) VALUES (?1, ?2, 'pending', 7, 1, 'known', 0, 0, 0)",
        &[userid.into(), name.into()],
    )
    .unwrap();
}

#[test]
fn no_command_sends_a_name_raw_to_the_terminal() {
    let lab = Lab::idle(Settings::default());
    let db = open_writer(&lab.database(), 0o600).unwrap();
    let name = "张\u{1b}[31m三\u{9b}2J\u{202e}x\u{2028}\r\ny";
    insert_member(&db, "a", name);
    let fields = serde_json::json!({"name": [null, name]}).to_string();
    db.execute(
        "INSERT INTO changes (at, entity, key, action, fields) VALUES (1, 'member', 'a', 'created', ?1)",
        &[(&fields).into()],
    )
    .unwrap();
    drop(db);
    for command in [
        &["member", "a"][..],
        &["changes"],
        &["export", "--format", "ndjson"],
        &["export", "--format", "csv"],
        &["status"],
        &["status", "--json"],
    ] {
        let output = lab.command(command);
        assert!(output.status.success(), "{output:?}");
        let shown = text(&output.stdout);
        let raw = |c: char| (c.is_control() && c != '\n' && c != '\r') || "\u{202e}\u{2028}".contains(c);
        assert!(!shown.contains(raw), "{command:?}: {shown:?}");
    }
    let member = text(&lab.command(&["member", "a"]).stdout);
    assert!(member.contains("张\\u{1b}[31m三\\u{9b}2J\\u{202e}x\\u{2028}\\r\\ny"), "{member}");
    let line = text(&lab.command(&["export", "--format", "ndjson"]).stdout);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&line).unwrap()["name"],
        name,
        "the same JSON value"
    );
    let csv = text(&lab.command(&["export", "--format", "csv"]).stdout);
    assert!(csv.contains("\r\ny\""), "line ends stay in a cell: {csv:?}");
}

#[test]
fn secrets_that_wecom_never_issues_are_refused_without_showing_them() {
    let folder = tempfile::tempdir().unwrap();
    let (ini, file) = (folder.path().join("sync.ini"), folder.path().join("app"));
    let check = |wecom: &str, content: &[u8]| {
        let keys = format!("[callback]\ntoken = {}\nencoding_aes_key = {}\n", common::TOKEN, common::KEY)
            + "listen = 127.0.0.1:0\n[admin]\nlisten =\n";
        std::fs::write(&ini, format!("[wecom]\ncorp_id = ww1\n{wecom}\n{keys}")).unwrap();
        std::fs::write(&file, content).unwrap();
        let output =
            std::process::Command::new(common::binary()).arg("check").arg("-c").arg(&ini).output().unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let by_file = "app_secret_file = app";
    for good in ["\u{feff}Hq2Wd8Pz\r\n", "  Hq2Wd8Pz\u{3000}\n\n"] {
        assert_eq!(check(by_file, good.as_bytes()).0, Some(0), "{good:?}");
    }
    for bad in ["", "\n", "'Hq2Wd8Pz'", "“Hq2Wd8Pz”", "Hq2\u{200b}Wd8Pz", "YOUR_SECRET", "Hq2Wd8Pz#钥"] {
        let (code, said) = check(by_file, bad.as_bytes());
        assert_eq!(code, Some(78), "{bad:?}: {said}");
        assert!(said.contains("sync.ini:3: [wecom] app_secret"), "{said}");
        assert!(!said.contains("Hq2"), "{said}");
    }
    let (code, said) = check(by_file, b"\xff\xfeH\0q\0");
    assert!(code == Some(78) && said.contains("UTF-16"), "{said}");
    let (code, said) = check(by_file, &[b'a'; 100_000]);
    assert!(code == Some(78) && said.contains("larger than"), "{said}");
    let (code, said) = check("app_secret_file = .", b"");
    assert!(code == Some(78) && said.contains("a directory"), "{said}");
    let (code, said) = check("app_secret = Hq2Wd8Pz\ncontacts_secret = Hq2Wd8Pz", b"");
    assert!(code == Some(78) && said.contains("app_secret and contacts_secret are the same"), "{said}");
    assert!(!said.contains("Hq2"), "{said}");
    std::fs::set_permissions(&ini, Permissions::from_mode(0o644)).unwrap();
    let (code, said) = check("api_base = http://wecom.example\napp_secret = Hq2Wd8Pz", b"");
    assert!(code == Some(0) && said.contains("every user") && said.contains("unencrypted"), "{said}");
}

/// A valid configuration; its sixth line is the first of `more`.
fn good(more: &str) -> String {
    format!("[wecom]\ncorp_id = ww1\n[callback]\ntoken = T1\nencoding_aes_key = {KEY}\n{more}")
}

fn parse(text: &str) -> Result<Config, Vec<String>> {
    let surroundings = Surroundings {
        credentials_directory: None,
        needs_secrets: true,
        read_file: Box::new(|_| Err(std::io::ErrorKind::NotFound.into())),
    };
    Config::parse(text, Path::new("/etc/w/sync.ini"), &surroundings).map_err(|error| error.lines)
}

#[test]
fn errors_name_file_line_key_and_remedy() {
    let cases = [
        ("thread = 4", "sync.ini:6: [callback] has no key thread; did you mean threads?"),
        ("[opneid]\nenabled = yes", "sync.ini:6: there is no section [opneid]; did you mean [openid]?"),
        (
            "[openid]\nthreads = 4",
            "sync.ini:7: [openid] has no key threads; did you mean [callback] threads?",
        ),
        ("threads = 0", "[callback] threads: \"0\" is not a number from 1 to 256"),
        ("threads = 4 # four", "a comment needs a line of its own"),
        ("threads = 4\nthreads = 5", "sync.ini:7: [callback] threads: duplicate key: already set on line 6"),
        ("[openid]\nretry_first = 1w", "is not a duration such as 30s, 5m, 24h or 7d"),
        ("[openid]\nretry_first = 2h\nretry_max = 1h", "retry_first is longer than retry_max"),
        ("max_body = 1GiB", "is not a size such as 64KiB or 1MiB"),
        ("path = callback", "is not a path such as /callback"),
        ("listen = 8080", "is not an address and port such as 127.0.0.1:8080"),
        ("[log]\nlevel = loud", "is none of off, error, warn, info, debug, trace"),
        ("[openid]\nenabled = maybe", "is neither yes nor no"),
        ("probe_path = ping", "[callback] probe_path: \"ping\" is not a path such as /callback"),
        ("probe_path = /callback/", "sync.ini:6: [callback] probe_path: /callback is the path of a callback"),
        ("proxy_protocol = v2", "[callback] proxy_protocol: \"v2\" is neither yes nor no"),
        ("[callback.app]\ntoken = T2", "[callback.app] path is missing"),
        ("token_file = nowhere", "[callback] token_file: token is set on line 4 too"),
        ("[log]\n[openidd]", "sync.ini:7: there is no section [openidd]; did you mean [openid]?"),
        ("[callback.app]", "[callback.app] path is missing"),
        (
            "[notify]\nrobot_webhook = x # y",
            "contains blanks, which WeCom's secrets never do; a comment needs a line of its own",
        ),
        ("[openid]\nthreds = 4", "[openid] has no key threds; did you mean [callback] threads?"),
        ("[wecon]\na = 1", "there is no section [wecon]; did you mean [wecom]?"),
        ("[wecom.x]\na = 1", "there is no section of this name; there are [wecom], [callback]"),
        ("[database]\nmode = 644x", "is not an octal file mode"),
    ];
    for (more, expected) in cases {
        let errors = parse(&good(more)).map(|_| ()).unwrap_err();
        assert!(
            errors.iter().any(|e| e.contains(expected) && e.starts_with("/etc/w/sync.ini")),
            "{more}: {errors:?}"
        );
    }
}

#[test]
fn missing_keys_are_named_and_all_errors_are_listed() {
    let errors = parse("[callback]\nthreads = x\n").map(|_| ()).unwrap_err();
    for expected in ["[wecom] corp_id is missing", "[callback] token is missing", "threads"] {
        assert!(errors.iter().any(|e| e.contains(expected)), "{expected}: {errors:?}");
    }
}

#[test]
fn what_check_prints_is_a_configuration_again() {
    let text = good("[callback.app]\npath = /app\ntoken = T2\nencoding_aes_key = KEY\n[admin]\nlisten =\n")
        .replace("= KEY", &format!("= {KEY}"));
    let shown = render(&parse(&text).unwrap());
    let again = shown
        .replace("key = [redacted]", &format!("key = {KEY}"))
        .replace("token = [redacted]", "token = T1");
    assert_eq!(render(&parse(&again).unwrap()), shown);
}

#[test]
fn check_prints_quotes_and_blanks_so_that_they_are_kept() {
    for value in ["\" x \"", "\"\"a\"\"", "\"x\\\"", "\""] {
        let config = parse(&good(&format!("[notify]\non_change_command = {value}"))).unwrap();
        let shown = render(&config);
        let line = shown.lines().find(|line| line.starts_with("on_change_command")).unwrap();
        assert_eq!(render(&parse(&good(&format!("[notify]\n{line}"))).unwrap()), shown);
    }
}

#[test]
fn the_example_is_accepted_as_it_stands_and_shows_every_key() {
    let example = include_str!("../../sync.example.ini");
    let config = parse(example).unwrap();
    assert_eq!(config.secret("callback", "token").unwrap().expose(), "QDG6eK");
    for line in render(&config).lines().filter(|line| line.contains('=')) {
        let key = line.split(' ').next().unwrap();
        assert!(example.contains(&format!("{key} =")), "{key} is not in sync.example.ini");
    }
}

#[test]
fn an_admin_listener_that_other_hosts_can_reach_is_warned_of() {
    let warns = |listen: &str| {
        let config = parse(&good(&format!("[admin]\nlisten = {listen}"))).unwrap();
        config.warnings().iter().any(|warning| warning.contains("[admin] listen"))
    };
    assert!(warns("0.0.0.0:9180"));
    assert!(!warns("127.0.0.1:9180") && !warns(""));
}

#[test]
fn secrets_in_urls_are_neither_in_errors_nor_in_what_check_prints() {
    for api_base in [
        "http://user:hush@host.example/x y",
        "https://host.example/?access_token=hush",
        "user:hush@host.example",
    ] {
        let text = good("").replace("corp_id = ww1", &format!("corp_id = ww1\napi_base = {api_base}"));
        let errors = parse(&text).map(|_| ()).unwrap_err();
        assert!(errors[0].contains("***") && errors[0].contains("host.example"), "{errors:?}");
        assert!(!errors[0].contains("hush"), "{errors:?}");
    }
    let notify = "[notify]\nheartbeat_url = https://user:hush@h.example/x?key=hush\nrobot_webhook = https://h/send?key=hush";
    let text = good(notify).replace("ww1\n", "ww1\nproxy = http://user:hush@proxy.example:3128\n");
    let config = parse(&text).unwrap();
    let shown = render(&config);
    for line in ["proxy = http://user:***@proxy.example:3128", "heartbeat_url = [redacted]"] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
    assert!(!format!("{config:?}{shown}{:?}", config.warnings()).contains("hush"), "{shown}");
    assert!(
        config.secrets().iter().filter(|secret| *secret == "hush").count() >= 3,
        "all three are redacted elsewhere"
    );
    let without_scheme = parse(&text.replace("http://user:hush@proxy", "user:pssst@proxy")).unwrap();
    assert!(without_scheme.secrets().contains(&"pssst".to_owned()));
    let errors = parse(&good(&format!("token_previous_file = {KEY}"))).map(|_| ()).unwrap_err();
    assert!(errors[0].contains("token_previous_file: the file cannot be read"), "{errors:?}");
    let errors = parse(&text.replace(":hush@proxy", ":***@proxy")).map(|_| ()).unwrap_err();
    assert!(errors[0].contains("[wecom] proxy: has *** where"), "{errors:?}");
}

#[test]
fn a_line_that_is_no_setting_is_named_by_its_number_only() {
    let first = |text: &str| parse(text).map(|_| ()).unwrap_err().join("\n");
    let key = &KEY[..20];
    for (text, place) in [
        (format!("{key}={key} = 1\n{}", good("")), "sync.ini:1: key = value before the first [section]"),
        (
            good(&format!("{key}={key} = 1")),
            "sync.ini:6: [callback] has no key of this name; it has listen, path",
        ),
        (good(&format!("{key}=\n{key}=")), "sync.ini:7: duplicate key: already set on line 6"),
        (
            good(&format!("[{key}]\na = 1")),
            "sync.ini:6: there is no section of this name; there are [wecom], [callback]",
        ),
        (good(&format!("[{key}]\n[{key}]")), "sync.ini:7: duplicate section: it begins on line 6"),
        (good(key), "sync.ini:6: this is neither [section] nor key = value"),
    ] {
        let errors = first(&text);
        assert!(errors.contains(place) && !errors.contains(key), "{text}: {errors}");
    }
}

#[test]
fn quotes_around_a_value_follow_one_rule_in_the_ini_and_in_a_file() {
    for (value, accepted) in [
        ("\"hush\"", true),
        ("\" hush \"", true),
        ("\"\"hush\"\"", false),
        ("'hush'", false),
        ("\"hush", false),
    ] {
        let surroundings = Surroundings {
            credentials_directory: None,
            needs_secrets: true,
            read_file: Box::new(move |_| Ok(format!("\u{feff}{value}\r\n"))),
        };
        for line in [format!("app_secret = {value}"), "app_secret_file = s".into()] {
            let text = format!("\u{feff}{}", good("").replace("ww1\n", &format!("ww1\n{line}\n")));
            let config = Config::parse(&text, Path::new("/etc/w/sync.ini"), &surroundings);
            let secret =
                config.map(|config| config.secret("wecom", "app_secret").unwrap().expose().to_owned());
            assert_eq!(secret.is_ok_and(|secret| secret == "hush"), accepted, "{line} {value}");
        }
    }
}
