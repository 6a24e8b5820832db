//! Renaming directories: the bucket has none, so every object below is copied and then deleted.
//!
//! The subtree is gated: nothing in it changes meanwhile, and what is not uploaded yet moves without a
//! request, because an upload takes its name when it starts. Before the first copy an intent is written; an
//! interrupted rename is finished at the next mount, but for what others have changed since: that is left as
//! it is, and reported. Exactly what was copied is deleted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use super::change_attributes::TRIES;
use super::error::{Error, Result};
use super::filesystem::{Filesystem, lock};
use super::gate::Scope;
use super::leftover::Leftover;
use super::lister::object_of;
use super::listing::{Entry, Object};
use super::names::{self, Name};
use super::namespace::{Ino, Namespace};
use super::rename_file::is_copy;
use crate::oss::error::chain;
use crate::store::object_store::{
    Body, ETag, ListPage, ListRequest, ListedObject, ObjectHeaders, ObjectKey, Overwrite, PutAnswer,
};

/// Copies in flight.
const PARALLEL: usize = 64;

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
    /// When that process started, in the kernel's ticks: a later one may have its number.
    #[serde(default)]
    started: u64,
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
            started: start_of(pid).unwrap_or_default(),
        }
    }

    /// Whether the one who began it is known to be gone.
    fn is_orphaned(&self) -> bool {
        let (host, boot) = this_machine();
        let alive = boot == self.boot && start_of(self.pid) == Some(self.started);
        host == self.host && !(alive && self.pid != std::process::id())
    }
}

/// When a process started, in ticks since the machine did; None if it is gone, or dead and not yet waited for.
fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.nth(18)?.parse().ok(),
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

/// A directory on its way from one name to another.
struct Move {
    ino: Ino,
    /// The prefixes of its keys before and after, with a trailing `/`.
    old: String,
    new: String,
    from: (Ino, Name),
    to: (Ino, Name),
}

impl Move {
    /// The part of a key below the directory.
    fn below<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(self.old.as_str())
    }

    /// The key after the move of one that is below the directory.
    fn renamed(&self, key: &str) -> Result<ObjectKey> {
        let below = self.below(key);
        let below = below.ok_or_else(|| Error::io("a key outside of the directory"))?;
        names::object_key(format!("{}{below}", self.new))
    }
}

