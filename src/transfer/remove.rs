//! Deletes objects: single ones, and everything below a prefix.

use std::sync::Arc;

use futures_util::stream;

use super::filter::Filter;
use super::options::{Control, Place};
use super::plan::delete;
use crate::base::time::from_unix_seconds;
use crate::files::attributes::{Attributes, Timestamp, headers_of_marker};
use crate::store::error::Error as StoreError;
use crate::store::object_store::{
    Body, ListRequest, ListedObject, ObjectKey, ObjectStore, Overwrite,
};
use crate::tools::bulk::{self, Progress, Sink};
use crate::tools::finding::{Finding, Grade, Summary};

/// Everything below a prefix, names that no file can have included.
pub(crate) struct Remove {
    pub store: Arc<dyn ObjectStore>,
    pub prefix: String,
    pub filter: Arc<Filter>,
    pub dry_run: bool,
    pub control: Control,
}

impl Remove {
    /// # Errors
    /// Those that end the whole: see [`bulk::each`].
    pub(crate) async fn run(
        self,
        parallel: usize,
        progress: &Progress,
        sink: Sink<'_>,
    ) -> Result<Summary, StoreError> {
        let request = ListRequest {
            prefix: self.prefix.clone(),
            ..ListRequest::default()
        };
        let works = stream::unfold((self, Some(request)), |(remove, request)| async move {
            let mut request = request.filter(|_| !remove.control.is_stopped())?;
            let page = match remove.store.list(&request).await {
                Ok(page) => page,
                Err(error) => return Some((Err(error), (remove, None))),
            };
            let mut doomed = page.objects;
            doomed.retain(|object| remove.includes(&object.key));
            let lost = match doomed.first() {
                Some(first) => Finding::new(first, Grade::Bad, "failed"),
                None => super::entry::finding("", 0, Grade::Bad, "failed"),
            };
            let (store, dry_run) = (remove.store.clone(), remove.dry_run);
            let work = async move {
                match doomed.is_empty() {
                    true => Ok(Vec::new()),
                    false => delete(&store, doomed, dry_run).await,
                }
            };
            let next = page.next.map(|token| {
                request.token = Some(token);
                request
            });
            Some((Ok((lost, work)), (remove, next)))
        });
        // A page is a thousand objects.
        bulk::each(works, parallel.div_ceil(8), progress, sink).await
    }

    fn includes(&self, key: &str) -> bool {
        let path = key.strip_prefix(self.prefix.as_str()).unwrap_or(key);
        let above = path.match_indices('/').map(|(at, _)| &path[..at]);
        let mut directories = above.filter(|directory| !directory.is_empty());
        directories.all(|directory| self.filter.includes(directory, true))
            && (path.is_empty() || path.ends_with('/') || self.filter.includes(path, false))
    }
}

/// A directory without a marker gets one if this key is the last that it has: as in a mount, it remains.
///
/// # Errors
/// The store's.
pub(crate) async fn keep_directory_of(place: &Place, key: &str) -> Result<(), StoreError> {
    let name = key.trim_end_matches('/');
    let Some((parent, _)) = name.rsplit_once('/') else {
        return Ok(());
    };
    let parent = format!("{parent}/");
    if !parent.starts_with(&place.prefix) || parent.len() == place.prefix.len() {
        return Ok(());
    }
    let store = place.bucket.store();
    let request = ListRequest {
        prefix: parent.clone(),
        max_keys: 2,
        delimited: true,
        ..ListRequest::default()
    };
    let page = store.list(&request).await?;
    let others = page.objects.iter().map(|object| object.key.as_str());
    let others = others.chain(page.prefixes.iter().map(String::as_str));
    if page.next.is_some() || others.filter(|other| *other != key).count() > 0 {
        return Ok(());
    }
    let now = Timestamp::from_system(page.date);
    let headers = headers_of_marker(&Attributes::implicit_directory(now));
    let marker = ObjectKey::new(parent)?;
    let put = store.put(&marker, &headers, Body::empty(), Overwrite::Allowed);
    put.await?;
    Ok(())
}

/// An object whose headers are known, as a listing would have it.
pub(crate) fn listed(
    key: &ObjectKey,
    meta: &crate::store::object_store::ObjectMeta,
) -> ListedObject {
    ListedObject {
        key: key.as_str().to_owned(),
        size: meta.size,
        etag: meta.etag.clone(),
        last_modified: from_unix_seconds(crate::base::time::unix_seconds(meta.last_modified)),
        storage_class: meta.headers.storage_class.clone().unwrap_or_default(),
    }
}
