//! What hostile clients say.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use wecom_dirsync::demo::sender::contact_event;
use wecom_dirsync::wecom::callback::crypt::{Crypt, EncodingAesKey};
use wecom_dirsync::wecom::callback::envelope::callback;

use super::{CORP, KEY, TOKEN, crypt};

/// A way to be hostile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Idle,
    StalledHead,
    StalledBody,
    DrippingHead,
    DrippingBody,
    Reset,
    EndlessHead,
    LyingLength,
    Chunked,
    Pipelining,
    DeepXml,
    Forged,
    Undecryptable,
    /// Unsigned XML whose namespaces cost a tree parser the square of its size.
    Namespaces,
    /// One captured event of more than 100 KB, again and again.
    Replay,
    /// Rightly signed, with wrong padding, length and receive_id in turn.
    OracleProbing,
}

impl Kind {
    pub const ALL: [Self; 16] = [
        Self::Idle,
        Self::StalledHead,
        Self::StalledBody,
        Self::DrippingHead,
        Self::DrippingBody,
        Self::Reset,
        Self::EndlessHead,
        Self::LyingLength,
        Self::Chunked,
        Self::Pipelining,
        Self::DeepXml,
        Self::Forged,
        Self::Undecryptable,
        Self::Namespaces,
        Self::Replay,
        Self::OracleProbing,
    ];

    /// Whether its requests are complete and answered. Such a client may stay for the idle time-out, so
    /// it hangs up when the attack is over; all others stay, silent, until they are put out.
    pub fn is_answered(self) -> bool {
        matches!(
            self,
            Self::Pipelining
                | Self::DeepXml
                | Self::Forged
                | Self::Undecryptable
                | Self::Namespaces
                | Self::Replay
                | Self::OracleProbing
        )
    }
}

/// What one client does on each of its connections.
pub struct Script {
    pub opening: Vec<u8>,
    pub then: Then,
}

