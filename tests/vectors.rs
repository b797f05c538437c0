//! The official and self-made vectors of WeCom's callback cryptography, against the crate's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde::Deserialize;
use wecom_dirsync::wecom::callback::crypt::{Crypt, CryptError, EncodingAesKey, Signed};
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

#[test]
fn every_vector_holds() {
    let vectors: Vec<Vector> = serde_json::from_str(include_str!("vectors.json")).unwrap();
    assert!(vectors.len() >= 20, "only {} vectors", vectors.len());
    for vector in vectors {
        let key = EncodingAesKey::parse(&vector.encoding_aes_key).unwrap();
        let crypt = Crypt::new(&vector.token, key, &vector.receive_id);
        let signed =
            Signed { signature: &vector.msg_signature, timestamp: &vector.timestamp, nonce: &vector.nonce };
        let opened = match (&vector.echostr, &vector.body) {
            (Some(echostr), None) => crypt.verify_url(signed, echostr),
            (None, Some(body)) => crypt.decrypt_message(signed, body.as_bytes()),
            _ => panic!("{}: neither echostr nor body", vector.name),
        };
        let name = &vector.name;
        match vector.expect.as_str() {
            "ok" => assert_eq!(opened.unwrap(), vector.plaintext.unwrap().into_bytes(), "{name}"),
            "bad signature" => assert_eq!(opened, Err(CryptError::Signature), "{name}"),
            "receive_id mismatch" => assert_eq!(opened, Err(CryptError::ReceiveId), "{name}"),
            "malformed" => match opened {
                // From WeCom and for us: what is not UTF-8 in it is replaced, not refused.
                Ok(text) => {
                    assert!(std::str::from_utf8(&text).is_err(), "{name}");
                    let read = message::read(&text, &vector.receive_id);
                    assert!(read.is_ok() || text.first() != Some(&b'<'), "{name}: {read:?}");
                }
                Err(error) => assert!(
                    matches!(
                        error,
                        CryptError::Xml | CryptError::Base64 | CryptError::Decrypt | CryptError::Buffer
                    ),
                    "{name}: {error}"
                ),
            },
            other => panic!("{name}: unknown expectation {other}"),
        }
    }
}

#[test]
fn an_empty_receive_id_is_accepted_where_it_is_configured() {
    let vectors: Vec<Vector> = serde_json::from_str(include_str!("vectors.json")).unwrap();
    let robot = vectors.iter().find(|v| v.name.starts_with("empty receive_id")).unwrap();
    let crypt = Crypt::new(&robot.token, EncodingAesKey::parse(&robot.encoding_aes_key).unwrap(), "");
    let signed = Signed { signature: &robot.msg_signature, timestamp: &robot.timestamp, nonce: &robot.nonce };
    assert!(crypt.decrypt_message(signed, robot.body.as_ref().unwrap().as_bytes()).is_ok());
}
