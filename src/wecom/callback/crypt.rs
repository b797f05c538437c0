//! WXBizMsgCrypt: the signature and encryption of callbacks (doc 90968).
//!
//! `VerifyURL` is [`Crypt::verify_url`], `DecryptMsg` is [`Crypt::decrypt_message`], `EncryptMsg` is
//! [`Crypt::encrypt_message`]. Every check that the protocol allows is made: signature, block length, padding,
//! inner length, receive_id. All of them are in [`Crypt::open`], which does the same work whichever fails: its
//! time is no oracle. No input panics or makes anything larger than itself.

use std::fmt;

use aes::Aes256;
use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use sha1::{Digest, Sha1};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq, ConstantTimeGreater, ConstantTimeLess};

use super::envelope;
pub use crate::wecom::query::Signed;

/// Length of the AES key in bytes.
const KEY_LEN: usize = 32;
/// WXBizMsgCrypt pads to a multiple of this, not of the cipher's 16 (doc 90968).
const PAD_TO: usize = 32;
const PAD_TO_BYTE: u8 = 32;
/// Random bytes, then the message's length: what stands before the message.
const PREFIX_LEN: usize = 16 + 4;
/// What decodes a key: 43 characters hold 258 bits, two more than the key, and the surplus is often not zero.
const KEY_BASE64: GeneralPurpose = lenient(&alphabet::STANDARD, DecodePaddingMode::RequireNone);
/// What decodes an encrypted text. The signature covers it as text, so that its spelling proves nothing.
const TEXT_BASE64: GeneralPurpose = lenient(&alphabet::STANDARD, DecodePaddingMode::Indifferent);
/// The same with `-` and `_`.
const TEXT_BASE64_URL: GeneralPurpose = lenient(&alphabet::URL_SAFE, DecodePaddingMode::Indifferent);

const fn lenient(alphabet: &alphabet::Alphabet, padding: DecodePaddingMode) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true);
    GeneralPurpose::new(alphabet, config.with_decode_padding_mode(padding))
}

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

    /// The position of the check that failed in [`Crypt::open`].
    #[must_use]
    pub fn stage(self) -> u8 {
        match self {
            Self::Xml | Self::AesKey | Self::Encrypt => 0,
            Self::Signature => 1,
            Self::Base64 => 2,
            Self::Decrypt => 3,
            Self::Buffer => 4,
            Self::ReceiveId => 5,
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
        if text.len() != 43 {
            return Err(CryptError::AesKey);
        }
        let bytes = KEY_BASE64.decode(text).map_err(|_| CryptError::AesKey)?;
        bytes.try_into().map(Self).map_err(|_| CryptError::AesKey)
    }
}

impl fmt::Debug for EncodingAesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EncodingAesKey([redacted])")
    }
}

