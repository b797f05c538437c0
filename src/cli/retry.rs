//! `retry`: makes conversions due now.

use std::path::Path;
use std::time::Duration;

use super::status::why_not_converting;
use super::{Failure, load_without_secrets, print};
use crate::daemon::control::{ControlClient, Request, Response};
use crate::daemon::is_running;
use crate::directory::UserId;
use crate::store::open::open_beside;
use crate::store::openids::{make_all_due, make_due};
use crate::unix_time::unix_now;

/// The daemon answers at once.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn retry(path: Option<&Path>, userids: &[String], all: bool) -> Result<(), Failure> {
    let config = load_without_secrets(path)?;
    let userids: Result<Vec<UserId>, _> = userids.iter().map(|text| UserId::parse(text)).collect();
    let userids = userids.map_err(|bad| Failure::Other(bad.to_string()))?;
    let connection = open_beside(&config.database.path)?;
    let now = unix_now();
    let mut refused = Vec::new();
    let due = connection.transaction(|connection| -> crate::store::Result<usize> {
        if all {
            return make_all_due(connection, now);
        }
        for userid in &userids {
            if !make_due(connection, userid, now)? {
                refused.push(userid.as_str());
            }
        }
        Ok(userids.len() - refused.len())
    })?;
    let response = ControlClient::request(&connection, &Request::Retry)
        .and_then(|mut client| client.receive(RESPONSE_TIMEOUT));
    let is_awake = matches!(response, Ok(Some(Response::Done)));
    let then = if let Some(why) = why_not_converting(&config) {
        format!("but nothing is converted: {why}")
    } else if is_awake {
        "the daemon tries them now, unless `status` shows a pause".into()
    } else if is_running(&config.database.path) {
        "the daemon does not answer on its control socket; it tries them within 15 s".into()
    } else {
        "the daemon is not running; it tries them when it starts".to_owned()
    };
    print(&format!("{due} due now; {then}\n"))?;
    if refused.is_empty() {
        return Ok(());
    }
    let what = format!("unknown, deleted or converted already: {}", refused.join(", "));
    Err(Failure::Other(what))
}
