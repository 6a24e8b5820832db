//! The bytes of a bucket folder: how they are written once, and read.
//!
//! Content files never change. A new one is written under `tmp/`, gets its name, which no other content ever
//! has, and counts from the moment a row of the database refers to it. So a reader that has it open keeps what
//! it began to read, copies share it by hard link, and what a crash leaves behind is only waste.
//!
//! ```text
//! tmp/ID                                     being written
//! data/HH/KEY~ID                             content of one PUT
//! data/HH/KEY~ID/NUMBER~ID                   parts of a multipart upload, also after its completion
//! ```
//! HH spreads keys over 256 folders; KEY is escaped and, where it is long, cut.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::directory::Directory;
use super::disk::failed;
use super::place::{DATA, Place, shard, warn_of};
use super::reading::{Reading, Readings, missing};
use super::received::{Received, TEMPORARY, Written};
use super::record::{Content, PartFile, escape};
use crate::store::error::Error;
use crate::store::object_store::Result;

/// A temporary file that has not been written to for this long is abandoned.
const ABANDONED: Duration = Duration::from_secs(3600);

pub struct Contents {
    root: Directory,
    /// `tmp/`.
    temporary: Directory,
    sync: bool,
    /// With `counter` makes names that no other process and no other run makes.
    instance: u64,
    counter: AtomicU64,
    readings: Readings,
}

impl Contents {
    /// # Errors
    /// The folder is not a bucket's, or not any more.
    pub fn new(root: Directory, sync: bool) -> Result<Contents> {
        let temporary = root
            .directory(TEMPORARY)
            .map_err(failed("opening a folder", &root.path_of(TEMPORARY)))?;
        Ok(Contents {
            temporary,
            readings: Readings::new(root.clone()),
            root,
            sync,
            instance: rand::random(),
            counter: AtomicU64::new(0),
        })
    }

    pub fn syncs(&self) -> bool {
        self.sync
    }

