//! What a name in a bucket stands for: a file, a directory, or nothing.

use std::sync::Arc;

use super::remove::listed;
use crate::store::error::Error as StoreError;
use crate::store::object_store::{ListRequest, ListedObject, ObjectKey, ObjectStore};

#[derive(Clone, Debug)]
pub(crate) enum Found {
    File(ListedObject),
    /// With a trailing `/`; empty for the bucket.
    Directory(String),
    /// And the name beside it that is most like it.
    Nothing(Option<String>),
}

/// How alike two names must be to be suggested.
const ALIKE: f64 = 0.8;

/// `key` may end with `/`: then only a directory is meant.
///
/// # Errors
/// The store's.
pub(crate) async fn find(store: &Arc<dyn ObjectStore>, key: &str) -> Result<Found, StoreError> {
    let name = key.trim_end_matches('/');
    if name.is_empty() {
        return Ok(Found::Directory(String::new()));
    }
    let prefix = format!("{name}/");
    let below = ListRequest {
        prefix: prefix.clone(),
        max_keys: 1,
        ..ListRequest::default()
    };
    let page = store.list(&below).await?;
    if !page.objects.is_empty() || page.hidden > 0 || page.next.is_some() {
        return Ok(Found::Directory(prefix));
    }
    if !key.ends_with('/') {
        let key = ObjectKey::new(name)?;
        match store.head(&key).await {
            Ok(meta) => return Ok(Found::File(listed(&key, &meta))),
            Err(StoreError::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Found::Nothing(nearest(store, name).await))
}

/// The first key that begins with this.
///
/// # Errors
/// The store's.
pub(crate) async fn first_at(
    store: &Arc<dyn ObjectStore>,
    prefix: &str,
) -> Result<Option<String>, StoreError> {
    let request = ListRequest {
        prefix: prefix.to_owned(),
        max_keys: 1,
        ..ListRequest::default()
    };
    let page = store.list(&request).await?;
    Ok(page.objects.into_iter().next().map(|object| object.key))
}

/// Whether anything is below a prefix.
///
/// # Errors
/// The store's.
pub(crate) async fn is_directory(
    store: &Arc<dyn ObjectStore>,
    prefix: &str,
) -> Result<bool, StoreError> {
    match find(store, prefix).await? {
        Found::Directory(_) => Ok(true),
        _ => Ok(false),
    }
}

/// For a message: no error of its own.
async fn nearest(store: &Arc<dyn ObjectStore>, name: &str) -> Option<String> {
    let (parent, last) = match name.rsplit_once('/') {
        Some((parent, last)) => (format!("{parent}/"), last),
        None => (String::new(), name),
    };
    let request = ListRequest {
        prefix: parent.clone(),
        delimited: true,
        ..ListRequest::default()
    };
    let page = store.list(&request).await.ok()?;
    let objects = page.objects.iter().map(|object| object.key.as_str());
    let names = objects.chain(page.prefixes.iter().map(String::as_str));
    let likeness = |key: &str| {
        let other = key.strip_prefix(parent.as_str()).unwrap_or(key);
        let (other, last) = (
            other.trim_end_matches('/').to_lowercase(),
            last.to_lowercase(),
        );
        strsim::jaro(&other, &last)
    };
    let alike = names.map(|key| (likeness(key), key));
    let best = alike.filter(|(likeness, _)| *likeness > ALIKE);
    let best = best.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.map(|(_, key)| key.to_owned())
}
