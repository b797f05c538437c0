//! `retry`: makes conversions due now.

use std::path::Path;
use std::time::Duration;

use serde_json::Value as Json;

use super::status::why_not_converting;
use super::{Failure, load_without_secrets, print};
use crate::daemon::control::{ControlClient, Request, Response};
use crate::daemon::is_running;
use crate::directory::{UnixSeconds, UserId};
use crate::store::Connection;
use crate::store::member_list::why_without_openid;
use crate::store::open::open_beside;
use crate::store::openids::{make_all_due, make_due};
use crate::store::queries::{local_time, member};
use crate::text::printable;
use crate::unix_time::unix_now;

/// The daemon answers at once.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn retry(path: Option<&Path>, userids: &[String], all: bool) -> Result<(), Failure> {
    let config = load_without_secrets(path)?;
    let userids: Result<Vec<UserId>, _> = userids.iter().map(|text| UserId::parse(text)).collect();
    let userids = userids.map_err(|bad| Failure::Other(bad.to_string()))?;
    let connection = open_beside(&config.database.path)?;
    let now = unix_now();
    let (mut refused, mut lines) = (Vec::new(), String::new());
    let due = connection.transaction(|connection| -> crate::store::Result<usize> {
        if all {
            return make_all_due(connection, now);
        }
        for userid in &userids {
            let (is_due, line) = retry_one(connection, userid, now)?;
            lines.push_str(&format!("{userid}  {}\n", printable(&line)));
            if !is_due {
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
    print(&format!("{lines}{due} due now; {then}\n"))?;
    if refused.is_empty() {
        return Ok(());
    }
    Err(Failure::Other(format!("not due, for the reasons above: {}", refused.join(", "))))
}

/// Makes a member due; whether it is, and the reason.
fn retry_one(
    connection: &Connection,
    userid: &UserId,
    now: UnixSeconds,
) -> crate::store::Result<(bool, String)> {
    let why = why_without_openid(connection, userid)?;
    if make_due(connection, userid, now)? {
        let why = why.map_or_else(String::new, |why| format!("; before: {why}"));
        return Ok((true, format!("due now{why}")));
    }
    let Some(found) = member(connection, userid)? else {
        return Ok((false, "no such member in the directory".to_owned()));
    };
    let present = found.get("userid").and_then(Json::as_str).unwrap_or_default();
    Ok((
        false,
        if !present.eq_ignore_ascii_case(userid.as_str()) {
            format!("renamed: use {present}")
        } else if let Some(at) = found.get("deleted_at").and_then(Json::as_i64) {
            format!("departed {}", local_time(connection, UnixSeconds(at))?)
        } else {
            "has an openid already".to_owned()
        },
    ))
}
