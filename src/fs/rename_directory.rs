//! Renaming directories: the bucket has none, so every object below is copied and then deleted.
//!
//! The subtree is gated: nothing in it changes meanwhile, and what is not uploaded yet moves without a
//! request, because an upload takes its name when it starts. Before the first copy an intent is written; an
//! interrupted rename is finished at the next mount. Exactly what was copied is deleted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use super::chain;
use super::error::{Error, Result};
use super::filesystem::{Filesystem, lock};
use super::gate::Scope;
use super::lister::object_of;
use super::listing::{Entry, Object};
use super::names::{self, Name};
use super::namespace::Ino;
use crate::store::object_store::{
    Body, ETag, ListPage, ListRequest, ListedObject, ObjectHeaders, ObjectKey, Overwrite, PutAnswer,
};

/// Copies in flight.
const PARALLEL: usize = 64;

/// Keys in one batch delete.
const BATCH: usize = 1000;

/// What an intent object holds.
#[derive(Debug, Serialize, Deserialize)]
struct Intent {
    /// Below the mount's prefix, both with a trailing `/`.
    from: String,
    to: String,
    /// Who began it: while that process lives, nobody else finishes it.
    host: String,
    boot: String,
    pid: u32,
}

impl Intent {
    fn new(from: String, to: String) -> Intent {
        let (host, boot) = this_machine();
        let pid = std::process::id();
        Intent {
            from,
            to,
            host,
            boot,
            pid,
        }
    }

    /// Whether the one who began it is known to be gone.
    fn is_orphaned(&self) -> bool {
        let (host, boot) = this_machine();
        let alive =
            boot == self.boot && std::path::Path::new(&format!("/proc/{}", self.pid)).exists();
        host == self.host && !(alive && self.pid != std::process::id())
    }
}

/// Its name, and what tells one start of it from another.
fn this_machine() -> (String, String) {
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    (
        read("/proc/sys/kernel/hostname"),
        read("/proc/sys/kernel/random/boot_id"),
    )
}

impl Filesystem {
    pub(super) async fn rename_directory(
        self: &Arc<Self>,
        ino: Ino,
        from: &(Ino, Name),
        to: &(Ino, Name),
        replaced: Option<Ino>,
        start: Instant,
    ) -> Result<()> {
        let (old, new) = {
            let namespace = self.namespace();
            if namespace.is_within(to.0, ino) {
                return Err(Error::Invalid);
            }
            let old = namespace.key(ino).ok_or(Error::NotFound)?;
            let new = namespace.child_key(to.0, &to.1).ok_or(Error::NotFound)?;
            (old, format!("{new}/"))
        };
        let scopes = vec![Scope::Subtree(old.clone()), Scope::Subtree(new.clone())];
        let _pass = self.gate.enter(scopes).await;
        if let Some(replaced) = replaced {
            self.check_empty(replaced, start).await?;
        }
        let sources = self.list_below(&old).await?;
        self.check_names(ino, &old, &new, &sources)?;
        let intent = match sources.len() {
            0 | 1 => None,
            _ => Some(self.write_intent(&old, &new).await?),
        };
        let copied = self.copy_or_undo(&old, &new, &sources).await;
        let copied = match copied {
            Ok(copied) => copied,
            Err(error) => {
                // An intent that is left would have the next mount finish what was refused here.
                if let Some(intent) = intent
                    && let Err(error) = self.bucket.store().delete(&intent).await
                {
                    log::error!("{intent} is left of a rename that failed: {error}");
                }
                self.namespace().doubt(to.0, &to.1);
                return Err(error);
            }
        };
        let deleted = async {
            self.keep_directory(from.0, &from.1).await?;
            self.delete_all(sources.iter().map(|source| source.key.as_str()))
                .await?;
            if let Some(intent) = intent {
                self.bucket.store().delete(&intent).await?;
            }
            Ok(())
        }
        .await;
        if let Err(error) = deleted {
            // Both names are there, whole or in part, until the next mount finishes it.
            let mut namespace = self.namespace();
            namespace.doubt(from.0, &from.1);
            namespace.doubt(to.0, &to.1);
            namespace.doubt_below(ino);
            return Err(error);
        }
        let unmarked = replaced.is_some()
            && !sources.is_empty()
            && sources.iter().all(|source| source.key != old);
        if unmarked {
            // The directory that gave way had a marker, this one has none: its attributes go with it.
            self.delete_all(std::iter::once(new.as_str())).await?;
        }
        let now = Instant::now();
        {
            let mut namespace = self.namespace();
            namespace.moved(ino, to.0, &to.1);
            namespace.removed_name(from.0, &from.1, now);
            if let Some(parent) = namespace.directory(to.0) {
                parent.listing.put(&to.1, Entry::Directory, now);
            }
        }
        self.retag(ino, &old, &new, &sources, &copied);
        Ok(())
    }

