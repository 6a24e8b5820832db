//! What a directory has under a name: a directory, or an object with what is known of it.

use std::sync::Arc;

use crate::files::attributes::Attributes;
use crate::store::object_store::ETag;

/// What an object's headers said.
#[derive(Clone, Debug)]
pub struct CachedAttributes {
    pub attributes: Attributes,
    /// No later change of the metadata can show the same tag and time: they were read two seconds or more
    /// after Last-Modified, which has whole seconds.
    pub revalidatable: bool,
    pub xattrs: bool,
}

/// An object as a listing or its headers show it.
#[derive(Clone, Debug)]
pub struct Object {
    /// In bytes.
    pub size: u64,
    pub etag: ETag,
    /// Seconds since the epoch. Of what we uploaded ourselves: the second in which the answer came, which
    /// is not before the true one.
    pub last_modified: u64,
    /// Uploaded by this mount and not listed since: `last_modified` is an upper bound.
    pub uploaded_here: bool,
    pub known: Option<Arc<CachedAttributes>>,
}

impl Object {
    /// Whether `listed` is this very object with this very metadata, so that what is known still counts.
    pub(super) fn is_unchanged_in(&self, listed: &Object) -> bool {
        self.etag == listed.etag
            && match &self.known {
                None => false,
                Some(_) if self.uploaded_here => listed.last_modified <= self.last_modified,
                Some(known) => known.revalidatable && listed.last_modified == self.last_modified,
            }
    }

    /// What is known stays known after a listing that showed the object unchanged. Of our own uploads it
    /// is revalidatable from then on: a change that another client made in the very second of the upload is the
    /// one thing that could be overlooked.
    pub(super) fn known_once_listed(&self) -> Option<Arc<CachedAttributes>> {
        if !self.uploaded_here {
            return self.known.clone();
        }
        self.known.as_deref().map(|known| {
            Arc::new(CachedAttributes {
                revalidatable: true,
                ..known.clone()
            })
        })
    }
}

#[derive(Clone, Debug)]
pub enum Entry {
    /// A common prefix, with or without a marker.
    Directory,
    Object(Object),
}
