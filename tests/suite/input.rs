//! What networks, gateways, consoles and members send, at the real binary: odd requests cost little and learn
//! nothing, and what WeCom signed is never lost.

use std::time::Instant;

use crate::common::http;
use crate::common::{CORP, KEY, Lab, Settings, TOKEN, crypt, eventually, now};
use wecom_dirsync::demo::sender::{Sender, contact_event};
use wecom_dirsync::wecom::callback::crypt::{Crypt, EncodingAesKey};
use wecom_dirsync::wecom::callback::envelope::callback;
use wecom_dirsync::wecom::query::url_encode;

/// Sends bytes, encrypted and signed as WeCom does; status and body of the answer.
fn send(lab: &Lab, path: &str, message: &[u8]) -> (String, String) {
    let encrypted = crypt().encrypt(message, [fastrand::u8(..); 16]).unwrap();
    post(lab, path, &encrypted)
}

/// Posts an encrypted text, signed rightly.
fn post(lab: &Lab, path: &str, encrypted: &str) -> (String, String) {
    let query = signed(&crypt(), encrypted);
    raw_post(lab, &format!("{path}?{query}"), &callback(CORP, encrypted, ""))
}

fn signed(crypt: &Crypt, encrypted: &str) -> String {
    format!("msg_signature={}&timestamp=1&nonce=2", crypt.sign("1", "2", encrypted))
}

fn raw_post(lab: &Lab, target: &str, body: &str) -> (String, String) {
    parts(&lab.raw(&http::post(target, body)))
}

