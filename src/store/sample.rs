//! A member to try an API with.

use super::Result;
use super::connection::Connection;

const LATEST_MEMBER: &str =
    "SELECT userid FROM members WHERE deleted_at IS NULL ORDER BY updated_at DESC LIMIT 1";

/// The userid of the present member that was updated last; `None` if there is no member.
pub(crate) fn latest_member(connection: &Connection) -> Result<Option<String>> {
    connection.row(LATEST_MEMBER, &[], |row| row.get(0))
}
