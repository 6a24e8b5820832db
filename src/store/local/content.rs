//! The bytes of a bucket folder: how they are written once, and read.
//!
//! Content files never change. A new one is written under `tmp/`, gets its name, which no other content ever
//! has, and counts from the moment a line of the log refers to it. So a reader that has it open keeps what
//! it began to read, copies share it by hard link, and what a crash leaves behind is only waste.
//!
//! ```text
//! tmp/ID                                     being written
//! data/HH/KEY~ID                             content of one PUT
//! data/HH/KEY~ID/NUMBER~SIZE~CRC64~TAG       parts of a multipart upload, also after its completion
//! ```
//! HH spreads keys over 256 folders; KEY is escaped and, where it is long, cut.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use md5::{Digest, Md5};
use tokio::task::JoinHandle;

use super::directory::Directory;
use super::disk::{failed, into_inner, message};
use super::record::{Content, PartFile, Tag, escape};
use super::uploads::is_part_name;
use crate::base::crc64::Crc64;
use crate::store::error::Error;
use crate::store::object_store::Result;

/// Bytes that go to the disk in one turn of the blocking pool.
const BATCH: usize = 512 << 10;

/// Bytes of one chunk of a body that is read.
const CHUNK: usize = 256 << 10;

/// Up to this size a body is read at once, on the thread that asks: the page cache is quicker than a
/// hand-over.
const SMALL: u64 = 64 << 10;

/// Up to this size a tag is the content's MD5, as the service has it; beyond, MD5 would cost more than all
/// the rest (1.45 s/GB), and a tag made of size, CRC and chance serves as well.
const MD5_LIMIT: u64 = 1 << 20;

/// Buffers of [`CHUNK`] bytes that are kept for the next read.
const SPARE_BUFFERS: usize = 16;

/// Part files opened when a read begins. Those behind them are opened as they come; this process keeps
/// them until then, another might not.
const OPEN_AHEAD: usize = 64;

/// Nobody writes to a temporary file that has rested this long.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Below the bucket folder, in this order: the folder of all content, that of a shard of the keys, the content.
const DATA: &str = "data";
const TEMPORARY: &str = "tmp";

/// Where the content of an object is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    /// `data/HH`
    shard: String,
    name: String,
    /// A folder of part files.
    in_parts: bool,
}

impl Place {
    /// None for empty content.
    fn of(key: &str, content: &Content) -> Option<Place> {
        let (name, in_parts) = match content {
            Content::Empty => return None,
            Content::File(name) => (name, false),
            Content::Parts(name) => (name, true),
        };
        Some(Place {
            shard: shard(key),
            name: name.clone(),
            in_parts,
        })
    }

    /// From the bucket folder.
    fn path(&self) -> String {
        format!("{}/{}", self.shard, self.name)
    }

    /// Removes the content, and nothing that this store does not make: no folder but one of parts, nothing in
    /// that but parts. A failure costs only room.
    fn remove(&self, root: &Directory) {
        let remove = || {
            let shard = root.directory(&self.shard)?;
            if !self.in_parts {
                return shard.remove_file(&self.name);
            }
            let parts = shard.directory(&self.name)?;
            for name in parts.names()? {
                if let Some(name) = name?.to_str().filter(|name| is_part_name(name)) {
                    parts.remove_file(name)?;
                }
            }
            shard.remove_directory(&self.name)
        };
        warn_of(remove(), &root.path_of(&self.path()));
    }
}

fn shard(key: &str) -> String {
    let spread = crc_fast::crc32_iso_hdlc(key.as_bytes()) & 0xff;
    format!("{DATA}/{spread:02x}")
}

/// For a removal: what is gone already is no failure.
fn warn_of(removed: io::Result<()>, path: &Path) {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::warn!("{}: cannot be removed: {error}", path.display());
        }
        _ => {}
    }
}

pub struct Contents {
    root: Directory,
    sync: bool,
    /// With `counter` makes names that no other process and no other run makes.
    instance: u64,
    counter: AtomicU64,
    buffers: Arc<Buffers>,
    leases: Arc<Leases>,
}

