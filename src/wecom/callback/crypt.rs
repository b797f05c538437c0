//! WXBizMsgCrypt: the signature and encryption of callbacks (doc 90968).
//!
//! [`Crypt::open`] makes every check of `VerifyURL` and `DecryptMsg`: signature, block length, padding, inner length,
//! receive_id. It does the same work whichever fails, so its duration is no oracle. No input makes it panic or
//! allocate more than a multiple of the input's length.

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

pub use crate::wecom::query::Signed;

/// Length of the AES key in bytes.
const KEY_LEN: usize = 32;
/// WXBizMsgCrypt pads to a multiple of this, not of the cipher's 16 (doc 90968).
const PAD_TO: usize = 32;
const PAD_TO_BYTE: u8 = 32;
/// 16 random bytes and the message's length precede the message.
const PREFIX_LEN: usize = 16 + 4;
/// Decodes a key: 43 characters hold 258 bits, two more than the key, and those are often not zero.
const KEY_BASE64: GeneralPurpose = lenient(&alphabet::STANDARD, DecodePaddingMode::RequireNone);
/// Decodes an encrypted text. Lenient, because the signature covers the text itself.
const TEXT_BASE64: GeneralPurpose = lenient(&alphabet::STANDARD, DecodePaddingMode::Indifferent);
/// [`TEXT_BASE64`] with `-` and `_` for `+` and `/`.
const TEXT_BASE64_URL: GeneralPurpose = lenient(&alphabet::URL_SAFE, DecodePaddingMode::Indifferent);

const HEX: &[u8; 16] = b"0123456789abcdef";

const fn lenient(alphabet: &alphabet::Alphabet, padding: DecodePaddingMode) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true);
    GeneralPurpose::new(alphabet, config.with_decode_padding_mode(padding))
}

/// Why [`Crypt::open`] fails, with WeCom's error numbers (doc 90968). Ordered as the checks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum CryptError {
    /// A forgery, or signed with another Token.
    #[error("-40001: the signature does not match")]
    Signature,
    /// Encrypt or echostr is not base64.
    #[error("-40010: the encrypted text is not base64")]
    Base64,
    /// Not a multiple of the cipher's block, or wrong padding.
    #[error("-40007: the text does not decrypt")]
    Decrypt,
    /// The decrypted text is too short, or its inner length points outside it.
    #[error("-40008: the decrypted text is not a message")]
    Buffer,
    /// The message is for another company or suite.
    #[error("-40005: the message is for another receive_id")]
    ReceiveId,
}

/// An EncodingAESKey that is not 43 characters of base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the EncodingAESKey is not 43 letters and digits")]
pub struct InvalidAesKey;

/// The AES key of one callback URL.
#[derive(Clone)]
pub struct EncodingAesKey([u8; KEY_LEN]);

impl EncodingAesKey {
    /// Decodes the 43 characters that WeCom's console shows.
    pub fn parse(text: &str) -> Result<Self, InvalidAesKey> {
        if text.len() != 43 {
            return Err(InvalidAesKey);
        }
        let bytes = KEY_BASE64.decode(text).map_err(|_| InvalidAesKey)?;
        bytes.try_into().map(Self).map_err(|_| InvalidAesKey)
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
    /// msg_signature, timestamp and nonce of the query.
    pub signed: Signed<'a>,
    /// The value of Encrypt or echostr, in base64.
    pub encrypted: &'a str,
}

/// Token, key and receive_id of one callback URL.
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
    /// `receive_id` is the corp id, a third-party suite's id, or empty.
    pub fn new(token: &str, key: EncodingAesKey, receive_id: &str) -> Self {
        Self { token: token.to_owned(), key, receive_id: receive_id.to_owned() }
    }

