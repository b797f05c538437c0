//! Decrypted messages: from XML to the directory's [`Event`] (doc 90969 to 90976, 90376, 90639).

use super::elements::Reader;
use super::xml::{self, Element, XmlError};
use crate::directory::text::{decode, excerpt, normal};
use crate::directory::{Event, Subject, UnixSeconds};

/// Maximum length in characters of event, change_type and subject, which are indexed and logged.
const MAX_NAME: usize = 128;

/// A message as it is recorded, and the event that it contains.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Event, else InfoType (third-party suite), else MsgType; empty without them.
    pub event: String,
    /// ChangeType; empty if the message has none.
    pub change_type: String,
    /// The userid, department id, tag id or job id as written; else the sender.
    pub subject: String,
    /// CreateTime, or a third-party suite's TimeStamp.
    pub create_time: Option<UnixSeconds>,
    /// The event, or why the message is invalid.
    pub meaning: Result<Event, String>,
    /// Unreadable fields and list items, by name.
    pub skipped: Vec<String>,
    /// Decides whether the message's text is stored.
    pub concern: Concern,
    /// Why a reconcile is due, if one is: the message has values that cannot be applied.
    pub reconcile_reason: Option<&'static str>,
}

/// Classes of messages, by what may be stored of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concern {
    /// An event that this program acts on.
    Directory,
    /// What a member does or writes in an app (text, LOCATION, click), or a suite's credentials: never stored.
    Private,
    /// An event that this program does not know.
    Unknown,
}

/// Events that [`read`] interprets; all others are [`Subject::Other`].
const DIRECTORY: [&str; 5] =
    ["change_contact", "subscribe", "unsubscribe", "enter_agent", "batch_job_result"];

/// Events about a member's use of an app (doc 90240), in addition to all that have an AgentID, and events with a
/// suite's ticket or authorisation code (doc 90628).
const PRIVATE: [&str; 19] = [
    "suite_ticket",
    "create_auth",
    "reset_permanent_code",
    "location",
    "click",
    "view",
    "scancode_push",
    "scancode_waitmsg",
    "pic_sysphoto",
    "pic_photo_or_album",
    "pic_weixin",
    "location_select",
    "view_miniprogram",
    "template_card_event",
    "template_card_menu_event",
    "taskcard_click",
    "open_approval_change",
    "sys_approval_change",
    "kf_msg_or_event",
];

/// Reads a decrypted message. Only a text that is not WeCom's XML is an error; unknown events are messages.
///
/// `corp_id` is the own company: a third-party suite's callback also reports other companies, which are ignored.
pub fn read(payload: &[u8], corp_id: &str) -> Result<Message, XmlError> {
    let root = xml::parse(payload)?;
    let trimmed = |name: &str| root.get(name).map_or("", str::trim);
    let of_suite = root.get("Event").is_none() && root.get("InfoType").is_some();
    let event = trimmed(if of_suite { "InfoType" } else { "Event" });
    let change_type = trimmed("ChangeType");
    let time = trimmed(if of_suite { "TimeStamp" } else { "CreateTime" });
    let create_time = unix_seconds(time);

    let mut reader = Reader::new(&root);
    let foreign = of_suite && root.get("AuthCorpId").is_some_and(|corp| corp.trim() != corp_id);
    let subject = if foreign { Ok(Subject::Other) } else { reader.subject(event, change_type) };
    let meaning = match (subject, create_time) {
        (Ok(Subject::Other), _) => Ok(Event { at: create_time.unwrap_or_default(), subject: Subject::Other }),
        (Ok(subject), Some(at)) => Ok(Event { at, subject }),
        (Ok(_), None) => Err(format!("the event's time \"{}\" is not in unix seconds", excerpt(time))),
        (Err(reason), _) => Err(reason),
    };
    let is_trigger = matches!(event, "subscribe" | "unsubscribe" | "enter_agent");
    let reconcile_reason = (meaning.is_err() && !is_trigger).then_some("an event could not be applied");
    let concern = concern(event, trimmed("MsgType"), root.get("AgentID").is_some());
    Ok(Message {
        event: name(if event.is_empty() { trimmed("MsgType") } else { event }),
        change_type: name(change_type),
        subject: name(subject_name(&root, concern)),
        create_time,
        meaning,
        reconcile_reason: reconcile_reason.or(reader.reconcile_reason),
        skipped: reader.skipped(),
        concern,
    })
}

