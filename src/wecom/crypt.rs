//! WXBizMsgCrypt: the signature and encryption of callbacks (doc 90968).
//!
//! `VerifyURL` is [`Crypt::verify_url`], `DecryptMsg` is [`Crypt::decrypt_message`], `EncryptMsg` is
//! [`Crypt::encrypt_message`]. Every check that the protocol allows is made: signature (in constant
//! time), block length, padding, inner length, receive_id. No input panics or makes anything larger than
//! itself.

use std::fmt;

use aes::Aes256;
use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;

use super::envelope;
pub use super::envelope::Signed;

/// Length of the AES key in bytes.
const KEY_LEN: usize = 32;
/// WXBizMsgCrypt pads to a multiple of this, not of the cipher's 16 (doc 90968).
const PAD_TO: usize = 32;
/// Random bytes, then the message's length: what stands before the message.
const PREFIX_LEN: usize = 16 + 4;

/// What a callback can be refused for; [`CryptError::code`] is WeCom's own number (doc 90968).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CryptError {
    /// The signature does not fit: a forgery, or another Token.
    #[error("-40001: the signature is wrong")]
    Signature,
    /// The envelope is no XML, or has no Encrypt.
    #[error("-40002: the envelope is not the XML that WeCom sends")]
    Xml,
    /// EncodingAESKey is not 43 characters of base64.
    #[error("-40004: the EncodingAESKey is not 43 letters and digits")]
    AesKey,
    /// The message is meant for another company or suite.
    #[error("-40005: the receive_id is another one")]
    ReceiveId,
    /// No random bytes could be had, or the message is too long to encrypt.
    #[error("-40006: could not encrypt")]
    Encrypt,
    /// Not whole cipher blocks, or wrong padding.
    #[error("-40007: could not decrypt")]
    Decrypt,
    /// What was decrypted is too short, or its inner length points outside it.
    #[error("-40008: what was decrypted is not a message")]
    Buffer,
    /// Encrypt or echostr is not base64.
    #[error("-40010: not base64")]
    Base64,
}

impl CryptError {
    /// The official number.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Signature => -40001,
            Self::Xml => -40002,
            Self::AesKey => -40004,
            Self::ReceiveId => -40005,
            Self::Encrypt => -40006,
            Self::Decrypt => -40007,
            Self::Buffer => -40008,
            Self::Base64 => -40010,
        }
    }
}

/// The AES key of one callback URL.
#[derive(Clone)]
pub struct EncodingAesKey([u8; KEY_LEN]);

impl EncodingAesKey {
    /// Decodes the 43 characters that the console shows.
    ///
    /// 43 characters hold 258 bits, two more than the key; the last character's surplus bits are often
    /// not zero, in WeCom's own sample too, and mean nothing.
    ///
    /// # Errors
    /// [`CryptError::AesKey`] if it is not 43 characters of base64.
    pub fn parse(text: &str) -> Result<Self, CryptError> {
        const LENIENT: GeneralPurpose = GeneralPurpose::new(
            &alphabet::STANDARD,
            GeneralPurposeConfig::new()
                .with_decode_allow_trailing_bits(true)
                .with_decode_padding_mode(base64::engine::DecodePaddingMode::RequireNone),
        );
        if text.len() != 43 {
            return Err(CryptError::AesKey);
        }
        let bytes = LENIENT.decode(text).map_err(|_| CryptError::AesKey)?;
        bytes.try_into().map(Self).map_err(|_| CryptError::AesKey)
    }
}

impl fmt::Debug for EncodingAesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EncodingAesKey([redacted])")
    }
}

/// A decrypted message, not yet compared with a receive_id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain {
    /// The message.
    pub message: Vec<u8>,
    /// Whom it is meant for.
    pub receive_id: Vec<u8>,
}

/// Token and key of one callback URL, and whom its messages must be meant for.
#[derive(Clone)]
pub struct Crypt {
    token: String,
    key: EncodingAesKey,
    receive_id: String,
}

impl fmt::Debug for Crypt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crypt").field("receive_id", &self.receive_id).finish_non_exhaustive()
    }
}

