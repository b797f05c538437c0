//! Which configurations are accepted, and what their errors and `check` print.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const KEY: &str = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C";

fn good(more: &str) -> String {
    format!("[wecom]\ncorp_id = ww1\n[callback]\ntoken = T1\nencoding_aes_key = {KEY}\n{more}")
}

fn parse(text: &str) -> Result<Config, Vec<String>> {
    let files = HashMap::from([("/etc/w/s", "hush\n"), ("/etc/w/bad", "short")]);
    let surroundings = Surroundings {
        credentials_directory: None,
        read_file: Box::new(move |path| {
            let found = path.to_str().and_then(|path| files.get(path));
            found.map(|text| (*text).to_owned()).ok_or_else(|| std::io::ErrorKind::NotFound.into())
        }),
    };
    Config::parse(text, Path::new("/etc/w/sync.ini"), &surroundings).map_err(|error| error.0)
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = parse(&good("")).unwrap();
    assert_eq!(config.callback.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.callback.path, "/callback");
    assert_eq!(config.callback.receive_id, "ww1");
    assert_eq!((config.callback.threads, config.callback.max_body), (4, 262_144));
    assert_eq!(config.database.path, Path::new("/etc/w/directory.db"));
    assert_eq!(config.database.mode, 0o600);
    assert_eq!((config.openid.enabled, config.openid.workers), (true, 2));
    assert_eq!(config.openid.retry_first, Duration::from_secs(60));
    assert_eq!(config.openid.retry_max, Duration::from_secs(86_400));
    assert_eq!(config.wecom.api_base, "https://qyapi.weixin.qq.com");
    assert_eq!(config.wecom.calls_per_minute, 5000);
    assert_eq!(config.admin_listen.map(|a| a.to_string()).as_deref(), Some("127.0.0.1:9180"));
    assert_eq!(config.log.level, LevelFilter::Info);
}

#[test]
fn errors_name_file_line_key_and_remedy() {
    let cases = [
        ("thread = 4", "sync.ini:6: [callback] has no key thread; did you mean threads?"),
        ("[opneid]\nenabled = yes", "sync.ini:6: there is no section [opneid]; did you mean [openid]?"),
        ("[openid]\nthreads = 4", "sync.ini:7: [openid] has no key threads; it belongs to [callback]"),
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
        (
            "[openid]\nthreds = 4",
            "[openid] has no key threds; did you mean threads, which belongs to [callback]?",
        ),
        ("[wecom.x]\na = 1", "there is no section [wecom.x]; did you mean [wecom]?"),
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
fn secrets_may_be_in_files_and_are_never_shown() {
    let config = parse(&good("[notify]\nrobot_webhook_file = s")).unwrap();
    assert_eq!(config.notify.robot_webhook.as_ref().unwrap().expose(), "hush");
    let shown = format!("{config:?}{}", render(&config));
    for secret in ["hush", KEY, "T1"] {
        assert!(!shown.contains(secret), "{secret} is shown");
    }
    let errors = parse("[wecom]\ncorp_id = ww1\n[callback]\ntoken = T1\nencoding_aes_key_file = bad\n")
        .map(|_| ())
        .unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].contains("is 5 characters long, WeCom's have 43") && !errors[0].contains("short"),
        "{errors:?}"
    );
    let errors = parse(&good("[notify]\nrobot_webhook_file = none")).map(|_| ()).unwrap_err();
    assert!(errors[0].contains("/etc/w/none cannot be read"), "{errors:?}");
}

#[test]
fn credentials_of_the_service_manager_come_first() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("app"), "from-systemd\n").unwrap();
    let surroundings = Surroundings {
        credentials_directory: Some(folder.path().to_owned()),
        read_file: Box::new(|path| std::fs::read_to_string(path)),
    };
    let text = good("").replace("corp_id = ww1", "corp_id = ww1\napp_secret_file = app");
    let config = Config::parse(&text, Path::new("sync.ini"), &surroundings).unwrap();
    assert_eq!(config.wecom.app_secret.unwrap().expose(), "from-systemd");
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
        let again = parse(&good(&format!("[notify]\n{line}"))).unwrap();
        assert_eq!(again.notify.on_change_command, config.notify.on_change_command, "{line}");
    }
}

