//! How a file is renamed.
//!
//! A file that the bucket has is copied there and then deleted; one that it does not have yet costs nothing,
//! because an upload takes its name when it starts.

use std::sync::Arc;
use std::time::Instant;

use super::deferred_delete::DeferredDelete;
use super::renames::Renames;
use crate::base::error_chain::chain;
use crate::base::time::unix_seconds;
use crate::envelope::format::is_bound_by_sdk_rules;
use crate::files::attributes::{Attributes, Change, Timestamp};
use crate::fs::error::{Error, Result};
use crate::fs::handles::file_state::Creation;
use crate::fs::namespace::entry::{CachedAttributes, Object};
use crate::fs::namespace::inode::{Ino, now};
use crate::fs::namespace::kernel::Invalidation;
use crate::fs::namespace::key_locks::{KeyGuard, Scope};
use crate::fs::namespace::names::NameGuard;
use crate::fs::namespace::object_name::{self, Name};
use crate::fs::namespace::tree::Target;
use crate::store::error::Error as StoreError;
use crate::store::object_store::{CopyHeaders, ETag, ObjectKey, ObjectMeta, Overwrite, PutAnswer};

/// Tries to copy what other clients replace meanwhile.
const TRIES: usize = 5;

/// A file on its way from one name to another.
pub(super) struct FileMove<'a> {
    pub from: &'a (Ino, Name),
    pub to: &'a (Ino, Name),
    pub target: Option<Target>,
    /// Whether what others have made under the new name, and is not known here, gives way.
    pub overwrite: Overwrite,
}

/// What a file was that is renamed before the bucket has it.
#[derive(Default)]
struct Uncommitted {
    creation: Option<Creation>,
    may_have_stored: bool,
    covers: bool,
}

/// A file whose copy stands under the new name, on its way back.
struct MoveBack<'a> {
    ino: Option<Ino>,
    old_key: &'a ObjectKey,
    new_key: &'a ObjectKey,
    /// What stands under the old name.
    original: Object,
    /// The tag of the copy.
    copy: &'a ETag,
    /// The original is known to be there, and the copy has replaced nothing.
    removes_copy: bool,
}

impl Renames {
    pub(super) async fn rename_file(
        self: &Arc<Self>,
        source: Target,
        path: &FileMove<'_>,
    ) -> Result<()> {
        let replaced = match &path.target {
            Some(Target::Uncommitted(ino)) => Some(*ino),
            Some(Target::Object(_, ino)) => *ino,
            _ => None,
        };
        if let Target::Uncommitted(ino) = &source
            && let Some(file) = self.open_files.file_of(*ino)
        {
            let replaced = replaced.and_then(|ino| self.open_files.file_of(ino));
            let replaced = replaced.is_some_and(|replaced| replaced.lock().is_dirty());
            // What the rename replaces is nowhere but here: it goes when its successor is safe. And an object that the
            // file is to replace under its old name has to be deleted, which may be refused: the file takes its
            // place first, and is renamed as any other.
            if (replaced && file.lock().refs.writers == 0) || self.open_files.shadows_object(*ino) {
                self.writeback.publish(&file).await?;
            }
        }
        let names = [path.from, path.to].map(|(parent, name)| (*parent, name));
        let changing = self.names.begin_change(names).and_unlinking(replaced);
        // Whatever is on its way under either name ends first; nothing of the new name starts again.
        let replaced_file = replaced.and_then(|ino| self.open_files.file_of(ino));
        if let Some(file) = &replaced_file {
            self.writeback.orphan(file).await?;
        }
        let result = self.rename_onto(source, path, changing).await;
        if let Some(ino) = replaced {
            let named = self.names.lock().place(ino).is_some();
            match &replaced_file {
                Some(file) if named && result.is_err() => self.writeback.restore(file),
                _ => self.writeback.after_removal(ino),
            }
        }
        result
    }

