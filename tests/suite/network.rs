//! The way to WeCom: TLS with authorities of one's own, proxies with and without credentials, and what each failure of it
//! is called.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::{self, Lab, Settings, binary, eventually, text};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Copies in both directions until one side ends.
fn splice(mut one: TcpStream, mut other: TcpStream) {
    let (mut from, mut to) = (one.try_clone().unwrap(), other.try_clone().unwrap());
    let back = std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
    let _ = std::io::copy(&mut other, &mut one);
    let _ = one.shutdown(std::net::Shutdown::Both);
    let _ = back.join();
}

/// A listener that gives each connection to `serve`, in a thread of its own, until the test's process ends.
pub(crate) fn listen(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

pub(crate) fn read_head(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    text(&head)
}

/// A proxy by CONNECT that leads everywhere to `target`, and counts.
fn http_proxy(
    target: SocketAddr,
    credentials: Option<&'static str>,
    refusal: Option<u16>,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let address = listen(move |mut client| {
        let head = read_head(&mut client);
        let wanted = credentials.map(|credentials| format!("Basic {}", BASE64_STANDARD.encode(credentials)));
        if wanted.is_some_and(|wanted| !head.contains(&wanted)) {
            let _ =
                client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        if let Some(status) = refusal {
            let _ = client.write_all(format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n").as_bytes());
            return;
        }
        assert!(head.starts_with("CONNECT "), "{head}");
        counted.fetch_add(1, Ordering::SeqCst);
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
        splice(client, TcpStream::connect(target).unwrap());
    });
    (address, count)
}

/// A SOCKS5 proxy (RFC 1928, RFC 1929) that leads everywhere to `target`; it remembers the names that it was asked for.
fn socks_proxy(
    target: SocketAddr,
    credentials: Option<(&'static str, &'static str)>,
) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let names = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&names);
    let address = listen(move |mut client| {
        let take = |client: &mut TcpStream, count: usize| {
            let mut bytes = vec![0; count];
            client.read_exact(&mut bytes).ok().map(|()| bytes)
        };
        let Some(head) = take(&mut client, 2) else { return };
        let methods = take(&mut client, head[1].into()).unwrap();
        let method = if credentials.is_some() { 2 } else { 0 };
        if !methods.contains(&method) {
            let _ = client.write_all(&[5, 0xff]);
            return;
        }
        client.write_all(&[5, method]).unwrap();
        if let Some((user, password)) = credentials {
            let length = take(&mut client, 2).unwrap()[1];
            let given = take(&mut client, length.into()).unwrap();
            let length = take(&mut client, 1).unwrap()[0];
            let secret = take(&mut client, length.into()).unwrap();
            let fits = given == user.as_bytes() && secret == password.as_bytes();
            client.write_all(&[1, u8::from(!fits)]).unwrap();
            if !fits {
                return;
            }
        }
        let kind = take(&mut client, 4).unwrap()[3];
        let length = match kind {
            1 => 4,
            3 => take(&mut client, 1).unwrap()[0],
            _ => 16,
        };
        let host = take(&mut client, length.into()).unwrap();
        take(&mut client, 2).unwrap();
        seen.lock().unwrap().push(if kind == 3 { text(&host) } else { format!("{host:?}") });
        client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
        splice(client, TcpStream::connect(target).unwrap());
    });
    (address, names)
}

/// An authority of one's own.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

pub(crate) fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { issuer: Issuer::new(params, key), pem }
}

/// A TLS server with a certificate for `name`, before the stand-in. `years`: when the certificate is valid.
pub(crate) fn tls_server(
    target: SocketAddr,
    authority: &Authority,
    name: &str,
    years: (i32, i32),
) -> SocketAddr {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &authority.issuer).unwrap();
    serve_tls(target, certificate.der().clone(), &key)
}

fn serve_tls(target: SocketAddr, certificate: CertificateDer<'static>, key: &KeyPair) -> SocketAddr {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = Arc::new(config.with_single_cert(vec![certificate], key).unwrap());
    listen(move |client| {
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut client = rustls::StreamOwned::new(connection, client);
        // One request and its answer: each is small.
        let mut request = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let Ok(count) = client.read(&mut chunk) else { return };
            request.extend_from_slice(&chunk[..count]);
            let all = text(&request);
            let Some((head, body)) = all.split_once("\r\n\r\n") else {
                if count == 0 {
                    return;
                }
                continue;
            };
            let length = head.to_ascii_lowercase();
            let length = length
                .split("content-length: ")
                .nth(1)
                .and_then(|rest| rest.split("\r\n").next()?.parse().ok());
            if body.len() >= length.unwrap_or(0) || count == 0 {
                break;
            }
        }
        let mut behind = TcpStream::connect(target).unwrap();
        behind.write_all(text(&request).replacen("\r\n", "\r\nConnection: close\r\n", 1).as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !is_whole(&answer) {
            let count = behind.read(&mut chunk).unwrap();
            answer.extend_from_slice(&chunk[..count]);
            if count == 0 {
                break;
            }
        }
        let answer = text(&answer).replacen("\r\n", "\r\nConnection: close\r\n", 1);
        let _ = client.write_all(answer.as_bytes());
        client.conn.send_close_notify();
        let _ = client.flush();
    })
}