#[test]
fn the_example_is_accepted_as_it_stands_and_shows_every_key() {
    let example = include_str!("../../sync.example.ini");
    let config = parse(example).unwrap();
    assert_eq!(config.callback.path, "/callback");
    for line in render(&config).lines().filter(|line| line.contains('=')) {
        let key = line.split(' ').next().unwrap();
        assert!(example.contains(&format!("{key} =")), "{key} is not in sync.example.ini");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*(\n\\[?[a-z.]{0,8}\\]?=?\\PC*){0,6}") {
        let _ = parse(&text);
    }

    #[test]
    fn a_wrong_secret_never_shows_in_the_errors(secret in "[A-Za-z0-9!?]{12,60}") {
        prop_assume!(secret.len() != 43);
        let text = format!("[wecom]\ncorp_id = ww1\n[callback]\ntoken = !{secret}\nencoding_aes_key = {secret}\n");
        let errors = parse(&text).map(|_| ()).unwrap_err().join("\n");
        prop_assert!(!errors.contains(&secret), "{errors}");
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
fn a_slash_at_the_end_of_a_path_makes_no_difference() {
    for (given, path) in [("/callback/", "/callback"), ("/a/b//", "/a/b"), ("/", "/"), ("//", "/")] {
        let config = parse(&good(&format!("path = {given}"))).unwrap();
        assert_eq!(config.callback.path, path, "{given}");
    }
    let app = format!("[callback.app]\npath = /callback/\ntoken = T2\nencoding_aes_key = {KEY}\n");
    assert!(parse(&good(&app)).unwrap_err()[0].contains("must differ"));
    let app = app.replace("/callback/", "/app/");
    let wrong = parse(&good(&format!("probe_path = /app\n{app}"))).unwrap_err();
    assert!(wrong[0].contains("/app is the path of a callback"), "{wrong:?}");
}

#[test]
fn either_half_of_the_former_keys_is_enough_and_each_token_goes_with_each_key() {
    const OLD: &str = "kWxPEV2UEDyxWpmPdKC3F4dgPDmOvfKX1HGnEUDS1aR";
    let pairs = |more: &str| -> Vec<(String, String)> {
        let config = parse(&good(more)).unwrap();
        let keys = config.callback.keys.with(&config.callback.previous);
        let pair = |keys: &Keys| (keys.token.expose().to_owned(), keys.encoding_aes_key.expose().to_owned());
        keys.iter().map(pair).collect()
    };
    let pair = |token: &str, key: &str| (token.to_owned(), key.to_owned());
    let (token, key) = ("token_previous = T0\n".to_owned(), format!("encoding_aes_key_previous = {OLD}\n"));
    assert_eq!(pairs(""), [pair("T1", KEY)]);
    assert_eq!(pairs(&token), [pair("T1", KEY), pair("T0", KEY)]);
    assert_eq!(pairs(&key), [pair("T1", KEY), pair("T1", OLD)]);
    assert_eq!(pairs(&(token + &key)), [pair("T1", KEY), pair("T1", OLD), pair("T0", KEY), pair("T0", OLD)]);
}

#[test]
fn an_app_has_its_own_receive_id_and_former_keys() {
    let app = format!("[callback.app]\npath = /app\ntoken = T2\nencoding_aes_key = {KEY}\n");
    let config = parse(&good(&format!("receive_id =\n{app}"))).unwrap();
    let app_callback = config.app_callback.unwrap();
    assert_eq!((config.callback.receive_id.as_str(), app_callback.receive_id.as_str()), ("ww1", "ww1"));
    let config =
        parse(&good(&format!("receive_id = a\n{app}receive_id = suite1\ntoken_previous = T3\n"))).unwrap();
    let app_callback = config.app_callback.unwrap();
    assert_eq!((config.callback.receive_id.as_str(), app_callback.receive_id.as_str()), ("a", "suite1"));
    assert_eq!(app_callback.keys.with(&app_callback.previous).len(), 2);
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
    for line in
        ["proxy = http://user:***@proxy.example:3128", "heartbeat_url = https://user:***@h.example/x?key=***"]
    {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
    assert!(!format!("{config:?}{shown}{:?}", config.warnings()).contains("hush"), "{shown}");
    assert!(
        config.secrets().iter().filter(|secret| *secret == "hush").count() >= 3,
        "all three are redacted elsewhere"
    );
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
            read_file: Box::new(move |_| Ok(format!("\u{feff}{value}\r\n"))),
        };
        for line in [format!("app_secret = {value}"), "app_secret_file = s".into()] {
            let text = format!("\u{feff}{}", good("").replace("ww1\n", &format!("ww1\n{line}\n")));
            let config = Config::parse(&text, Path::new("/etc/w/sync.ini"), &surroundings);
            let secret = config.map(|config| config.wecom.app_secret.unwrap().expose().to_owned());
            assert_eq!(secret.is_ok_and(|secret| secret == "hush"), accepted, "{line} {value}");
        }
    }
}
