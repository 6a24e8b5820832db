//! Asking the bucket about names: as few requests as answer the question, and never twice for two callers at
//! once.
//!
//! A directory that fits in a page is listed; in a larger one, a name is asked for with a HEAD of its key
//! and a LIST below it at once, or with one LIST of what begins with it. Modes and times come from HEADs; where
//! files are looked up to be read, small ones are fetched by GET instead: the headers are the attributes, and
//! the body is kept. What is asked before anybody wants it is `ahead`'s.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};

use super::attributes::{Attributes, Kind, Timestamp, XATTR};
use super::error::{Error, Refusal, Result};
use super::filesystem::{Described, Filesystem};
use super::lister::Extent;
use super::listing::{Answer, Entry, Epoch, Known, Object, fresh};
use super::names::{self, Name};
use super::namespace::{Ino, Look, Marker, Namespace, View};
use super::supervisor::contained;
use super::uploads::meta_of;
use crate::base::sync::lock;
use crate::base::time::{from_unix_seconds, unix_seconds};
use crate::encrypted::Uploaded;
use crate::store::error::Error as StoreError;
use crate::store::object_store::{ETag, ListRequest, ObjectKey, ObjectMeta};

/// Questions under way, so that nobody asks the same twice at once.
pub(super) type Questions = HashMap<Question, (Instant, Shared<BoxFuture<'static, Result<()>>>)>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Question {
    Name(Ino, Name),
    Object(Ino, Name),
    Directory(Ino),
}

/// What is likely to stand under a name that is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// The last name was not there: a LIST of what begins with the key comes first, and is mostly enough.
    Nothing,
    /// It was an object, and somebody looks at one name after another: a HEAD is enough while it is one.
    Object,
    Either,
}

impl Question {
    /// What must be known for as long as it is asked.
    fn inode(&self) -> Ino {
        match self {
            Question::Name(parent, _) | Question::Object(parent, _) => *parent,
            Question::Directory(ino) => *ino,
        }
    }
}

/// Objects up to this many bytes are fetched whole where they are looked up to be read.
const SMALL: u64 = 64 << 10;

/// Tries until an answer is not overtaken by changes of our own.
const TRIES: usize = 16;

impl Filesystem {
    /// What a name looks like, which counts as known to the kernel once more; if it is not there, since when that is
    /// known.
    pub(super) async fn look_up(
        self: &Arc<Self>,
        parent: Ino,
        name: &str,
        start: Instant,
    ) -> Result<std::result::Result<View, Instant>> {
        let mut walked = false;
        let mut _held = [None, None];
        for _ in 0..TRIES {
            let (look, holds) = {
                let mut namespace = self.namespace();
                let look = namespace.look_up(parent, name, start);
                // What something must be asked about stays until the answer has been looked at.
                let wanted = match &look {
                    Look::Known(_) | Look::Absent(_) | Look::Stale => [None, None],
                    Look::AskName | Look::AskObject(_) => [Some(parent), None],
                    Look::AskDirectory(ino) => [Some(parent), Some(*ino)],
                };
                let holds = wanted.map(|ino| self.hold_in(&mut namespace, ino?));
                if let Look::Known(_) = &look {
                    self.forget_surplus(&mut namespace);
                }
                (look, holds)
            };
            _held = holds;
            match look {
                Look::Stale => return Err(Error::Stale),
                Look::Known(view) => {
                    match view.attributes.kind {
                        _ if walked => {}
                        Kind::Directory => self.walk_directories(parent, name, false),
                        _ => self.walk_files(parent, name, false),
                    }
                    self.renew(parent);
                    return Ok(Ok(view));
                }
                Look::Absent(checked) => {
                    self.renew(parent);
                    return Ok(Err(checked));
                }
                Look::AskName => {
                    self.renew_below(parent, name, start);
                    self.ask_name(parent, name, start).await?;
                }
                Look::AskObject(object) => {
                    if !std::mem::replace(&mut walked, true) {
                        self.walk_files(parent, name, true);
                    }
                    self.ask_object(parent, &Name::from(name), object, start)
                        .await?;
                }
                Look::AskDirectory(ino) => {
                    if !std::mem::replace(&mut walked, true) {
                        self.walk_directories(parent, name, true);
                    }
                    self.renew_below(parent, name, start);
                    self.ask_directory(ino, start).await?;
                }
            }
        }
        Err(Error::Busy)
    }

