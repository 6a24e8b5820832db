//! Inventories: lists of a bucket's objects that the service writes every day or week.
//!
//! `manifest.json` names the data files, gzipped CSV, and the order of their columns (the service's documentation, "Use
//! bucket inventory", as of February 2026). Keys in them are URL-encoded. All of it comes from a bucket, or from a
//! folder with a copy of one: sizes are bounded, data files are read as a stream, and a line that is not understood hides
//! an object only if the rest of its file is sound.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Buf, Bytes};
use csv_core::ReadRecordResult;
use flate2::read::MultiGzDecoder;
use futures_util::stream::{BoxStream, StreamExt};
use log::warn;
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::local_file::LocalFileError;
use crate::base::encoding::percent_decoded;
use crate::base::time;
use crate::encrypted::key_marker::is_marker;
use crate::store::error::Error as StoreError;
use crate::store::object_store::{ETag, ListedObject, ObjectKey, ObjectStore};

/// The largest manifest, in bytes: a hundred thousand data files.
const MAX_MANIFEST: u64 = 32 << 20;
/// The longest line of a data file, in bytes: a key has at most 1023, three times as many when encoded.
const MAX_LINE: usize = 16 << 10;
/// The most columns; the service has fifteen.
const MAX_COLUMNS: usize = 64;
/// Objects that wait for the work to take them.
const AHEAD: usize = 1000;

