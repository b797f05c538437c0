//! `forget`: erases a departed person from the database.

use std::path::Path;

use super::{Failure, load, print};
use crate::directory::UserId;
use crate::store::forget::{Erased, Mentions, NotErased, clean_files, erase, find};
use crate::store::open::open_beside;
use crate::store::{Connection, StoreError};
use crate::text::printable;
use crate::unix_time::unix_now;
use crate::wecom::callback::mentions::without_members;

/// Attempts if events about the person arrive meanwhile.
const TRIES: u32 = 3;

pub(super) fn forget(path: Option<&Path>, userid: &str) -> Result<(), Failure> {
    let config = load(path)?;
    let userid = UserId::parse(userid).map_err(|bad| Failure::Other(bad.to_string()))?;
    let database = &config.database.path;
    let connection = open_beside(database)?;
    let erased = match find(&connection, &userid)? {
        Ok(found) => erase_found(&connection, found)?,
        // The files may not have been cleaned then.
        Err(NotErased::Already) => Erased { traces: vec![userid.as_str().to_owned()], ..Erased::default() },
        Err(refusal) => return Err(Failure::Other(refused(&userid, &refusal))),
    };
    let rewritten = clean_files(&connection, database, &erased.traces).map_err(|error| match error {
        StoreError::Locked | StoreError::LockedBy(_) => Failure::Other(format!(
            "userid={userid} is erased from all tables, but another program reads the database, so that its files still hold \
             what was deleted ({error}); run the command again"
        )),
        error => error.into(),
    })?;
    print(&report(&userid, &erased, rewritten))
}

fn erase_found(connection: &Connection, mut found: Mentions) -> Result<Erased, Failure> {
    let redact = |xml: &str, is_forgotten: &dyn Fn(&str) -> bool| without_members(xml, is_forgotten);
    for _ in 0..TRIES {
        let erased = connection.transaction(|connection| erase(connection, &found, redact, unix_now()))?;
        if let Some(erased) = erased {
            return Ok(erased);
        }
        let userid = found.userid().clone();
        found = find(connection, &userid)?.map_err(|refusal| Failure::Other(refused(&userid, &refusal)))?;
    }
    Err(Failure::Other("the member changes all the time; try again".into()))
}

fn refused(userid: &UserId, refusal: &NotErased) -> String {
    match refusal {
        NotErased::Present => format!(
            "userid={userid} is present; only a departed member can be forgotten: delete it in WeCom first"
        ),
        NotErased::Renamed(to) => {
            format!("userid={userid} is a former userid of {}; name the last one", printable(to))
        }
        NotErased::Deferred => {
            format!("a large event that names userid={userid} is being merged; try again in a minute")
        }
        NotErased::Unknown | NotErased::Already => format!("no table names userid={userid}"),
    }
}

fn report(userid: &UserId, erased: &Erased, rewritten: bool) -> String {
    let Erased { facts, events, changes, api_calls, of_others, last_change, .. } = erased;
    let names = erased.names.join(", ");
    let mut text = if erased.names.is_empty() {
        format!("userid={userid} was forgotten before\n")
    } else {
        format!(
            "forgotten: {names}\nerased: {facts} facts, {events} events, {changes} changes, {api_calls} API calls; the userid \
             in {of_others} rows about others\n"
        )
    };
    let files = if rewritten { "were rewritten and " } else { "" };
    text.push_str(&format!("the files of the database {files}contain no rest of it\n"));
    if *last_change > 0 {
        text.push_str(&format!(
            "consumers of the change feed that have not read change #{last_change} yet must export the directory again\n"
        ));
    }
    text.push_str(
        "not erased: backups, exports, log files, and what consumers of the change feed have stored\n",
    );
    text
}
