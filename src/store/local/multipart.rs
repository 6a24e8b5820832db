//! Multipart uploads: begun, given parts, completed or aborted.
//!
//! The parts are written where they stay: see [`uploads`]. A completion is one transaction, which takes effect
//! only if the chosen parts are still the upload's.

use std::collections::BTreeMap;

use md5::{Digest, Md5};
use rusqlite::Connection;

use super::bucket::Bucket;
use super::clock::{now, unix_now};
use super::disk::{failed, message};
use super::index;
use super::objects::{answer, may_write, replaceable};
use super::received::Received;
use super::record::{self, Content, Facts, MAX_PARTS, Tag};
use super::uploads::{self, MIN_PART, Part, Refusal};
use crate::base::crc64;
use crate::store::error::Error;
use crate::store::object_store::*;

/// Begins an upload with the headers of the object. Blocks.
pub(super) fn begin(bucket: &Bucket, key: &ObjectKey, headers: ObjectHeaders) -> Result<UploadId> {
    let upload = UploadId(bucket.contents().new_id());
    let name = bucket.contents().new_name(key.as_str());
    bucket.contents().make_parts(key.as_str(), &name)?;
    let content = Content::Parts(name);
    let begin = {
        let (key, upload, content) = (key.clone(), upload.clone(), content.clone());
        move |connection: &Connection| {
            let row = index::add_content(connection, &content, &headers)?;
            uploads::create(connection, &key, &upload, unix_now(), row)
        }
    };
    bucket
        .change(begin)
        .inspect_err(|_| bucket.contents().remove(key.as_str(), &content))?;
    Ok(upload)
}

/// Stores a part that has arrived; it replaces an earlier one of its number. Blocks.
///
/// # Errors
/// [`Error::NoSuchUpload`], [`Refusal::InvalidNumber`]; the disk's.
pub(super) fn add_part(
    bucket: &Bucket,
    key: &ObjectKey,
    upload: &UploadId,
    number: u16,
    received: Received,
) -> Result<UploadedPart> {
    if number == 0 || number > MAX_PARTS {
        return Err(Refusal::InvalidNumber.into());
    }
    let mut written = received.finish()?;
    let part = Part {
        number,
        size: written.len,
        crc64: written.crc64,
        tag: written.tag,
        file: record::part_name(number, &bucket.contents().new_id()),
        modified: now(),
    };
    let what = bucket.upload(key, upload)?;
    let folder = bucket.contents().parts(key.as_str(), &what.name)?;
    if written.len == 0 {
        folder
            .create_file(&part.file)
            .map_err(failed("creating a part", &folder.path_of(&part.file)))?;
    } else {
        written.rename(&folder, &part.file)?;
    }
    let put = {
        let (key, upload, part) = (key.clone(), upload.clone(), part.clone());
        move |connection: &Connection| {
            // It may have been completed or aborted meanwhile.
            let what = uploads::load(connection, &key, &upload)?;
            uploads::put_part(connection, what.content, &part)
        }
    };
    let put = bucket.change(put);
    let waste = match &put {
        Ok(replaced) => replaced.as_deref(),
        Err(_) => Some(part.file.as_str()),
    };
    if let Some(waste) = waste
        && let Err(error) = folder.remove_file(waste)
    {
        log::warn!("{key}: a part that is not used cannot be removed: {error}");
    }
    put?;
    Ok(UploadedPart {
        number,
        etag: part.tag.etag(),
        crc64: Some(part.crc64),
        size: part.size,
    })
}

