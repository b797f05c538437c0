//! The connection to the tables. Every statement of the store runs through it, so only this module and `sqlite` name the
//! engine.

use std::borrow::Cow;
use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, ValueRef};

use super::error::StoreError;
use super::ledger::Ledger;
use super::{Result, ledger};
use crate::directory::{UnixSeconds, UserId};

/// A statement. All engines understand its text.
#[derive(Debug, Clone, Copy)]
pub struct Sql(&'static str);

impl From<&'static str> for Sql {
    fn from(text: &'static str) -> Self {
        Self(text)
    }
}

/// A parameter of a statement.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Value<'a> {
    Null,
    Int(i64),
    Text(Cow<'a, str>),
    Bytes(&'a [u8]),
}

macro_rules! value_from {
    ($($type:ty => $value:expr),* $(,)?) => {
        $(impl<'a> From<$type> for Value<'a> {
            fn from(from: $type) -> Self {
                let value: fn($type) -> Value<'a> = $value;
                value(from)
            }
        })*
    };
}

value_from! {
    i64 => Value::Int,
    &'a i64 => |number| Value::Int(*number),
    i32 => |number| Value::Int(number.into()),
    u32 => |number| Value::Int(number.into()),
    u8 => |number| Value::Int(number.into()),
    // More rows than i64::MAX do not exist.
    usize => |number| Value::Int(i64::try_from(number).unwrap_or(i64::MAX)),
    bool => |is_true| Value::Int(is_true.into()),
    UnixSeconds => |at| Value::Int(at.0),
    &'a str => |text| Value::Text(text.into()),
    &'a String => |text| Value::Text(text.into()),
    String => |text| Value::Text(text.into()),
    &'a [u8] => Value::Bytes,
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl rusqlite::ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// The parameters of a statement: `values![userid, now]` for `?1` and `?2`.
macro_rules! values {
    ($($value:expr),* $(,)?) => {
        &[$($crate::store::connection::Value::from($value)),*]
    };
}
pub(crate) use values;

/// What a column of a row contains.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Column<'a> {
    Null,
    Int(i64),
    Real(f64),
    /// Invalid UTF-8 is replaced.
    Text(Cow<'a, str>),
    /// No column that is read has such a value.
    Bytes,
}

/// A type that a column is read as.
pub trait FromColumn: Sized {
    /// `None` if the column contains something else.
    fn from_column(column: Column<'_>) -> Option<Self>;
}

impl FromColumn for i64 {
    fn from_column(column: Column<'_>) -> Option<Self> {
        if let Column::Int(number) = column { Some(number) } else { None }
    }
}

impl FromColumn for u32 {
    fn from_column(column: Column<'_>) -> Option<Self> {
        Self::try_from(i64::from_column(column)?).ok()
    }
}

impl FromColumn for bool {
    fn from_column(column: Column<'_>) -> Option<Self> {
        Some(i64::from_column(column)? != 0)
    }
}

impl FromColumn for UnixSeconds {
    fn from_column(column: Column<'_>) -> Option<Self> {
        i64::from_column(column).map(Self)
    }
}

impl FromColumn for String {
    fn from_column(column: Column<'_>) -> Option<Self> {
        if let Column::Text(text) = column { Some(text.into_owned()) } else { None }
    }
}

impl<T: FromColumn> FromColumn for Option<T> {
    fn from_column(column: Column<'_>) -> Option<Self> {
        if column == Column::Null { Some(None) } else { T::from_column(column).map(Some) }
    }
}

/// A row of a result.
#[derive(Clone, Copy)]
pub struct Row<'a>(&'a rusqlite::Row<'a>);

impl<'a> Row<'a> {
    /// The column at `place`, from 0.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] if it contains something that is no `T`.
    pub fn get<T: FromColumn>(&self, place: usize) -> Result<T> {
        T::from_column(self.column(place)?).ok_or_else(|| self.unreadable(place))
    }

    /// The text at `place`, not copied.
    pub(super) fn text(&self, place: usize) -> Result<Cow<'a, str>> {
        match self.column(place)? {
            Column::Text(text) => Ok(text),
            _ => Err(self.unreadable(place)),
        }
    }

    /// The userid at `place`; `None` if the text is none.
    pub(super) fn userid(&self, place: usize) -> Result<Option<UserId>> {
        Ok(UserId::parse(&self.text(place)?).ok())
    }

    /// The content of the column at `place`, from 0.
    ///
    /// # Errors
    /// [`StoreError`] if there is no such column.
    pub fn column(&self, place: usize) -> Result<Column<'a>> {
        Ok(match self.0.get_ref(place)? {
            ValueRef::Null => Column::Null,
            ValueRef::Integer(number) => Column::Int(number),
            ValueRef::Real(number) => Column::Real(number),
            ValueRef::Text(text) => Column::Text(String::from_utf8_lossy(text)),
            ValueRef::Blob(_) => Column::Bytes,
        })
    }

    /// The names of the columns.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.0.as_ref().column_names()
    }

    fn unreadable(&self, place: usize) -> StoreError {
        let name = self.0.as_ref().column_name(place).unwrap_or("?");
        StoreError::Unreadable(name.to_owned())
    }
}

