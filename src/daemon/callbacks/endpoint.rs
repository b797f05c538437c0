//! The answer to a callback request and the event in it, as a function of the request's bytes.

use sha1::{Digest, Sha1};

use crate::directory::UnixSeconds;
use crate::directory::text::decode;
use crate::store::NewEvent;
use crate::wecom::callback::crypt::{Crypt, CryptError, SignedText};
use crate::wecom::callback::envelope::Envelope;
use crate::wecom::callback::message::{self, Concern};
use crate::wecom::query::Query;

/// One callback URL: its path, and the keys that its messages may be encrypted with.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The path of the URL, without a query.
    pub path: String,
    /// The present keys first; then the previous ones, while they are being changed.
    pub keys: Vec<Crypt>,
    /// Whether it is an app's URL: what members send to the app is recorded without its content.
    pub app: bool,
}

macro_rules! refusals {
    ($($variant:ident $status:literal $cause:literal $text:literal,)*) => {
        /// Why a request is refused. The answer shows only [`CallbackError::status`]; the log and the table `refusals` show
        /// the cause.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum CallbackError { $($variant,)* }

        impl CallbackError {
            /// All causes, in the order of the checks.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The HTTP status: 400 for what cannot be a callback, one 403 for all else, so that the answer is no
            /// decryption or padding oracle.
            #[must_use]
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// The stable name, for the log and the table `refusals`.
            #[must_use]
            pub fn cause(self) -> &'static str {
                match self { $(Self::$variant => $cause,)* }
            }
        }

        impl std::fmt::Display for CallbackError {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $text,)* })
            }
        }
    };
}

refusals! {
    Query 400 "query" "the query is not percent-encoded UTF-8",
    Parameters 400 "parameters" "msg_signature, timestamp or nonce is missing",
    NoEchostr 400 "no_echostr" "echostr is missing",
    Envelope 400 "envelope" "the body is not an XML envelope with Encrypt",
    Signature 403 "signature" "-40001: the signature does not match",
    Base64 403 "base64" "-40010: the encrypted text is not base64",
    Decryption 403 "decryption" "-40007: the text does not decrypt",
    Length 403 "length" "-40008: the decrypted text is not a message",
    ReceiveId 403 "receive_id" "-40005: the message is for another receive_id",
    Echostr 403 "echostr" "the decrypted echostr is not a short printable text",
}

impl From<CryptError> for CallbackError {
    fn from(error: CryptError) -> Self {
        match error {
            CryptError::Signature => Self::Signature,
            CryptError::ReceiveId => Self::ReceiveId,
            CryptError::Base64 => Self::Base64,
            CryptError::Buffer => Self::Length,
            CryptError::Decrypt => Self::Decryption,
        }
    }
}

/// Longest decrypted echostr, in bytes; WeCom's have about 20.
const MAX_ECHOSTR: usize = 256;

impl Endpoint {
    /// The answer to a GET: the decrypted echostr. Other texts are refused: with the ciphertext of a captured POST as
    /// echostr, the answer would be the event.
    pub fn verify(&self, query: &str) -> Result<Vec<u8>, CallbackError> {
        let readings = readings(query)?;
        if readings.iter().all(|reading| reading.echostr().is_none()) {
            return Err(CallbackError::NoEchostr);
        }
        let text = self.open(&readings, |reading| reading.echostr().unwrap_or_default())?;
        let is_printable = text.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'<');
        if is_printable && (1..=MAX_ECHOSTR).contains(&text.len()) {
            Ok(text)
        } else {
            Err(CallbackError::Echostr)
        }
    }

    /// The event of a POST. A message that is signed, decrypts and has the right receive_id is always an event, perhaps
    /// an invalid one.
    pub fn receive(
        &self,
        query: &str,
        body: &[u8],
        corp_id: &str,
        now: UnixSeconds,
    ) -> Result<Received, CallbackError> {
        let readings = readings(query)?;
        let envelope = Envelope::scan(body).ok_or(CallbackError::Envelope)?;
        let message = self.open(&readings, |_| &*envelope.encrypt)?;
        Ok(self.read(&message, corp_id, now))
    }

    fn read(&self, bytes: &[u8], corp_id: &str, now: UnixSeconds) -> Received {
        let payload = decode(bytes);
        let message = message::read(payload.as_bytes(), corp_id)
            .unwrap_or_else(|error| message::unreadable(payload.as_bytes(), error));
        let is_stored = match message.concern {
            Concern::Directory => true,
            Concern::Unknown => !self.app,
            Concern::Private => false,
        };
        let (meaning, invalid) = match message.meaning {
            Ok(meaning) => (Some(meaning), None),
            Err(reason) => (None, Some(reason)),
        };
        let event = NewEvent {
            received_at: now,
            create_time: message.create_time,
            event: message.event,
            change_type: message.change_type,
            subject: message.subject,
            payload: if is_stored { payload.into_owned() } else { String::new() },
            digest: digest(bytes),
            meaning,
            latest: None,
            comparison_due: message.reconcile_reason,
        };
        Received { event, invalid, skipped: message.skipped }
    }

    /// Decrypts with the first key that fits. All keys are tried, so that the time does not depend on which of them
    /// fails at which check.
    fn open<'a>(
        &self,
        readings: &'a [Query],
        encrypted: impl Fn(&'a Query) -> &'a str,
    ) -> Result<Vec<u8>, CallbackError> {
        let texts = readings.iter().filter_map(|reading| {
            let signed = reading.signed()?;
            Some(SignedText { signed, encrypted: encrypted(reading) })
        });
        let texts: Vec<_> = texts.collect();
        if texts.is_empty() {
            return Err(CallbackError::Parameters);
        }
        let mut opened = Err(CryptError::Signature);
        for key in &self.keys {
            // Of several errors, the one of the latest check is the most specific.
            match key.open(&texts) {
                Err(error) if opened.as_ref().is_err_and(|known| error > *known) => {
                    opened = Err(error);
                }
                Ok(message) if opened.is_err() => opened = Ok(message),
                _ => {}
            }
        }
        opened.map_err(CallbackError::from)
    }
}