/// Finds type, subject and time of a message that [`read`] refuses, for the table `events`.
pub fn unreadable(payload: &[u8], error: XmlError) -> Message {
    let payload = decode(payload);
    let found = |element: &str| {
        let after = payload.split_once(&format!("<{element}>")).map_or("", |(_, after)| after);
        let after = after.trim_start().strip_prefix("<![CDATA[").unwrap_or(after);
        let end = after.find(['<', ']']).unwrap_or_default();
        after.get(..end).unwrap_or_default().trim()
    };
    let first =
        |names: &[&str]| names.iter().map(|name| found(name)).find(|text| !text.is_empty()).unwrap_or("");
    let event = first(&["Event", "InfoType"]);
    let concern = concern(event, found("MsgType"), payload.contains("<AgentID>"));
    let subject: &[&str] = match concern {
        Concern::Private => &["FromUserName"],
        _ => &["UserID", "Id", "TagId", "FromUserName"],
    };
    Message {
        event: name(first(&["Event", "InfoType", "MsgType"])),
        change_type: name(found("ChangeType")),
        subject: name(first(subject)),
        create_time: unix_seconds(first(&["CreateTime", "TimeStamp"])),
        // Without an excerpt: the text may be a message to a colleague.
        meaning: Err(error.to_string()),
        skipped: Vec::new(),
        concern,
        reconcile_reason: (concern != Concern::Private).then_some("an event could not be read"),
    }
}

fn concern(event: &str, msg_type: &str, names_an_app: bool) -> Concern {
    if DIRECTORY.contains(&event) {
        return Concern::Directory;
    }
    let is_event = msg_type.is_empty() || msg_type == "event";
    let is_private = PRIVATE.iter().any(|known| known.eq_ignore_ascii_case(event));
    if !is_event || is_private || names_an_app { Concern::Private } else { Concern::Unknown }
}

fn subject_name(root: &Element, concern: Concern) -> &str {
    let trimmed = |name: &str| root.get(name).map_or("", str::trim);
    if concern == Concern::Private {
        return trimmed("FromUserName");
    }
    let named = ["UserID", "Id", "TagId"].iter().map(|name| trimmed(name)).find(|text| !text.is_empty());
    named.unwrap_or_else(|| match root.child("BatchJob") {
        Some(job) => job.get("JobId").map_or("", str::trim),
        None => trimmed("FromUserName"),
    })
}

fn unix_seconds(text: &str) -> Option<UnixSeconds> {
    text.parse().ok().filter(|seconds| *seconds >= 0).map(UnixSeconds)
}