/// A connection to the tables, whichever engine holds them.
pub enum Connection {
    /// A SQLite file, or a database in memory.
    Sqlite(Sqlite),
}

/// The pages of SQLite's file.
#[derive(Debug, Clone, Copy)]
pub(super) struct FilePages {
    pub(super) total: i64,
    pub(super) free: i64,
    /// Bytes of a page.
    pub(super) size: i64,
    /// Whether free pages can be returned to the file system.
    pub(super) shrinks: bool,
}

/// A connection to SQLite.
pub struct Sqlite {
    connection: rusqlite::Connection,
    /// The ledger as the open transaction has changed it; `None` if it has not.
    ledger: Cell<Option<Ledger>>,
    /// Uses of statements that SQLite compiled anew.
    #[cfg(test)]
    recompiled: Cell<i32>,
}

impl From<rusqlite::Connection> for Connection {
    fn from(connection: rusqlite::Connection) -> Self {
        Self::Sqlite(Sqlite {
            connection,
            ledger: Cell::new(None),
            #[cfg(test)]
            recompiled: Cell::new(0),
        })
    }
}

impl Connection {
    /// SQLite's own connection, for what only SQLite has: PRAGMAs, checkpoints, copies.
    pub(super) fn sqlite(&self) -> &rusqlite::Connection {
        let Self::Sqlite(sqlite) = self;
        &sqlite.connection
    }

