//! What happened to an entity since a point in time: it explains an observation that does not hold.

use super::Result;
use super::connection::{Connection, values};
use super::facts::tied_names;
use super::ledger::next_event;
use super::observations::Observation;
use crate::directory::{UnixSeconds, UserId};

/// A position in the history of the database: later events have higher numbers, later fetches higher times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    /// The number of the next event.
    pub event: i64,
    /// The time on this machine's clock.
    pub local: UnixSeconds,
}

impl Since {
    /// The present position; `local` is the present time.
    pub fn now(connection: &Connection, local: UnixSeconds) -> Result<Self> {
        Ok(Self { event: next_event(connection)?, local })
    }
}

impl Observation {
    /// Whether an event about the subject was applied or its details were fetched since `since`, which explains an observation
    /// that does not hold.
    pub fn has_news_since(&self, connection: &Connection, since: Since) -> Result<bool> {
        match self {
            Self::Member(userid, _) | Self::MemberAbsent(userid) => {
                member_has_news(connection, userid, since)
            }
            Self::Department(id, _) | Self::DepartmentAbsent(id) => {
                has_event(connection, &id.to_string(), "%_party", since)
            }
            Self::Tag(tag, _) | Self::TagAbsent(tag) => {
                has_event(connection, &tag.to_string(), "update_tag", since)
            }
            Self::Ahead(_) | Self::Complete(_) | Self::TagContentComplete(_) => Ok(false),
            Self::TagMember(tag, userid, _) => {
                Ok(has_event(connection, &tag.to_string(), "update_tag", since)?
                    || member_has_news(connection, userid, since)?)
            }
            Self::TagDepartment(tag, id, _) => {
                Ok(has_event(connection, &tag.to_string(), "update_tag", since)?
                    || has_event(connection, &id.to_string(), "%_party", since)?)
            }
        }
    }
}

fn member_has_news(connection: &Connection, userid: &UserId, since: Since) -> Result<bool> {
    let was_fetched = connection.exists(
        "SELECT 1 FROM members WHERE userid = ?1 AND details_fetched_at >= ?2",
        values![userid.as_str(), since.local.0],
    )?;
    if was_fetched {
        return Ok(true);
    }
    for name in tied_names(connection, userid)? {
        if has_event(connection, name.as_str(), "%_user", since)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has_event(connection: &Connection, subject: &str, change_type: &str, since: Since) -> Result<bool> {
    connection.exists("SELECT 1 FROM events WHERE subject = ?1 AND seq >= ?2 AND outcome = 'applied' AND change_type LIKE ?3", values![subject, since.event, change_type])
}
