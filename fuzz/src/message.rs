//! The decrypted XML of an event.

use wecom_dirsync::directory::fact::timed;
use wecom_dirsync::directory::members::{MemberFact, Record};
use wecom_dirsync::directory::{
    DepartmentEvent, Fact, Field, Fields, MemberEvent, MemberField, Presence, Rank, Source, Stamp, Subject,
    UserId,
};
use wecom_dirsync::wecom::callback::message::{self, Message};
use wecom_dirsync::wecom::callback::xml::{self, Element};

use super::Draw;
use super::answers::values;

const CORP: &str = "wx5823bf96d3bd56c7";

/// The input is a message, or choices from which a message with WeCom's names is composed.
pub fn check(data: &[u8]) {
    let mut draw = Draw(data);
    match draw.byte() % 2 {
        0 => read(draw.0),
        _ => read(&compose(&mut draw)),
    }
}

const EVENTS: [&str; 6] =
    ["change_contact", "subscribe", "unsubscribe", "enter_agent", "batch_job_result", "sys_approval_change"];
const CHANGES: &str =
    "create_user update_user delete_user create_party update_party delete_party update_tag  paint_user";
const ELEMENTS: &str = "UserID NewUserID Id TagId Name Alias Mobile Telephone Email BizMail Position Gender Status Avatar \
    Address MainDepartment DirectLeader ExtAttr Department IsLeaderInDept ParentId Order AddUserItems \
    DelUserItems AddPartyItems DelPartyItems BatchJob JobId JobType FromUserName InfoType TimeStamp \
    AuthCorpId Item Type Text Value CreateTime x";

/// Composes the first elements of an event, then elements from a name, a nesting, and a content up to the next NUL.
fn compose(draw: &mut Draw<'_>) -> Vec<u8> {
    let mut text = format!(
        "<xml><CreateTime>5</CreateTime><Event>{}</Event><ChangeType>{}</ChangeType>",
        draw.of(&EVENTS[..]),
        draw.one_of(CHANGES)
    )
    .into_bytes();
    let mut open = Vec::new();
    while !draw.done() {
        let name = draw.one_of(ELEMENTS);
        text.extend_from_slice(format!("<{name}>").as_bytes());
        let content = draw.until(0);
        let how = content.first().copied().unwrap_or_default();
        if how < 0x10 {
            // The following elements are its children.
            open.push(name);
            continue;
        }
        text.extend_from_slice(content);
        text.extend_from_slice(format!("</{name}>").as_bytes());
        if how % 4 == 0 {
            close(&mut text, open.pop());
        }
    }
    while !open.is_empty() {
        close(&mut text, open.pop());
    }
    text.extend_from_slice(b"</xml>");
    text
}

fn close(text: &mut Vec<u8>, name: Option<&str>) {
    if let Some(name) = name {
        text.extend_from_slice(format!("</{name}>").as_bytes());
    }
}

fn read(payload: &[u8]) {
    let parsed = xml::parse(payload);
    let message = message::read(payload, CORP);
    let root = match parsed {
        Ok(root) => root,
        Err(error) => return assert_eq!(message, Err(error)),
    };
    let message = message.expect("it is XML");
    bounded(&root, payload.len());
    sensible(&message);

    // Written from the parsed elements alone, it parses to the same.
    let mut written = String::new();
    if write(&root, &mut written) {
        assert_eq!(xml::parse(written.as_bytes()).as_ref(), Ok(&root), "{written}");
    }
}

fn bounded(root: &Element, length: usize) {
    let (mut elements, mut bytes) = (0, 0);
    let mut level = vec![root];
    let mut depth = 0;
    while !level.is_empty() {
        depth += 1;
        elements += level.len();
        bytes += level.iter().map(|element| element.name.len() + element.text.len()).sum::<usize>();
        level = level.into_iter().flat_map(|element| &element.children).collect();
    }
    assert!(depth <= 16 && elements <= 4096 && bytes <= 3 * length, "{depth} {elements} {bytes}");
}

