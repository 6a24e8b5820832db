//! Requests about names: as few as answer the question, and never two at once for the same
//! once.
//!
//! A directory that fits in a page is listed; in a larger one, a name is requested with a HEAD of its key
//! and a LIST below it at once, or with one LIST of what begins with it. Modes and times come from HEADs; where
//! files are looked up to be read, small ones are fetched by GET instead: the headers are the attributes, and
//! the body is kept. What is requested before it is wanted is `prefetch`'s.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::object_cache::marker_of;
use super::requests::{RequestKey, Resolver};
use crate::base::time::{from_unix_seconds, unix_seconds};
use crate::files::attributes::{Attributes, Timestamp};
use crate::fs::error::{Error, Refusal, Result};
use crate::fs::namespace::entry::{CachedAttributes, Entry, Object};
use crate::fs::namespace::freshness::fresh;
use crate::fs::namespace::inode::Ino;
use crate::fs::namespace::listing::CachedEntry;
use crate::fs::namespace::object_name::{self, Name};
use crate::fs::namespace::planner::{self, SMALL};
use crate::fs::namespace::scan::ScanScope;
use crate::fs::namespace::tree::CachedLookup;
use crate::fs::supervisor::contained;
use crate::store::error::Error as StoreError;
use crate::store::object_store::{ListRequest, ObjectKey, ObjectMeta};

/// What is likely to stand under a name that is requested.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// The last name was not there: a LIST of what begins with the key comes first, and is mostly enough.
    Nothing,
    /// It was an object, and one name after another is looked up: a HEAD is enough while it is one.
    Object,
    Either,
}

/// An object whose headers may not be read, in a mount without a private key: a file with the mount's defaults.
fn unreadable(object: Object) -> Object {
    let modified = from_unix_seconds(object.last_modified);
    Object {
        known: Some(Arc::new(CachedAttributes {
            attributes: Attributes::unreadable_file(Timestamp::from_system(modified)),
            revalidatable: false,
            xattrs: false,
        })),
        ..object
    }
}

impl Resolver {
    /// Makes sure that it is known what stands under a name.
    pub(crate) async fn request_name(
        self: &Arc<Self>,
        parent: Ino,
        name: &str,
        start: Instant,
    ) -> Result<()> {
        self.settings
            .in_time(start, self.names.wait_name_stable(parent, name))
            .await?;
        let name = Name::from(name);
        let (one_page, again, in_order) = {
            let mut namespace = self.names.lock();
            let ttl = namespace.ttl();
            let remembers = !ttl.objects.is_zero();
            let directory = namespace.directory(parent).ok_or(Error::Stale)?;
            let last_lookup_missed = directory.pattern.last_lookup_missed;
            let listing = &mut directory.listing;
            // Where nothing is remembered, a page would answer this one name and no other.
            let one_page = listing.freshness.is_one_page()
                && (remembers || listing.freshness.complete.is_none());
            // Programs that create files in a large directory look up names that are not there.
            let in_order =
                remembers && !one_page && listing.record_request(&name) && !last_lookup_missed;
            let again = remembers
                && !one_page
                && !in_order
                && !listing.freshness.too_large
                && listing.freshness.should_list_again(ttl);
            (one_page, again, in_order)
        };
        if one_page || again {
            let scan = self.list(parent, again, start);
            if self.settings.in_time(start, scan.ended()).await?? == ScanScope::Whole {
                return Ok(());
            }
        }
        let question = RequestKey::Name(parent, name.clone());
        let resolver = self.clone();
        self.single_flight(question, start, async move {
            if in_order && let Some(found) = resolver.list_from(parent, &name).await? {
                if let Some(directory) = resolver.names.lock().directory(parent) {
                    directory.pattern.last_lookup_missed = !found;
                }
                return Ok(());
            }
            resolver.request_name_alone(parent, &name).await
        })
        .await
    }