    /// Gives a file its new name; who had that has been parted with.
    async fn rename_onto(
        self: &Arc<Self>,
        source: Target,
        path: &FileMove<'_>,
        changing: NameGuard,
    ) -> Result<()> {
        let (from, to) = (path.from, path.to);
        let locked = self
            .names
            // What goes up first may have taken its time.
            .lock_keys_in_time(Instant::now(), |namespace| {
                let old = namespace.child_key(from.0, &from.1)?;
                let new = namespace.child_key(to.0, &to.1)?;
                Some(vec![Scope::Key(old), Scope::Key(new)])
            })
            .await?;
        // The upload that was waited for may have put it into the bucket.
        let source = match source {
            Target::Uncommitted(ino) if !self.names.lock().is_uncommitted(ino) => {
                let object = self.names.lock().object(ino).ok_or(Error::Stale)?;
                Target::Object(object, Some(ino))
            }
            source => source,
        };
        let result = match source {
            Target::Uncommitted(ino) => {
                let covers = match &path.target {
                    Some(Target::Uncommitted(replaced)) => {
                        self.open_files.shadows_object(*replaced)
                    }
                    target => target.is_some(),
                };
                let before = self.rename_uncommitted(ino, path, covers);
                drop(locked);
                let result = self.writeback.publish_renamed(ino).await;
                match result {
                    Ok(()) => self.names.lock().renamed(ino, now()),
                    Err(_) => self.undo_renaming_uncommitted(ino, path, before),
                }
                result
            }
            Target::Object(object, ino) => {
                self.move_object(object, ino, path, locked, changing).await
            }
            Target::Directory(_) => Err(Error::Invalid),
        };
        if result.is_err() {
            // How far it came, the bucket knows.
            self.names.lock().invalidate(from.0, &from.1);
            self.names.invalidate_target(to);
        }
        result
    }

    /// A file that the bucket does not have yet costs no request: its upload takes the new name. Returns what it was.
    fn rename_uncommitted(&self, ino: Ino, path: &FileMove<'_>, covers: bool) -> Uncommitted {
        let mut before = Uncommitted::default();
        if let Some(file) = self.open_files.file_of(ino) {
            let mut state = file.lock();
            // An upload cannot change its name; whether it may replace is the rename's to say now.
            state.stream.abandon();
            let exclusive = path.overwrite == Overwrite::Forbidden;
            let creation = Creation {
                exclusive: exclusive.then(Vec::new),
                temporary: state.is_temporary(),
            };
            before = Uncommitted {
                creation: state.creation.replace(creation),
                may_have_stored: state.upload.may_have_stored(),
                covers: false,
            };
            state.upload.set_may_have_stored(false);
            drop(state);
            file.moved.notify_waiters();
        }
        let mut namespace = self.names.lock();
        before.covers = namespace.shadows_object(ino);
        if let Some(local) = namespace.dirty_mut(ino) {
            local.attributes.ctime = Some(now());
            local.revision += 1;
        }
        namespace.moved(ino, path.to.0, &path.to.1);
        namespace.set_shadows_object(ino, covers);
        before
    }

    /// Its upload under the new name was refused: nothing has changed in the bucket, nor have the names.
    fn undo_renaming_uncommitted(&self, ino: Ino, path: &FileMove<'_>, before: Uncommitted) {
        let (from, to) = (path.from, path.to);
        if let Some(file) = self.open_files.file_of(ino) {
            let mut state = file.lock();
            state.creation = before.creation;
            state.upload.set_may_have_stored(before.may_have_stored);
        }
        let mut namespace = self.names.lock();
        namespace.moved(ino, from.0, &from.1);
        namespace.set_shadows_object(ino, before.covers);
        let replaced = match &path.target {
            Some(Target::Uncommitted(ino) | Target::Object(_, Some(ino))) => Some(*ino),
            _ => None,
        };
        if let Some(replaced) = replaced {
            namespace.moved(replaced, to.0, &to.1);
        }
        drop(namespace);
        self.names
            .kernel()
            .notify(Invalidation::Name(to.0, to.1.to_string()));
    }

