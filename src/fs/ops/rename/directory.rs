//! Renaming directories: the bucket has none, so every object below is copied and then deleted.
//!
//! The subtree is gated: nothing in it changes meanwhile, and what is not uploaded yet moves without a
//! request, because an upload takes its name when it starts. Before the first copy an intent is written, by which an
//! interrupted rename is finished at the next mount (see `rename_intent`). Exactly what was copied is deleted; where
//! that is refused, all is as it was before.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures_util::stream::{self, StreamExt};

use super::deferred_delete::DeferredDelete;
use super::memory::{RenameMemory, weight};
use super::renames::Renames;
use crate::base::error_chain::chain;
use crate::base::time::unix_seconds;
use crate::envelope::format::is_bound_by_sdk_rules;
use crate::files::attributes::{Attributes, Timestamp};
use crate::fs::error::{Error, Result};
use crate::fs::namespace::entry::{CachedAttributes, Entry, Object};
use crate::fs::namespace::inode::{Ino, now};
use crate::fs::namespace::kernel::Invalidation;
use crate::fs::namespace::key_locks::Scope;
use crate::fs::namespace::object_name::{self, Name};
use crate::fs::namespace::tree::Namespace;
use crate::fs::resolver::directory_scan::object_of;
use crate::fs::resolver::object_cache::CachedHeaders;
use crate::fs::resolver::objects::TRIES;
use crate::store::object_store::{
    CopyHeaders, ETag, ListRequest, ListedObject, ObjectKey, ObjectMeta, Overwrite, PutAnswer,
};

/// Copies in flight.
pub(crate) const PARALLEL: usize = 64;

/// A directory on its way from one name to another.
pub(crate) struct DirectoryMove {
    pub ino: Ino,
    /// The prefixes of its keys before and after, with a trailing `/`.
    pub old: String,
    pub new: String,
    pub from: (Ino, Name),
    pub to: (Ino, Name),
}

impl DirectoryMove {
    /// Of an object below the old name, the key under the new one.
    pub(crate) fn key_of_copy(&self, key: &str) -> String {
        let rest = key.strip_prefix(self.old.as_str()).unwrap_or(key);
        format!("{}{rest}", self.new)
    }

    fn reversed(&self) -> DirectoryMove {
        DirectoryMove {
            ino: self.ino,
            old: self.new.clone(),
            new: self.old.clone(),
            from: self.to.clone(),
            to: self.from.clone(),
        }
    }

    /// The part of a key below the directory.
    fn below<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(self.old.as_str())
    }

    /// The key after the move of one that is below the directory.
    fn renamed(&self, key: &str) -> Result<ObjectKey> {
        let below = self.below(key);
        let below = below.ok_or_else(|| Error::io("a key outside of the directory"))?;
        object_name::object_key(format!("{}{below}", self.new))
    }
}