    /// What an inode looks like.
    ///
    /// # Errors
    /// [`Error::Stale`] when its name is gone or stands for something else: the kernel looks the name up
    /// anew, and finds what there is.
    pub(super) async fn look_at(self: &Arc<Self>, ino: Ino, start: Instant) -> Result<View> {
        self.look_at_with(ino, start, Namespace::look_at).await
    }

    /// As [`Filesystem::look_at`], for who goes through a directory and looks at each name.
    pub(super) async fn look_at_traversing(
        self: &Arc<Self>,
        ino: Ino,
        start: Instant,
    ) -> Result<View> {
        self.look_at_with(ino, start, Namespace::look_at_traversing)
            .await
    }

    async fn look_at_with(
        self: &Arc<Self>,
        ino: Ino,
        start: Instant,
        look_at: fn(&mut Namespace, Ino, Instant) -> Look,
    ) -> Result<View> {
        let mut _held = None;
        for _ in 0..TRIES {
            let (look, hold) = {
                let mut namespace = self.namespace();
                let look = look_at(&mut namespace, ino, start);
                let asks = !matches!(look, Look::Known(_) | Look::Absent(_) | Look::Stale);
                let hold = asks.then(|| self.hold_in(&mut namespace, ino));
                (look, hold)
            };
            _held = hold;
            match look {
                Look::Known(view) => return Ok(view),
                // A caller that came by a path looks again, and finds what stands there now.
                Look::Absent(_) | Look::Stale => return Err(Error::Stale),
                Look::AskDirectory(ino) => self.ask_directory(ino, start).await?,
                look => {
                    let place = self.namespace().place(ino);
                    let (parent, name) = place.ok_or(Error::Stale)?;
                    match look {
                        Look::AskObject(object) => {
                            self.walk_files(parent, &name, true);
                            self.ask_object(parent, &name, object, start).await?;
                        }
                        _ => self.ask_name(parent, &name, start).await?,
                    }
                }
            }
        }
        Err(Error::Busy)
    }

    /// Makes sure that it is known what stands under a name.
    pub(super) async fn ask_name(
        self: &Arc<Self>,
        parent: Ino,
        name: &str,
        start: Instant,
    ) -> Result<()> {
        self.in_time(start, self.unchanging(parent, name)).await?;
        let name = Name::from(name);
        let (one_page, again, in_order) = {
            let mut namespace = self.namespace();
            let ttl = namespace.ttl();
            let remembers = !ttl.objects.is_zero();
            let directory = namespace.directory(parent).ok_or(Error::Stale)?;
            let finds_nothing = directory.walk.finds_nothing;
            let listing = &mut directory.listing;
            // Where nothing is remembered, a page would answer this one name and no other.
            let one_page = listing.is_one_page() && (remembers || listing.complete().is_none());
            // Who makes files in a large directory asks for names that are not there.
            let in_order = remembers && !one_page && listing.asks_in_order(&name) && !finds_nothing;
            let again = remembers
                && !one_page
                && !in_order
                && !listing.is_too_large()
                && listing.should_list_again(ttl);
            (one_page, again, in_order)
        };
        if one_page || again {
            let build = self.list(parent, again, start);
            if self.in_time(start, build.ended()).await?? == Extent::Whole {
                return Ok(());
            }
        }
        let question = Question::Name(parent, name.clone());
        let fs = self.clone();
        self.ask(question, start, async move {
            if in_order && let Some(found) = fs.list_from(parent, &name).await? {
                if let Some(directory) = fs.namespace().directory(parent) {
                    directory.walk.finds_nothing = !found;
                }
                return Ok(());
            }
            fs.ask_name_alone(parent, &name).await
        })
        .await
    }

