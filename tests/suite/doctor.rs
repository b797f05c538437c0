//! `doctor` against a stand-in for WeCom that fails in every way the protocol knows, and callback URLs behind proxies that
//! do everything wrong.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crate::common::{CORP, KEY, Lab, Settings, TOKEN, eventually, now, text};
use crate::network::listen;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value as Json;
use wecom_dirsync::demo::standin::Fault;

/// The report as JSON, and the exit code.
fn doctor(lab: &Lab, arguments: &[&str]) -> (Vec<Json>, Option<i32>) {
    let mut all = vec!["doctor", "--json"];
    all.extend(arguments);
    let mut command = lab.prepared(&all);
    ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "all_proxy", "https_proxy", "http_proxy"].iter().for_each(
        |name| {
            command.env_remove(name);
        },
    );
    let output = command.output().unwrap();
    let shown = text(&output.stdout) + &text(&output.stderr);
    for secret in [TOKEN, KEY, "stand-in-app-secret", "stand-in-contacts-secret", "stand-in-token"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let report: Json =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {shown}"));
    let findings = report["findings"].as_array().unwrap().clone();
    let has = |level: &str| findings.iter().any(|finding| finding["level"] == level);
    assert_eq!(has("must_fix"), output.status.code() == Some(1), "{shown}");
    for finding in &findings {
        assert!(finding["level"] != "must_fix" || finding["remedy"].is_string(), "{finding}");
    }
    (findings, output.status.code())
}

/// Level and text (with the remedy) of one check.
fn found(findings: &[Json], check: &str) -> (String, String) {
    let finding = findings.iter().find(|finding| finding["check"] == check);
    let finding = finding.unwrap_or_else(|| panic!("no {check} in {findings:#?}"));
    let remedy = finding["remedy"].as_str().unwrap_or_default();
    (
        finding["level"].as_str().unwrap().to_owned(),
        format!("{} -> {remedy}", finding["what"].as_str().unwrap()),
    )
}

/// The target of a request, such as `/callback?..`.
fn read_target(stream: &mut impl Read) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    text(&head).split(' ').nth(1).map(str::to_owned)
}

/// A web server that answers each target.
fn server(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    listen(move |mut stream| {
        let Some(target) = read_target(&mut stream) else { return };
        let _ = stream.write_all(&answer(&target));
    })
}