/// What a client does when its opening is sent.
pub enum Then {
    /// Nothing, until it is closed.
    Wait,
    /// A byte of this each second.
    Drip(&'static [u8]),
    /// This, as fast as it is taken, without looking at what comes back.
    Pour(Vec<u8>),
    /// Breaks the connection.
    Reset,
    /// The opening again, whenever an answer has come.
    Repeat,
}

const HEAD: &str = "POST /callback?msg_signature=0&timestamp=1&nonce=2 HTTP/1.1\r\nHost: x\r\n";

/// The scripts of a kind; its clients take them in turn.
pub fn scripts(kind: Kind) -> Vec<Script> {
    let one = |opening: String, then| vec![Script { opening: opening.into_bytes(), then }];
    match kind {
        Kind::Idle => one(String::new(), Then::Wait),
        Kind::StalledHead => one(format!("{HEAD}Content-Le"), Then::Wait),
        Kind::StalledBody => one(format!("{HEAD}Content-Length: 200000\r\n\r\n"), Then::Wait),
        Kind::DrippingHead => one(String::new(), Then::Drip(HEAD.as_bytes())),
        Kind::DrippingBody => one(format!("{HEAD}Content-Length: 200000\r\n\r\n"), Then::Drip(b"<a>")),
        Kind::Reset => {
            let opening = |text: &str| Script { opening: text.into(), then: Then::Reset };
            vec![opening(""), opening("POST /ca"), opening(&format!("{HEAD}Content-Length: 9\r\n\r\n<a>"))]
        }
        Kind::EndlessHead => one("GET /callback HTTP/1.1\r\na: ".into(), Then::Pour(vec![b'b'; 64 * 1024])),
        Kind::LyingLength => lying_lengths(),
        Kind::Chunked => chunked(),
        Kind::Pipelining => {
            let request = format!("{HEAD}Content-Length: 3\r\n\r\n<a>");
            one(request.clone(), Then::Pour(request.repeat(500).into_bytes()))
        }
        Kind::DeepXml => one(post(HEAD, &"<a>".repeat(200_000)), Then::Repeat),
        Kind::Forged => one(post(HEAD, &callback(CORP, &encrypted(), "")), Then::Repeat),
        Kind::Undecryptable => {
            // A block short: the signature fits, the padding does not.
            let mut cut = encrypted();
            cut.truncate(cut.len() - 64);
            one(signed(&cut), Then::Repeat)
        }
        Kind::Namespaces => {
            let sizes = [(41, 4080), (230, 1000), (700, 4080)];
            sizes
                .into_iter()
                .map(|(names, children)| repeat(post(HEAD, &namespaces(names, children))))
                .collect()
        }
        Kind::Replay => {
            let inner = format!(
                "<UserID>replayed</UserID><Name>张三</Name><Department>1</Department><Pad>{}</Pad>",
                "p".repeat(110_000)
            );
            let event = contact_event(CORP, 1_700_000_000, "create_user", &inner);
            one(signed(&crypt().encrypt(event.as_bytes(), [7; 16]).unwrap()), Then::Repeat)
        }
        Kind::OracleProbing => oracle_probes().iter().map(|probe| repeat(signed(probe))).collect(),
    }
}

fn repeat(opening: String) -> Script {
    Script { opening: opening.into_bytes(), then: Then::Repeat }
}

/// 14 nested elements with so many namespace declarations each, and so many empty children: up to 174 KiB.
fn namespaces(names: usize, children: usize) -> String {
    let declarations: String = (0..names).map(|n| format!(" xmlns:a{n}=\"u\"")).collect();
    format!("<xml>{}{}", format!("<a{declarations}>").repeat(14), "<b/>".repeat(children))
}

/// Encrypted texts that fail at padding, length and receive_id: changed as somebody could who knows the Token
/// and has captured one.
fn oracle_probes() -> Vec<String> {
    let captured = STANDARD.decode(encrypted()).unwrap();
    let flipped = |at: usize| {
        let mut bytes = captured.clone();
        bytes[at] ^= 0x80;
        STANDARD.encode(bytes)
    };
    let other = Crypt::new(TOKEN, EncodingAesKey::parse(KEY).unwrap(), "wwother");
    vec![
        // In cipher block chaining, a bit of one block flips the same bit of the next block's plain text.
        flipped(captured.len() - 17),
        flipped(0),
        other.encrypt(b"<xml><Event>change_contact</Event></xml>", [7; 16]).unwrap(),
    ]
}

/// A POST of this encrypted text with the right signature.
fn signed(encrypted: &str) -> String {
    let signature = crypt().sign("1", "2", encrypted);
    let head = HEAD.replace("msg_signature=0", &format!("msg_signature={signature}"));
    post(&head, &callback(CORP, encrypted, ""))
}

fn encrypted() -> String {
    crypt().encrypt("<xml><Event>change_contact</Event></xml>".repeat(10).as_bytes(), [7; 16]).unwrap()
}

fn post(head: &str, body: &str) -> String {
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn lying_lengths() -> Vec<Script> {
    let wait = |length: &str, body: usize| Script {
        opening: format!("{HEAD}Content-Length: {length}\r\n\r\n{}", "x".repeat(body)).into_bytes(),
        then: Then::Wait,
    };
    vec![
        wait("-1", 10),
        wait("99999999999999999999999999", 10),
        wait("18446744073709551617", 1),
        wait("18446744073709551615", 10),
        wait("+5", 5),
        wait("0x10", 16),
        wait("5, 5", 5),
        wait("5\r\nContent-Length: 6", 6),
        wait("1073741824", 100_000),
        // Shorter than what comes: the rest is no request.
        wait("5", 1000),
        // Longer than what comes.
        wait("100", 50),
        wait("200000", 60_000),
        wait("262144", 262_143),
    ]
}

fn chunked() -> Vec<Script> {
    let wait = |lines: &str, body: &str| Script {
        opening: format!("{HEAD}{lines}\r\n\r\n{body}").into_bytes(),
        then: Then::Wait,
    };
    let smuggled = "0\r\n\r\nGET /callback HTTP/1.1\r\nHost: x\r\n\r\n";
    vec![
        wait("Transfer-Encoding: chunked", "zz\r\nnonsense"),
        wait("Transfer-Encoding: chunked", "ffffffffffffffff\r\n<a>"),
        wait("Transfer-Encoding: chunked", "-1\r\n<a>\r\n0\r\n\r\n"),
        wait("Transfer-Encoding: chunked\r\nContent-Length: 5", smuggled),
        wait("Content-Length: 5\r\nTransfer-Encoding: chunked", smuggled),
        wait("Content-Length: 47\r\ntransfer-encoding:\tchunked", smuggled),
        wait("Transfer-Encoding : chunked\r\nContent-Length: 5", smuggled),
        wait("Transfer-Encoding: identity\r\nContent-Length: 5", smuggled),
        wait("Transfer-Encoding:\r\n chunked\r\nContent-Length: 5", smuggled),
        wait("Content-Length: 0\r\nTransfer-Encoding: xchunked", smuggled),
        // Well-formed so far, and never complete or too much.
        wait("Transfer-Encoding: chunked", "40000\r\n<a>"),
        wait("Transfer-Encoding: chunked", &"1\r\nx\r\n".repeat(5000)),
        wait("Transfer-Encoding: chunked", &format!("1;{}\r\nx\r\n", "e".repeat(120)).repeat(100)),
        wait("Transfer-Encoding: chunked", &format!("0\r\n{}", "a: b\r\n".repeat(1000))),
        wait("Transfer-Encoding: chunked", &format!("3e8\r\n{}\r\n", "x".repeat(1000)).repeat(300)),
    ]
}
