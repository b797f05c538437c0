//! This machine's clock, for callers that pass the time on to pure code.

use std::time::SystemTime;

use crate::directory::UnixSeconds;

/// This machine's time; 0 before 1970.
pub fn unix_now() -> UnixSeconds {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixSeconds(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
