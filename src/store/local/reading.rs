//! Content that is read.
//!
//! A content file that is open stays as it is, whatever becomes of the object. Of an object in many parts only the
//! first files are opened at once.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};

use super::directory::Directory;
use super::disk::{failed, finished, message};
use super::place::{Lease, Leases, Place};
use super::record::{Content, PartFile};
use crate::base::sync::lock;
use crate::store::error::Error;
use crate::store::object_store::Result;

/// Bytes of one chunk of a body that is read.
const CHUNK: usize = 256 << 10;

/// A body of up to this size is read at once, on the calling thread: the page cache is quicker than a hand-over.
const SMALL: u64 = 64 << 10;

/// Buffers of [`CHUNK`] bytes that are kept for the next read.
const SPARE_BUFFERS: usize = 16;

/// Part files opened when a read begins. Those after them are opened when their turn comes; this process keeps
/// them until then, another might not.
const OPEN_AHEAD: usize = 64;

/// What all readings of a bucket share.
pub(super) struct Readings {
    root: Directory,
    buffers: Arc<Buffers>,
    leases: Arc<Leases>,
}

impl Readings {
    pub(super) fn new(root: Directory) -> Readings {
        Readings {
            leases: Arc::new(Leases::new(root.clone())),
            root,
            buffers: Arc::default(),
        }
    }

    /// Removes content, at once or when the last reading of it ends. Blocks.
    pub(super) fn remove(&self, place: Place) {
        self.leases.remove(place);
    }

    /// Opens `range` of content for reading. Short blocking calls only.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the content is gone: the object was replaced, and the database has the new one.
    /// [`Error::Corrupt`] if it is not as long as the database says.
    pub(super) fn open(
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
            return match size {
                0 => Ok(reading),
                _ => Err(wrong_length(key)),
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
                return Err(wrong_length(key));
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
            let end = begin
                .checked_add(part.size)
                .ok_or_else(|| wrong_length(key))?;
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
            return Err(wrong_length(key));
        }
        Ok(reading)
    }
}

fn wrong_length(key: &str) -> Error {
    Error::Corrupt(message(format!(
        "the content of {} does not have the length that the bucket's database says",
        key.escape_debug()
    )))
}

/// `path` is from the bucket folder.
fn open(root: &Directory, path: &str) -> Result<File> {
    root.open_file(path)
        .map_err(missing("opening content", &root.path_of(path)))
}

/// For `map_err`: content that is gone is [`Error::NotFound`].
pub(super) fn missing<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> Error + 'a {
    move |error| match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound,
        _ => failed(what, path)(error),
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
                let lease = self.lease.as_ref().ok_or(Error::NotFound)?;
                let file = Arc::new(open(lease.root(), path)?);
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
                io::ErrorKind::UnexpectedEof => Error::Corrupt(message(
                    "content is shorter than the bucket's database says",
                )),
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
        let spare = lock(&home.0).pop();
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
            let mut spare = lock(&home.0);
            if spare.len() < SPARE_BUFFERS {
                spare.push(bytes);
            }
        }
    }
}