/// Writes an element; returns false if it has characters that XML cannot represent unescaped.
fn write(element: &Element, to: &mut String) -> bool {
    if element.text.chars().any(|c| (c.is_control() && c != '\n' && c != '\t') || c >= '\u{fffe}') {
        return false;
    }
    *to += &format!("<{}>", element.name);
    if !element.text.is_empty() {
        *to += &format!("<![CDATA[{}]]>", element.text.replace("]]>", "]]]]><![CDATA[>"));
    }
    let written = element.children.iter().all(|child| write(child, to));
    *to += &format!("</{}>", element.name);
    written
}

fn sensible(message: &Message) {
    for part in [&message.event, &message.change_type, &message.subject] {
        assert_eq!(part.trim(), part);
    }
    assert!(message.create_time.is_none_or(|at| at.0 >= 0));
    // These are logged.
    assert!(message.skipped.len() <= 9);
    let lines = message.skipped.iter().map(|line| (line, 100));
    for (line, most) in lines.chain(message.meaning.as_ref().err().map(|line| (line, 1000))) {
        assert!(line.chars().count() <= most, "{} characters: {line}", line.chars().count());
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    let Ok(event) = &message.meaning else { return };
    if event.subject == Subject::Other {
        return;
    }
    assert_eq!(Some(event.at), message.create_time);
    let source = Source::Event(event.at);
    let fact = match &event.subject {
        Subject::Member(userid, told) => {
            good(userid);
            match told {
                MemberEvent::Created(fields) => present(source, fields, Presence::Created),
                MemberEvent::Updated(fields) => present(source, fields, Presence::Updated),
                MemberEvent::Renamed(to, fields) => {
                    good(to);
                    values(fields);
                    MemberFact::Renamed(to.clone(), timed(Stamp::new(event.at, Rank::Renamed), fields))
                }
                MemberEvent::Deleted => MemberFact::Entity(Fact::Deleted),
            }
        }
        Subject::Department(_, told) => {
            if let DepartmentEvent::Created(fields) | DepartmentEvent::Updated(fields) = told {
                values(fields);
                let stamp = Stamp::new(event.at, Rank::Created);
                let fact = Fact::present(Presence::Created, source, fields);
                assert_eq!(Fact::from_json(stamp, &fact.to_json(stamp)), Some(fact));
            }
            return;
        }
        Subject::Tag(_, told) => {
            return told.added_members.iter().chain(&told.removed_members).for_each(good);
        }
        Subject::Trigger(userid, _) => return good(userid),
        Subject::BatchJob(_) | Subject::Other => return,
    };
    let record = Record::new(UserId::parse("a").unwrap(), source, 1, fact);
    let kept = serde_json::from_str(&record.member_fact().to_json(record.stamp).to_string()).unwrap();
    let again = MemberFact::from_json(record.stamp, &kept).expect("readable");
    assert_eq!(without_empty_flags(again), without_empty_flags(record.member_fact().clone()));
}

fn good(userid: &UserId) {
    assert!(UserId::parse(userid.as_str()).is_ok_and(|again| again.same_spelling(userid)));
}

fn present(source: Source, fields: &Fields<MemberField>, kind: Presence) -> MemberFact {
    values(fields);
    if let Some(led) = fields.get(&MemberField::LeaderOf) {
        let with_departments = fields.contains_key(&MemberField::Department);
        let is_ids = matches!(led, wecom_dirsync::directory::Value::Ids(_));
        assert_eq!(is_ids, with_departments, "flags are for the fold only where it has the list");
    }
    assert!(fields.keys().all(|field| MemberField::ALL.contains(field)));
    MemberFact::Entity(Fact::present(kind, source, fields))
}

/// A list without a flag is kept as one without an id, which means the same.
fn without_empty_flags(mut fact: MemberFact) -> MemberFact {
    use wecom_dirsync::directory::Value;
    if let MemberFact::Entity(Fact::Present(_, fields)) | MemberFact::Renamed(_, fields) = &mut fact
        && let Some((_, value)) = fields.get_mut(&MemberField::LeaderOf)
        && *value == Value::Flags(Vec::new())
    {
        *value = Value::Ids(Vec::new());
    }
    fact
}
