//! Merges the facts of large events, one portion in each commit of the writer.

use std::time::Duration;

use crate::daemon::wakeup::Wakeup;
use crate::daemon::{MemberCalls, Shared};
use crate::store::StoreError;
use crate::store::deferred::{apply_portion, drop_portion};
use crate::unix_time::unix_now;

/// Time for one commit.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Wait after a commit that failed.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Longest wait without a large event.
const SLEEP: Duration = Duration::from_secs(24 * 3600);

/// Merges all portions that wait whenever `wakeup` is notified, until the shutdown. Portions that the last process left
/// come first.
pub(super) fn run(shared: &Shared, calls: &MemberCalls, wakeup: &Wakeup) {
    while !shared.shutdown.is_triggered() {
        match apply(shared, calls) {
            Ok(true) => {}
            Ok(false) => wakeup.wait(SLEEP),
            Err(StoreError::Closed) => return,
            Err(error) if error.is_of_the_data() => {
                log::error!("a part of a large event is dropped, because it cannot be stored: {error}");
                let dropped =
                    shared.writer.run(COMMIT_TIMEOUT, |connection| drop_portion(connection, unix_now()));
                if dropped.is_err() && shared.shutdown.sleep(RETRY_AFTER) {
                    return;
                }
            }
            // The writer has logged the reason.
            Err(_) if shared.shutdown.sleep(RETRY_AFTER) => return,
            Err(_) => {}
        }
    }
}

/// Merges one portion; false if none waits.
fn apply(shared: &Shared, calls: &MemberCalls) -> Result<bool, StoreError> {
    let moment = shared.client.clock().moment();
    let applied = shared.writer.run(COMMIT_TIMEOUT, move |connection| apply_portion(connection, moment))?;
    let Some(to_convert) = applied else { return Ok(false) };
    if let Some(converter) = &calls.converter {
        converter.convert_now(to_convert);
    }
    Ok(true)
}
