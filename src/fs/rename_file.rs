//! Renaming, and the copies that it is made of.
//!
//! A file that the bucket has is copied there and then deleted; one that it does not have yet costs nothing,
//! because an upload takes its name when it starts. Directories have a file of their own.

use std::sync::Arc;
use std::time::Instant;

use super::attributes::{Attributes, Change};
use super::changing::Changing;
use super::error::{Error, Result};
use super::filesystem::{Filesystem, Notice};
use super::gate::{Pass, Scope};
use super::leftover::Leftover;
use super::listing::{Known, Object};
use super::names::{self, Name};
use super::namespace::{Ino, Target, now};
use super::probe::known_of;
use crate::encrypted::copy::CopyLimits;
use crate::oss::error::chain;
use crate::store::object_store::{CopyHeaders, ETag, ObjectKey, ObjectMeta, Overwrite, PutAnswer};

/// Tries to copy what other clients replace meanwhile.
const TRIES: usize = 5;

/// A file on its way from one name to another.
struct Move<'a> {
    from: &'a (Ino, Name),
    to: &'a (Ino, Name),
    target: Option<Target>,
    /// Whether what others have made under the new name, and is not known here, gives way.
    overwrite: Overwrite,
}

impl Filesystem {
    /// `replace`: whatever stands under the new name gives way, as POSIX has it.
    pub async fn rename(
        self: &Arc<Self>,
        from: (Ino, Name),
        to: (Ino, Name),
        replace: bool,
    ) -> Result<()> {
        self.writable()?;
        let start = Instant::now();
        if self.is_reserved(from.0, &from.1) {
            return Err(Error::NotPermitted);
        }
        self.check_new_name(to.0, &to.1)?;
        let source = self.target(from.0, &from.1, start).await?;
        let source = source.ok_or(Error::NotFound)?;
        let target = self.target(to.0, &to.1, start).await?;
        if target.is_some() && !replace {
            return Err(Error::Exists);
        }
        if from == to {
            return Ok(());
        }
        match (&source, &target) {
            (Target::Directory(_), Some(Target::Unpublished(_) | Target::Object(..))) => {
                return Err(Error::NotDirectory);
            }
            (Target::Unpublished(_) | Target::Object(..), Some(Target::Directory(_))) => {
                return Err(Error::IsDirectory);
            }
            _ => {}
        }
        if let Target::Directory(ino) = source {
            let replaced = match target {
                Some(Target::Directory(ino)) => Some(ino),
                _ => None,
            };
            self.rename_directory(ino, &from, &to, replaced, replace)
                .await?;
        } else {
            let overwrite = match replace {
                true => Overwrite::Allowed,
                false => Overwrite::Forbidden,
            };
            let (from, to) = (&from, &to);
            let path = Move {
                from,
                to,
                target,
                overwrite,
            };
            self.rename_file(source, &path).await?;
        }
        let mut namespace = self.namespace();
        namespace.touch_directory(from.0, now());
        namespace.touch_directory(to.0, now());
        Ok(())
    }

    async fn rename_file(self: &Arc<Self>, source: Target, path: &Move<'_>) -> Result<()> {
        let replaced = match &path.target {
            Some(Target::Unpublished(ino)) => Some(*ino),
            Some(Target::Object(_, ino)) => *ino,
            _ => None,
        };
        if let Target::Unpublished(ino) = &source
            && let Some(file) = replaced.and_then(|ino| self.file_of(ino))
            && file.lock().is_dirty()
            && let Some(source) = self.file_of(*ino)
            && source.lock().writers == 0
        {
            // What the rename replaces is nowhere but here: it goes when its successor is safe.
            self.publish(&source).await?;
        }
        let names = [path.from, path.to].map(|(parent, name)| (*parent, name));
        let changing = self.begin_change(names).and_leaving(replaced);
        // Whatever is on its way under either name ends first; nothing of the new name starts again.
        let replaced_file = replaced.and_then(|ino| self.file_of(ino));
        if let Some(file) = &replaced_file {
            self.part_with(file).await?;
        }
        let result = self.rename_onto(source, path, changing).await;
        if let Some(ino) = replaced {
            let named = self.namespace().place(ino).is_some();
            match &replaced_file {
                Some(file) if named && result.is_err() => self.take_back(file),
                _ => self.after_removal(ino),
            }
        }
        result
    }