    /// Every object below a prefix, its marker included.
    async fn list_below(&self, prefix: &str) -> Result<Vec<ListedObject>> {
        let mut request = ListRequest {
            prefix: prefix.to_owned(),
            ..ListRequest::default()
        };
        let mut objects = Vec::new();
        loop {
            let page = self.bucket.store().list(&request).await?;
            objects.extend(page.objects);
            match page.next {
                None => return Ok(objects),
                token => request.token = token,
            }
        }
    }

    /// # Errors
    /// [`Error::NameTooLong`] if anything below would get too long a key: before anything is changed.
    fn check_names(&self, ino: Ino, old: &str, new: &str, sources: &[ListedObject]) -> Result<()> {
        let longest = ObjectKey::MAX_LEN + old.len();
        let too_long = |key: &str| key.len() + new.len() > longest;
        if sources.iter().any(|source| too_long(&source.key)) {
            return Err(Error::NameTooLong);
        }
        let waiting: Vec<Ino> = lock(&self.files).keys().copied().collect();
        let namespace = self.namespace();
        let mut pending = waiting
            .into_iter()
            .filter(|file| namespace.is_within(*file, ino))
            .filter_map(|file| namespace.key(file));
        match pending.any(|key| too_long(&key)) {
            true => Err(Error::NameTooLong),
            false => Ok(()),
        }
    }

    async fn copy_all(
        self: &Arc<Self>,
        old: &str,
        new: &str,
        sources: &[ListedObject],
    ) -> Result<Vec<(ETag, PutAnswer)>> {
        stream::iter(0..sources.len())
            .map(|index| self.copy_below(old, new, &sources[index]))
            .buffered(PARALLEL)
            .try_collect()
            .await
    }

    /// As [`Filesystem::copy_all`]; when it fails, what was copied is deleted again: nothing has changed.
    async fn copy_or_undo(
        self: &Arc<Self>,
        old: &str,
        new: &str,
        sources: &[ListedObject],
    ) -> Result<Vec<(ETag, PutAnswer)>> {
        let failed = AtomicBool::new(false);
        // No copy is broken off: it might come to be after it was undone.
        let failed = &failed;
        let copied: Vec<_> = stream::iter(0..sources.len())
            .map(|index| async move {
                if failed.load(Ordering::Relaxed) {
                    return None;
                }
                let result = self.copy_below(old, new, &sources[index]).await;
                failed.fetch_or(result.is_err(), Ordering::Relaxed);
                Some(result)
            })
            .buffered(PARALLEL)
            .collect()
            .await;
        if !failed.load(Ordering::Relaxed) {
            return copied.into_iter().flatten().collect();
        }
        let copies: Vec<String> = sources
            .iter()
            .zip(&copied)
            .filter(|(_, copied)| match copied {
                // One whose answer was lost may be there all the same.
                Some(result) => !matches!(result, Err(error) if error.is_refusal()),
                None => false,
            })
            .map(|(source, _)| format!("{new}{}", &source.key[old.len()..]))
            .collect();
        if let Err(error) = self.delete_all(copies.iter().map(String::as_str)).await {
            log::error!(
                "copies below \"{}\" are left of a rename that failed: {}",
                new.escape_debug(),
                chain(&error)
            );
        }
        let error = copied.into_iter().flatten().find_map(|copied| copied.err());
        Err(error.unwrap_or(Error::Busy))
    }

    /// Returns the tag of what was copied, and that of the copy.
    async fn copy_below(
        &self,
        old: &str,
        new: &str,
        source: &ListedObject,
    ) -> Result<(ETag, PutAnswer)> {
        let from = names::object_key(source.key.clone())?;
        let to = names::object_key(format!("{new}{}", &source.key[old.len()..]))?;
        let mut object = object_of(source);
        loop {
            match self.copy_listed(&from, &object, &to).await {
                Err(Error::Stale) => {
                    // Replaced by another client since it was listed.
                    let sent = Instant::now();
                    let meta = self.bucket.store().head(&from).await?;
                    object = self.describe(&from, meta, sent);
                }
                result => return Ok((object.etag, result?)),
            }
        }
    }

