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
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use md5::{Digest, Md5};
use tokio::task::JoinHandle;

use super::disk::{discard, failed, into_inner, message, sync_folder};
use super::record::{Content, PartFile, Tag, escape};
use crate::oss::crc::Crc64;
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

pub struct Contents {
    folder: PathBuf,
    sync: bool,
    /// With `counter` makes names that no other process and no other run makes.
    instance: u64,
    counter: AtomicU64,
    buffers: Arc<Buffers>,
    leases: Arc<Leases>,
}

impl Contents {
    pub fn new(folder: &Path, sync: bool) -> Contents {
        Contents {
            folder: folder.to_path_buf(),
            sync,
            instance: rand::random(),
            counter: AtomicU64::new(0),
            buffers: Arc::default(),
            leases: Arc::default(),
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

    fn data_folder(&self, key: &str) -> PathBuf {
        let spread = crc_fast::crc32_iso_hdlc(key.as_bytes()) & 0xff;
        self.folder.join("data").join(format!("{spread:02x}"))
    }

    /// None for empty content.
    pub fn path(&self, key: &str, content: &Content) -> Option<PathBuf> {
        match content {
            Content::Empty => None,
            Content::File(name) | Content::Parts(name) => Some(self.data_folder(key).join(name)),
        }
    }

    /// Removes temporary files of processes that died.
    pub fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.folder.join("tmp")) else {
            return;
        };
        for entry in entries.flatten() {
            let rested = entry
                .metadata()
                .and_then(|file| file.modified())
                .ok()
                .and_then(|modified| SystemTime::now().duration_since(modified).ok());
            if rested.is_some_and(|rested| rested > ABANDONED) {
                discard(&entry.path());
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
        let path = self.folder.join("tmp").join(self.new_id());
        let with_md5 = expected.is_none_or(|len| len <= MD5_LIMIT);
        let mut received = Received {
            writer: Writer::new(path, with_md5),
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
        if let Some(path) = self.path(key, content) {
            let folder = self.make_folder(key)?;
            written.temporary.rename(&path)?;
            if self.sync {
                sync_folder(&folder).map_err(failed("syncing the folder", &folder))?;
            }
        }
        Ok(())
    }

    pub fn make_folder(&self, key: &str) -> Result<PathBuf> {
        let folder = self.data_folder(key);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("creating a folder", &folder)(error));
            }
            Ok(()) if self.sync => {
                let data = self.folder.join("data");
                sync_folder(&data).map_err(failed("syncing the folder", &data))?;
            }
            _ => {}
        }
        Ok(folder)
    }

    /// Gives `destination` content of its own that shares the bytes of `source`. Blocks.
    pub fn share(
        &self,
        source: &str,
        content: &Content,
        parts: &[PartFile],
        destination: &str,
    ) -> Result<Content> {
        let Some(from) = self.path(source, content) else {
            return Ok(Content::Empty);
        };
        let folder = self.make_folder(destination)?;
        let name = self.new_name(destination);
        let to = folder.join(&name);
        let shared = if let Content::Parts(_) = content {
            fs::create_dir(&to).map_err(failed("creating a folder", &to))?;
            for part in parts {
                if let Err(error) = link(&from.join(&part.file), &to.join(&part.file)) {
                    discard(&to);
                    return Err(error);
                }
            }
            if self.sync {
                sync_folder(&to).map_err(failed("syncing the folder", &to))?;
            }
            Content::Parts(name)
        } else {
            link(&from, &to)?;
            Content::File(name)
        };
        if self.sync {
            sync_folder(&folder).map_err(failed("syncing the folder", &folder))?;
        }
        Ok(shared)
    }

    /// Removes content that no line of the log refers to, at once or when the last read of it ends. Blocks.
    pub fn remove(&self, key: &str, content: &Content) {
        if let Some(path) = self.path(key, content) {
            self.leases.remove(&path);
        }
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
        let Some(path) = self.path(key, content) else {
            return if size == 0 {
                Ok(reading)
            } else {
                Err(cut(key))
            };
        };
        if let Content::File(_) = content {
            let file = open(&path)?;
            let found = file.metadata().map_err(failed("reading", &path))?.len();
            if found != size {
                return Err(cut(key));
            }
            reading.pieces.push_back(Piece {
                source: Source::Open(Arc::new(file)),
                range,
            });
            return Ok(reading);
        }
        reading.lease = Some(Leases::take(&self.leases, &path));
        let mut begin = 0;
        for part in parts {
            let end = begin + part.size;
            let (from, to) = (range.start.max(begin), range.end.min(end));
            if from < to {
                let path = path.join(&part.file);
                let source = if reading.pieces.len() < OPEN_AHEAD {
                    Source::Open(Arc::new(open(&path)?))
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

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound,
        _ => failed("opening content", path)(error),
    })
}

/// A hard link; a copy where the file system has none.
fn link(from: &Path, to: &Path) -> Result<()> {
    let Err(error) = fs::hard_link(from, to) else {
        return Ok(());
    };
    if error.kind() == io::ErrorKind::NotFound {
        return Err(Error::NotFound);
    }
    if let Err(error) = fs::copy(from, to) {
        discard(to);
        return Err(failed("copying content", to)(error));
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
    pub fn rename(&mut self, path: &Path) -> Result<()> {
        self.temporary.rename(path)
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
    fn new(path: PathBuf, with_md5: bool) -> Writer {
        Writer {
            temporary: Temporary(Some(path)),
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
        let path = self.temporary.0.clone().unwrap_or_default();
        let file = match &mut self.file {
            Some(file) => file,
            None if self.len == 0 => return Ok(()),
            none => none.insert(
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(&path)
                    .map_err(failed("creating content", &path))?,
            ),
        };
        write_all(file, chunks).map_err(failed("writing content", &path))
    }

    fn finish(mut self, sync: bool) -> Result<Written> {
        if let (Some(file), true) = (&self.file, sync) {
            let path = self.temporary.0.clone().unwrap_or_default();
            file.sync_all().map_err(failed("syncing content", &path))?;
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

/// A file that goes when nobody gave it a name.
#[derive(Default)]
struct Temporary(Option<PathBuf>);

impl Temporary {
    fn rename(&mut self, to: &Path) -> Result<()> {
        if let Some(path) = &self.0 {
            fs::rename(path, to).map_err(failed("naming content", to))?;
        }
        self.0 = None;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            discard(&path);
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
    Path(PathBuf),
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
                let file = Arc::new(open(path)?);
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
#[derive(Default)]
struct Leases(Mutex<HashMap<PathBuf, (usize, bool)>>);

struct Lease {
    leases: Arc<Leases>,
    path: PathBuf,
}

impl Leases {
    fn take(leases: &Arc<Leases>, path: &Path) -> Lease {
        leases
            .0
            .lock()
            .unwrap_or_else(into_inner)
            .entry(path.to_path_buf())
            .or_insert((0, false))
            .0 += 1;
        Lease {
            leases: leases.clone(),
            path: path.to_path_buf(),
        }
    }

    fn remove(&self, path: &Path) {
        match self.0.lock().unwrap_or_else(into_inner).get_mut(path) {
            Some((_, doomed)) => *doomed = true,
            None => discard(path),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut leases = self.leases.0.lock().unwrap_or_else(into_inner);
        let Some((readers, doomed)) = leases.get_mut(&self.path) else {
            return;
        };
        *readers -= 1;
        if *readers == 0 {
            let doomed = *doomed;
            leases.remove(&self.path);
            drop(leases);
            if doomed {
                discard(&self.path);
            }
        }
    }
}