    /// Gives a file its new name; who had that has been parted with.
    async fn rename_onto(
        self: &Arc<Self>,
        source: Target,
        path: &Move<'_>,
        changing: Changing,
    ) -> Result<()> {
        let (from, to) = (path.from, path.to);
        let pass = self
            .enter(|namespace| {
                let old = namespace.child_key(from.0, &from.1)?;
                let new = namespace.child_key(to.0, &to.1)?;
                Some(vec![Scope::Key(old), Scope::Key(new)])
            })
            .await?;
        // The upload that was waited for may have put it into the bucket.
        let source = match source {
            Target::Unpublished(ino) if !self.namespace().is_unpublished(ino) => {
                let object = self.namespace().object(ino).ok_or(Error::Stale)?;
                Target::Object(object, Some(ino))
            }
            source => source,
        };
        let result = match source {
            Target::Unpublished(ino) => {
                let uncovers = self.covers_object(ino);
                let covers = match &path.target {
                    Some(Target::Unpublished(replaced)) => self.covers_object(*replaced),
                    target => target.is_some(),
                };
                self.rename_unpublished(ino, path, covers);
                let removed = match uncovers {
                    true => self.remove_covered(from).await,
                    false => Ok(()),
                };
                drop(pass);
                let result = match removed {
                    Ok(()) => self.publish_renamed(ino).await,
                    error => error,
                };
                if result.is_err() {
                    // Nothing has changed in the bucket: nor has the name.
                    let mut namespace = self.namespace();
                    namespace.moved(ino, from.0, &from.1);
                    namespace.set_covers(ino, false);
                    drop(namespace);
                    self.notify(Notice::Name(to.0, to.1.to_string()));
                }
                result
            }
            Target::Object(object, ino) => {
                self.move_object(object, ino, path, pass, changing).await
            }
            Target::Directory(_) => Err(Error::Invalid),
        };
        if result.is_err() {
            // How far it came, the bucket knows.
            let mut namespace = self.namespace();
            namespace.doubt(from.0, &from.1);
            namespace.doubt(to.0, &to.1);
        }
        result
    }

    /// A file that the bucket does not have yet costs no request: its upload takes the new name.
    fn rename_unpublished(&self, ino: Ino, path: &Move<'_>, covers: bool) {
        if let Some(file) = self.file_of(ino) {
            let mut state = file.lock();
            // An upload cannot change its name; whether it may replace is the rename's to say now.
            state.abandon_stream();
            state.exclusive = path.overwrite == Overwrite::Forbidden;
            state.unsure.clear();
            state.maybe_stored = false;
            drop(state);
            file.moved.notify_waiters();
        }
        let mut namespace = self.namespace();
        namespace.moved(ino, path.to.0, &path.to.1);
        namespace.set_covers(ino, covers);
    }

    /// Deletes what a file that has moved on stood over.
    async fn remove_covered(self: &Arc<Self>, from: &(Ino, Name)) -> Result<()> {
        self.keep_directory(from.0, &from.1).await?;
        let key = self.namespace().child_key(from.0, &from.1);
        let key = names::object_key(key.ok_or(Error::Stale)?)?;
        self.bucket.store().delete(&key).await?;
        self.namespace()
            .removed_name(from.0, &from.1, Instant::now());
        Ok(())
    }

    /// Where the rename was what the file waited for, it goes up now, and the rename reports how that went.
    async fn publish_renamed(self: &Arc<Self>, ino: Ino) -> Result<()> {
        let Some(file) = self.file_of(ino) else {
            return Ok(());
        };
        let closed = {
            let mut state = file.lock();
            state.temporary = false;
            state.writers == 0 && state.is_dirty()
        };
        if closed {
            self.publish(&file).await?;
            self.let_go(&file);
        }
        Ok(())
    }

