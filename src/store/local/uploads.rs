//! Multipart uploads that are under way in a bucket folder.
//!
//! A row of `uploads` says what is being made; the parts lie from the beginning in the folder that will be the
//! object's content, so that completing an upload of any size moves no bytes. Their rows are those of the
//! object, too.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Row};

use super::disk::QueryResult;
use super::index::{self, bytes, damaged, disordered, number, tag, text};
use super::record::{self, Content, MAX_PARTS, Tag, is_id, is_part_name};
use crate::database::error::Error as Failure;
use crate::store::error::Error;
use crate::store::object_store::{ObjectHeaders, ObjectKey, PendingUpload, UploadId};

/// Parts but the last one have at least this many bytes.
pub const MIN_PART: u64 = 100 << 10;

/// More are not listed: they are kept in memory meanwhile.
const MAX_LISTED: usize = 100_000;

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

/// An upload as the database has it.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The row of the content that it makes.
    pub content: i64,
    /// The name of the folder of parts in the data folder of the key.
    pub name: String,
    pub headers: ObjectHeaders,
}

/// A part, and the file that has its bytes.
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

/// `content` is the row of the content that it makes.
pub fn create(
    connection: &Connection,
    key: &ObjectKey,
    upload: &UploadId,
    initiated: i64,
    content: i64,
) -> QueryResult<()> {
    connection
        .prepare_cached(
            "INSERT INTO uploads (key, id, initiated, content) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute((key.as_str().as_bytes(), &upload.0, initiated, content))?;
    Ok(())
}

/// # Errors
/// [`Error::NoSuchUpload`], also when it is one of another key; [`Error::Corrupt`].
pub fn load(connection: &Connection, key: &ObjectKey, upload: &UploadId) -> QueryResult<Upload> {
    // An id comes from outside.
    if !is_id(&upload.0) {
        return Err(Error::NoSuchUpload.into());
    }
    let found = connection
        .prepare_cached(
            "SELECT content, place, headers \
             FROM uploads LEFT JOIN contents ON contents.id = uploads.content \
             WHERE key = ?1 AND uploads.id = ?2",
        )?
        .query_row((key.as_str().as_bytes(), &upload.0), |row| {
            let read = || {
                Some(Upload {
                    content: number(row, 0)?,
                    name: match Content::parse(text(row, 1)?)? {
                        Content::Parts(name) => name,
                        Content::Empty | Content::File(_) => return None,
                    },
                    headers: record::read_headers(text(row, 2)?)?,
                })
            };
            Ok(read())
        })
        .optional();
    match found.map_err(Failure::from) {
        Ok(None) => Err(Error::NoSuchUpload.into()),
        Ok(Some(Some(found))) => Ok(found),
        Ok(Some(None)) | Err(Failure::TooLarge) => Err(damaged().into()),
        Err(error) => Err(error.into()),
    }
}

/// What is left are the content and its parts.
pub fn remove(connection: &Connection, key: &ObjectKey, upload: &UploadId) -> QueryResult<()> {
    connection
        .prepare_cached("DELETE FROM uploads WHERE key = ?1 AND id = ?2")?
        .execute((key.as_str().as_bytes(), &upload.0))?;
    Ok(())
}

/// Returns the file of the part that it replaces.
pub fn put_part(connection: &Connection, content: i64, part: &Part) -> QueryResult<Option<String>> {
    let replaced = connection
        .prepare_cached("SELECT file FROM parts WHERE content = ?1 AND number = ?2")?
        .query_row((content, part.number), |row| {
            Ok(text(row, 0).map(str::to_string))
        })
        .optional()?;
    let since = part.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    connection
        .prepare_cached("INSERT OR REPLACE INTO parts VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
        .execute((
            content,
            part.number,
            part.size.cast_signed(),
            part.crc64.cast_signed(),
            part.tag.digest,
            part.tag.parts,
            since.as_secs().cast_signed(),
            &part.file,
        ))?;
    Ok(replaced.flatten().filter(|name| is_part_name(name)))
}

pub fn remove_part(connection: &Connection, content: i64, number: u16) -> QueryResult<()> {
    connection
        .prepare_cached("DELETE FROM parts WHERE content = ?1 AND number = ?2")?
        .execute((content, number))?;
    Ok(())
}

/// The parts of a content by number.
///
/// # Errors
/// [`Error::Corrupt`] for rows that this store would not write.
pub fn parts(connection: &Connection, content: i64) -> QueryResult<BTreeMap<u16, Part>> {
    let mut query = connection.prepare_cached(
        "SELECT number, size, crc64, digest, tag_parts, modified, file FROM parts \
         WHERE content = ?1 ORDER BY number",
    )?;
    let mut rows = query.query((content,))?;
    let mut parts: BTreeMap<u16, Part> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let part = part(row).ok_or_else(damaged)?;
        if (parts.last_key_value()).is_some_and(|(last, _)| *last >= part.number) {
            return Err(disordered().into());
        }
        parts.insert(part.number, part);
    }
    Ok(parts)
}

fn part(row: &Row<'_>) -> Option<Part> {
    Some(Part {
        number: u16::try_from(number(row, 0)?)
            .ok()
            .filter(|number| (1..=MAX_PARTS).contains(number))?,
        size: number(row, 1)?.try_into().ok()?,
        crc64: number(row, 2)?.cast_unsigned(),
        tag: tag(row, 3)?,
        modified: time(number(row, 5)?)?,
        file: text(row, 6).filter(|name| is_part_name(name))?.to_string(),
    })
}

fn time(seconds: i64) -> Option<SystemTime> {
    let seconds = u64::try_from(seconds)
        .ok()
        .filter(|seconds| *seconds <= record::MAX_TIME)?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Those of keys that begin with `prefix`, by key and then by id.
///
/// # Errors
/// [`Error::Corrupt`] for rows that are not in order.
pub fn list(connection: &Connection, prefix: &str) -> QueryResult<Vec<PendingUpload>> {
    let mut query = connection.prepare_cached(
        "SELECT key, id, initiated FROM uploads WHERE key >= ?1 AND key < ?2 ORDER BY key, id",
    )?;
    let mut rows = query.query(index::range(prefix))?;
    let mut uploads = Vec::new();
    let mut skipped = 0;
    let mut last = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        let place = bytes(row, 0).zip(text(row, 1));
        let place = place.map(|(key, id)| (key.to_vec(), id.as_bytes().to_vec()));
        // Otherwise there may be no end of them.
        last = (place.filter(|place| *place > last)).ok_or_else(disordered)?;
        let upload = || {
            let key = std::str::from_utf8(bytes(row, 0)?).ok()?;
            Some(PendingUpload {
                key: Some(key.to_string()).filter(|key| record::is_key(key))?,
                upload: UploadId(text(row, 1).filter(|id| is_id(id))?.to_string()),
                initiated: time(number(row, 2)?)?,
            })
        };
        match upload() {
            None => skipped += 1,
            Some(_) if uploads.len() == MAX_LISTED => {
                log::warn!("more than {MAX_LISTED} uploads: the others are not listed");
                break;
            }
            Some(upload) => uploads.push(upload),
        }
    }
    if skipped > 0 {
        log::warn!("{skipped} damaged rows in the bucket's database are not listed");
    }
    Ok(uploads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_id_is_not_listed() {
        let connection = Connection::open_in_memory().unwrap();
        let schema = index::SCHEMA.migrations[0];
        connection.execute_batch(schema).unwrap();
        let id = "0123456789abcdef".repeat(2);
        for id in [&*id, "\u{1b}[31m", "x", &id[1..]] {
            let key = ObjectKey::new("k").unwrap();
            create(&connection, &key, &UploadId(id.to_string()), 1, 1).unwrap();
        }
        let found = list(&connection, "").unwrap();
        let found: Vec<_> = found.iter().map(|upload| &*upload.upload.0).collect();
        assert_eq!(found, [&*id]);
    }
}
