//! The elements of an event (doc 90970 to 90976): from XML to the directory's types.
//!
//! What cannot be read costs only itself: an unreadable field counts as absent, an unreadable item of a list is left
//! out. Both are named, and where a comparison would find what was meant, one becomes due.

use serde_json::{Map, Value as Json};

use super::xml::Element;
use crate::directory::attributes::normal_attributes;
use crate::directory::fields::FieldKind;
use crate::directory::text::{self, excerpt, items};
use crate::directory::{
    BatchJob, DepartmentEvent, DepartmentField, DepartmentId, Field, Fields, MemberEvent, MemberField,
    Subject, TagEvent, TagId, Trigger, UserId, Value,
};

/// Unreadable fields and items that are named for each message; the others are counted.
const MAX_NAMED: usize = 8;

/// Reads the elements of one message, and keeps account of what it cannot read.
pub(super) struct Reader<'a> {
    root: &'a Element,
    passed_over: Vec<String>,
    /// How many more were passed over.
    unnamed: usize,
    missed: Option<&'static str>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(root: &'a Element) -> Self {
        Self { root, passed_over: Vec::new(), unnamed: 0, missed: None }
    }

    /// Why the directory may lack something that the message tells, if so.
    pub(super) fn missed(&self) -> Option<&'static str> {
        self.missed
    }

    fn pass_over(&mut self, name: &str, text: &str) {
        if self.passed_over.len() < MAX_NAMED {
            self.passed_over.push(format!("{name}={}", excerpt(text)));
        } else {
            self.unnamed += 1;
        }
    }

    /// Fields and items that could not be read, some of them by name.
    pub(super) fn passed_over(mut self) -> Vec<String> {
        if self.unnamed > 0 {
            self.passed_over.push(format!("and {} more", self.unnamed));
        }
        self.passed_over
    }

    /// What an event is about.
    pub(super) fn subject(&mut self, event: &str, change_type: &str) -> Result<Subject, String> {
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
                None => self.miss_item(name, item),
            }
        }
        list
    }

    /// An item of a list cannot be read: a comparison finds what it was.
    fn miss_item(&mut self, name: &str, item: &str) {
        self.missed = Some("a list of an event has items that cannot be read");
        self.pass_over(name, item);
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
                self.miss_item("Department", item);
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
        let Some(element) = self.root.child(name) else { return };
        let content = element.text.trim();
        let value = match field.kind() {
            FieldKind::Text if name == "DirectLeader" => self.direct_leader(content),
            FieldKind::Text => Some(Value::text(content)),
            FieldKind::Int if content.is_empty() => Some(Value::Cleared),
            FieldKind::Int => text::number(content).map(|n| Value::Int(n.into())),
            FieldKind::Attrs => Some(self.attributes(element)),
            // Department and IsLeaderInDept.
            FieldKind::Ids | FieldKind::Leads => None,
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
    use crate::directory::UnixSeconds;
    use crate::wecom::callback::message::{Message, read};
    use serde_json::json;

    fn contact(inner: &str) -> Message {
        let message = format!(
            "<xml><ToUserName>ww1</ToUserName><FromUserName>sys</FromUserName><CreateTime>1700000000</CreateTime>\
             <MsgType>event</MsgType><Event>change_contact</Event>{inner}</xml>"
        );
        read(message.as_bytes(), "ww1").unwrap()
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
        let Ok(crate::directory::Event { subject: Subject::Member(_, MemberEvent::Updated(fields)), .. }) =
            message.meaning
        else {
            panic!("not an update")
        };
        assert_eq!(fields.len(), 2);
        assert_eq!(fields[&MemberField::Position], Value::Cleared);
        assert_eq!(fields[&MemberField::Gender], Value::Cleared);
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
}
