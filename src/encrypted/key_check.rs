//! Whether a mount's keys are those that the objects below its prefix are for.
//!
//! A mount with the wrong key looks well: names, sizes and times are all there. It can read nothing, and what it
//! writes nobody with the right key can read. So the marker of the prefix is compared with the mount's keys, and if it
//! does not name one of them, a few objects are: an envelope names the key that wrapped it. All of this comes from the
//! bucket and proves nothing; a check that cannot be made is logged, and passes.

use std::fmt;
use std::sync::Arc;

use futures_util::future::join_all;

use super::bucket::EncryptedBucket;
use super::key_marker::{self, Found, KeyMarker, MarkedKey, Unreadable};
use super::reserved::is_reserved;
use crate::base::error_chain::chain;
use crate::crypto::key_ring::KeyRing;
use crate::crypto::rsa_key::PublicKey;
use crate::envelope;
use crate::store::error::Error as StoreError;
use crate::store::object_store::{ListRequest, ObjectKey, ObjectStore};

/// Objects whose headers are read where the marker does not decide.
const SAMPLE: usize = 8;

/// Whether the bucket has a marker, as far as a listing showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    Yes,
    No,
    /// The listing did not get that far.
    Unknown,
}

/// What a mount may do about the marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whatever the objects are for.
    pub accept: bool,
    /// The mount writes: its key is added to the marker.
    pub write: bool,
}

/// The keys that were found in the bucket, none of them the mount's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForeignKeys {
    Marked(Vec<MarkedKey>),
    /// Key ids, as the objects name them: the first 16 digits of fingerprints.
    Named(Vec<String>),
}

/// Keys named in a message, at most.
const SHOWN_KEYS: usize = 4;

/// What was found, for a message.
impl fmt::Display for ForeignKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, names): (&str, Vec<String>) = match self {
            ForeignKeys::Marked(keys) => (
                "the bucket's key marker names",
                (keys.iter())
                    .map(|k| format!("the fingerprint {} (since {})", k.fingerprint, k.since()))
                    .collect(),
            ),
            ForeignKeys::Named(ids) => (
                "they name",
                (ids.iter())
                    .map(|id| format!("a fingerprint that begins with {id}"))
                    .collect(),
            ),
        };
        write!(f, "{what} {}", few(names))
    }
}

/// The fingerprints of a mount's keys, for a message.
pub fn fingerprints_of(ring: &KeyRing) -> String {
    few(all_of(ring)
        .map(|key| key.fingerprint().to_owned())
        .collect())
}

