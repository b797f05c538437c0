//! `send`: what reaches the daemon, and the cause and remedy that are printed for each refusal.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{self, KEY, Lab, Settings, concurrently, text};
use crate::network::{authority, listen, read_head, tls_server};

fn send(lab: &Lab, url: &str, arguments: &[&str]) -> Output {
    lab.command(&[&["send", "--url", url], arguments].concat())
}

/// The one line of an error.
fn refused(output: &Output) -> String {
    let error = text(&output.stderr);
    assert_eq!((output.status.code(), error.lines().count()), (Some(1), 1), "{output:?}");
    assert!(error.contains("not accepted: ") && error.contains("; "), "{error}");
    error
}

fn fixed(answer: &'static str) -> SocketAddr {
    listen(move |mut client| {
        read_head(&mut client);
        let _ = client.write_all(answer.as_bytes());
    })
}

#[test]
fn a_verification_is_accepted_by_the_daemon_and_logged() {
    let lab = Lab::plain();
    let output = send(&lab, &lab.url("/callback"), &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let shown = text(&output.stdout);
    for part in [
        "sent      GET http://127.0.0.1:",
        "&echostr=",
        "keys of [callback]",
        "received  200",
        "\naccepted\n",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains(KEY) && !shown.contains(common::TOKEN), "{shown}");
    assert!(lab.log().contains("URL verified"), "{}", lab.log());
}

#[test]
fn every_event_takes_effect() {
    let lab = Lab::plain();
    let url = lab.url("/callback");
    for arguments in [
        &["create_party", "--id", "2", "--name", "研发部", "--parent-id", "1"][..],
        &[
            "create_user",
            "--userid",
            "zhangsan",
            "--name",
            "张三",
            "--department",
            "2",
            "--field",
            "Mobile=138",
        ],
        &["create_user", "--userid", "lisi", "--department", "2"],
        &["update_tag", "--id", "7", "--add-users", "zhangsan,lisi"],
        &["update_user", "--userid", "zhangsan", "--new-userid", "zs"],
        &["delete_user", "--userid", "lisi"],
        &["update_party", "--id", "2", "--name", "研发中心"],
        &["create_party", "--id", "3", "--name", "x", "--parent-id", "1"],
        &["delete_party", "--id", "3"],
    ] {
        let output = send(&lab, &url, arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert!(
            text(&output.stdout).contains(&format!("<ChangeType>{}</ChangeType>", arguments[0])),
            "{output:?}"
        );
    }
    let members = "SELECT group_concat(userid || name || departments || mobile) FROM active_members";
    assert_eq!(lab.value(members), "zs张三研发中心138");
    assert_eq!(lab.value("SELECT group_concat(userid) FROM tag_members"), "zs");
    assert_eq!(lab.value("SELECT count(*) FROM departments WHERE deleted_at IS NULL AND id > 1"), "1");
}

#[test]
fn xml_on_standard_input_is_sent_as_it_is() {
    let lab = Lab::plain();
    let with_input = |input: &str| {
        let mut command = lab.prepared(&["send", "--url", &lab.url("/callback"), "-"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let xml = "<xml><MsgType>event</MsgType><Event>new_kind</Event><CreateTime>5</CreateTime></xml>";
    let output = with_input(xml);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(lab.value("SELECT payload FROM events"), xml);
    let output = with_input(" \n");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("standard input is empty"), "{output:?}");
}

#[test]
fn the_apps_callback_gets_the_apps_keys() {
    let app = "[callback.app]\npath = /app\ntoken = T2\nencoding_aes_key = abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG\n";
    let lab = Lab::new(Settings { more: app, ..Settings::default() });
    for (path, section) in
        [("/app", "[callback.app]"), ("/app/", "[callback.app]"), ("/callback", "[callback]")]
    {
        let output = send(&lab, &lab.url(path), &["verify"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(text(&output.stdout).contains(section), "{output:?}");
    }
}

#[test]
fn the_daemons_own_refusals_are_told_from_those_in_front_of_it() {
    let lab = Lab::plain();
    let wrong_path = refused(&send(&lab, &lab.url("/wecom"), &[]));
    assert!(wrong_path.contains("404 by the service: no callback has this path"), "{wrong_path}");
    // The daemon runs with the old key.
    let ini = std::fs::read_to_string(lab.ini()).unwrap();
    std::fs::write(lab.ini(), ini.replace(common::TOKEN, "AnotherToken")).unwrap();
    for arguments in [&[][..], &["delete_user", "--userid", "a"]] {
        let wrong_token = refused(&send(&lab, &lab.url("/callback"), arguments));
        assert!(wrong_token.contains("403 by the service: token, encoding_aes_key"), "{wrong_token}");
        assert!(wrong_token.contains("restart the service after a change"), "{wrong_token}");
    }
}

#[test]
fn whatever_stands_in_front_is_named_with_a_remedy() {
    let lab = Lab::idle(Settings::default());
    let page =
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<!DOCTYPE html><p>\u{1b}[31m";
    let cases = [
        (
            "HTTP/1.1 301 M\r\nLocation: https://a.example/x?y\r\nContent-Length: 0\r\n\r\n",
            "to https://a.example/x,",
        ),
        ("HTTP/1.1 403 F\r\nContent-Length: 3\r\n\r\nWAF", "403, not by the service"),
        ("HTTP/1.1 404 N\r\nContent-Length: 5\r\n\r\nnginx", "404, not by the service"),
        ("HTTP/1.1 502 B\r\nContent-Length: 0\r\n\r\n", "the proxy gets no answer from the service"),
        (page, "200 with an HTML page"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "200 without a text"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\ncut", "the response is cut off"),
        ("SSH-2.0-OpenSSH\r\n\r\n", "not HTTP"),
        ("", "closed the connection without an answer"),
    ];
    concurrently(cases, |(answer, expected)| {
        let url = format!("http://{}/callback", fixed(answer));
        let output = send(&lab, &url, &[]);
        let error = refused(&output);
        assert!(error.contains(expected), "{answer:?}: {error}");
        assert!(!text(&output.stdout).contains('\u{1b}'), "{output:?}");
    });
}

/// What a proxy makes of a body.
type Change = fn(&str) -> String;

/// A proxy in front of the daemon that changes the body of its response.
fn changing(target: SocketAddr, change: Change) -> SocketAddr {
    listen(move |mut client| {
        let head = read_head(&mut client);
        let mut upstream = TcpStream::connect(target).unwrap();
        upstream.write_all(head.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        let _ = upstream.read_to_string(&mut answer);
        let body = change(answer.split_once("\r\n\r\n").unwrap().1);
        let _ = client.write_all(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}").as_bytes());
    })
}

#[test]
fn a_text_that_arrives_with_an_addition_is_refused_and_the_addition_named() {
    let lab = Lab::plain();
    let cases: [(Change, &str); 4] = [
        (|text| format!("\u{feff}{text}"), "a byte order mark"),
        (|text| format!("{text}\r\n"), "line ends or blanks"),
        (|text| format!("\"{text}\""), "the text is in JSON"),
        (|text| format!("{{\"data\":{text}}}"), "the text is in JSON"),
    ];
    concurrently(cases, |(change, expected)| {
        let url = format!("http://{}/callback", changing(lab.address, change));
        let error = refused(&send(&lab, &url, &[]));
        assert!(error.contains(expected) && error.contains("WeCom requires the bare text"), "{error}");
    });
    let plain = format!("http://{}/callback", changing(lab.address, str::to_owned));
    assert_eq!(send(&lab, &plain, &[]).status.code(), Some(0));
}

#[test]
fn a_slow_response_is_refused_after_five_seconds_and_one_of_a_second_is_told() {
    let mut lab = Lab::plain();
    let begun = Instant::now();
    let silent = format!("http://{}/", listen(|mut client| drop(client.read_to_end(&mut Vec::new()))));
    let error = refused(&send(&lab, &silent, &[]));
    assert!(error.contains("no complete response within 5 s"), "{error}");
    assert!((4..8).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    // Longer than WeCom's second: what is measured is the time itself.
    let slow = changing(lab.address, |text| {
        thread::sleep(Duration::from_millis(1100));
        text.to_owned()
    });
    let output = send(&lab, &format!("http://{slow}/callback"), &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).contains("accepted, but too slowly"), "{output:?}");
    lab.kill();
    let error = refused(&send(&lab, &lab.url("/callback"), &[]));
    assert!(error.contains("refuses the connection") && error.contains("connects directly"), "{error}");
}

#[test]
fn a_certificate_that_wecom_would_refuse_is_named() {
    let lab = Lab::plain();
    let cases = [
        ("localhost", (2020, 2090), true, ""),
        (
            "localhost",
            (2020, 2090),
            false,
            "TLS: certificate of an unknown authority; WeCom knows public authorities",
        ),
        ("localhost", (2020, 2021), true, "TLS: the certificate has expired; renew"),
        ("other.example", (2020, 2090), true, "TLS: the certificate is for another host name; renew"),
    ];
    for (name, years, is_trusted, expected) in cases {
        let authority = authority("an authority of one's own");
        let address = tls_server(lab.address, &authority, name, years);
        let file = lab.folder.path().join("ca.pem");
        std::fs::write(&file, &authority.pem).unwrap();
        let url = format!("https://localhost:{}/callback", address.port());
        let mut command = lab.prepared(&["send", "--url", &url]);
        if is_trusted {
            command.env("SSL_CERT_FILE", &file);
        }
        let output = command.output().unwrap();
        match expected {
            "" => assert_eq!(output.status.code(), Some(0), "{output:?}"),
            _ => assert!(refused(&output).contains(expected), "{output:?}"),
        }
    }
    let plain = format!("https://{}/callback", lab.address);
    assert!(refused(&send(&lab, &plain, &[])).contains("does not speak TLS"));
}

#[test]
fn it_connects_without_the_proxy_for_wecoms_api() {
    let lab = Lab::new(Settings { wecom: "proxy = http://127.0.0.1:1", ..Settings::default() });
    let mut command = lab.prepared(&["send", "--url", &lab.url("/callback")]);
    let output = command.env("ALL_PROXY", "http://127.0.0.1:1").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn an_option_that_does_not_fit_is_a_usage_error() {
    let lab = Lab::idle(Settings::default());
    for (arguments, expected) in [
        (&["--url", "ftp://a.example/x"][..], "not a URL such as"),
        (&["--url", "callback"], "not a URL such as"),
        (&["--url", "http://u:p@a.example/"], "not a URL such as"),
        (&["--url", "http://a.example/#x"], "not a URL such as"),
        (&["--url", "http://a.example/", "create_user"], "create_user needs --userid"),
        (&["--url", "http://a.example/", "update_tag", "--userid", "a"], "update_tag has no --userid"),
        (&["--url", "http://a.example/", "--name", "a"], "verify has no --name"),
        (&["--url", "http://a.example/", "-", "--field", "A=1"], "- has no --field"),
        (&["--url", "http://a.example/", "fly"], "invalid value 'fly'"),
        (&[], "--url"),
    ] {
        let output = lab.command(&[&["send"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(text(&output.stderr).contains(expected), "{arguments:?}: {output:?}");
    }
}
