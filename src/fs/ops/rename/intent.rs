//! Directory renames that a mount did not live to finish, and what else it left in the bucket.
//!
//! Before the first copy a rename writes an intent: an object below `.ossvault/` that says from where to where, and
//! carries a checksum under the mount's secret (see `instance`). The next mount on this machine carries on what one
//! that has ended has begun. An intent that is not ours is an order of somebody else's, and is left alone. What
//! others have changed under either name since is left as it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use super::directory::{Move, PARALLEL};
use crate::base::error_chain::chain;
use crate::crypto::mac::MacKey;
use crate::fs::error::{Error, Result};
use crate::fs::filesystem::Filesystem;
use crate::fs::instance::{Instance, is_id};
use crate::fs::namespace::inode_table::Ino;
use crate::fs::namespace::object_name::{self, Name};
use crate::fs::resolver::objects::is_copy;
use crate::store::object_store::{
    Body, ListPage, ListRequest, ListedObject, ObjectHeaders, ObjectKey, Overwrite,
};

/// The most bytes of an intent: two keys, in which each byte may be escaped, and the checksum.
const LONGEST: u64 = 16 << 10;

/// What was put aside is deleted no sooner, should the mount live where its lock does not show.
const ASIDE_AT_LEAST: Duration = Duration::from_secs(3600);

/// What the checksum says first.
const WHAT: &[u8] = b"ossvault rename 1";

/// What an intent object holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Intent {
    /// Below the mount's prefix, both with a trailing `/`.
    pub from: String,
    pub to: String,
    /// In digits of base 16.
    mac: String,
}

impl Intent {
    pub fn new(secret: &MacKey, key: &ObjectKey, from: String, to: String) -> Intent {
        let sum = secret.sum(&fields(key, &from, &to));
        let mac = hex::encode(sum);
        Intent { from, to, mac }
    }

    /// What is in an object under that key, by the secret of the mount that its name tells of.
    ///
    /// # Errors
    /// When that mount has not written it, or not under that key, or it is no possible rename.
    pub fn parse(text: &[u8], secret: &MacKey, key: &ObjectKey) -> Result<Intent> {
        let intent: Intent =
            serde_json::from_slice(text).map_err(|error| Error::io(error.to_string()))?;
        intent.check(secret, key)?;
        Ok(intent)
    }

    fn check(&self, secret: &MacKey, key: &ObjectKey) -> Result<()> {
        let mut sum = [0; 32];
        let genuine = hex::decode_to_slice(&self.mac, &mut sum).is_ok()
            && secret.verifies(&fields(key, &self.from, &self.to), &sum);
        if !genuine {
            return Err(Error::io("it is not genuine"));
        }
        let apart = !self.to.starts_with(&self.from) && !self.from.starts_with(&self.to);
        match is_path(&self.from) && is_path(&self.to) && apart {
            true => Ok(()),
            false => Err(Error::io("it makes no sense")),
        }
    }
}

fn fields<'a>(key: &'a ObjectKey, from: &'a str, to: &'a str) -> [&'a [u8]; 4] {
    [
        WHAT,
        key.as_str().as_bytes(),
        from.as_bytes(),
        to.as_bytes(),
    ]
}

/// Of a directory of the user's, with a trailing `/`.
fn is_path(path: &str) -> bool {
    path.strip_suffix('/').is_some_and(|path| {
        path.split('/').all(object_name::is_component)
            && path.split('/').next() != Some(object_name::RESERVED)
    })
}

/// What a mount has left.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Left<'a> {
    /// Of the mount of that name; None: of one whose name is not told.
    Intent(Option<&'a str>),
    Aside(&'a str),
}

impl Left<'_> {
    /// By the part of a key after `.ossvault/`.
    pub fn of(name: &str) -> Option<Left<'_>> {
        if let Some(rest) = name.strip_prefix("rename-") {
            return Some(Left::Intent(mount_in(rest)));
        }
        name.strip_prefix("aside/")
            .and_then(mount_in)
            .map(Left::Aside)
    }
}

