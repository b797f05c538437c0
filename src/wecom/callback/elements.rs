//! The elements of an event (doc 90970 to 90976): from XML to the directory's types.
//!
//! An unreadable field counts as absent; an unreadable item of a list is left out. Both are named, and a reconcile
//! becomes due if it can find the intended value.

use serde_json::{Map, Value as Json};

use super::xml::Element;
use crate::directory::attributes::normal_attributes;
use crate::directory::fields::FieldKind;
use crate::directory::text::{self, excerpt, items};
use crate::directory::{
    BatchJob, DepartmentEvent, DepartmentField, DepartmentId, Field, Fields, MemberEvent, MemberField,
    Subject, TagEvent, TagId, Trigger, UserId, Value,
};

/// Unreadable fields and items that are named per message; the others are only counted.
const MAX_NAMED: usize = 8;

/// Reads the elements of one message and records what is unreadable.
pub(super) struct Reader<'a> {
    root: &'a Element,
    skipped: Vec<String>,
    /// Number of skipped values beyond [`MAX_NAMED`].
    unnamed: usize,
    /// Why a reconcile is due, if one is.
    pub(super) reconcile_reason: Option<&'static str>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(root: &'a Element) -> Self {
        Self { root, skipped: Vec::new(), unnamed: 0, reconcile_reason: None }
    }

    fn skip(&mut self, name: &str, text: &str) {
        if self.skipped.len() < MAX_NAMED {
            self.skipped.push(format!("{name}={}", excerpt(text)));
        } else {
            self.unnamed += 1;
        }
    }

    /// The unreadable fields and items, [`MAX_NAMED`] of them by name.
    pub(super) fn skipped(mut self) -> Vec<String> {
        if self.unnamed > 0 {
            self.skipped.push(format!("and {} more", self.unnamed));
        }
        self.skipped
    }

    pub(super) fn subject(&mut self, event: &str, change_type: &str) -> Result<Subject, String> {
        match event {
            "change_contact" => self.contact(change_type),
            "subscribe" => self.trigger(Trigger::Subscribe),
            "unsubscribe" => self.trigger(Trigger::Unsubscribe),
            "enter_agent" => self.trigger(Trigger::EnterAgent),
            "batch_job_result" => {
                let job = self.root.child("BatchJob").ok_or("the event has no BatchJob")?;
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
            "create_party" | "update_party" | "delete_party" => {
                let id = DepartmentId(self.id("Id")?);
                let event = match change_type {
                    "create_party" => DepartmentEvent::Created(self.department()),
                    "update_party" => DepartmentEvent::Updated(self.department()),
                    _ => DepartmentEvent::Deleted,
                };
                Ok(Subject::Department(id, event))
            }
            "update_tag" => {
                let tag = TagId(self.id("TagId")?);
                let event = TagEvent {
                    added_members: self.list("AddUserItems", text::userid),
                    removed_members: self.list("DelUserItems", text::userid),
                    added_departments: self.list("AddPartyItems", department_id),
                    removed_departments: self.list("DelPartyItems", department_id),
                };
                Ok(Subject::Tag(tag, event))
            }
            _ => Ok(Subject::Other),
        }
    }

    fn trigger(&self, trigger: Trigger) -> Result<Subject, String> {
        Ok(Subject::Trigger(self.userid("FromUserName")?, trigger))
    }

    fn userid(&self, name: &str) -> Result<UserId, String> {
        UserId::parse(self.text(name)?).map_err(|bad| bad.to_string())
    }

    fn id(&self, name: &str) -> Result<u32, String> {
        let text = self.text(name)?;
        text::number(text)
            .ok_or_else(|| format!("the event's {name} \"{}\" is not a department or tag id", excerpt(text)))
    }

    fn text(&self, name: &str) -> Result<&'a str, String> {
        self.root.get(name).map(str::trim).ok_or_else(|| format!("the event has no {name}"))
    }

    /// The readable items of a list.
    fn list<T>(&mut self, name: &str, read: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let mut list = Vec::new();
        for item in items(self.root.get(name).unwrap_or("")).filter(|item| !item.is_empty()) {
            match read(item) {
                Some(item) => list.push(item),
                None => self.skip_item(name, item),
            }
        }
        list
    }

    fn skip_item(&mut self, name: &str, item: &str) {
        self.reconcile_reason = Some("a list of an event has items that cannot be read");
        self.skip(name, item);
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
                // These two are read together.
                MemberField::Department | MemberField::LeaderOf => continue,
            };
            self.field(*field, element, &mut fields);
        }
        self.departments(&mut fields);
        fields
    }

    /// Department and IsLeaderInDept. The flags follow the order of Department in the same event; an unreadable
    /// department is dropped with its flag. Flags without Department are resolved by the merge.
    fn departments(&mut self, fields: &mut Fields<MemberField>) {
        let root = self.root;
        let list = |name: &str| root.get(name).map(|list| items(list).collect::<Vec<_>>());
        let (departments, flags) = (list("Department"), list("IsLeaderInDept"));
        let mut ids: Vec<Option<u32>> = Vec::new();
        for item in departments.iter().flatten() {
            let id = text::number(item);
            if id.is_none() && !item.is_empty() {
                self.skip_item("Department", item);
            }
            ids.push(id);
        }
        let readable: Vec<u32> = ids.iter().copied().flatten().collect();
        // A list without a readable item is not empty: as empty it would remove the member from all departments.
        let is_readable = departments.is_some() && (!readable.is_empty() || ids.is_empty());
        if is_readable {
            fields.insert(MemberField::Department, Value::Ids(readable.clone()));
        }
        let Some(flags) = flags else { return };
        for flag in flags.iter().filter(|flag| !matches!(**flag, "0" | "1" | "")) {
            self.skip("IsLeaderInDept", flag);
        }
        // An unreadable flag keeps its position and counts as 0.
        let flags: Vec<bool> = flags.iter().map(|flag| *flag == "1").collect();
        if is_readable {
            // Some senders omit the flags of empty items.
            let positions =
                if flags.len() == ids.len() { ids } else { readable.into_iter().map(Some).collect() };
            let led = positions.iter().zip(&flags).filter_map(|(id, leads)| id.filter(|_| *leads));
            fields.insert(MemberField::LeaderOf, Value::Ids(led.collect()));
        } else if departments.is_none() {
            fields.insert(MemberField::LeaderOf, Value::Flags(flags));
        }
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

    /// Reads an element into a field if it is present and readable.
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
                    self.reconcile_reason = Some("an event has a ParentId that cannot be read");
                }
                self.skip(name, content);
            }
        }
    }

    /// ExtAttr. Skips an Item without elements, which has neither name nor value.
    fn attributes(&mut self, ext_attr: &Element) -> Value {
        let items = ext_attr.children.iter().filter(|child| child.name == "Item");
        let (items, empty): (Vec<_>, Vec<_>) = items.partition(|item| !item.children.is_empty());
        for item in empty {
            self.skip("ExtAttr", item.text.trim());
        }
        Value::Attrs(normal_attributes(&items.into_iter().map(to_json).collect::<Vec<_>>()))
    }

    fn direct_leader(&mut self, list: &str) -> Option<Value> {
        let leaders = text::userid_list(items(list))?;
        for item in items(list).filter(|item| !item.is_empty() && text::userid(item).is_none()) {
            self.skip("DirectLeader", item);
        }
        Some(Value::text(&leaders))
    }
}