fn few(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(SHOWN_KEYS);
    names.truncate(SHOWN_KEYS);
    let shown = names.join(", ");
    match more {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// How a mount's keys fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The key marker names one of them.
    Marked,
    /// An object does.
    Named,
    /// Nothing names any key, or it could not be found out.
    Unknown,
}

/// Compares the keys of `bucket` with those that the objects below `prefix` are for. One HEAD if there is a marker that
/// names one of them; one listing and a few HEADs if not; and one PUT if the marker does not name the key that encrypts.
///
/// # Errors
/// [`ForeignKeys`] unless `policy` accepts any.
pub async fn at_mount(
    bucket: &EncryptedBucket,
    prefix: &str,
    listed: Listed,
    policy: Policy,
) -> Result<Fit, ForeignKeys> {
    let (store, keys) = (bucket.store(), bucket.keys());
    let found = match listed {
        Listed::No => Found::Nothing,
        Listed::Yes | Listed::Unknown => match key_marker::read(&**store, prefix).await {
            Ok(found) => found,
            Err(error) => {
                log::warn!(
                    "cannot read the key marker of this bucket, so the mount's keys are not compared with it: {}",
                    chain(&error)
                );
                return Ok(Fit::Unknown);
            }
        },
    };
    if let Found::Unreadable(why) = &found {
        log::warn!("the key marker of this bucket is not used: {why}");
    }
    let marker = match &found {
        Found::Marker(marker) => Some(marker),
        Found::Nothing | Found::Unreadable(_) => None,
    };
    let mut sampled = Sample::default();
    let mut fit = Fit::Unknown;
    if marker.is_some_and(|marker| fits(marker, keys)) {
        fit = Fit::Marked;
    } else if !policy.accept {
        sampled = sample(store, prefix).await;
        let known = |id: &String| all_of(keys).any(|key| key.key_id() == id);
        match marker {
            _ if sampled.named.iter().any(known) => fit = Fit::Named,
            Some(marker) => return Err(ForeignKeys::Marked(marker.keys.clone())),
            // One that does not say may be for any key.
            None if !sampled.named.is_empty() && !sampled.unnamed => {
                return Err(ForeignKeys::Named(sampled.named));
            }
            None => {}
        }
    }
    if policy.write && found != Found::Unreadable(Unreadable::Later) {
        let mut wanted = marker.cloned().unwrap_or_default();
        let of_objects = keys.reading().filter(|key| {
            let id = key.key_id();
            sampled.named.iter().any(|named| named == id)
        });
        let mut changed = false;
        for key in of_objects.chain([keys.writing()]) {
            changed |= wanted.add(MarkedKey::new(key, bucket.format()));
        }
        if changed {
            write(store, prefix, &wanted).await;
        }
    }
    Ok(fit)
}

/// After a rewrap: the marker of `prefix`, if there is one, names the new key; and no longer the old ones where nothing
/// is for them any more.
///
/// # Errors
/// The store's.
pub async fn after_rewrap(
    bucket: &EncryptedBucket,
    prefix: &str,
    replaced: &[String],
) -> Result<(), StoreError> {
    let store = bucket.store();
    let Found::Marker(before) = key_marker::read(&**store, prefix).await? else {
        return Ok(());
    };
    let mut marker = before.clone();
    marker.add(MarkedKey::new(bucket.keys().writing(), bucket.format()));
    for fingerprint in replaced {
        marker.remove(fingerprint);
    }
    match marker == before {
        true => Ok(()),
        false => key_marker::write(&**store, prefix, &marker).await,
    }
}

/// The mount's own keys, each once.
pub fn all_of(keys: &KeyRing) -> impl Iterator<Item = &PublicKey> {
    let writing = keys.writing();
    let others = keys.reading().filter(move |key| *key != writing);
    std::iter::once(writing).chain(others)
}

fn fits(marker: &KeyMarker, keys: &KeyRing) -> bool {
    all_of(keys).any(|key| marker.names(key))
}

async fn write(store: &Arc<dyn ObjectStore>, prefix: &str, marker: &KeyMarker) {
    match key_marker::write(&**store, prefix, marker).await {
        Ok(()) => log::info!(
            "the key marker of this bucket names the keys {}",
            fingerprints(marker)
        ),
        Err(error) => log::warn!(
            "cannot write the key marker of this bucket, so later mounts with another key are not refused by it: {}",
            chain(&error)
        ),
    }
}

fn fingerprints(marker: &KeyMarker) -> String {
    let keys: Vec<&str> = marker.keys.iter().map(|k| &*k.fingerprint).collect();
    keys.join(", ")
}

/// What some encrypted objects say of their keys; nothing where nothing can be found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Key ids, each once.
    pub named: Vec<String>,
    /// There are objects that name no key: other programs wrote them.
    pub unnamed: bool,
}

impl Sample {
    fn add(&mut self, object: Object) {
        match object {
            Object::Names(id) => self.named.push(id),
            Object::NamesNone => self.unnamed = true,
            Object::NotEncrypted => {}
        }
    }
}

/// Looks at a few objects below `prefix`: one listing, and at most [`SAMPLE`] HEADs.
pub async fn sample(store: &Arc<dyn ObjectStore>, prefix: &str) -> Sample {
    let request = ListRequest {
        prefix: prefix.to_owned(),
        ..ListRequest::default()
    };
    let mut sample = Sample::default();
    let page = match store.list(&request).await {
        Ok(page) => page,
        Err(error) => {
            log::warn!(
                "cannot list objects to compare their keys: {}",
                chain(&error)
            );
            return sample;
        }
    };
    let candidates: Vec<&str> = (page.objects.iter())
        .filter(|object| object.size > 0 && !is_reserved(&object.key, prefix))
        .map(|object| &*object.key)
        .collect();
    // From all over the page: objects of one directory often have one origin.
    let step = candidates.len().div_ceil(SAMPLE).max(1);
    let mut chosen = candidates.into_iter().step_by(step);
    let Some(first) = chosen.next() else {
        return sample;
    };
    // Where reading is forbidden, one refusal is enough.
    match look_at(store, first).await {
        Ok(object) => sample.add(object),
        Err(StoreError::AccessDenied(_)) => return sample,
        Err(_) => {}
    }
    let others = join_all(chosen.map(|key| look_at(store, key))).await;
    for object in others.into_iter().flatten() {
        sample.add(object);
    }
    sample.named.sort_unstable();
    sample.named.dedup();
    sample
}

/// What an object says of its key.
enum Object {
    Names(String),
    NamesNone,
    NotEncrypted,
}

async fn look_at(store: &Arc<dyn ObjectStore>, key: &str) -> Result<Object, StoreError> {
    let meta = store.head(&ObjectKey::new(key)?).await?;
    Ok(match envelope::detect(&meta.headers.user) {
        Ok(None) => Object::NotEncrypted,
        Ok(Some(envelope)) => match envelope.key_id() {
            Some(id) => Object::Names(id.to_owned()),
            None => Object::NamesNone,
        },
        Err(_) => Object::NamesNone,
    })
}
