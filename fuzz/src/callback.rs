//! A callback request: query, envelope, signature, decryption, message.

use aes::Aes256;
use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockModeEncrypt, KeyIvInit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use wecom_dirsync::daemon::callbacks::{CallbackError, Endpoint, Received};
use wecom_dirsync::directory::UnixSeconds;
use wecom_dirsync::directory::text::{decode, is_allowed};
use wecom_dirsync::wecom::callback::crypt::{Crypt, EncodingAesKey};
use wecom_dirsync::wecom::callback::envelope::{Envelope, callback};
use wecom_dirsync::wecom::query::{Query, url_encode};

use super::Draw;

const CORP: &str = "wx5823bf96d3bd56c7";
const TOKEN: &str = "QDG6eK";
/// Decodes to `AES_KEY`.
const KEY: &str = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXowMTIzNDU";
const AES_KEY: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz012345";
const OLD_KEY: &str = "kWxPEV2UEDyxWpmPdKC3F4dgPDmOvfKX1HGnEUDS1aR";
const NOW: UnixSeconds = UnixSeconds(1_700_000_000);

/// The input is a request, a message that is encrypted and signed, a padded plain text, or one changed byte.
pub fn check(data: &[u8]) {
    let mut draw = Draw(data);
    let how = draw.byte();
    let keys = [crypt(KEY, CORP), crypt(OLD_KEY, CORP)];
    let endpoint = Endpoint { path: "/callback".into(), keys: keys.to_vec(), app: false };
    match how % 4 {
        0 => anything(&endpoint, draw.until(b'\n'), draw.0),
        1 => sent(&endpoint, &keys[usize::from(how >> 2 & 1)], how, draw.0),
        2 => framed(&endpoint, &keys[0], draw.0),
        _ => spoiled(&endpoint, &keys[0], &mut draw),
    }
}

fn crypt(key: &str, receive_id: &str) -> Crypt {
    Crypt::new(TOKEN, EncodingAesKey::parse(key).unwrap(), receive_id)
}

/// Checks an arbitrary query and body: accepted only with a valid signature.
fn anything(endpoint: &Endpoint, query: &[u8], body: &[u8]) {
    let query = String::from_utf8_lossy(query);
    // Parsing is stable under writing.
    let parsed = Query::parse(&query);
    if let Some(signed) = parsed.as_ref().and_then(Query::signed) {
        let mut written = format!(
            "nonce={}&timestamp={}&msg_signature={}",
            url_encode(signed.nonce),
            url_encode(signed.timestamp),
            url_encode(signed.signature)
        );
        if let Some(echostr) = parsed.as_ref().and_then(Query::echostr) {
            written += &format!("&echostr={}", url_encode(echostr));
        }
        assert_eq!(Query::parse(&written), parsed, "{written}");
    }
    let readings = parsed.map(Query::readings).unwrap_or_default();
    assert!(readings.len() <= 4);
    let genuine = |encrypted: Option<&str>| {
        let fits = |reading: &Query| {
            let (signed, echostr) = (reading.signed()?, reading.echostr());
            let encrypted = encrypted.or(echostr)?;
            Some(endpoint.keys[0].sign(signed.timestamp, signed.nonce, encrypted) == signed.signature)
        };
        let accepted = readings.iter().any(|reading| fits(reading) == Some(true));
        assert!(accepted, "accepted with an invalid signature");
    };
    match endpoint.verify(&query) {
        Ok(answer) => {
            genuine(None);
            assert!(is_echostr(&answer));
        }
        Err(refusal) => refused(&refusal),
    }
    match endpoint.receive(&query, body, CORP, NOW) {
        Ok(received) => {
            genuine(Some(&Envelope::scan(body).unwrap().encrypt));
            assert!(received.event.payload.len() < 3 * body.len());
        }
        Err(refusal) => refused(&refusal),
    }
}

fn refused(refusal: &CallbackError) {
    assert!([400, 403].contains(&refusal.status()));
    assert!(CallbackError::ALL.contains(refusal));
}

fn is_echostr(text: &[u8]) -> bool {
    (1..=256).contains(&text.len())
        && text.iter().all(|b| b.is_ascii() && !b.is_ascii_control() && *b != b'<')
}

/// The signed query of a POST and of a GET with this text.
fn signed(keys: &Crypt, encrypted: &str) -> (String, String) {
    let query = format!(
        "msg_signature={}&timestamp=1409659589&nonce=n%2b1",
        keys.sign("1409659589", "n+1", encrypted)
    );
    let verification = format!("{query}&echostr={}", url_encode(encrypted));
    (query, verification)
}

