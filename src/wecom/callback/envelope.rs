//! The XML around a callback's encrypted text (doc 90930).
//!
//! [`Envelope::scan`] reads it before the signature can be verified, so its input is hostile. It makes one pass over
//! the bytes, builds no tree, and copies only a value that CDATA sections or entities interrupt. It accepts what
//! WeCom's envelopes consist of: elements without attributes, text, CDATA, the five entities, white space, a byte order
//! mark and an XML declaration. It refuses all else: attributes (and so namespaces), document types, comments, numeric
//! references, other processing instructions.

use std::borrow::Cow;

use super::xml;

/// Maximum depth; an envelope has two levels.
const MAX_DEPTH: usize = 8;

/// The elements of an envelope that are used, trimmed; empty if missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Encrypt: the encrypted message, covered by the signature.
    pub encrypt: Cow<'a, str>,
    /// ToUserName: the receiving company, unsigned.
    pub to_user_name: Cow<'a, str>,
    /// AgentID: the app's id, unsigned; often empty.
    pub agent_id: Cow<'a, str>,
}

impl<'a> Envelope<'a> {
    /// Scans a POST's body; `None` if it is no envelope, or Encrypt is missing or empty. Of repeated elements it uses
    /// the first.
    pub fn scan(body: &'a [u8]) -> Option<Self> {
        let mut scanner = Scanner::new(body);
        let mut found: [Option<Text<'a>>; 3] = [None, None, None];
        while let Some(tag) = scanner.next_tag()? {
            let Tag::Open(name) = tag else { continue };
            if scanner.depth == 2
                && let Some(place) =
                    [&b"Encrypt"[..], b"ToUserName", b"AgentID"].iter().position(|n| *n == name)
                && found[place].is_none()
            {
                found[place] = Some(scanner.text()?);
            }
        }
        let [encrypt, to_user_name, agent_id] = found.map(|text| text.unwrap_or_default().trimmed());
        let envelope = Self { encrypt: encrypt?, to_user_name: to_user_name?, agent_id: agent_id? };
        (!envelope.encrypt.is_empty()).then_some(envelope)
    }
}

/// A value under construction: borrowed until a CDATA section or an entity interrupts it.
#[derive(Default)]
struct Text<'a>(Cow<'a, [u8]>);

impl<'a> Text<'a> {
    fn push(&mut self, piece: &'a [u8]) {
        if self.0.is_empty() {
            self.0 = Cow::Borrowed(piece.trim_ascii_start());
        } else if !piece.is_empty() {
            self.0.to_mut().extend_from_slice(piece);
        }
    }

    fn trimmed(self) -> Option<Cow<'a, str>> {
        Some(match self.0 {
            Cow::Borrowed(bytes) => Cow::Borrowed(std::str::from_utf8(bytes).ok()?.trim()),
            Cow::Owned(bytes) => Cow::Owned(std::str::from_utf8(&bytes).ok()?.trim().to_owned()),
        })
    }
}

enum Tag<'a> {
    Open(&'a [u8]),
    Close,
}

/// A position in the bytes, and the open elements there.
struct Scanner<'a> {
    rest: &'a [u8],
    open: [&'a [u8]; MAX_DEPTH],
    depth: usize,
    /// `<a/>` has opened `a`, which closes next.
    closing: bool,
    root_seen: bool,
}

impl<'a> Scanner<'a> {
    fn new(body: &'a [u8]) -> Self {
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii();
        Self {
            rest: without_declaration(body),
            open: [b""; MAX_DEPTH],
            depth: 0,
            closing: false,
            root_seen: false,
        }
    }