fn readings(query: &str) -> Result<Vec<Query>, CallbackError> {
    let readings = Query::parse(query).ok_or(CallbackError::Query)?.readings();
    if readings.iter().all(|reading| reading.signed().is_none()) {
        return Err(CallbackError::Parameters);
    }
    Ok(readings)
}

/// An event to store, and remarks for the log.
#[derive(Debug, Clone)]
pub struct Received {
    /// The event as the writer applies it.
    pub event: NewEvent,
    /// Why the event is invalid, if it is.
    pub invalid: Option<String>,
    /// Fields that cannot be read and were skipped.
    pub skipped: Vec<String>,
}

/// Eight bytes of SHA-1. Payloads of equal digest are compared in full.
fn digest(payload: &[u8]) -> i64 {
    let hash = Sha1::digest(payload);
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash[..8]);
    i64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wecom::callback::crypt::EncodingAesKey;
    use crate::wecom::callback::envelope::callback;
    use crate::wecom::query::url_encode;

    const NOW: UnixSeconds = UnixSeconds(1_700_000_000);
    const OLD: &str = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C";
    const NEW: &str = "kWxPEV2UEDyxWpmPdKC3F4dgPDmOvfKX1HGnEUDS1aR";

    fn keys(token: &str, key: &str) -> Crypt {
        Crypt::new(token, EncodingAesKey::parse(key).unwrap(), "ww1")
    }

    fn request(keys: &Crypt, message: &str) -> (String, String) {
        let encrypted = keys.encrypt(message.as_bytes(), [7; 16]).unwrap();
        let signature = keys.sign("1", "2", &encrypted);
        (format!("msg_signature={signature}&timestamp=1&nonce=2"), callback("ww1", &encrypted, ""))
    }

    const MESSAGE: &str = "<xml><CreateTime>5</CreateTime><Event>change_contact</Event>\
                           <ChangeType>delete_user</ChangeType><UserID>a</UserID></xml>";

    #[test]
    fn while_keys_are_changed_both_are_accepted_even_with_the_same_token() {
        let (new, old) = (keys("T", NEW), keys("T", OLD));
        let endpoint = Endpoint { path: "/".into(), keys: vec![new.clone(), old.clone()], app: false };
        for sender in [&new, &old] {
            let (query, body) = request(sender, MESSAGE);
            let received = endpoint.receive(&query, body.as_bytes(), "ww1", NOW).unwrap();
            assert_eq!(received.event.subject, "a");
        }
    }

    #[test]
    fn refusals_have_the_contracts_status() {
        let ours = keys("T", NEW);
        let endpoint = Endpoint { path: "/".into(), keys: vec![ours.clone()], app: false };
        let (query, body) = request(&ours, MESSAGE);
        let status = |query: &str, body: &str| {
            endpoint.receive(query, body.as_bytes(), "ww1", NOW).map(|_| ()).map_err(|r| r.status())
        };
        assert_eq!(status(&query, &body), Ok(()));
        assert_eq!(status("", &body), Err(400));
        assert_eq!(status(&query, "hello"), Err(400));
        assert_eq!(status(&query, "<xml><A/></xml>"), Err(400));
        assert_eq!(status(&query.replace("nonce=2", "nonce=3"), &body), Err(403));
        let (query, body) = request(&keys("T", OLD), MESSAGE);
        assert_eq!(status(&query, &body), Err(403), "signed rightly, encrypted with another key");
        let other = Crypt::new("T", EncodingAesKey::parse(NEW).unwrap(), "ww2");
        let (query, body) = request(&other, MESSAGE);
        assert_eq!(status(&query, &body), Err(403), "for somebody else");
        let (query, body) = request(&ours, "not xml");
        assert_eq!(status(&query, &body), Ok(()), "from WeCom and for us, though invalid");
    }

    #[test]
    fn a_verification_is_answered_with_the_decrypted_text() {
        let ours = keys("T", NEW);
        let endpoint = Endpoint { path: "/".into(), keys: vec![ours.clone()], app: false };
        let encrypted = ours.encrypt(b"12345", [1; 16]).unwrap();
        let query = format!(
            "msg_signature={}&timestamp=1&nonce=2&echostr={}",
            ours.sign("1", "2", &encrypted),
            url_encode(&encrypted)
        );
        assert_eq!(endpoint.verify(&query), Ok(b"12345".to_vec()));
        assert_eq!(endpoint.verify("msg_signature=a&timestamp=1&nonce=2").map_err(|r| r.status()), Err(400));
    }

    #[test]
    fn a_message_encrypted_anew_has_the_same_digest() {
        let ours = keys("T", NEW);
        let endpoint = Endpoint { path: "/".into(), keys: vec![ours.clone()], app: false };
        let digest_with = |random| {
            let encrypted = ours.encrypt(MESSAGE.as_bytes(), random).unwrap();
            let query = format!("msg_signature={}&timestamp=1&nonce=2", ours.sign("1", "2", &encrypted));
            endpoint
                .receive(&query, callback("x", &encrypted, "").as_bytes(), "ww1", NOW)
                .unwrap()
                .event
                .digest
        };
        assert_eq!(digest_with([1; 16]), digest_with([2; 16]));
    }
}
