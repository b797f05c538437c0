//! A bounded parser of WeCom's small XML messages, after decryption.
//!
//! The text is signed, so it comes from WeCom and must not be lost: [`super::repair`] first replaces what XML forbids
//! and bounds the cost, then xml-rs parses it.

use xml::ParserConfig;
use xml::reader::XmlEvent;

use super::repair::repair;
use crate::directory::text::decode;

/// An XML element without attributes and namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    /// The local name, in the document's case.
    pub name: String,
    /// All text directly inside, concatenated, without the white space around CDATA sections.
    pub text: String,
    /// Child elements in document order.
    pub children: Vec<Element>,
}

/// Why a text is not one of WeCom's messages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// Not well-formed, even after repair.
    #[error("not well-formed XML")]
    Malformed,
    /// A document type, or more elements or depth than WeCom's messages have.
    #[error("not the kind of XML that WeCom sends")]
    Unreasonable,
}

impl Element {
    /// The first child of this name.
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of the first child of this name; `None` without such a child.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.as_str())
    }
}

/// Parses a whole document into its root element. Drops attributes and namespaces.
pub fn parse(bytes: &[u8]) -> Result<Element, XmlError> {
    let text = repair(&decode(bytes))?;
    let config = ParserConfig::new()
        .ignore_comments(true)
        .cdata_to_characters(false)
        .coalesce_characters(false)
        .whitespace_to_characters(false)
        .trim_whitespace(false)
        .allow_multiple_root_elements(false);
    let mut open: Vec<Element> = Vec::new();
    let mut root = None;
    for event in config.create_reader(text.as_bytes()) {
        match event.map_err(|_| XmlError::Malformed)? {
            XmlEvent::StartElement { name, .. } => {
                open.push(Element { name: name.local_name, ..Element::default() });
            }
            XmlEvent::EndElement { .. } => {
                let Some(done) = open.pop() else { return Err(XmlError::Malformed) };
                match open.last_mut() {
                    Some(parent) => parent.children.push(done),
                    None => root = Some(done),
                }
            }
            XmlEvent::CData(text) | XmlEvent::Characters(text) => {
                if let Some(element) = open.last_mut() {
                    element.text.push_str(&text);
                }
            }
            XmlEvent::Doctype { .. } => return Err(XmlError::Unreasonable),
            _ => {}
        }
    }
    root.ok_or(XmlError::Malformed)
}