/// Any encrypted message arrives unchanged; a GET returns it only if it can be an echostr.
fn sent(endpoint: &Endpoint, keys: &Crypt, random: u8, message: &[u8]) {
    let encrypted = keys.encrypt(message, [random; 16]).unwrap();
    let (query, verification) = signed(keys, &encrypted);
    verified(endpoint.verify(&verification), message);
    let body = callback(CORP, &encrypted, "7");
    arrives(endpoint.receive(&query, body.as_bytes(), CORP, NOW), message);
}

fn verified(answer: Result<Vec<u8>, CallbackError>, message: &[u8]) {
    let expected = if is_echostr(message) { Ok(message.to_vec()) } else { Err(CallbackError::Echostr) };
    assert_eq!(answer, expected);
}

/// A signed message for us is always an event, valid or invalid. Its text is stored without the characters that XML
/// forbids, or not at all.
fn arrives(received: Result<Received, CallbackError>, message: &[u8]) {
    let received = received.unwrap();
    assert!(received.event.meaning.is_some() != received.invalid.is_some());
    let payload = &received.event.payload;
    assert!(payload.is_empty() || *payload == decode(message), "{payload}");
    assert!(payload.chars().all(is_allowed));
}

/// Encrypts arbitrary bytes as the padded text: random bytes, length, message, receive_id and padding may be wrong.
fn framed(endpoint: &Endpoint, keys: &Crypt, plain: &[u8]) {
    let mut padded = plain.to_vec();
    padded.resize(plain.len().next_multiple_of(16), plain.last().copied().unwrap_or_default());
    let length = padded.len();
    let mut buffer = padded.clone();
    let cipher = cbc::Encryptor::<Aes256>::new(AES_KEY.into(), AES_KEY[..16].try_into().unwrap());
    let encrypted = STANDARD.encode(cipher.encrypt_padded::<NoPadding>(&mut buffer, length).unwrap());
    let (query, verification) = signed(keys, &encrypted);
    let answer = endpoint.verify(&verification);
    match message_of(&padded) {
        Some((message, receive_id)) if receive_id == CORP.as_bytes() => {
            verified(answer, message);
            let body = callback("", &encrypted, "");
            arrives(endpoint.receive(&query, body.as_bytes(), CORP, NOW), message);
        }
        Some(_) => assert_eq!(answer, Err(CallbackError::ReceiveId)),
        None if padded.is_empty() => assert_eq!(answer, Err(CallbackError::NoEchostr)),
        None => {
            assert!(matches!(answer, Err(CallbackError::Decryption | CallbackError::Length)), "{answer:?}")
        }
    }
}

/// A simple implementation: n padding bytes of value n (1 to 32), 16 random bytes, a length.
fn message_of(padded: &[u8]) -> Option<(&[u8], &[u8])> {
    let n = usize::from(*padded.last()?);
    if !(1..=32).contains(&n)
        || n > padded.len()
        || padded[padded.len() - n..].iter().any(|b| usize::from(*b) != n)
    {
        return None;
    }
    let frame = &padded[..padded.len() - n];
    let length = u32::from_be_bytes(frame.get(16..20)?.try_into().unwrap()) as usize;
    let message = frame.get(20..20 + length)?;
    Some((message, &frame[20 + length..]))
}

/// A valid request with one changed byte is refused, unless the signature does not cover the byte.
fn spoiled(endpoint: &Endpoint, keys: &Crypt, draw: &mut Draw<'_>) {
    let (place, letter) = (usize::from(draw.byte()) << 8 | usize::from(draw.byte()), draw.byte() % 64);
    let message = b"<xml><Event>x</Event></xml>";
    let encrypted = keys.encrypt(message, [place as u8; 16]).unwrap();
    let (query, _) = signed(keys, &encrypted);
    let body = callback(CORP, &encrypted, "");
    assert!(endpoint.receive(&query, body.as_bytes(), CORP, NOW).is_ok());
    let letter = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[usize::from(letter)];
    let mut changed = format!("{query}\n{body}").into_bytes();
    let place = place % changed.len();
    if changed[place] == letter || changed[place] == b'\n' {
        return;
    }
    changed[place] = letter;
    let changed = String::from_utf8(changed).unwrap();
    let (query, body) = changed.split_once('\n').unwrap();
    match endpoint.receive(query, body.as_bytes(), CORP, NOW) {
        // Not covered: the tags around Encrypt, and the case of hex digits.
        Ok(received) => {
            assert_eq!(received.event.payload.as_bytes(), message);
            assert_eq!(Envelope::scan(body.as_bytes()).unwrap().encrypt, encrypted);
        }
        Err(refusal) => refused(&refusal),
    }
    // A valid message for another company.
    let other = crypt(KEY, "ww2");
    let encrypted = other.encrypt(message, [7; 16]).unwrap();
    let (_, verification) = signed(&other, &encrypted);
    assert_eq!(endpoint.verify(&verification), Err(CallbackError::ReceiveId));
}
