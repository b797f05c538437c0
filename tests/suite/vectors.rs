//! The official and self-made vectors of WeCom's callback cryptography, against the crate's own.

use serde::Deserialize;
use wecom_dirsync::wecom::callback::crypt::{Crypt, CryptError, EncodingAesKey, Signed, SignedText};
use wecom_dirsync::wecom::callback::envelope::Envelope;
use wecom_dirsync::wecom::callback::message;

#[derive(Deserialize)]
struct Vector {
    name: String,
    token: String,
    encoding_aes_key: String,
    receive_id: String,
    msg_signature: String,
    timestamp: String,
    nonce: String,
    echostr: Option<String>,
    body: Option<String>,
    plaintext: Option<String>,
    expect: String,
}

impl Vector {
    /// Opens the echostr or the envelope's Encrypt as the daemon does; `None` if the body is no envelope.
    fn open(&self, receive_id: &str) -> Option<Result<Vec<u8>, CryptError>> {
        let key = EncodingAesKey::parse(&self.encoding_aes_key).unwrap();
        let envelope = self.body.as_ref().map(|body| Envelope::scan(body.as_bytes()));
        let encrypted = match (&self.echostr, &envelope) {
            (Some(echostr), None) => echostr,
            (None, Some(envelope)) => &*envelope.as_ref()?.encrypt,
            _ => panic!("{}: neither echostr nor body", self.name),
        };
        let signed =
            Signed { signature: &self.msg_signature, timestamp: &self.timestamp, nonce: &self.nonce };
        Some(Crypt::new(&self.token, key, receive_id).open(&[SignedText { signed, encrypted }]))
    }
}

#[test]
fn every_vector_holds() {
    let vectors: Vec<Vector> = serde_json::from_str(include_str!("../vectors.json")).unwrap();
    assert!(vectors.len() >= 20, "only {} vectors", vectors.len());
    for vector in vectors {
        let opened = vector.open(&vector.receive_id);
        let name = &vector.name;
        match vector.expect.as_str() {
            "ok" => assert_eq!(opened, Some(Ok(vector.plaintext.clone().unwrap().into_bytes())), "{name}"),
            "bad signature" => assert_eq!(opened, Some(Err(CryptError::Signature)), "{name}"),
            "receive_id mismatch" => assert_eq!(opened, Some(Err(CryptError::ReceiveId)), "{name}"),
            "malformed" => match opened {
                None => {}
                // Signed and for us: bytes that are not UTF-8 are replaced, not refused.
                Some(Ok(text)) => {
                    assert!(std::str::from_utf8(&text).is_err(), "{name}");
                    let read = message::read(&text, &vector.receive_id);
                    assert!(read.is_ok() || text.first() != Some(&b'<'), "{name}: {read:?}");
                }
                Some(Err(error)) => assert!(
                    matches!(error, CryptError::Base64 | CryptError::Decrypt | CryptError::Buffer),
                    "{name}: {error}"
                ),
            },
            other => panic!("{name}: unknown expectation {other}"),
        }
    }
}

#[test]
fn an_empty_receive_id_is_accepted_where_it_is_configured() {
    let vectors: Vec<Vector> = serde_json::from_str(include_str!("../vectors.json")).unwrap();
    let robot = vectors.iter().find(|v| v.name.starts_with("empty receive_id")).unwrap();
    assert!(robot.open("").unwrap().is_ok());
}