/// Why an inventory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0} is not the manifest.json of an inventory: {1}")]
    Manifest(String, String),
    #[error("the inventory is of the bucket {0}")]
    OtherBucket(String),
    #[error("the inventory has no column {0}: add it to the inventory's rule")]
    NoColumn(&'static str),
    #[error("the inventory's files are {0}, and only CSV is understood")]
    Format(String),
    #[error("the data file {0} of the inventory is damaged: {1}")]
    Damaged(String, &'static str),
    #[error("cannot read {0} of the inventory")]
    Store(String, #[source] StoreError),
    #[error(transparent)]
    Local(#[from] LocalFileError),
}

/// As an error of a run, one that ends the run.
impl From<Error> for StoreError {
    fn from(error: Error) -> StoreError {
        match error {
            Error::Local(error) => error.into(),
            Error::Store(_, error) => error,
            error => StoreError::Misconfigured(Arc::new(error)),
        }
    }
}

/// Where an inventory is.
pub(crate) enum Place {
    /// The key of its manifest, in the bucket that the service writes inventories to.
    Bucket(Arc<dyn ObjectStore>, ObjectKey),
    /// The path of its manifest; the data files are beside it, in `data`, or in `data` beside its folder.
    Folder(PathBuf),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    source_bucket: String,
    creation_timestamp: String,
    file_format: String,
    file_schema: String,
    files: Vec<DataFile>,
}

#[derive(Deserialize)]
struct DataFile {
    key: String,
    #[serde(rename = "MD5checksum")]
    md5: Option<String>,
}

/// What tells one inventory from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub bucket: String,
    /// When the scan of the bucket began, in seconds since 1970.
    pub created: u64,
    /// The CRC-64 of the manifest.
    pub manifest: String,
}

/// The place of each column in a line.
#[derive(Clone, Copy)]
struct Columns {
    bucket: usize,
    key: usize,
    size: usize,
    etag: Option<usize>,
    modified: Option<usize>,
    class: Option<usize>,
    latest: Option<usize>,
    delete_marker: Option<usize>,
}

pub(crate) struct Inventory {
    place: Place,
    files: Vec<DataFile>,
    columns: Columns,
    identity: Identity,
}

impl Inventory {
    /// Reads the manifest.
    ///
    /// # Errors
    /// [`Error`].
    pub(crate) async fn open(place: Place) -> Result<Inventory, Error> {
        let (name, bytes) = match &place {
            Place::Bucket(store, key) => (key.to_string(), whole_object(store, key).await?),
            Place::Folder(path) => (crate::text::path(path), whole_file(path)?),
        };
        let wrong = |what: String| Error::Manifest(name.clone(), what);
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        if manifest.file_format != "CSV" {
            let shown = manifest.file_format.escape_debug();
            return Err(Error::Format(shown.take(40).collect()));
        }
        let created = manifest.creation_timestamp.parse();
        let created = created.map_err(|_| wrong("its time is not a number".to_owned()))?;
        Ok(Inventory {
            columns: Columns::of(&manifest.file_schema)?,
            identity: Identity {
                bucket: manifest.source_bucket,
                created,
                manifest: format!("{:016x}", crate::base::crc64::of(&bytes)),
            },
            files: manifest.files,
            place,
        })
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// When the scan of the bucket began: younger objects may be missing.
    pub(crate) fn created(&self) -> SystemTime {
        time::from_unix_seconds(self.identity.created)
    }

    /// # Errors
    /// [`Error::OtherBucket`].
    pub(crate) fn check_bucket(&self, bucket: &str) -> Result<(), Error> {
        match self.identity.bucket == bucket {
            true => Ok(()),
            false => Err(Error::OtherBucket(
                self.identity.bucket.escape_debug().to_string(),
            )),
        }
    }

    /// The objects below `prefix`, in the order of the data files. Of a bucket with versions, the current ones.
    pub(crate) fn objects(
        self: &Arc<Self>,
        prefix: String,
    ) -> mpsc::Receiver<Result<ListedObject, StoreError>> {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let inventory = self.clone();
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            let mut reading = Reading {
                prefix,
                hidden: 0,
                sender,
            };
            for file in &inventory.files {
                match inventory.read_file(file, &runtime, &mut reading) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => {
                        let _ = reading.sender.blocking_send(Err(error.into()));
                        return;
                    }
                }
            }
            if reading.hidden > 0 {
                warn!(
                    "{} lines of the inventory name no object, and are left out",
                    reading.hidden
                );
            }
        });
        receiver
    }

    /// False if the receiver is gone.
    fn read_file(
        &self,
        file: &DataFile,
        runtime: &Handle,
        reading: &mut Reading,
    ) -> Result<bool, Error> {
        let name: String = file.key.escape_debug().take(300).collect();
        let source: Box<dyn Read> = match &self.place {
            Place::Bucket(store, _) => {
                let failed = |error| Error::Store(name.clone(), error);
                let key = ObjectKey::new(file.key.as_str()).map_err(failed)?;
                let answer = runtime
                    .block_on(store.get(&key, None, None))
                    .map_err(failed)?;
                Box::new(BodyReader {
                    runtime: runtime.clone(),
                    body: answer.body,
                    chunk: Bytes::new(),
                })
            }
            Place::Folder(manifest) => Box::new(open_beside(manifest, &file.key)?),
        };
        let mut digested = Digesting {
            source,
            md5: Md5::new(),
        };
        let more = {
            let mut lines = BufReader::new(MultiGzDecoder::new(&mut digested));
            self.read_lines(&mut lines, &name, reading)?
        };
        let digest: [u8; 16] = digested.md5.finalize().into();
        match &file.md5 {
            // Of other lengths where documentation shortens it.
            Some(md5)
                if more && md5.len() == 32 && !md5.eq_ignore_ascii_case(&hex::encode(digest)) =>
            {
                Err(Error::Damaged(name, "its MD5 is not that of the manifest"))
            }
            _ => Ok(more),
        }
    }

    fn read_lines(
        &self,
        lines: &mut impl BufRead,
        name: &str,
        reading: &mut Reading,
    ) -> Result<bool, Error> {
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = lines
                .by_ref()
                .take(MAX_LINE as u64)
                .read_until(b'\n', &mut line)
                .map_err(|error| failed_to_read(name, error))?;
            if read == 0 {
                return Ok(true);
            }
            if read == MAX_LINE && !line.ends_with(b"\n") {
                return Err(Error::Damaged(name.to_owned(), "a line is too long"));
            }
            match self.columns.object(&line, &self.identity.bucket) {
                Line::Object(object) => {
                    if !reading.take(object) {
                        return Ok(false);
                    }
                }
                Line::Version => {}
                Line::Unknown => reading.hidden += 1,
                Line::OtherBucket => {
                    let what = "a line is of another bucket than the manifest";
                    return Err(Error::Damaged(name.to_owned(), what));
                }
            }
        }
    }
}

/// What is done with the objects of an inventory.
struct Reading {
    prefix: String,
    /// Lines that name no object.
    hidden: u64,
    sender: mpsc::Sender<Result<ListedObject, StoreError>>,
}