    /// Makes sure that a name that is not there was not there after `start`, whatever was remembered of it.
    pub(crate) async fn confirm_absent(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        start: Instant,
    ) -> Result<()> {
        self.settings
            .in_time(start, self.names.wait_name_stable(parent, name))
            .await?;
        {
            let mut namespace = self.names.lock();
            let ttl = namespace.ttl();
            let directory = namespace.directory(parent).ok_or(Error::Stale)?;
            match directory.listing.lookup(name, ttl, start) {
                CachedEntry::Negative(checked) if checked < start => {}
                // Asked for by this very call, or there by now.
                _ => return Ok(()),
            }
            directory.pattern.last_lookup_missed = true;
        }
        // No request that is in flight already will do: it may have been sent before `start`.
        let held = self.names.hold_inode(parent)?;
        let (resolver, name) = (self.clone(), name.clone());
        let answer = self.runtime.spawn(contained(async move {
            let answer = resolver.request_name_alone(parent, &name).await;
            drop(held);
            answer
        }));
        let answer = self.settings.in_time(start, answer).await?;
        answer.unwrap_or_else(|_| Err(Error::io("a request was broken off")))
    }

    /// A HEAD of the key and a LIST below it, at once: one round trip, exact. Where the last name was not there, a
    /// LIST of what begins with the key comes first, and is mostly enough.
    async fn request_name_alone(&self, parent: Ino, name: &Name) -> Result<()> {
        let sent = Instant::now();
        let (key, epoch, expected) = {
            let mut namespace = self.names.lock();
            let ttl = namespace.ttl();
            let key = namespace.child_key(parent, name).ok_or(Error::Stale)?;
            let directory = namespace.directory(parent).ok_or(Error::Stale)?;
            let listing = &mut directory.listing;
            let was_object = matches!(listing.last_known(name), Some(Entry::Object(_)));
            let expected = if directory.pattern.last_lookup_missed {
                Expected::Nothing
            } else if was_object && directory.pattern.is_sequential(ttl.objects, sent) {
                Expected::Object
            } else {
                Expected::Either
            };
            (key, listing.begin(), expected)
        };
        let entry = self.entry_at(key, expected, sent).await;
        let entry = entry.inspect_err(|_| self.names.give_up(parent, epoch))?;
        let mut namespace = self.names.lock();
        // Its keys are changing: the answer tells of neither time.
        let moving = namespace.is_moving(parent);
        if let Some(directory) = namespace.directory(parent) {
            directory.pattern.last_lookup_missed = entry.is_none();
            match moving {
                true => directory.listing.give_up(epoch),
                false => drop(directory.listing.apply_name(epoch, sent, name, entry)),
            }
        }
        namespace.account(parent, sent);
        Ok(())
    }

