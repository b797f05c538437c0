//! The lists of the command `members`, and why a member has no openid.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, params};

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

const PRESENT: &str = "
    SELECT m.userid, m.name, a.departments, a.status, coalesce(m.openid, m.openid_state) AS openid
    FROM members AS m JOIN active_members AS a ON a.userid = m.userid";
const PENDING: &str = "
    SELECT m.userid, m.name, a.departments, p.tried, p.next_try, p.why
    FROM members AS m JOIN active_members AS a ON a.userid = m.userid JOIN pending_members AS p ON p.userid = m.userid";
const FAILED: &str = "
    SELECT m.userid, m.name, a.departments, f.tried, f.refused, f.why
    FROM members AS m JOIN active_members AS a ON a.userid = m.userid JOIN failed_members AS f ON f.userid = m.userid";
const DEPARTED: &str = "
    SELECT m.userid, m.name, datetime(m.deleted_at, 'unixepoch', 'localtime') AS departed, m.openid
    FROM members AS m";

/// ?1: the department; ?2: the pattern. UNION ends at a cycle of departments.
const FILTER: &str = "
    (?1 IS NULL OR m.userid IN (
        SELECT userid FROM member_departments WHERE department_id IN (
            WITH RECURSIVE below (id) AS (
                SELECT ?1
                UNION
                SELECT d.id FROM departments AS d JOIN below ON d.parent_id = below.id WHERE d.deleted_at IS NULL)
            SELECT id FROM below)))
    AND (?2 IS NULL OR m.userid LIKE ?2 ESCAPE '\\' OR m.name LIKE ?2 ESCAPE '\\' OR m.alias LIKE ?2 ESCAPE '\\')";

impl Listed {
    fn sql(self) -> String {
        let (select, present, order) = match self {
            Self::Present => (PRESENT, "m.deleted_at IS NULL", "m.userid"),
            Self::Pending => (PENDING, "m.deleted_at IS NULL", "m.openid_next_attempt_at, m.userid"),
            Self::Failed => (FAILED, "m.deleted_at IS NULL", "m.userid"),
            Self::Departed => (DEPARTED, "m.deleted_at IS NOT NULL", "m.deleted_at DESC, m.userid"),
        };
        format!("{select} WHERE {present} AND {FILTER} ORDER BY {order}")
    }
}

/// Calls `each` with the names of the columns, then with each member's row. Rows are not collected: there may be a million.
pub(crate) fn members(
    connection: &Connection,
    listed: Listed,
    filter: Filter<'_>,
    mut each: impl FnMut(Vec<String>),
) -> rusqlite::Result<()> {
    let pattern = filter.name.map(|name| {
        let literal = name.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        format!("%{literal}%")
    });
    let mut statement = connection.prepare(&listed.sql())?;
    let columns = statement.column_names().map(str::to_owned).collect::<Vec<_>>();
    let count = columns.len();
    each(columns);
    let mut rows = statement.query(params![filter.department, pattern])?;
    while let Some(row) = rows.next()? {
        let cell = |column| {
            Ok(match row.get_ref(column)? {
                ValueRef::Integer(number) => number.to_string(),
                ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                _ => String::new(),
            })
        };
        each((0..count).map(cell).collect::<rusqlite::Result<_>>()?);
    }
    Ok(())
}

/// Id and path of the departments that a text means: `#ID`, a full path, else the end of a path.
pub(crate) fn departments(connection: &Connection, text: &str) -> rusqlite::Result<Vec<(i64, String)>> {
    let text = text.trim_matches('/');
    let id = text.strip_prefix('#').and_then(|id| id.parse::<i64>().ok());
    let mut statement = connection.prepare("SELECT id, path FROM department_tree ORDER BY path, id")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
    let (mut exact, mut ends) = (Vec::new(), Vec::new());
    for row in rows {
        let (id_of_row, path) = row?;
        if Some(id_of_row) == id || path == text {
            exact.push((id_of_row, path));
        } else if path.strip_suffix(text).is_some_and(|before| before.ends_with('/')) {
            ends.push((id_of_row, path));
        }
    }
    Ok(if exact.is_empty() { ends } else { exact })
}

/// Why a present member has no openid; `None` if it has one.
pub(crate) fn why_without_openid(
    connection: &Connection,
    userid: &UserId,
) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT why FROM pending_members WHERE userid = ?1
               UNION ALL SELECT why FROM failed_members WHERE userid = ?1";
    connection.query_row(sql, [userid.as_str()], |row| row.get(0)).optional()
}
