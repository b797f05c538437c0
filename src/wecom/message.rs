//! Decrypted messages: from XML to the directory's [`Event`] (doc 90969 to 90976, 90376, 90639).

use serde_json::{Map, Value as Json, json};

use super::xml::{self, Element, XmlError};
use crate::directory::fields::parse_userids;
use crate::directory::{
    BatchJob, DepartmentEvent, DepartmentField, DepartmentId, Event, Field, Fields, MemberEvent, MemberField,
    Subject, TagEvent, TagId, Trigger, UnixSeconds, UserId, Value,
};

/// A message as it is recorded, and what it means.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Event, or InfoType of a third-party suite; empty if there is neither.
    pub event: String,
    /// ChangeType; empty if there is none.
    pub change_type: String,
    /// The userid, department id, tag id or job that it is about, as written.
    pub subject: String,
    /// CreateTime, or TimeStamp of a third-party suite.
    pub create_time: Option<UnixSeconds>,
    /// What it means, or why it means nothing.
    pub meaning: Result<Event, String>,
    /// Fields that could not be read and were passed over.
    pub passed_over: Vec<String>,
}

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

    let mut reader = Reader { root: &root, passed_over: Vec::new() };
    let foreign = of_suite && root.get("AuthCorpId").is_some_and(|corp| corp.trim() != corp_id);
    let subject = if foreign { Ok(Subject::Other) } else { reader.subject(event, change_type) };
    let passed_over = reader.passed_over;
    let meaning = match (subject, create_time) {
        (Ok(Subject::Other), _) => Ok(Event { at: create_time.unwrap_or_default(), subject: Subject::Other }),
        (Ok(subject), Some(at)) => Ok(Event { at, subject }),
        (Ok(_), None) => Err(format!("its time \"{}\" is not in unix seconds", shown(time))),
        (Err(reason), _) => Err(reason),
    };
    let subject = ["UserID", "Id", "TagId"].iter().map(|name| trimmed(name)).find(|text| !text.is_empty());
    let subject = subject.unwrap_or_else(|| match root.child("BatchJob") {
        Some(job) => job.get("JobId").map_or("", str::trim),
        None => trimmed("FromUserName"),
    });
    Ok(Message {
        event: event.to_owned(),
        change_type: change_type.to_owned(),
        subject: subject.to_owned(),
        create_time,
        meaning,
        passed_over,
    })
}

struct Reader<'a> {
    root: &'a Element,
    passed_over: Vec<String>,
}

impl Reader<'_> {
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
                        added_members: self.userids("AddUserItems")?,
                        removed_members: self.userids("DelUserItems")?,
                        added_departments: self.departments("AddPartyItems")?,
                        removed_departments: self.departments("DelPartyItems")?,
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
        text.parse().map_err(|_| format!("its {name} \"{}\" is not an id", shown(text)))
    }

    fn userids(&self, name: &str) -> Result<Vec<UserId>, String> {
        parse_userids(self.root.get(name).unwrap_or("")).map_err(|bad| bad.to_string())
    }

    fn departments(&self, name: &str) -> Result<Vec<DepartmentId>, String> {
        let ids = ids(self.root.get(name).unwrap_or(""));
        let ids = ids.ok_or_else(|| format!("its {name} is not a list of ids"))?;
        Ok(ids.into_iter().map(DepartmentId).collect())
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
                MemberField::Department => "Department",
                MemberField::LeaderOf => "IsLeaderInDept",
            };
            self.field(*field, element, &mut fields);
        }
        // The flags follow the order of the departments told with them; without those, the fold finds out.
        if let (Some(Value::Ids(departments)), Some(Value::Flags(flags))) =
            (fields.get(&MemberField::Department), fields.get(&MemberField::LeaderOf))
        {
            let led = departments.iter().zip(flags).filter(|(_, leads)| **leads);
            let led = led.map(|(id, _)| *id).collect();
            fields.insert(MemberField::LeaderOf, Value::Ids(led));
        }
        fields
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
        let text = element.text.trim();
        let value = match field.sort() {
            Sort::Text => Some(Value::text(text)),
            Sort::Int if text.is_empty() => Some(Value::Emptied),
            Sort::Int => u32::try_from(text.parse::<i64>().unwrap_or(-1)).ok().map(|n| Value::Int(n.into())),
            Sort::Ids => ids(text).map(Value::Ids),
            Sort::Leads => flags(text).map(Value::Flags),
            Sort::Attrs => Some(Value::Attrs(Json::Array(attributes(element)))),
        };
        match value {
            Some(value) => {
                fields.insert(field, value);
            }
            None => self.passed_over.push(format!("{name}={}", shown(text))),
        }
    }
}

/// As much of a text as a log line can hold, without control characters.
fn shown(text: &str) -> String {
    text.escape_debug().take(80).collect()
}

/// A comma list of ids.
fn ids(text: &str) -> Option<Vec<u32>> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    items.map(|item| item.parse().ok()).collect()
}

/// A comma list of 0 and 1.
fn flags(text: &str) -> Option<Vec<bool>> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    items
        .map(|item| match item {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        })
        .collect()
}

/// ExtAttr's items in the form of the API's `extattr.attrs` (doc 90196), so that both sources give the
/// same. What this program does not know is kept all the same.
fn attributes(ext_attr: &Element) -> Vec<Json> {
    let items = ext_attr.children.iter().filter(|child| child.name == "Item");
    items
        .map(|item| {
            let mut attribute = Map::new();
            let kind = item.get("Type").map_or("", str::trim);
            attribute.insert("type".into(), kind.parse::<i64>().map_or_else(|_| json!(kind), Json::from));
            attribute.insert("name".into(), item.get("Name").unwrap_or("").into());
            for part in item.children.iter().filter(|c| c.name != "Type" && c.name != "Name") {
                attribute.insert(part.name.to_ascii_lowercase(), as_json(part));
            }
            Json::Object(attribute)
        })
        .collect()
}

fn as_json(element: &Element) -> Json {
    if element.children.is_empty() {
        return element.text.as_str().into();
    }
    let children = element.children.iter();
    Json::Object(children.map(|c| (c.name.to_ascii_lowercase(), as_json(c))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

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
                {"type": 1, "name": "主页", "web": {"title": "me", "url": "https://example.com"}}
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

    #[test]
    fn a_field_that_makes_no_sense_does_not_lose_the_others() {
        let message = contact(
            "<ChangeType>update_user</ChangeType><UserID>a</UserID><Department>1,x</Department><Name>b</Name>",
        );
        assert_eq!(message.passed_over, ["Department=1,x"]);
        let Ok(Event { subject: Subject::Member(_, MemberEvent::Updated(fields)), .. }) = message.meaning
        else {
            panic!("not an update")
        };
        assert_eq!(fields.keys().collect::<Vec<_>>(), [&MemberField::Name]);
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