    async fn entry_at(
        &self,
        key: String,
        expected: Expected,
        sent: Instant,
    ) -> Result<Option<Entry>> {
        let below = ListRequest {
            prefix: format!("{key}/"),
            max_keys: 1,
            ..ListRequest::default()
        };
        let object = match object_name::object_key(key) {
            Ok(key) => Some(key),
            Err(Error::NameTooLong) => None,
            Err(error) => return Err(error),
        };
        if expected == Expected::Nothing
            && let Some(key) = &object
            && self.objects.is_nothing(key.as_str()).await?
        {
            return Ok(None);
        }
        let store = self.bucket.store();
        if expected == Expected::Object
            && let Some(key) = &object
        {
            match store.head(key).await {
                Ok(meta) => return Ok(Some(Entry::Object(self.cache.describe(key, meta, sent)))),
                Err(StoreError::NotFound) => {}
                // Its headers may not be read: the listing below tells.
                Err(StoreError::AccessDenied(_)) if !self.bucket.can_read() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let head = async {
            match &object {
                None => Ok(None),
                Some(key) => match store.head(key).await {
                    Ok(meta) => Ok(Some(meta)),
                    Err(StoreError::NotFound) => Ok(None),
                    Err(error) => Err(error),
                },
            }
        };
        let (head, below) = tokio::join!(head, store.list(&below));
        let below = below?;
        let is_directory =
            !below.objects.is_empty() || !below.prefixes.is_empty() || below.hidden > 0;
        let head = match head {
            Err(StoreError::AccessDenied(_)) if !self.bucket.can_read() => {
                if is_directory {
                    return Ok(Some(Entry::Directory));
                }
                let key = object.as_ref().expect("only a possible key was asked for");
                return Ok(self.listed_alone(key).await?.map(Entry::Object));
            }
            head => head?,
        };
        if !is_directory {
            return Ok(head.map(|meta| {
                let key = object.as_ref().expect("only a possible key was asked for");
                Entry::Object(self.cache.describe(key, meta, sent))
            }));
        }
        Ok(Some(Entry::Directory))
    }

    /// The object as a listing shows it, where its headers may not be read.
    async fn listed_alone(&self, key: &ObjectKey) -> Result<Option<Object>> {
        // The key itself is the first of those that begin with it.
        let request = ListRequest {
            prefix: key.as_str().to_owned(),
            max_keys: 1,
            ..ListRequest::default()
        };
        let page = self.bucket.store().list(&request).await?;
        let found = page.objects.into_iter().next();
        Ok(found
            .filter(|found| found.key == key.as_str())
            .map(|found| {
                unreadable(Object {
                    size: found.size,
                    etag: found.etag,
                    last_modified: unix_seconds(found.last_modified),
                    uploaded_here: false,
                    known: None,
                })
            }))
    }

    /// Makes sure that an object's headers are known.
    pub(crate) async fn request_headers_of(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        object: Object,
        start: Instant,
    ) -> Result<()> {
        self.settings
            .in_time(start, self.names.wait_name_stable(parent, name))
            .await?;
        let question = RequestKey::Object(parent, name.clone());
        let resolver = self.clone();
        let name = name.clone();
        self.single_flight(question, start, async move {
            resolver.request_headers(parent, &name, object).await
        })
        .await
    }

    async fn request_headers(&self, parent: Ino, name: &Name, object: Object) -> Result<()> {
        let sent = Instant::now();
        let (key, epoch, wants_body) = {
            let mut namespace = self.names.lock();
            let key = namespace.child_key(parent, name).ok_or(Error::Stale)?;
            let directory = namespace.directory(parent).ok_or(Error::Stale)?;
            if let Some(Entry::Object(now)) = directory.listing.last_known(name)
                && now.etag == object.etag
                && now.known.is_some()
            {
                // Learnt while this question was on its way here.
                return Ok(());
            }
            let wants_body = planner::wants_body(&directory.pattern, &object);
            (key, directory.listing.begin(), wants_body)
        };
        let fetch = wants_body && self.bucket.can_read();
        let entry = match self.object_at(key, fetch, sent).await {
            Err(Error::Refused(Refusal::Denied, _)) if !self.bucket.can_read() => {
                Some(unreadable(object.clone()))
            }
            entry => entry.inspect_err(|_| self.names.give_up(parent, epoch))?,
        };
        let mut namespace = self.names.lock();
        let moving = namespace.is_moving(parent);
        if let Some(directory) = namespace.directory(parent) {
            let listing = &mut directory.listing;
            match (entry, &object) {
                // As for a name.
                _ if moving => listing.give_up(epoch),
                // The listing's freshness is not the HEAD's to change: a directory may stand here as well.
                (Some(new), old) if new.etag == old.etag => {
                    let known = new.known.expect("described objects are known");
                    listing.learn(epoch, name, &old.etag, known);
                }
                (new, _) => {
                    listing.apply_name(epoch, sent, name, new.map(Entry::Object));
                }
            }
        }
        Ok(())
    }

    /// By GET, if its body is wanted as well, or by HEAD.
    pub(crate) async fn object_at(
        &self,
        key: String,
        fetch: bool,
        sent: Instant,
    ) -> Result<Option<Object>> {
        let key = object_name::object_key(key)?;
        let answer = if fetch {
            self.get_small(&key).await
        } else {
            let head = self.bucket.store().head(&key).await;
            head.map(|meta| (meta, None)).map_err(Error::from)
        };
        match answer {
            Ok((meta, body)) => {
                let etag = meta.etag.clone();
                let object = self.cache.describe(&key, meta, sent);
                if let Some(body) = body {
                    self.cache.keep_small(&key, &etag, body);
                }
                Ok(Some(object))
            }
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn get_small(&self, key: &ObjectKey) -> Result<(ObjectMeta, Option<Bytes>)> {
        let answer = self.bucket.get(key, None, None).await?;
        let meta = answer.meta.clone();
        if meta.size > SMALL {
            return Ok((meta, None));
        }
        let body = answer.skip_to_bytes(SMALL).await?;
        Ok((meta, Some(body)))
    }

    /// Makes sure that a directory's own attributes are known.
    pub(crate) async fn request_directory(
        self: &Arc<Self>,
        ino: Ino,
        start: Instant,
    ) -> Result<()> {
        self.settings
            .in_time(start, self.names.wait_not_renaming(ino))
            .await?;
        let one_page = {
            let mut namespace = self.names.lock();
            let ttl = namespace.ttl();
            let directory = namespace.directory(ino).ok_or(Error::Stale)?;
            let listing = &directory.listing;
            // Of a root without stored attributes nothing has to be requested.
            let asks = ino != Ino::ROOT
                || !self.settings.prefix.is_empty()
                || self.markers.root_is_stored();
            asks && listing.freshness.is_stale_page(ttl, start)
        };
        if ino == Ino::ROOT && self.settings.prefix.is_empty() {
            if one_page {
                // It tells nothing of the root's attributes, but will be wanted next.
                self.list(ino, false, start);
            }
            return self.request_marker_once(ino, start).await;
        }
        if one_page {
            // The listing tells whether the marker is as it was, and will be wanted next anyway.
            let listing = self.list(ino, false, start);
            if self.names.lock().expects_marker(ino) {
                let listed = self.settings.in_time(start, listing.ended());
                let (listed, asked) = tokio::join!(listed, self.request_marker_once(ino, start));
                return listed?.and(asked);
            }
            self.settings.in_time(start, listing.ended()).await??;
            let look = self.names.lock().getattr(ino, start);
            if !matches!(look, CachedLookup::NeedsMarker(_)) {
                return Ok(());
            }
        }
        self.request_marker_once(ino, start).await
    }

    async fn request_marker_once(self: &Arc<Self>, ino: Ino, start: Instant) -> Result<()> {
        let resolver = self.clone();
        self.single_flight(RequestKey::Directory(ino), start, async move {
            resolver.request_marker(ino).await
        })
        .await
    }

    async fn request_marker(&self, ino: Ino) -> Result<()> {
        let sent = Instant::now();
        let (key, listed) = {
            let mut namespace = self.names.lock();
            let key = self
                .markers
                .marker_key(&namespace, ino)
                .ok_or(Error::Stale)?;
            let ttl = namespace.ttl();
            let directory = namespace.directory(ino).ok_or(Error::Stale)?;
            let listing = &directory.listing;
            let listed = match listing.freshness.complete {
                Some(at) if fresh(at, ttl.objects, sent) => listing.marker(),
                _ => None,
            };
            (key, listed)
        };
        let at_plain_root = ino == Ino::ROOT && self.settings.prefix.is_empty();
        let absent = if at_plain_root {
            !self.markers.root_is_stored()
        } else {
            listed == Some(false)
        };
        let answer = if absent {
            Err(StoreError::NotFound)
        } else {
            self.bucket
                .store()
                .head(&object_name::object_key(key.clone())?)
                .await
        };
        let (attributes, marker) = match answer {
            Ok(meta) => {
                let attributes = Attributes::read(&meta, true);
                let marker = marker_of(&meta);
                self.cache
                    .remember_headers(&object_name::object_key(key)?, meta, sent);
                (attributes, Some(marker))
            }
            Err(StoreError::NotFound) => {
                let began = Timestamp::from_system(self.began);
                (Attributes::implicit_directory(began), None)
            }
            // The directory is there: a mount that may write, but not read, goes on with its defaults.
            Err(StoreError::AccessDenied(_)) if !self.bucket.can_read() => {
                let began = Timestamp::from_system(self.began);
                (Attributes::implicit_directory(began), None)
            }
            Err(error) => return Err(error.into()),
        };
        let mut namespace = self.names.lock();
        if !namespace.is_moving(ino) {
            namespace.set_directory(ino, attributes, marker, sent);
        }
        Ok(())
    }
}