fn department_id(text: &str) -> Option<DepartmentId> {
    text::number(text).map(DepartmentId)
}

/// An element as the JSON that [`normal_attributes`] reads.
fn to_json(element: &Element) -> Json {
    if element.children.is_empty() {
        return element.text.as_str().into();
    }
    let mut object = Map::new();
    for child in &element.children {
        object.entry(child.name.clone()).or_insert_with(|| to_json(child));
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
        assert_eq!(message.skipped, Vec::<String>::new());
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
    fn absent_fields_are_absent_and_empty_ones_are_cleared() {
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
    fn an_unreadable_field_does_not_lose_the_others() {
        let message = contact(
            "<ChangeType>update_user</ChangeType><UserID>a</UserID><Department>x, ,-1</Department>\
             <IsLeaderInDept>1</IsLeaderInDept><Gender>male</Gender><DirectLeader>李四</DirectLeader><Name>b</Name>",
        );
        assert_eq!(message.skipped, ["Gender=male", "DirectLeader=李四", "Department=x", "Department=-1"]);
        assert!(message.reconcile_reason.is_some());
        let fields = fields_of(message);
        assert_eq!(fields.keys().collect::<Vec<_>>(), [&MemberField::Name]);
    }

    #[test]
    fn an_unreadable_item_is_dropped_with_its_flag() {
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
    fn unreadable_items_of_a_tag_are_left_out_and_named() {
        let many: String = (0..100).map(|n| format!("李{n},")).collect();
        let message = contact(&format!(
            "<ChangeType>update_tag</ChangeType><TagId>1</TagId><AddUserItems>ok1,李四, ok2</AddUserItems>\
             <DelUserItems>{many}gone</DelUserItems><AddPartyItems>1,x,3</AddPartyItems>"
        ));
        assert_eq!(message.skipped[0], "AddUserItems=李四");
        assert_eq!(message.skipped.len(), MAX_NAMED + 1);
        assert_eq!(message.skipped[MAX_NAMED], "and 94 more");
        assert!(message.reconcile_reason.is_some());
        let Subject::Tag(_, tag) = message.meaning.unwrap().subject else { panic!("not a tag") };
        let counts = [tag.added_members.len(), tag.removed_members.len(), tag.added_departments.len()];
        assert_eq!(counts, [2, 1, 2]);
    }
}