    async fn move_object(
        self: &Arc<Self>,
        object: Object,
        ino: Option<Ino>,
        path: &FileMove<'_>,
        locked: KeyGuard,
        changing: NameGuard,
    ) -> Result<()> {
        let (from, to) = (path.from, path.to);
        let (old_key, new_key) = {
            let namespace = self.names.lock();
            let old = namespace.child_key(from.0, &from.1);
            let new = namespace.child_key(to.0, &to.1);
            (old.ok_or(Error::Stale)?, new.ok_or(Error::Stale)?)
        };
        let (old_key, new_key) = (
            object_name::object_key(old_key)?,
            object_name::object_key(new_key)?,
        );
        // Attributes that wait to be stored go along.
        let pending = ino.and_then(|ino| self.names.lock().pending(ino));
        let change = pending.as_ref().map(|(change, _)| change);
        let replaces = path.target.is_some();
        self.objects.check_deletable(&old_key, replaces).await?;
        let (mut object, time) = (object, now());
        let mut tries = 1;
        let (answer, headers) = loop {
            let copied = self
                .copy_to_rename(&old_key, &object, &new_key, path.overwrite, change, time)
                .await;
            match copied {
                Err(Error::Stale) if tries < TRIES => {
                    // Replaced by another client: it is the newer one that is renamed.
                    tries += 1;
                    let sent = Instant::now();
                    let meta = self.bucket.store().head(&old_key).await?;
                    object = self.cache.describe(&old_key, meta, sent);
                }
                Err(error) if !error.is_refusal() => {
                    // Its answer may have been lost, and what stood under the new name with it.
                    let copy = self
                        .objects
                        .copy_that_is_there(&old_key, &object, &new_key, change);
                    match copy.await {
                        Some(copied) => break copied,
                        None => return Err(error),
                    }
                }
                result => break result?,
            }
        };
        let copied = object.etag.clone();
        // The listing may have been requested anew since the file was opened.
        let opened = ino.and_then(|ino| self.names.lock().open_version(ino));
        let opened = opened.filter(|opened| opened.etag == copied);
        let original = object.clone();
        let sent = Instant::now();
        let carried = pending.filter(|_| headers.is_some());
        self.cache.forget_object(&new_key);
        self.cache
            .move_kept((&old_key, &copied), (&new_key, &answer.etag));
        self.cache.forget_object(&old_key);
        let moved = match headers {
            Some(meta) => {
                let meta = ObjectMeta {
                    etag: answer.etag.clone(),
                    last_modified: answer.date,
                    date: answer.date,
                    ..meta
                };
                let mut moved = self.cache.describe(&new_key, meta, sent);
                moved.uploaded_here = true;
                moved
            }
            None => {
                // It has the headers that the object had then, which others may have changed.
                let known = object.known.or(opened.and_then(|opened| opened.known));
                let known = known.map(|known| {
                    Arc::new(CachedAttributes {
                        revalidatable: false,
                        ..(*known).clone()
                    })
                });
                Object {
                    etag: answer.etag.clone(),
                    last_modified: unix_seconds(answer.date),
                    uploaded_here: false,
                    known,
                    ..object
                }
            }
        };
        {
            let mut namespace = self.names.lock();
            if let Some(ino) = ino {
                namespace.moved(ino, to.0, &to.1);
                namespace.retag(ino, &copied, &moved.etag);
                if let Some((_, waiting)) = &carried {
                    namespace.end_pending(ino, *waiting, &Ok(()));
                }
            }
            namespace.removed_name(from.0, &from.1, sent);
            if ino.is_none() {
                // No inode has the old name; the one that had the new name has lost it.
                namespace.removed(to.0, &to.1, sent);
            }
            namespace.published(to.0, &to.1, moved.clone(), sent);
        }
        if let Some(ino) = ino {
            // Before the old one goes: open handles read on.
            self.open_files
                .moved_content(ino, &new_key, &copied, &moved);
        }
        let cleared = self.deferred_deletes.delete_source(DeferredDelete {
            from: from.clone(),
            scope: Scope::Key(old_key.as_str().to_owned()),
            keys: vec![old_key.as_str().to_owned()],
            replaced_marker: None,
            intent: None,
            _memory: None,
            locked,
            changing,
        });
        let cleared = cleared.await;
        // A DELETE that took effect without an answer may have been tried again and refused. Some: something is there
        // still, or may be, and whether it is what was copied.
        let still_there = match &cleared {
            Ok(()) => None,
            Err(_) => match self.bucket.store().head(&old_key).await {
                Ok(there) => Some(there.etag == original.etag),
                Err(StoreError::NotFound) => None,
                Err(_) => Some(false),
            },
        };
        let (Err(refused), Some(same)) = (&cleared, still_there) else {
            if let Some(ino) = ino {
                self.names.lock().renamed(ino, time);
            }
            return Ok(());
        };
        let back = MoveBack {
            ino,
            old_key: &old_key,
            new_key: &new_key,
            original,
            copy: &moved.etag,
            removes_copy: same && path.target.is_none(),
        };
        self.move_back(path, back).await;
        if let (Some(ino), Some((change, _))) = (ino, carried) {
            // The copy had it, and the original has not.
            self.writeback.store_after_all(ino, &change);
        }
        Err(refused.error.clone())
    }

