//! One connection to a database: how it is opened, with which limits, and its transactions.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};

use super::error::Error;

/// How long a writer waits for the writer of another process, which holds the lock for one group of changes.
const BUSY: Duration = Duration::from_secs(30);

/// The first pause of that wait, which doubles each time, and the longest: SQLite's own handler begins with 1 ms
/// and goes up to 100 ms, much longer than a commit takes.
const FIRST_PAUSE: Duration = Duration::from_micros(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(2);

/// The size to which a checkpoint truncates a larger log.
const LOG_SIZE: i64 = 16 << 20;

/// The limit for all connections of the process together, in bytes: caches take a few MiB each, and a forged schema
/// must not take the rest.
const HEAP: i64 = 256 << 20;

/// The most tables and indexes that are read of a database. A forged one may have any number.
pub(super) const MAX_SCHEMA: i32 = 64;

/// How a database is used.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// A change is on the disk when its call returns. Otherwise the last ones may be lost when the machine
    /// stops; the database stays whole either way.
    pub sync: bool,
    /// Connections for reading; that many threads read at once.
    pub readers: usize,
    /// Memory for pages, in KiB.
    pub writer_cache: u32,
    pub reader_cache: u32,
    /// The longest value or row, in bytes. A longer one is neither written nor read.
    pub max_value: u32,
    /// Databases up to this many bytes are checked page by page when they are opened.
    pub check_up_to: u64,
}

pub(super) fn flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_PRIVATE_CACHE
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_EXRESCODE
}

/// Checks that the database, and its log and the log's index if they exist, are regular files. A rollback journal
/// is refused: SQLite would first play it back, and a forged one may name any file as its super-journal.
///
/// Returns the size of the file and its log in bytes.
pub(super) fn check_files(path: &Path) -> Result<u64, Error> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let name = |path: &Path| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().escape_debug().to_string()
    };
    let mut size = 0;
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let path = beside(suffix);
        let found = match fs::symlink_metadata(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !suffix.is_empty() => continue,
            Err(error) => return Err(Error::Disk(Arc::new(error))),
        };
        if suffix == "-journal" {
            return Err(Error::Journal(name(&path)));
        }
        if !found.is_file() {
            return Err(Error::Irregular(name(&path)));
        }
        if suffix != "-shm" {
            size += found.len();
        }
    }
    Ok(size)
}

pub(super) fn connect(path: &Path, settings: &Settings, cache: u32) -> Result<Connection, Error> {
    let mut connection = Connection::open_with_flags(path, flags())?;
    connection.busy_handler(Some(wait))?;
    for (option, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
        (DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true),
        // Otherwise some statements are compiled again whenever another value is bound to them.
        (DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true),
    ] {
        connection.set_db_config(option, on)?;
    }
    let longest = i32::try_from(settings.max_value).unwrap_or(i32::MAX);
    for (limit, most) in [
        (Limit::SQLITE_LIMIT_LENGTH, longest),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_SCHEMA, MAX_SCHEMA),
    ] {
        connection.set_limit(limit, most)?;
    }
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "hard_heap_limit", HEAP)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -i64::from(cache))?;
    connection.pragma_update(None, "journal_size_limit", LOG_SIZE)?;
    let synchronous = if settings.sync { "FULL" } else { "NORMAL" };
    connection.pragma_update(None, "synchronous", synchronous)?;
    Ok(connection)
}

/// The busy handler: gives up after [`BUSY`].
fn wait(before: i32) -> bool {
    let doublings = u32::try_from(before).unwrap_or(0).min(16);
    let pause = (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE);
    if LONGEST_PAUSE.saturating_mul(u32::try_from(before).unwrap_or(0)) >= BUSY {
        return false;
    }
    std::thread::sleep(pause);
    true
}

pub(super) fn begin(connection: &Connection, statement: &str) -> Result<(), Error> {
    roll_back(connection);
    run(connection, statement)
}

pub(super) fn run(connection: &Connection, statement: &str) -> Result<(), Error> {
    connection.prepare_cached(statement)?.execute(())?;
    Ok(())
}

pub(super) fn roll_back(connection: &Connection) {
    if !connection.is_autocommit()
        && let Err(error) = run(connection, "ROLLBACK")
    {
        log::warn!("a transaction cannot be rolled back: {error}");
    }
}
