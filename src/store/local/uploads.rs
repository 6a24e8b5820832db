//! Multipart uploads that are under way in a bucket folder.
//!
//! `uploads/ID` is a small file that says what is being made; the parts lie from the beginning in the folder
//! that will be the object's content, so that completing an upload of any size moves no bytes. What there is
//! to know of a part is in its file's name: `NUMBER~SIZE~CRC64~TAG`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::directory::Directory;
use super::disk::{failed, message};
use super::record::{self, Details, MAX_PARTS, Tag};
use crate::store::error::Error;
use crate::store::object_store::{PendingUpload, Result, UploadId};

/// Parts but the last one have at least this many bytes.
pub const MIN_PART: u64 = 100 << 10;

/// Of the file that tells of an upload: as much metadata as an object can have, and room.
const MAX_FILE: u64 = 256 << 10;

/// More are not listed. Each is a file that somebody made, maybe not this store.
const MAX_LISTED: usize = 100_000;

const UPLOADS: &str = "uploads";

/// Why an upload cannot be completed, or a part not be taken; the cause of an [`Error::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("a part is missing or has another tag")]
    InvalidPart,
    #[error("the parts are not in ascending order")]
    InvalidPartOrder,
    #[error("a part but the last is smaller than 100 KiB")]
    TooSmall,
    #[error("part numbers are 1 to 10000")]
    InvalidNumber,
    #[error("an upload needs at least one part")]
    NoParts,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::other(refusal)
    }
}

#[derive(Serialize, Deserialize)]
pub struct Upload {
    pub key: String,
    /// The name of the folder of parts in the data folder of the key.
    pub name: String,
    /// Unix seconds.
    pub initiated: u64,
    pub details: Details,
}

impl Upload {
    pub fn initiated(&self) -> SystemTime {
        UNIX_EPOCH
            .checked_add(Duration::from_secs(self.initiated))
            .unwrap_or(UNIX_EPOCH)
    }
}

/// A part as its file's name tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub number: u16,
    /// In bytes.
    pub size: u64,
    pub crc64: u64,
    pub tag: Tag,
    pub file: String,
    pub modified: SystemTime,
}

pub fn part_name(number: u16, size: u64, crc64: u64, tag: &Tag) -> String {
    format!("{number:05}~{size}~{crc64:016x}~{tag}")
}

/// Whether a file is one that [`part_name`] named.
pub fn is_part_name(name: &str) -> bool {
    parse_part(name, UNIX_EPOCH).is_some()
}

/// A part by its file's name.
pub fn parse_part(name: &str, modified: SystemTime) -> Option<Part> {
    let mut fields = name.split('~');
    let part = Part {
        number: fields
            .next()?
            .parse()
            .ok()
            .filter(|number| (1..=MAX_PARTS).contains(number))?,
        size: fields.next()?.parse().ok()?,
        crc64: u64::from_str_radix(fields.next()?, 16).ok()?,
        tag: Tag::parse(fields.next()?)?,
        file: name.to_string(),
        modified,
    };
    fields.next().is_none().then_some(part)
}

/// From the bucket folder.
fn path(upload: &UploadId) -> Result<String> {
    // An id comes from outside; only what this store makes is a file name.
    match is_id(&upload.0) {
        true => Ok(format!("{UPLOADS}/{}", upload.0)),
        false => Err(Error::NoSuchUpload),
    }
}

/// Whether this may be the id of an upload: 32 digits of base 16.
pub fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

pub fn create(
    root: &Directory,
    temporary: &str,
    upload: &UploadId,
    what: &Upload,
    sync: bool,
) -> Result<()> {
    let path = path(upload)?;
    let text = serde_json::to_vec(what).map_err(Error::other)?;
    if text.len() as u64 > MAX_FILE {
        return Err(Error::TooLarge(message(
            "more metadata than an object can have",
        )));
    }
    let write = || {
        let folder = root.directory("tmp")?;
        let mut file = folder.create_file(temporary)?;
        file.write_all(&text)?;
        if sync {
            file.sync_all()?;
        }
        let uploads = root.directory(UPLOADS)?;
        folder.rename(temporary, &uploads, &upload.0)?;
        if sync {
            uploads.sync()?;
        }
        Ok(())
    };
    write().map_err(failed("writing the upload", &root.path_of(&path)))
}

/// # Errors
/// [`Error::NoSuchUpload`], also when it is one of another key.
pub fn load(root: &Directory, key: &str, upload: &UploadId) -> Result<Upload> {
    let path = path(upload)?;
    let text = root
        .read(&path, MAX_FILE)
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::NoSuchUpload,
            _ => failed("reading the upload", &root.path_of(&path))(error),
        })?;
    let what: Upload = parse(&text).ok_or_else(|| {
        Error::Corrupt(message(format!(
            "{}: damaged",
            root.path_of(&path).display()
        )))
    })?;
    if what.key != key {
        return Err(Error::NoSuchUpload);
    }
    Ok(what)
}

/// None for what is not as [`create`] writes it.
pub fn parse(text: &[u8]) -> Option<Upload> {
    let what: Upload = serde_json::from_slice(text).ok()?;
    let valid = record::safe_name(&what.name)
        && record::is_key(&what.key)
        && what.initiated <= record::MAX_TIME
        && what.details.parts.is_empty()
        && what.details.is_bounded();
    valid.then_some(what)
}