impl Contents {
    pub fn new(root: Directory, sync: bool) -> Contents {
        Contents {
            leases: Arc::new(Leases {
                root: root.clone(),
                held: Mutex::default(),
            }),
            root,
            sync,
            instance: rand::random(),
            counter: AtomicU64::new(0),
            buffers: Arc::default(),
        }
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
        let Ok(folder) = self.root.directory(TEMPORARY) else {
            return;
        };
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

    /// Takes a body in. What it holds becomes content when [`Received::finish`] is called.
    ///
    /// # Errors
    /// The body's own; [`Error::Other`] when it is not `expected` bytes long.
    pub async fn receive(
        &self,
        mut body: BoxStream<'static, Result<Bytes>>,
        expected: Option<u64>,
    ) -> Result<Received> {
        let with_md5 = expected.is_none_or(|len| len <= MD5_LIMIT);
        let mut received = Received {
            writer: Writer::new(self.root.clone(), self.new_id(), with_md5),
            batch: Vec::new(),
            sync: self.sync,
        };
        let (mut size, mut total) = (0, 0);
        let mut writing: Option<JoinHandle<Result<Writer>>> = None;
        while let Some(chunk) = body.next().await {
            let chunk = chunk?;
            size += chunk.len();
            total += chunk.len() as u64;
            received.batch.push(chunk);
            if size >= BATCH {
                // The next batch arrives while this one is written.
                if let Some(writing) = writing.take() {
                    received.writer = finished(writing).await?;
                }
                let mut writer = std::mem::take(&mut received.writer);
                let batch = std::mem::take(&mut received.batch);
                size = 0;
                writing = Some(tokio::task::spawn_blocking(move || {
                    writer.write(&batch)?;
                    Ok(writer)
                }));
            }
        }
        if let Some(writing) = writing.take() {
            received.writer = finished(writing).await?;
        }
        match expected {
            Some(expected) if expected != total => Err(Error::Other(message(format!(
                "the body has {total} bytes instead of {expected}"
            )))),
            _ => Ok(received),
        }
    }

    /// Puts a written file where `content` says. Blocks.
    pub fn keep(&self, key: &str, content: &Content, mut written: Written) -> Result<()> {
        if let Some(place) = Place::of(key, content) {
            let shard = self.make_shard(key)?;
            written.temporary.rename(&shard, &place.name)?;
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

    /// Removes content that no line of the log refers to, at once or when the last read of it ends. Blocks.
    pub fn remove(&self, key: &str, content: &Content) {
        if let Some(place) = Place::of(key, content) {
            self.leases.remove(place);
        }
    }

    /// Removes all content and the folders it is in. For a bucket that is deleted.
    ///
    /// # Errors
    /// The disk's; that something is there which this store has not made.
    pub fn destroy(&self) -> io::Result<()> {
        let temporary = self.root.directory(TEMPORARY)?;
        for name in temporary.names()? {
            if let Some(name) = name?.to_str() {
                temporary.remove_file(name)?;
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

    /// Opens `range` of content for reading. Short blocking calls only.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the content is gone: the object was replaced, ask the log again.
    /// [`Error::Corrupt`] when it is not as long as the log says.
    pub fn open(
        &self,
        key: &str,
        content: &Content,
        parts: &[PartFile],
        size: u64,
        range: Range<u64>,
    ) -> Result<Reading> {
        let mut reading = Reading {
            pieces: VecDeque::new(),
            len: range.end - range.start,
            buffers: self.buffers.clone(),
            lease: None,
        };
        let Some(place) = Place::of(key, content) else {
            return if size == 0 {
                Ok(reading)
            } else {
                Err(cut(key))
            };
        };
        let path = place.path();
        if !place.in_parts {
            let file = open(&self.root, &path)?;
            let found = file
                .metadata()
                .map_err(failed("reading", &self.root.path_of(&path)))?
                .len();
            if found != size {
                return Err(cut(key));
            }
            reading.pieces.push_back(Piece {
                source: Source::Open(Arc::new(file)),
                range,
            });
            return Ok(reading);
        }
        reading.lease = Some(Leases::take(&self.leases, &place));
        let mut begin: u64 = 0;
        for part in parts {
            let end = begin.checked_add(part.size).ok_or_else(|| cut(key))?;
            let (from, to) = (range.start.max(begin), range.end.min(end));
            if from < to {
                let path = format!("{path}/{}", part.file);
                let source = if reading.pieces.len() < OPEN_AHEAD {
                    Source::Open(Arc::new(open(&self.root, &path)?))
                } else {
                    Source::Path(path)
                };
                reading.pieces.push_back(Piece {
                    source,
                    range: from - begin..to - begin,
                });
            }
            begin = end;
        }
        if begin != size {
            return Err(cut(key));
        }
        Ok(reading)
    }
}

fn cut(key: &str) -> Error {
    Error::Corrupt(message(format!(
        "the content of {} has not the length the bucket's log says",
        key.escape_debug()
    )))
}

/// `path` is from the bucket folder.
fn open(root: &Directory, path: &str) -> Result<File> {
    root.open_file(path)
        .map_err(missing("opening content", &root.path_of(path)))
}

/// For `map_err`: content that is gone is [`Error::NotFound`].
fn missing<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |error| match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound,
        _ => failed(what, path)(error),
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

async fn finished<T>(task: JoinHandle<Result<T>>) -> Result<T> {
    task.await.unwrap_or_else(|error| Err(Error::other(error)))
}

/// A body that has arrived; its last bytes may still be in memory.
pub struct Received {
    writer: Writer,
    batch: Vec<Bytes>,
    sync: bool,
}

impl Received {
    /// Blocks.
    pub fn finish(mut self) -> Result<Written> {
        self.writer.write(&self.batch)?;
        self.writer.finish(self.sync)
    }
}

/// A file under `tmp/` with its sums.
pub struct Written {
    temporary: Temporary,
    pub len: u64,
    pub crc64: u64,
    pub tag: Tag,
}

impl Written {
    pub fn rename(&mut self, folder: &Directory, name: &str) -> Result<()> {
        self.temporary.rename(folder, name)
    }
}

/// Writes one content file.
#[derive(Default)]
struct Writer {
    temporary: Temporary,
    /// Made with the first byte: an empty object has no file.
    file: Option<File>,
    crc64: Crc64,
    md5: Option<Md5>,
    len: u64,
}

impl Writer {
    fn new(root: Directory, id: String, with_md5: bool) -> Writer {
        Writer {
            temporary: Temporary(Some((root, id))),
            md5: with_md5.then(Md5::new),
            ..Default::default()
        }
    }

    fn write(&mut self, chunks: &[Bytes]) -> Result<()> {
        for chunk in chunks {
            self.crc64.update(chunk);
            self.len += chunk.len() as u64;
            if self.len > MD5_LIMIT {
                self.md5 = None;
            }
            if let Some(md5) = &mut self.md5 {
                md5.update(chunk);
            }
        }
        let file = match &mut self.file {
            Some(file) => file,
            None if self.len == 0 => return Ok(()),
            none => none.insert(self.temporary.create()?),
        };
        write_all(file, chunks).map_err(|error| self.temporary.failed("writing content", error))
    }

    fn finish(mut self, sync: bool) -> Result<Written> {
        if let (Some(file), true) = (&self.file, sync) {
            file.sync_all()
                .map_err(|error| self.temporary.failed("syncing content", error))?;
        }
        if self.file.is_none() {
            self.temporary.0 = None;
        }
        let crc64 = self.crc64.value();
        let tag = match self.md5.take() {
            Some(md5) => Tag {
                digest: md5.finalize().into(),
                parts: 0,
            },
            None => {
                let mut digest = [0; 16];
                digest[..8].copy_from_slice(&crc64.to_be_bytes());
                digest[8..].copy_from_slice(&(rand::random::<u64>() ^ self.len).to_be_bytes());
                Tag { digest, parts: 1 }
            }
        };
        Ok(Written {
            temporary: self.temporary,
            len: self.len,
            crc64,
            tag,
        })
    }
}

fn write_all(file: &mut File, chunks: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = chunks
        .iter()
        .filter(|chunk| !chunk.is_empty())
        .map(|chunk| IoSlice::new(chunk))
        .collect();
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A file in `tmp/` that is removed unless it gets another name; by the bucket folder and its own name.
#[derive(Default)]
struct Temporary(Option<(Directory, String)>);

impl Temporary {
    fn create(&self) -> Result<File> {
        let Some((root, id)) = &self.0 else {
            return Err(Error::other(io::Error::from(io::ErrorKind::NotFound)));
        };
        root.create_file(&format!("{TEMPORARY}/{id}"))
            .map_err(|error| self.failed("creating content", error))
    }

    fn failed(&self, what: &'static str, error: io::Error) -> Error {
        let path = self.0.as_ref().map_or_else(Default::default, |(root, id)| {
            root.path_of(TEMPORARY).join(id)
        });
        failed(what, &path)(error)
    }

    fn rename(&mut self, to: &Directory, name: &str) -> Result<()> {
        if let Some((root, id)) = &self.0 {
            root.directory(TEMPORARY)
                .and_then(|folder| folder.rename(id, to, name))
                .map_err(failed("naming content", &to.path_of(name)))?;
        }
        self.0 = None;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some((root, id)) = self.0.take() {
            let removed = root
                .directory(TEMPORARY)
                .and_then(|folder| folder.remove_file(&id));
            warn_of(removed, &root.path_of(TEMPORARY).join(id));
        }
    }
}

/// Content that is open; it stays as it is whatever becomes of the object.
pub struct Reading {
    pieces: VecDeque<Piece>,
    len: u64,
    buffers: Arc<Buffers>,
    /// Keeps this process from removing parts that are yet to be opened.
    lease: Option<Lease>,
}

struct Piece {
    source: Source,
    /// Of the file; never empty while it is queued.
    range: Range<u64>,
}

enum Source {
    Open(Arc<File>),
    /// From the bucket folder.
    Path(String),
}

impl Reading {
    /// The next bytes, at most [`CHUNK`]; none at the end. Blocks.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        let Some(piece) = self.pieces.front_mut() else {
            return Ok(None);
        };
        let file = match &piece.source {
            Source::Open(file) => file.clone(),
            Source::Path(path) => {
                let lease = self.lease.as_ref();
                let root = lease
                    .map(|lease| &lease.leases.root)
                    .ok_or(Error::NotFound)?;
                let file = Arc::new(open(root, path)?);
                piece.source = Source::Open(file.clone());
                file
            }
        };
        let want = (piece.range.end - piece.range.start).min(CHUNK as u64) as usize;
        let mut buffer = if self.len <= SMALL {
            Buffer::unpooled(want)
        } else {
            Buffers::take(&self.buffers, want)
        };
        file.read_exact_at(buffer.filled_mut(), piece.range.start)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    Error::Corrupt(message("content is shorter than the bucket's log says"))
                }
                _ => Error::other(error),
            })?;
        piece.range.start += want as u64;
        if piece.range.is_empty() {
            self.pieces.pop_front();
        }
        Ok(Some(Bytes::from_owner(buffer)))
    }

    /// Reads one chunk ahead of the reader.
    pub fn stream(mut self) -> BoxStream<'static, Result<Bytes>> {
        if self.len <= SMALL {
            return stream::unfold(Some(self), |reading| async {
                let mut reading = reading?;
                match reading.next_chunk() {
                    Ok(chunk) => chunk.map(|chunk| (Ok(chunk), Some(reading))),
                    Err(error) => Some((Err(error), None)),
                }
            })
            .boxed();
        }
        let ahead =
            tokio::task::spawn_blocking(move || self.next_chunk().map(|chunk| (chunk, self)));
        stream::unfold(Some(ahead), |ahead| async {
            match finished(ahead?).await {
                Ok((None, _)) => None,
                Ok((Some(chunk), mut reading)) => {
                    let ahead = tokio::task::spawn_blocking(move || {
                        reading.next_chunk().map(|chunk| (chunk, reading))
                    });
                    Some((Ok(chunk), Some(ahead)))
                }
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }
}

/// Buffers that are used again: a fresh one costs a page fault for every 4 KiB.
#[derive(Default)]
struct Buffers(Mutex<Vec<Box<[u8]>>>);

struct Buffer {
    bytes: Option<Box<[u8]>>,
    len: usize,
    home: Option<Arc<Buffers>>,
}

impl Buffers {
    fn take(home: &Arc<Buffers>, len: usize) -> Buffer {
        let spare = home.0.lock().unwrap_or_else(into_inner).pop();
        Buffer {
            bytes: Some(spare.unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice())),
            len,
            home: Some(home.clone()),
        }
    }
}

impl Buffer {
    fn unpooled(len: usize) -> Buffer {
        Buffer {
            bytes: Some(vec![0; len].into_boxed_slice()),
            len,
            home: None,
        }
    }

    fn filled_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        self.bytes
            .as_mut()
            .map_or(&mut [], |bytes| &mut bytes[..len])
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref().map_or(&[], |bytes| &bytes[..self.len])
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let (Some(home), Some(bytes)) = (&self.home, self.bytes.take()) {
            let mut spare = home.0.lock().unwrap_or_else(into_inner);
            if spare.len() < SPARE_BUFFERS {
                spare.push(bytes);
            }
        }
    }
}

/// Which folders of parts are being read: these are removed when the last read ends.
struct Leases {
    root: Directory,
    held: Mutex<HashMap<Place, Held>>,
}

#[derive(Default)]
struct Held {
    readers: usize,
    removed: bool,
}

struct Lease {
    leases: Arc<Leases>,
    place: Place,
}

impl Leases {
    fn take(leases: &Arc<Leases>, place: &Place) -> Lease {
        leases
            .held
            .lock()
            .unwrap_or_else(into_inner)
            .entry(place.clone())
            .or_default()
            .readers += 1;
        Lease {
            leases: leases.clone(),
            place: place.clone(),
        }
    }

    fn remove(&self, place: Place) {
        if let Some(held) = self.held.lock().unwrap_or_else(into_inner).get_mut(&place) {
            held.removed = true;
            return;
        }
        place.remove(&self.root);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut leases = self.leases.held.lock().unwrap_or_else(into_inner);
        let Some(held) = leases.get_mut(&self.place) else {
            return;
        };
        held.readers -= 1;
        if held.readers == 0 {
            let removed = held.removed;
            leases.remove(&self.place);
            drop(leases);
            if removed {
                self.place.remove(&self.leases.root);
            }
        }
    }
}
