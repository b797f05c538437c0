//! The form of a secret: WeCom's are printable ASCII without blanks or quotes.

use super::Secret;
use super::ini::unquote;
use crate::text::is_invisible;

/// Longest file of a secret, in bytes; WeCom's secrets have 43 characters.
pub(super) const MAX_FILE: u64 = 64 * 1024;

/// The text of a file that must be UTF-8. An error states the encoding, never the content.
pub(super) fn decode(bytes: Vec<u8>) -> Result<String, &'static str> {
    if bytes.contains(&0) || bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err("is UTF-16 or binary; save it as UTF-8 in the editor");
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8; save it as UTF-8 (not GBK) in the editor")
}

/// Removes byte order marks, line ends and blanks, which editors and the console's copy button add.
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

/// The secret in a file, by the rules of a value in the INI.
pub(super) fn of_file(content: &str) -> &str {
    trim(unquote(trim(content)))
}

/// Refuses what WeCom never issues. An error never contains the value.
pub(super) fn validate(secret: &str) -> Result<(), &'static str> {
    let has = |found: fn(char) -> bool| secret.contains(found);
    Err(if secret.is_empty() {
        "is empty; fill it in, or delete the line"
    } else if is_placeholder(secret) {
        "is a placeholder or a value that is easy to guess; replace it with the value from the admin console"
    } else if has(is_quote) {
        "contains quotes; only one pair of double quotes around the whole value is accepted"
    } else if has(is_invisible) {
        "contains invisible (zero-width) characters; type it, or copy it as plain text"
    } else if has(char::is_whitespace) {
        "contains blanks, which WeCom's secrets never do; a comment needs a line of its own"
    } else if has(char::is_control) {
        "contains control characters; copy it again from the console"
    } else if !secret.is_ascii() {
        "contains characters that are not ASCII; copy it again from the console"
    } else {
        return Ok(());
    })
}

/// Random letters and digits.
pub(super) fn random(length: usize) -> Result<Secret, getrandom::Error> {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    loop {
        let mut text = String::with_capacity(length);
        while text.len() < length {
            let byte = getrandom::u32()?.to_le_bytes()[0] % 64;
            // 62 and 63 are drawn again, so that all digits are equally likely.
            text.extend(DIGITS.get(usize::from(byte)).map(|digit| char::from(*digit)));
        }
        // One in a million begins like a placeholder.
        if validate(&text).is_ok() {
            return Ok(Secret::new(text));
        }
    }
}

fn is_quote(c: char) -> bool {
    matches!(
        c,
        '"' | '\'' | '`' | '\u{b4}' | '«' | '»' | '\u{2018}'..='\u{201f}' | '‹' | '›' | '＂' | '＇' | '「'..='』' | '《' | '》'
    )
}

/// Whether a value is filler of an example or a form: `changeme`, `your_secret`, `test-token-1`, `123456`, `xxx`.
#[rustfmt::skip]
pub(super) fn is_placeholder(value: &str) -> bool {
    const ANYWHERE: [&str; 10] = [
        "changeme", "replaceme", "placeholder", "yoursecret", "yourtoken", "yourapp", "yourcorp", "secrethere",
        "tokenhere", "redacted",
    ];
    const WHOLE: [&str; 9] = ["todo", "tbd", "fixme", "none", "null", "undefined", "secret", "password", "fillin"];
    /// With nothing else but [`FILLING`] beside them.
    const EXAMPLE: [&str; 6] = ["example", "dummy", "test", "testing", "sample", "foobar"];
    const FILLING: [&str; 11] =
        ["", "a", "my", "the", "app", "corp", "secret", "token", "key", "value", "contacts"];
    const CHINESE: [&str; 8] = ["你的", "您的", "请", "填写", "填入", "替换", "在此", "此处"];
    // Of a URL, the value of its last parameter.
    let value = value.rsplit('=').next().unwrap_or(value);
    let plain: String = value.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    let is_filler = value.chars().count() >= 3 && value.chars().all(|c| "xX*._?-…·".contains(c));
    // A real secret has 43 characters, and may begin with any three of them.
    let begins_as_filler = plain.starts_with("xxx") && value.len() != 43 && value.len() != 32;
    let is_yours = plain.starts_with("your")
        && (value.len() != 43 || value.get(4..).is_some_and(|rest| rest.starts_with(['_', '-'])));
    let lower = value.to_lowercase();
    let mut parts = lower.split(|c: char| !c.is_alphabetic());
    let is_example = parts.clone().any(|part| EXAMPLE.contains(&part))
        && parts.all(|part| EXAMPLE.contains(&part) || FILLING.contains(&part));
    is_filler
        || begins_as_filler
        || is_yours
        || is_example
        || is_counting(value)
        || value.contains(['<', '>', '{', '}'])
        || value.starts_with(['$', '%'])
        || CHINESE.iter().any(|filler| value.contains(filler))
        || WHOLE.contains(&plain.as_str())
        || (value.len() != 43 && ANYWHERE.iter().any(|filler| plain.contains(filler)))
        || (plain.starts_with("ww") && plain.len() > 4 && plain[2..].bytes().all(|b| b == b'x'))
}

/// Four digits or more that count up (`123456`, `7890`), or one digit repeated.
fn is_counting(value: &str) -> bool {
    let digits = value.as_bytes();
    let steps = |step: u8| digits.windows(2).all(|pair| (pair[0] - b'0' + step) % 10 == pair[1] - b'0');
    digits.len() >= 4 && digits.iter().all(u8::is_ascii_digit) && (steps(0) || steps(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_surrounds_a_secret_is_removed_and_its_form_is_validated() {
        assert_eq!(trim("\u{feff}\u{feff} \u{3000}abc\u{a0}\r\n"), "abc");
        assert_eq!(of_file("\u{feff}\" abc\"\r\n"), "abc");
        for good in [
            "abc",
            "s-9f3Hq2Wd8Pz5Rk",
            "T1",
            "xx",
            "https://h/send?key=693a91f6-7xxx",
            "QDG6eK",
            "1357",
            "Testarossa",
        ] {
            assert_eq!(validate(good), Ok(()), "{good}");
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
        ] {
            let error = validate(bad).unwrap_err();
            assert!(error.contains(expected) && (bad.is_empty() || !error.contains(bad)), "{bad}: {error}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn placeholders_are_refused() {
        for bad in [
            "YOUR_SECRET", "your-app-secret", "xxx", "xxxxxxxxxxxx", "XXXX-XXXX", "<secret>", "changeme", "ChangeMe123",
            "你的Secret", "请填写", "[redacted]", "${APP_SECRET}", "wwxxxxxxxx", "example", "Example", "dummy", "test",
            "TEST1", "test-secret", "my_test_token", "dummy-app-secret-2", "123456", "0123456789", "1234567890", "0000",
        ] {
            assert!(validate(bad).is_err_and(|error| error.contains("placeholder")), "{bad}");
        }
    }

    #[test]
    fn an_error_about_an_encoding_names_it() {
        assert!(decode(b"\xff\xfea\0b\0".to_vec()).unwrap_err().contains("UTF-16"));
        assert!(decode(b"a\0b\0".to_vec()).unwrap_err().contains("UTF-16"));
        assert!(decode(vec![0xc4, 0xe3]).unwrap_err().contains("GBK"));
        assert_eq!(decode(b"\xef\xbb\xbfabc\n".to_vec()).as_deref().map(trim), Ok("abc"));
    }
}