impl Renames {
    /// `replaced`: the empty directory that gives way. Without `replace`, what others have made under the new
    /// name does not.
    pub(crate) async fn rename_directory(
        self: &Arc<Self>,
        ino: Ino,
        from: &(Ino, Name),
        to: &(Ino, Name),
        replaced: Option<Ino>,
        replace: bool,
    ) -> Result<()> {
        let start = Instant::now();
        if self.names.lock().is_within(to.0, ino) {
            return Err(Error::Invalid);
        }
        let prefixes = |namespace: &Namespace| {
            let old = namespace.key(ino)?;
            let new = namespace.child_key(to.0, &to.1)?;
            Some((old, format!("{new}/")))
        };
        let names = [from, to].map(|(parent, name)| (*parent, name));
        let changing = self.names.begin_change(names).and_below(ino);
        let changing = changing.and_unlinking(replaced);
        let locked = self
            .names
            .lock_keys_in_time(start, |namespace| {
                let (old, new) = prefixes(namespace)?;
                Some(vec![Scope::Subtree(old), Scope::Subtree(new)])
            })
            .await?;
        let (old, new) = prefixes(&self.names.lock()).ok_or(Error::Stale)?;
        match replaced {
            Some(replaced) => self.markers.check_empty(replaced, start).await?,
            None if !replace && !self.objects.is_nothing(new.trim_end_matches('/')).await? => {
                self.names.invalidate_target(to);
                return Err(Error::Exists);
            }
            None => {}
        }
        let path = DirectoryMove {
            ino,
            old,
            new,
            from: from.clone(),
            to: to.clone(),
        };
        let mut memory = RenameMemory::new(&self.renaming, self.open_files.budget());
        let sources = self.list_below(&path.old, &mut memory).await?;
        self.check_names(&path, &sources)?;
        let marked = sources.iter().any(|source| source.key == path.old);
        if replaced.is_none() && !marked && !self.objects.is_bare(&path.new).await? {
            // With a marker, its copy finds out.
            self.names.invalidate_target(to);
            return Err(Error::NotEmpty);
        }
        self.objects
            .check_deletable(&object_name::object_key(path.old.clone())?, false)
            .await?;
        let replaced_marker = match replaced {
            Some(_) => self.markers.marker_at(&path.new).await?,
            None => None,
        };
        let intent = match sources.len() {
            0 | 1 => None,
            _ => Some(self.intents.write_intent(&path.old, &path.new).await?),
        };
        let time = now();
        let copies = self.copy_or_undo(&path, &sources, replaced.is_some(), &replaced_marker, time);
        let copied = match copies.await {
            Ok(copied) => copied,
            Err(error) => {
                // An intent that is left would have the next mount finish what was refused here.
                if let Some(intent) = intent
                    && let Err(error) = self.intents.drop_intent(&intent).await
                {
                    log::error!(
                        "cannot delete {intent}, the intent of a rename that failed: {error}"
                    );
                }
                self.names.invalidate_target(to);
                return Err(error);
            }
        };
        // From here on the directory is where it was to go, whatever becomes of what it leaves behind, unless the
        // bucket refuses to delete that.
        let unmarked = replaced_marker.is_some() && !sources.is_empty() && !marked;
        self.show_moved(&path);
        self.retag(&path, &sources, &copied);
        let cleared = self.deferred_deletes.delete_source(DeferredDelete {
            from: path.from.clone(),
            scope: Scope::Subtree(path.old.clone()),
            keys: sources.iter().map(|source| source.key.clone()).collect(),
            // This directory has no marker: it does not get the other one's attributes.
            replaced_marker: unmarked.then(|| path.new.clone()),
            intent: intent.clone(),
            _memory: Some(memory),
            locked,
            changing,
        });
        let Err(refused) = cleared.await else {
            self.names.lock().renamed(ino, time);
            return Ok(());
        };
        let error = &refused.error;
        log::error!(
            "\"{}\" cannot be deleted, and is not renamed to \"{}\": {}",
            path.old.escape_debug(),
            path.new.escape_debug(),
            chain(error)
        );
        if let Some(intent) = intent
            && let Err(error) = self.intents.drop_intent(&intent).await
        {
            log::error!("cannot delete {intent}, the intent of a rename that failed: {error}");
        }
        self.move_directory_back(&path, &sources, &copied, replaced_marker)
            .await;
        Err(error.clone())
    }

    /// The old objects stay, for deleting them was refused: those that were deleted before are copied back, and then
    /// the copies go. What cannot be undone is left, and said.
    async fn move_directory_back(
        self: &Arc<Self>,
        path: &DirectoryMove,
        sources: &[ListedObject],
        copied: &[(ETag, PutAnswer)],
        replaced_marker: Option<ObjectMeta>,
    ) {
        let back = &path.reversed();
        // No copy goes but of what the bucket shows under its old key.
        let there = match self.still_there(&path.old, sources).await {
            Ok(there) => Some(there),
            Err(error) => {
                log::error!(
                    "cannot undo the rename of \"{}\", which is left with copies below \"{}\": {}",
                    path.old.escape_debug(),
                    path.new.escape_debug(),
                    chain(&error)
                );
                None
            }
        };
        let is_gone = |index: usize| there.as_ref().is_some_and(|there| !there[index]);
        let is_gone = &is_gone;
        // In the order of `sources`: what stands under the old key again.
        let restored: Vec<Option<PutAnswer>> = stream::iter(0..sources.len())
            .map(|index| async move {
                let (source, (etag, copy)) = (&sources[index], &copied[index]);
                match is_gone(index) {
                    true => self.copy_back(back, path, source, &copy.etag).await,
                    false => Some(PutAnswer {
                        etag: etag.clone(),
                        crc64: None,
                        date: source.last_modified,
                    }),
                }
            })
            .buffered(PARALLEL)
            .collect()
            .await;
        let (mut copies, mut back_there) = (Vec::new(), Vec::new());
        for ((source, (_, copy)), restored) in sources.iter().zip(copied).zip(restored) {
            if let Some(restored) = restored {
                copies.push(ListedObject {
                    key: path.key_of_copy(&source.key),
                    ..source.clone()
                });
                back_there.push((copy.etag.clone(), restored));
            }
        }
        self.show_moved(back);
        self.retag(back, &copies, &back_there);
        let keys = copies
            .iter()
            .filter(|_| there.is_some())
            .map(|copy| copy.key.as_str())
            .filter(|key| *key != path.new || replaced_marker.is_none());
        if let Err(error) = self.objects.delete_all(keys).await {
            log::error!(
                "cannot delete the copies below \"{}\" after a rename that was refused: {}",
                path.new.escape_debug(),
                chain(&error)
            );
        }
        if copies.iter().any(|copy| copy.key == path.new) {
            self.markers
                .put_marker_back(&path.new, replaced_marker)
                .await;
        }
        let mut namespace = self.names.lock();
        namespace.invalidate(path.from.0, &path.from.1);
        namespace.invalidate(path.to.0, &path.to.1);
        drop(namespace);
        self.names
            .kernel()
            .notify(Invalidation::Name(path.to.0, path.to.1.to_string()));
    }

