//! Content that is written: a body becomes a file under `tmp/`, with its sums.

use std::fs::File;
use std::io::{self, IoSlice, Write};

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use md5::{Digest, Md5};
use tokio::task::JoinHandle;

use super::directory::Directory;
use super::disk::{failed, finished, message};
use super::place::warn_of;
use super::record::Tag;
use crate::base::crc64::Crc64;
use crate::store::error::Error;
use crate::store::object_store::Result;

/// The folder of files that are being written, below the bucket folder.
pub(super) const TEMPORARY: &str = "tmp";

/// Bytes that go to the disk in one turn of the blocking pool.
const BATCH: usize = 512 << 10;

/// Up to this size a tag is the content's MD5, as the service has it; beyond, MD5 would cost more than all
/// the rest (1.45 s/GB), and a tag made of size, CRC and chance serves as well.
const MD5_LIMIT: u64 = 1 << 20;

/// A body that has arrived; its last bytes may still be in memory.
pub struct Received {
    writer: Writer,
    batch: Vec<Bytes>,
}

impl Received {
    /// Takes a body in, into the file `id` of the folder for temporary files. What it holds becomes content when
    /// [`Received::finish`] is called.
    ///
    /// # Errors
    /// The body's own; [`Error::Other`] when it is not `expected` bytes long.
    pub async fn collect(
        folder: Directory,
        id: String,
        sync: bool,
        mut body: BoxStream<'static, Result<Bytes>>,
        expected: Option<u64>,
    ) -> Result<Received> {
        let with_md5 = expected.is_none_or(|len| len <= MD5_LIMIT);
        let mut received = Received {
            writer: Writer::new(folder, id, sync, with_md5),
            batch: Vec::new(),
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

    /// Blocks.
    pub fn finish(mut self) -> Result<Written> {
        self.writer.write(&self.batch)?;
        Ok(self.writer.finish())
    }
}

/// A file under `tmp/` with its sums.
pub struct Written {
    temporary: Temporary,
    /// What is to be synced before the content counts.
    unsynced: Option<File>,
    pub len: u64,
    pub crc64: u64,
    pub tag: Tag,
}

impl Written {
    /// Gives the file its name, and syncs it if the store does. In this order a journaling file system writes
    /// bytes and name in one transaction, so that syncing the folder afterwards finds little to do.
    pub fn rename(&mut self, folder: &Directory, name: &str) -> Result<()> {
        self.temporary.rename(folder, name)?;
        match self.unsynced.take() {
            Some(file) => file.sync_all().map_err(|error| {
                warn_of(folder.remove_file(name), &folder.path_of(name));
                failed("syncing content", &folder.path_of(name))(error)
            }),
            None => Ok(()),
        }
    }
}

/// Writes one content file.
#[derive(Default)]
struct Writer {
    temporary: Temporary,
    /// Made with the first byte: an empty object has no file.
    file: Option<File>,
    sync: bool,
    crc64: Crc64,
    md5: Option<Md5>,
    len: u64,
}

impl Writer {
    fn new(folder: Directory, id: String, sync: bool, with_md5: bool) -> Writer {
        Writer {
            temporary: Temporary(Some((folder, id))),
            sync,
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

    fn finish(mut self) -> Written {
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
        Written {
            temporary: self.temporary,
            unsynced: self.file.filter(|_| self.sync),
            len: self.len,
            crc64,
            tag,
        }
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

/// A file in `tmp/` that is removed unless it gets another name; by that folder and its own name.
#[derive(Default)]
struct Temporary(Option<(Directory, String)>);

impl Temporary {
    fn create(&self) -> Result<File> {
        let Some((folder, id)) = &self.0 else {
            return Err(Error::other(io::Error::from(io::ErrorKind::NotFound)));
        };
        folder
            .create_file(id)
            .map_err(|error| self.failed("creating content", error))
    }

    fn failed(&self, what: &'static str, error: io::Error) -> Error {
        let path = self.0.as_ref();
        let path = path.map_or_else(Default::default, |(folder, id)| folder.path_of(id));
        failed(what, &path)(error)
    }

    fn rename(&mut self, to: &Directory, name: &str) -> Result<()> {
        if let Some((folder, id)) = &self.0 {
            folder
                .rename(id, to, name)
                .map_err(failed("naming content", &to.path_of(name)))?;
        }
        self.0 = None;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some((folder, id)) = self.0.take() {
            warn_of(folder.remove_file(&id), &folder.path_of(&id));
        }
    }
}