impl Reading {
    /// False if the receiver is gone.
    fn take(&mut self, object: ListedObject) -> bool {
        if !object.key.starts_with(&self.prefix) || is_marker(&object) {
            return true;
        }
        self.sender.blocking_send(Ok(object)).is_ok()
    }
}

/// What a line says.
#[derive(Debug)]
enum Line {
    Object(ListedObject),
    /// An old version, or a delete marker.
    Version,
    OtherBucket,
    Unknown,
}

impl Columns {
    fn of(schema: &str) -> Result<Columns, Error> {
        let names: Vec<&str> = schema.split(',').map(str::trim).take(MAX_COLUMNS).collect();
        let find = |wanted: &str| {
            names
                .iter()
                .position(|name| name.eq_ignore_ascii_case(wanted))
        };
        let required = |name: &'static str| find(name).ok_or(Error::NoColumn(name));
        Ok(Columns {
            bucket: required("Bucket")?,
            key: required("Key")?,
            size: required("Size")?,
            etag: find("ETag"),
            modified: find("LastModifiedDate"),
            class: find("StorageClass"),
            latest: find("IsLatest"),
            delete_marker: find("IsDeleteMarker"),
        })
    }

    fn object(&self, line: &[u8], bucket: &str) -> Line {
        let Some(fields) = record(line) else {
            return Line::Unknown;
        };
        let field = |column: usize| fields.get(column).map(String::as_str);
        let optional = |column: Option<usize>| column.and_then(field);
        match field(self.bucket) {
            Some(found) if found == bucket => {}
            Some(_) => return Line::OtherBucket,
            None => return Line::Unknown,
        }
        if optional(self.latest).is_some_and(|text| text.eq_ignore_ascii_case("false"))
            || optional(self.delete_marker).is_some_and(|text| text.eq_ignore_ascii_case("true"))
        {
            return Line::Version;
        }
        let key = field(self.key).and_then(percent_decoded);
        let key = key.filter(|key| ObjectKey::new(key.as_str()).is_ok());
        let size = field(self.size).and_then(|text| text.parse().ok());
        let (Some(key), Some(size)) = (key, size) else {
            return Line::Unknown;
        };
        let modified = optional(self.modified).and_then(time::parse_extended);
        Line::Object(ListedObject {
            key,
            size,
            etag: ETag::new(optional(self.etag).unwrap_or_default()),
            last_modified: modified.unwrap_or(SystemTime::UNIX_EPOCH),
            storage_class: optional(self.class).unwrap_or_default().to_owned(),
        })
    }
}

/// The fields of a line that is one record.
fn record(line: &[u8]) -> Option<Vec<String>> {
    let mut reader = csv_core::Reader::new();
    let (mut text, mut ends) = (vec![0; line.len() + 1], [0; MAX_COLUMNS]);
    let (mut read, mut written, mut count) = (0, 0, 0);
    loop {
        let (result, more_read, more_written, more) =
            reader.read_record(&line[read..], &mut text[written..], &mut ends[count..]);
        read += more_read;
        written += more_written;
        count += more;
        match result {
            // The end of the line ends the record, with or without a line break.
            ReadRecordResult::InputEmpty => {}
            ReadRecordResult::Record => break,
            _ => return None,
        }
    }
    let rest = &line[read..];
    if !rest.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
        return None;
    }
    let mut start = 0;
    let fields = ends[..count].iter().map(|&end| {
        let field = text.get(std::mem::replace(&mut start, end)..end)?;
        Some(std::str::from_utf8(field).ok()?.to_owned())
    });
    fields.collect()
}

async fn whole_object(store: &Arc<dyn ObjectStore>, key: &ObjectKey) -> Result<Vec<u8>, Error> {
    let failed = |error| Error::Store(key.to_string(), error);
    let mut answer = store.get(key, None, None).await.map_err(failed)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.body.next().await {
        bytes.extend_from_slice(&chunk.map_err(failed)?);
        if bytes.len() as u64 > MAX_MANIFEST {
            return Err(too_large(key.to_string()));
        }
    }
    Ok(bytes)
}

fn whole_file(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |error| LocalFileError::reading(path, error);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    let read = file.take(MAX_MANIFEST + 1).read_to_end(&mut bytes);
    if read.map_err(failed)? as u64 > MAX_MANIFEST {
        return Err(too_large(crate::text::path(path)));
    }
    Ok(bytes)
}

