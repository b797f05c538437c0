//! Cost per byte of an unsigned request to the callback URL.
//!
//! `cargo bench --bench presignature` prints ns per byte of each path: for WeCom's input, for the worst of a corpus, and
//! for the worst that a search finds, which mutates the inputs and keeps those that cost more. `SEARCH_SECONDS` is the
//! duration of each search, 5 by default.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use fastrand::Rng;
use wecom_dirsync::daemon::callbacks::Endpoint;
use wecom_dirsync::directory::UnixSeconds;
use wecom_dirsync::wecom::callback::crypt::{Crypt, EncodingAesKey};
use wecom_dirsync::wecom::callback::envelope::{Envelope, callback};
use wecom_dirsync::wecom::callback::message;
use wecom_dirsync::wecom::query::Query;
use wecom_dirsync::wecom::query::url_encode;

const CORP: &str = "wx5823bf96d3bd56c7";
/// Limit in ns per byte: 256 KiB cost 13 ms.
const LIMIT: f64 = 50.0;
/// Length of an input in bytes, enough to show costs that grow faster than the length.
const LENGTH: usize = 64 * 1024;

fn main() {
    let keys = ["jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C", "kWxPEV2UEDyxWpmPdKC3F4dgPDmOvfKX1HGnEUDS1aR"];
    let keys = keys.map(|key| Crypt::new("QDG6eK", EncodingAesKey::parse(key).unwrap(), CORP)).to_vec();
    let endpoint = Endpoint { path: "/callback".into(), keys, app: false };
    let query = "msg_signature=a&timestamp=1&nonce=2";
    // Four readings, each verified with both keys.
    let worst_query = "msg_signature=a&timestamp=1%2520&nonce=%202%2520";

    println!("ns per byte                            WeCom's   worst of corpus   worst found");
    let bodies = bodies();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    report("envelope", &bodies, |body| drop(black_box(Envelope::scan(body))), 1);
    report("query", &queries(), |query| drop(Query::parse(&text(query)).map(Query::readings)), 2);
    let receive = |query: &'static str| {
        let endpoint = &endpoint;
        move |body: &[u8]| drop(endpoint.receive(query, body, CORP, UnixSeconds(1)))
    };
    report("POST, two keys", &bodies, receive(query), 3);
    report("POST, two keys, four readings", &bodies, receive(worst_query), 4);
    let verify = |query: &[u8]| drop(endpoint.verify(&text(query)));
    report("GET, two keys", &queries(), verify, 5);
    // After the signature, so from WeCom or a replay: the limit does not apply, but the cost must be linear.
    report("decrypted text", &bodies, |text| drop(message::read(text, CORP)), 6);
    refusals(&endpoint);
}

