//! The lists of the command `members`, and why a member has no openid.

use super::Result;
use super::connection::{Column, Connection, Sql, values};
use crate::directory::UserId;

/// Which members are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listed {
    Present,
    /// Present, without an openid yet.
    Pending,
    /// Present; WeCom refuses the conversion for good.
    Failed,
    Departed,
}

/// A department and those below it; text that userid, name or alias contains.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Filter<'a> {
    pub(crate) department: Option<i64>,
    pub(crate) name: Option<&'a str>,
}

/// Members that the filter accepts, from a query of `m`. ?1: the department, with those below it (UNION ends at a cycle);
/// ?2: the pattern.
macro_rules! list {
    ($select:literal, $condition:literal, $order:literal) => {
        concat!(
            "SELECT m.userid, m.name, ",
            $select,
            " WHERE ",
            $condition,
            " AND (?1 IS NULL OR m.userid IN (
                SELECT userid FROM member_departments WHERE department_id IN (
                    WITH RECURSIVE below (id) AS (
                        SELECT ?1
                        UNION
                        SELECT d.id FROM departments AS d JOIN below ON d.parent_id = below.id
                        WHERE d.deleted_at IS NULL)
                    SELECT id FROM below)))
            AND (?2 IS NULL OR m.userid LIKE ?2 ESCAPE '|' OR m.name LIKE ?2 ESCAPE '|' OR m.alias LIKE ?2 ESCAPE '|')
            ORDER BY ",
            $order
        )
    };
}

const PRESENT: &str = list!(
    "a.departments, a.status, coalesce(m.openid, m.openid_state) AS openid
     FROM members AS m JOIN active_members AS a ON a.userid = m.userid",
    "m.deleted_at IS NULL",
    "m.userid"
);
const PENDING: &str = list!(
    "a.departments, p.tried, p.next_try, p.why FROM members AS m JOIN active_members AS a ON a.userid = m.userid
     JOIN pending_members AS p ON p.userid = m.userid",
    "m.deleted_at IS NULL",
    "m.openid_next_attempt_at, m.userid"
);
const FAILED: &str = list!(
    "a.departments, f.tried, f.refused, f.why FROM members AS m JOIN active_members AS a ON a.userid = m.userid
     JOIN failed_members AS f ON f.userid = m.userid",
    "m.deleted_at IS NULL",
    "m.userid"
);
const DEPARTED: &str = list!(
    "datetime(m.deleted_at, 'unixepoch', 'localtime') AS departed, m.openid FROM members AS m",
    "m.deleted_at IS NOT NULL",
    "m.deleted_at DESC, m.userid"
);

/// Calls `each` with the names of the columns, then with each member's row; with nothing if there is no member. Rows are
/// not collected: there may be a million.
pub(crate) fn members(
    connection: &Connection,
    listed: Listed,
    filter: Filter<'_>,
    mut each: impl FnMut(Vec<String>),
) -> Result<()> {
    let pattern = filter.name.map(|name| {
        let literal = name.replace('|', "||").replace('%', "|%").replace('_', "|_");
        format!("%{literal}%")
    });
    let sql: Sql = match listed {
        Listed::Present => PRESENT,
        Listed::Pending => PENDING,
        Listed::Failed => FAILED,
        Listed::Departed => DEPARTED,
    }
    .into();
    let mut columns = 0;
    connection.for_each(sql, values![filter.department, pattern], |row| {
        if columns == 0 {
            let names: Vec<_> = row.names().map(str::to_owned).collect();
            columns = names.len();
            each(names);
        }
        let cell = |column| {
            Ok(match row.column(column)? {
                Column::Int(number) => number.to_string(),
                Column::Text(text) => text.into_owned(),
                _ => String::new(),
            })
        };
        each((0..columns).map(cell).collect::<Result<_>>()?);
        Ok(true)
    })
}

/// Id and path of the departments that a text means: `#ID`, a full path, else the end of a path.
pub(crate) fn departments(connection: &Connection, text: &str) -> Result<Vec<(i64, String)>> {
    let text = text.trim_matches('/');
    let id = text.strip_prefix('#').and_then(|id| id.parse::<i64>().ok());
    let (mut exact, mut ends) = (Vec::new(), Vec::new());
    connection.for_each("SELECT id, path FROM department_tree ORDER BY path, id", &[], |row| {
        let (id_of_row, path) = (row.get::<i64>(0)?, row.get::<String>(1)?);
        if Some(id_of_row) == id || path == text {
            exact.push((id_of_row, path));
        } else if path.strip_suffix(text).is_some_and(|before| before.ends_with('/')) {
            ends.push((id_of_row, path));
        }
        Ok(true)
    })?;
    Ok(if exact.is_empty() { ends } else { exact })
}

/// Why a present member has no openid; `None` if it has one.
pub(crate) fn why_without_openid(connection: &Connection, userid: &UserId) -> Result<Option<String>> {
    connection.row(
        "SELECT why FROM pending_members WHERE userid = ?1
         UNION ALL SELECT why FROM failed_members WHERE userid = ?1",
        values![userid.as_str()],
        |row| row.get(0),
    )
}
