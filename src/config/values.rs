//! Values of settings: text to types, and back to the shortest text. An error completes "KEY: "VALUE" ..".

use std::net::SocketAddr;
use std::time::Duration;

/// `30s`, `5m`, `24h`, `7d` or `0`. Not by humantime: it accepts months, `1w` and `1h 30m` as well.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const HOW: &str = "is not a duration such as 30s, 5m, 24h or 7d";
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        _ => return Err(HOW.into()),
    };
    let number: u64 = text[..text.len() - 1].trim().parse().map_err(|_| HOW.to_owned())?;
    number.checked_mul(unit).map(Duration::from_secs).ok_or_else(|| HOW.into())
}

pub(super) fn show_duration(duration: &Duration) -> String {
    let seconds = duration.as_secs();
    for (unit, name) in [(86_400, 'd'), (3600, 'h'), (60, 'm')] {
        if seconds > 0 && seconds.is_multiple_of(unit) {
            return format!("{}{name}", seconds / unit);
        }
    }
    if seconds == 0 { "0".into() } else { format!("{seconds}s") }
}

/// `64KiB`, `1MiB` or a number of bytes.
pub(super) fn size(text: &str) -> Result<usize, String> {
    const HOW: &str = "is not a size such as 64KiB or 1MiB";
    let (number, unit) = match (text.strip_suffix("KiB"), text.strip_suffix("MiB")) {
        (Some(number), _) => (number, 1024),
        (_, Some(number)) => (number, 1024 * 1024),
        _ => (text, 1),
    };
    let number: usize = number.trim().parse().map_err(|_| HOW.to_owned())?;
    number.checked_mul(unit).ok_or_else(|| HOW.into())
}

pub(super) fn show_size(&bytes: &usize) -> String {
    for (unit, name) in [(1024 * 1024, "MiB"), (1024, "KiB")] {
        if bytes > 0 && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    bytes.to_string()
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "true" | "on" => Ok(true),
        "no" | "false" | "off" => Ok(false),
        _ => Err("is neither yes nor no".into()),
    }
}

/// An IP address or `localhost`, with a port.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    // No other name: reading a configuration resolves none.
    let port = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
    let local = port.map(|port: u16| SocketAddr::from(([127, 0, 0, 1], port)));
    local.ok_or_else(|| "is not an address and port such as 127.0.0.1:8080".into())
}

/// An octal mode with which the owner can read and write.
pub(super) fn file_mode(text: &str) -> Result<u32, String> {
    const HOW: &str = "is not an octal file mode such as 0600 or 0640 that lets the owner read and write";
    let mode = u32::from_str_radix(text, 8).map_err(|_| HOW.to_owned())?;
    if mode <= 0o777 && mode & 0o600 == 0o600 { Ok(mode) } else { Err(HOW.into()) }
}

/// `https://HOST[:PORT][/PATH]` or `http://`, without credentials, query and slash at the end.
pub(super) fn base_url(text: &str) -> Result<String, String> {
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .map(|h| h.trim_end_matches('/'));
    match host {
        Some(host)
            if !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && !b"?#@".contains(&b)) =>
        {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err("is not a URL such as https://qyapi.weixin.qq.com".into()),
    }
}

/// `/callback`; a slash at the end is removed.
pub(super) fn url_path(text: &str) -> Result<String, String> {
    let fits = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && !b"?#%".contains(&b));
    if !fits {
        return Err("is not a path such as /callback".into());
    }
    let path = text.trim_end_matches('/');
    Ok(if path.is_empty() { "/" } else { path }.to_owned())
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