    /// Makes sure that a name that is not there was not there after `start`, whatever was remembered of it.
    pub(super) async fn ask_whether_absent(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        start: Instant,
    ) -> Result<()> {
        self.in_time(start, self.unchanging(parent, name)).await?;
        {
            let mut namespace = self.namespace();
            let ttl = namespace.ttl();
            let directory = namespace.directory(parent).ok_or(Error::Stale)?;
            match directory.listing.look(name, ttl, start) {
                Answer::Absent(checked) if checked < start => {}
                // Asked for by this very call, or there by now.
                _ => return Ok(()),
            }
            directory.walk.finds_nothing = true;
        }
        // No question that is under way already will do: it may have been asked before `start`.
        let held = self.hold_inode(parent)?;
        let (fs, name) = (self.clone(), name.clone());
        let answer = self.runtime.spawn(contained(async move {
            let answer = fs.ask_name_alone(parent, &name).await;
            drop(held);
            answer
        }));
        let answer = self.in_time(start, answer).await?;
        answer.unwrap_or_else(|_| Err(Error::io("a request was broken off")))
    }

    /// A HEAD of the key and a LIST below it, at once: one round trip, exact. Where the last name was not there, a
    /// LIST of what begins with the key comes first, and is mostly enough.
    async fn ask_name_alone(&self, parent: Ino, name: &Name) -> Result<()> {
        let sent = Instant::now();
        let (key, epoch, expected) = {
            let mut namespace = self.namespace();
            let ttl = namespace.ttl();
            let key = namespace.child_key(parent, name).ok_or(Error::Stale)?;
            let directory = namespace.directory(parent).ok_or(Error::Stale)?;
            let listing = &mut directory.listing;
            let was_object = matches!(listing.last_known(name), Some(Entry::Object(_)));
            let expected = if directory.walk.finds_nothing {
                Expected::Nothing
            } else if was_object && directory.walk.goes_on(ttl.objects, sent) {
                Expected::Object
            } else {
                Expected::Either
            };
            (key, listing.begin(), expected)
        };
        let entry = self.entry_at(key, expected, sent).await;
        let entry = entry.inspect_err(|_| self.give_up(parent, epoch))?;
        let mut namespace = self.namespace();
        // Its keys are changing: the answer tells of neither time.
        let moving = namespace.is_moving(parent);
        if let Some(directory) = namespace.directory(parent) {
            directory.walk.finds_nothing = entry.is_none();
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
        let object = match names::object_key(key) {
            Ok(key) => Some(key),
            Err(Error::NameTooLong) => None,
            Err(error) => return Err(error),
        };
        if expected == Expected::Nothing
            && let Some(key) = &object
            && self.is_nothing(key.as_str()).await?
        {
            return Ok(None);
        }
        let store = self.bucket.store();
        if expected == Expected::Object
            && let Some(key) = &object
        {
            match store.head(key).await {
                Ok(meta) => return Ok(Some(Entry::Object(self.describe(key, meta, sent)))),
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
                Entry::Object(self.describe(key, meta, sent))
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
                    ours: false,
                    known: None,
                })
            }))
    }

    /// Whether there is neither an object of that key nor anything below it. False also where too many keys
    /// begin like it to tell by one page.
    pub(super) async fn is_nothing(&self, key: &str) -> Result<bool> {
        /// `f1`, and `f10` to `f19` with the tools' temporary names beside them.
        const LIKE_IT: u16 = 32;
        let like_it = ListRequest {
            prefix: key.to_owned(),
            delimited: true,
            max_keys: LIKE_IT,
            ..ListRequest::default()
        };
        let page = self.bucket.store().list(&like_it).await?;
        let is_it = |found: &str| found == key || found.strip_suffix('/') == Some(key);
        let mut found = page.objects.iter().map(|object| &object.key);
        Ok(page.next.is_none()
            && page.hidden == 0
            && !found.any(|found| is_it(found))
            && !page.prefixes.iter().any(|found| is_it(found)))
    }

    /// Makes sure that an object's headers are known.
    pub(super) async fn ask_object(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        object: Object,
        start: Instant,
    ) -> Result<()> {
        self.in_time(start, self.unchanging(parent, name)).await?;
        let question = Question::Object(parent, name.clone());
        let fs = self.clone();
        let name = name.clone();
        self.ask(question, start, async move {
            fs.ask_headers(parent, &name, object).await
        })
        .await
    }

    async fn ask_headers(&self, parent: Ino, name: &Name, object: Object) -> Result<()> {
        let sent = Instant::now();
        let (key, epoch, reading) = {
            let mut namespace = self.namespace();
            let key = namespace.child_key(parent, name).ok_or(Error::Stale)?;
            let directory = namespace.directory(parent).ok_or(Error::Stale)?;
            if let Some(Entry::Object(now)) = directory.listing.last_known(name)
                && now.etag == object.etag
                && now.known.is_some()
            {
                // Learnt while this question was on its way here.
                return Ok(());
            }
            let reading = directory.walk.expects_opens();
            (key, directory.listing.begin(), reading)
        };
        let fetch = reading && (1..=SMALL).contains(&object.size) && self.bucket.can_read();
        let entry = match self.object_at(key, fetch, sent).await {
            Err(Error::Refused(Refusal::Denied, _)) if !self.bucket.can_read() => {
                Some(unreadable(object.clone()))
            }
            entry => entry.inspect_err(|_| self.give_up(parent, epoch))?,
        };
        let mut namespace = self.namespace();
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
    async fn object_at(&self, key: String, fetch: bool, sent: Instant) -> Result<Option<Object>> {
        let key = names::object_key(key)?;
        let answer = if fetch {
            self.get_small(&key).await
        } else {
            let head = self.bucket.store().head(&key).await;
            head.map(|meta| (meta, None)).map_err(Error::from)
        };
        match answer {
            Ok((meta, body)) => {
                let etag = meta.etag.clone();
                let object = self.describe(&key, meta, sent);
                if let Some(body) = body {
                    self.keep_small(&key, &etag, body);
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
    pub(super) async fn ask_directory(self: &Arc<Self>, ino: Ino, start: Instant) -> Result<()> {
        self.in_time(start, self.unmoving(ino)).await?;
        let one_page = {
            let mut namespace = self.namespace();
            let ttl = namespace.ttl();
            let directory = namespace.directory(ino).ok_or(Error::Stale)?;
            let listing = &directory.listing;
            // Of a root without stored attributes nothing has to be asked.
            let asks =
                ino != Ino::ROOT || !self.settings.prefix.is_empty() || self.root_is_stored();
            asks && listing.is_stale_page(ttl, start)
        };
        if ino == Ino::ROOT && self.settings.prefix.is_empty() {
            if one_page {
                // It tells nothing of the root's attributes, but will be wanted next.
                self.list(ino, false, start);
            }
            return self.ask_marker_once(ino, start).await;
        }
        if one_page {
            // The listing tells whether the marker is as it was, and will be wanted next anyway.
            let listing = self.list(ino, false, start);
            if self.namespace().expects_marker(ino) {
                let listed = self.in_time(start, listing.ended());
                let (listed, asked) = tokio::join!(listed, self.ask_marker_once(ino, start));
                return listed?.and(asked);
            }
            self.in_time(start, listing.ended()).await??;
            let look = self.namespace().look_at(ino, start);
            if !matches!(look, Look::AskDirectory(_)) {
                return Ok(());
            }
        }
        self.ask_marker_once(ino, start).await
    }

    async fn ask_marker_once(self: &Arc<Self>, ino: Ino, start: Instant) -> Result<()> {
        let fs = self.clone();
        self.ask(Question::Directory(ino), start, async move {
            fs.ask_marker(ino).await
        })
        .await
    }

    async fn ask_marker(&self, ino: Ino) -> Result<()> {
        let sent = Instant::now();
        let (key, listed) = {
            let mut namespace = self.namespace();
            let key = self.marker_key(&namespace, ino).ok_or(Error::Stale)?;
            let ttl = namespace.ttl();
            let directory = namespace.directory(ino).ok_or(Error::Stale)?;
            let listing = &directory.listing;
            let listed = match listing.complete() {
                Some(at) if fresh(at, ttl.objects, sent) => listing.marker(),
                _ => None,
            };
            (key, listed)
        };
        let at_plain_root = ino == Ino::ROOT && self.settings.prefix.is_empty();
        let absent = if at_plain_root {
            !self.root_is_stored()
        } else {
            listed == Some(false)
        };
        let answer = if absent {
            Err(StoreError::NotFound)
        } else {
            self.bucket
                .store()
                .head(&names::object_key(key.clone())?)
                .await
        };
        let (attributes, marker) = match answer {
            Ok(meta) => {
                let attributes = Attributes::read(&meta, true);
                let marker = marker_of(&meta);
                self.remember_headers(&names::object_key(key)?, meta, sent);
                (attributes, Some(marker))
            }
            Err(StoreError::NotFound) => {
                let began = Timestamp::from_system(self.began);
                (Attributes::implicit_directory(began), None)
            }
            // The directory is there: whoever may write, but not read, can go on with the mount's defaults.
            Err(StoreError::AccessDenied(_)) if !self.bucket.can_read() => {
                let began = Timestamp::from_system(self.began);
                (Attributes::implicit_directory(began), None)
            }
            Err(error) => return Err(error.into()),
        };
        let mut namespace = self.namespace();
        if !namespace.is_moving(ino) {
            namespace.set_directory(ino, attributes, marker, sent);
        }
        Ok(())
    }

    /// Reads an object's headers into what is known of it, and keeps them for a while.
    pub(super) fn describe(&self, key: &ObjectKey, meta: ObjectMeta, sent: Instant) -> Object {
        let mut known = known_of(&meta);
        let described = self.remember_headers(key, meta, sent);
        if described.is_plain() {
            known.attributes.show_plain();
        }
        Object {
            size: described.meta.size,
            etag: described.meta.etag.clone(),
            last_modified: unix_seconds(described.meta.last_modified),
            ours: false,
            known: Some(Arc::new(known)),
        }
    }

    /// Keeps an object's headers: they hold its envelope, and a metadata change must send them all back. They were
    /// true at `checked`; what was true later stays.
    pub(super) fn remember_headers(
        &self,
        key: &ObjectKey,
        meta: ObjectMeta,
        checked: Instant,
    ) -> Arc<Described> {
        let mut described = lock(&self.described);
        let overtaken = described
            .peek(key)
            .is_some_and(|known| known.checked > checked);
        // The data key that was unwrapped stays with the version as long as its envelope does.
        let object = match described.get(key) {
            Some(before)
                if before.meta.etag == meta.etag
                    && before.meta.headers.user == meta.headers.user =>
            {
                before.object.clone()
            }
            _ => self.bucket.object_at(key, &meta),
        };
        let entry = Arc::new(Described {
            meta,
            object,
            checked,
        });
        if !overtaken {
            let weight = entry.weight();
            described.put(key.clone(), entry.clone(), weight);
        }
        entry
    }

    /// As [`remember_headers`](Self::remember_headers), of an upload of ours: its key is at hand, and need not
    /// be unwrapped.
    pub(super) fn remember_upload(&self, key: &ObjectKey, uploaded: &Uploaded, checked: Instant) {
        let entry = Arc::new(Described {
            meta: meta_of(uploaded),
            object: Ok(uploaded.object.clone()),
            checked,
        });
        let mut described = lock(&self.described);
        let weight = entry.weight();
        described.put(key.clone(), entry, weight);
    }

    /// An object's headers as they are now, or were at most the TTL ago for a call that began at `start`.
    pub(super) async fn headers(
        &self,
        key: &ObjectKey,
        etag: &ETag,
        start: Instant,
    ) -> Result<Arc<Described>> {
        if let Some(described) = self.known_headers(key, etag)
            && fresh(described.checked, self.settings.metadata_ttl, start)
        {
            return Ok(described);
        }
        let sent = Instant::now();
        let meta = self.bucket.store().head(key).await?;
        Ok(self.remember_headers(key, meta, sent))
    }

    /// What stands under a key, if anything does, is another object from now on, or was found to be: what is known
    /// of the one before may not be taken for it, though the tag be the same.
    pub(super) fn forget_object(&self, key: &ObjectKey) {
        lock(&self.described).pop(key);
        lock(&self.contents).pop(key);
    }

    /// The headers of that very content, however old.
    pub(super) fn known_headers(&self, key: &ObjectKey, etag: &ETag) -> Option<Arc<Described>> {
        let mut described = lock(&self.described);
        let described = described.get(key)?;
        (described.meta.etag == *etag).then(|| described.clone())
    }

    /// The headers of an object that a listing has just shown, if they are known and it shows that they are as they
    /// were.
    pub(super) fn headers_as_listed(
        &self,
        key: &ObjectKey,
        etag: &ETag,
        last_modified: u64,
        start: Instant,
    ) -> Option<Arc<Described>> {
        let described = self.known_headers(key, etag)?;
        let (modified, read) = (described.meta.last_modified, described.meta.date);
        // A change within the second would not show.
        let settled = unix_seconds(read) >= unix_seconds(modified) + 2;
        let unchanged = settled && unix_seconds(modified) == last_modified;
        (unchanged || fresh(described.checked, self.settings.metadata_ttl, start))
            .then_some(described)
    }

    /// The key of the object that holds a directory's attributes.
    pub(super) fn marker_key(&self, namespace: &Namespace, ino: Ino) -> Option<String> {
        if ino == Ino::ROOT && self.settings.prefix.is_empty() {
            return Some(format!("{}/root", names::RESERVED));
        }
        namespace.key(ino)
    }

    // ---- one question at a time ----

    async fn ask(
        self: &Arc<Self>,
        question: Question,
        start: Instant,
        work: impl Future<Output = Result<()>> + Send + 'static,
    ) -> Result<()> {
        // However many callers give up or forget it meanwhile.
        let held = self.hold_inode(question.inode())?;
        let answer = {
            let mut questions = lock(&self.questions);
            match questions.get(&question) {
                Some((asked, answer)) if fresh(*asked, self.settings.metadata_ttl, start) => {
                    answer.clone()
                }
                _ => {
                    let fs = self.clone();
                    let asked = Instant::now();
                    let key = question.clone();
                    let task = self.runtime.spawn(async move {
                        let result = contained(work).await;
                        drop(held);
                        let mut questions = lock(&fs.questions);
                        if questions.get(&key).is_some_and(|(at, _)| *at == asked) {
                            questions.remove(&key);
                        }
                        result
                    });
                    let answer = async move {
                        task.await
                            .unwrap_or_else(|_| Err(Error::io("a request was broken off")))
                    };
                    let answer = answer.boxed().shared();
                    questions.insert(question, (asked, answer.clone()));
                    answer
                }
            }
        };
        self.in_time(start, answer).await?
    }

    /// Waits no longer than a call may take that began at `start`, however many steps it has behind it: the
    /// deadline is the caller's.
    pub(super) async fn in_time<T>(
        &self,
        start: Instant,
        work: impl Future<Output = T>,
    ) -> Result<T> {
        let deadline = start + self.settings.timeout;
        let done = tokio::time::timeout_at(deadline.into(), work).await;
        done.map_err(|elapsed| Error::TimedOut(Arc::new(elapsed)))
    }

    pub(super) fn give_up(&self, parent: Ino, epoch: Epoch) {
        if let Some(directory) = self.namespace().directory(parent) {
            directory.listing.give_up(epoch);
        }
    }
}

/// An object whose headers may not be read, in a mount without a private key: a file with the mount's defaults.
fn unreadable(object: Object) -> Object {
    let modified = from_unix_seconds(object.last_modified);
    Object {
        known: Some(Arc::new(Known {
            attributes: Attributes::unreadable_file(Timestamp::from_system(modified)),
            settled: false,
            xattrs: false,
        })),
        ..object
    }
}

/// What an object's headers say of it.
pub(super) fn known_of(meta: &ObjectMeta) -> Known {
    let (date, modified) = (unix_seconds(meta.date), unix_seconds(meta.last_modified));
    Known {
        attributes: Attributes::read(meta, false),
        settled: date >= modified + 2,
        xattrs: meta.headers.user.contains_key(XATTR),
    }
}

pub(super) fn marker_of(meta: &ObjectMeta) -> Marker {
    let (date, modified) = (unix_seconds(meta.date), unix_seconds(meta.last_modified));
    Marker {
        etag: meta.etag.clone(),
        last_modified: modified,
        settled: date >= modified + 2,
        ours: false,
    }
}