    pub fn new_id(&self) -> String {
        let count = self.counter.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}{count:016x}", self.instance)
    }

    /// A name for new content of `key`.
    pub fn new_name(&self, key: &str) -> String {
        let mut name = escape(key);
        // Leaves room for the id in the 255 bytes of a file name.
        name.truncate(180);
        format!("{name}~{}", self.new_id())
    }

    /// Removes temporary files of processes that died.
    pub fn sweep(&self) {
        let folder = &self.temporary;
        let Ok(names) = folder.names() else {
            return;
        };
        for name in names.flatten() {
            let Some(name) = name.to_str() else {
                continue;
            };
            let abandoned = folder.entry(name).is_ok_and(|entry| {
                entry.is_file
                    && SystemTime::now()
                        .duration_since(entry.modified)
                        .is_ok_and(|rested| rested > ABANDONED)
            });
            if abandoned {
                warn_of(folder.remove_file(name), &folder.path_of(name));
            }
        }
    }

    /// See [`Received::collect`].
    pub async fn receive(
        &self,
        body: BoxStream<'static, Result<Bytes>>,
        expected: Option<u64>,
    ) -> Result<Received> {
        let folder = self.temporary.clone();
        Received::collect(folder, self.new_id(), self.sync, body, expected).await
    }

    /// Puts a written file where `content` says. Blocks.
    pub fn keep(&self, key: &str, content: &Content, mut written: Written) -> Result<()> {
        if let Some(place) = Place::of(key, content) {
            let shard = self.make_shard(key)?;
            written.rename(&shard, &place.name)?;
            self.sync(&shard)?;
        }
        Ok(())
    }

    /// The folder of a key's content; made if it is absent.
    pub fn make_shard(&self, key: &str) -> Result<Directory> {
        let name = shard(key);
        let path = || self.root.path_of(&name);
        match self.root.directory(&name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened.map_err(|error| failed("opening a folder", &path())(error)),
        }
        let make = || {
            let data = self.root.directory(DATA)?;
            let last = name.rsplit('/').next().unwrap_or_default();
            match data.create_directory(last) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                Ok(()) if self.sync => data.sync()?,
                _ => {}
            }
            data.directory(last)
        };
        make().map_err(|error| failed("creating a folder", &path())(error))
    }

    /// A new folder for the parts of an upload.
    pub fn make_parts(&self, key: &str, name: &str) -> Result<()> {
        let shard = self.make_shard(key)?;
        shard
            .create_directory(name)
            .map_err(failed("creating a folder", &shard.path_of(name)))
    }

    /// The folder of the parts of an upload.
    ///
    /// # Errors
    /// [`Error::NoSuchUpload`].
    pub fn parts(&self, key: &str, name: &str) -> Result<Directory> {
        let path = format!("{}/{name}", shard(key));
        self.root
            .directory(&path)
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Error::NoSuchUpload,
                _ => failed("opening the parts", &self.root.path_of(&path))(error),
            })
    }

    /// If this store syncs.
    pub fn sync(&self, folder: &Directory) -> Result<()> {
        match self.sync {
            true => folder
                .sync()
                .map_err(failed("syncing the folder", folder.path())),
            false => Ok(()),
        }
    }

    /// Gives `destination` content of its own that shares the bytes of `source`. Blocks.
    pub fn share(
        &self,
        source: &str,
        content: &Content,
        parts: &[PartFile],
        destination: &str,
    ) -> Result<Content> {
        let Some(from) = Place::of(source, content) else {
            return Ok(Content::Empty);
        };
        let shard = self.make_shard(destination)?;
        let name = self.new_name(destination);
        if !from.in_parts {
            let source = self.content_folder(&from.shard)?;
            link(&source, &from.name, &shard, &name)?;
            self.sync(&shard)?;
            return Ok(Content::File(name));
        }
        let source = self.content_folder(&from.path())?;
        shard
            .create_directory(&name)
            .map_err(failed("creating a folder", &shard.path_of(&name)))?;
        let shared = Content::Parts(name.clone());
        let fill = || {
            let to = shard
                .directory(&name)
                .map_err(failed("opening a folder", &shard.path_of(&name)))?;
            for part in parts {
                link(&source, &part.file, &to, &part.file)?;
            }
            self.sync(&to)
        };
        if let Err(error) = fill() {
            if let Some(place) = Place::of(destination, &shared) {
                place.remove(&self.root);
            }
            return Err(error);
        }
        self.sync(&shard)?;
        Ok(shared)
    }

    /// # Errors
    /// [`Error::NotFound`] when it is gone.
    fn content_folder(&self, path: &str) -> Result<Directory> {
        self.root
            .directory(path)
            .map_err(missing("opening content", &self.root.path_of(path)))
    }

    /// Removes content that no row of the database refers to, at once or when the last read of it ends. Blocks.
    pub fn remove(&self, key: &str, content: &Content) {
        if let Some(place) = Place::of(key, content) {
            self.readings.remove(place);
        }
    }

    /// Removes all content and the folders it is in. For a bucket that is deleted.
    ///
    /// # Errors
    /// The disk's; that something is there which this store has not made.
    pub fn destroy(&self) -> io::Result<()> {
        for name in self.temporary.names()? {
            if let Some(name) = name?.to_str() {
                self.temporary.remove_file(name)?;
            }
        }
        self.root.remove_directory(TEMPORARY)?;
        let data = self.root.directory(DATA)?;
        for shard in data.names()? {
            let Some(shard) = shard?.to_str().map(str::to_string) else {
                continue;
            };
            let folder = data.directory(&shard)?;
            for name in folder.names()? {
                if let Some(name) = name?.to_str() {
                    let place = Place {
                        shard: format!("{DATA}/{shard}"),
                        name: name.to_string(),
                        in_parts: folder.entry(name)?.is_directory,
                    };
                    place.remove(&self.root);
                }
            }
            data.remove_directory(&shard)?;
        }
        self.root.remove_directory(DATA)
    }

    /// See [`Readings::open`].
    pub fn open(
        &self,
        key: &str,
        content: &Content,
        parts: &[PartFile],
        size: u64,
        range: Range<u64>,
    ) -> Result<Reading> {
        self.readings.open(key, content, parts, size, range)
    }
}

/// A hard link; a copy where the file system has none.
fn link(from: &Directory, name: &str, to: &Directory, new_name: &str) -> Result<()> {
    let Err(error) = from.link(name, to, new_name) else {
        return Ok(());
    };
    if error.kind() == io::ErrorKind::NotFound {
        return Err(Error::NotFound);
    }
    let copy = || {
        let mut source = from.open_file(name)?;
        io::copy(&mut source, &mut to.create_file(new_name)?)
    };
    if let Err(error) = copy() {
        warn_of(to.remove_file(new_name), &to.path_of(new_name));
        return Err(failed("copying content", &to.path_of(new_name))(error));
    }
    Ok(())
}
