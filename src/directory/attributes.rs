//! The normal form of self-defined attributes (扩展属性). Pure.
//!
//! Events write `<Item><Name/><Value/><Type/><Text><Value/></Text></Item>`, `user/get` writes
//! `{"type","name","value","text":{"value"}}` (doc 90196), and both repeat or omit parts. The normal form has exactly these
//! keys, in this order:
//!
//! ```json
//! {"type": 0, "name": .., "text": {"value": ..}}
//! {"type": 1, "name": .., "web": {"url": .., "title": ..}}
//! {"type": 2, "name": .., "miniprogram": {"appid": .., "pagepath": .., "title": ..}}
//! ```
//!
//! An attribute of another type keeps its content: keys in lower case and sorted, values as text.

use serde_json::{Map, Value as Json};

use super::text::{json_number, normal};

/// Depth of nested content in attributes of unknown types; deeper content is dropped.
const MAX_DEPTH: usize = 8;

/// The normal form of a list of attributes, whose keys may be in any case. Items that are no objects are dropped.
pub(crate) fn normal_attributes(attributes: &[Json]) -> Json {
    let objects = attributes.iter().filter_map(Json::as_object);
    Json::Array(objects.map(|object| Json::Object(attribute(&lower_case(object)))).collect())
}

fn attribute(given: &Map<String, Json>) -> Map<String, Json> {
    let kind = given.get("type").and_then(json_number).or_else(|| {
        let parts = [("text", 0), ("web", 1), ("miniprogram", 2), ("value", 0)];
        parts.iter().find(|(part, _)| given.contains_key(*part)).map(|(_, kind)| *kind)
    });
    let form: (&str, &[&str]) = match kind {
        Some(0) => ("text", &["value"]),
        Some(1) => ("web", &["url", "title"]),
        Some(2) => ("miniprogram", &["appid", "pagepath", "title"]),
        _ => return other(given, kind),
    };
    let (part, keys) = form;
    let inner = given.get(part).and_then(Json::as_object).map(lower_case).unwrap_or_default();
    // Older attributes have no type, only a value, which newer ones repeat beside the text.
    let fallback = |key: &str| given.get(key).filter(|_| part == "text");
    let values = keys.iter().map(|key| {
        let value = inner.get(*key).or_else(|| fallback(key)).map(scalar).unwrap_or_default();
        ((*key).to_owned(), Json::from(value))
    });
    let mut attribute = head(given, kind);
    attribute.insert(part.to_owned(), Json::Object(values.collect()));
    attribute
}

/// An attribute of an unknown type. A `value` beside an object repeats the object's content.
fn other(given: &Map<String, Json>, kind: Option<u32>) -> Map<String, Json> {
    let has_part = given.values().any(|value| value.is_object() || value.is_array());
    let mut rest: Vec<_> = given
        .iter()
        .filter(|(key, _)| match key.as_str() {
            "type" | "name" => false,
            "value" => !has_part,
            _ => true,
        })
        .map(|(key, value)| (key.clone(), generic(value, MAX_DEPTH)))
        .collect();
    rest.sort_by(|a, b| a.0.cmp(&b.0));
    let mut attribute = head(given, kind);
    attribute.extend(rest);
    attribute
}

fn head(given: &Map<String, Json>, kind: Option<u32>) -> Map<String, Json> {
    let text = |key: &str| Json::from(given.get(key).map(scalar).unwrap_or_default());
    let kind = kind.map_or_else(|| text("type"), Json::from);
    Map::from_iter([("type".to_owned(), kind), ("name".to_owned(), text("name"))])
}

fn generic(value: &Json, depth: usize) -> Json {
    match value {
        Json::Array(items) if depth > 0 => items.iter().map(|item| generic(item, depth - 1)).collect(),
        Json::Object(object) if depth > 0 => {
            let mut entries: Vec<_> = lower_case(object)
                .iter()
                .map(|(key, value)| (key.clone(), generic(value, depth - 1)))
                .collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Json::Object(entries.into_iter().collect())
        }
        value => scalar(value).into(),
    }
}

/// A text, a number or a boolean as text; anything else is empty.
fn scalar(value: &Json) -> String {
    match value {
        Json::String(text) => normal(text).into_owned(),
        Json::Number(_) | Json::Bool(_) => value.to_string(),
        Json::Null | Json::Array(_) | Json::Object(_) => String::new(),
    }
}

/// The first entry of each key, which is put in lower case.
fn lower_case(object: &Map<String, Json>) -> Map<String, Json> {
    let mut lower = Map::new();
    for (key, value) in object {
        lower.entry(normal(key).to_ascii_lowercase()).or_insert_with(|| value.clone());
    }
    lower
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn form(attribute: Json) -> String {
        normal_attributes(&[attribute])[0].to_string()
    }

    #[test]
    fn each_type_has_exactly_its_keys_in_order() {
        let text = json!({"type": 0, "name": "工号", "text": {"value": "10007"}}).to_string();
        for spelling in [
            json!({"name": "工号", "value": "10007", "type": 0, "text": {"value": "10007"}}),
            json!({"Type": "0", "Name": " 工号\n", "Text": {"Value": "\n10007 "}, "value": "x"}),
            json!({"type": 0, "name": "工号", "value": "10007"}),
            json!({"name": "工号", "value": 10007}),
            json!({"name": "工号", "text": {"value": 10007}, "thumb": null}),
        ] {
            assert_eq!(form(spelling), text);
        }
        assert_eq!(
            form(json!({"web": {"title": "me", "url": "u", "x": 1}, "name": "a", "type": 1})),
            r#"{"type":1,"name":"a","web":{"url":"u","title":"me"}}"#
        );
        assert_eq!(
            form(
                json!({"type": "2", "name": "a", "MiniProgram": {"Title": "t", "AppId": "i", "PagePath": "p"}})
            ),
            r#"{"type":2,"name":"a","miniprogram":{"appid":"i","pagepath":"p","title":"t"}}"#
        );
        assert_eq!(form(json!({"type": 0})), r#"{"type":0,"name":"","text":{"value":""}}"#);
    }

    #[test]
    fn unknown_types_keep_what_they_have_in_one_form() {
        let spellings = [
            json!({"type": 9, "name": "a", "Value": "v", "Foo": {"Z": 1, "B": [true, null, {"d": "e"}]}}),
            json!({"foo": {"b": ["true", "", {"D": " e"}], "z": "1"}, "name": "a", "type": "9"}),
        ];
        for spelling in spellings {
            assert_eq!(form(spelling), r#"{"type":9,"name":"a","foo":{"b":["true","",{"d":"e"}],"z":"1"}}"#);
        }
        assert_eq!(form(json!({"type": "x", "name": "a"})), r#"{"type":"x","name":"a"}"#);
        assert_eq!(normal_attributes(&[json!(1), json!(null), json!("a")]), json!([]));
    }

    #[test]
    fn the_form_is_final() {
        for given in [
            json!({"type": 0, "name": "a", "value": "b"}),
            json!({"type": 7, "name": "a", "value": "b", "c": [{"E": 1, "D": 2}]}),
            json!({"name": "a"}),
            json!({}),
        ] {
            let once = normal_attributes(&[given]);
            let Json::Array(attributes) = &once else { panic!("{once}") };
            assert_eq!(normal_attributes(attributes).to_string(), once.to_string());
        }
    }
}
