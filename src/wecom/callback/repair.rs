//! Rewrites WeCom's XML as well-formed XML, so that one invalid character does not lose a signed message.
//!
//! One pass over the text. Outside CDATA sections, a reference to a character that XML forbids becomes U+FFFD; `&`, `<`
//! and `]]>` that begin no reference and no tag become text. Comments, processing instructions, the XML declaration
//! (its encoding may be wrong: the text is UTF-8 here), attributes and name prefixes are dropped. Elements, depth and
//! names are bounded, so the parser's time is linear. The parser refuses mismatched tags.

use super::xml::XmlError;
use crate::directory::text::{REPLACEMENT, is_allowed};

/// WeCom's messages have a depth of four.
const MAX_DEPTH: usize = 16;
/// A full create_user has about forty; a tag event lists its members in one element.
const MAX_ELEMENTS: usize = 4096;
/// Maximum length in bytes of an element's name.
const MAX_NAME: usize = 256;
/// Maximum length in bytes of a reference, `&` and `;` included; bounds leading zeros.
const MAX_REFERENCE: usize = 32;

/// Rewrites a document. An unclosed tag, comment or CDATA section is [`XmlError::Malformed`]; a document type and an
/// exceeded bound are [`XmlError::Unreasonable`].
pub(super) fn repair(text: &str) -> Result<String, XmlError> {
    let mut repair = Repair { rest: text, out: String::with_capacity(text.len()), depth: 0, elements: 0 };
    repair.document()?;
    Ok(repair.out)
}

struct Repair<'a> {
    rest: &'a str,
    out: String,
    depth: usize,
    elements: usize,
}

impl<'a> Repair<'a> {
    fn document(&mut self) -> Result<(), XmlError> {
        loop {
            let special = self.rest.find(['<', '&', ']']);
            self.text(special.unwrap_or(self.rest.len()));
            match self.rest.bytes().next() {
                None => return Ok(()),
                Some(b'<') => self.markup()?,
                Some(b'&') => self.reference(),
                Some(_) if self.rest.starts_with("]]>") => self.literal("]]&gt;", 3),
                Some(_) => self.text(1),
            }
        }
    }

    /// Copies `length` bytes of text; drops them outside the root.
    fn text(&mut self, length: usize) {
        let (text, rest) = self.rest.split_at(length);
        if self.depth > 0 {
            self.out.push_str(text);
        }
        self.rest = rest;
    }

    /// Replaces `length` bytes by `text`.
    fn literal(&mut self, text: &str, length: usize) {
        if self.depth > 0 {
            self.out.push_str(text);
        }
        self.skip(length);
    }

    fn skip(&mut self, length: usize) {
        self.rest = self.rest.get(length..).unwrap_or_default();
    }

    /// The length up to and including `end`.
    fn through(&self, end: &str) -> Result<usize, XmlError> {
        self.rest.find(end).map(|at| at + end.len()).ok_or(XmlError::Malformed)
    }

    fn markup(&mut self) -> Result<(), XmlError> {
        let after = self.rest.get(1..).unwrap_or_default();
        if after.starts_with("![CDATA[") {
            let length = self.through("]]>")?;
            self.text(length);
        } else if after.starts_with("!--") {
            let length = self.through("-->")?;
            self.skip(length);
        } else if after.starts_with('?') {
            let length = self.through("?>")?;
            self.skip(length);
        } else if after.starts_with('!') {
            return Err(XmlError::Unreasonable);
        } else if let Some(name) = after.strip_prefix('/').filter(|name| begins_name(name)) {
            let length = self.through(">")?;
            let name = local_name(name)?;
            self.depth = self.depth.checked_sub(1).ok_or(XmlError::Malformed)?;
            self.out.extend(["</", name, ">"]);
            self.skip(length);
        } else if begins_name(after) {
            let name = local_name(after)?;
            let (length, is_empty) = self.tag_end()?;
            self.elements += 1;
            if self.depth >= MAX_DEPTH || self.elements > MAX_ELEMENTS {
                return Err(XmlError::Unreasonable);
            }
            self.out.extend(["<", name, if is_empty { "/>" } else { ">" }]);
            self.depth += usize::from(!is_empty);
            self.skip(length);
        } else {
            self.literal("&lt;", 1);
        }
        Ok(())
    }

    /// The length of the tag that begins here, and whether it is an empty element. A quoted `>` does not end it.
    fn tag_end(&self) -> Result<(usize, bool), XmlError> {
        let mut quote = None;
        let mut before = b' ';
        for (at, byte) in self.rest.bytes().enumerate() {
            match (quote, byte) {
                (None, b'>') => return Ok((at + 1, before == b'/')),
                (None, b'"' | b'\'') => quote = Some(byte),
                (Some(open), _) if open == byte => quote = None,
                _ => {}
            }
            before = byte;
        }
        Err(XmlError::Malformed)
    }

    fn reference(&mut self) {
        match reference(self.rest) {
            Some((Reference::Entity, length)) => self.text(length),
            Some((Reference::Code(code), length)) => {
                let low = self.rest.get(length..).and_then(reference);
                let (c, length) = match low {
                    Some((Reference::Code(low), more)) if is_pair(code, low) => {
                        let code = 0x1_0000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                        (char::from_u32(code), length + more)
                    }
                    _ => (char::from_u32(code), length),
                };
                let c = c.filter(|c| is_allowed(*c)).unwrap_or(REPLACEMENT);
                let mut bytes = [0; 4];
                match c {
                    '&' => self.literal("&amp;", length),
                    '<' => self.literal("&lt;", length),
                    '>' => self.literal("&gt;", length),
                    c => self.literal(c.encode_utf8(&mut bytes), length),
                }
            }
            None => self.literal("&amp;", 1),
        }
    }
}

/// Whether two references are a UTF-16 surrogate pair, which some encoders write for characters above U+FFFF.
fn is_pair(high: u32, low: u32) -> bool {
    (0xd800..0xdc00).contains(&high) && (0xdc00..0xe000).contains(&low)
}

enum Reference {
    Entity,
    /// A number, possibly not of a character.
    Code(u32),
}

/// Parses the reference at the start of a text; returns its length too.
fn reference(text: &str) -> Option<(Reference, usize)> {
    let bytes = text.as_bytes();
    let end = bytes.iter().take(MAX_REFERENCE).position(|byte| *byte == b';')?;
    let name = text.get(1..end).filter(|_| bytes.first() == Some(&b'&'))?;
    let length = end + 1;
    if ["amp", "lt", "gt", "quot", "apos"].contains(&name) {
        return Some((Reference::Entity, length));
    }
    let number = name.strip_prefix('#')?;
    let (digits, radix) = match number.strip_prefix(['x', 'X']) {
        Some(digits) => (digits, 16),
        None => (number, 10),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    // A number that does not fit is no character either.
    Some((Reference::Code(u32::from_str_radix(digits, radix).unwrap_or(u32::MAX)), length))
}

fn begins_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// The name at the start of a tag, without its prefix.
fn local_name(tag: &str) -> Result<&str, XmlError> {
    let end =
        tag.find(|c: char| c.is_ascii_whitespace() || matches!(c, '>' | '/' | '<' | '&' | '=' | '"' | '\''));
    let name = tag.get(..end.unwrap_or(tag.len())).unwrap_or_default();
    if name.len() > MAX_NAME {
        return Err(XmlError::Unreasonable);
    }
    let local = name.rsplit(':').next().unwrap_or(name);
    if begins_name(local) { Ok(local) } else { Err(XmlError::Malformed) }
}
