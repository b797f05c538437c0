//! Decrypted messages: from XML to the directory's [`Event`] (doc 90969 to 90976, 90376, 90639).

use serde_json::{Map, Value as Json};

use super::xml::{self, Element, XmlError};
use crate::directory::attributes::normal_attributes;
use crate::directory::text::{self, excerpt, items, normal};
use crate::directory::{
    BatchJob, DepartmentEvent, DepartmentField, DepartmentId, Event, Field, Fields, MemberEvent, MemberField,
    Subject, TagEvent, TagId, Trigger, UnixSeconds, UserId, Value,
};

/// Characters of event, change_type and subject at most: they are indexed, and name the event in the log.
const MAX_NAME: usize = 128;
/// Unreadable fields and items that are named for each message; the others are counted.
const MAX_NAMED: usize = 8;

/// A message as it is recorded, and what it means.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Event, or InfoType of a third-party suite, or the MsgType of a message that is no event; empty if there is
    /// none of them.
    pub event: String,
    /// ChangeType; empty if there is none.
    pub change_type: String,
    /// The userid, department id, tag id or job that it is about, as written; else its sender.
    pub subject: String,
    /// CreateTime, or TimeStamp of a third-party suite.
    pub create_time: Option<UnixSeconds>,
    /// What it means, or why it means nothing.
    pub meaning: Result<Event, String>,
    /// Fields and items of lists that cannot be read.
    pub passed_over: Vec<String>,
    /// Whose concern it is.
    pub concern: Concern,
    /// Why the directory may lack something that this message tells, if so: only a comparison finds it.
    pub missed: Option<&'static str>,
}

/// Whose concern a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concern {
    /// An event that this program acts on.
    Directory,
    /// What a member does or writes in an app: text, image, LOCATION, click, ..
    Conversation,
    /// An event that this program does not know.
    Unknown,
}

/// The events that [`read`] gives a meaning to.
const DIRECTORY: [&str; 5] =
    ["change_contact", "subscribe", "unsubscribe", "enter_agent", "batch_job_result"];

/// Events of an app's callback that tell what a member does in the app (doc 90240), without those that name the app in
/// AgentID.
const CONVERSATION: [&str; 16] = [
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

/// Reads a decrypted message.
///
/// `corp_id` is our own company: a third-party suite's callback tells of others too, which are ignored.
///
/// # Errors
/// If it is no XML of the kind that WeCom sends. Anything else, known or not, is a message.
pub fn read(payload: &[u8], corp_id: &str) -> Result<Message, XmlError> {
    let root = xml::parse(payload)?;
    let trimmed = |name: &str| root.get(name).map_or("", str::trim);
    let of_suite = root.get("Event").is_none() && root.get("InfoType").is_some();
    let event = trimmed(if of_suite { "InfoType" } else { "Event" });
    let change_type = trimmed("ChangeType");
    let time = trimmed(if of_suite { "TimeStamp" } else { "CreateTime" });
    let create_time = time.parse().ok().filter(|t| *t >= 0).map(UnixSeconds);

    let mut reader = Reader { root: &root, passed_over: Vec::new(), unnamed: 0, missed: None };
    let foreign = of_suite && root.get("AuthCorpId").is_some_and(|corp| corp.trim() != corp_id);
    let subject = if foreign { Ok(Subject::Other) } else { reader.subject(event, change_type) };
    let meaning = match (subject, create_time) {
        (Ok(Subject::Other), _) => Ok(Event { at: create_time.unwrap_or_default(), subject: Subject::Other }),
        (Ok(subject), Some(at)) => Ok(Event { at, subject }),
        (Ok(_), None) => Err(format!("its time \"{}\" is not in unix seconds", excerpt(time))),
        (Err(reason), _) => Err(reason),
    };
    let is_about_members = !matches!(event, "subscribe" | "unsubscribe" | "enter_agent");
    let invalid = (meaning.is_err() && is_about_members).then_some("an event could not be applied");
    let concern = concern(event, trimmed("MsgType"), root.get("AgentID").is_some());
    Ok(Message {
        event: name(if event.is_empty() { trimmed("MsgType") } else { event }),
        change_type: name(change_type),
        subject: name(about(&root, concern)),
        create_time,
        meaning,
        missed: invalid.or(reader.missed),
        passed_over: reader.named(),
        concern,
    })
}

/// A message that [`read`] cannot read: what can be found of its type, subject and time, for the record.
#[must_use]
pub fn unreadable(payload: &[u8], error: XmlError) -> Message {
    let payload = text::decode(payload);
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
        Concern::Conversation => &["FromUserName"],
        _ => &["UserID", "Id", "TagId", "FromUserName"],
    };
    Message {
        event: name(first(&["Event", "InfoType", "MsgType"])),
        change_type: name(found("ChangeType")),
        subject: name(first(subject)),
        create_time: first(&["CreateTime", "TimeStamp"]).parse().ok().filter(|t| *t >= 0).map(UnixSeconds),
        // Without an excerpt: it may be a message to a colleague.
        meaning: Err(error.to_string()),
        passed_over: Vec::new(),
        concern,
        missed: (concern != Concern::Conversation).then_some("an event could not be read"),
    }
}