    /// Decrypts the first text whose signature matches; the error is the first check that fails.
    ///
    /// It computes every signature, decrypts one text completely, and compares padding, length and receive_id in
    /// constant time, whichever of them is wrong.
    pub fn open(&self, candidates: &[SignedText<'_>]) -> Result<Vec<u8>, CryptError> {
        let mut chosen = candidates.first().map_or("", |first| first.encrypted);
        let mut is_signed = false;
        for candidate in candidates {
            if self.signature_matches(candidate.signed, candidate.encrypted) && !is_signed {
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

    fn signature_matches(&self, signed: Signed<'_>, encrypted: &str) -> bool {
        let expected = self.sign(signed.timestamp, signed.nonce, encrypted);
        // In constant time.
        expected.as_bytes().ct_eq(signed.signature.as_bytes()).into()
    }

    fn iv(&self) -> [u8; 16] {
        let mut iv = [0; 16];
        iv.copy_from_slice(&self.key.0[..16]);
        iv
    }

    /// Encrypts a message to base64; `random` precedes the message. `None` if the message is longer than 4 GiB.
    pub fn encrypt(&self, message: &[u8], random: [u8; 16]) -> Option<String> {
        let length = u32::try_from(message.len()).ok()?;
        let mut frame = Vec::with_capacity(PREFIX_LEN + message.len() + self.receive_id.len() + PAD_TO);
        frame.extend_from_slice(&random);
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(message);
        frame.extend_from_slice(self.receive_id.as_bytes());
        let padding = PAD_TO - frame.len() % PAD_TO;
        // 1 to 32.
        #[allow(clippy::cast_possible_truncation)]
        frame.resize(frame.len() + padding, padding as u8);
        let length = frame.len();
        let cipher = cbc::Encryptor::<Aes256>::new(&self.key.0.into(), &self.iv().into());
        cipher.encrypt_padded::<NoPadding>(&mut frame, length).ok().map(|bytes| STANDARD.encode(bytes))
    }

    /// The msg_signature of an encrypted text: SHA-1 of the sorted parts, in lower-case hex (doc 90968).
    pub fn sign(&self, timestamp: &str, nonce: &str, encrypted: &str) -> String {
        let mut parts = [&*self.token, timestamp, nonce, encrypted];
        parts.sort_unstable();
        let hash = parts.iter().fold(Sha1::new(), |hash, part| hash.chain_update(part)).finalize();
        let mut text = String::with_capacity(hash.len() * 2);
        for byte in hash {
            text.extend([byte >> 4, byte & 15].map(|digit| char::from(HEX[usize::from(digit)])));
        }
        text
    }
}

/// The bytes of an encrypted text, and whether it is base64; if not, as many zero bytes as base64 would yield.
fn decode(text: &str) -> (Vec<u8>, bool) {
    let is_url_safe = text.bytes().any(|byte| byte == b'-' || byte == b'_');
    let engine = if is_url_safe { TEXT_BASE64_URL } else { TEXT_BASE64 };
    match engine.decode(text) {
        Ok(bytes) if !bytes.is_empty() => (bytes, true),
        // As much work as for valid base64.
        _ => (engine.decode("A".repeat(text.len() / 4 * 4)).unwrap_or_default(), false),
    }
}

/// Checks of a decrypted text: `16 random bytes | length, big-endian | message | receive_id | padding`.
struct Frame {
    /// `None` if the length points outside the text.
    message: Option<std::ops::Range<usize>>,
    is_padded: bool,
    is_framed: bool,
    is_for_us: bool,
}

/// Checks the padding (PKCS#7, block size 32), the length and the receive_id, always all three: after a wrong one the
/// next checks assume the smallest valid value.
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

    /// Signs a text and opens it.
    fn opened(encrypted: &str) -> Result<Vec<u8>, CryptError> {
        let signature = crypt().sign("1", "2", encrypted);
        let signed = Signed { signature: &signature, timestamp: "1", nonce: "2" };
        crypt().open(&[SignedText { signed, encrypted }])
    }

    /// The same check, not in constant time.
    fn is_padded(padded: &[u8]) -> bool {
        let Some(last) = padded.last() else { return false };
        let n = usize::from(*last);
        (1..=32).contains(&n)
            && n <= padded.len()
            && padded[padded.len() - n..].iter().all(|byte| byte == last)
    }

    #[test]
    fn padding_is_checked_as_the_protocol_defines_it() {
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
    fn the_text_that_is_signed_is_opened() {
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
    fn keys_with_trailing_bits_are_accepted_and_malformed_ones_refused() {
        assert!(EncodingAesKey::parse(KEY).is_ok());
        for bad in [&KEY[..42], &format!("{KEY}="), &KEY.replace('j', "-"), ""] {
            assert_eq!(EncodingAesKey::parse(bad).unwrap_err(), InvalidAesKey);
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
        fn no_cipher_text_panics(bytes: Vec<u8>) {
            let _ = opened(&STANDARD.encode(&bytes));
            let _ = opened(&String::from_utf8_lossy(&bytes));
            let _ = parse_frame(&bytes, b"x");
        }
    }
}
