//! A bounded reader of WeCom's small XML messages.
//!
//! The envelope is read before the signature can be checked, so anybody can send it: depth and number of
//! elements are bounded, and a document type declaration is refused, before they can cost anything
//! (the parser's own time grows with the square of the depth).

use xml::ParserConfig;
use xml::reader::XmlEvent;

/// Real messages are four deep.
const MAX_DEPTH: usize = 16;
/// A full create_user has some forty; a tag event names its members in one element.
const MAX_ELEMENTS: usize = 4096;

/// An element: its text, and its children in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    /// The name as written.
    pub name: String,
    /// All text directly inside it, put together. White space around CDATA is kept out.
    pub text: String,
    /// What stands inside it.
    pub children: Vec<Element>,
}

/// Why a text could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// Not UTF-8, or not well-formed.
    #[error("not well-formed XML")]
    Malformed,
    /// Deeper or more elements than any message of WeCom, or a document type.
    #[error("not the kind of XML that WeCom sends")]
    Unreasonable,
}

impl Element {
    /// The first child of that name.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of the first child of that name; `None` if there is no such child, empty if it is empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.as_str())
    }
}

/// Reads a whole document into its root element.
///
/// # Errors
/// [`XmlError`].
pub fn parse(bytes: &[u8]) -> Result<Element, XmlError> {
    let text = std::str::from_utf8(bytes).map_err(|_| XmlError::Malformed)?;
    let config = ParserConfig::new()
        .ignore_comments(true)
        .cdata_to_characters(false)
        .coalesce_characters(false)
        .whitespace_to_characters(false)
        .trim_whitespace(false)
        .allow_multiple_root_elements(false);
    let mut open: Vec<Element> = Vec::new();
    let mut elements = 0;
    let mut root = None;
    for event in config.create_reader(text.as_bytes()) {
        match event.map_err(|_| XmlError::Malformed)? {
            XmlEvent::StartElement { name, .. } => {
                elements += 1;
                if open.len() >= MAX_DEPTH || elements > MAX_ELEMENTS {
                    return Err(XmlError::Unreasonable);
                }
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

/// Text as it must stand in an element.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

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
        let begun = Instant::now();
        assert_eq!(parse(deep.as_bytes()), Err(XmlError::Unreasonable));
        assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    }

    #[test]
    fn document_types_and_too_many_elements_are_refused() {
        let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaa\">]><xml>&a;</xml>";
        assert!(parse(bomb.as_bytes()).is_err());
        let wide = format!("<xml>{}</xml>", "<a/>".repeat(5000));
        assert_eq!(parse(wide.as_bytes()), Err(XmlError::Unreasonable));
    }

    #[test]
    fn what_is_no_xml_is_refused() {
        for bad in ["", "hello", "<xml>", "<xml></yml>", "<xml/><xml/>", "{\"a\":1}"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse(b"<xml>\xff</xml>").is_err());
    }

    #[test]
    fn escaped_text_reads_back() {
        let text = "a < b && c > ]]> d";
        let root = parse(format!("<x>{}</x>", escape(text)).as_bytes()).unwrap();
        assert_eq!(root.text, text);
    }
}