fn concern(event: &str, msg_type: &str, names_an_app: bool) -> Concern {
    if DIRECTORY.contains(&event) {
        return Concern::Directory;
    }
    let is_event = msg_type.is_empty() || msg_type == "event";
    let is_conversation = CONVERSATION.iter().any(|known| known.eq_ignore_ascii_case(event));
    if !is_event || is_conversation || names_an_app { Concern::Conversation } else { Concern::Unknown }
}

fn about(root: &Element, concern: Concern) -> &str {
    let trimmed = |name: &str| root.get(name).map_or("", str::trim);
    if concern == Concern::Conversation {
        return trimmed("FromUserName");
    }
    let named = ["UserID", "Id", "TagId"].iter().map(|name| trimmed(name)).find(|text| !text.is_empty());
    named.unwrap_or_else(|| match root.child("BatchJob") {
        Some(job) => job.get("JobId").map_or("", str::trim),
        None => trimmed("FromUserName"),
    })
}

fn name(text: &str) -> String {
    normal(&text.chars().take(MAX_NAME).collect::<String>()).into_owned()
}

struct Reader<'a> {
    root: &'a Element,
    passed_over: Vec<String>,
    /// Those that are not in `passed_over` any more.
    unnamed: usize,
    missed: Option<&'static str>,
}