fn name(text: &str) -> String {
    normal(&text.chars().take(MAX_NAME).collect::<String>()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::{DepartmentEvent, DepartmentId, MemberEvent, TagId, Trigger};

    fn read_ok(xml: &str) -> Message {
        read(xml.as_bytes(), "ww1").unwrap()
    }

    fn contact(inner: &str) -> Message {
        read_ok(&format!(
            "<xml><ToUserName>ww1</ToUserName><FromUserName>sys</FromUserName><CreateTime>1700000000</CreateTime>\
             <MsgType>event</MsgType><Event>change_contact</Event>{inner}</xml>"
        ))
    }

    #[test]
    fn conversations_are_distinguished_from_events() {
        let of = |inner: &str| {
            let message = read_ok(&format!(
                "<xml><FromUserName>zs</FromUserName><CreateTime>5</CreateTime>{inner}</xml>"
            ));
            (message.concern, message.event, message.subject)
        };
        let conversation = |kind: &str| (Concern::Private, kind.to_owned(), "zs".to_owned());
        let event = |rest: &str| format!("<MsgType>event</MsgType>{rest}");
        for kind in ["text", "image", "voice", "video", "location", "link", "brand_new"] {
            assert_eq!(of(&format!("<MsgType>{kind}</MsgType><Content>x</Content>")), conversation(kind));
        }
        for kind in ["LOCATION", "click", "VIEW", "scancode_push", "location_select", "template_card_event"] {
            let message = event(&format!("<Event>{kind}</Event><Latitude>1</Latitude><Id>7</Id>"));
            assert_eq!(of(&message), conversation(kind));
        }
        let named = of(&event("<Event>brand_new</Event><AgentID>7</AgentID>"));
        assert_eq!(named, conversation("brand_new"));
        assert_eq!(of(&event("<Event>brand_new</Event>")).0, Concern::Unknown);
        for kind in DIRECTORY {
            let message = of(&event(&format!("<Event>{kind}</Event><AgentID>7</AgentID>")));
            assert_eq!((message.0, message.1), (Concern::Directory, kind.to_owned()));
        }
    }

    #[test]
    fn type_subject_and_time_of_an_unreadable_message_are_found() {
        let broken = "<xml><FromUserName><![CDATA[sys]]></FromUserName><CreateTime>5</CreateTime>\
                      <Event>change_contact</Event><ChangeType>create_user</ChangeType><UserID><![CDATA[zs]]></UserID><Name>a";
        let error = read(broken.as_bytes(), "ww1").unwrap_err();
        let message = unreadable(broken.as_bytes(), error);
        let found = [message.event.as_str(), &message.change_type, &message.subject];
        assert_eq!(found, ["change_contact", "create_user", "zs"]);
        assert_eq!((message.create_time, message.concern), (Some(UnixSeconds(5)), Concern::Directory));
        assert!(message.meaning.is_err() && message.reconcile_reason.is_some());
        let chat =
            unreadable(b"<xml><FromUserName>zs</FromUserName><MsgType>text</MsgType><Content>x", error_of());
        assert_eq!(
            (chat.concern, chat.reconcile_reason, chat.event.as_str()),
            (Concern::Private, None, "text")
        );
        let nothing = unreadable(b"hello", error_of());
        assert_eq!((nothing.concern, nothing.event.as_str()), (Concern::Unknown, ""));
    }

    fn error_of() -> XmlError {
        read(b"hello", "ww1").unwrap_err()
    }

    #[test]
    fn renames_departments_tags_and_triggers_are_distinguished() {
        let rename =
            contact("<ChangeType>update_user</ChangeType><UserID>a</UserID><NewUserID>b</NewUserID>");
        assert!(
            matches!(rename.meaning.unwrap().subject, Subject::Member(_, MemberEvent::Renamed(to, _)) if to.as_str() == "b")
        );
        let party = contact("<ChangeType>update_party</ChangeType><Id>2</Id><Name>研发</Name>");
        assert_eq!(party.subject, "2");
        let Subject::Department(id, DepartmentEvent::Updated(fields)) = party.meaning.unwrap().subject else {
            panic!("not a department")
        };
        assert_eq!((id, fields.len()), (DepartmentId(2), 1));
        let tag = contact(
            "<ChangeType>update_tag</ChangeType><TagId>1</TagId><AddUserItems>a,b</AddUserItems><DelPartyItems>4,5</DelPartyItems>",
        );
        let Subject::Tag(TagId(1), tag) = tag.meaning.unwrap().subject else { panic!("not a tag") };
        assert_eq!((tag.added_members.len(), tag.removed_departments.len()), (2, 2));
        let subscribe = read_ok(
            "<xml><FromUserName>a</FromUserName><CreateTime>5</CreateTime><Event>subscribe</Event></xml>",
        );
        assert_eq!(subscribe.subject, "a");
        assert!(matches!(subscribe.meaning.unwrap().subject, Subject::Trigger(_, Trigger::Subscribe)));
    }

    #[test]
    fn third_party_suites_use_other_element_names() {
        let xml = "<xml><SuiteId>s</SuiteId><AuthCorpId>ww1</AuthCorpId><InfoType>change_contact</InfoType>\
                   <TimeStamp>1403610513</TimeStamp><ChangeType>delete_user</ChangeType><UserID>a</UserID></xml>";
        let message = read_ok(xml);
        assert_eq!((message.event.as_str(), message.change_type.as_str()), ("change_contact", "delete_user"));
        assert!(matches!(message.meaning.unwrap().subject, Subject::Member(_, MemberEvent::Deleted)));
        let ticket = read_ok(
            "<xml><SuiteId>s</SuiteId><InfoType>suite_ticket</InfoType><SuiteTicket>t</SuiteTicket></xml>",
        );
        assert_eq!((ticket.concern, ticket.event.as_str()), (Concern::Private, "suite_ticket"));
        let foreign = read(xml.as_bytes(), "another").unwrap();
        assert_eq!(foreign.meaning.unwrap().subject, Subject::Other);
    }

    #[test]
    fn log_lines_about_a_message_are_short() {
        let long = "7".repeat(5000);
        let id = contact(&format!("<ChangeType>delete_party</ChangeType><Id>{long}</Id>"));
        let time = read_ok(&format!(
            "<xml><CreateTime>{long}</CreateTime><Event>change_contact</Event>\
             <ChangeType>delete_user</ChangeType><UserID>a</UserID></xml>"
        ));
        let field = contact(&format!(
            "<ChangeType>update_user</ChangeType><UserID>a</UserID><Gender>{long}</Gender>"
        ));
        for line in [id.meaning.unwrap_err(), time.meaning.unwrap_err(), field.skipped.concat()] {
            assert!(line.contains("777") && line.len() < 150, "{line}");
        }
    }

    #[test]
    fn unknown_events_are_messages_and_invalid_ones_say_why() {
        let unknown = contact("<ChangeType>paint_user</ChangeType>");
        assert_eq!(unknown.meaning.unwrap().subject, Subject::Other);
        assert_eq!(read_ok("<xml/>").meaning.unwrap().subject, Subject::Other);
        let nameless = contact("<ChangeType>delete_user</ChangeType>");
        assert!(nameless.meaning.unwrap_err().contains("no UserID"));
        let timeless = read_ok(
            "<xml><Event>change_contact</Event><ChangeType>delete_user</ChangeType><UserID>a</UserID></xml>",
        );
        assert!(timeless.meaning.unwrap_err().contains("unix seconds"));
        assert!(read(b"not xml", "ww1").is_err());
    }
}
