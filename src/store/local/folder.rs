//! The layout of a bucket folder: how it is recognised, created, and its database opened.
//!
//! ```text
//! bucket.db, -wal, -shm    the objects and uploads: see index
//! class                    see class
//! data/, tmp/              their bytes: see content
//! ```
//!
//! The database gets its name last, when everything else exists: a folder that has it is complete.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::class::{self, Class};
use super::directory::Directory;
use super::disk::{QueryError, failed, message};
use super::index::SCHEMA;
use crate::database::Database;
use crate::database::connection::Settings;
use crate::database::error::Error as Failure;
use crate::database::schema;
use crate::store::error::Error;
use crate::store::object_store::Result;

pub const DATABASE: &str = "bucket.db";
const LOG: &str = "bucket.db-wal";
const LOG_INDEX: &str = "bucket.db-shm";

/// The marker of bucket folders before there was a database.
const OLD_MARKER: &str = "ossvault-bucket";

/// The entries of a bucket folder; `lost+found` is that of a new file system.
const OWN: [&str; 7] = [
    DATABASE,
    LOG,
    LOG_INDEX,
    class::FILE,
    "data",
    "tmp",
    "lost+found",
];

/// Four connections read: a query takes microseconds, and each thread of a mount runs one at a time. The caches
/// hold the inner pages of a database of a million objects (1.5 MiB); leaves come from the kernel's page cache.
fn settings(sync: bool) -> Settings {
    Settings {
        sync,
        readers: 4,
        writer_cache: 4 << 10,
        reader_cache: 1 << 10,
        max_value: 1 << 20,
        check_up_to: CHECKED,
    }
}

/// A database up to this size is checked page by page whenever it is opened, which takes a few hundredths of a
/// second. A large one would take seconds, or minutes from a cold disk; damage in it is found when it is read, because
/// SQLite checks the bounds within each page, and every value is validated.
const CHECKED: u64 = 16 << 20;

/// Opens the folder that the user named; creates it if it is absent.
pub fn open_folder(folder: &Path) -> Result<Directory> {
    fs::create_dir_all(folder).map_err(failed("creating the bucket's folder", folder))?;
    Directory::open(folder).map_err(failed("opening the bucket's folder", folder))
}

/// Whether there may be a bucket in `folder`: false only if it certainly holds none. Changes nothing.
pub fn is_there(folder: &Path) -> bool {
    let absent = |name| match folder.join(name).symlink_metadata() {
        Ok(_) => false,
        Err(error) => matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        ),
    };
    !(absent(DATABASE) && absent(OLD_MARKER))
}

/// Whether the folder is a bucket already.
///
/// # Errors
/// [`Error::Misconfigured`] if it is one in the earlier form.
pub fn is_bucket(root: &Directory) -> Result<bool> {
    let is_there = |name: &str| match root.entry(name) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("reading the folder", &root.path_of(name))(error)),
    };
    if is_there(DATABASE)? {
        return Ok(true);
    }
    if is_there(OLD_MARKER)? {
        return Err(Error::Misconfigured(message(format!(
            "{} is a bucket folder in the form of an earlier version of ossvault, which this version \
             cannot read: mount it with that version and copy its files",
            root.path().display()
        ))));
    }
    Ok(false)
}

/// The name of an entry that is not a bucket's.
pub fn foreign_entry(root: &Directory) -> io::Result<Option<String>> {
    for name in root.names()? {
        let name = name?;
        if !OWN.iter().any(|own| name == *own) {
            return Ok(Some(name.to_string_lossy().escape_debug().to_string()));
        }
    }
    Ok(None)
}

