//! Incremental decoder of chunked request bodies.
//!
//! It is stricter than RFC 9112 where two decoders could disagree about the end of a body: lines end with CRLF, a size
//! is hexadecimal digits only. The decoded body is forwarded with a `Content-Length`.

use super::refusal::Refusal;

/// Longest size line of a chunk in bytes, extension included.
const MAX_LINE: usize = 128;
/// Bytes of all trailer fields together. Trailers are checked and dropped.
const MAX_TRAILERS: usize = 2048;
/// Bytes of framing that are accepted in addition to [`OVERHEAD_PER_BYTE`], for lines with extensions.
const MAX_OVERHEAD: usize = 16 * 1024;
/// Bytes of framing that are accepted per byte of data. Chunks of one byte need five.
const OVERHEAD_PER_BYTE: usize = 8;

#[derive(Debug, Default)]
pub(super) struct ChunkDecoder {
    body: Vec<u8>,
    state: State,
    overhead: usize,
    trailers: usize,
}

/// The element of the body that the next bytes belong to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    SizeLine,
    /// Data of a chunk, with the number of missing bytes.
    Data(usize),
    /// The CRLF behind a chunk's data.
    DataEnd,
    /// A trailer field, or the empty line that ends the body.
    Trailer,
    Done,
}

impl ChunkDecoder {
    /// Removes the decodable bytes from the front of `buf`; true if the body is complete. Memory grows with the
    /// received bytes, not with an announced size.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] as soon as a size line exceeds `max_body`, [`Refusal::HeadTooLarge`] for long
    /// trailers, else [`Refusal::Chunk`].
    pub(super) fn decode(&mut self, buf: &mut Vec<u8>, max_body: usize) -> Result<bool, Refusal> {
        let mut at = 0;
        while self.state != State::Done {
            let rest = buf.get(at..).unwrap_or_default();
            let Some(taken) = self.advance(rest, max_body)? else { break };
            at = at.saturating_add(taken);
        }
        buf.drain(..at.min(buf.len()));
        Ok(self.state == State::Done)
    }

    /// Decodes one element; returns its length, or `None` if it is incomplete.
    fn advance(&mut self, rest: &[u8], max_body: usize) -> Result<Option<usize>, Refusal> {
        let taken = match self.state {
            State::Done => return Ok(None),
            State::SizeLine => {
                let Some(line) = line(rest, MAX_LINE, Refusal::Chunk)? else { return Ok(None) };
                let size = size(line)?;
                if size > max_body.saturating_sub(self.body.len()) as u64 {
                    return Err(Refusal::TooLarge);
                }
                let size = usize::try_from(size).map_err(|_| Refusal::TooLarge)?;
                self.state = if size == 0 { State::Trailer } else { State::Data(size) };
                self.add_framing(line.len().saturating_add(2))?
            }
            State::Data(left) => {
                let data = rest.get(..left.min(rest.len())).unwrap_or_default();
                if data.is_empty() {
                    return Ok(None);
                }
                self.append(data, max_body);
                let left = left.saturating_sub(data.len());
                self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                data.len()
            }
            State::DataEnd => match rest {
                [] | [b'\r'] => return Ok(None),
                [b'\r', b'\n', ..] => {
                    self.state = State::SizeLine;
                    self.add_framing(2)?
                }
                _ => return Err(Refusal::Chunk),
            },
            State::Trailer => {
                let room = MAX_TRAILERS.saturating_sub(self.trailers);
                let Some(line) = line(rest, room, Refusal::HeadTooLarge)? else { return Ok(None) };
                let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
                if line.is_empty() {
                    self.state = State::Done;
                } else if name.len() == line.len() || !is_token(name) {
                    return Err(Refusal::Chunk);
                }
                let taken = line.len().saturating_add(2);
                self.trailers = self.trailers.saturating_add(taken);
                taken
            }
        };
        Ok(Some(taken))
    }

    /// Adds to the framing, which is bounded in proportion to the data.
    fn add_framing(&mut self, bytes: usize) -> Result<usize, Refusal> {
        self.overhead = self.overhead.saturating_add(bytes);
        let most = MAX_OVERHEAD.saturating_add(self.body.len().saturating_mul(OVERHEAD_PER_BYTE));
        if self.overhead > most { Err(Refusal::Chunk) } else { Ok(bytes) }
    }

    fn append(&mut self, data: &[u8], max_body: usize) {
        let (len, room) = (self.body.len(), self.body.capacity().saturating_sub(self.body.len()));
        if room < data.len() {
            // Doubles the capacity, up to the limit.
            self.body.reserve_exact(len.max(data.len()).min(max_body.saturating_sub(len)).max(data.len()));
        }
        self.body.extend_from_slice(data);
    }

    /// Missing bytes of the current chunk.
    pub(super) fn missing(&self) -> usize {
        if let State::Data(left) = self.state { left } else { 0 }
    }

    pub(super) fn memory(&self) -> usize {
        self.body.capacity()
    }

    pub(super) fn into_body(self) -> Vec<u8> {
        self.body
    }
}

/// The next line without its CRLF, or `None` if it is incomplete. A line longer than `most` is refused with
/// `too_long`, one with a control character with [`Refusal::Chunk`].
fn line(rest: &[u8], most: usize, too_long: Refusal) -> Result<Option<&[u8]>, Refusal> {
    let window = rest.get(..most.saturating_add(2)).unwrap_or(rest);
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if rest.len() > most.saturating_add(1) { Err(too_long) } else { Ok(None) };
    };
    let line = window.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(Refusal::Chunk)?;
    let plain = line.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control());
    if plain { Ok(Some(line)) } else { Err(Refusal::Chunk) }
}

