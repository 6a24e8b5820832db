//! Changes of whole objects: put, copy, delete.
//!
//! Content is written first. The transaction that then changes the object's row checks the condition, and is the
//! moment at which the object is replaced; the content that it replaces is removed afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use rusqlite::Connection;

use super::bucket::Bucket;
use super::clock::{now, unix_now};
use super::disk::{QueryError, QueryResult, message};
use super::index::{self, Found};
use super::received::Received;
use super::record::{self, Content, Facts, PartFile};
use crate::store::error::Error;
use crate::store::object_store::*;

/// How often a read whose content is gone consults the database again. Each time means that the object was
/// replaced in between.
pub(super) const RACES: usize = 100;

/// Gives `key` an object and removes the content of the one that it replaces. `check` gets the object that is
/// there, `then` the row of the new content.
fn publish(
    bucket: &Bucket,
    key: &ObjectKey,
    facts: &Facts,
    (content, headers): (&Content, &ObjectHeaders),
    check: impl FnOnce(&Connection, Option<&Found>) -> QueryResult<()> + Send + 'static,
    then: impl FnOnce(&Connection, i64) -> QueryResult<()> + Send + 'static,
) -> Result<()> {
    let change = {
        let (key, facts) = (key.clone(), facts.clone());
        let (content, headers) = (content.clone(), headers.clone());
        move |connection: &Connection| {
            let before = replaceable(connection, &key)?;
            check(connection, before.as_ref())?;
            if let Some(before) = &before {
                index::remove_content(connection, before.id, Some(&before.content))?;
            }
            let id = index::add_content(connection, &content, &headers)?;
            index::put_object(connection, &key, &facts, id)?;
            then(connection, id)?;
            Ok(before.map(|before| before.content))
        }
    };
    if let Some(replaced) = bucket.change(change)? {
        bucket.contents().remove(key.as_str(), &replaced);
    }
    Ok(())
}

/// Stores a body that has arrived. Blocks.
pub(super) fn put(
    bucket: &Bucket,
    key: &ObjectKey,
    headers: &ObjectHeaders,
    received: Received,
    overwrite: Overwrite,
) -> Result<PutAnswer> {
    let contents = bucket.contents();
    let written = received.finish()?;
    let content = match written.len {
        0 => Content::Empty,
        _ => Content::File(contents.new_name(key.as_str())),
    };
    let facts = Facts {
        modified: unix_now(),
        size: written.len,
        crc64: written.crc64,
        tag: written.tag,
        multipart: false,
        infrequent: record::is_infrequent(headers),
    };
    contents.keep(key.as_str(), &content, written)?;
    publish(
        bucket,
        key,
        &facts,
        (&content, headers),
        move |_, before| Ok(may_write(overwrite, before)?),
        |_, _| Ok(()),
    )
    .inspect_err(|_| contents.remove(key.as_str(), &content))?;
    Ok(answer(&facts))
}

/// As the trait's `copy`, without a condition if there is no tag. Blocks.
pub(super) fn copy(
    bucket: &Bucket,
    source: &ObjectKey,
    source_etag: Option<&ETag>,
    destination: &ObjectKey,
    headers: &CopyHeaders,
    overwrite: Overwrite,
) -> Result<(PutAnswer, SystemTime)> {
    for _ in 0..RACES {
        let (found, parts) = bucket.find_with_parts(source)?;
        if source_etag.is_some_and(|etag| !found.facts.tag.is(etag)) {
            return Err(Error::PreconditionFailed);
        }
        let (headers, infrequent) = match headers {
            CopyHeaders::Keep => (&found.headers, found.facts.infrequent),
            CopyHeaders::Replace(headers) => (headers, record::is_infrequent(headers)),
        };
        let facts = Facts {
            modified: unix_now(),
            infrequent,
            ..found.facts.clone()
        };
        let copied = if source == destination {
            replace_headers(bucket, source, &facts, headers, found.clone(), overwrite)?
        } else {
            copy_content(
                bucket,
                (source, found.clone(), &parts),
                (destination, &facts, headers),
                overwrite,
            )?
        };
        match copied {
            Copied::Done => return Ok((answer(&facts), facts.last_modified())),
            Copied::MovedOn => {}
        }
    }
    Err(missing_content(source))
}

