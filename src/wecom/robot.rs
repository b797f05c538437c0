//! Messages of a WeCom group robot (群机器人, doc 91770): markdown of at most 4,096 bytes. Pure.

use serde_json::{Value as Json, json};

use super::api::json;

/// Longest content in bytes.
const MAX_CONTENT: usize = 4096;
/// What replaces the rest of a text that is too long.
const CUT: &str = "…";

/// Composes one message of a heading and as many paragraphs as fit; returns their number, at least one.
pub(crate) fn message(heading: &str, paragraphs: &[String]) -> (Json, usize) {
    let mut content = plain(heading);
    let mut count = 0;
    for paragraph in paragraphs {
        let paragraph = format!("\n\n{}", plain(paragraph));
        if content.len() + paragraph.len() > MAX_CONTENT {
            if count == 0 {
                content.push_str(&paragraph);
                count = 1;
            }
            break;
        }
        content.push_str(&paragraph);
        count += 1;
    }
    (json!({"msgtype": "markdown", "markdown": {"content": cut(&content)}}), count.max(1))
}

/// Foreign text must not mention members (`<@userid>`) or change fonts.
fn plain(text: &str) -> String {
    text.replace('<', "＜").replace('>', "＞")
}

fn cut(text: &str) -> String {
    if text.len() <= MAX_CONTENT {
        return text.to_owned();
    }
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
    let end = ends.take_while(|end| *end <= MAX_CONTENT - CUT.len()).last().unwrap_or(0);
    format!("{}{CUT}", text.get(..end).unwrap_or_default())
}

/// Whether the robot took the message: errcode 0. It answers failures with HTTP status 200, too.
pub(crate) fn read_answer(body: &[u8]) -> Result<(), String> {
    let answer = json::parse(body)?;
    match answer.get("errcode").and_then(json::integer) {
        Some(0) => Ok(()),
        Some(errcode) => {
            let errmsg = answer.get("errmsg").and_then(Json::as_str).unwrap_or_default();
            Err(format!("errcode {errcode}: {errmsg}"))
        }
        None => Err("the answer has no errcode".into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content(message: &Json) -> &str {
        message["markdown"]["content"].as_str().unwrap()
    }

    #[test]
    fn paragraphs_that_do_not_fit_wait_for_the_next_message() {
        let paragraphs: Vec<String> = (0..10).map(|n| format!("{n}{}", "张".repeat(300))).collect();
        let (first, count) = message("wecom-dirsync", &paragraphs);
        assert_eq!(count, 4);
        assert!(content(&first).starts_with("wecom-dirsync\n\n0张") && content(&first).contains("\n\n3张"));
        let (long, count) = message("h", &["x".repeat(9000)]);
        assert_eq!((count, content(&long).len()), (1, MAX_CONTENT));
        assert!(content(&long).ends_with(CUT));
        let (quoted, _) = message("h", &["<@all> <font color=\"info\">".into()]);
        assert!(!content(&quoted).contains('<'));
    }

    #[test]
    fn only_errcode_0_is_a_success() {
        assert_eq!(read_answer(br#"{"errcode":0,"errmsg":"ok"}"#), Ok(()));
        for (body, part) in [
            (&br#"{"errcode":93000,"errmsg":"invalid webhook url"}"#[..], "93000: invalid webhook url"),
            (br#"{"errcode":45009,"errmsg":"api freq out of limit"}"#, "45009"),
            (br"{}", "no errcode"),
            (b"<html>", "HTML"),
            (b"", "empty"),
        ] {
            assert!(read_answer(body).unwrap_err().contains(part), "{part}");
        }
    }

    proptest! {
        #[test]
        fn no_message_is_too_long(heading in ".{0,100}", paragraphs in proptest::collection::vec("\\PC{0,3000}", 1..6)) {
            let (message, count) = message(&heading, &paragraphs);
            prop_assert!(content(&message).len() <= MAX_CONTENT && (1..=paragraphs.len()).contains(&count));
        }
    }
}