    /// Of objects in the order of their keys, which of them are below the prefix now. However many others are.
    async fn still_there(&self, prefix: &str, sources: &[ListedObject]) -> Result<Vec<bool>> {
        let mut request = ListRequest {
            prefix: prefix.to_owned(),
            ..ListRequest::default()
        };
        let mut there = vec![false; sources.len()];
        loop {
            let page = self.bucket.store().list(&request).await?;
            for object in page.objects {
                let found = sources.binary_search_by(|source| source.key.cmp(&object.key));
                if let Ok(index) = found {
                    there[index] = true;
                }
            }
            match page.next {
                None => return Ok(there),
                token => request.token = token,
            }
        }
    }

    async fn copy_back(
        &self,
        back: &DirectoryMove,
        path: &DirectoryMove,
        source: &ListedObject,
        copy: &ETag,
    ) -> Option<PutAnswer> {
        let copy = ListedObject {
            key: path.key_of_copy(&source.key),
            etag: copy.clone(),
            ..source.clone()
        };
        match self.copy_below(back, &copy, Overwrite::Forbidden).await {
            Ok((_, answer)) => Some(answer),
            Err(error) => {
                log::error!(
                    "\"{}\" is left of a rename that was refused, and not \"{}\": {}",
                    copy.key.escape_debug(),
                    source.key.escape_debug(),
                    chain(&error)
                );
                None
            }
        }
    }

    /// The directory has its new name. Before the old keys go: open files read on.
    fn show_moved(&self, path: &DirectoryMove) {
        let now = Instant::now();
        let mut namespace = self.names.lock();
        namespace.moved(path.ino, path.to.0, &path.to.1);
        namespace.removed_name(path.from.0, &path.from.1, now);
        if let Some(parent) = namespace.directory(path.to.0) {
            parent.listing.put(&path.to.1, Entry::Directory, now);
        }
    }

    /// Every object below a prefix, its marker included, as long as `memory` is kept.
    ///
    /// # Errors
    /// [`Error::TooMany`] when there are more than there is memory for in one rename, or beside those under way.
    async fn list_below(
        &self,
        prefix: &str,
        memory: &mut RenameMemory,
    ) -> Result<Vec<ListedObject>> {
        let mut request = ListRequest {
            prefix: prefix.to_owned(),
            ..ListRequest::default()
        };
        let mut objects = Vec::new();
        loop {
            let page = self.bucket.store().list(&request).await?;
            let keys = page.objects.iter().map(|object| object.key.len());
            if !memory.grow(keys.map(weight).sum()) {
                log::warn!(
                    "\"{}\" has more objects than --memory-limit allows in one rename: programs move it file by file instead",
                    prefix.escape_debug()
                );
                return Err(Error::TooMany);
            }
            objects.extend(page.objects);
            match page.next {
                None => return Ok(objects),
                token => request.token = token,
            }
        }
    }