    /// The next tag, skipping the text before it. `Some(None)` at the end, `None` if this is no envelope.
    fn next_tag(&mut self) -> Option<Option<Tag<'a>>> {
        if std::mem::take(&mut self.closing) {
            self.depth -= 1;
            return Some(Some(Tag::Close));
        }
        self.text()?;
        if self.rest.is_empty() {
            return (self.depth == 0 && self.root_seen).then_some(None);
        }
        let tag = self.rest.get(1..)?;
        let end = tag.iter().position(|byte| *byte == b'>')?;
        let (tag, rest) = tag.split_at(end);
        self.rest = rest.get(1..)?;
        if let Some(name) = tag.strip_prefix(b"/") {
            self.depth = self.depth.checked_sub(1)?;
            return (self.open[self.depth] == name.trim_ascii_end()).then_some(Some(Tag::Close));
        }
        let (name, empty) = tag.strip_suffix(b"/").map_or((tag, false), |name| (name, true));
        let name = name.trim_ascii_end();
        let is_second_root = self.depth == 0 && std::mem::replace(&mut self.root_seen, true);
        if is_second_root || self.depth >= MAX_DEPTH || !is_name(name) {
            return None;
        }
        self.open[self.depth] = name;
        self.depth += 1;
        self.closing = empty;
        Some(Some(Tag::Open(name)))
    }

    /// The text up to the next tag. `None` if this is no envelope.
    fn text(&mut self) -> Option<Text<'a>> {
        let mut text = Text::default();
        if self.closing {
            return Some(text);
        }
        loop {
            let length = self.rest.iter().position(|byte| matches!(byte, b'<' | b'&'));
            let (piece, rest) = self.rest.split_at(length.unwrap_or(self.rest.len()));
            self.rest = rest;
            if self.depth == 0 && !piece.trim_ascii().is_empty() {
                return None;
            }
            text.push(piece);
            if rest.first() == Some(&b'&') {
                text.push(self.entity()?);
            } else if let Some(cdata) = rest.strip_prefix(b"<![CDATA[") {
                text.push(self.cdata(cdata)?);
            } else {
                return Some(text);
            }
        }
    }

    fn entity(&mut self) -> Option<&'static [u8]> {
        const ENTITIES: [(&[u8], &[u8]); 5] =
            [(b"&amp;", b"&"), (b"&lt;", b"<"), (b"&gt;", b">"), (b"&quot;", b"\""), (b"&apos;", b"'")];
        let (entity, character) = ENTITIES.iter().find(|(entity, _)| self.rest.starts_with(entity))?;
        self.rest = self.rest.get(entity.len()..)?;
        (self.depth > 0).then_some(character)
    }

    fn cdata(&mut self, cdata: &'a [u8]) -> Option<&'a [u8]> {
        let mut from = 0;
        // Searches for brackets, which are rare in a CDATA section.
        loop {
            let at = from + cdata.get(from..)?.iter().position(|byte| *byte == b']')?;
            if cdata.get(at..)?.starts_with(b"]]>") {
                self.rest = cdata.get(at + 3..)?;
                return (self.depth > 0).then_some(&cdata[..at]);
            }
            from = at + 1;
        }
    }
}

fn without_declaration(body: &[u8]) -> &[u8] {
    let Some(declaration) = body.strip_prefix(b"<?xml") else { return body };
    let after_name = declaration.first().is_some_and(u8::is_ascii_whitespace);
    match declaration.iter().position(|byte| *byte == b'>') {
        Some(end) if after_name && declaration[..end].ends_with(b"?") => {
            declaration.get(end + 1..).unwrap_or_default()
        }
        _ => body,
    }
}

/// Whether a tag consists of a name only: no attributes, declaration or instruction.
fn is_name(tag: &[u8]) -> bool {
    let first = tag.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_');
    first && tag.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(byte))
}

/// Writes a POST's body as WeCom does.
pub fn callback(to_user_name: &str, encrypted: &str, agent_id: &str) -> String {
    let to = xml::escape(to_user_name);
    let agent = xml::escape(agent_id);
    format!(
        "<xml><ToUserName>{to}</ToUserName><Encrypt><![CDATA[{encrypted}]]></Encrypt><AgentID>{agent}</AgentID></xml>"
    )
}

#[cfg(test)]
mod tests {
    use super::super::processor_time;
    use super::*;
    use std::time::Duration;