/// Makes the object of the parts in `wanted`; the upload's other parts are removed. Blocks.
///
/// # Errors
/// [`Error::NoSuchUpload`], a [`Refusal`], [`Error::AlreadyExists`]; the disk's.
pub(super) fn complete(
    bucket: &Bucket,
    key: &ObjectKey,
    upload: &UploadId,
    wanted: &[UploadedPart],
    overwrite: Overwrite,
) -> Result<PutAnswer> {
    let (what, mut there) = bucket.look(|connection| {
        let what = uploads::load(connection, key, upload)?;
        let there = uploads::parts(connection, what.content)?;
        Ok((what, there))
    })?;
    let folder = bucket.contents().parts(key.as_str(), &what.name)?;
    let chosen = choose_parts(&mut there, wanted)?;
    let whole = chosen.iter().all(|part| {
        let entry = folder.entry(&part.file);
        entry.is_ok_and(|entry| entry.is_file && entry.len == part.size)
    });
    if !whole {
        return Err(Refusal::InvalidPart.into());
    }
    let facts = facts_of(&chosen, record::is_infrequent(&what.headers))?;
    if bucket.contents().syncs() {
        bucket.contents().sync(&folder)?;
        bucket
            .contents()
            .sync(&bucket.contents().make_shard(key.as_str())?)?;
    }
    let complete = {
        let (key, upload, facts) = (key.clone(), upload.clone(), facts.clone());
        move |connection: &Connection| {
            let before = replaceable(connection, &key)?;
            may_write(overwrite, before.as_ref())?;
            // It may have been aborted or completed, or received other parts, meanwhile.
            let what = uploads::load(connection, &key, &upload)?;
            let mut unused = uploads::parts(connection, what.content)?;
            let same = |part: &Part| unused.remove(&part.number).as_ref() == Some(part);
            if !chosen.iter().all(same) {
                return Err(Error::from(Refusal::InvalidPart).into());
            }
            for part in unused.keys() {
                uploads::remove_part(connection, what.content, *part)?;
            }
            uploads::remove(connection, &key, &upload)?;
            if let Some(before) = &before {
                index::remove_content(connection, before.id, Some(&before.content))?;
            }
            index::put_object(connection, &key, &facts, what.content)?;
            Ok((before.map(|before| before.content), unused))
        }
    };
    let (replaced, unused) = bucket.change(complete)?;
    if let Some(replaced) = replaced {
        bucket.contents().remove(key.as_str(), &replaced);
    }
    for part in unused.into_values() {
        if let Err(error) = folder.remove_file(&part.file) {
            log::warn!("{key}: a part that was not used cannot be removed: {error}");
        }
    }
    Ok(answer(&facts))
}

/// Takes the parts that `wanted` names out of `there`; what stays is not part of the object.
fn choose_parts(there: &mut BTreeMap<u16, Part>, wanted: &[UploadedPart]) -> Result<Vec<Part>> {
    if wanted.is_empty() {
        return Err(Refusal::NoParts.into());
    }
    if !wanted.is_sorted_by(|a, b| a.number < b.number) {
        return Err(Refusal::InvalidPartOrder.into());
    }
    let mut chosen = Vec::with_capacity(wanted.len());
    for wanted in wanted {
        match there.remove(&wanted.number) {
            Some(part) if part.tag.is(&wanted.etag) => chosen.push(part),
            _ => return Err(Refusal::InvalidPart.into()),
        }
    }
    let (_, all_but_last) = chosen.split_last().expect("checked: not empty");
    if all_but_last.iter().any(|part| part.size < MIN_PART) {
        return Err(Refusal::TooSmall.into());
    }
    Ok(chosen)
}

/// Of the object that consists of these parts.
fn facts_of(parts: &[Part], infrequent: bool) -> Result<Facts> {
    let mut facts = Facts {
        modified: unix_now(),
        size: 0,
        crc64: 0,
        tag: Tag {
            digest: [0; 16],
            parts: parts.len() as u16,
        },
        multipart: true,
        infrequent,
    };
    let mut md5 = Md5::new();
    for part in parts {
        facts.crc64 = crc64::combine(facts.crc64, part.crc64, part.size);
        facts.size = facts
            .size
            .checked_add(part.size)
            .ok_or_else(|| Error::TooLarge(message("parts of more bytes than can be counted")))?;
        md5.update(part.tag.digest);
    }
    facts.tag.digest = md5.finalize().into();
    Ok(facts)
}

/// Removes the upload and its parts. Blocks.
///
/// # Errors
/// [`Error::NoSuchUpload`]; the disk's.
pub(super) fn abort(bucket: &Bucket, key: &ObjectKey, upload: &UploadId) -> Result<()> {
    let (taken, id) = (key.clone(), upload.clone());
    let name = bucket.change(move |connection| {
        let what = uploads::load(connection, &taken, &id)?;
        uploads::remove(connection, &taken, &id)?;
        index::remove_content(connection, what.content, None)?;
        Ok(what.name)
    })?;
    bucket
        .contents()
        .remove(key.as_str(), &Content::Parts(name));
    Ok(())
}