    async fn move_object(
        self: &Arc<Self>,
        object: Object,
        ino: Option<Ino>,
        path: &Move<'_>,
        pass: Pass,
        changing: Changing,
    ) -> Result<()> {
        let (from, to) = (path.from, path.to);
        let (old_key, new_key) = {
            let namespace = self.namespace();
            let old = namespace.child_key(from.0, &from.1);
            let new = namespace.child_key(to.0, &to.1);
            (old.ok_or(Error::Stale)?, new.ok_or(Error::Stale)?)
        };
        let (old_key, new_key) = (names::object_key(old_key)?, names::object_key(new_key)?);
        let described = self.known_headers(&old_key, &object.etag);
        // Attributes that wait to be stored go along.
        let pending = ino.and_then(|ino| self.namespace().pending(ino));
        let change = pending.as_ref().map(|(change, _)| change);
        let mut object = object;
        let mut tries = 1;
        let answer = loop {
            let copied = match change {
                Some(change) => {
                    self.copy_changed(&old_key, &mut object, &new_key, change, path.overwrite)
                        .await
                }
                None => {
                    self.copy_listed(&old_key, &object, &new_key, path.overwrite)
                        .await
                }
            };
            match copied {
                Err(Error::Stale) if tries < TRIES => {
                    // Replaced by another client: it is the newer one that is renamed.
                    tries += 1;
                    let sent = Instant::now();
                    let meta = self.bucket.store().head(&old_key).await?;
                    object = self.describe(&old_key, meta, sent);
                }
                Err(error) if !error.is_refusal() => {
                    // Its answer may have been lost, and what stood under the new name with it.
                    match self.copy_that_is_there(&old_key, &object, &new_key).await {
                        Some(answer) => break answer,
                        None => return Err(error),
                    }
                }
                result => break result?,
            }
        };
        let copied = object.etag.clone();
        // The listing may have been asked anew since the file was opened.
        let opened = ino.and_then(|ino| self.namespace().open_version(ino));
        let opened = opened.filter(|opened| opened.etag == copied);
        let moved = Object {
            etag: answer.etag.clone(),
            last_modified: super::seconds(answer.date),
            ours: true,
            known: object.known.or(opened.and_then(|opened| opened.known)),
            ..object
        };
        let sent = Instant::now();
        if let Some(described) = described {
            let mut meta = ObjectMeta {
                etag: answer.etag.clone(),
                last_modified: answer.date,
                date: answer.date,
                ..described.meta.clone()
            };
            if change.is_some()
                && !described.is_plain()
                && let Some(known) = &moved.known
            {
                known.attributes.write(&mut meta.headers.user);
            }
            self.remember_headers(&new_key, meta, sent);
        }
        {
            let mut namespace = self.namespace();
            if let Some(ino) = ino {
                namespace.moved(ino, to.0, &to.1);
                namespace.retag(ino, &copied, &moved.etag);
                if let Some((_, carried)) = &pending {
                    namespace.end_pending(ino, *carried, &Ok(()));
                }
            }
            namespace.removed_name(from.0, &from.1, sent);
            if ino.is_none() {
                // No inode knows the name; whoever had the new one lost it.
                namespace.removed(to.0, &to.1, sent);
            }
            namespace.published(to.0, &to.1, moved.clone(), sent);
        }
        self.move_kept((&old_key, &copied), (&new_key, &moved.etag));
        if let Some(ino) = ino {
            // Before the old one goes: who has it open reads on.
            self.moved_content(ino, &new_key, &copied, &moved);
        }
        let cleared = self.clear_away(Leftover {
            from: from.clone(),
            scope: Scope::Key(old_key.as_str().to_owned()),
            keys: vec![old_key.as_str().to_owned()],
            intent: None,
            pass,
            changing,
        });
        let result = cleared.await;
        if let Err(error) = &result {
            log::error!(
                "{old_key} is copied to {new_key} and cannot be deleted: {}",
                chain(error)
            );
        }
        result
    }

    /// What a copy that failed would have been answered, if it was made all the same.
    async fn copy_that_is_there(
        &self,
        source: &ObjectKey,
        object: &Object,
        copy: &ObjectKey,
    ) -> Option<PutAnswer> {
        let store = self.bucket.store();
        let (source, copy) = tokio::try_join!(store.head(source), store.head(copy)).ok()?;
        let same = source.etag == object.etag && is_copy(&source, &copy);
        same.then_some(PutAnswer {
            etag: copy.etag,
            crc64: copy.crc64,
            date: copy.last_modified,
        })
    }