fn is_whole(answer: &[u8]) -> bool {
    let all = text(answer);
    let Some((head, body)) = all.split_once("\r\n\r\n") else { return false };
    let length = head.split("Content-Length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

/// A lab whose one member has signed in; with other `[wecom]` settings and environment.
fn lab(api_base: &dyn Fn(SocketAddr) -> String, wecom: &dyn Fn(&Path, SocketAddr) -> String) -> Lab {
    let lab = Lab::idle(Settings { openid: "retry_first = 1s", ..Settings::default() });
    lab.stand_in.company(|company| {
        company.hire("a");
        company.sign_in("a", "o-a");
    });
    let own = lab.stand_in.base_url();
    let behind: SocketAddr = own.trim_start_matches("http://").parse().unwrap();
    let ini = std::fs::read_to_string(lab.ini()).unwrap();
    let settings =
        format!("api_base = {}\ntimeout = 3s\n{}", api_base(behind), wecom(lab.folder.path(), behind));
    std::fs::write(lab.ini(), ini.replace(&format!("api_base = {own}"), &settings)).unwrap();
    lab
}

const PROXIES: [&str; 8] = [
    "ALL_PROXY",
    "all_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "NO_PROXY",
    "no_proxy",
];

fn command(lab: &Lab, name: &str, environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary());
    command.arg(name).arg("-c").arg(lab.ini());
    PROXIES.iter().for_each(|name| {
        command.env_remove(name);
    });
    command.envs(environment.iter().copied());
    command
}

fn converts(mut lab: Lab, environment: &[(&str, &str)]) -> Lab {
    let run = command(&lab, "run", environment);
    lab.start_as(run);
    lab.event(common::now(), "create_user", "<UserID>a</UserID>");
    lab.wait_for("SELECT openid FROM members", "o-a");
    lab
}

/// What the log says of the pause.
fn pauses(mut lab: Lab, environment: &[(&str, &str)]) -> String {
    let run = command(&lab, "run", environment);
    lab.start_as(run);
    lab.event(common::now(), "create_user", "<UserID>a</UserID>");
    eventually("the pause is logged", || lab.log().contains("paused"));
    assert_eq!(lab.value("SELECT openid_attempts FROM members"), "0");
    lab.log().lines().find(|line| line.contains("paused")).unwrap().to_owned()
}

#[test]
fn a_server_with_an_authority_of_its_own_is_trusted_by_ca_file_or_the_systems_certificates() {
    let own = authority("our own authority");
    let server =
        |behind| format!("https://localhost:{}", tls_server(behind, &own, "localhost", (2020, 2090)).port());
    let with_file = |folder: &Path, _| {
        std::fs::write(folder.join("ca.pem"), &own.pem).unwrap();
        "ca_file = ca.pem\n".to_owned()
    };
    converts(lab(&server, &with_file), &[]);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("system.pem");
    std::fs::write(&file, &own.pem).unwrap();
    converts(lab(&server, &|_, _| String::new()), &[("SSL_CERT_FILE", file.to_str().unwrap())]);

    let told = pauses(lab(&server, &|_, _| String::new()), &[]);
    assert!(told.contains("TLS: certificate of an unknown authority") && told.contains("ca_file"), "{told}");
}

/// As `openssl req -x509` makes them: the server's certificate is its own authority.
#[test]
fn a_certificate_that_is_its_own_authority_is_trusted_if_ca_file_has_it() {
    for (name, listed, expected) in [
        ("localhost", true, ""),
        ("localhost", false, "TLS: certificate of an unknown authority"),
        ("other.example", true, "TLS: the certificate is for another host name"),
    ] {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let pem = certificate.pem();
        let server = |behind| {
            format!("https://localhost:{}", serve_tls(behind, certificate.der().clone(), &key).port())
        };
        let with_file = |folder: &Path, _| {
            std::fs::write(folder.join("ca.pem"), &pem).unwrap();
            if listed { "ca_file = ca.pem\n".to_owned() } else { String::new() }
        };
        if expected.is_empty() {
            converts(lab(&server, &with_file), &[]);
        } else {
            let told = pauses(lab(&server, &with_file), &[]);
            assert!(told.contains(expected), "{told}");
        }
    }
}

#[test]
fn what_is_wrong_with_a_certificate_is_named() {
    let own = authority("our own authority");
    for (name, years, expected) in [
        ("localhost", (2000, 2010), "TLS: the certificate has expired"),
        ("localhost", (2080, 2090), "TLS: the certificate is not valid yet"),
        ("other.example", (2020, 2090), "TLS: the certificate is for another host name"),
    ] {
        let server = |behind| format!("https://localhost:{}", tls_server(behind, &own, name, years).port());
        let with_file = |folder: &Path, _| {
            std::fs::write(folder.join("ca.pem"), &own.pem).unwrap();
            "ca_file = ca.pem\n".to_owned()
        };
        let told = pauses(lab(&server, &with_file), &[]);
        assert!(told.contains(expected), "{told}");
    }
    let plain = listen(|mut stream| {
        let _ = stream.read(&mut [0; 64]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    let told = pauses(lab(&|_| format!("https://{plain}"), &|_, _| String::new()), &[]);
    assert!(told.contains("TLS: the other side does not speak TLS"), "{told}");
}

#[test]
fn a_ca_file_without_certificates_is_an_error_that_names_it() {
    let plain = |behind: SocketAddr| format!("http://{behind}");
    for content in [
        None,
        Some(&b"hello"[..]),
        Some(b"\x30\x82\x01\xff"),
        Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    ] {
        let lab = lab(&plain, &|folder, _| {
            if let Some(content) = content {
                std::fs::write(folder.join("own.pem"), content).unwrap();
            }
            "ca_file = own.pem\n".into()
        });
        for name in ["check", "run"] {
            let output = command(&lab, name, &[]).output().unwrap();
            let told = text(&output.stderr);
            assert_eq!(output.status.code(), Some(78), "{told}");
            assert!(told.contains("[wecom] ca_file") && told.contains("own.pem"), "{told}");
        }
    }
}

#[test]
fn calls_go_through_the_configured_proxy_with_its_credentials() {
    // Only the proxy can reach this name: it is not looked up here.
    let far = |_| "http://wecom.invalid:8000".to_owned();
    let proxies = Mutex::new(Vec::new());
    let http = |_: &Path, behind| {
        let (address, count) = http_proxy(behind, Some("user:p@ss:w0rd"), None);
        proxies.lock().unwrap().push(count);
        format!("proxy = http://user:p%40ss:w0rd@{address}\n")
    };
    let used = converts(lab(&far, &http), &[("ALL_PROXY", "http://127.0.0.1:1")]);
    assert!(proxies.lock().unwrap()[0].load(Ordering::SeqCst) > 0);
    let check = text(&used.command(&["check"]).stdout);
    assert!(check.contains("proxy = http://user:***@127.0.0.1:") && !check.contains("w0rd"), "{check}");
    assert!(!used.log().contains("w0rd"), "{}", used.log());

    let names = Mutex::new(Vec::new());
    for credentials in [None, Some(("user", "w0rd"))] {
        let socks = |folder: &Path, behind| {
            let (address, seen) = socks_proxy(behind, credentials);
            names.lock().unwrap().push(seen);
            let login = credentials.map_or(String::new(), |(user, password)| format!("{user}:{password}@"));
            std::fs::write(folder.join("proxy"), format!("socks5://{login}{address}\n")).unwrap();
            "proxy_file = proxy\n".to_owned()
        };
        converts(lab(&far, &socks), &[]);
    }
    for seen in names.lock().unwrap().iter() {
        assert_eq!(seen.lock().unwrap().first().map(String::as_str), Some("wecom.invalid"));
    }
}

#[test]
fn https_goes_through_a_proxy_as_well() {
    let own = authority("our own authority");
    let seen = Mutex::new(Vec::new());
    let through = |folder: &Path, behind| {
        std::fs::write(folder.join("ca.pem"), &own.pem).unwrap();
        let server = tls_server(behind, &own, "wecom.invalid", (2020, 2090));
        let (address, count) = http_proxy(server, None, None);
        seen.lock().unwrap().push(count);
        format!("ca_file = ca.pem\nproxy = http://{address}\n")
    };
    converts(lab(&|_| "https://wecom.invalid".into(), &through), &[]);
    assert!(seen.lock().unwrap()[0].load(Ordering::SeqCst) > 0);
}

#[test]
fn the_environments_proxy_is_obeyed_and_never_passed_by() {
    let near = |behind: SocketAddr| format!("http://{behind}");
    let none = |_: &Path, _: SocketAddr| String::new();
    for (name, dead) in [
        ("ALL_PROXY", "socks5://127.0.0.1:1"),
        ("all_proxy", "socks5h://127.0.0.1:1"),
        ("HTTPS_PROXY", "http://127.0.0.1:1"),
        ("http_proxy", "127.0.0.1:1"),
    ] {
        let lab = lab(&near, &none);
        let told = pauses(lab, &[(name, dead)]);
        assert!(told.contains("the proxy 127.0.0.1:1 refuses the connection"), "{name}: {told}");
    }
    converts(
        lab(&near, &none),
        &[("ALL_PROXY", "socks5://127.0.0.1:1"), ("NO_PROXY", "localhost,127.0.0.1")],
    );
    converts(lab(&near, &|_, _| "proxy = none\n".into()), &[("ALL_PROXY", "socks5://127.0.0.1:1")]);
    let through = lab(&near, &none);
    let behind: SocketAddr = through.stand_in.base_url().trim_start_matches("http://").parse().unwrap();
    let (address, seen) = socks_proxy(behind, Some(("me", "hush")));
    let proxy = format!("socks5://me:hush@{address}");
    let through = converts(through, &[("ALL_PROXY", &proxy)]);
    assert!(!seen.lock().unwrap().is_empty());
    assert!(!through.log().contains("hush"), "{}", through.log());

    for bad in ["gopher://127.0.0.1:1", "socks4://127.0.0.1:1", "http://"] {
        let lab = lab(&near, &none);
        let output = command(&lab, "run", &[("ALL_PROXY", bad)]).output().unwrap();
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{told}");
        assert!(told.contains("ALL_PROXY"), "{told}");
        let output = command(&lab, "check", &[("ALL_PROXY", bad)]).output().unwrap();
        assert!(text(&output.stdout).contains("ALL_PROXY"), "{}", text(&output.stdout));
    }
    let lab = lab(&near, &|_, _| "proxy = ftp://me:hush@127.0.0.1\n".into());
    let output = command(&lab, "check", &[]).output().unwrap();
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{told}");
    assert!(told.contains("[wecom] proxy") && !told.contains("hush"), "{told}");
}

#[test]
fn each_failure_on_the_way_is_called_by_its_name() {
    let near = |behind: SocketAddr| format!("http://{behind}");
    let none = |_: &Path, _: SocketAddr| String::new();
    let told = pauses(lab(&|_| "http://no-such-host.invalid".into(), &none), &[]);
    assert!(told.contains("the host name no-such-host.invalid cannot be resolved"), "{told}");
    let told = pauses(lab(&|_| "http://127.0.0.1:1".into(), &none), &[]);
    assert!(told.contains("127.0.0.1:1 refuses the connection"), "{told}");
    let other = listen(|mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    });
    let told = pauses(lab(&|_| format!("http://{other}"), &none), &[]);
    assert!(told.contains("HTTP status 404") && told.contains("check api_base"), "{told}");

    let wrong = |_: &Path, behind| {
        format!("proxy = http://user:bad-w0rd@{}\n", http_proxy(behind, Some("user:good"), None).0)
    };
    let told = pauses(lab(&near, &wrong), &[]);
    assert!(told.contains("407") && told.contains("check user and password in [wecom] proxy"), "{told}");
    assert!(!told.contains("bad-w0rd"), "{told}");
    let wrong = |_: &Path, behind| {
        format!("proxy = socks5://user:bad-w0rd@{}\n", socks_proxy(behind, Some(("user", "good"))).0)
    };
    let told = pauses(lab(&near, &wrong), &[]);
    assert!(told.contains("refuses user and password") && !told.contains("bad-w0rd"), "{told}");
    let none_given =
        |_: &Path, behind| format!("proxy = socks5://{}\n", socks_proxy(behind, Some(("user", "good"))).0);
    let told = pauses(lab(&near, &none_given), &[]);
    assert!(told.contains("check user and password"), "{told}");
    let forbids = |_: &Path, behind| format!("proxy = http://{}\n", http_proxy(behind, None, Some(403)).0);
    let told = pauses(lab(&near, &forbids), &[]);
    assert!(told.contains("does not connect to") && told.contains("403"), "{told}");
    let lost = |_: &Path, _: SocketAddr| "proxy = http://no-such-proxy.invalid:3128\n".to_owned();
    let told = pauses(lab(&near, &lost), &[]);
    assert!(
        told.contains("no-such-proxy.invalid cannot be resolved") && told.contains("[wecom] proxy"),
        "{told}"
    );

    let silent = listen(|stream| {
        std::thread::park_timeout(std::time::Duration::from_secs(30));
        drop(stream);
    });
    let told = pauses(lab(&|_| format!("http://{silent}"), &none), &[]);
    assert!(told.contains("no answer in time"), "{told}");
}