/// The mount's name in `NAME-RANDOM`.
fn mount_in(text: &str) -> Option<&str> {
    let (id, rest) = text.split_at_checked(16)?;
    (is_id(id) && is_id(rest.strip_prefix('-')?)).then_some(id)
}

/// A mount that has ended, and whether nothing of it is left.
struct Ended {
    instance: Instance,
    clean: bool,
}

impl Filesystem {
    pub(crate) async fn write_intent(&self, old: &str, new: &str) -> Result<ObjectKey> {
        let prefix = &self.settings.prefix;
        let below = |key: &str| key.strip_prefix(prefix.as_str()).unwrap_or(key).to_owned();
        let key = self.this_mount.key_of_ours("rename-").await?;
        let secret = &self.this_mount.instance().await.key;
        let intent = Intent::new(secret, &key, below(old), below(new));
        let text = serde_json::to_vec(&intent).map_err(|error| Error::io(error.to_string()))?;
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

    /// Removes an intent; where it cannot be deleted, nothing is left in it that could be carried on.
    pub(crate) async fn drop_intent(&self, intent: &ObjectKey) -> Result<()> {
        let store = self.bucket.store();
        let result = match store.delete(intent).await.map_err(Error::from) {
            Err(error) if error.is_refusal() => {
                log::warn!("{intent} is emptied, and left: {}", chain(&error));
                self.this_mount.leave_something();
                let headers = ObjectHeaders::default();
                let put = store.put(intent, &headers, Body::empty(), Overwrite::Allowed);
                put.await.map(drop).map_err(Error::from)
            }
            result => result,
        };
        if result.is_err() {
            self.this_mount.leave_something();
        }
        result
    }

    /// Finishes the renames that earlier mounts on this machine began, or reports those it cannot, and deletes what
    /// they had put aside. `own` is what the bucket has below `.ossvault/`.
    pub(crate) async fn finish_for_earlier_mounts(self: &Arc<Self>, own: &ListPage) {
        let folder = self.this_mount.state_dir();
        let all = tokio::task::spawn_blocking(move || {
            folder.map_or_else(Vec::new, |folder| Instance::all_ended(&folder))
        });
        let mut ended: HashMap<String, Ended> = all
            .await
            .unwrap_or_default()
            .into_iter()
            .map(|instance| {
                let id = instance.id.clone();
                let clean = own.next.is_none() && !self.settings.read_only;
                (id, Ended { instance, clean })
            })
            .collect();
        let below = format!("{}{}/", self.settings.prefix, object_name::RESERVED);
        for object in &own.objects {
            let left = object.key.strip_prefix(&below).and_then(Left::of);
            let gone = match left {
                None => true,
                Some(Left::Intent(id)) => {
                    let from = id.and_then(|id| ended.get(id));
                    self.finish_rename(object, from.map(|ended| &ended.instance))
                        .await
                }
                Some(Left::Aside(id)) => match ended.contains_key(id) {
                    true => self.sweep_aside(object, own).await,
                    false => true,
                },
            };
            if let Some(Left::Intent(Some(id)) | Left::Aside(id)) = left
                && let Some(ended) = ended.get_mut(id)
            {
                ended.clean &= gone;
            }
        }
        for ended in ended.into_values().filter(|ended| ended.clean) {
            ended.instance.remove();
        }
    }

    /// Deletes what a mount has put aside that has ended. Returns whether it is gone.
    async fn sweep_aside(&self, object: &ListedObject, own: &ListPage) -> bool {
        let age = own.date.duration_since(object.last_modified);
        if self.settings.read_only || age.is_ok_and(|age| age < ASIDE_AT_LEAST) {
            return false;
        }
        let deleted = self
            .objects
            .delete_all([object.key.as_str()].into_iter())
            .await;
        if let Err(error) = &deleted {
            log::warn!(
                "\"{}\", which an earlier mount has put aside, is left: {}",
                object.key.escape_debug(),
                chain(error)
            );
        }
        deleted.is_ok()
    }

    /// Returns whether the intent is gone.
    async fn finish_rename(
        self: &Arc<Self>,
        object: &ListedObject,
        begun_by: Option<&Instance>,
    ) -> bool {
        let name = object.key.escape_debug();
        let Some(instance) = begun_by else {
            // An empty one was given up by its mount, and could not be deleted.
            if object.size > 0 {
                log::warn!(
                    "the directory rename that \"{name}\" tells of is left alone: it is under way, or was not begun by a mount on this machine"
                );
            }
            return false;
        };
        let result = match self.settings.read_only {
            true => Err(Error::ReadOnly),
            false => self.resume_rename(object, instance).await,
        };
        match result {
            Ok(None) => true,
            Ok(Some(intent)) => {
                log::warn!(
                    "finished renaming \"{}\" to \"{}\", which an earlier mount had begun",
                    intent.from.escape_debug(),
                    intent.to.escape_debug()
                );
                true
            }
            Err(error) => {
                log::error!(
                    "a directory rename that an earlier mount began is unfinished (see the object \"{name}\"): {}",
                    chain(&error)
                );
                false
            }
        }
    }

    /// # Errors
    /// When it is not an intent that this mount has written.
    async fn read_intent(&self, object: &ListedObject, instance: &Instance) -> Result<Intent> {
        let key = object_name::object_key(object.key.clone())?;
        if object.size > LONGEST {
            return Err(Error::io("it is too long"));
        }
        let mut body = self.bucket.store().get(&key, None, None).await?.body;
        let mut text = Vec::new();
        while let Some(chunk) = body.next().await {
            text.extend_from_slice(&chunk?);
            if text.len() as u64 > LONGEST {
                return Err(Error::io("it is too long"));
            }
        }
        Intent::parse(&text, &instance.key, &key)
    }

    /// None: it has not happened, and will not.
    async fn resume_rename(
        self: &Arc<Self>,
        object: &ListedObject,
        instance: &Instance,
    ) -> Result<Option<Intent>> {
        let key = object_name::object_key(object.key.clone())?;
        if object.size == 0 {
            self.bucket.store().delete(&key).await?;
            return Ok(None);
        }
        let intent = self.read_intent(object, instance).await?;
        let prefix = &self.settings.prefix;
        let (old, new) = (
            format!("{prefix}{}", intent.from),
            format!("{prefix}{}", intent.to),
        );
        if self.objects.is_bare(&new).await? {
            // Nothing was copied yet but perhaps the marker, or it was undone: it has not happened.
            self.remove_marker_copy(&old, &new).await?;
            self.bucket.store().delete(&key).await?;
            return Ok(None);
        }
        let path = Move {
            ino: Ino::ROOT,
            old,
            new,
            from: (Ino::ROOT, Name::from("")),
            to: (Ino::ROOT, Name::from("")),
        };
        let mut left = None;
        let mut request = ListRequest {
            prefix: path.old.clone(),
            ..ListRequest::default()
        };
        // Page by page: others may have made more there than there is memory for.
        loop {
            let page = self.bucket.store().list(&request).await?;
            let sources = page.objects;
            let copied: Vec<bool> = stream::iter(&sources)
                .map(|source| self.copy_or_compare(&path, source))
                .buffered(PARALLEL)
                .try_collect()
                .await?;
            let done = sources.iter().zip(&copied).filter(|(_, copied)| **copied);
            self.objects
                .delete_all(done.map(|(source, _)| source.key.as_str()))
                .await?;
            let at = copied.iter().position(|copied| !copied);
            left = left.or(at.map(|at| sources[at].key.clone()));
            match page.next {
                None => break,
                token => request.token = token,
            }
        }
        if let Some(left) = left {
            return Err(Error::io(format!(
                "\"{}\" stands under the new name with another content: both are left as they are",
                left.escape_debug()
            )));
        }
        self.bucket.store().delete(&key).await?;
        Ok(Some(intent))
    }

    /// Deletes a directory's marker if it is a copy of another one's.
    async fn remove_marker_copy(&self, old: &str, new: &str) -> Result<()> {
        if let (Some(old), Some(copy)) = (
            self.markers.marker_at(old).await?,
            self.markers.marker_at(new).await?,
        ) && is_copy(&old, &copy)
        {
            let key = object_name::object_key(new.to_owned())?;
            self.bucket.store().delete(&key).await?;
        }
        Ok(())
    }

    /// Copies an object where nothing stands. Whether what stands there otherwise is the same: its copy, which
    /// nobody has changed since.
    async fn copy_or_compare(&self, path: &Move, source: &ListedObject) -> Result<bool> {
        match self.copy_below(path, source, Overwrite::Forbidden).await {
            Ok(_) => Ok(true),
            // Gone since it was listed.
            Err(Error::NotFound) => Ok(true),
            Err(Error::Exists) => {
                let (from, to) = (
                    object_name::object_key(source.key.clone())?,
                    object_name::object_key(path.key_of_copy(&source.key))?,
                );
                let store = self.bucket.store();
                let (from, to) = tokio::try_join!(store.head(&from), store.head(&to))?;
                Ok(is_copy(&from, &to))
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_by_its_name() {
        let (id, other) = ("0123456789abcdef", "fedcba9876543210");
        for (name, expected) in [
            (format!("rename-{id}-{other}"), Some(Left::Intent(Some(id)))),
            ("rename-1".to_owned(), Some(Left::Intent(None))),
            (format!("rename-{id}"), Some(Left::Intent(None))),
            (format!("rename-{id}-{other}x"), Some(Left::Intent(None))),
            (
                "rename-\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}".to_owned(),
                Some(Left::Intent(None)),
            ),
            (format!("aside/{id}-{other}"), Some(Left::Aside(id))),
            (format!("aside/{id}"), None),
            (format!("aside/{}-{other}", id.to_uppercase()), None),
            ("root".to_owned(), None),
        ] {
            assert_eq!(Left::of(&name), expected, "{name}");
        }
    }

    #[test]
    fn an_intent_counts_only_where_it_was_written_and_as_it_was() {
        let secret = MacKey::generate();
        let key = |key: &str| ObjectKey::new(key).unwrap();
        let here = key(".ossvault/rename-1");
        let intent = |from: &str, to: &str| Intent::new(&secret, &here, from.into(), to.into());
        intent("a/", "b/").check(&secret, &here).unwrap();
        for (from, to) in [
            ("a", "b/"),
            ("a/", "a/b/"),
            ("a/b/", "a/"),
            ("a/", "../b/"),
            ("a//", "b/"),
            ("/", "b/"),
            (".ossvault/", "b/"),
            ("a/", ".ossvault/x/"),
            ("", "b/"),
        ] {
            let checked = intent(from, to).check(&secret, &here);
            assert!(checked.is_err(), "{from} {to}");
        }
        let mut changed = intent("a/", "b/");
        changed.from = "c/".into();
        assert!(changed.check(&secret, &here).is_err());
        let elsewhere = key(".ossvault/rename-2");
        assert!(intent("a/", "b/").check(&secret, &elsewhere).is_err());
        let other = MacKey::generate();
        assert!(intent("a/", "b/").check(&other, &here).is_err());
        for mac in ["", "zz", &"0".repeat(64), &"\u{e9}".repeat(32)] {
            let forged = Intent {
                mac: mac.to_owned(),
                ..intent("a/", "b/")
            };
            assert!(forged.check(&secret, &here).is_err(), "{mac}");
        }
    }
}
