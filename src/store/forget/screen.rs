//! Keyed digests of forgotten userids, and the screening of events that name them.

use std::collections::BTreeSet;

use ring::hmac;

use crate::directory::{Event, MemberEvent, MemberField, Subject, UnixSeconds, UserId, Value};
use crate::store::Result;
use crate::store::connection::{Connection, values};
use crate::store::error::StoreError;
use crate::store::event_log::NewEvent;
use crate::store::state::FORGET_KEY;

/// The key of the digests, while anybody is forgotten.
pub(super) struct Forgotten(hmac::Key);

impl Forgotten {
    /// `None` if nobody was ever forgotten.
    pub(super) fn read(connection: &Connection) -> Result<Option<Self>> {
        let key = FORGET_KEY.get(connection)?;
        Ok(key.map(|(_, key)| Self(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()))))
    }

    pub(super) fn read_or_create(connection: &Connection, now: UnixSeconds) -> Result<Self> {
        if let Some(known) = Self::read(connection)? {
            return Ok(known);
        }
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|error| StoreError::NoRandomness(error.to_string()))?;
        let key: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        FORGET_KEY.set(connection, now, &key)?;
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes())))
    }

    fn of_name(&self, name: &UserId) -> hmac::Tag {
        hmac::sign(&self.0, name.as_str().to_ascii_lowercase().as_bytes())
    }

    /// Replaces the content of an event, or the digest that replaced it already.
    pub(super) fn of_content(&self, payload: &str, digest: Option<i64>) -> i64 {
        let tag = match digest {
            Some(digest) if payload.is_empty() => hmac::sign(&self.0, &digest.to_be_bytes()),
            _ => hmac::sign(&self.0, payload.as_bytes()),
        };
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&tag.as_ref()[..8]);
        i64::from_be_bytes(bytes)
    }

    pub(super) fn add(&self, connection: &Connection, name: &UserId, second: i64) -> Result<()> {
        connection.execute("INSERT INTO forgotten (digest, second) VALUES (?1, ?2)
                 ON CONFLICT (digest) DO UPDATE SET second = CASE WHEN forgotten.second > excluded.second THEN forgotten.second ELSE excluded.second END", values![self.of_name(name).as_ref(), second])?;
        Ok(())
    }

    /// The last second in which the name meant a forgotten person.
    pub(super) fn second(&self, connection: &Connection, name: &UserId) -> Result<Option<i64>> {
        connection.row(
            "SELECT second FROM forgotten WHERE digest = ?1",
            values![self.of_name(name).as_ref()],
            |row| row.get(0),
        )
    }
}

/// An event that names a forgotten person, without the person: its content is not stored.
pub(in crate::store) struct Screened {
    pub(in crate::store) event: NewEvent,
    /// Whether the event is about the person, so that nothing is left to apply.
    pub(in crate::store) is_void: bool,
}

/// Screens an event before it is applied; `None` if it names no forgotten person.
pub(in crate::store) fn screen(connection: &Connection, event: &NewEvent) -> Result<Option<Screened>> {
    let Some(forgotten) = Forgotten::read(connection)? else { return Ok(None) };
    let digest = forgotten.of_content(&event.payload, event.payload.is_empty().then_some(event.digest));
    let at = event.meaning.as_ref().map(|meaning| meaning.at).or(event.create_time);
    let mut gone = BTreeSet::new();
    for name in named(event) {
        let is_gone = match forgotten.second(connection, &name)? {
            None => false,
            Some(second) if at.is_none_or(|at| at.0 <= second) => true,
            // A replay of an event whose time is corrected to that of its receipt.
            Some(_) => connection.exists("SELECT 1 FROM events WHERE subject = '' AND create_time IS NOT DISTINCT FROM ?1 AND digest = ?2", values![event.create_time.map(|at| at.0), digest])?,
        };
        if is_gone {
            gone.insert(name);
        }
    }
    if gone.is_empty() {
        return Ok(None);
    }
    let mut event = NewEvent { payload: String::new(), digest, ..event.clone() };
    let is_gone = |name: &UserId| gone.contains(name);
    let is_void = match event.meaning.as_mut().map(|meaning| &mut meaning.subject) {
        Some(Subject::Tag(_, content)) => {
            content.added_members.retain(|name| !is_gone(name));
            content.removed_members.retain(|name| !is_gone(name));
            false
        }
        Some(Subject::Member(userid, change)) => {
            if let MemberEvent::Created(fields)
            | MemberEvent::Updated(fields)
            | MemberEvent::Renamed(_, fields) = change
                && let Some(Value::Text(leaders)) = fields.get(&MemberField::DirectLeader)
            {
                let kept: Vec<&str> = leaders
                    .split(',')
                    .filter(|name| !UserId::parse(name).is_ok_and(|name| is_gone(&name)))
                    .collect();
                let kept = Value::text(&kept.join(","));
                fields.insert(MemberField::DirectLeader, kept);
            }
            let new_name = if let MemberEvent::Renamed(to, _) = change { Some(&*to) } else { None };
            is_gone(userid) || new_name.is_some_and(is_gone)
        }
        _ => true,
    };
    if is_void {
        event.subject = String::new();
        event.comparison_due = None;
    }
    Ok(Some(Screened { event, is_void }))
}

/// The userids in an event.
fn named(event: &NewEvent) -> Vec<UserId> {
    match event.meaning.as_ref().map(|Event { subject, .. }| subject) {
        Some(Subject::Member(userid, change)) => {
            let (new_name, fields) = match change {
                MemberEvent::Created(fields) | MemberEvent::Updated(fields) => (None, Some(fields)),
                MemberEvent::Renamed(to, fields) => (Some(to.clone()), Some(fields)),
                MemberEvent::Deleted => (None, None),
            };
            let leaders = fields.and_then(|fields| match fields.get(&MemberField::DirectLeader) {
                Some(Value::Text(leaders)) => Some(leaders.as_str()),
                _ => None,
            });
            let leaders = leaders.into_iter().flat_map(|list| list.split(','));
            let leaders = leaders.filter_map(|name| UserId::parse(name).ok());
            std::iter::once(userid.clone()).chain(new_name).chain(leaders).collect()
        }
        Some(Subject::Tag(_, content)) => {
            content.added_members.iter().chain(&content.removed_members).cloned().collect()
        }
        Some(Subject::Trigger(userid, _)) => vec![userid.clone()],
        Some(Subject::Department(..) | Subject::BatchJob(_)) => Vec::new(),
        Some(Subject::Other) | None => UserId::parse(&event.subject).into_iter().collect(),
    }
}
