//! One openid on two present members: found by the schema's triggers, told once, and asked again once.

use rusqlite::{Connection, params};

/// An openid and the present members that have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clash {
    /// The openid.
    pub openid: String,
    /// Their userids.
    pub userids: Vec<String>,
}

/// All clashes.
///
/// # Errors
/// Whatever SQLite says.
pub fn clashes(connection: &Connection) -> rusqlite::Result<Vec<Clash>> {
    let mut statement =
        connection.prepare_cached("SELECT openid, userids FROM openid_clashes ORDER BY openid")?;
    let rows = statement.query_map([], |row| {
        let userids: String = row.get(1)?;
        Ok(Clash { openid: row.get(0)?, userids: userids.split(", ").map(str::to_owned).collect() })
    })?;
    rows.collect()
}

/// Takes up clashes that are new, which it returns, with each of their members to be asked once more; forgets those
/// that are resolved, so that they are told again if they recur.
///
/// # Errors
/// Whatever SQLite says.
pub(super) fn take_up(connection: &Connection) -> rusqlite::Result<Vec<Clash>> {
    if !connection.prepare_cached("SELECT 1 FROM clashing_openids LIMIT 1")?.exists([])? {
        return Ok(Vec::new());
    }
    connection.execute(
        "DELETE FROM clashing_openids WHERE openid NOT IN (SELECT openid FROM openid_clashes)",
        [],
    )?;
    connection.execute(
        "DELETE FROM openid_rechecks
         WHERE userid NOT IN (SELECT userid FROM members WHERE deleted_at IS NULL AND openid IS NOT NULL)",
        [],
    )?;
    let mut new = Vec::new();
    for clash in clashes(connection)? {
        let told = connection.execute(
            "UPDATE clashing_openids SET told = 1 WHERE openid = ?1 AND told = 0",
            [&clash.openid],
        )?;
        if told == 0 {
            continue;
        }
        for userid in &clash.userids {
            connection
                .execute("INSERT OR IGNORE INTO openid_rechecks (userid) VALUES (?1)", params![userid])?;
        }
        new.push(clash);
    }
    Ok(new)
}
