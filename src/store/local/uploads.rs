//! Multipart uploads that are under way in a bucket folder.
//!
//! `uploads/ID` is a small file that says what is being made; the parts lie from the beginning in the folder
//! that will be the object's content, so that completing an upload of any size moves no bytes. What there is
//! to know of a part is in its file's name: `NUMBER~SIZE~CRC64~TAG`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::disk::{failed, message, sync_folder};
use super::record::{self, Details, Tag};
use crate::store::error::Error;
use crate::store::object_store::{PendingUpload, Result, UploadId};

/// Parts but the last one have at least this many bytes.
pub const MIN_PART: u64 = 100 << 10;
pub const MAX_PARTS: u16 = 10_000;

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

fn parse_part(name: &str, modified: SystemTime) -> Option<Part> {
    let mut fields = name.split('~');
    let part = Part {
        number: fields.next()?.parse().ok()?,
        size: fields.next()?.parse().ok()?,
        crc64: u64::from_str_radix(fields.next()?, 16).ok()?,
        tag: Tag::parse(fields.next()?)?,
        file: name.to_string(),
        modified,
    };
    fields.next().is_none().then_some(part)
}

fn path(folder: &Path, upload: &UploadId) -> Result<PathBuf> {
    // An id comes from outside; only what this store makes is a file name.
    let valid = upload.0.len() == 32 && upload.0.bytes().all(|b| b.is_ascii_hexdigit());
    if !valid {
        return Err(Error::NoSuchUpload);
    }
    Ok(folder.join("uploads").join(&upload.0))
}

pub fn create(
    folder: &Path,
    temporary: &str,
    upload: &UploadId,
    what: &Upload,
    sync: bool,
) -> Result<()> {
    let path = path(folder, upload)?;
    let temporary = folder.join("tmp").join(temporary);
    let text = serde_json::to_vec(what).map_err(Error::other)?;
    let write = || {
        fs::write(&temporary, text)?;
        if sync {
            fs::File::open(&temporary)?.sync_all()?;
        }
        fs::rename(&temporary, &path)?;
        if sync {
            sync_folder(&folder.join("uploads"))?;
        }
        Ok(())
    };
    write().map_err(failed("writing the upload", &path))
}

/// # Errors
/// [`Error::NoSuchUpload`], also when it is one of another key.
pub fn load(folder: &Path, key: &str, upload: &UploadId) -> Result<Upload> {
    let path = path(folder, upload)?;
    let text = fs::read(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NoSuchUpload,
        _ => failed("reading the upload", &path)(error),
    })?;
    let what: Upload = parse(&text)
        .ok_or_else(|| Error::Corrupt(message(format!("{}: damaged", path.display()))))?;
    if what.key != key {
        return Err(Error::NoSuchUpload);
    }
    Ok(what)
}

fn parse(text: &[u8]) -> Option<Upload> {
    let what: Upload = serde_json::from_slice(text).ok()?;
    record::safe_name(&what.name).then_some(what)
}

pub fn remove(folder: &Path, upload: &UploadId) -> Result<()> {
    let path = path(folder, upload)?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("removing the upload", &path)(error))
        }
        _ => Ok(()),
    }
}

/// The parts in a folder by number. Of two with one number (a crash between the two steps of replacing
/// one) the later counts.
pub fn parts(folder: &Path) -> Result<BTreeMap<u16, Part>> {
    let mut parts: BTreeMap<u16, Part> = BTreeMap::new();
    let mut read = || {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let modified = match entry.metadata() {
                Ok(file) => file.modified()?,
                // Replaced meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let Some(part) = entry
                .file_name()
                .to_str()
                .and_then(|name| parse_part(name, modified))
            else {
                log::warn!("{}: not a part", entry.path().display());
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
            read.map_err(failed("reading the parts", folder))?;
            Ok(parts)
        }
    }
}

/// Those of keys that begin with `prefix`, by key and then by id.
pub fn list(folder: &Path, prefix: &str) -> Result<Vec<PendingUpload>> {
    let folder = folder.join("uploads");
    let mut uploads = Vec::new();
    let entries = fs::read_dir(&folder).map_err(failed("reading the uploads", &folder))?;
    for entry in entries {
        let entry = entry.map_err(failed("reading the uploads", &folder))?;
        let Ok(text) = fs::read(entry.path()) else {
            // Completed or aborted meanwhile.
            continue;
        };
        let (Some(what), Some(id)) = (parse(&text), entry.file_name().to_str().map(str::to_string))
        else {
            log::warn!("{}: not an upload", entry.path().display());
            continue;
        };
        if what.key.starts_with(prefix) {
            uploads.push(PendingUpload {
                initiated: what.initiated(),
                key: what.key,
                upload: UploadId(id),
            });
        }
    }
    uploads.sort_by(|a, b| (&a.key, &a.upload.0).cmp(&(&b.key, &b.upload.0)));
    Ok(uploads)
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
            "00001~5~zz~00",
            &format!("{name}~"),
        ] {
            assert_eq!(parse_part(name, UNIX_EPOCH), None, "{name}");
        }
    }

    #[test]
    fn an_id_is_never_a_path() {
        for id in [
            "",
            "..",
            "../../etc/passwd",
            &"/".repeat(32),
            &"g".repeat(32),
        ] {
            assert!(matches!(
                load(Path::new("/nonexistent"), "k", &UploadId(id.to_string())),
                Err(Error::NoSuchUpload)
            ));
        }
    }
}
