//! What a secret may look like: WeCom's are printable ASCII without blanks or quotes.

use crate::text::is_invisible;

/// Longest file of a secret, in bytes; WeCom's secrets have 43 characters.
pub(super) const LONGEST_FILE: u64 = 64 * 1024;

/// A file's bytes as text.
///
/// # Errors
/// What is wrong with the file; never its content.
pub(super) fn decode(bytes: Vec<u8>) -> Result<String, String> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err("is UTF-16; save it as UTF-8 in the editor".into());
    }
    if bytes.contains(&0) {
        return Err("is binary or UTF-16; save it as text in UTF-8".into());
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8; save it as UTF-8 (not GBK) in the editor".into())
}

/// Without the byte order mark, line ends and blanks that editors and the console's copy button leave around it.
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

/// Refuses what WeCom never issues.
///
/// # Errors
/// What is wrong and what to do; never the value.
pub(super) fn judge(secret: &str) -> Result<(), String> {
    if secret.is_empty() {
        return Err("is empty; fill it in, or delete the line".into());
    }
    if is_placeholder(secret) {
        return Err("is a placeholder; replace it with the value from the admin console".into());
    }
    if secret.contains(is_quote) {
        return Err("has quotes in it; write the value without them".into());
    }
    if secret.contains(is_invisible) {
        return Err("has invisible (zero-width) characters in it; type it, or copy it as plain text".into());
    }
    if secret.contains(char::is_whitespace) {
        return Err("has blanks in it, which WeCom's never have; comments stand on lines of their own".into());
    }
    if secret.contains(char::is_control) {
        return Err("has control characters in it; copy it again from the console".into());
    }
    if !secret.is_ascii() {
        return Err("has characters that are not ASCII; copy it again from the console".into());
    }
    Ok(())
}

fn is_quote(c: char) -> bool {
    matches!(
        c,
        '"' | '\'' | '`' | '\u{b4}' | '«' | '»' | '\u{2018}'..='\u{201f}' | '‹' | '›' | '＂' | '＇' | '「'..='』' | '《' | '》'
    )
}

/// Whether a value is what examples and forms have where a value belongs.
pub(super) fn is_placeholder(value: &str) -> bool {
    const ANYWHERE: [&str; 10] = [
        "changeme",
        "replaceme",
        "placeholder",
        "yoursecret",
        "yourtoken",
        "yourapp",
        "yourcorp",
        "secrethere",
        "tokenhere",
        "redacted",
    ];
    const WHOLE: [&str; 8] = ["todo", "tbd", "fixme", "none", "null", "undefined", "secret", "fillin"];
    const CHINESE: [&str; 8] = ["你的", "您的", "请", "填写", "填入", "替换", "在此", "此处"];
    // Of a URL, the value of its last parameter.
    let value = value.rsplit('=').next().unwrap_or(value);
    let plain: String = value.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    let is_filler = value.chars().count() >= 3 && value.chars().all(|c| "xX*._?-…·".contains(c));
    // A real secret has 43 characters, and may begin with any three of them.
    let begins_as_filler = plain.starts_with("xxx") && value.len() != 43 && value.len() != 32;
    let is_yours = plain.starts_with("your")
        && (value.len() != 43 || value.get(4..).is_some_and(|rest| rest.starts_with(['_', '-'])));
    is_filler
        || begins_as_filler
        || is_yours
        || value.contains(['<', '>', '{', '}'])
        || value.starts_with(['$', '%'])
        || CHINESE.iter().any(|word| value.contains(word))
        || WHOLE.contains(&plain.as_str())
        || (value.len() != 43 && ANYWHERE.iter().any(|word| plain.contains(word)))
        || (plain.starts_with("ww") && plain.len() > 4 && plain[2..].bytes().all(|b| b == b'x'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_surrounds_a_secret_is_trimmed_and_what_is_in_it_is_judged() {
        assert_eq!(trim("\u{feff}\u{feff} \u{3000}abc\u{a0}\r\n"), "abc");
        for good in ["abc", "s-9f3Hq2Wd8Pz5Rk", "T1", "xx", "https://h/send?key=693a91f6-7xxx"] {
            assert_eq!(judge(good), Ok(()), "{good}");
        }
        for (bad, expected) in [
            ("", "empty"),
            ("'abc'", "quotes"),
            ("“abc”", "quotes"),
            ("‘abc’", "quotes"),
            ("\"\"abc\"\"", "quotes"),
            ("＂abc＂", "quotes"),
            ("a\u{200b}bc", "invisible"),
            ("a\u{feff}bc", "invisible"),
            ("a bc", "blanks"),
            ("a\u{3000}bc", "blanks"),
            ("a\u{7}bc", "control"),
            ("ａｂｃ", "not ASCII"),
            ("YOUR_SECRET", "placeholder"),
            ("your-app-secret", "placeholder"),
            ("xxx", "placeholder"),
            ("xxxxxxxxxxxx", "placeholder"),
            ("XXXX-XXXX", "placeholder"),
            ("<secret>", "placeholder"),
            ("changeme", "placeholder"),
            ("你的Secret", "placeholder"),
            ("请填写", "placeholder"),
            ("[redacted]", "placeholder"),
            ("${APP_SECRET}", "placeholder"),
            ("wwxxxxxxxx", "placeholder"),
        ] {
            let said = judge(bad).unwrap_err();
            assert!(said.contains(expected) && (bad.is_empty() || !said.contains(bad)), "{bad}: {said}");
        }
    }

    #[test]
    fn files_that_are_no_text_are_said() {
        assert!(decode(b"\xff\xfea\0b\0".to_vec()).unwrap_err().contains("UTF-16"));
        assert!(decode(b"a\0b\0".to_vec()).unwrap_err().contains("UTF-16"));
        assert!(decode(vec![0xc4, 0xe3]).unwrap_err().contains("GBK"));
        assert_eq!(decode(b"\xef\xbb\xbfabc\n".to_vec()).as_deref().map(trim), Ok("abc"));
    }
}