    async fn delete_all<'a>(&self, keys: impl Iterator<Item = &'a str>) -> Result<()> {
        let keys: Vec<ObjectKey> = keys
            .map(|key| names::object_key(key.to_owned()))
            .collect::<Result<_>>()?;
        for batch in keys.chunks(BATCH) {
            let failed = self.bucket.store().delete_many(batch).await?;
            if let Some((key, error)) = failed.into_iter().next() {
                log::error!("{key} was copied and could not be deleted: {error}");
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// What is known of the objects stays known under their new keys.
    fn retag(
        self: &Arc<Self>,
        ino: Ino,
        old: &str,
        new: &str,
        sources: &[ListedObject],
        copied: &[(ETag, PutAnswer)],
    ) {
        let index: HashMap<&str, usize> = sources
            .iter()
            .enumerate()
            .map(|(index, source)| (&source.key[old.len()..], index))
            .collect();
        let open: Vec<Ino> = lock(&self.files).keys().copied().collect();
        for file in open {
            let (key, place, before) = {
                let namespace = self.namespace();
                if !namespace.is_within(file, ino) {
                    continue;
                }
                (
                    namespace.key(file),
                    namespace.place(file),
                    namespace.object(file),
                )
            };
            let (Some(key), Some((parent, name))) = (key, place) else {
                continue;
            };
            let Some(&index) = key.strip_prefix(new).and_then(|rest| index.get(rest)) else {
                continue;
            };
            let (version, answer) = &copied[index];
            let Ok(key) = names::object_key(key) else {
                continue;
            };
            let object = Object {
                size: sources[index].size,
                etag: answer.etag.clone(),
                last_modified: super::seconds(answer.date),
                ours: true,
                known: before.and_then(|object| object.known),
            };
            self.moved_content(file, &key, version, &object);
            if let Some(directory) = self.namespace().directory(parent) {
                let now = Instant::now();
                directory.listing.put(&name, Entry::Object(object), now);
            }
        }
        // Copies of multipart objects have other tags: listings below are asked for anew.
        self.namespace().doubt_below(ino);
    }

    // ---- intents ----

    async fn write_intent(&self, old: &str, new: &str) -> Result<ObjectKey> {
        let prefix = &self.settings.prefix;
        let below = |key: &str| key.strip_prefix(prefix.as_str()).unwrap_or(key).to_owned();
        let intent = Intent::new(below(old), below(new));
        let text = serde_json::to_vec(&intent).map_err(|error| Error::io(error.to_string()))?;
        let key = names::object_key(format!(
            "{prefix}{}/rename-{:016x}",
            names::RESERVED,
            rand::random::<u64>()
        ))?;
        let headers = ObjectHeaders {
            content_type: Some("application/json".to_owned()),
            ..ObjectHeaders::default()
        };
        self.bucket
            .store()
            .put(&key, &headers, Body::from_bytes(text), Overwrite::Allowed)
            .await?;
        Ok(key)
    }

    /// Finishes the renames that an earlier mount began, or reports those it cannot.
    pub(super) async fn resume_renames(self: &Arc<Self>, own: &ListPage) {
        let start = format!("{}{}/rename-", self.settings.prefix, names::RESERVED);
        for object in own
            .objects
            .iter()
            .filter(|object| object.key.starts_with(&start))
        {
            let result = match self.settings.read_only {
                true => Err(Error::ReadOnly),
                false => self.resume_rename(&object.key).await,
            };
            match result {
                Ok(intent) => log::warn!(
                    "finished renaming \"{}\" to \"{}\", which an earlier mount had begun",
                    intent.from.escape_debug(),
                    intent.to.escape_debug()
                ),
                Err(error) => log::error!(
                    "a directory rename that an earlier mount began is unfinished (see the object \"{}\"): {}",
                    object.key.escape_debug(),
                    chain(&error)
                ),
            }
        }
    }

    async fn resume_rename(self: &Arc<Self>, key: &str) -> Result<Intent> {
        let key = names::object_key(key.to_owned())?;
        let answer = self.bucket.store().get(&key, None, None).await?;
        let mut text = Vec::new();
        let mut body = answer.body;
        while let Some(chunk) = body.next().await {
            text.extend_from_slice(&chunk?);
            if text.len() > 8192 {
                return Err(Error::io("the intent is too long"));
            }
        }
        let intent: Intent =
            serde_json::from_slice(&text).map_err(|error| Error::io(error.to_string()))?;
        let sound = |path: &str| {
            path.strip_suffix('/')
                .is_some_and(|path| path.split('/').all(names::is_component))
        };
        if !sound(&intent.from) || !sound(&intent.to) || intent.to.starts_with(&intent.from) {
            return Err(Error::io("the intent makes no sense"));
        }
        if !intent.is_orphaned() {
            return Err(Error::Busy);
        }
        let prefix = &self.settings.prefix;
        let (old, new) = (
            format!("{prefix}{}", intent.from),
            format!("{prefix}{}", intent.to),
        );
        let sources = self.list_below(&old).await?;
        self.copy_all(&old, &new, &sources).await?;
        self.delete_all(sources.iter().map(|source| source.key.as_str()))
            .await?;
        self.bucket.store().delete(&key).await?;
        Ok(intent)
    }
}