pub fn remove(root: &Directory, upload: &UploadId) -> Result<()> {
    let path = path(upload)?;
    let removed = root
        .directory(UPLOADS)
        .and_then(|uploads| uploads.remove_file(&upload.0));
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("removing the upload", &root.path_of(&path))(error))
        }
        _ => Ok(()),
    }
}

/// The parts in a folder by number. Of two with one number (a crash between the two steps of replacing
/// one) the later counts.
pub fn parts(folder: &Directory) -> Result<BTreeMap<u16, Part>> {
    let mut parts: BTreeMap<u16, Part> = BTreeMap::new();
    let mut read = || {
        for name in folder.names()? {
            let name = name?;
            let Some(name) = name.to_str() else {
                continue;
            };
            let entry = match folder.entry(name) {
                Ok(entry) => entry,
                // Replaced meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let part = parse_part(name, entry.modified)
                .filter(|part| entry.is_file && entry.len == part.size);
            let Some(part) = part else {
                log::warn!("{}: not a part", folder.path_of(name).display());
                continue;
            };
            let later = parts
                .get(&part.number)
                .is_none_or(|other| other.modified <= part.modified);
            if later {
                parts.insert(part.number, part);
            }
        }
        Ok(())
    };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::NoSuchUpload),
        read => {
            read.map_err(failed("reading the parts", folder.path()))?;
            Ok(parts)
        }
    }
}

/// Those of keys that begin with `prefix`, by key and then by id.
pub fn list(root: &Directory, prefix: &str) -> Result<Vec<PendingUpload>> {
    let mut uploads = Vec::new();
    let reading = |error| failed("reading the uploads", &root.path_of(UPLOADS))(error);
    let folder = root.directory(UPLOADS).map_err(reading)?;
    for name in folder.names().map_err(reading)? {
        let name = name.map_err(reading)?;
        // What has another name is no upload of this store: nobody could complete or abort it.
        let Some(id) = name.to_str().filter(|name| is_id(name)) else {
            continue;
        };
        let text = match folder.read(id, MAX_FILE) {
            Ok(text) => text,
            // Completed or aborted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                log::warn!("{}: not an upload: {error}", folder.path_of(id).display());
                continue;
            }
        };
        let Some(what) = parse(&text) else {
            log::warn!("{}: not an upload", folder.path_of(id).display());
            continue;
        };
        if what.key.starts_with(prefix) {
            if uploads.len() == MAX_LISTED {
                log::warn!(
                    "{}: more than {MAX_LISTED} uploads",
                    folder.path().display()
                );
                break;
            }
            uploads.push(PendingUpload {
                initiated: what.initiated(),
                key: what.key,
                upload: UploadId(id.to_string()),
            });
        }
    }
    uploads.sort_by(|a, b| (&a.key, &a.upload.0).cmp(&(&b.key, &b.upload.0)));
    Ok(uploads)
}

/// Removes the folder of uploads with what is in it. For a bucket that is deleted.
pub fn destroy(root: &Directory) -> io::Result<()> {
    let folder = root.directory(UPLOADS)?;
    for name in folder.names()? {
        if let Some(name) = name?.to_str() {
            folder.remove_file(name)?;
        }
    }
    root.remove_directory(UPLOADS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parts_name_tells_what_it_is() {
        let tag = Tag {
            digest: [7; 16],
            parts: 1,
        };
        let name = part_name(10_000, 5, 0xdead_beef, &tag);
        let part = parse_part(&name, UNIX_EPOCH).unwrap();
        assert_eq!(
            (part.number, part.size, part.crc64, part.tag),
            (10_000, 5, 0xdead_beef, tag)
        );
        for name in [
            "",
            "1",
            "1~2~3",
            "x~1~2~3",
            "00000~5~2~AB",
            "10001~5~2~AB",
            "00001~5~zz~00",
            &format!("{name}~"),
        ] {
            assert_eq!(parse_part(name, UNIX_EPOCH), None, "{name}");
        }
    }

    #[test]
    fn what_has_no_id_for_a_name_is_not_listed() {
        let folder = tempfile::tempdir().unwrap();
        let uploads = folder.path().join(UPLOADS);
        std::fs::create_dir(&uploads).unwrap();
        let upload = Upload {
            key: "k".to_owned(),
            name: "1".to_owned(),
            initiated: 1,
            details: Details::default(),
        };
        let id = "0123456789abcdef".repeat(2);
        for name in [&*id, "\u{1b}[31m", "x"] {
            let text = serde_json::to_vec(&upload).unwrap();
            std::fs::write(uploads.join(name), text).unwrap();
        }
        let root = Directory::open(folder.path()).unwrap();
        let found = list(&root, "").unwrap();
        let found: Vec<_> = found.iter().map(|upload| &*upload.upload.0).collect();
        assert_eq!(found, [&*id]);
    }

    #[test]
    fn an_id_is_never_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let root = Directory::open(folder.path()).unwrap();
        for id in [
            "",
            "..",
            "../../etc/passwd",
            &"/".repeat(32),
            &"g".repeat(32),
        ] {
            assert!(matches!(
                load(&root, "k", &UploadId(id.to_string())),
                Err(Error::NoSuchUpload)
            ));
        }
    }
}