    /// The old name stays: its DELETE was refused. The copy goes again, unless it has replaced what stood there: then
    /// both names are left with the content that was to be renamed.
    async fn move_back(self: &Arc<Self>, path: &FileMove<'_>, back: MoveBack<'_>) {
        let (from, to) = (path.from, path.to);
        let (old_key, new_key) = (back.old_key, back.new_key);
        let at = Instant::now();
        {
            let mut namespace = self.names.lock();
            if let Some(ino) = back.ino {
                namespace.moved(ino, from.0, &from.1);
                namespace.retag(ino, back.copy, &back.original.etag);
            }
            namespace.published(from.0, &from.1, back.original.clone(), at);
            namespace.removed_name(to.0, &to.1, at);
        }
        self.cache
            .move_kept((new_key, back.copy), (old_key, &back.original.etag));
        self.cache.forget_object(new_key);
        if let Some(ino) = back.ino {
            self.open_files
                .moved_content(ino, old_key, back.copy, &back.original);
        }
        // The kernel's entry may be of the inode that lost its name to the copy.
        self.names
            .kernel()
            .notify(Invalidation::Name(to.0, to.1.to_string()));
        if !back.removes_copy {
            let replaced = match path.target {
                Some(_) => ", in the place of what it has replaced",
                None => "",
            };
            log::error!(
                "{old_key} could not be renamed: it cannot be deleted. Its copy {new_key} is left{replaced}"
            );
            return;
        }
        let removed = async {
            let there = self.bucket.store().head(new_key).await?;
            // What another client has put there since is not ours to delete.
            match there.etag == *back.copy {
                true => self.bucket.store().delete(new_key).await,
                false => Ok(()),
            }
        };
        if let Err(error) = removed.await.map_err(Error::from) {
            log::error!(
                "{old_key} could not be renamed, and its copy {new_key} is left: {}",
                chain(&error)
            );
        }
    }

    /// Copies an object to its new name, with a `change` of its attributes if there is one. Where the service lets headers
    /// be changed by a copy, the copy's time of change is `time`, and its headers, with the object's size, are returned.
    async fn copy_to_rename(
        &self,
        source: &ObjectKey,
        object: &Object,
        destination: &ObjectKey,
        overwrite: Overwrite,
        change: Option<&Change>,
        time: Timestamp,
    ) -> Result<(PutAnswer, Option<ObjectMeta>)> {
        let (start, etag) = (Instant::now(), &object.etag);
        let described =
            match self
                .cache
                .headers_as_listed(source, etag, object.last_modified, start)
            {
                Some(described) => described,
                None => self.cache.headers(source, etag, start).await?,
            };
        if described.meta.etag != *etag {
            return Err(Error::Stale);
        }
        // A time alone is not worth what changing the headers of others' objects takes.
        let keeps_time =
            described.object.is_err() || is_bound_by_sdk_rules(&described.meta.headers.user);
        if described.is_plain() || (change.is_none() && keeps_time) {
            let copied = self
                .objects
                .copy_listed(source, object, destination, overwrite);
            return Ok((copied.await?, None));
        }
        let mut meta = described.meta.clone();
        let mut attributes = Attributes::read(&meta, false);
        if let Some(change) = change {
            change.apply(&mut attributes, &self.settings.defaults);
        }
        attributes.ctime = Some(time);
        attributes.write(&mut meta.headers.user);
        let replace = CopyHeaders::Replace(meta.headers.clone());
        let copied =
            self.objects
                .copy_object(source, &described.meta, destination, replace, overwrite);
        Ok((copied.await?, Some(meta)))
    }
}
