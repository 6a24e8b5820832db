//! The schema of one kind of database: how it is created, compared and migrated.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::connection::{MAX_SCHEMA, flags};
use super::error::Error;

/// One kind of database.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// In the header of the file, so that a database of another kind is not mistaken for one of this.
    pub application_id: i32,
    /// The first makes the tables, each further one takes the database from the version before to its own.
    /// The version (`user_version`) is the number of those that were applied.
    pub migrations: &'static [&'static str],
}

impl Schema {
    pub(super) fn version(&self) -> i32 {
        self.migrations.len() as i32
    }
}

/// Creates a database at `path`, where nothing exists yet, and closes it. Blocks.
///
/// # Errors
/// Those of the disk.
pub fn create(path: &Path, schema: &Schema) -> Result<(), Error> {
    let connection = Connection::open_with_flags(path, flags() | OpenFlags::SQLITE_OPEN_CREATE)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch("BEGIN IMMEDIATE")?;
    connection.pragma_update(None, "application_id", schema.application_id)?;
    migrate(&connection, schema, 0)?;
    connection.execute_batch("COMMIT")?;
    // Writes everything into the file itself, and removes the log.
    connection.close().map_err(|(_, error)| error.into())
}

/// Checks the first page, before anything of the schema is used.
pub(super) fn check_header(connection: &Connection, schema: &Schema) -> Result<(), Error> {
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    if number("application_id")? != schema.application_id || mode != "wal" {
        return Err(Error::Foreign);
    }
    let found = number("user_version")?;
    let known = schema.version();
    match found {
        found if found > known => Err(Error::Newer { found, known }),
        ..=0 => Err(Error::Foreign),
        _ => Ok(()),
    }
}

/// Compares the schema of the database with the expected one of its version; migrates it if that is an earlier one.
pub(super) fn bring_up_to_date(connection: &mut Connection, schema: &Schema) -> Result<(), Error> {
    let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Again, under the lock: another process may have migrated it meanwhile.
    check_header(&change, schema)?;
    let version: i32 = change.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let applied = usize::try_from(version).unwrap_or(0);
    let model = Connection::open_in_memory()?;
    let known = Schema {
        migrations: &schema.migrations[..applied],
        ..*schema
    };
    migrate(&model, &known, 0)?;
    if definitions(&change)? != definitions(&model)? {
        return Err(Error::Foreign);
    }
    if applied < schema.migrations.len() {
        migrate(&change, schema, applied)?;
    }
    Ok(change.commit()?)
}

/// Applies the migrations from the one after the first `applied`.
fn migrate(connection: &Connection, schema: &Schema, applied: usize) -> Result<(), Error> {
    for migration in &schema.migrations[applied..] {
        connection.execute_batch(migration)?;
    }
    Ok(connection.pragma_update(None, "user_version", schema.version())?)
}

/// Every table, index, trigger and view, as it was defined.
fn definitions(connection: &Connection) -> Result<Vec<[Option<String>; 4]>, Error> {
    let mut query = connection
        .prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name")?;
    let rows = query.query_map((), |row| {
        Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?])
    })?;
    rows.take(MAX_SCHEMA as usize)
        .map(|row| row.map_err(Error::from))
        .collect()
}

pub(super) fn check_pages(connection: &Connection) -> Result<(), Error> {
    let found: String = connection.query_row("PRAGMA quick_check(1)", (), |row| row.get(0))?;
    match found.as_str() {
        "ok" => Ok(()),
        _ => Err(Error::Unsound(found.escape_debug().to_string())),
    }
}