fn too_large(name: String) -> Error {
    let what = format!("it has more than {MAX_MANIFEST} bytes");
    Error::Manifest(name, what)
}

/// The data file with the last part of this key as its name.
fn open_beside(manifest: &Path, key: &str) -> Result<File, LocalFileError> {
    let folder = manifest.parent().unwrap_or(Path::new(""));
    let name = key.rsplit('/').next().unwrap_or_default();
    if matches!(name, "" | "." | "..") {
        let error = io::Error::from(io::ErrorKind::InvalidInput);
        return Err(LocalFileError::reading(&folder.join("data"), error));
    }
    let places = [
        folder.join("data").join(name),
        folder.join("..").join("data").join(name),
        folder.join(name),
    ];
    let mut first = None;
    for place in places {
        match File::open(&place) {
            Ok(file) => return Ok(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                first.get_or_insert(LocalFileError::reading(&place, error));
            }
            Err(error) => return Err(LocalFileError::reading(&place, error)),
        }
    }
    Err(first.expect("there are three places"))
}

fn failed_to_read(name: &str, error: io::Error) -> Error {
    match error.downcast::<StoreError>() {
        Ok(error) => Error::Store(name.to_owned(), error),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Error::Damaged(name.to_owned(), "it is cut")
        }
        Err(_) => Error::Damaged(name.to_owned(), "it is not gzip"),
    }
}

/// A body as a blocking reader.
struct BodyReader {
    runtime: Handle,
    body: BoxStream<'static, Result<Bytes, StoreError>>,
    chunk: Bytes,
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.runtime.block_on(self.body.next()) {
                None => return Ok(0),
                Some(chunk) => self.chunk = chunk.map_err(io::Error::other)?,
            }
        }
        let count = buffer.len().min(self.chunk.len());
        buffer[..count].copy_from_slice(&self.chunk[..count]);
        self.chunk.advance(count);
        Ok(count)
    }
}

/// Digests what is read through it.
struct Digesting<R> {
    source: R,
    md5: Md5,
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.md5.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    const SCHEMA: &str = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, StorageClass, LastModifiedDate, ETag";

