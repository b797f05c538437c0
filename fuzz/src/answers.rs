//! Answers of the API: from JSON to the directory's types.

use serde_json::{Map, Value as Json, json};
use wecom_dirsync::directory::fields::FieldKind;
use wecom_dirsync::directory::text::normal;
use wecom_dirsync::directory::{
    DepartmentField, Field, Fields, MemberEvent, MemberField, Subject, UnixSeconds, UserId, Value,
};
use wecom_dirsync::wecom::api::Answer;
use wecom_dirsync::wecom::api::directory;
use wecom_dirsync::wecom::api::directory::Skipped;
use wecom_dirsync::wecom::api::json::integer;
use wecom_dirsync::wecom::callback::{message, xml};

use super::Draw;

/// The input is the body of an answer, or choices from which a body with the API's names is composed.
pub fn check(data: &[u8]) {
    let mut draw = Draw(data);
    if draw.byte() % 2 == 0 {
        return body(draw.0);
    }
    let mut answer = Map::new();
    for _ in 0..1 + draw.below(4) {
        let (name, value) = entry(&mut draw, 0);
        answer.insert(name, value);
    }
    body(Json::Object(answer).to_string().as_bytes());
}

/// The API's names, and some that it does not use; the last is empty.
const NAMES: &str = "errcode errmsg dept_user next_cursor userid department department_id id name parentid order \
    taglist tagid tagname userlist partylist extattr attrs gender status main_department \
    is_leader_in_dept direct_leader alias mobile telephone email biz_mail position avatar address \
    type text value web leader_of ";

fn entry(draw: &mut Draw<'_>, depth: u8) -> (String, Json) {
    let name = draw.one_of(NAMES);
    let value = match name {
        // Mostly a list, because the parsers stop early at any other type.
        "dept_user" | "department" | "department_id" | "taglist" | "userlist" | "partylist" | "attrs"
        | "is_leader_in_dept" | "direct_leader"
            if !draw.byte().is_multiple_of(8) =>
        {
            let list = (0..draw.below(5)).map(|_| value(draw, depth + 1));
            Json::Array(list.collect())
        }
        _ => value(draw, depth),
    };
    (name.to_owned(), value)
}

fn value(draw: &mut Draw<'_>, depth: u8) -> Json {
    match draw.below(12) {
        0 => Json::Null,
        1 => json!(draw.byte().is_multiple_of(2)),
        2 => json!(draw.of(&[i64::MIN, -1, i64::from(u32::MAX), i64::from(u32::MAX) + 1, i64::MAX])),
        3 => json!(draw.of(&[0.5, 1e300, u64::MAX as f64])),
        4 => json!(draw.byte().to_string()),
        5 => json!(draw.of(&["", "a", "ZhangSan", "lisi", "张三", " b ", "a,b", "_", "<&]]>", "\u{0}"])),
        6 if depth < 4 => Json::Array((0..draw.below(4)).map(|_| value(draw, depth + 1)).collect()),
        7..=9 if depth < 4 => {
            // With the names that rows of lists have.
            let mut map = Map::from_iter([
                ("userid".to_owned(), json!(draw.of(&["a", "b", "B", "_"]))),
                ("department".to_owned(), json!(draw.byte())),
                (draw.of(&["id", "tagid"]).to_owned(), json!(draw.below(4))),
            ]);
            for _ in 0..draw.below(4) {
                let (name, value) = entry(draw, depth + 1);
                map.insert(name, value);
            }
            Json::Object(map)
        }
        _ => json!(draw.below(4)),
    }
}

