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
        needs_secrets: true,
        read_file: Box::new(move |path| {
            let found = path.to_str().and_then(|path| files.get(path));
            found.map(|text| (*text).to_owned()).ok_or_else(|| std::io::ErrorKind::NotFound.into())
        }),
    };
    Config::parse(text, Path::new("/etc/w/sync.ini"), &surroundings).map_err(|error| error.lines)
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
    assert_eq!((config.openid.enabled, config.openid.max_concurrent_calls), (true, None));
    assert_eq!(config.openid.retry_first, Duration::from_secs(60));
    assert_eq!(config.openid.retry_max, Duration::from_secs(86_400));
    assert_eq!(config.wecom.api_base, "https://qyapi.weixin.qq.com");
    assert_eq!(config.wecom.calls_per_minute, 5000);
    assert_eq!(config.admin_listen.map(|a| a.to_string()).as_deref(), Some("127.0.0.1:9180"));
    assert_eq!(config.log.level, LevelFilter::Info);
}

#[test]
fn the_number_of_concurrent_calls_is_auto_or_from_1_to_64() {
    let set = |text: &str| parse(&good(&format!("[openid]\n{text}\n")));
    for (text, number) in [("auto", None), ("1", Some(1)), ("64", Some(64))] {
        let config = set(&format!("max_concurrent_calls = {text}")).unwrap();
        assert_eq!(config.openid.max_concurrent_calls, number);
        assert!(render(&config).contains(&format!("max_concurrent_calls = {text}\n")), "{}", render(&config));
    }
    for text in ["0", "65", "-1", "many", ""] {
        let errors = set(&format!("max_concurrent_calls = {text}")).unwrap_err();
        assert!(errors[0].ends_with("is neither auto nor a number from 1 to 64"), "{errors:?}");
    }
    let errors = set("workers = 2").unwrap_err();
    assert!(errors[0].contains("no key of this name; it has enabled, max_concurrent_calls"), "{errors:?}");
}

#[test]
fn secrets_may_be_in_files_and_are_never_shown() {
    let config = parse(&good("[notify]\nrobot_webhook_file = s")).unwrap();
    assert_eq!(config.secret("notify", "robot_webhook").unwrap().expose(), "hush");
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
        needs_secrets: true,
        read_file: Box::new(|path| std::fs::read_to_string(path)),
    };
    let text = good("").replace("corp_id = ww1", "corp_id = ww1\napp_secret_file = app");
    let config = Config::parse(&text, Path::new("sync.ini"), &surroundings).unwrap();
    assert_eq!(config.wecom.app_secret.unwrap().expose(), "from-systemd");
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