impl Crypt {
    /// For one callback URL. `receive_id` is the corp id, a third-party suite's id, or empty.
    #[must_use]
    pub fn new(token: &str, key: EncodingAesKey, receive_id: &str) -> Self {
        Self { token: token.to_owned(), key, receive_id: receive_id.to_owned() }
    }

    /// VerifyURL: the text that a GET must be answered with.
    ///
    /// # Errors
    /// Whatever is wrong first: signature, base64, decryption, receive_id.
    pub fn verify_url(&self, signed: Signed<'_>, echostr: &str) -> Result<Vec<u8>, CryptError> {
        self.open(signed, echostr)
    }

    /// DecryptMsg: the message of a POST.
    ///
    /// # Errors
    /// Whatever is wrong first: envelope, signature, base64, decryption, receive_id.
    pub fn decrypt_message(&self, signed: Signed<'_>, body: &[u8]) -> Result<Vec<u8>, CryptError> {
        let encrypt = envelope::encrypted_part(body).ok_or(CryptError::Xml)?;
        self.open(signed, &encrypt)
    }

    fn open(&self, signed: Signed<'_>, encrypted: &str) -> Result<Vec<u8>, CryptError> {
        if !self.signature_fits(signed, encrypted) {
            return Err(CryptError::Signature);
        }
        let plain = self.decrypt(encrypted)?;
        if !self.is_for_us(&plain) {
            return Err(CryptError::ReceiveId);
        }
        Ok(plain.message)
    }

    /// Whether the signature is the one that our Token gives. In constant time.
    #[must_use]
    pub fn signature_fits(&self, signed: Signed<'_>, encrypted: &str) -> bool {
        let expected = signature(&self.token, signed.timestamp, signed.nonce, encrypted);
        expected.as_bytes().ct_eq(signed.signature.as_bytes()).into()
    }

    /// Whether the message names our receive_id.
    #[must_use]
    pub fn is_for_us(&self, plain: &Plain) -> bool {
        plain.receive_id == self.receive_id.as_bytes()
    }

    /// Decrypts base64 text, without looking at signature or receive_id.
    ///
    /// # Errors
    /// [`CryptError::Base64`], [`CryptError::Decrypt`] or [`CryptError::Buffer`].
    pub fn decrypt(&self, encrypted: &str) -> Result<Plain, CryptError> {
        let mut buffer = STANDARD.decode(encrypted).map_err(|_| CryptError::Base64)?;
        if buffer.is_empty() {
            return Err(CryptError::Base64);
        }
        let cipher = cbc::Decryptor::<Aes256>::new(&self.key.0.into(), &self.iv().into());
        let padded = cipher.decrypt_padded::<NoPadding>(&mut buffer).map_err(|_| CryptError::Decrypt)?;
        let frame = unpad(padded).ok_or(CryptError::Decrypt)?;
        parse_frame(frame).ok_or(CryptError::Buffer)
    }

    fn iv(&self) -> [u8; 16] {
        let mut iv = [0; 16];
        iv.copy_from_slice(&self.key.0[..16]);
        iv
    }

    /// Encrypts a message to base64 text; `random` are the 16 bytes that stand before it.
    ///
    /// # Errors
    /// [`CryptError::Encrypt`] if the message is longer than 4 GiB.
    pub fn encrypt(&self, message: &[u8], random: [u8; 16]) -> Result<String, CryptError> {
        let length = u32::try_from(message.len()).map_err(|_| CryptError::Encrypt)?;
        let mut frame = Vec::with_capacity(PREFIX_LEN + message.len() + self.receive_id.len() + PAD_TO);
        frame.extend_from_slice(&random);
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(message);
        frame.extend_from_slice(self.receive_id.as_bytes());
        let padding = PAD_TO - frame.len() % PAD_TO;
        // 1 to 32, as the line above makes it.
        #[allow(clippy::cast_possible_truncation)]
        frame.resize(frame.len() + padding, padding as u8);
        let length = frame.len();
        let cipher = cbc::Encryptor::<Aes256>::new(&self.key.0.into(), &self.iv().into());
        let encrypted =
            cipher.encrypt_padded::<NoPadding>(&mut frame, length).map_err(|_| CryptError::Encrypt)?;
        Ok(STANDARD.encode(encrypted))
    }

