//! One normal form of each field, whichever source tells it and however it is spelled.

use fastrand::Rng;
use serde_json::{Map, Value as Json, json};
use wecom_dirsync::demo::sender::contact_event;
use wecom_dirsync::directory::{Fields, MemberEvent, MemberField, Subject};
use wecom_dirsync::wecom::api::directory;
use wecom_dirsync::wecom::callback::{message, xml};

const CORP: &str = "wx5823bf96d3bd56c7";

/// A text as WeCom means it, with what may surround and interrupt it.
fn text_of(rng: &mut Rng) -> String {
    let pieces = [
        "",
        "张三",
        "a",
        " ",
        "\n",
        "\u{3000}",
        "\u{8}",
        "&",
        "<b>",
        "]]>",
        "\u{ffff}",
        "\"",
        "é",
        "\u{1f600}",
        "\0",
    ];
    (0..rng.usize(0..5)).map(|_| *rng.choice(&pieces).unwrap()).collect()
}

/// The text in an event: in CDATA or with references, and white space around it.
fn in_xml(rng: &mut Rng, text: &str) -> String {
    let around = |rng: &mut Rng| *rng.choice(&["", "\n", " \r\n", "\u{3000}"]).unwrap();
    let text = text.replace('\n', rng.choice(&["\n", "\r\n", "\r"]).unwrap());
    let content = match rng.u32(0..3) {
        0 => format!("<![CDATA[{}]]>", text.replace("]]>", "]]]]><![CDATA[>")),
        1 => text
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_string() } else { format!("&#{};", u32::from(c)) })
            .collect(),
        _ => xml::escape(&text),
    };
    format!("{}{content}{}", around(rng), around(rng))
}

/// The text in an answer, with white space around it.
fn in_json(rng: &mut Rng, text: &str) -> Json {
    let around = |rng: &mut Rng| *rng.choice(&["", "\n", " \t", "\u{a0}"]).unwrap();
    let text = text.replace('\n', rng.choice(&["\n", "\r\n"]).unwrap());
    format!("{}{text}{}", around(rng), around(rng)).into()
}

/// Whatever the spelling, an event and user/get of the same member give the same fields.
#[test]
fn events_and_answers_have_one_normal_form() {
    const TEXTS: [(&str, &str); 9] = [
        ("Name", "name"),
        ("Alias", "alias"),
        ("Mobile", "mobile"),
        ("Telephone", "telephone"),
        ("Email", "email"),
        ("BizMail", "biz_mail"),
        ("Position", "position"),
        ("Avatar", "avatar"),
        ("Address", "address"),
    ];
    for seed in 0..3000 {
        let rng = &mut Rng::with_seed(seed);
        let mut answer = Map::from_iter([("userid".to_owned(), Json::from(" zs\n"))]);
        let mut told = "<UserID>\nzs </UserID>".to_owned();
        for (element, key) in TEXTS {
            let text = text_of(rng);
            told += &format!("<{element}>{}</{element}>", in_xml(rng, &text));
            answer.insert(key.into(), in_json(rng, &text));
        }
        for (element, key) in
            [("Gender", "gender"), ("Status", "status"), ("MainDepartment", "main_department")]
        {
            let number = rng.u32(..);
            told += &format!("<{element}>{}</{element}>", in_xml(rng, &number.to_string()));
            answer.insert(
                key.into(),
                if rng.bool() { number.into() } else { in_json(rng, &number.to_string()) },
            );
        }
        let departments: Vec<u32> = (0..rng.u32(0..4)).map(|n| n * 7 + 1).collect();
        let flags: Vec<u32> = departments.iter().map(|_| rng.u32(0..2)).collect();
        let leaders: Vec<&str> = ["a", "b.c", "张", "D-1"].into_iter().filter(|_| rng.bool()).collect();
        let list = |rng: &mut Rng, items: &[String]| items.join(rng.choice(&[",", ", ", " ,\n"]).unwrap());
        let words = |numbers: &[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>();
        told += &format!("<Department>{}</Department>", list(rng, &words(&departments)));
        told += &format!("<IsLeaderInDept>{}</IsLeaderInDept>", list(rng, &words(&flags)));
        told += &format!(
            "<DirectLeader>{}</DirectLeader>",
            list(rng, &leaders.iter().map(ToString::to_string).collect::<Vec<_>>())
        );
        answer.insert("department".into(), departments.into());
        answer.insert("is_leader_in_dept".into(), flags.into());
        answer.insert("direct_leader".into(), leaders.into());
        let (mut items, mut attrs) = (String::new(), Vec::new());
        for _ in 0..rng.usize(0..4) {
            let [name, value, title] = [text_of(rng), text_of(rng), text_of(rng)];
            let [name_xml, value_xml, title_xml] = [&name, &value, &title].map(|text| in_xml(rng, text));
            let [name, value, title] = [&name, &value, &title].map(|text| in_json(rng, text));
            let (part, attribute) = match rng.u32(0..3) {
                0 => (
                    format!(
                        "<Value>{value_xml}</Value><Type>0</Type><Text><Value>{value_xml}</Value></Text>"
                    ),
                    json!({"name": name, "value": value, "type": 0, "text": {"value": value}}),
                ),
                1 => (
                    format!("<Type> 1 </Type><Web><Title>{title_xml}</Title><Url>{value_xml}</Url></Web>"),
                    json!({"type": "1", "web": {"url": value, "title": title, "thumb": ""}, "name": name}),
                ),
                _ => (
                    format!(
                        "<Type>2</Type><Miniprogram><AppId>i</AppId><PagePath>{value_xml}</PagePath><Title>{title_xml}</Title></Miniprogram>"
                    ),
                    json!({"type": 2, "name": name, "miniprogram": {"title": title, "pagepath": value, "appid": "i"}}),
                ),
            };
            items += &format!("\n<Item>\n<Name>{name_xml}</Name>{part}</Item>");
            attrs.push(attribute);
        }
        told += &format!("<ExtAttr>{items}</ExtAttr>");
        answer.insert("extattr".into(), json!({"attrs": attrs}));

        let event = contact_event(CORP, 5, "create_user", &told);
        let Subject::Member(userid, MemberEvent::Created(of_event)) =
            message::read(event.as_bytes(), CORP).unwrap().meaning.unwrap().subject
        else {
            panic!("seed {seed}: {event}")
        };
        let answer = Json::Object(answer);
        let (named, of_answer) = directory::member(&answer).unwrap();
        assert!(named.same_spelling(&userid), "seed {seed}");
        assert_eq!(of_event, of_answer, "seed {seed}: {event}\n{answer}");
        // Also as text, in which the database keeps them.
        let kept = |fields: &Fields<MemberField>| {
            fields.values().map(|v| v.to_json().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(kept(&of_event), kept(&of_answer), "seed {seed}");
    }
}