    fn line(text: &str) -> String {
        let columns = Columns::of(SCHEMA).unwrap();
        match columns.object(text.as_bytes(), "b") {
            Line::Object(object) => format!("{} {}", object.key, object.size),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_line_is_an_object_or_says_why_not() {
        let rest = r#","Standard","2026-01-03T04:05:06.000Z","E""#;
        for (start, seen) in [
            (r#""b","a/b.jpg","v","true","false",17"#, "a/b.jpg 17"),
            (r#"b,a%2Fb%20c%2B,,,,"17""#, "a/b c+ 17"),
            (r#""b","%E6%96%87","v","true","false",0"#, "\u{6587} 0"),
            (r#""b","a","v","false","false",17"#, "Version"),
            (r#""b","a","v","true","true","17""#, "Version"),
            (r#""other","a","v","true","false",17"#, "OtherBucket"),
            // Not UTF-8, not a key, no size, no line.
            (r#""b","%ff","v","true","false",17"#, "Unknown"),
            (r#""b","/a","v","true","false",17"#, "Unknown"),
            (r#""b","","v","true","false",17"#, "Unknown"),
            (r#""b","a","v","true","false",-1"#, "Unknown"),
            (
                r#""b","a","v","true","false",99999999999999999999999"#,
                "Unknown",
            ),
        ] {
            for end in ["\n", "\r\n", ""] {
                assert_eq!(line(&format!("{start}{rest}{end}")), seen, "{start}");
            }
        }
        assert_eq!(line("\n"), "Unknown");
        assert_eq!(line("b\n"), "Unknown");
        assert_eq!(line(&"b,".repeat(1000)), "Unknown");
        assert_eq!(line("\"b,a,,,,1"), "OtherBucket");
    }

    #[test]
    fn an_inventory_has_the_columns_that_are_needed() {
        assert!(Columns::of("Bucket,Key,Size").is_ok());
        for missing in ["Key, Size", "Bucket, Size", "Bucket, Key", ""] {
            assert!(
                matches!(Columns::of(missing), Err(Error::NoColumn(_))),
                "{missing}"
            );
        }
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    /// An inventory in a folder, with these data files. `md5` instead of the first one's digest.
    fn folder(files: &[Vec<u8>], md5: Option<&str>) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let scan = folder.path().join("2026-01-03T04-05Z");
        std::fs::create_dir_all(&scan).unwrap();
        std::fs::create_dir_all(folder.path().join("data")).unwrap();
        let mut list = Vec::new();
        for (number, bytes) in files.iter().enumerate() {
            let name = format!("{number}.csv.gz");
            std::fs::write(folder.path().join("data").join(&name), bytes).unwrap();
            let digest: [u8; 16] = Md5::digest(bytes).into();
            let digest = hex::encode_upper(digest);
            list.push(serde_json::json!({
                "key": format!("lists/b/daily/data/{name}"),
                "size": bytes.len(),
                "MD5checksum": md5.filter(|_| number == 0).unwrap_or(&digest),
            }));
        }
        let manifest = serde_json::json!({
            "creationTimestamp": "1767413106",
            "destinationBucket": "lists",
            "fileFormat": "CSV",
            "fileSchema": "Bucket, Key, Size",
            "files": list,
            "sourceBucket": "b",
            "version": "2019-09-01",
        });
        let path = scan.join("manifest.json");
        std::fs::write(&path, manifest.to_string()).unwrap();
        (folder, path)
    }

    async fn read(path: &Path, prefix: &str) -> Vec<String> {
        let inventory = Inventory::open(Place::Folder(path.to_owned())).await;
        let inventory = match inventory {
            Ok(inventory) => Arc::new(inventory),
            Err(error) => return vec![error.to_string()],
        };
        let mut objects = inventory.objects(prefix.to_owned());
        let mut seen = Vec::new();
        while let Some(object) = objects.recv().await {
            seen.push(match object {
                Ok(object) => object.key,
                Err(error) => crate::base::error_chain::chain(&error),
            });
        }
        seen
    }

    #[tokio::test]
    async fn the_data_files_are_read_in_order() {
        let first = gzip("b,a/1,1\nb,c,1\nb,a/2,1\n");
        let second = gzip("b,.ossvault/keys,0\nb,a/3,1\n");
        let (_folder, path) = folder(&[first, second], None);
        assert_eq!(read(&path, "").await, ["a/1", "c", "a/2", "a/3"]);
        assert_eq!(read(&path, "a/").await, ["a/1", "a/2", "a/3"]);
    }

    #[tokio::test]
    async fn a_damaged_data_file_ends_the_run() {
        let sound = gzip("b,a,1\nb,b,1\n");
        let cut = sound[..sound.len() - 10].to_vec();
        let long = gzip(&format!("b,a,1\nb,{}\n", "x".repeat(2 * MAX_LINE)));
        let foreign = gzip("b,a,1\nother,b,1\n");
        for (files, md5, what) in [
            (vec![cut], None, "is cut"),
            (vec![b"bucket,key,size".to_vec()], None, "not gzip"),
            (vec![long], None, "too long"),
            (vec![foreign], None, "another bucket"),
            (vec![sound], Some("00112233445566778899AABBCCDDEEFF"), "MD5"),
        ] {
            let (_folder, path) = folder(&files, md5);
            let seen = read(&path, "").await;
            let last = seen.last().map(String::as_str).unwrap_or_default();
            assert!(last.contains(what), "{what}: {seen:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_manifest_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest.json");
        for (text, what) in [
            ("", "not the manifest.json"),
            ("{}", "not the manifest.json"),
            (
                r#"{"sourceBucket":"b","creationTimestamp":"x","fileFormat":"CSV","fileSchema":"Bucket,Key,Size","files":[]}"#,
                "not a number",
            ),
            (
                r#"{"sourceBucket":"b","creationTimestamp":"1","fileFormat":"ORC","fileSchema":"","files":[]}"#,
                "only CSV",
            ),
            (
                r#"{"sourceBucket":"b","creationTimestamp":"1","fileFormat":"CSV","fileSchema":"Bucket,Key","files":[]}"#,
                "no column Size",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let seen = read(&path, "").await;
            assert!(seen[0].contains(what), "{text}: {seen:?}");
        }
        assert!(read(&folder.path().join("none"), "").await[0].contains("none"));
    }
}