    /// EncryptMsg: the XML of an encrypted reply, signed.
    ///
    /// # Errors
    /// [`CryptError::Encrypt`].
    pub fn encrypt_message(
        &self,
        message: &[u8],
        timestamp: &str,
        nonce: &str,
        random: [u8; 16],
    ) -> Result<String, CryptError> {
        let encrypted = self.encrypt(message, random)?;
        let signature = signature(&self.token, timestamp, nonce, &encrypted);
        Ok(envelope::reply(&encrypted, &signature, timestamp, nonce))
    }

    /// The msg_signature of an encrypted text.
    #[must_use]
    pub fn sign(&self, timestamp: &str, nonce: &str, encrypted: &str) -> String {
        signature(&self.token, timestamp, nonce, encrypted)
    }
}

/// msg_signature: SHA-1 over the sorted parts, in lower-case hex (doc 90968).
fn signature(token: &str, timestamp: &str, nonce: &str, encrypted: &str) -> String {
    let mut parts = [token, timestamp, nonce, encrypted];
    parts.sort_unstable();
    let mut hash = Sha1::new();
    for part in parts {
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize())
}

/// Lower-case hex.
fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// Strips PKCS#7 padding of block size 32. The signature has been checked before, so there is no oracle
/// to be had from saying which byte was wrong.
fn unpad(padded: &[u8]) -> Option<&[u8]> {
    let count = usize::from(*padded.last()?);
    if count == 0 || count > PAD_TO {
        return None;
    }
    let (frame, padding) = padded.split_at_checked(padded.len().checked_sub(count)?)?;
    padding.iter().all(|byte| usize::from(*byte) == count).then_some(frame)
}

/// 16 random bytes | length, big-endian | message | receive_id
fn parse_frame(frame: &[u8]) -> Option<Plain> {
    let (prefix, rest) = frame.split_at_checked(PREFIX_LEN)?;
    let length = u32::from_be_bytes(prefix.get(16..)?.try_into().ok()?);
    let (message, receive_id) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    Some(Plain { message: message.to_vec(), receive_id: receive_id.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C";

    fn crypt() -> Crypt {
        Crypt::new("QDG6eK", EncodingAesKey::parse(KEY).unwrap(), "wx5823bf96d3bd56c7")
    }

    #[test]
    fn keys_with_trailing_bits_are_accepted_and_others_refused() {
        assert!(EncodingAesKey::parse(KEY).is_ok());
        for bad in [&KEY[..42], &format!("{KEY}="), &KEY.replace('j', "-"), ""] {
            assert_eq!(EncodingAesKey::parse(bad).unwrap_err(), CryptError::AesKey);
        }
    }

    #[test]
    fn keys_never_show_in_debug_output() {
        assert_eq!(format!("{:?}", EncodingAesKey::parse(KEY).unwrap()), "EncodingAesKey([redacted])");
        assert!(!format!("{:?}", crypt()).contains("QDG6eK"));
    }

    proptest! {
        #[test]
        fn what_was_encrypted_decrypts(message: Vec<u8>, random: [u8; 16]) {
            let encrypted = crypt().encrypt(&message, random).unwrap();
            let plain = crypt().decrypt(&encrypted).unwrap();
            prop_assert!(crypt().is_for_us(&plain));
            prop_assert_eq!(plain.message, message);
        }

        #[test]
        fn replies_can_be_read_by_the_other_side(message in "\\PC*", random: [u8; 16], nonce in "[0-9a-z]{1,12}") {
            let reply = crypt().encrypt_message(message.as_bytes(), "1700000000", &nonce, random).unwrap();
            let encrypted = envelope::encrypted_part(reply.as_bytes()).unwrap();
            let signature = crypt().sign("1700000000", &nonce, &encrypted);
            let signed = Signed { signature: &signature, timestamp: "1700000000", nonce: &nonce };
            prop_assert_eq!(crypt().decrypt_message(signed, reply.as_bytes()).unwrap(), message.into_bytes());
        }

        #[test]
        fn no_cipher_text_panics(bytes: Vec<u8>) {
            let _ = crypt().decrypt(&STANDARD.encode(&bytes));
            let _ = unpad(&bytes);
            let _ = parse_frame(&bytes);
        }
    }
}