/// Escapes `&`, `<` and `>` for the content of an element.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::processor_time;
    use super::*;
    use std::time::Duration;

    #[test]
    fn text_cdata_and_nesting_are_read() {
        let root =
            parse("<xml> <A><![CDATA[张三 <b>]]></A>\n<B>1 &lt; 2</B><C/><D><E>x</E></D></xml>".as_bytes())
                .unwrap();
        assert_eq!(root.get("A"), Some("张三 <b>"));
        assert_eq!(root.get("B"), Some("1 < 2"));
        assert_eq!(root.get("C"), Some(""));
        assert_eq!(root.get("Z"), None);
        assert_eq!(root.child("D").unwrap().get("E"), Some("x"));
    }

    #[test]
    fn deep_nesting_is_refused_at_once() {
        let deep = "<a>".repeat(200_000);
        let begun = processor_time();
        assert_eq!(parse(deep.as_bytes()), Err(XmlError::Unreasonable));
        let spent = processor_time() - begun;
        assert!(spent < Duration::from_millis(500), "{spent:?}");
    }

    #[test]
    fn document_types_and_too_many_elements_are_refused() {
        let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaa\">]><xml>&a;</xml>";
        assert!(parse(bomb.as_bytes()).is_err());
        let wide = format!("<xml>{}</xml>", "<a/>".repeat(5000));
        assert_eq!(parse(wide.as_bytes()), Err(XmlError::Unreasonable));
    }

    #[test]
    fn malformed_xml_is_refused() {
        for bad in ["", "hello", "<xml>", "<xml></yml>", "<xml/><xml/>", "{\"a\":1}", "<xml><![CDATA[</xml>"]
        {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn characters_that_xml_forbids_are_replaced_or_taken_literally() {
        let cases: [(&[u8], &str); 20] = [
            (b"a\x08b", "a\u{fffd}b"),
            (b"a\x00", "a\u{fffd}"),
            (b"a\xe5\xbc", "a\u{fffd}"),
            (b"\xff\xfea", "\u{fffd}\u{fffd}a"),
            ("a\u{fffe}\u{ffff}".as_bytes(), "a\u{fffd}\u{fffd}"),
            (
                b"&#8;&#0;&#xFFFF;&#x110000;&#99999999999999999999;",
                "\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}",
            ),
            (b"&#xD800;", "\u{fffd}"),
            (b"&#xD83D;&#xDE00;", "\u{1f600}"),
            (b"&#55357;&#56832;&#xDE00;", "\u{1f600}\u{fffd}"),
            (b"&#65;&#x5f20;", "A\u{5f20}"),
            (b"A&B", "A&B"),
            (b"A & B &", "A & B &"),
            (b"&nbsp;&a;&#;&#x;&#xZZ;&;", "&nbsp;&a;&#;&#x;&#xZZ;&;"),
            (b"&lt;&gt;&amp;&quot;&apos;", "<>&\"'"),
            (b"a < b <3 <", "a < b <3 <"),
            (b"a ]]> b", "a ]]> b"),
            (b"<![CDATA[&#8; & <b>]]>", "&#8; & <b>"),
            (b"<![CDATA[a\x07]]>", "a\u{fffd}"),
            (b"a<!-- -- & < -->b", "ab"),
            (b"a<?b c?>", "a"),
        ];
        for (content, text) in cases {
            let document = [b"<xml><A>", content, b"</A></xml>"].concat();
            let read = parse(&document).map(|root| root.get("A").map(str::to_owned));
            assert_eq!(read, Ok(Some(text.to_owned())), "{}", content.escape_ascii());
        }
    }

    #[test]
    fn text_around_the_root_is_ignored() {
        let root = b"<xml><A>1</A></xml>";
        let around: [(&[u8], &[u8]); 7] = [
            (b"\xef\xbb\xbf", b""),
            (b"\n\xef\xbb\xbf \n", b"\n"),
            (b"<?xml version=\"1.0\" encoding=\"gb2312\"?>", b""),
            (b"<?xml version=\"9\"?>", b""),
            (b"", b"\0\0\0"),
            (b"<!-- a -->", b"<!-- b -->"),
            (b"x & ", b" y"),
        ];
        for (before, after) in around {
            let document = [before, root, after].concat();
            assert_eq!(parse(&document).unwrap().get("A"), Some("1"), "{}", document.escape_ascii());
        }
    }

    #[test]
    fn attributes_and_namespaces_are_dropped_before_they_cost_time() {
        let root = parse(b"<p:xml xmlns:p=\"u\" a='>'><p:A b=\"c\" >1</p:A ><B c/></p:xml>").unwrap();
        assert_eq!((root.name.as_str(), root.get("A"), root.get("B")), ("xml", Some("1"), Some("")));
        let spaces: String = (0..200).map(|n| format!(" xmlns:a{n}=\"u\"")).collect();
        let body = format!("<xml>{}{}", format!("<a{spaces}>").repeat(14), "<b/>".repeat(4080));
        let begun = processor_time();
        assert_eq!(parse(body.as_bytes()), Err(XmlError::Malformed));
        let spent = processor_time() - begun;
        assert!(spent < Duration::from_millis(200), "{spent:?}");
    }

    #[test]
    fn escaped_text_reads_back() {
        let text = "a < b && c > ]]> d";
        let root = parse(format!("<x>{}</x>", escape(text)).as_bytes()).unwrap();
        assert_eq!(root.text, text);
    }
}