impl Reader<'_> {
    fn pass_over(&mut self, name: &str, text: &str) {
        if self.passed_over.len() < MAX_NAMED {
            self.passed_over.push(format!("{name}={}", excerpt(text)));
        } else {
            self.unnamed += 1;
        }
    }

    fn named(mut self) -> Vec<String> {
        if self.unnamed > 0 {
            self.passed_over.push(format!("and {} more", self.unnamed));
        }
        self.passed_over
    }

    fn subject(&mut self, event: &str, change_type: &str) -> Result<Subject, String> {
        match event {
            "change_contact" => self.contact(change_type),
            "subscribe" => self.trigger(Trigger::Subscribe),
            "unsubscribe" => self.trigger(Trigger::Unsubscribe),
            "enter_agent" => self.trigger(Trigger::EnterAgent),
            "batch_job_result" => {
                let job = self.root.child("BatchJob").ok_or("it has no BatchJob")?;
                let job_type = job.get("JobType").map_or("", str::trim).to_owned();
                Ok(Subject::BatchJob(BatchJob { job_type }))
            }
            _ => Ok(Subject::Other),
        }
    }

    fn contact(&mut self, change_type: &str) -> Result<Subject, String> {
        match change_type {
            "create_user" => Ok(Subject::Member(self.userid("UserID")?, MemberEvent::Created(self.member()))),
            "update_user" => {
                let userid = self.userid("UserID")?;
                let renamed = self.root.get("NewUserID").is_some_and(|new| !new.trim().is_empty());
                let event = if renamed {
                    MemberEvent::Renamed(self.userid("NewUserID")?, self.member())
                } else {
                    MemberEvent::Updated(self.member())
                };
                Ok(Subject::Member(userid, event))
            }
            "delete_user" => Ok(Subject::Member(self.userid("UserID")?, MemberEvent::Deleted)),
            "create_party" => Ok(Subject::Department(
                DepartmentId(self.id("Id")?),
                DepartmentEvent::Created(self.department()),
            )),
            "update_party" => Ok(Subject::Department(
                DepartmentId(self.id("Id")?),
                DepartmentEvent::Updated(self.department()),
            )),
            "delete_party" => Ok(Subject::Department(DepartmentId(self.id("Id")?), DepartmentEvent::Deleted)),
            "update_tag" => {
                let tag = TagId(self.id("TagId")?);
                Ok(Subject::Tag(
                    tag,
                    TagEvent {
                        added_members: self.list("AddUserItems", text::userid),
                        removed_members: self.list("DelUserItems", text::userid),
                        added_departments: self.list("AddPartyItems", department_id),
                        removed_departments: self.list("DelPartyItems", department_id),
                    },
                ))
            }
            _ => Ok(Subject::Other),
        }
    }

    fn trigger(&self, trigger: Trigger) -> Result<Subject, String> {
        Ok(Subject::Trigger(self.userid("FromUserName")?, trigger))
    }

    fn userid(&self, name: &str) -> Result<UserId, String> {
        let text = self.root.get(name).ok_or_else(|| format!("it has no {name}"))?;
        UserId::parse(text.trim()).map_err(|bad| bad.to_string())
    }

    fn id(&self, name: &str) -> Result<u32, String> {
        let text = self.root.get(name).ok_or_else(|| format!("it has no {name}"))?.trim();
        text::number(text).ok_or_else(|| format!("its {name} \"{}\" is not an id", excerpt(text)))
    }

    /// The readable items of a list; an unreadable one costs only itself.
    fn list<T>(&mut self, name: &str, read: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let mut list = Vec::new();
        for item in items(self.root.get(name).unwrap_or("")).filter(|item| !item.is_empty()) {
            match read(item) {
                Some(item) => list.push(item),
                None => {
                    self.missed = Some("a list of an event has items that cannot be read");
                    self.pass_over(name, item);
                }
            }
        }
        list
    }

    fn member(&mut self) -> Fields<MemberField> {
        let mut fields = Fields::new();
        for field in MemberField::ALL {
            let element = match field {
                MemberField::Name => "Name",
                MemberField::Alias => "Alias",
                MemberField::Mobile => "Mobile",
                MemberField::Telephone => "Telephone",
                MemberField::Email => "Email",
                MemberField::BizMail => "BizMail",
                MemberField::Position => "Position",
                MemberField::Gender => "Gender",
                MemberField::Status => "Status",
                MemberField::Avatar => "Avatar",
                MemberField::Address => "Address",
                MemberField::MainDepartment => "MainDepartment",
                MemberField::DirectLeader => "DirectLeader",
                MemberField::ExtAttr => "ExtAttr",
                // Read together, below.
                MemberField::Department | MemberField::LeaderOf => continue,
            };
            self.field(*field, element, &mut fields);
        }
        self.departments(&mut fields);
        fields
    }

    /// Department and IsLeaderInDept. The flags are in the order of the departments told with them, of which an
    /// unreadable one takes its flag along; without those, the fold finds out.
    fn departments(&mut self, fields: &mut Fields<MemberField>) {
        let root = self.root;
        let list = |name: &str| root.get(name).map(|list| items(list).collect::<Vec<_>>());
        let (told, flags) = (list("Department"), list("IsLeaderInDept"));
        let mut ids: Vec<Option<u32>> = Vec::new();
        for item in told.iter().flatten() {
            let id = text::number(item);
            if id.is_none() && !item.is_empty() {
                self.missed = Some("a list of an event has items that cannot be read");
                self.pass_over("Department", item);
            }
            ids.push(id);
        }
        let readable: Vec<u32> = ids.iter().copied().flatten().collect();
        // Not one readable item is no empty list: it would take the member out of all departments.
        let is_told = told.is_some() && (!readable.is_empty() || ids.is_empty());
        if is_told {
            fields.insert(MemberField::Department, Value::Ids(readable.clone()));
        }
        let Some(flags) = flags else { return };
        let flags: Vec<bool> = flags.iter().map(|flag| self.flag(flag)).collect();
        if is_told {
            // Some senders leave empty places out of the flags.
            let places =
                if flags.len() == ids.len() { ids } else { readable.into_iter().map(Some).collect() };
            let led = places.iter().zip(&flags).filter_map(|(id, leads)| id.filter(|_| *leads));
            fields.insert(MemberField::LeaderOf, Value::Ids(led.collect()));
        } else if told.is_none() {
            fields.insert(MemberField::LeaderOf, Value::Flags(flags));
        }
    }

    /// A flag of IsLeaderInDept; an unreadable one keeps its place, as no.
    fn flag(&mut self, flag: &str) -> bool {
        if !matches!(flag, "0" | "1" | "") {
            self.pass_over("IsLeaderInDept", flag);
        }
        flag == "1"
    }

    fn department(&mut self) -> Fields<DepartmentField> {
        let mut fields = Fields::new();
        for field in DepartmentField::ALL {
            let element = match field {
                DepartmentField::Name => "Name",
                DepartmentField::ParentId => "ParentId",
                DepartmentField::Order => "Order",
            };
            self.field(*field, element, &mut fields);
        }
        fields
    }

    /// Reads an element into a field, if it is there. One that makes no sense is passed over, as absent:
    /// the rest of the event is still worth having.
    fn field<F: Field>(&mut self, field: F, name: &str, fields: &mut Fields<F>) {
        use crate::directory::fields::Sort;
        let Some(element) = self.root.child(name) else { return };
        let content = element.text.trim();
        let value = match field.sort() {
            Sort::Text if name == "DirectLeader" => self.direct_leader(content),
            Sort::Text => Some(Value::text(content)),
            Sort::Int if content.is_empty() => Some(Value::Emptied),
            Sort::Int => text::number(content).map(|n| Value::Int(n.into())),
            Sort::Attrs => Some(self.attributes(element)),
            // Department and IsLeaderInDept.
            Sort::Ids | Sort::Leads => None,
        };
        match value {
            Some(value) => {
                fields.insert(field, value);
            }
            None => {
                if name == "ParentId" {
                    self.missed = Some("an event has a ParentId that cannot be read");
                }
                self.pass_over(name, content);
            }
        }
    }

    /// ExtAttr. An Item without elements has neither name nor value.
    fn attributes(&mut self, ext_attr: &Element) -> Value {
        let items = ext_attr.children.iter().filter(|child| child.name == "Item");
        let (items, empty): (Vec<_>, Vec<_>) = items.partition(|item| !item.children.is_empty());
        for item in empty {
            self.pass_over("ExtAttr", item.text.trim());
        }
        Value::Attrs(normal_attributes(&items.into_iter().map(as_json).collect::<Vec<_>>()))
    }

    fn direct_leader(&mut self, list: &str) -> Option<Value> {
        let leaders = text::userid_list(items(list))?;
        for item in items(list).filter(|item| !item.is_empty() && text::userid(item).is_none()) {
            self.pass_over("DirectLeader", item);
        }
        Some(Value::text(&leaders))
    }
}