fn get(lab: &Lab, query: &str) -> (String, String) {
    let request = format!("GET /callback?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    parts(&lab.raw(request.as_bytes()))
}

fn parts(answer: &str) -> (String, String) {
    let status = answer.split(' ').nth(1).unwrap_or_default().to_owned();
    (status, answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned())
}

fn ok() -> (String, String) {
    ("200".into(), "success".into())
}

/// A contact event whose elements after ChangeType are any bytes.
fn event(change_type: &str, inner: &[u8]) -> Vec<u8> {
    let event = contact_event(CORP, now(), change_type, "@");
    let (before, after) = event.split_once('@').unwrap();
    [before.as_bytes(), inner, after.as_bytes()].concat()
}

fn member(lab: &Lab, userid: &str, column: &str) -> String {
    lab.value(&format!("SELECT {column} FROM members WHERE userid = '{userid}'"))
}

/// Cases 1 and 2, and their kind: what XML forbids or UTF-8 does not know costs at most the character.
#[test]
fn a_forbidden_character_does_not_cost_the_member() {
    let lab = Lab::new(Settings { openid: "enabled = no", ..Settings::default() });
    let cases: [(&[u8], &str); 18] = [
        (b"<![CDATA[\xe7\x8e\x8b\x08\xe4\xba\x94]]>", "王\u{fffd}五"),
        (b"<![CDATA[\xe7\x8e\x8b\xe4\xba]]>", "王\u{fffd}"),
        (b"\xe7\x8e\x8b\xe4\xba", "王\u{fffd}"),
        (b"a&#8;b", "a\u{fffd}b"),
        (b"a&#0;b", "a\u{fffd}b"),
        (b"a&#xFFFF;&#xD800;", "a\u{fffd}\u{fffd}"),
        (b"a\0b", "a\u{fffd}b"),
        (b"<![CDATA[a\0b]]>", "a\u{fffd}b"),
        ("a\u{fffe}\u{ffff}".as_bytes(), "a\u{fffd}\u{fffd}"),
        (b"\xcd\xf5\xce\xe5", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
        (b"A&B", "A&B"),
        (b"A & B <3", "A & B <3"),
        (b"&nbsp;&unknown;", "&nbsp;&unknown;"),
        (b"a ]]> b", "a ]]> b"),
        (b"\xc0\x80\xed\xa0\x80x", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}x"),
        (b"\xef\xbb\xbfa", "a"),
        (b"\n  a\n", "a"),
        (b"<![CDATA[\n a\r\nb \n]]>", "a\nb"),
    ];
    for (n, (name, expected)) in cases.into_iter().enumerate() {
        let inner =
            format!("<UserID>u{n}</UserID><Mobile>13800000000</Mobile><Department>1</Department><Name>");
        let message = event("create_user", &[inner.as_bytes(), name, b"</Name>"].concat());
        assert_eq!(send(&lab, "/callback", &message), ok(), "{}", name.escape_ascii());
        assert_eq!(member(&lab, &format!("u{n}"), "name"), expected, "{}", name.escape_ascii());
        assert_eq!(member(&lab, &format!("u{n}"), "mobile"), "13800000000");
    }
    // Around the message, and in its encoding declaration.
    for (n, (before, after)) in [
        ("\u{feff}", ""),
        ("\n", "\n"),
        ("<?xml version=\"1.0\" encoding=\"gb2312\"?>", ""),
        ("<?xml version=\"1.0\" encoding=\"UTF-16\"?>\n", "\0"),
    ]
    .into_iter()
    .enumerate()
    {
        let userid = format!("around{n}");
        let inner = format!("<UserID>{userid}</UserID><Name>张三</Name>");
        let message = [before.as_bytes(), &event("create_user", inner.as_bytes()), after.as_bytes()].concat();
        assert_eq!(send(&lab, "/callback", &message), ok(), "{before:?}");
        assert_eq!(member(&lab, &userid, "name"), "张三", "{before:?}");
    }
    assert_eq!(lab.value("SELECT group_concat(DISTINCT outcome) FROM events"), "applied");
    assert_eq!(lab.value("SELECT count(*) FROM events WHERE instr(payload, char(0)) > 0"), "0");
    assert_eq!(
        lab.value("SELECT count(*) FROM events WHERE payload NOT LIKE '%</xml>%'"),
        "0",
        "nothing is cut"
    );
}

/// Case 3: what cannot be read, or names no member, is kept and has the directory compared.
#[test]
fn what_cannot_be_applied_is_kept_and_compared() {
    let unreadable: [(&str, Vec<u8>, &str); 6] = [
        ("not XML", b"hello".to_vec(), ""),
        (
            "cut off",
            event("create_user", b"<UserID>zs</UserID><Name>a").strip_suffix(b"</xml>").unwrap().into(),
            "zs",
        ),
        ("nested wrongly", event("create_user", b"<UserID>zs</UserID><Name>a</UserID></Name>"), "zs"),
        ("an odd userid", event("create_user", "<UserID>李四</UserID>".as_bytes()), "李四"),
        ("a control character in the userid", event("update_user", b"<UserID>z\x01s</UserID>"), "z\u{fffd}s"),
        ("too deep", event("create_user", b"<UserID>zs</UserID>"), "zs"),
    ];
    let mut lab = Lab::idle(Settings { reconcile: true, speed: 5, ..Settings::default() });
    lab.stand_in.company(|company| company.hire("first"));
    lab.start();
    lab.wait_for("SELECT count(*) FROM reconciles WHERE outcome = 'ok'", "1");
    lab.stand_in.company(|company| company.hire("zs"));
    for (what, mut message, subject) in unreadable {
        if what == "too deep" {
            let deep = format!("<ExtAttr>{}{}</ExtAttr></xml>", "<a>".repeat(40), "</a>".repeat(40));
            message = [message.strip_suffix(b"</xml>").unwrap(), deep.as_bytes()].concat();
        }
        assert_eq!(send(&lab, "/callback", &message), ok(), "{what}");
        let last = "FROM events ORDER BY seq DESC LIMIT 1";
        assert_eq!(lab.value(&format!("SELECT outcome {last}")), "invalid", "{what}");
        assert_eq!(lab.value(&format!("SELECT subject {last}")), subject, "{what}");
        assert_eq!(lab.value(&format!("SELECT payload <> '' {last}")), "1", "{what}");
        assert_eq!(
            lab.value("SELECT count(*) FROM daemon_state WHERE name = 'comparison_due'"),
            "1",
            "{what}"
        );
        // The same once more is a duplicate, however invalid.
        assert_eq!(send(&lab, "/callback", &message), ok(), "{what}");
        assert_eq!(lab.value(&format!("SELECT outcome {last}")), "duplicate", "{what}");
        assert_eq!(lab.value(&format!("SELECT payload {last}")), "", "{what}");
    }
    // As if the last comparison were more than a minute old: then the next one may follow.
    lab.age_comparisons();
    eventually("a comparison", || member(&lab, "zs", "count(*)") == "1");
    assert!(lab.log().contains("kept as invalid"), "{}", lab.log());
}

/// An unreadable item of a list costs only itself, is named once, and has the directory compared.
#[test]
fn an_unreadable_item_of_a_list_costs_only_itself() {
    let lab = Lab::new(Settings { openid: "enabled = no", ..Settings::default() });
    for userid in ["ok1", "ok2", "gone"] {
        lab.event(now(), "create_user", &format!("<UserID>{userid}</UserID>"));
    }
    lab.event(
        now(),
        "update_tag",
        "<TagId>7</TagId><AddUserItems>gone</AddUserItems><AddPartyItems>9</AddPartyItems>",
    );
    assert_eq!(lab.value("SELECT count(*) FROM daemon_state WHERE name = 'comparison_due'"), "0");
    lab.event(
        now() + 1,
        "update_tag",
        "<TagId>7</TagId><AddUserItems>ok1,李四,ok2</AddUserItems><DelUserItems>李五,gone</DelUserItems>\
         <AddPartyItems>1,x,3</AddPartyItems><DelPartyItems>-,9</DelPartyItems>",
    );
    assert_eq!(lab.value("SELECT group_concat(userid) FROM tag_members WHERE tag_id = 7"), "ok1,ok2");
    assert_eq!(lab.value("SELECT group_concat(department_id) FROM tag_departments WHERE tag_id = 7"), "1,3");
    lab.event(
        now() + 2,
        "update_user",
        "<UserID>ok1</UserID><Department>1,x,3</Department><IsLeaderInDept>0,1,1</IsLeaderInDept>\
         <DirectLeader>ok2, 李四,gone</DirectLeader>",
    );
    let departments = "SELECT group_concat(department_id || ':' || is_leader) FROM \
                       (SELECT * FROM member_departments WHERE userid = 'ok1' ORDER BY position)";
    assert_eq!(lab.value(departments), "1:0,3:1");
    assert_eq!(member(&lab, "ok1", "direct_leader"), "ok2,gone");
    assert_eq!(lab.value("SELECT count(*) FROM daemon_state WHERE name = 'comparison_due'"), "1");
    eventually("the items are named", || {
        let log = lab.log();
        [
            "AddUserItems=李四",
            "DelUserItems=李五",
            "AddPartyItems=x",
            "DelPartyItems=-",
            "Department=x",
            "DirectLeader=李四",
        ]
        .iter()
        .all(|item| log.matches(item).count() == 1)
    });
    // Twice in one list is once.
    lab.event(now() + 3, "update_user", "<UserID>ok1</UserID><Department>5,5</Department>");
    assert_eq!(lab.value("SELECT group_concat(DISTINCT outcome) FROM events"), "applied");
}

/// Cases 5 and 6: events and user/get spell the same content alike, so that the change feed is silent.
#[test]
fn the_change_feed_does_not_alternate_between_two_spellings() {
    let lab = Lab::new(Settings { openid: "enabled = no", ..Settings::default() });
    lab.stand_in.company(|company| {
        company.hire("zs");
        let user = company.user_mut("zs").unwrap();
        user.name = " 张三\u{3000}".into();
        user.details = serde_json::from_str(
            r#"{"position":"工程师\r\n二组 ","gender":"1","mobile":"13800000000","direct_leader":["a","b"],
                "extattr":{"attrs":[{"type":0,"name":"工号","value":"10007","text":{"value":"10007"}},
                {"name":"主页","type":1,"web":{"title":"me","url":"https://example.com"}}]}}"#,
        )
        .unwrap();
    });
    lab.event(now(), "create_user", "<UserID>zs</UserID>");
    lab.wait_for("SELECT details_state FROM members WHERE userid = 'zs'", "known");
    let form = r#"[{"type":0,"name":"工号","text":{"value":"10007"}},{"type":1,"name":"主页","web":{"url":"https://example.com","title":"me"}}]"#;
    assert_eq!(member(&lab, "zs", "ext_attr"), form);
    assert_eq!(member(&lab, "zs", "name"), "张三");
    let changes = lab.value("SELECT count(*) FROM changes");
    let spellings = [
        "<ExtAttr><Item><Name>工号</Name><Value>10007</Value><Type>0</Type><Text><Value>10007</Value></Text></Item>\
         <Item><Name>主页</Name><Type>1</Type><Web><Title>me</Title><Url>https://example.com</Url></Web></Item></ExtAttr>",
        "<ExtAttr>\n <Item>\n  <Name>\n<![CDATA[工号]]>\n</Name>\n<Type>\n0\n</Type><Text>\n<Value>\n<![CDATA[\n10007]]>\n\
         </Value></Text></Item><Item><Type>1</Type><Thumb/><Name>主页 </Name><Web><Url>https://example.com</Url>\
         <Title>me</Title></Web></Item></ExtAttr>",
    ];
    for (n, ext_attr) in (10..).zip(spellings) {
        let inner = format!(
            "<UserID>zs</UserID><Name>\n张三 </Name><Position><![CDATA[ 工程师\n二组]]></Position><Gender> 1 </Gender>\
             <Mobile>13800000000\n</Mobile><DirectLeader>a, b</DirectLeader><Department> 1 </Department>{ext_attr}"
        );
        lab.event(now() + n, "update_user", &inner);
        assert_eq!(member(&lab, "zs", "ext_attr"), form);
        assert_eq!(lab.value("SELECT count(*) FROM changes"), changes, "{ext_attr}");
    }
}

/// Case 7: what members write and do in an app is not kept, and still told apart.
#[test]
fn messages_to_the_app_are_recorded_without_their_content() {
    let more = format!("[callback.app]\npath = /app\ntoken = {TOKEN}\nencoding_aes_key = {KEY}\n");
    let lab = Lab::new(Settings { openid: "enabled = no", more: &more, ..Settings::default() });
    let of = |inner: &str| {
        format!(
            "<xml><ToUserName>{CORP}</ToUserName><FromUserName>zs</FromUserName><CreateTime>1700000000</CreateTime>\
             {inner}<AgentID>1</AgentID></xml>"
        )
    };
    let event = |rest: &str| of(&format!("<MsgType>event</MsgType>{rest}"));
    let secret = "Geheimnis";
    for (event_name, message) in [
        ("text", of(&format!("<MsgType>text</MsgType><Content>{secret} 1</Content><MsgId>1</MsgId>"))),
        ("text", of(&format!("<MsgType>text</MsgType><Content>{secret} 2</Content><MsgId>2</MsgId>"))),
        ("image", of(&format!("<MsgType>image</MsgType><PicUrl>{secret}</PicUrl>"))),
        ("location", of(&format!("<MsgType>location</MsgType><Label>{secret}</Label>"))),
        ("LOCATION", event(&format!("<Event>LOCATION</Event><Latitude>{secret}</Latitude>"))),
        ("click", event(&format!("<Event>click</Event><EventKey>{secret}</EventKey>"))),
        ("brand_new", event(&format!("<Event>brand_new</Event><X>{secret}</X>"))),
        ("text", format!("<xml><FromUserName>zs</FromUserName><MsgType>text</MsgType><Content>{secret}")),
    ] {
        assert_eq!(send(&lab, "/app", message.as_bytes()), ok(), "{message}");
        let last = "FROM events ORDER BY seq DESC LIMIT 1";
        assert_eq!(
            lab.value(&format!("SELECT event || ',' || subject || ',' || payload {last}")),
            format!("{event_name},zs,")
        );
    }
    assert_eq!(lab.value("SELECT group_concat(DISTINCT outcome) FROM events"), "ignored,invalid");
    let text = of(&format!("<MsgType>text</MsgType><Content>{secret} 1</Content><MsgId>1</MsgId>"));
    assert_eq!(send(&lab, "/app", text.as_bytes()), ok());
    assert_eq!(lab.value("SELECT outcome FROM events ORDER BY seq DESC LIMIT 1"), "duplicate");
    for path in ["directory.db", "directory.db-wal", "log"] {
        let file = std::fs::read(lab.folder.path().join(path)).unwrap_or_default();
        assert!(!file.windows(secret.len()).any(|part| part == secret.as_bytes()), "{path}");
    }
    for (path, message) in [
        ("/app", event("<Event>subscribe</Event>")),
        ("/app", contact_event(CORP, now(), "create_user", "<UserID>zs</UserID>")),
        ("/callback", "<xml><Event>brand_new</Event><CreateTime>6</CreateTime></xml>".to_owned()),
    ] {
        assert_eq!(send(&lab, path, message.as_bytes()), ok());
        assert_eq!(lab.value("SELECT payload FROM events ORDER BY seq DESC LIMIT 1"), message);
    }
}

/// Case 11: an unsigned body costs a pass over its bytes.
#[test]
fn unsigned_bodies_are_refused_without_being_parsed() {
    let lab = Lab::plain();
    let spaces: String = (0..41).map(|n| format!(" xmlns:a{n}=\"u\"")).collect();
    let bodies = [
        format!("<xml>{}{}", format!("<a{spaces}>").repeat(14), "<b/>".repeat(40_000)),
        format!("<xml>{}{}</xml>", format!("<a{spaces}>").repeat(14), "<b/>".repeat(4_080)),
        "<a>".repeat(60_000),
        format!("<xml>{}</xml>", "<a/>".repeat(60_000)),
        format!("<xml><a {}></xml>", "b='c' ".repeat(30_000)),
        format!("<!DOCTYPE a [{}]><xml/>", "<!ENTITY a \"&a;\">".repeat(10_000)),
        format!("<xml>{}</xml>", "&#60;".repeat(40_000)),
    ];
    let (before, begun) = (lab.processor_time(), Instant::now());
    for body in &bodies {
        let answer = raw_post(&lab, "/callback?msg_signature=a&timestamp=1&nonce=2", body);
        assert_eq!(answer.0, "400", "{}..", &body[..60]);
    }
    let (spent, took) = (lab.processor_time() - before, begun.elapsed());
    println!("{} bodies: {spent:.3} s of processor, {took:?}", bodies.len());
    // 12 s before; some ms each now, and processor time is counted in hundredths.
    assert!(spent < 0.3, "{spent} s");
}

/// Case 12: what decrypts but is no echostr is refused like a forgery.
#[test]
fn a_verification_answers_only_an_echostr() {
    let lab = Lab::plain();
    let verify = |text: &[u8]| {
        let encrypted = crypt().encrypt(text, [5; 16]).unwrap();
        get(&lab, &format!("{}&echostr={}", signed(&crypt(), &encrypted), url_encode(&encrypted)))
    };
    let refused = ("403".to_owned(), "forbidden\n".to_owned());
    assert_eq!(get(&lab, "msg_signature=a&timestamp=1&nonce=2&echostr=YQ%3D%3D"), refused);
    let captured = contact_event(CORP, 5, "delete_user", "<UserID>a</UserID>");
    let long = "1".repeat(257);
    let others: [&[u8]; 8] =
        [captured.as_bytes(), b"", long.as_bytes(), b"a<b", b"a\nb", "张三".as_bytes(), b"\0", b"a\x7f"];
    for text in others {
        assert_eq!(verify(text), refused, "{}", text.escape_ascii());
    }
    for text in ["1616140317555161061", "~ !", &long[1..]] {
        assert_eq!(verify(text.as_bytes()), ("200".into(), text.to_owned()));
    }
}

/// Case 13: padding, length, receive_id and base64 fail as the signature does; what is for us is acknowledged.
#[test]
fn an_answer_is_no_oracle() {
    let lab = Lab::plain();
    let refused = ("403".to_owned(), "forbidden\n".to_owned());
    let message = contact_event(CORP, 5, "delete_user", "<UserID>a</UserID>");
    let encrypted = crypt().encrypt(message.as_bytes(), [5; 16]).unwrap();
    let other_corp = Crypt::new(TOKEN, EncodingAesKey::parse(KEY).unwrap(), "wwother");
    let other_key = Crypt::new(TOKEN, EncodingAesKey::parse(&"a".repeat(43)).unwrap(), CORP);
    let changed = |at: usize| {
        let mut text = encrypted.clone().into_bytes();
        text[at] = if text[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(text).unwrap()
    };
    let texts = [
        ("padding", changed(encrypted.len() - 30)),
        // The first byte of a block changes the first byte of the next block's plain text: the length.
        ("length", changed(0)),
        ("receive_id", other_corp.encrypt(message.as_bytes(), [5; 16]).unwrap()),
        ("another key", other_key.encrypt(message.as_bytes(), [5; 16]).unwrap()),
        ("half a block", encrypted[..encrypted.len() - 12].to_owned()),
        ("one block", encrypted[..24].to_owned()),
        ("not base64", format!("!{}", &encrypted[1..])),
        ("not even that", "!".to_owned()),
    ];
    for (what, text) in &texts {
        assert_eq!(post(&lab, "/callback", text), refused, "{what}");
        let query = format!("{}&echostr={}", signed(&crypt(), text), url_encode(text));
        assert_eq!(get(&lab, &query), refused, "{what}, GET");
    }
    let unsigned =
        raw_post(&lab, "/callback?msg_signature=0&timestamp=1&nonce=2", &callback(CORP, &encrypted, ""));
    assert_eq!(unsigned, refused);
    assert_eq!(lab.value("SELECT count(*) FROM events"), "0");
    assert_eq!(send(&lab, "/callback", b"hello"), ok(), "for us, and not XML");
    assert_eq!(lab.value("SELECT outcome || ' ' || payload FROM events"), "invalid hello");
}

/// Case 14: a captured request may be sent without end; the database stays as large as it is.
#[test]
fn repetition_does_not_fill_the_disk() {
    // Fetching the member's details would write its facts again.
    let more = "[details]\nfetch = never\n";
    let lab = Lab::new(Settings { openid: "enabled = no", more, ..Settings::default() });
    let address = "x".repeat(150_000);
    let large =
        contact_event(CORP, now(), "create_user", &format!("<UserID>a</UserID><Address>{address}</Address>"));
    let size = || {
        let file = |name: &str| std::fs::metadata(lab.folder.path().join(name)).map_or(0, |file| file.len());
        file("directory.db") + file("directory.db-wal")
    };
    assert_eq!(send(&lab, "/callback", large.as_bytes()), ok());
    let once = size();
    for _ in 0..299 {
        assert_eq!(send(&lab, "/callback", large.as_bytes()), ok());
    }
    let grown = size() - once;
    println!("299 copies of {} bytes: {grown} bytes, with the WAL", large.len());
    assert_eq!(lab.value("SELECT count(*) FROM events"), "4");
    assert_eq!(
        lab.value("SELECT repeats FROM events WHERE outcome = 'applied'"),
        "192",
        "299, not yet doubled again"
    );
    assert_eq!(lab.value("SELECT sum(length(payload)) FROM events WHERE outcome = 'duplicate'"), "0");
    assert!(grown < 500_000, "{grown} bytes");
    // The same holds for events that nobody understands, and for those without a content.
    for message in [
        "hello",
        "<xml><Event>brand_new</Event><CreateTime>6</CreateTime></xml>",
        "<xml><MsgType>text</MsgType></xml>",
    ] {
        for _ in 0..10 {
            assert_eq!(send(&lab, "/callback", message.as_bytes()), ok());
        }
    }
    assert_eq!(lab.value("SELECT count(*) FROM events"), "16");
    assert_eq!(lab.value("SELECT count(*) FROM events WHERE repeats = 6"), "3");
}

/// Case 15: whatever front ends make of a query, the signature decides.
#[test]
fn queries_are_read_as_front_ends_deliver_them() {
    let lab = Lab::plain();
    // With a plus and a slash in it.
    let encrypted = (0..=u8::MAX)
        .map(|random| crypt().encrypt(b"1616140317555161061", [random; 16]).unwrap())
        .find(|text| text.contains('+') && text.contains('/') && text.ends_with('='))
        .unwrap();
    let signed = signed(&crypt(), &encrypted);
    let encoded = url_encode(&encrypted);
    let deliveries = [
        encoded.clone(),
        encrypted.clone(),
        encoded.to_lowercase().replace(&encoded.to_lowercase(), &encoded),
        encrypted.replace('+', "%20"),
        encoded.replace("%2B", "%20"),
        encoded.replace("%2B", "+"),
        encoded.replace('%', "%25"),
        encoded.replace('%', "%25").replace("%252B", "%2520"),
        encoded.replace("%2B", "%252B"),
    ];
    for echostr in deliveries {
        let answer = get(&lab, &format!("{signed}&echostr={echostr}"));
        assert_eq!(answer, ("200".into(), "1616140317555161061".into()), "{echostr}");
    }
    let whole = format!("{signed}&echostr={encoded}");
    assert_eq!(get(&lab, &whole.replace('&', "&amp;")).0, "200");
    assert_eq!(get(&lab, &url_encode(&whole)).0, "200");
    // A nonce with a plus, for a POST.
    let message = contact_event(CORP, 5, "delete_user", "<UserID>a</UserID>");
    let encrypted = crypt().encrypt(message.as_bytes(), [5; 16]).unwrap();
    let signature = crypt().sign("1", "n+1", &encrypted);
    for nonce in ["n%2B1", "n+1", "n%201", "n%252B1"] {
        let target = format!("/callback?msg_signature={signature}&timestamp=1&nonce={nonce}");
        assert_eq!(raw_post(&lab, &target, &callback(CORP, &encrypted, "")), ok(), "{nonce}");
    }
}

/// Keys in rotation are all tried, and all fail alike.
#[test]
fn former_keys_open_and_refuse_as_the_present_ones() {
    let old = "kWxPEV2UEDyxWpmPdKC3F4dgPDmOvfKX1HGnEUDS1aR";
    let callback = format!("token_previous = {TOKEN}\nencoding_aes_key_previous = {old}");
    let lab = Lab::new(Settings { callback: &callback, ..Settings::default() });
    for (key, corp, status) in
        [(KEY, CORP, 200), (old, CORP, 200), (old, "wwother", 403), (&"a".repeat(43), CORP, 403)]
    {
        let crypt = Crypt::new(TOKEN, EncodingAesKey::parse(key).unwrap(), corp);
        let sender = Sender::new(&lab.url("/callback"), crypt, CORP);
        assert_eq!(sender.verify("hello").unwrap().0, status, "{key} {corp}");
    }
}