fn body(body: &[u8]) {
    let at = UnixSeconds(1_700_000_000);
    let Ok(answer) = Answer::read(body, at) else { return };
    assert_eq!(answer.asked_at, at);
    assert!(answer.json.is_object());
    let json = &answer.json;
    let errcode = json.get("errcode").filter(|code| !code.is_null());
    assert_eq!(errcode.map_or(Some(0), integer), Some(answer.errcode));

    if let Ok(page) = directory::page(json) {
        let listed = json["dept_user"].as_array().unwrap();
        let counted = page.rows.len() + page.skipped.count + page.nameless.count;
        assert_eq!(counted, listed.len(), "each row is read or counted");
        assert_eq!(page.skipped.count, page.odd.len());
        let mut left = listed.iter();
        for (userid, department) in &page.rows {
            let is = |row: &Json| names(&row["userid"], userid) && id(&row["department"], department.0);
            assert!(left.any(is), "{userid} {department} is missing, or out of order");
        }
    }
    for key in ["department", "department_id"] {
        if let Ok(list) = directory::departments(json, key) {
            let listed = json[key].as_array().unwrap();
            let readable =
                listed.iter().filter(|one| list.departments.keys().any(|own| id(&one["id"], own.0)));
            assert_eq!(readable.count() + list.nameless.count, listed.len());
            for (own, fields) in &list.departments {
                values(fields);
                // Of two rows with one id the last is used.
                let last = listed.iter().rev().find(|one| id(&one["id"], own.0)).unwrap();
                assert_eq!(directory::department(last, &mut Skipped::default()), Ok((*own, fields.clone())));
                let name = last["name"].as_str().map(Value::text);
                assert_eq!(fields.get(&DepartmentField::Name), name.as_ref());
            }
        }
    }
    if let Some(shown) = json.get("department")
        && let Ok((own, fields)) = directory::department(shown, &mut Skipped::default())
    {
        assert!(id(&json["department"]["id"], own.0));
        values(&fields);
    }
    if let Ok(list) = directory::tags(json) {
        let listed = json["taglist"].as_array().unwrap();
        let readable = listed.iter().filter(|tag| list.tags.keys().any(|own| id(&tag["tagid"], own.0)));
        assert_eq!(readable.count() + list.nameless.count, listed.len());
        assert!(list.tags.iter().all(|(own, name)| {
            listed.iter().any(|tag| {
                id(&tag["tagid"], own.0) && tag["tagname"].as_str().map(normal).as_deref() == name.as_deref()
            })
        }));
    }
    if let Ok(content) = directory::tag_content(json) {
        let length = |key: &str| json[key].as_array().map_or(1, Vec::len);
        let (members, departments) = (length("userlist"), length("partylist"));
        assert!(content.members.len() <= members && content.departments.len() <= departments);
        assert!(content.skipped.count <= members + departments);
        for member in json["userlist"].as_array().into_iter().flatten() {
            if let Some(userid) = member["userid"].as_str().and_then(|text| UserId::parse(text).ok()) {
                assert!(content.members.contains(&userid));
            }
        }
        for department in json["partylist"].as_array().into_iter().flatten().filter_map(Json::as_u64) {
            let is_listed = content.departments.iter().any(|id| u64::from(id.0) == department);
            assert!(is_listed || department > u64::from(u32::MAX));
        }
    }
    if let Ok((userid, fields)) = directory::member(json) {
        assert!(names(&json["userid"], &userid));
        values(&fields);
        member(&userid, &fields);
    }
}

/// Whether WeCom or a gateway may write the userid so.
fn names(json: &Json, userid: &UserId) -> bool {
    let number = json.as_u64().map(|number| number.to_string());
    json.as_str().map(str::trim).or(number.as_deref()) == Some(userid.as_str())
}

fn id(json: &Json, id: u32) -> bool {
    integer(json) == Some(id.into())
}

/// Asserts that each value has its field's kind, and survives the database's JSON.
pub fn values<F: Field>(fields: &Fields<F>) {
    for (field, value) in fields {
        let fits = match value {
            Value::Cleared => true,
            Value::Text(text) => field.kind() == FieldKind::Text && !text.is_empty(),
            Value::Int(_) => field.kind() == FieldKind::Int,
            Value::Ids(_) => matches!(field.kind(), FieldKind::Ids | FieldKind::Leads),
            Value::Flags(_) => field.kind() == FieldKind::Leads,
            Value::Attrs(attrs) => field.kind() == FieldKind::Attrs && attrs.is_array(),
        };
        assert!(fits, "{field:?} {value:?}");
        let kept = serde_json::from_str(&value.to_json().to_string()).unwrap();
        let again = Value::from_json(field.kind(), &kept);
        // Empty flags and empty ids have the same JSON and the same meaning.
        let same = again.as_ref() == Some(value)
            || (*value == Value::Flags(Vec::new()) && again == Some(Value::Ids(Vec::new())));
        assert!(same, "{field:?} {value:?} {again:?}");
    }
}