fn department_id(text: &str) -> Option<DepartmentId> {
    text::number(text).map(DepartmentId)
}

/// An element as JSON, for [`normal_attributes`].
fn as_json(element: &Element) -> Json {
    if element.children.is_empty() {
        return element.text.as_str().into();
    }
    let mut object = Map::new();
    for child in &element.children {
        object.entry(child.name.clone()).or_insert_with(|| as_json(child));
    }
    Json::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
    fn every_field_of_a_full_create_user_is_read() {
        let message = contact(
            "<ChangeType>create_user</ChangeType><UserID>ZhangSan</UserID><Name>张三</Name>\
             <Department>1,2,3</Department><MainDepartment>1</MainDepartment><IsLeaderInDept>1,0,0</IsLeaderInDept>\
             <DirectLeader>lisi,wangwu</DirectLeader><Position>产品经理</Position><Mobile>13800000000</Mobile>\
             <Gender>1</Gender><Email>z@example.com</Email><BizMail>z@corp.example.com</BizMail><Status>4</Status>\
             <Avatar>http://example.com/a</Avatar><Alias>san</Alias><Telephone>020-123</Telephone><Address>广州</Address>\
             <ExtAttr><Item><Name>工号</Name><Type>0</Type><Text><Value>007</Value></Text></Item>\
             <Item><Name>主页</Name><Type>1</Type><Web><Title>me</Title><Url>https://example.com</Url></Web></Item></ExtAttr>",
        );
        assert_eq!(message.passed_over, Vec::<String>::new());
        let event = message.meaning.unwrap();
        assert_eq!(event.at, UnixSeconds(1_700_000_000));
        let Subject::Member(userid, MemberEvent::Created(fields)) = event.subject else {
            panic!("{event:?}")
        };
        assert_eq!(userid.as_str(), "ZhangSan");
        assert_eq!(fields.len(), MemberField::ALL.len());
        assert_eq!(fields[&MemberField::Department], Value::Ids(vec![1, 2, 3]));
        assert_eq!(fields[&MemberField::LeaderOf], Value::Ids(vec![1]));
        assert_eq!(fields[&MemberField::Gender], Value::Int(1));
        assert_eq!(
            fields[&MemberField::ExtAttr],
            Value::Attrs(json!([
                {"type": 0, "name": "工号", "text": {"value": "007"}},
                {"type": 1, "name": "主页", "web": {"url": "https://example.com", "title": "me"}}
            ]))
        );
    }

    #[test]
    fn absent_fields_are_absent_and_empty_ones_emptied() {
        let message =
            contact("<ChangeType>update_user</ChangeType><UserID>a</UserID><Position></Position><Gender/>");
        let Ok(Event { subject: Subject::Member(_, MemberEvent::Updated(fields)), .. }) = message.meaning
        else {
            panic!("not an update")
        };
        assert_eq!(fields.len(), 2);
        assert_eq!(fields[&MemberField::Position], Value::Emptied);
        assert_eq!(fields[&MemberField::Gender], Value::Emptied);
    }

    fn fields_of(message: Message) -> Fields<MemberField> {
        match message.meaning.unwrap().subject {
            Subject::Member(_, MemberEvent::Created(fields) | MemberEvent::Updated(fields)) => fields,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_field_that_makes_no_sense_does_not_lose_the_others() {
        let message = contact(
            "<ChangeType>update_user</ChangeType><UserID>a</UserID><Department>x, ,-1</Department>\
             <IsLeaderInDept>1</IsLeaderInDept><Gender>male</Gender><DirectLeader>李四</DirectLeader><Name>b</Name>",
        );
        assert_eq!(
            message.passed_over,
            ["Gender=male", "DirectLeader=李四", "Department=x", "Department=-1"]
        );
        assert!(message.missed.is_some());
        let fields = fields_of(message);
        assert_eq!(fields.keys().collect::<Vec<_>>(), [&MemberField::Name]);
    }

    #[test]
    fn an_unreadable_item_takes_only_its_flag_along() {
        for (departments, flags, ids, led) in [
            ("1,x,3", "0,1,1", vec![1, 3], vec![3]),
            ("1, x ,3", " 1 ,0, 0", vec![1, 3], vec![1]),
            ("1,,3", "1,0,1", vec![1, 3], vec![1, 3]),
            ("1,,3", "0,1", vec![1, 3], vec![3]),
            ("1,2,", "0,1,", vec![1, 2], vec![2]),
            ("1,2", "?,1", vec![1, 2], vec![2]),
            ("1,2", "1", vec![1, 2], vec![1]),
            ("1", "1,1", vec![1], vec![1]),
            ("", "", vec![], vec![]),
            ("4294967296,5", "1,1", vec![5], vec![5]),
        ] {
            let fields = fields_of(contact(&format!(
                "<ChangeType>update_user</ChangeType><UserID>a</UserID><Department>{departments}</Department>\
                 <IsLeaderInDept>{flags}</IsLeaderInDept>"
            )));
            assert_eq!(fields[&MemberField::Department], Value::Ids(ids), "{departments}");
            assert_eq!(fields[&MemberField::LeaderOf], Value::Ids(led), "{departments} {flags}");
        }
    }

    #[test]
    fn unreadable_items_of_a_tag_cost_only_themselves_and_are_named_once() {
        let many: String = (0..100).map(|n| format!("李{n},")).collect();
        let message = contact(&format!(
            "<ChangeType>update_tag</ChangeType><TagId>1</TagId><AddUserItems>ok1,李四, ok2</AddUserItems>\
             <DelUserItems>{many}gone</DelUserItems><AddPartyItems>1,x,3</AddPartyItems>"
        ));
        assert_eq!(message.passed_over[0], "AddUserItems=李四");
        assert_eq!(message.passed_over.len(), MAX_NAMED + 1);
        assert_eq!(message.passed_over[MAX_NAMED], "and 94 more");
        assert!(message.missed.is_some());
        let Subject::Tag(_, tag) = message.meaning.unwrap().subject else { panic!("not a tag") };
        let counts = [tag.added_members.len(), tag.removed_members.len(), tag.added_departments.len()];
        assert_eq!(counts, [2, 1, 2]);
    }

    /// What members do and write in an app is their own; events of the directory and unknown ones are stored.
    #[test]
    fn conversations_are_told_from_events() {
        let of = |inner: &str| {
            let message = read_ok(&format!(
                "<xml><FromUserName>zs</FromUserName><CreateTime>5</CreateTime>{inner}</xml>"
            ));
            (message.concern, message.event, message.subject)
        };
        let conversation = |kind: &str| (Concern::Conversation, kind.to_owned(), "zs".to_owned());
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
    fn of_what_cannot_be_read_the_record_tells_what_can_be_found() {
        let broken = "<xml><FromUserName><![CDATA[sys]]></FromUserName><CreateTime>5</CreateTime>\
                      <Event>change_contact</Event><ChangeType>create_user</ChangeType><UserID><![CDATA[zs]]></UserID><Name>a";
        let error = read(broken.as_bytes(), "ww1").unwrap_err();
        let message = unreadable(broken.as_bytes(), error);
        let found = [message.event.as_str(), &message.change_type, &message.subject];
        assert_eq!(found, ["change_contact", "create_user", "zs"]);
        assert_eq!((message.create_time, message.concern), (Some(UnixSeconds(5)), Concern::Directory));
        assert!(message.meaning.is_err() && message.missed.is_some());
        let chat =
            unreadable(b"<xml><FromUserName>zs</FromUserName><MsgType>text</MsgType><Content>x", error_of());
        assert_eq!((chat.concern, chat.missed, chat.event.as_str()), (Concern::Conversation, None, "text"));
        let nothing = unreadable(b"hello", error_of());
        assert_eq!((nothing.concern, nothing.event.as_str()), (Concern::Unknown, ""));
    }

    fn error_of() -> XmlError {
        read(b"hello", "ww1").unwrap_err()
    }

    #[test]
    fn renames_departments_tags_and_triggers_are_told_apart() {
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
    fn third_party_suites_name_their_parts_otherwise() {
        let xml = "<xml><SuiteId>s</SuiteId><AuthCorpId>ww1</AuthCorpId><InfoType>change_contact</InfoType>\
                   <TimeStamp>1403610513</TimeStamp><ChangeType>delete_user</ChangeType><UserID>a</UserID></xml>";
        let message = read_ok(xml);
        assert_eq!((message.event.as_str(), message.change_type.as_str()), ("change_contact", "delete_user"));
        assert!(matches!(message.meaning.unwrap().subject, Subject::Member(_, MemberEvent::Deleted)));
        let foreign = read(xml.as_bytes(), "another").unwrap();
        assert_eq!(foreign.meaning.unwrap().subject, Subject::Other);
    }

    #[test]
    fn what_the_log_is_told_of_a_message_is_short() {
        let long = "7".repeat(5000);
        let id = contact(&format!("<ChangeType>delete_party</ChangeType><Id>{long}</Id>"));
        let time = read_ok(&format!(
            "<xml><CreateTime>{long}</CreateTime><Event>change_contact</Event>\
             <ChangeType>delete_user</ChangeType><UserID>a</UserID></xml>"
        ));
        let field = contact(&format!(
            "<ChangeType>update_user</ChangeType><UserID>a</UserID><Gender>{long}</Gender>"
        ));
        for line in [id.meaning.unwrap_err(), time.meaning.unwrap_err(), field.passed_over.concat()] {
            assert!(line.contains("777") && line.len() < 150, "{line}");
        }
    }

    #[test]
    fn unknown_events_are_messages_and_broken_ones_say_why() {
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