fn response(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

/// What the daemon answers to this target.
fn forwarded(daemon: SocketAddr, target: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(daemon).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn body_of(answer: &[u8]) -> String {
    text(answer).split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// A lab with both secrets, whose directory is filled.
fn filled() -> Lab {
    let mut lab = Lab::idle(Settings { reconcile: true, ..Settings::default() });
    lab.stand_in.company(|company| {
        company.hire("zhangsan");
        company.sign_in("zhangsan", "o-zhangsan");
    });
    lab.start();
    lab.wait_for("SELECT openid FROM members", "o-zhangsan");
    lab
}

#[test]
fn a_working_installation_has_nothing_to_fix_and_each_token_is_fetched_once() {
    let lab = filled();
    let before = lab.stand_in.count("gettoken");
    let (findings, code) = doctor(&lab, &["--url", &lab.url("/callback")]);
    assert_eq!(code, Some(0), "{findings:#?}");
    assert_eq!(lab.stand_in.count("gettoken") - before, 2);
    for check in [
        "daemon",
        "paths",
        "database",
        "disk",
        "wal",
        "token.app",
        "token.contacts",
        "api.app.user/convert_to_openid",
        "api.app.user/get",
        "api.contacts.user/list_id",
        "api.contacts.department/simplelist",
        "clock",
        "url.response",
        "url.time",
        "refusals",
    ] {
        assert_eq!(found(&findings, check).0, "ok", "{check}: {findings:#?}");
    }
    assert!(found(&findings, "api.app.user/get").1.contains("does not show mobile"), "{findings:#?}");
    // Only APIs of the protocol, and nothing changed.
    assert_eq!(lab.value("SELECT count(*) FROM events"), "0");
    let words = text(&lab.command(&["doctor"]).stdout);
    assert!(words.lines().any(|line| line.starts_with("ok ") && line.contains("token.app")), "{words}");
    assert!(words.ends_with(" 0 must be fixed\n"), "{words}");
}

#[test]
fn every_trouble_of_the_api_has_its_level_and_remedy() {
    let lab = Lab::idle(Settings { reconcile: true, ..Settings::default() });
    let address = "not allow to access from your ip, hint: [1], from ip: 203.0.113.9, more info at https://x";
    let refusal = |code| Fault::Refusal(code, address.into());
    let convert = "api.app.user/convert_to_openid";
    for (api, fault, check, level, part) in [
        ("gettoken", Fault::Errcode(40001), "token.app", "must_fix", "errcode 40001"),
        ("gettoken", Fault::Errcode(40013), "token.contacts", "must_fix", "企业ID"),
        ("gettoken", refusal(60020), "token.app", "must_fix", "enter 203.0.113.9 in 企业可信IP"),
        ("gettoken", Fault::HttpStatus(502), "token.app", "must_fix", "HTTP status 502"),
        ("gettoken", Fault::HttpStatus(404), "token.app", "must_fix", "api_base"),
        ("gettoken", Fault::HttpStatus(407), "token.app", "must_fix", "[wecom] proxy"),
        ("gettoken", Fault::Reset, "token.app", "must_fix", "closed the connection"),
        ("gettoken", Fault::Garbage, "token.app", "must_fix", "HTML"),
        ("gettoken", Fault::Empty, "token.app", "must_fix", "empty"),
        ("gettoken", Fault::Truncated, "token.app", "must_fix", "cut off"),
        (
            "gettoken",
            Fault::Redirect("https://portal.example/login?secret".into()),
            "token.app",
            "must_fix",
            "portal.example",
        ),
        ("gettoken", Fault::NotHttp, "token.app", "must_fix", "not HTTP"),
        ("gettoken", Fault::Body(b"{\"errcode\":0}".to_vec()), "token.app", "must_fix", "no access_token"),
        ("gettoken", Fault::Errcode(45009), "token.app", "warning", "errcode 45009"),
        ("user/convert_to_openid", refusal(60020), convert, "must_fix", "203.0.113.9"),
        ("user/convert_to_openid", Fault::Errcode(48002), convert, "must_fix", "openids"),
        ("user/convert_to_openid", Fault::Errcode(301_052), convert, "must_fix", "接口许可"),
        ("user/convert_to_openid", Fault::Errcode(42001), convert, "must_fix", "token"),
        ("user/convert_to_openid", Fault::Errcode(45033), convert, "warning", "45033"),
        ("user/convert_to_openid", Fault::Errcode(43004), convert, "ok", "permitted"),
        ("user/list_id", Fault::Errcode(48009), "api.contacts.user/list_id", "must_fix", "48009"),
        ("user/get", Fault::Errcode(48009), "api.contacts.user/get", "ok", "normal"),
        ("user/get", Fault::Errcode(48009), "api.app.user/get", "warning", "details of members"),
        ("department/list", Fault::Errcode(48009), "api.contacts.department/list", "ok", "normal"),
        ("tag/list", Fault::Errcode(-1), "api.app.tag/list", "warning", "again"),
    ] {
        lab.stand_in.fail(Some(api), fault.clone(), 2);
        let before = lab.stand_in.count("gettoken");
        let (findings, _) = doctor(&lab, &[]);
        let (seen, what) = found(&findings, check);
        assert!(seen == level && what.contains(part), "{api} {fault:?}: {seen} {what}");
        assert_eq!(lab.stand_in.count("gettoken") - before, 2, "{fault:?}: once per secret");
        assert!(!what.contains("login?secret"));
        lab.stand_in.mend();
    }
    lab.stand_in.fail(Some("user/convert_to_openid"), refusal(60111), 1);
    assert!(found(&doctor(&lab, &[]).0, "address").1.contains("203.0.113.9"));
    for (shift, level) in [(-120, "warning"), (4000, "must_fix")] {
        lab.stand_in.shift_date(shift);
        let (findings, _) = doctor(&lab, &[]);
        assert_eq!(found(&findings, "clock").0, level, "{shift}");
    }
    // Before the first start there is no database yet.
    let (findings, _) = doctor(&lab, &[]);
    assert_eq!(found(&findings, "database").0, "warning");
    assert_eq!(found(&findings, "daemon").0, "warning");
}

#[test]
fn an_answer_that_does_not_come_or_does_not_end_is_told_after_the_configured_time() {
    let lab = Lab::idle(Settings { wecom: "timeout = 1s", ..Settings::default() });
    for (fault, part) in
        [(Fault::Hang, "no answer in time"), (Fault::HangInBody, "not complete within the timeout")]
    {
        lab.stand_in.fail(Some("gettoken"), fault, 1);
        let (level, what) = found(&doctor(&lab, &[]).0, "token.app");
        assert!(level == "must_fix" && what.contains(part), "{what}");
    }
}

#[test]
fn everything_that_a_proxy_does_to_the_response_is_named() {
    let lab = Lab::plain();
    let daemon = lab.address;
    type Alter = Box<dyn Fn(SocketAddr, &str) -> Vec<u8> + Send + Sync>;
    let whole =
        |status: &'static str, body: &'static str| -> Alter { Box::new(move |_, _| response(status, body)) };
    let around = |wrap: fn(&str) -> String| -> Alter {
        Box::new(move |daemon, target| response("200 OK", &wrap(&body_of(&forwarded(daemon, target)))))
    };
    let request = |alter: fn(&str) -> String| -> Alter {
        Box::new(move |daemon, target| forwarded(daemon, &alter(target)))
    };
    let cases: Vec<(&str, Alter)> = vec![
        ("bom", around(|text| format!("\u{feff}{text}"))),
        ("newline", around(|text| format!("{text}\n"))),
        ("newline", around(|text| format!("\r\n{text}"))),
        ("quotes", around(|text| format!("\"{text}\""))),
        ("json", around(|text| format!("{{\"code\":0,\"data\":\"{text}\"}}"))),
        ("more", around(|text| format!("{text}<script src=x></script>"))),
        ("page", whole("200 OK", "<!DOCTYPE html><title>Welcome to nginx!</title>")),
        ("other_json", whole("200 OK", "{\"code\":404}")),
        ("empty", whole("200 OK", "")),
        ("other", whole("200 OK", "hello")),
        ("proxy_not_found", whole("404 Not Found", "<html>404</html>")),
        ("proxy_forbids", whole("403 Forbidden", "<html>blocked by WAF</html>")),
        ("bad_gateway", whole("502 Bad Gateway", "<html>502</html>")),
        ("bad_gateway", whole("504 Gateway Time-out", "")),
        ("proxy_unavailable", whole("503 Service Unavailable", "<html>maintenance</html>")),
        ("method", whole("405 Method Not Allowed", "")),
        ("redirect", whole("301 Moved\r\nLocation: https://www.example.com/callback?a=b", "")),
        ("plus_lost", request(|target| target.replace("%2B", ""))),
        ("plus_lost", request(|target| target.replace("%2B", "_"))),
        ("wrong_path", request(|target| target.replace("/callback", "/callback/index.php"))),
        ("bad_request", request(|target| target.split('?').next().unwrap().to_owned())),
    ];
    for (cause, answer) in cases {
        let url = format!("http://{}/callback", server(move |target| answer(daemon, target)));
        let (findings, code) = doctor(&lab, &["--url", &url]);
        let (level, what) = found(&findings, "url.response");
        assert!(level == "must_fix" && what.contains(&format!("({cause})")), "{cause}: {what}");
        assert_eq!(code, Some(1));
    }
    // What the daemon can read nevertheless is no fault.
    for alter in [|target: &str| target.replace("%2B", "+"), |target: &str| target.replace("%2B", "%20")] {
        let url = format!("http://{}/callback", server(move |target| forwarded(daemon, &alter(target))));
        assert_eq!(found(&doctor(&lab, &["--url", &url]).0, "url.response").0, "ok");
    }
}

#[test]
fn a_daemon_with_other_keys_or_another_receive_id_is_told_by_its_own_record() {
    let lab = Lab::plain();
    let ini = std::fs::read_to_string(lab.ini()).unwrap();
    let url = lab.url("/callback");
    for (from, to, cause, part) in [
        (format!("token = {TOKEN}"), "token = Other7".to_owned(), "(forbidden)", "Token"),
        (
            format!("encoding_aes_key = {KEY}"),
            "encoding_aes_key = kWxPEV2UEDyxWpmPdKC3F4dgPDmOvfKX1HGnEUDS1aR".into(),
            "(forbidden)",
            "EncodingAESKey",
        ),
        (
            "[openid]".into(),
            "receive_id = ww0000000000000000\n[openid]".into(),
            "(wrong_receive_id)",
            "receive_id",
        ),
    ] {
        std::fs::write(lab.ini(), ini.replace(&from, &to)).unwrap();
        let (findings, _) = doctor(&lab, &["--url", &url]);
        let (level, what) = found(&findings, "url.response");
        assert!(level == "must_fix" && what.contains(cause) && what.contains(part), "{to}: {what}");
        // Each case has a row of its own.
        rusqlite::Connection::open(lab.database()).unwrap().execute_batch("DELETE FROM refusals").unwrap();
    }
}

#[test]
fn a_slow_url_must_be_fixed_and_one_that_warms_up_is_fine() {
    let lab = Lab::plain();
    let daemon = lab.address;
    let slow = server(move |target| {
        std::thread::sleep(Duration::from_millis(1200));
        forwarded(daemon, target)
    });
    let (findings, _) = doctor(&lab, &["--url", &format!("http://{slow}/callback")]);
    assert_eq!(found(&findings, "url.time").0, "must_fix");
    let first = std::sync::atomic::AtomicBool::new(true);
    let warming = server(move |target| {
        if first.swap(false, std::sync::atomic::Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1200));
        }
        forwarded(daemon, target)
    });
    let (findings, _) = doctor(&lab, &["--url", &format!("http://{warming}/callback")]);
    assert_eq!(found(&findings, "url.time").0, "ok");
}

#[test]
fn a_url_out_of_reach_is_a_warning_only_while_events_arrive() {
    let lab = Lab::plain();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = format!("http://{free}/callback");
    let unknown = "https://callback.invalid/callback";
    for (url, check) in [(refused.as_str(), "url.connection"), (unknown, "url.dns")] {
        assert_eq!(found(&doctor(&lab, &["--url", url]).0, check).0, "must_fix");
    }
    lab.event(now(), "delete_user", "<UserID>a</UserID>");
    for (url, check) in [(refused.as_str(), "url.connection"), (unknown, "url.dns")] {
        let (level, what) = found(&doctor(&lab, &["--url", url]).0, check);
        assert!(level == "warning" && what.contains("events arrive"), "{what}");
    }
    let not_http = listen(|mut stream| {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n");
    });
    let closes = listen(drop);
    for (url, check) in [
        (format!("http://{not_http}/callback"), "url.connection"),
        (format!("http://{closes}/callback"), "url.connection"),
        (format!("https://{}/callback", lab.address), "url.tls"),
    ] {
        assert_eq!(found(&doctor(&lab, &["--url", &url]).0, check).0, "must_fix", "{url}");
    }
}

/// A TLS proxy in front of the daemon; `years`: when its certificate is valid. The authority's certificate, too.
fn tls_proxy(
    daemon: SocketAddr,
    name: &str,
    years: (i32, i32),
    is_self_signed: bool,
) -> (SocketAddr, String) {
    let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let (key, ca_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let pem = ca.self_signed(&ca_key).unwrap().pem();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
    let certificate = if is_self_signed {
        params.self_signed(&key).unwrap()
    } else {
        params.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap()
    };
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = Arc::new(config.with_single_cert(vec![certificate.der().clone()], key).unwrap());
    let address = listen(move |stream| {
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut client = rustls::StreamOwned::new(connection, stream);
        let Some(target) = read_target(&mut client) else { return };
        let _ = client.write_all(&forwarded(daemon, &target));
        client.conn.send_close_notify();
        let _ = client.flush();
    });
    (address, pem)
}

#[test]
fn every_fault_of_the_certificate_is_named_and_what_lies_behind_it_is_tried_nevertheless() {
    let lab = Lab::plain();
    let authority = lab.folder.path().join("ca.pem");
    let ini = std::fs::read_to_string(lab.ini()).unwrap();
    let in_days =
        |ends: &str| ends.split("valid for ").nth(1).unwrap().split(' ').next().unwrap().parse::<i64>();
    for (name, years, is_self_signed, is_trusted, level, part) in [
        ("localhost", (2020, 2050), true, false, "must_fix", "self-signed"),
        ("localhost", (2020, 2050), false, false, "must_fix", "fullchain.pem"),
        ("localhost", (2020, 2021), false, true, "must_fix", "has expired"),
        ("localhost", (2048, 2050), false, true, "must_fix", "not valid yet"),
        ("other.example", (2020, 2050), false, true, "must_fix", "another name"),
        ("localhost", (2020, 2050), false, true, "warning", "only this machine trusts"),
    ] {
        let (address, pem) = tls_proxy(lab.address, name, years, is_self_signed);
        std::fs::write(&authority, pem).unwrap();
        let setting = if is_trusted { "ca_file = ca.pem\n[callback]" } else { "[callback]" };
        std::fs::write(lab.ini(), ini.replace("[callback]", setting)).unwrap();
        let url = format!("https://localhost:{}/callback", address.port());
        let (findings, _) = doctor(&lab, &["--url", &url]);
        let (seen, what) = found(&findings, "url.tls");
        assert!(seen == level && what.contains(part), "{part}: {seen} {what}");
        assert_eq!(found(&findings, "url.response").0, "ok", "{part}");
        if level == "warning" {
            assert!(in_days(&what).unwrap() > 3000, "{what}");
        }
    }
}

#[test]
fn the_database_and_the_refusals_are_part_of_the_report() {
    let lab = filled();
    let stranger = format!("/callback?msg_signature=a&timestamp=1&nonce=2&echostr=b&x={CORP}");
    forwarded(lab.address, &stranger);
    lab.wait_for("SELECT count(*) FROM refusals", "1");
    let db = rusqlite::Connection::open(lab.database()).unwrap();
    db.execute_batch("UPDATE members SET name = 'somebody else'").unwrap();
    let (findings, _) = doctor(&lab, &[]);
    let (level, what) = found(&findings, "database");
    assert!(level == "must_fix" && what.contains("check --database --repair"), "{what}");
    let (level, what) = found(&findings, "refusals");
    assert!(level == "warning" && what.contains("signature at /callback"), "{what}");
}

#[test]
fn without_network_and_daemon_it_reports_what_it_can() {
    let mut lab = filled();
    lab.kill();
    let ini = std::fs::read_to_string(lab.ini()).unwrap();
    let own = lab.stand_in.base_url();
    let ini = ini.replace(&own, "https://wecom.invalid");
    std::fs::write(lab.ini(), &ini).unwrap();
    let (findings, code) = doctor(&lab, &["--url", "https://callback.invalid/callback"]);
    assert_eq!(code, Some(1));
    assert_eq!(found(&findings, "database").0, "ok");
    let (level, what) = found(&findings, "token.app");
    assert!(
        level == "must_fix" && what.contains("wecom.invalid cannot be resolved") && what.contains("DNS"),
        "{what}"
    );

    std::fs::write(lab.ini(), ini.replace("corp_id", "corp_idd")).unwrap();
    assert_eq!(lab.command(&["doctor"]).status.code(), Some(78));
    std::fs::write(lab.ini(), &ini).unwrap();
    let output = lab.command(&["doctor", "--url", "https://h/callback?x=1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("has a query"), "{}", text(&output.stderr));
    eventually("nothing runs", || lab.stand_in.count("gettoken") < 100);
}