/// Asserts that user/get and an event with the same values yield the same member.
fn member(userid: &UserId, fields: &Fields<MemberField>) {
    let mut shown = Map::from_iter([("userid".to_owned(), json!(userid.as_str()))]);
    let mut told = String::new();
    // An event cannot express an attribute of unknown type.
    let mut has_event = true;
    for (field, value) in fields {
        let empty = String::new();
        let text = if let Value::Text(text) = value { text } else { &empty };
        assert_eq!(normal(text), *text);
        let (element, content) = match field {
            MemberField::Department => ("Department", list(value)),
            MemberField::LeaderOf => {
                let (Value::Ids(all), Value::Ids(led)) = (&fields[&MemberField::Department], value) else {
                    panic!("{fields:?}")
                };
                let mut left = all.iter();
                assert!(led.iter().all(|id| left.any(|other| other == id)), "{led:?} of {all:?}, in order");
                // Of a department that is listed twice, only one position may be led: not comparable.
                let twice = all.iter().any(|id| all.iter().filter(|other| *other == id).count() > 1);
                if twice {
                    return;
                }
                let flags: Vec<u8> = all.iter().map(|id| led.contains(id).into()).collect();
                shown.insert("is_leader_in_dept".into(), json!(flags));
                ("IsLeaderInDept", flags.iter().map(u8::to_string).collect::<Vec<_>>().join(","))
            }
            MemberField::DirectLeader => {
                shown.insert("direct_leader".into(), json!(text.split(',').collect::<Vec<_>>()));
                ("DirectLeader", text.clone())
            }
            MemberField::ExtAttr => {
                shown.insert("extattr".into(), json!({"attrs": value.to_json()}));
                let items: Option<String> = value.to_json().as_array().unwrap().iter().map(item).collect();
                has_event &= items.is_some();
                told.push_str(&format!("<ExtAttr>{}</ExtAttr>", items.unwrap_or_default()));
                continue;
            }
            _ => {
                let content = if let Value::Int(number) = value { number.to_string() } else { text.clone() };
                (element(*field), content)
            }
        };
        if !shown.contains_key(field.name()) && *field != MemberField::LeaderOf {
            shown.insert(
                field.name().into(),
                if *value == Value::Cleared { json!("") } else { value.to_json() },
            );
        }
        told.push_str(&format!("<{element}>{}</{element}>", xml::escape(&content)));
    }
    let again = directory::member(&Json::Object(shown));
    assert_eq!(again, Ok((userid.clone(), fields.clone())));
    if has_event {
        let event = format!(
            "<xml><CreateTime>5</CreateTime><Event>change_contact</Event><ChangeType>create_user</ChangeType>\
             <UserID>{userid}</UserID>{told}</xml>"
        );
        let message = message::read(event.as_bytes(), "ww1").unwrap();
        let told = message.meaning.unwrap().subject;
        assert_eq!(told, Subject::Member(userid.clone(), MemberEvent::Created(fields.clone())));
    }
}

/// An attribute as an event's Item; `None` if its type is unknown.
fn item(attribute: &Json) -> Option<String> {
    let text = |json: &Json| xml::escape(json.as_str().unwrap());
    let part = match attribute["type"].as_u64()? {
        0 => format!("<Text><Value>{}</Value></Text>", text(&attribute["text"]["value"])),
        1 => {
            let web = &attribute["web"];
            format!("<Web><Title>{}</Title><Url>{}</Url></Web>", text(&web["title"]), text(&web["url"]))
        }
        _ => return None,
    };
    let name = text(&attribute["name"]);
    Some(format!("<Item>\n<Name>\n{name}</Name><Type>{}</Type>{part}</Item>", attribute["type"]))
}

fn list(value: &Value) -> String {
    let Value::Ids(ids) = value else { panic!("{value:?}") };
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// The name of a field's element in events.
fn element(field: MemberField) -> &'static str {
    match field {
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
        _ => panic!("{field:?} has no text element"),
    }
}