/// An encrypted text and the parameters that sign it.
#[derive(Debug, Clone, Copy)]
pub struct SignedText<'a> {
    /// msg_signature, timestamp and nonce.
    pub signed: Signed<'a>,
    /// Base64.
    pub encrypted: &'a str,
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
    /// As [`Crypt::open`].
    pub fn verify_url(&self, signed: Signed<'_>, echostr: &str) -> Result<Vec<u8>, CryptError> {
        self.open(&[SignedText { signed, encrypted: echostr }])
    }

    /// DecryptMsg: the message of a POST.
    ///
    /// # Errors
    /// [`CryptError::Xml`], and as [`Crypt::open`].
    pub fn decrypt_message(&self, signed: Signed<'_>, body: &[u8]) -> Result<Vec<u8>, CryptError> {
        let encrypt = envelope::encrypted_part(body).ok_or(CryptError::Xml)?;
        self.open(&[SignedText { signed, encrypted: &encrypt }])
    }

    /// The message in the first of these texts that its signature fits.
    ///
    /// It computes every signature, decrypts one text completely, and compares padding, length and receive_id in
    /// constant time, whichever of them is wrong.
    ///
    /// # Errors
    /// What is wrong first: [`CryptError::Signature`], `Base64`, `Decrypt`, `Buffer`, `ReceiveId`.
    pub fn open(&self, candidates: &[SignedText<'_>]) -> Result<Vec<u8>, CryptError> {
        let mut chosen = candidates.first().map_or("", |first| first.encrypted);
        let mut is_signed = false;
        for candidate in candidates {
            if self.signature_fits(candidate.signed, candidate.encrypted) && !is_signed {
                chosen = candidate.encrypted;
                is_signed = true;
            }
        }
        let (mut buffer, is_base64) = decode(chosen);
        let is_whole = buffer.len() % 16 == 0 && !buffer.is_empty();
        buffer.resize(buffer.len().next_multiple_of(16).max(16), 0);
        let cipher = cbc::Decryptor::<Aes256>::new(&self.key.0.into(), &self.iv().into());
        let padded = cipher.decrypt_padded::<NoPadding>(&mut buffer).map_err(|_| CryptError::Decrypt)?;
        let Frame { message, is_padded, is_framed, is_for_us } =
            parse_frame(padded, self.receive_id.as_bytes());
        let checks = [
            (is_signed, CryptError::Signature),
            (is_base64, CryptError::Base64),
            (is_whole && is_padded, CryptError::Decrypt),
            (is_framed, CryptError::Buffer),
            (is_for_us, CryptError::ReceiveId),
        ];
        for (holds, error) in checks {
            if !holds {
                return Err(error);
            }
        }
        message.and_then(|range| padded.get(range)).map(<[u8]>::to_vec).ok_or(CryptError::Buffer)
    }

    /// Whether the signature is the one that our Token gives. In constant time.
    fn signature_fits(&self, signed: Signed<'_>, encrypted: &str) -> bool {
        let expected = signature(&self.token, signed.timestamp, signed.nonce, encrypted);
        expected.as_bytes().ct_eq(signed.signature.as_bytes()).into()
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

/// The bytes of an encrypted text, and whether it is base64; if it is not, as many zeros as it would decode to.
fn decode(text: &str) -> (Vec<u8>, bool) {
    let is_url_safe = text.bytes().any(|byte| byte == b'-' || byte == b'_');
    let engine = if is_url_safe { TEXT_BASE64_URL } else { TEXT_BASE64 };
    match engine.decode(text) {
        Ok(bytes) if !bytes.is_empty() => (bytes, true),
        // As much work as for base64.
        _ => (engine.decode("A".repeat(text.len() / 4 * 4)).unwrap_or_default(), false),
    }
}

/// What a decrypted text is found to be: `16 random bytes | length, big-endian | message | receive_id | padding`.
struct Frame {
    /// Where the message is, if the length allows it.
    message: Option<std::ops::Range<usize>>,
    is_padded: bool,
    is_framed: bool,
    is_for_us: bool,
}

/// Looks at the padding (PKCS#7 of block size 32), the length and the receive_id, at all of them in any case: where
/// one is wrong, the following ones are looked at as if it were the smallest possible.
fn parse_frame(padded: &[u8], receive_id: &[u8]) -> Frame {
    let last = padded.last().copied().unwrap_or(0);
    let mut is_padded = last.ct_gt(&0) & !last.ct_gt(&PAD_TO_BYTE);
    for (place, byte) in (0..PAD_TO_BYTE).zip(padded.iter().rev()) {
        is_padded &= !place.ct_lt(&last) | byte.ct_eq(&last);
    }
    is_padded &= !Choice::from(u8::from(padded.len() < usize::from(last)));
    let padding = usize::from(u8::conditional_select(&1, &last, is_padded));
    let frame = padded.get(..padded.len().saturating_sub(padding)).unwrap_or_default();
    let field = frame.get(16..PREFIX_LEN).and_then(|field| field.try_into().ok()).unwrap_or([0; 4]);
    let length = usize::try_from(u32::from_be_bytes(field)).unwrap_or(usize::MAX);
    let end = length.saturating_add(PREFIX_LEN);
    let is_framed = end <= frame.len();
    let named = frame.get(if is_framed { end } else { PREFIX_LEN.min(frame.len()) }..).unwrap_or_default();
    Frame {
        message: is_framed.then_some(PREFIX_LEN..end),
        is_padded: is_padded.into(),
        is_framed,
        is_for_us: named.ct_eq(receive_id).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C";

    fn crypt() -> Crypt {
        Crypt::new("QDG6eK", EncodingAesKey::parse(KEY).unwrap(), "wx5823bf96d3bd56c7")
    }

    /// Opens a text that is signed rightly.
    fn opened(encrypted: &str) -> Result<Vec<u8>, CryptError> {
        let signature = crypt().sign("1", "2", encrypted);
        crypt().verify_url(Signed { signature: &signature, timestamp: "1", nonce: "2" }, encrypted)
    }

    /// The padding in the plainest words.
    fn is_padded(padded: &[u8]) -> bool {
        let Some(last) = padded.last() else { return false };
        let n = usize::from(*last);
        (1..=32).contains(&n)
            && n <= padded.len()
            && padded[padded.len() - n..].iter().all(|byte| byte == last)
    }

    #[test]
    fn padding_is_judged_as_the_protocol_says() {
        for last in 0..=255_u8 {
            for wrong in 0..33 {
                let mut padded = vec![7; 64];
                let from = padded.len() - usize::from(last).min(64);
                padded[from..].fill(last);
                padded[63] = last;
                if wrong < 32 {
                    padded[63 - wrong] ^= 0x80;
                }
                assert_eq!(parse_frame(&padded, b"").is_padded, is_padded(&padded), "{padded:?}");
            }
        }
        assert!(!parse_frame(&[17; 16], b"").is_padded, "more padding than there is text");
        assert!(parse_frame(&[16; 16], b"").is_padded);
    }

    #[test]
    fn of_several_texts_the_one_that_is_signed_counts() {
        let encrypted = crypt().encrypt(b"hello", [1; 16]).unwrap();
        let signature = crypt().sign("1", "2", &encrypted);
        let text = |nonce, encrypted| SignedText {
            signed: Signed { signature: &signature, timestamp: "1", nonce },
            encrypted,
        };
        let wrong = [text("3", &*encrypted), text("2", "?")];
        assert_eq!(crypt().open(&wrong), Err(CryptError::Signature));
        assert_eq!(crypt().open(&[wrong[0], text("2", &encrypted), wrong[1]]), Ok(b"hello".to_vec()));
        assert_eq!(crypt().open(&[]), Err(CryptError::Signature));
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
            prop_assert_eq!(opened(&encrypted), Ok(message.clone()));
            let url_safe = encrypted.replace('+', "-").replace('/', "_");
            prop_assert_eq!(opened(url_safe.trim_end_matches('=')), Ok(message));
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
            let _ = opened(&STANDARD.encode(&bytes));
            let _ = opened(&String::from_utf8_lossy(&bytes));
            let _ = parse_frame(&bytes, b"x");
        }
    }
}