    /// # Errors
    /// [`Error::NameTooLong`] if anything below would get too long a key: before anything is changed.
    fn check_names(&self, path: &DirectoryMove, sources: &[ListedObject]) -> Result<()> {
        let longest = ObjectKey::MAX_LEN + path.old.len();
        let too_long = |key: &str| key.len() + path.new.len() > longest;
        if sources.iter().any(|source| too_long(&source.key)) {
            return Err(Error::NameTooLong);
        }
        let waiting: Vec<Ino> = self.open_files.inodes();
        let namespace = self.names.lock();
        let mut pending = waiting
            .into_iter()
            .filter(|file| namespace.is_within(*file, path.ino))
            .filter_map(|file| namespace.key(file));
        match pending.any(|key| too_long(&key)) {
            true => Err(Error::NameTooLong),
            false => Ok(()),
        }
    }

    /// Copies everything. The marker comes first where nothing is known to stand: of two clients that make the name at
    /// once, one is told. It comes last where a directory gives way, which is what it was until then. When
    /// something fails, what was copied is deleted again: nothing has changed. Returns, in the order of
    /// `sources`, the tag of what was copied and the answer.
    async fn copy_or_undo(
        self: &Arc<Self>,
        path: &DirectoryMove,
        sources: &[ListedObject],
        replaces: bool,
        replaced_marker: &Option<ObjectMeta>,
        time: Timestamp,
    ) -> Result<Vec<(ETag, PutAnswer)>> {
        let is_marker = |index: &usize| sources[*index].key == path.old;
        let (marker, files): (Vec<usize>, Vec<usize>) = (0..sources.len()).partition(is_marker);
        let failed = AtomicBool::new(false);
        // No copy is broken off: it might come to be after it was undone.
        let failed = &failed;
        let mut copied: HashMap<usize, Result<(ETag, PutAnswer)>> = HashMap::new();
        let groups = match replaces {
            false => [
                (marker, Overwrite::Forbidden),
                (files, Overwrite::Forbidden),
            ],
            true => [(files, Overwrite::Forbidden), (marker, Overwrite::Allowed)],
        };
        for (group, overwrite) in groups {
            let results: Vec<_> = stream::iter(group)
                .map(|index| async move {
                    if failed.load(Ordering::Relaxed) {
                        return None;
                    }
                    let source = &sources[index];
                    let result = match source.key == path.old {
                        true => self.copy_marker(path, source, overwrite, time).await,
                        false => self.copy_below(path, source, overwrite).await,
                    };
                    failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    Some((index, result))
                })
                .buffer_unordered(PARALLEL)
                .collect()
                .await;
            copied.extend(results.into_iter().flatten());
        }
        if !failed.load(Ordering::Relaxed) {
            let in_order = (0..sources.len()).filter_map(|index| copied.remove(&index));
            return in_order.collect();
        }
        // One whose answer was lost may be there all the same.
        let may_be_there = copied
            .iter()
            .filter(|(_, result)| !matches!(result, Err(error) if error.is_refusal()));
        let mut copies: Vec<String> = may_be_there
            .map(|(index, _)| path.key_of_copy(&sources[*index].key))
            .collect();
        if replaced_marker.is_some() && copies.contains(&path.new) {
            copies.retain(|key| *key != path.new);
            self.markers
                .put_marker_back(&path.new, replaced_marker.clone())
                .await;
        }
        if let Err(error) = self
            .objects
            .delete_all(copies.iter().map(String::as_str))
            .await
        {
            log::error!(
                "cannot delete the copies below \"{}\" after a rename that failed: {}",
                path.new.escape_debug(),
                chain(&error)
            );
        }
        let error = copied.into_values().find_map(|copied| copied.err());
        Err(match error {
            // Others have made something there.
            Some(Error::Exists) => Error::NotEmpty,
            error => error.unwrap_or(Error::Busy),
        })
    }