    fn encrypt(body: &str) -> Option<Cow<'_, str>> {
        Envelope::scan(body.as_bytes()).map(|envelope| envelope.encrypt)
    }

    #[test]
    fn every_spelling_of_an_envelope_is_read() {
        let ways = [
            "<xml><Encrypt><![CDATA[a+/=]]></Encrypt></xml>",
            "<xml><Encrypt>a+/=</Encrypt></xml>",
            "\u{feff}<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<xml>\r\n <Encrypt >\n<![CDATA[a+/=]]>\n</Encrypt\t>\n</xml>\n",
            "<xml><ToUserName/><A><Encrypt>b</Encrypt></A><Encrypt><![CDATA[a+]]>/<![CDATA[=]]></Encrypt><AgentID /></xml>",
            "<xml><Encrypt>a+/=</Encrypt><Encrypt>b</Encrypt></xml>",
        ];
        for way in ways {
            assert_eq!(encrypt(way).as_deref(), Some("a+/="), "{way}");
        }
        let body = "<xml><ToUserName>ww1</ToUserName><Encrypt>&lt;&amp;&gt;&quot;&apos;</Encrypt><AgentID>7</AgentID></xml>";
        let envelope = Envelope::scan(body.as_bytes()).unwrap();
        assert_eq!(
            (&*envelope.encrypt, &*envelope.to_user_name, &*envelope.agent_id),
            ("<&>\"'", "ww1", "7")
        );
    }

    #[test]
    fn a_value_in_one_piece_is_not_copied() {
        for body in
            ["<xml><Encrypt>\n<![CDATA[abcd]]></Encrypt></xml>", "<xml><Encrypt> abcd </Encrypt></xml>"]
        {
            assert!(matches!(Envelope::scan(body.as_bytes()).unwrap().encrypt, Cow::Borrowed("abcd")));
        }
    }

    #[test]
    fn bodies_that_are_no_envelope_are_refused() {
        let bad = [
            "",
            "hello",
            "{\"Encrypt\":\"a\"}",
            "<xml>",
            "<xml></yml>",
            "<xml><Encrypt>a</Encrypt></xml><xml/>",
            "<xml><Encrypt>a</Encrypt></xml>b",
            "b<xml><Encrypt>a</Encrypt></xml>",
            "&amp;<xml><Encrypt>a</Encrypt></xml>",
            "<![CDATA[]]><xml><Encrypt>a</Encrypt></xml>",
            "<xml><Encrypt></Encrypt></xml>",
            "<xml><Encrypt>\n</Encrypt></xml>",
            "<xml><A>a</A></xml>",
            "<Encrypt>a</Encrypt>",
            "<xml><Encrypt>a</xml></Encrypt>",
            "<xml a=\"b\"><Encrypt>a</Encrypt></xml>",
            "<xml xmlns=\"u\"><Encrypt>a</Encrypt></xml>",
            "<!DOCTYPE xml><xml><Encrypt>a</Encrypt></xml>",
            "<!DOCTYPE x [<!ENTITY a \"b\">]><xml><Encrypt>&a;</Encrypt></xml>",
            "<xml><Encrypt>&a;</Encrypt></xml>",
            "<xml><Encrypt>&#97;</Encrypt></xml>",
            "<xml><Encrypt>a & b</Encrypt></xml>",
            "<xml><!-- a --><Encrypt>a</Encrypt></xml>",
            "<?php a?><xml><Encrypt>a</Encrypt></xml>",
            "<?xmlx ?><xml><Encrypt>a</Encrypt></xml>",
            "<xml><?a?><Encrypt>a</Encrypt></xml>",
            "<xml><Encrypt><![CDATA[a</Encrypt></xml>",
            "<xml><Encrypt>a</Encrypt><",
            "<xml><Encrypt>a</Encrypt></",
            "<xml><></><Encrypt>a</Encrypt></xml>",
            "</xml><xml><Encrypt>a</Encrypt></xml>",
        ];
        for bad in bad {
            assert_eq!(encrypt(bad), None, "{bad}");
        }
        assert_eq!(Envelope::scan(b"<xml><Encrypt>\xff</Encrypt></xml>"), None);
        let deep =
            |n: usize| format!("<xml>{}{}<Encrypt>a</Encrypt></xml>", "<a>".repeat(n), "</a>".repeat(n));
        assert!(encrypt(&deep(7)).is_some() && encrypt(&deep(8)).is_none());
    }

    /// 200 KiB each of the bodies that cost an XML parser most. The limit allows for a busy machine.
    #[test]
    fn no_body_is_expensive() {
        let spaces: String = (0..41).map(|n| format!(" xmlns:a{n}=\"u\"")).collect();
        let bodies = [
            format!("<xml>{}{}", format!("<a{spaces}>").repeat(14), "<b/>".repeat(40_000)),
            "<a>".repeat(70_000),
            format!("<xml>{}</xml>", "<a/>".repeat(50_000)),
            format!("<xml><Encrypt>{}</Encrypt></xml>", "&amp;".repeat(40_000)),
            format!("<xml><Encrypt>{}</Encrypt></xml>", "<![CDATA[]]>".repeat(17_000)),
            format!("<xml><Encrypt><![CDATA[{}]]></Encrypt></xml>", "]".repeat(200_000)),
            format!("<{}>", "x".repeat(200_000)),
            "<".repeat(200_000),
        ];
        for body in bodies {
            let begun = processor_time();
            let _ = encrypt(&body);
            let spent = processor_time() - begun;
            assert!(spent < Duration::from_millis(100), "{spent:?}: {}..", &body[..40]);
        }
    }
}
