//! The envelope of an unsigned body: the scanner against an XML parser.

use wecom_dirsync::wecom::callback::envelope::Envelope;
use xml::ParserConfig;
use xml::reader::XmlEvent;

use super::Draw;

fn scanned(body: &[u8]) -> Option<String> {
    Envelope::scan(body).map(|envelope| envelope.encrypt.into_owned())
}

/// The input is a body, or choices from which an envelope is composed.
pub fn check(data: &[u8]) {
    let mut draw = Draw(data);
    match draw.byte() % 2 {
        0 => {
            // Where both accept, the values are equal, except for line ends (none in base64) and other encodings.
            let is_utf8 = !draw.0.windows(8).any(|part| part == b"encoding");
            let scanned = scanned(draw.0).filter(|_| is_utf8);
            if let (Some(scanned), Some(parsed)) = (scanned, parsed(draw.0)) {
                assert_eq!(scanned.replace("\r\n", "\n").replace('\r', "\n"), parsed);
            }
        }
        _ => {
            let body = compose(&mut draw);
            let parsed = parsed(body.as_bytes());
            assert_eq!(scanned(body.as_bytes()), parsed, "{body}");
        }
    }
}

const NAMES: [&str; 6] = ["Encrypt", "ToUserName", "AgentID", "xml", "a", "Encrypt2"];
const TEXTS: [&str; 12] = [
    "a+/=",
    " ",
    "\n",
    "&amp;",
    "&lt;",
    "&gt;",
    "&quot;",
    "&apos;",
    "<![CDATA[b<]&]]>",
    "<![CDATA[]]>",
    "张",
    "]",
];

/// Composes a valid envelope.
fn compose(draw: &mut Draw<'_>) -> String {
    let mut body = String::new();
    let head = draw.byte();
    for (bit, part) in ["\u{feff}", "<?xml version=\"1.0\" encoding=\"UTF-8\"?>", "\n"].iter().enumerate() {
        if head & 1 << bit != 0 {
            body += part;
        }
    }
    body += "<xml>";
    let mut open = Vec::new();
    while !draw.done() {
        match draw.below(6) {
            0 if open.len() < 6 => {
                let name = draw.of(&NAMES);
                body += &format!("<{name}>");
                open.push(name);
            }
            1 => body += &format!("<{}{}/>", draw.of(&NAMES), draw.of(&["", " "])),
            2 => {
                if let Some(name) = open.pop() {
                    body += &format!("</{name}{}>", draw.of(&["", " ", "\n"]));
                }
            }
            _ => body += draw.of(&TEXTS),
        }
    }
    for name in open.into_iter().rev() {
        body += &format!("</{name}>");
    }
    body + "</xml>" + draw.of(&["", "\n"])
}

/// The value of Encrypt according to xml-rs.
fn parsed(body: &[u8]) -> Option<String> {
    let config = ParserConfig::new()
        .ignore_comments(true)
        .cdata_to_characters(true)
        .whitespace_to_characters(true)
        .trim_whitespace(false);
    let (mut depth, mut text, mut found) = (0, None::<String>, None);
    for event in config.create_reader(body) {
        match event.ok()? {
            XmlEvent::StartElement { name, .. } => {
                depth += 1;
                if depth == 2 && name.local_name == "Encrypt" && found.is_none() {
                    text = Some(String::new());
                } else if let Some(text) = text.take() {
                    // The text up to the first element inside.
                    found.get_or_insert(text);
                }
            }
            XmlEvent::EndElement { .. } => {
                depth -= 1;
                if let Some(text) = text.take() {
                    found.get_or_insert(text);
                }
            }
            XmlEvent::Characters(more) => {
                if let Some(text) = &mut text {
                    *text += &more;
                }
            }
            _ => {}
        }
    }
    let found = found?.trim().to_owned();
    (!found.is_empty()).then_some(found)
}