/// Creates a bucket of this class in the folder if it is empty.
///
/// # Errors
/// [`Error::Misconfigured`] if it holds something else.
pub fn make_bucket(root: &Directory, class: Class, sync: bool) -> Result<()> {
    let making = |error| failed("creating a bucket in the folder", root.path())(error);
    let _locked = root.lock().map_err(making)?;
    // Another process has created it meanwhile, with its class.
    if is_bucket(root)? {
        return Ok(());
    }
    match foreign_entry(root).map_err(failed("reading the folder", root.path()))? {
        None => {}
        Some(name) => {
            return Err(Error::Misconfigured(message(format!(
                "{} is neither empty nor a bucket folder: it holds {name}",
                root.path().display()
            ))));
        }
    }
    for name in ["data", "tmp"] {
        match root.create_directory(name) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(making(error));
            }
            _ => {}
        }
        root.directory(name).map_err(making)?;
    }
    class.write(root, sync).map_err(making)?;
    if sync {
        root.sync().map_err(making)?;
    }
    let temporary = root.directory("tmp").map_err(making)?;
    let name = format!("{:032x}", rand::random::<u128>());
    schema::create(&real_path(&temporary)?.join(&name), &SCHEMA).map_err(QueryError::from)?;
    let named = match temporary.link(&name, root, DATABASE) {
        // Another process has created it meanwhile.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // A file system without hard links.
        Err(_) => return temporary.rename(&name, root, DATABASE).map_err(making),
        linked => linked,
    };
    let removed = temporary.remove_file(&name);
    named.and(removed).map_err(making)?;
    if sync {
        root.sync().map_err(making)?;
    }
    Ok(())
}

/// Opens the database of a bucket folder. Also returns its inode number.
pub fn open_database(root: &Directory, sync: bool) -> Result<(Database, u64)> {
    let path = real_path(root)?.join(DATABASE);
    let opened = Database::open(&path, &SCHEMA, &settings(sync));
    let database = opened.map_err(|error| explained(error, root))?;
    let inode = inode(root)?;
    // SQLite knows only paths: it must have gone through the folder that is open here.
    let in_place = database.is_at_its_path().map_err(QueryError::from)?;
    if in_place && Some(inode) == fs::symlink_metadata(&path).ok().map(number) {
        return Ok((database, inode));
    }
    Err(Error::NoSuchBucket(root.path().display().to_string()))
}

fn number(metadata: fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&metadata)
}

/// The inode number of the database that the folder has now.
///
/// # Errors
/// [`Error::NoSuchBucket`].
pub fn inode(root: &Directory) -> Result<u64> {
    match root.entry(DATABASE) {
        Ok(entry) => Ok(entry.inode),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::NoSuchBucket(root.path().display().to_string()))
        }
        Err(error) => Err(failed("reading the folder", root.path())(error)),
    }
}

/// Removes the database. For a bucket that is being deleted, under the write lock.
pub fn remove_database(root: &Directory) -> io::Result<()> {
    root.remove_file(DATABASE)?;
    for name in [LOG, LOG_INDEX] {
        match root.remove_file(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The current path of the folder, without symbolic links.
fn real_path(folder: &Directory) -> Result<PathBuf> {
    let opening = |error| failed("opening the bucket's folder", folder.path())(error);
    let path = fs::canonicalize(folder.path()).map_err(opening)?;
    let there = Directory::open(&path).map_err(opening)?;
    match folder.is_same(&there).map_err(opening)? {
        true => Ok(path),
        false => Err(Error::NoSuchBucket(folder.path().display().to_string())),
    }
}

/// Names the folder in errors that only the user can resolve.
fn explained(error: Failure, root: &Directory) -> Error {
    let folder = root.path().display();
    match error {
        Failure::Newer { .. } => Error::Misconfigured(message(format!(
            "{folder} is a bucket folder of a newer version of ossvault: {error}"
        ))),
        Failure::Foreign | Failure::Irregular(_) | Failure::Journal(_) => {
            Error::Misconfigured(message(format!(
                "{folder} is not a bucket folder, or is damaged: {DATABASE}: {error}"
            )))
        }
        error => QueryError::from(error).into(),
    }
}
