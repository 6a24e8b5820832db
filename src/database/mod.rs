//! SQLite databases: how one is created, opened, read and changed.
//!
//! - A database is created completely under a temporary name ([`schema::create`]); its owner then renames it. A
//!   database that is found therefore has its schema and is in WAL mode, and a rollback journal beside it is foreign.
//! - Opening trusts nothing, because the file may come from elsewhere. Anything but a regular file is refused before
//!   SQLite opens it, and a schema that differs from the expected one in a single character is refused before any
//!   statement uses it. An older version is migrated, a newer one refused.
//! - Changes are committed in groups. Threads queue their changes; one of them, the leader, runs all queued
//!   changes in one transaction and waits for the disk once, while the next group gathers behind it. This needs no
//!   thread of its own: a single writer commits on its own thread, without a hand-over.
//! - Readers have connections of their own and see the last commit of any process. They never wait for writers.
//!
//! Statements, and checks of the values that they return, belong to the owner of a database. [`schema`] describes
//! the tables, [`connection`] opens one connection with its limits, `writer` commits changes, `readers` lends
//! connections.
//!
//! All connections are opened at the start, because later the path may name another file. For the same reason, a
//! closing connection does not remove the write-ahead log; the log is emptied instead. POSIX drops all locks of a
//! process on a file when the process closes any descriptor of it: a process that has a database open must not open
//! its files by other means.

// Paths are those of the whole program.
use ossvault_base as base;

pub mod connection;
pub mod error;
mod readers;
pub mod schema;
mod writer;

use std::path::Path;

use rusqlite::Connection;

use crate::base::sync::lock;
use connection::{Settings, begin, check_files, connect, roll_back, run};
use error::Error;
use readers::Readers;
use schema::{Schema, bring_up_to_date, check_header, check_pages};
use writer::Writer;

/// Cheap to share between threads; every call blocks.
pub struct Database {
    writer: Writer,
    readers: Readers,
}

impl Database {
    /// Opens the database at `path`, which has no symbolic link in it. Blocks.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Disk`] also if the file does not exist.
    pub fn open(path: &Path, schema: &Schema, settings: &Settings) -> Result<Database, Error> {
        let size = check_files(path)?;
        let mut writer = connect(path, settings, settings.writer_cache)?;
        check_header(&writer, schema)?;
        bring_up_to_date(&mut writer, schema)?;
        if size <= settings.check_up_to {
            check_pages(&writer)?;
        }
        let readers: Result<Vec<Connection>, Error> = (0..settings.readers.max(1))
            .map(|_| {
                let reader = connect(path, settings, settings.reader_cache)?;
                reader.pragma_update(None, "query_only", true)?;
                // Opens the log, too.
                check_header(&reader, schema)?;
                Ok(reader)
            })
            .collect();
        Ok(Database {
            writer: Writer::new(writer, schema.version()),
            readers: Readers::new(readers?),
        })
    }

    /// Runs `query` on one state of the database: that of the last commit before this call, or of a later one.
    ///
    /// # Errors
    /// Those of `query`; [`Error`] if the transaction cannot begin.
    pub fn read<T, E: From<Error>>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        let reader = self.readers.take();
        begin(&reader, "BEGIN")?;
        let answer = query(&reader)?;
        run(&reader, "COMMIT")?;
        Ok(answer)
    }

    /// Runs `query`, which executes at most one statement: then it needs no transaction around it.
    ///
    /// # Errors
    /// Those of `query`.
    pub fn query<T, E>(&self, query: impl FnOnce(&Connection) -> Result<T, E>) -> Result<T, E> {
        query(&self.readers.take())
    }

    /// Runs `change` on the current state and commits it, together with those of other threads. A change that
    /// fails is rolled back. When this returns, every later call of every process sees the change.
    ///
    /// # Errors
    /// Those of `change`; [`Error`] if it cannot be committed. It is then rolled back; but if the disk failed
    /// during the commit itself, it may reappear after a crash of the machine.
    pub fn write<T, E>(
        &self,
        change: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.writer.commit(change)
    }

    /// Whether the path still names the file that is open.
    ///
    /// # Errors
    /// [`Error`].
    pub fn is_at_its_path(&self) -> Result<bool, Error> {
        let connection = lock(self.writer.connection());
        let mut moved = 0;
        connection.file_control(None::<&str>, rusqlite::FileControl::HasMoved(&mut moved))?;
        Ok(moved == 0)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let mut connection = lock(self.writer.connection());
        roll_back(&connection);
        // Empties the log, unless another process is reading: that one does it later. Nothing is lost without it.
        let emptied = connection
            .busy_handler(None::<fn(i32) -> bool>)
            .and_then(|()| connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)"));
        if let Err(error) = emptied {
            log::debug!("the log of a database stays: {error}");
        }
    }
}

#[cfg(test)]
mod tests;
