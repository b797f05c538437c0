//! Values of settings: text to types, and back to the shortest text. An error completes "KEY: "VALUE" ..".

use std::net::SocketAddr;
use std::time::Duration;

const DURATIONS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
const SIZES: [(&str, u64); 3] = [("MiB", 1024 * 1024), ("KiB", 1024), ("", 1)];

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let number = |unit| text.strip_suffix(unit).and_then(|number| number.trim().parse::<u64>().ok());
    units.iter().find_map(|(unit, scale)| number(*unit)?.checked_mul(*scale))
}

/// With the largest unit that divides it.
fn show_scaled(value: u64, units: &[(&str, u64)]) -> String {
    let divides = |(_, scale): &&(&str, u64)| value > 0 && value.is_multiple_of(*scale);
    units.iter().find(divides).map_or("0".into(), |(unit, scale)| format!("{}{unit}", value / scale))
}

/// `30s`, `5m`, `24h`, `7d` or `0`. Not by humantime: it accepts months, `1w` and `1h 30m` as well.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let seconds = if text == "0" { Some(0) } else { scaled(text, &DURATIONS) };
    seconds.map(Duration::from_secs).ok_or_else(|| "is not a duration such as 30s, 5m, 24h or 7d".into())
}

pub(super) fn show_duration(duration: &Duration) -> String {
    show_scaled(duration.as_secs(), &DURATIONS)
}

/// `64KiB`, `1MiB` or a number of bytes.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let bytes = scaled(text, &SIZES).and_then(|bytes| usize::try_from(bytes).ok());
    bytes.ok_or_else(|| "is not a size such as 64KiB or 1MiB".into())
}

pub(super) fn show_size(bytes: &usize) -> String {
    show_scaled(u64::try_from(*bytes).unwrap_or(u64::MAX), &SIZES)
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "true" | "on" => Ok(true),
        "no" | "false" | "off" => Ok(false),
        _ => Err("is neither yes nor no".into()),
    }
}

/// An IP address or `localhost`, with a port. No other name, because reading a configuration resolves none.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let address = text.replacen("localhost:", "127.0.0.1:", 1).parse();
    address.map_err(|_| "is not an address and port such as 127.0.0.1:8080".into())
}

/// An octal mode with which the owner can read and write.
pub(super) fn file_mode(text: &str) -> Result<u32, String> {
    const HOW: &str = "is not an octal file mode such as 0600 or 0640 that lets the owner read and write";
    let mode = u32::from_str_radix(text, 8).map_err(|_| HOW.to_owned())?;
    if mode <= 0o777 && mode & 0o600 == 0o600 { Ok(mode) } else { Err(HOW.into()) }
}

/// `https://HOST[:PORT][/PATH]` or `http://`, without credentials, query and slash at the end.
pub(super) fn base_url(text: &str) -> Result<String, String> {
    let text = text.trim_end_matches('/');
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or("");
    let fits = !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && !b"?#@".contains(&b));
    fits.then(|| text.to_owned()).ok_or_else(|| "is not a URL such as https://qyapi.weixin.qq.com".into())
}

/// `/callback`; a slash at the end is removed.
pub(super) fn url_path(text: &str) -> Result<String, String> {
    let fits = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && !b"?#%".contains(&b));
    let path = text.trim_end_matches('/');
    let path = if path.is_empty() { "/" } else { path };
    fits.then(|| path.to_owned()).ok_or_else(|| "is not a path such as /callback".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_back() {
        for text in ["0", "30s", "5m", "24h", "7d", "90s"] {
            let shown = show_duration(&duration(text).unwrap());
            assert_eq!(duration(&shown), duration(text), "{text}");
        }
        for text in ["64KiB", "1MiB", "1000"] {
            assert_eq!(show_size(&size(text).unwrap()), text);
        }
        for bad in ["", "5", "m", "-5m", "5w", "1.5h", "99999999999999999999d", "5张"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        for bad in ["", "KiB", "-1", "1GB", "99999999999999999999MiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_modes_and_urls_are_checked() {
        assert!(
            address("127.0.0.1:8080").is_ok() && address("[::]:80").is_ok() && address("localhost:1").is_ok()
        );
        assert!(
            address("127.0.0.1").is_err() && address(":80").is_err() && address("1.2.3.4:99999").is_err()
        );
        assert!(address("localhost:localhost:80").is_err() && address("localhost:").is_err());
        assert_eq!(file_mode("0640"), Ok(0o640));
        assert!(file_mode("0040").is_err() && file_mode("rw").is_err() && file_mode("1777").is_err());
        assert_eq!(base_url("https://x.y/").as_deref(), Ok("https://x.y"));
        assert!(
            base_url("x.y").is_err() && base_url("https://").is_err() && base_url("https://a@b").is_err()
        );
    }
}