/// What became of an attempt to copy.
enum Copied {
    Done,
    /// The source was changed after the copy began.
    MovedOn,
}

/// A copy of an object onto itself: its content stays.
fn replace_headers(
    bucket: &Bucket,
    key: &ObjectKey,
    facts: &Facts,
    headers: &ObjectHeaders,
    found: Found,
    overwrite: Overwrite,
) -> Result<Copied> {
    let (key, facts, headers) = (key.clone(), facts.clone(), headers.clone());
    bucket.change(move |connection| {
        let now = index::find(connection, &key)?;
        may_write(overwrite, now.as_ref())?;
        if now.as_ref() != Some(&found) {
            return Ok(Copied::MovedOn);
        }
        index::set_headers(connection, found.id, &headers)?;
        index::put_object(connection, &key, &facts, found.id)?;
        Ok(Copied::Done)
    })
}

fn copy_content(
    bucket: &Bucket,
    (source, found, parts): (&ObjectKey, Found, &[PartFile]),
    (destination, facts, headers): (&ObjectKey, &Facts, &ObjectHeaders),
    overwrite: Overwrite,
) -> Result<Copied> {
    let contents = bucket.contents();
    let shared = contents.share(source.as_str(), &found.content, parts, destination.as_str());
    let content = match shared {
        // Replaced after it was found.
        Err(Error::NotFound) => return Ok(Copied::MovedOn),
        shared => shared?,
    };
    let moved_on = Arc::new(AtomicBool::new(false));
    let published = {
        let (source, id, moved_on) = (source.clone(), found.id, moved_on.clone());
        let check = move |connection: &Connection, before: Option<&Found>| {
            may_write(overwrite, before)?;
            // The source must be unchanged at the moment of the copy.
            if index::find(connection, &source)?.as_ref() == Some(&found) {
                return Ok(());
            }
            moved_on.store(true, Ordering::Relaxed);
            Err(Error::PreconditionFailed.into())
        };
        let then = move |connection: &Connection, copy| index::copy_parts(connection, id, copy);
        publish(bucket, destination, facts, (&content, headers), check, then)
    };
    if published.is_err() {
        contents.remove(destination.as_str(), &content);
    }
    match published {
        Err(_) if moved_on.load(Ordering::Relaxed) => Ok(Copied::MovedOn),
        published => published.map(|()| Copied::Done),
    }
}

/// In one transaction. Blocks.
pub(super) fn delete(bucket: &Bucket, keys: Vec<ObjectKey>) -> Result<()> {
    let gone = bucket.change(move |connection| {
        let mut gone = Vec::new();
        for key in keys {
            if let Some(content) = index::remove_object(connection, &key)? {
                gone.push((key, content));
            }
        }
        Ok(gone)
    })?;
    for (key, content) in gone {
        bucket.contents().remove(key.as_str(), &content);
    }
    Ok(())
}

/// As [`index::find`], for an object that is about to be replaced. Damaged rows are removed: their contents are lost
/// in either case.
pub(super) fn replaceable(connection: &Connection, key: &ObjectKey) -> QueryResult<Option<Found>> {
    match index::find(connection, key) {
        Err(QueryError(Error::Corrupt(cause))) => {
            log::warn!("{key}: replaced: {cause}");
            index::remove_object(connection, key)?;
            Ok(None)
        }
        found => found,
    }
}

/// # Errors
/// [`Error::AlreadyExists`] if there is an object that must not be replaced.
pub(super) fn may_write(overwrite: Overwrite, before: Option<&Found>) -> Result<()> {
    match (overwrite, before) {
        (Overwrite::Forbidden, Some(_)) => Err(Error::AlreadyExists),
        _ => Ok(()),
    }
}

/// The answer to a request that stored this object.
pub(super) fn answer(facts: &Facts) -> PutAnswer {
    PutAnswer {
        etag: facts.tag.etag(),
        crc64: Some(facts.crc64),
        date: now(),
    }
}

/// For an object whose row refers to content that does not exist.
pub(super) fn missing_content(key: &ObjectKey) -> Error {
    Error::Corrupt(message(format!("the content of {key} is missing")))
}