    /// Copies the directory's marker, with this time of change if its headers can be read.
    async fn copy_marker(
        &self,
        path: &DirectoryMove,
        source: &ListedObject,
        overwrite: Overwrite,
        time: Timestamp,
    ) -> Result<(ETag, PutAnswer)> {
        let from = object_name::object_key(path.old.clone())?;
        let to = object_name::object_key(path.new.clone())?;
        let modified = unix_seconds(source.last_modified);
        let known = self
            .cache
            .headers_as_listed(&from, &source.etag, modified, Instant::now());
        let described = match known {
            Some(known) => Ok(known),
            None => {
                self.cache
                    .headers(&from, &source.etag, Instant::now())
                    .await
            }
        };
        let is_source = |described: &Arc<CachedHeaders>| {
            described.meta.etag == source.etag
                && !is_bound_by_sdk_rules(&described.meta.headers.user)
        };
        let Some(described) = described.ok().filter(is_source) else {
            return self.copy_below(path, source, overwrite).await;
        };
        let mut headers = described.meta.headers.clone();
        let mut attributes = Attributes::read(&described.meta, true);
        attributes.ctime = Some(time);
        attributes.write(&mut headers.user);
        let replace = CopyHeaders::Replace(headers.clone());
        let copied = self
            .objects
            .copy_object(&from, &described.meta, &to, replace, overwrite);
        match copied.await {
            Ok(answer) => {
                self.markers.remember_marker(&to, headers, answer.clone());
                Ok((source.etag.clone(), answer))
            }
            Err(Error::Stale) => self.copy_below(path, source, overwrite).await,
            Err(error) => Err(error),
        }
    }

    /// Returns the tag of what was copied, and that of the copy.
    pub(crate) async fn copy_below(
        &self,
        path: &DirectoryMove,
        source: &ListedObject,
        overwrite: Overwrite,
    ) -> Result<(ETag, PutAnswer)> {
        let from = object_name::object_key(source.key.clone())?;
        let to = path.renamed(&source.key)?;
        let mut object = object_of(source);
        let mut tries = 1;
        loop {
            match self
                .objects
                .copy_listed(&from, &object, &to, overwrite)
                .await
            {
                Err(Error::Stale) if tries < TRIES => {
                    tries += 1;
                    // Replaced by another client since it was listed.
                    let sent = Instant::now();
                    let meta = self.bucket.store().head(&from).await?;
                    object = self.cache.describe(&from, meta, sent);
                }
                result => return Ok((object.etag, result?)),
            }
        }
    }

    /// What is known of the objects stays known under their new keys.
    fn retag(
        self: &Arc<Self>,
        path: &DirectoryMove,
        sources: &[ListedObject],
        copied: &[(ETag, PutAnswer)],
    ) {
        let index: HashMap<&str, usize> = sources
            .iter()
            .enumerate()
            .filter_map(|(index, source)| Some((path.below(&source.key)?, index)))
            .collect();
        {
            let mut namespace = self.names.lock();
            for (rest, &index) in &index {
                let (version, answer) = &copied[index];
                if *version != answer.etag
                    && let Some(ino) = namespace.descend(path.ino, rest)
                {
                    namespace.retag(ino, version, &answer.etag);
                }
            }
        }
        let open: Vec<Ino> = self.open_files.inodes();
        for file in open {
            let (key, place, known) = {
                let namespace = self.names.lock();
                if !namespace.is_within(file, path.ino) {
                    continue;
                }
                // The listing may have been requested anew since the file was opened.
                let versions = [namespace.object(file), namespace.open_version(file)];
                let known = versions
                    .into_iter()
                    .flatten()
                    .find_map(|object| object.known);
                // The copies have the attributes that the objects had then, which others may have changed.
                let known = known.map(|known| {
                    Arc::new(CachedAttributes {
                        revalidatable: false,
                        ..(*known).clone()
                    })
                });
                (namespace.key(file), namespace.place(file), known)
            };
            let (Some(key), Some((parent, name))) = (key, place) else {
                continue;
            };
            let rest = key.strip_prefix(path.new.as_str());
            let Some(&index) = rest.and_then(|rest| index.get(rest)) else {
                continue;
            };
            let (version, answer) = &copied[index];
            let Ok(key) = object_name::object_key(key) else {
                continue;
            };
            let object = Object {
                size: sources[index].size,
                etag: answer.etag.clone(),
                last_modified: unix_seconds(answer.date),
                uploaded_here: false,
                known,
            };
            self.open_files.moved_content(file, &key, version, &object);
            if let Some(directory) = self.names.lock().directory(parent) {
                let now = Instant::now();
                directory.listing.put(&name, Entry::Object(object), now);
            }
        }
        // Copies of multipart objects have other tags: listings below are requested anew.
        self.names.lock().invalidate_subtree(path.ino);
    }
}