/// Prints the duration of a refusal by cause; it must not reveal the cause.
fn refusals(endpoint: &Endpoint) {
    println!("\nus for a refusal, two keys                2 KiB    128 KiB");
    let keys = &endpoint.keys[0];
    let other = EncodingAesKey::parse(&"a".repeat(43)).unwrap();
    let (other_key, other_corp) = (Crypt::new("QDG6eK", other, CORP), "ww0123456789abcdef");
    let key = EncodingAesKey::parse("jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C").unwrap();
    let other_corp = Crypt::new("QDG6eK", key, other_corp);
    let changed = |text: &str, at: usize, to: &str| format!("{}{to}{}", &text[..at], &text[at + to.len()..]);
    type Encrypt<'a> = &'a dyn Fn(&[u8]) -> String;
    let causes: [(&str, Encrypt<'_>); 6] = [
        ("signature", &|message| keys.encrypt(message, [7; 16]).unwrap()),
        ("base64", &|message| changed(&keys.encrypt(message, [7; 16]).unwrap(), 40, "!")),
        ("padding", &|message| {
            let text = keys.encrypt(message, [7; 16]).unwrap();
            changed(&text, text.len() - 40, "AAAAAAAA")
        }),
        ("length", &|message| changed(&keys.encrypt(message, [7; 16]).unwrap(), 0, "////")),
        ("receive_id", &|message| other_corp.encrypt(message, [7; 16]).unwrap()),
        ("another key", &|message| other_key.encrypt(message, [7; 16]).unwrap()),
    ];
    for (cause, encrypt) in causes {
        let times = [2 << 10, 128 << 10].map(|length| {
            let encrypted = encrypt(&vec![b'x'; length]);
            let signature = keys.sign("1", if cause == "signature" { "3" } else { "2" }, &encrypted);
            let query = format!("msg_signature={signature}&timestamp=1&nonce=2");
            let body = callback(CORP, &encrypted, "");
            let mut times: Vec<_> = (0..500)
                .map(|_| {
                    let begun = Instant::now();
                    let refused = black_box(endpoint.receive(&query, body.as_bytes(), CORP, UnixSeconds(1)));
                    let time = begun.elapsed();
                    assert_eq!(refused.err().map(|refusal| refusal.status()), Some(403), "{cause}");
                    time
                })
                .collect();
            times.sort_unstable();
            times[times.len() / 2].as_secs_f64() * 1e6
        });
        println!("{cause:36} {:>10.2} {:>10.1}", times[0], times[1]);
    }
}

/// Bodies of about the same length; the first is WeCom's.
fn bodies() -> Vec<Vec<u8>> {
    let fill = |before: &str, piece: &str, after: &str| {
        format!("{before}{}{after}", piece.repeat(LENGTH / piece.len())).into_bytes()
    };
    let spaces: String = (0..200).map(|n| format!(" xmlns:a{n}=\"u\"")).collect();
    let wecom = callback(CORP, &"QUJD".repeat(500), "1").into_bytes();
    vec![
        wecom,
        fill(&format!("<xml>{}", format!("<a{spaces}>").repeat(14)), "<b/>", ""),
        fill("<xml>", "<a/>", "</xml>"),
        fill("", "<a>", ""),
        fill("<xml><Encrypt>", "&amp;", "</Encrypt></xml>"),
        fill("<xml><Encrypt>", "<![CDATA[a]]>", "</Encrypt></xml>"),
        fill("<xml><Encrypt><![CDATA[", "]", "]]></Encrypt></xml>"),
        fill("<xml><a", " b='c'", "/></xml>"),
        fill("<xml>", " ", "<Encrypt>a</Encrypt></xml>"),
        fill("<xml><Encrypt>", "QUJD", "</Encrypt></xml>"),
    ]
}

fn queries() -> Vec<Vec<u8>> {
    let signed =
        "msg_signature=5c45ff5e21c57e6ad56bac8758b79b1d9ac89fd3&timestamp=1409659589&nonce=263014780";
    let fill = |piece: &str| format!("{signed}&echostr={}", piece.repeat(LENGTH / piece.len())).into_bytes();
    let echostr = "P9nAzCzyDtyTWESHep1vC5X9xho/qYX3Zpb4yKa9SKld1DsH3Iyt3tP3zNdtp+4RPcs8TgAE7OaBO+FZXvnaqQ==";
    vec![
        format!("{signed}&echostr={}", url_encode(echostr)).into_bytes(),
        fill("%2B"),
        fill("%2520"),
        fill("%20%2520"),
        fill("a&"),
        fill("&nonce=%25"),
        fill("QUJD"),
    ]
}

/// Prints the cost of a path for the corpus, and for the worst input that a search from the corpus finds.
fn report(name: &str, corpus: &[Vec<u8>], path: impl Fn(&[u8]), seed: u64) {
    let costs: Vec<f64> = corpus.iter().map(|input| cost(input, &path)).collect();
    let worst = costs.iter().copied().fold(0.0, f64::max);
    let found = search(corpus, &path, seed);
    println!("{name:36} {:>10.1} {worst:>17.1} {found:>13.1}", costs[0]);
    if found.max(worst) > LIMIT {
        println!("  more than {LIMIT} ns per byte");
    }
}

/// The minimum of several measurements, in ns per byte.
fn cost(input: &[u8], path: &impl Fn(&[u8])) -> f64 {
    let mut least = Duration::MAX;
    let until = Instant::now() + Duration::from_millis(20);
    for round in 0..50 {
        let begun = Instant::now();
        path(black_box(input));
        least = least.min(begun.elapsed());
        if round > 2 && Instant::now() > until {
            break;
        }
    }
    least.as_secs_f64() * 1e9 / input.len().max(1) as f64
}

/// Mutates the most expensive inputs and keeps those that cost more. Returns the highest cost in ns per byte.
fn search(corpus: &[Vec<u8>], path: &impl Fn(&[u8]), seed: u64) -> f64 {
    let seconds = std::env::var("SEARCH_SECONDS").map_or(5, |seconds| seconds.parse().unwrap());
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut rng = Rng::with_seed(seed);
    let mut best: Vec<(f64, Vec<u8>)> =
        corpus.iter().map(|input| (cost(input, path), input.clone())).collect();
    while Instant::now() < until {
        let (parent, other) = (rng.usize(0..best.len()), rng.usize(0..corpus.len()));
        let child = mutated(&mut rng, &best[parent].1, &corpus[other]);
        // Of short inputs the constant cost dominates.
        if child.len() < 1024 {
            continue;
        }
        let cost = cost(&child, path);
        let least = (0..best.len()).min_by(|a, b| best[*a].0.total_cmp(&best[*b].0)).unwrap();
        if cost > best[least].0 {
            best[least] = (cost, child);
        }
    }
    // Measured again, because other load may have distorted the first measurement.
    best.iter().map(|(_, input)| cost(input, path)).fold(0.0, f64::max)
}

/// Repeats a piece of the input or of another one, replaces a piece, or changes a few bytes.
fn mutated(rng: &mut Rng, parent: &[u8], other: &[u8]) -> Vec<u8> {
    let mut input = parent.to_vec();
    let from = if rng.bool() { parent } else { other };
    let at = rng.usize(0..from.len());
    let piece = from[at..(at + (1 << rng.u32(0..6))).min(from.len())].to_vec();
    let place = rng.usize(0..=input.len());
    match rng.u32(0..3) {
        0 => drop(input.splice(place..place, piece.repeat(1 << rng.u32(0..10)))),
        1 => drop(input.splice(place..(place + piece.len()).min(input.len()), piece)),
        _ => {
            for byte in input.iter_mut().skip(place).step_by(piece.len()) {
                *byte = *rng.choice(b"<>/&;]![ %2+=a\0\xff").unwrap();
            }
        }
    }
    input.truncate(2 * LENGTH);
    input
}