    /// Runs a statement that returns no rows; the number of rows that it wrote.
    ///
    /// # Errors
    /// [`StoreError`], as for all statements.
    pub fn execute(&self, sql: impl Into<Sql>, values: &[Value<'_>]) -> Result<usize> {
        self.with(sql.into(), |statement| statement.execute(rusqlite::params_from_iter(values)))
    }

    /// The first row of a result.
    ///
    /// # Errors
    /// [`StoreError`], also of `read`.
    pub fn row<T>(
        &self,
        sql: impl Into<Sql>,
        values: &[Value<'_>],
        read: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let read = |statement: &mut rusqlite::CachedStatement<'_>| {
            let mut rows = statement.query(rusqlite::params_from_iter(values))?;
            rows.next()?.map(|row| read(&Row(row))).transpose()
        };
        self.with(sql.into(), read)
    }

    /// The one row of an aggregate or of a known key.
    ///
    /// # Errors
    /// [`StoreError`], also if there is no row.
    pub fn one<T>(
        &self,
        sql: impl Into<Sql>,
        values: &[Value<'_>],
        read: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<T> {
        self.row(sql, values, read)?.ok_or(StoreError::Sqlite(rusqlite::Error::QueryReturnedNoRows))
    }

    /// All rows of a result.
    ///
    /// # Errors
    /// [`StoreError`], also of `read`.
    pub fn rows<T>(
        &self,
        sql: impl Into<Sql>,
        values: &[Value<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut found = Vec::new();
        self.for_each(sql, values, |row| {
            found.push(read(row)?);
            Ok(true)
        })?;
        Ok(found)
    }

    /// Calls `each` with one row after the other until it returns false.
    ///
    /// # Errors
    /// [`StoreError`], also of `each`.
    pub fn for_each(
        &self,
        sql: impl Into<Sql>,
        values: &[Value<'_>],
        mut each: impl FnMut(&Row<'_>) -> Result<bool>,
    ) -> Result<()> {
        self.with(sql.into(), |statement| -> Result<()> {
            let mut rows = statement.query(rusqlite::params_from_iter(values))?;
            while let Some(row) = rows.next()? {
                if !each(&Row(row))? {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Whether a result has a row.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn exists(&self, sql: impl Into<Sql>, values: &[Value<'_>]) -> Result<bool> {
        Ok(self.row(sql, values, |_| Ok(()))?.is_some())
    }

    /// Statements separated by semicolons, without parameters.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn script(&self, text: &str) -> Result<()> {
        Ok(self.sqlite().execute_batch(text)?)
    }

    /// Calls `each` with the rows of a query that is used once; the names of its columns.
    pub(super) fn query(
        &self,
        text: &str,
        mut each: impl FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<Vec<String>> {
        let mut statement = self.sqlite().prepare(text)?;
        let names = statement.column_names().map(str::to_owned).collect();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            each(&Row(row))?;
        }
        Ok(names)
    }

    fn with<T, E>(
        &self,
        sql: Sql,
        run: impl FnOnce(&mut rusqlite::CachedStatement<'_>) -> std::result::Result<T, E>,
    ) -> Result<T>
    where
        StoreError: From<E>,
    {
        let mut statement = self.sqlite().prepare_cached(sql.0)?;
        let result = run(&mut statement)?;
        #[cfg(test)]
        {
            let Self::Sqlite(sqlite) = self;
            let status = rusqlite::StatementStatus::RePrepare;
            sqlite.recompiled.set(sqlite.recompiled.get() + statement.reset_status(status));
        }
        Ok(result)
    }

    /// How often SQLite compiled a cached statement anew since the connection was opened.
    #[cfg(test)]
    pub(super) fn recompiled(&self) -> i32 {
        let Self::Sqlite(sqlite) = self;
        sqlite.recompiled.get()
    }

    /// A number that differs after each commit of another connection. Reading it is cheaper than a query.
    pub(crate) fn data_version(&self) -> Result<i64> {
        Ok(self.sqlite().pragma_query_value(None, "data_version", |row| row.get(0))?)
    }

    /// The pages of the file.
    pub(super) fn file_pages(&self) -> Result<FilePages> {
        let number =
            |pragma: &str| self.sqlite().pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        Ok(FilePages {
            total: number("page_count")?,
            free: number("freelist_count")?,
            size: number("page_size")?,
            // 2: incremental.
            shrinks: number("auto_vacuum")? == 2,
        })
    }

    /// Returns up to this many free pages to the file system.
    pub(super) fn release_pages(&self, pages: i64) -> Result<()> {
        // Each row is one page.
        self.query(&format!("PRAGMA incremental_vacuum({pages})"), |_| Ok(())).map(|_| ())
    }

    /// Sets the longest wait for a lock, and the size of the cache in KiB.
    pub(crate) fn limit(&self, lock_wait: Duration, cache: i64) -> Result<()> {
        self.sqlite().busy_timeout(lock_wait)?;
        Ok(self.sqlite().pragma_update(None, "cache_size", -cache)?)
    }

    /// Closes the file, and shows an error that a drop would hide.
    pub(super) fn close(self) -> Result<()> {
        let Self::Sqlite(sqlite) = self;
        sqlite.connection.close().map_err(|(_, error)| error.into())
    }

    /// The path of the file; `None` for a database in memory.
    pub(super) fn path(&self) -> Option<&Path> {
        self.sqlite().path().filter(|path| !path.is_empty() && *path != ":memory:").map(Path::new)
    }
}

/// Transactions.
impl Connection {
    /// Runs `work` in a write transaction, which an error rolls back.
    ///
    /// # Errors
    /// That of `work`, or of the commit.
    pub fn transaction<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&Self) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        self.begin()?;
        let result = work(self).and_then(|done| {
            self.commit()?;
            Ok(done)
        });
        if result.is_err() {
            self.roll_back();
        }
        result
    }

    /// Lets all later reads see one state of the database, until the connection is closed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn hold_snapshot(&self) -> Result<()> {
        self.execute("BEGIN", &[]).map(|_| ())
    }

    /// Runs `work`, which only reads, on one state of the database.
    ///
    /// # Errors
    /// That of `work`.
    pub fn snapshot<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&Self) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        self.hold_snapshot()?;
        let result = work(self);
        self.roll_back();
        result
    }

    /// Begins a write transaction.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn begin(&self) -> Result<()> {
        self.set_ledger(None);
        self.execute("BEGIN IMMEDIATE", &[]).map(|_| ())
    }

    /// Writes the ledger and commits. After an error the transaction may still be open.
    pub(super) fn commit(&self) -> Result<()> {
        let Self::Sqlite(sqlite) = self;
        if let Some(ledger) = sqlite.ledger.get() {
            ledger::write(self, ledger)?;
        }
        self.execute("COMMIT", &[]).map(|_| ())
    }

    /// Rolls back the open transaction, if there is one.
    pub fn roll_back(&self) {
        self.set_ledger(None);
        if self.in_transaction()
            && let Err(error) = self.execute("ROLLBACK", &[])
        {
            log::error!("database: a failed transaction cannot be rolled back: {error}");
        }
    }

    /// Runs `work` so that its failure undoes only what it wrote.
    pub(super) fn savepoint<T>(&self, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let Self::Sqlite(sqlite) = self;
        let before = sqlite.ledger.get();
        self.execute("SAVEPOINT work", &[])?;
        let result = work(self);
        if result.is_err() && self.in_transaction() {
            self.execute("ROLLBACK TO work", &[])?;
            sqlite.ledger.set(before);
        }
        if self.in_transaction() {
            self.execute("RELEASE work", &[])?;
        }
        result
    }

    /// Whether a transaction is open. SQLite ends it by itself after some errors.
    pub(super) fn in_transaction(&self) -> bool {
        !self.sqlite().is_autocommit()
    }

    /// The ledger as the open transaction sees it.
    pub(super) fn ledger(&self) -> Result<Ledger> {
        let Self::Sqlite(sqlite) = self;
        match sqlite.ledger.get() {
            Some(ledger) if self.in_transaction() => Ok(ledger),
            _ => ledger::read(self),
        }
    }

    /// Keeps the ledger until the commit; without a transaction, writes it at once.
    pub(super) fn keep_ledger(&self, ledger: Ledger) -> Result<()> {
        if self.in_transaction() {
            self.set_ledger(Some(ledger));
            return Ok(());
        }
        ledger::write(self, ledger)
    }

    fn set_ledger(&self, ledger: Option<Ledger>) {
        let Self::Sqlite(sqlite) = self;
        sqlite.ledger.set(ledger);
    }
}