impl Filesystem {
    /// `replaced`: the empty directory that gives way. Without `replace`, what others have made under the new
    /// name does not.
    pub(super) async fn rename_directory(
        self: &Arc<Self>,
        ino: Ino,
        from: &(Ino, Name),
        to: &(Ino, Name),
        replaced: Option<Ino>,
        replace: bool,
    ) -> Result<()> {
        let start = Instant::now();
        if self.namespace().is_within(to.0, ino) {
            return Err(Error::Invalid);
        }
        let prefixes = |namespace: &Namespace| {
            let old = namespace.key(ino)?;
            let new = namespace.child_key(to.0, &to.1)?;
            Some((old, format!("{new}/")))
        };
        let names = [from, to].map(|(parent, name)| (*parent, name));
        let changing = self.begin_change(names).and_below(ino);
        let changing = changing.and_leaving(replaced);
        let pass = self
            .enter(|namespace| {
                let (old, new) = prefixes(namespace)?;
                Some(vec![Scope::Subtree(old), Scope::Subtree(new)])
            })
            .await?;
        let (old, new) = prefixes(&self.namespace()).ok_or(Error::Stale)?;
        match replaced {
            Some(replaced) => self.check_empty(replaced, start).await?,
            None if !replace && !self.is_bare(&new).await? => return Err(Error::Exists),
            None => {}
        }
        let path = Move {
            ino,
            old,
            new,
            from: from.clone(),
            to: to.clone(),
        };
        let sources = self.list_below(&path.old).await?;
        self.check_names(&path, &sources)?;
        let intent = match sources.len() {
            0 | 1 => None,
            _ => Some(self.write_intent(&path.old, &path.new).await?),
        };
        let copied = match self.copy_or_undo(&path, &sources, replaced).await {
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
        // From here on the directory is where it was to go, whatever becomes of what it leaves behind.
        let unmarked = replaced.is_some()
            && !sources.is_empty()
            && sources.iter().all(|source| source.key != path.old);
        self.show_moved(&path, &sources, &copied);
        let mut keys: Vec<String> = sources.into_iter().map(|source| source.key).collect();
        if unmarked {
            // The directory that gave way had a marker, this one has none: its attributes go with it.
            keys.push(path.new.clone());
        }
        let cleared = self.clear_away(Leftover {
            from: path.from,
            scope: Scope::Subtree(path.old.clone()),
            keys,
            intent,
            pass,
            changing,
        });
        let result = cleared.await;
        if let Err(error) = &result {
            log::error!(
                "\"{}\" is copied to \"{}\" and cannot be deleted: {}",
                path.old.escape_debug(),
                path.new.escape_debug(),
                chain(error)
            );
            let mut namespace = self.namespace();
            namespace.doubt(from.0, &from.1);
            namespace.doubt(to.0, &to.1);
        }
        result
    }

    /// The directory has its new name, and what is known below it its new keys. Before the old ones go: who
    /// has files open reads on.
    fn show_moved(
        self: &Arc<Self>,
        path: &Move,
        sources: &[ListedObject],
        copied: &[(ETag, PutAnswer)],
    ) {
        let now = Instant::now();
        {
            let mut namespace = self.namespace();
            namespace.moved(path.ino, path.to.0, &path.to.1);
            namespace.removed_name(path.from.0, &path.from.1, now);
            if let Some(parent) = namespace.directory(path.to.0) {
                parent.listing.put(&path.to.1, Entry::Directory, now);
            }
        }
        self.retag(path, sources, copied);
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
    fn check_names(&self, path: &Move, sources: &[ListedObject]) -> Result<()> {
        let longest = ObjectKey::MAX_LEN + path.old.len();
        let too_long = |key: &str| key.len() + path.new.len() > longest;
        if sources.iter().any(|source| too_long(&source.key)) {
            return Err(Error::NameTooLong);
        }
        let waiting: Vec<Ino> = lock(&self.files).keys().copied().collect();
        let namespace = self.namespace();
        let mut pending = waiting
            .into_iter()
            .filter(|file| namespace.is_within(*file, path.ino))
            .filter_map(|file| namespace.key(file));
        match pending.any(|key| too_long(&key)) {
            true => Err(Error::NameTooLong),
            false => Ok(()),
        }
    }

    /// Copies everything, the marker last: until then a directory that gives way is what it was. When
    /// something fails, what was copied is deleted again: nothing has changed. Returns, in the order of
    /// `sources`, the tag of what was copied and the answer.
    async fn copy_or_undo(
        self: &Arc<Self>,
        path: &Move,
        sources: &[ListedObject],
        replaced: Option<Ino>,
    ) -> Result<Vec<(ETag, PutAnswer)>> {
        let is_marker = |index: &usize| sources[*index].key == path.old;
        let (marker, files): (Vec<usize>, Vec<usize>) = (0..sources.len()).partition(is_marker);
        let failed = AtomicBool::new(false);
        // No copy is broken off: it might come to be after it was undone.
        let failed = &failed;
        let mut copied: HashMap<usize, Result<(ETag, PutAnswer)>> = HashMap::new();
        for (group, overwrite) in [
            (files, Overwrite::Forbidden),
            // It takes the place of that of the directory that gives way.
            (marker, Overwrite::Allowed),
        ] {
            let results: Vec<_> = stream::iter(group)
                .map(|index| async move {
                    if failed.load(Ordering::Relaxed) {
                        return None;
                    }
                    let result = self.copy_below(path, &sources[index], overwrite).await;
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
        let copies: Vec<ObjectKey> = copied
            .iter()
            // One whose answer was lost may be there all the same.
            .filter(|(_, result)| !matches!(result, Err(error) if error.is_refusal()))
            .filter(|(index, _)| replaced.is_none() || sources[**index].key != path.old)
            .filter_map(|(index, _)| path.renamed(&sources[*index].key).ok())
            .collect();
        if let Err(error) = self.delete_all(copies.iter().map(ObjectKey::as_str)).await {
            log::error!(
                "copies below \"{}\" are left of a rename that failed: {}",
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

    /// Returns the tag of what was copied, and that of the copy.
    async fn copy_below(
        &self,
        path: &Move,
        source: &ListedObject,
        overwrite: Overwrite,
    ) -> Result<(ETag, PutAnswer)> {
        let from = names::object_key(source.key.clone())?;
        let to = path.renamed(&source.key)?;
        let mut object = object_of(source);
        let mut tries = 1;
        loop {
            match self.copy_listed(&from, &object, &to, overwrite).await {
                Err(Error::Stale) if tries < TRIES => {
                    tries += 1;
                    // Replaced by another client since it was listed.
                    let sent = Instant::now();
                    let meta = self.bucket.store().head(&from).await?;
                    object = self.describe(&from, meta, sent);
                }
                result => return Ok((object.etag, result?)),
            }
        }
    }

    /// What is known of the objects stays known under their new keys.
    fn retag(
        self: &Arc<Self>,
        path: &Move,
        sources: &[ListedObject],
        copied: &[(ETag, PutAnswer)],
    ) {
        let index: HashMap<&str, usize> = sources
            .iter()
            .enumerate()
            .filter_map(|(index, source)| Some((path.below(&source.key)?, index)))
            .collect();
        {
            let mut namespace = self.namespace();
            for (rest, &index) in &index {
                let (version, answer) = &copied[index];
                if *version != answer.etag
                    && let Some(ino) = namespace.descend(path.ino, rest)
                {
                    namespace.retag(ino, version, &answer.etag);
                }
            }
        }
        let open: Vec<Ino> = lock(&self.files).keys().copied().collect();
        for file in open {
            let (key, place, known) = {
                let namespace = self.namespace();
                if !namespace.is_within(file, path.ino) {
                    continue;
                }
                // The listing may have been asked anew since the file was opened.
                let versions = [namespace.object(file), namespace.open_version(file)];
                let known = versions
                    .into_iter()
                    .flatten()
                    .find_map(|object| object.known);
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
            let Ok(key) = names::object_key(key) else {
                continue;
            };
            let object = Object {
                size: sources[index].size,
                etag: answer.etag.clone(),
                last_modified: super::seconds(answer.date),
                ours: true,
                known,
            };
            self.moved_content(file, &key, version, &object);
            if let Some(directory) = self.namespace().directory(parent) {
                let now = Instant::now();
                directory.listing.put(&name, Entry::Object(object), now);
            }
        }
        // Copies of multipart objects have other tags: listings below are asked for anew.
        self.namespace().doubt_below(path.ino);
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
        let store = self.bucket.store();
        let body = Body::from_bytes(text);
        match store.put(&key, &headers, body, Overwrite::Allowed).await {
            Ok(_) => Ok(key),
            Err(error) => {
                // The answer may have been lost.
                let _ = store.delete(&key).await;
                Err(error.into())
            }
        }
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
                Ok(None) => {}
                Ok(Some(intent)) => log::warn!(
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

    /// Copies an object where nothing stands. Whether what stands there otherwise is the same: its copy, which
    /// nobody has changed since.
    async fn copy_or_compare(&self, path: &Move, source: &ListedObject) -> Result<bool> {
        match self.copy_below(path, source, Overwrite::Forbidden).await {
            Ok(_) => Ok(true),
            // Gone since it was listed.
            Err(Error::NotFound) => Ok(true),
            Err(Error::Exists) => {
                let from = names::object_key(source.key.clone())?;
                let to = path.renamed(&source.key)?;
                let store = self.bucket.store();
                let (from, to) = tokio::try_join!(store.head(&from), store.head(&to))?;
                Ok(is_copy(&from, &to))
            }
            Err(error) => Err(error),
        }
    }

    /// None: it has not happened, and will not.
    async fn resume_rename(self: &Arc<Self>, key: &str) -> Result<Option<Intent>> {
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
        if self.is_bare(&new).await? {
            // Nothing was copied yet, or it was undone: it has not happened.
            self.bucket.store().delete(&key).await?;
            return Ok(None);
        }
        let sources = self.list_below(&old).await?;
        let path = Move {
            ino: Ino::ROOT,
            old,
            new,
            from: (Ino::ROOT, Name::from("")),
            to: (Ino::ROOT, Name::from("")),
        };
        let copied: Vec<bool> = stream::iter(&sources)
            .map(|source| self.copy_or_compare(&path, source))
            .buffered(PARALLEL)
            .try_collect()
            .await?;
        let done = sources.iter().zip(&copied).filter(|(_, copied)| **copied);
        self.delete_all(done.map(|(source, _)| source.key.as_str()))
            .await?;
        if let Some(left) = copied.iter().position(|copied| !copied) {
            return Err(Error::io(format!(
                "\"{}\" stands under the new name with another content: both are left as they are",
                sources[left].key.escape_debug()
            )));
        }
        self.bucket.store().delete(&key).await?;
        Ok(Some(intent))
    }
}