    /// Open files of version `copied` read from its copy, `etag`, from now on.
    pub(super) fn redirect(&self, ino: Ino, key: &ObjectKey, copied: &ETag, etag: &ETag) {
        let content = self
            .file_of(ino)
            .and_then(|file| file.lock().content.clone());
        let Some(content) = content.filter(|content| content.etag() == *copied) else {
            return;
        };
        match content.object() {
            Some(envelope) => content.set_object(key.clone(), envelope.with_etag(etag.clone())),
            None => content.set_key(key.clone()),
        }
    }

    /// Open files read on from the new name, if version `copied`, which was moved there, is what they read.
    pub(super) fn moved_content(&self, ino: Ino, key: &ObjectKey, copied: &ETag, object: &Object) {
        self.redirect(ino, key, copied, &object.etag);
        let Some(file) = self.file_of(ino) else {
            return;
        };
        let state = file.lock();
        let content = state.content.as_ref();
        if content.is_none_or(|content| content.etag() != object.etag) {
            return;
        }
        let mut namespace = self.namespace();
        namespace.set_open(ino, Some(object.clone()));
        if !state.is_dirty() {
            namespace.pages_show(ino, Some(&object.etag));
        }
    }

    // ---- copies ----

    /// Copies an object of which only the listing's line is known.
    pub(super) async fn copy_listed(
        &self,
        source: &ObjectKey,
        object: &Object,
        destination: &ObjectKey,
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        if object.size < self.settings.copy_limit {
            let store = self.bucket.store();
            let copied = store.copy(
                source,
                &object.etag,
                destination,
                CopyHeaders::Keep,
                overwrite,
            );
            return Ok(copied.await?);
        }
        let described = self.headers(source, &object.etag, Instant::now()).await?;
        if described.meta.etag != object.etag {
            return Err(Error::Stale);
        }
        let keep = CopyHeaders::Keep;
        self.copy_object(source, &described.meta, destination, keep, overwrite)
            .await
    }

    /// Copies an object with attributes that it is to have; `object` has them from then on.
    async fn copy_changed(
        self: &Arc<Self>,
        source: &ObjectKey,
        object: &mut Object,
        destination: &ObjectKey,
        change: &Change,
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        let described = self.headers(source, &object.etag, Instant::now()).await?;
        if described.meta.etag != object.etag {
            return Err(Error::Stale);
        }
        if described.is_plain() {
            return self
                .copy_listed(source, object, destination, overwrite)
                .await;
        }
        let mut attributes = Attributes::read(&described.meta, false);
        change.apply(&mut attributes, &self.settings.defaults);
        let mut headers = described.meta.headers.clone();
        attributes.write(&mut headers.user);
        let replace = CopyHeaders::Replace(headers);
        let copied = self
            .copy_object(source, &described.meta, destination, replace, overwrite)
            .await?;
        object.known = Some(Arc::new(Known {
            attributes,
            ..known_of(&described.meta)
        }));
        Ok(copied)
    }

    /// Copies an object whole, by whichever way the service allows.
    ///
    /// # Errors
    /// [`Error::Stale`] if the source is not the version that `meta` describes any more.
    pub(super) async fn copy_object(
        &self,
        source: &ObjectKey,
        meta: &ObjectMeta,
        destination: &ObjectKey,
        headers: CopyHeaders,
        overwrite: Overwrite,
    ) -> Result<PutAnswer> {
        let limits = CopyLimits {
            copy: self.settings.copy_limit,
            ..CopyLimits::default()
        };
        let copied = self
            .bucket
            .copy(source, meta, destination, headers, overwrite, limits);
        Ok(copied.await?)
    }
}

/// Whether an object has the bytes and the headers of another.
pub(super) fn is_copy(source: &ObjectMeta, copy: &ObjectMeta) -> bool {
    // A copy of an object that was uploaded in parts has another tag.
    let same_bytes = source.crc64.is_some() && source.crc64 == copy.crc64;
    source.size == copy.size
        && (source.etag == copy.etag || same_bytes)
        && source.headers.user == copy.headers.user
}
