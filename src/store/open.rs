//! Opens the database file: access mode, ownership check, migration of the schema.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use rusqlite::OpenFlags;
use rusqlite::config::DbConfig;

use super::connection::Connection;
use super::error::StoreError;
use super::{Result, file};

const APPLICATION_ID: i64 = file::APPLICATION_ID as i64;

/// The migration at index N takes the schema from `user_version` N to N + 1.
const MIGRATIONS: &[&str] = &[include_str!("sqlite/schema.sql")];

/// Recreated with each migration, so that views need no migrations of their own.
const VIEWS: &str = include_str!("sqlite/views.sql");

/// Time that a command waits for a lock. The daemon's writer sets its own limit for each commit.
const LOCK_TIMEOUT: Duration = Duration::from_secs(4);

/// A database opened for writing. The file outlives the connection, because closing any descriptor drops SQLite's locks.
pub struct Opened {
    // Fields are dropped in this order.
    connection: Connection,
    _file: Option<File>,
}

impl Deref for Opened {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl From<Connection> for Opened {
    fn from(connection: Connection) -> Self {
        Self { connection, _file: None }
    }
}

/// Opens the database for writing, creates it with file mode `mode` if it does not exist, and migrates it.
///
/// # Errors
/// [`StoreError`]. A file that is not a database of this program stays unchanged.
pub fn open_writer(path: &Path, mode: u32) -> Result<Opened> {
    let file = file::claim(path, mode)?;
    let open = || {
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        migrate(&connection, path)?;
        Ok(connection)
    };
    let connection = open().map_err(|error: StoreError| error.with_holders(Some(path)))?;
    Ok(Opened { connection, _file: Some(file) })
}

/// An empty in-memory database with the current schema, for tests and benches.
///
/// # Errors
/// [`StoreError`].
pub fn open_in_memory() -> Result<Connection> {
    let place = Path::new(":memory:");
    let connection = connect(place, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    migrate(&connection, place)?;
    Ok(connection)
}

/// Opens an existing, up-to-date database read-only.
pub(crate) fn open_reader(path: &Path) -> Result<Connection> {
    let connection = open_existing(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.sqlite().pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// Opens an existing, up-to-date database for a command that writes while the daemon may run.
pub(crate) fn open_beside(path: &Path) -> Result<Connection> {
    open_existing(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

fn open_existing(path: &Path, flags: OpenFlags) -> Result<Connection> {
    if !path.exists() {
        return Err(StoreError::Missing(path.to_owned()));
    }
    file::recognise(path)?;
    let connection = connect(path, flags)?;
    let version = schema_version(&connection, path)?;
    match version {
        0 => Err(StoreError::Missing(path.to_owned())),
        v if v == known_version() => Ok(connection),
        // A command never migrates, because the running daemon may be of the older version.
        found => Err(StoreError::Older { path: path.to_owned(), found }),
    }
}

/// Opens the file for this thread alone.
pub(super) fn open_file(path: &Path, flags: OpenFlags) -> Result<rusqlite::Connection> {
    let cannot = |error| StoreError::CannotOpen {
        path: path.to_owned(),
        reason: format!("{error}; check that folder and files belong to the service's user"),
    };
    rusqlite::Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(cannot)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection> {
    let connection = open_file(path, flags)?;
    connection.busy_timeout(LOCK_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(128);
    connection.pragma_update(None, "foreign_keys", true)?;
    // Deleted content is overwritten where that writes no further page, so that `forget` seldom has to rewrite the file.
    connection.pragma_update(None, "secure_delete", "FAST")?;
    // Else SQLite plans by the values of parameters, and compiles some statements anew for each event.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection.into())
}

/// The schema version of this program.
pub(crate) fn known_version() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// The file's schema version; 0 for an empty file. Refuses foreign databases and newer schemas.
fn schema_version(connection: &Connection, path: &Path) -> Result<i64> {
    let number = |pragma: &str| -> Result<i64> {
        connection.sqlite().pragma_query_value(None, pragma, |row| row.get(0)).map_err(|error| {
            match error.sqlite_error_code() {
                Some(rusqlite::ErrorCode::NotADatabase) => StoreError::NotOurs(path.to_owned()),
                _ => error.into(),
            }
        })
    };
    let (application, version) = (number("application_id")?, number("user_version")?);
    let tables: i64 = connection.one("SELECT count(*) FROM sqlite_schema", &[], |row| row.get(0))?;
    let is_empty = application == 0 && version == 0 && tables == 0;
    if !is_empty && application != APPLICATION_ID {
        return Err(StoreError::NotOurs(path.to_owned()));
    }
    if version > known_version() {
        return Err(StoreError::Newer { path: path.to_owned(), found: version, known: known_version() });
    }
    Ok(version)
}

fn migrate(connection: &Connection, path: &Path) -> Result<()> {
    let sqlite = connection.sqlite();
    if schema_version(connection, path)? == 0 {
        // Before the first page is written: only then can the file shrink in pieces later.
        sqlite.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    // Before WAL mode: the id must be in the file itself, whose first bytes identify it.
    let id: i64 = sqlite.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if id != APPLICATION_ID {
        sqlite.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    sqlite.pragma_update(None, "journal_mode", "WAL")?;
    sqlite.pragma_update(None, "synchronous", "FULL")?;
    // A WAL that grew during a long read is truncated to this at its next restart.
    sqlite.pragma_update(None, "journal_size_limit", 8 * 1024 * 1024)?;
    // SQLite's default of 2 MB does not hold the upper pages of all indexes of a large company.
    sqlite.pragma_update(None, "cache_size", -8 * 1024)?;
    // Statement journals of savepoints: from 16 pages on, SQLite would write them to a file.
    sqlite.pragma_update(None, "temp_store", "MEMORY")?;
    connection.transaction(|connection| {
        let version = schema_version(connection, path)?;
        if version == known_version() {
            return Ok(());
        }
        if version > 0 {
            log::info!("database: migrating the schema from {version} to {}", known_version());
        }
        drop_views(connection)?;
        for migration in MIGRATIONS.iter().skip(usize::try_from(version).unwrap_or(0)) {
            connection.script(migration)?;
        }
        connection.script(VIEWS)?;
        Ok(sqlite.pragma_update(None, "user_version", known_version())?)
    })
}

fn drop_views(connection: &Connection) -> Result<()> {
    let names = "SELECT name FROM sqlite_schema WHERE type = 'view'";
    for name in connection.rows(names, &[], |row| row.get::<String>(0))? {
        connection.script(&format!("DROP VIEW \"{}\"", name.replace('"', "\"\"")))?;
    }
    Ok(())
}
