//! Userids in the XML of stored events.

use std::ops::Range;

/// Elements that contain userids, separated by commas.
const ELEMENTS: [&str; 6] =
    ["UserID", "NewUserID", "AddUserItems", "DelUserItems", "DirectLeader", "FromUserName"];

/// The XML without the userids for which `is_forgotten` holds. All else stays as it is.
pub(crate) fn without_members(xml: &str, is_forgotten: impl Fn(&str) -> bool) -> String {
    let mut text = xml.to_owned();
    for element in ELEMENTS {
        let mut from = 0;
        while let Some(content) = content(&text, element, from) {
            let list = text.get(content.clone()).unwrap_or_default();
            let kept: Vec<&str> = list.split(',').filter(|item| !is_forgotten(item.trim())).collect();
            let kept = kept.join(",");
            from = content.start + kept.len();
            text.replace_range(content, &kept);
        }
    }
    text
}

/// The next content of such an element at `from` or later, without CDATA's brackets.
fn content(text: &str, element: &str, from: usize) -> Option<Range<usize>> {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let start = from + text.get(from..)?.find(&open)? + open.len();
    let inner = text.get(start..)?.split_once(&close)?.0;
    let data = inner.strip_prefix("<![CDATA[").and_then(|data| data.strip_suffix("]]>"));
    let start = start + data.map_or(0, |_| "<![CDATA[".len());
    Some(start..start + data.unwrap_or(inner).len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_userids_go() {
        let xml = "<xml><UserID><![CDATA[li]]></UserID><Name><![CDATA[Zhang,li]]></Name><Department>1,2</Department>\
                   <DirectLeader><![CDATA[ZHANG,wang]]></DirectLeader><AddUserItems>a,zhang,zhang2</AddUserItems>\
                   <DelUserItems>zhang</DelUserItems><DelUserItems></DelUserItems></xml>";
        let left = without_members(xml, |userid| userid.eq_ignore_ascii_case("zhang"));
        let expected = "<xml><UserID><![CDATA[li]]></UserID><Name><![CDATA[Zhang,li]]></Name><Department>1,2</Department>\
                        <DirectLeader><![CDATA[wang]]></DirectLeader><AddUserItems>a,zhang2</AddUserItems>\
                        <DelUserItems></DelUserItems><DelUserItems></DelUserItems></xml>";
        assert_eq!(left, expected);
        assert_eq!(without_members("<UserID>zhang", |_| true), "<UserID>zhang", "without an end");
    }
}