/// Size of a chunk without its extension. A size beyond 64 bits saturates.
fn size(line: &[u8]) -> Result<u64, Refusal> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let digits = if digits.len() < line.len() { digits.trim_ascii_end() } else { digits };
    if digits.is_empty() {
        return Err(Refusal::Chunk);
    }
    digits.iter().try_fold(0_u64, |sum, byte| {
        let digit = char::from(*byte).to_digit(16).ok_or(Refusal::Chunk)?;
        Ok(sum.checked_mul(16).map_or(u64::MAX, |sum| sum.saturating_add(u64::from(digit))))
    })
}

fn is_token(name: &[u8]) -> bool {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !name.is_empty() && name.iter().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: usize = 64;

    type Decoded = Result<Option<(Vec<u8>, Vec<u8>)>, Refusal>;

    /// The body and the bytes behind it; `None` if the body is incomplete.
    fn decode(pieces: &[&[u8]]) -> Decoded {
        let (mut chunks, mut buf, mut done) = (ChunkDecoder::default(), Vec::new(), false);
        for piece in pieces {
            buf.extend_from_slice(piece);
            done = done || chunks.decode(&mut buf, MAX)?;
        }
        Ok(done.then(|| (chunks.into_body(), buf)))
    }

    #[test]
    fn a_body_is_decoded_up_to_its_end() {
        for (text, body, rest) in [
            ("5\r\nhello\r\n0\r\n\r\nGET /", "hello", "GET /"),
            ("0\r\n\r\n", "", ""),
            ("A;a=b;c=\"d e\"\r\n0123456789\r\n1 ;x\r\nx\r\n000\r\n\r\n", "0123456789x", ""),
            ("1\r\na\r\n0\r\nX-Sum: 1\r\nDigest:\tb\r\n\r\nrest", "a", "rest"),
            ("2\r\n\r\n\r\n0\r\n\r\n", "\r\n", ""),
        ] {
            let expected = (body.as_bytes().to_vec(), rest.as_bytes().to_vec());
            assert_eq!(decode(&[text.as_bytes()]), Ok(Some(expected)), "{text:?}");
        }
    }

    #[test]
    fn framing_that_two_decoders_could_read_differently_is_refused() {
        for text in [
            "zz\r\n",
            "0x1\r\na\r\n",
            "+1\r\na\r\n",
            "-1\r\n",
            " 1\r\na\r\n",
            "1 \r\na\r\n",
            "\r\n",
            ";a\r\n",
            "1\na\r\n",
            "1\r\na\n0\r\n",
            "1\r\nab\r\n",
            "1\r\na0\r\n",
            "1\ra\r\n",
            "1_0\r\n",
            "1;\0\r\na\r\n",
            "0\r\n\n",
            "0\r\nno colon\r\n\r\n",
            "0\r\n a: folded\r\n\r\n",
            "0\r\na: b\rc\r\n\r\n",
        ] {
            assert_eq!(decode(&[text.as_bytes()]), Err(Refusal::Chunk), "{text:?}");
        }
    }

    #[test]
    fn sizes_trailers_and_framing_are_bounded() {
        for text in ["41\r\n", "ffffffffffffffff\r\n", "fffffffffffffffff0\r\n", "40\r\n"] {
            let text =
                if text == "40\r\n" { format!("40\r\n{}\r\n1\r\n", "x".repeat(64)) } else { text.into() };
            assert_eq!(decode(&[text.as_bytes()]), Err(Refusal::TooLarge), "{text:?}");
        }
        assert_eq!(decode(&[&[b'1'; MAX_LINE + 2]]), Err(Refusal::Chunk));
        let long = format!("0\r\n{}", "a: b\r\n".repeat(400));
        assert_eq!(decode(&[long.as_bytes()]), Err(Refusal::HeadTooLarge));
        let (mut chunks, extension) = (ChunkDecoder::default(), "e".repeat(100));
        let padded = format!("1;{extension}\r\nx\r\n").repeat(200).into_bytes();
        assert_eq!(chunks.decode(&mut padded.clone(), 1000), Err(Refusal::Chunk), "mostly framing");
        let mut tiny = "1\r\nx\r\n".repeat(100_000).into_bytes();
        assert_eq!(
            ChunkDecoder::default().decode(&mut tiny, 100_000),
            Ok(false),
            "small chunks are accepted"
        );
    }

    proptest! {
        #[test]
        fn any_body_in_any_chunks_is_restored(
            body in prop::collection::vec(any::<u8>(), 0..MAX),
            sizes in prop::collection::vec(1_usize..9, MAX),
        ) {
            let (mut text, mut rest) = (Vec::new(), &body[..]);
            for size in sizes {
                let (chunk, left) = rest.split_at(size.min(rest.len()));
                if !chunk.is_empty() {
                    text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    text.extend_from_slice(chunk);
                    text.extend_from_slice(b"\r\n");
                }
                rest = left;
            }
            text.extend_from_slice(b"0\r\n\r\nrest");
            prop_assert_eq!(decode(&[&text]), Ok(Some((body, b"rest".to_vec()))));
        }
    }
}
