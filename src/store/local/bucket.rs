//! A bucket folder that is open: its database and its contents.
//!
//! Every query and every change first makes sure that the folder still has the database that is open. The folder
//! may have been replaced, and another process may have deleted the bucket.

use std::ops::Range;
use std::sync::Arc;

use rusqlite::Connection;

use super::class::Class;
use super::content::Contents;
use super::directory::Directory;
use super::disk::{QueryError, QueryResult, failed};
use super::folder;
use super::index::{self, Found};
use super::reading::Reading;
use super::record::{Content, PartFile};
use super::uploads::{self, Upload};
use crate::database::Database;
use crate::store::error::Error;
use crate::store::object_store::{ObjectKey, Result, UploadId};

pub struct Bucket {
    root: Directory,
    class: Class,
    database: Database,
    /// The inode number of the database file.
    inode: u64,
    contents: Contents,
}

/// # Errors
/// [`Error::NoSuchBucket`] if the folder has no database with this inode number.
fn check_there(root: &Directory, inode: u64) -> Result<()> {
    match folder::inode(root)? {
        found if found == inode => Ok(()),
        _ => Err(Error::NoSuchBucket(root.path().display().to_string())),
    }
}

impl Bucket {
    /// Opens the bucket in the folder; if the folder is empty, creates one of this class. Blocks.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] if the folder holds something else; the disk's.
    pub fn open(root: Directory, class: Class, sync: bool) -> Result<Bucket> {
        if !folder::is_bucket(&root)? {
            folder::make_bucket(&root, class, sync)?;
        }
        let (database, inode) = folder::open_database(&root, sync)?;
        let class = Class::of(&root)?;
        let contents = Contents::new(root.clone(), sync)?;
        contents.sweep();
        Ok(Bucket {
            root,
            class,
            database,
            inode,
            contents,
        })
    }

    pub fn root(&self) -> &Directory {
        &self.root
    }

    pub fn class(&self) -> Class {
        self.class
    }

    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// # Errors
    /// [`Error::NoSuchBucket`] if the bucket is no longer in its folder.
    pub fn check(&self) -> Result<()> {
        check_there(&self.root, self.inode)
    }

    /// See [`Database::read`].
    pub fn look<T>(&self, query: impl FnOnce(&Connection) -> QueryResult<T>) -> Result<T> {
        self.check()?;
        Ok(self.database.read(query)?)
    }

    /// See [`Database::query`].
    fn look_once<T>(&self, query: impl FnOnce(&Connection) -> QueryResult<T>) -> Result<T> {
        self.check()?;
        Ok(self.database.query(query)?)
    }

    /// See [`Database::write`].
    pub fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> QueryResult<T> + Send + 'static,
    ) -> Result<T> {
        let (root, inode) = (self.root.clone(), self.inode);
        Ok(self.database.write(move |connection| {
            // Under the write lock, because buckets are deleted under it.
            check_there(&root, inode)?;
            change(connection)
        })?)
    }

    /// # Errors
    /// [`Error::NotFound`].
    pub fn find(&self, key: &ObjectKey) -> Result<Found> {
        self.look_once(|connection| index::find(connection, key))?
            .ok_or(Error::NotFound)
    }

    /// The object, and its part files.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn find_with_parts(&self, key: &ObjectKey) -> Result<(Found, Vec<PartFile>)> {
        let found = self.find(key)?;
        if !matches!(found.content, Content::Parts(_)) {
            return Ok((found, Vec::new()));
        }
        // Both of one state of the database.
        self.look(|connection| {
            let found = index::find(connection, key)?.ok_or(Error::NotFound)?;
            let parts = index::part_files(connection, &found)?;
            Ok((found, parts))
        })
    }

    /// # Errors
    /// [`Error::NoSuchUpload`].
    pub fn upload(&self, key: &ObjectKey, upload: &UploadId) -> Result<Upload> {
        self.look_once(|connection| uploads::load(connection, key, upload))
    }

    /// See [`Contents::open`].
    pub fn read(
        &self,
        key: &ObjectKey,
        found: &Found,
        parts: &[PartFile],
        range: Range<u64>,
    ) -> Result<Reading> {
        self.contents
            .open(key.as_str(), &found.content, parts, found.facts.size, range)
    }

    /// Deletes the bucket; the folder stays, empty.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if the bucket holds objects, unfinished uploads or foreign files.
    pub fn destroy(self: &Arc<Bucket>) -> Result<()> {
        let bucket = self.clone();
        self.change(move |connection| {
            let root = &bucket.root;
            let removing = |error| failed("removing the bucket", root.path())(error);
            let empty = index::is_empty(connection)?
                && folder::foreign_entry(root).map_err(removing)?.is_none();
            if !empty {
                return Err(Error::AlreadyExists.into());
            }
            // Another process may be about to create a bucket in the folder.
            let _locked = root.lock().map_err(removing)?;
            // Once the database is gone, every process finds that there is no bucket.
            folder::remove_database(root)
                .and_then(|()| Class::remove(root))
                .and_then(|()| bucket.contents.destroy())
                .map_err(removing)
                .map_err(QueryError::from)
        })
    }
}
