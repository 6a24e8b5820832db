//! What earlier mounts on this machine did not live to finish: directory renames, and what they had put aside.
//!
//! The next mount on the machine carries on what one that has ended has begun. An intent that is not ours is an order
//! of somebody else's, and is left alone. What others have changed under either name since is left as it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::directory::{DirectoryMove, PARALLEL};
use super::intent::Intent;
use super::renames::Renames;
use crate::base::error_chain::chain;
use crate::encrypted::reserved::RESERVED;
use crate::fs::error::{Error, Result};
use crate::fs::instance::{Instance, is_id};
use crate::fs::namespace::inode::Ino;
use crate::fs::namespace::object_name::{self, Name};
use crate::fs::resolver::objects::is_copy;
use crate::store::object_store::{ListPage, ListRequest, ListedObject, Overwrite};

/// What was put aside is deleted no sooner, should the mount live where its lock does not show.
const ASIDE_AT_LEAST: Duration = Duration::from_secs(3600);

/// What a mount has left.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Left<'a> {
    /// Of the mount of that name; None: of one whose name is not told.
    Intent(Option<&'a str>),
    Aside(&'a str),
}

impl Left<'_> {
    /// By the part of a key after `.ossvault/`.
    pub(crate) fn of(name: &str) -> Option<Left<'_>> {
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

impl Renames {
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
        let below = format!("{}{}/", self.settings.prefix, RESERVED);
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
                "cannot delete \"{}\", which an earlier mount had set aside: {}",
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
                    "the directory rename recorded in \"{name}\" is not resumed: it is in progress, or was not begun by a mount on this machine"
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
                    "cannot finish a directory rename that an earlier mount began (see the object \"{name}\"): {}",
                    chain(&error)
                );
                false
            }
        }
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
        let intent = self.intents.read_intent(object, instance).await?;
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
        let path = DirectoryMove {
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
    /// unchanged since.
    async fn copy_or_compare(&self, path: &DirectoryMove, source: &ListedObject) -> Result<bool> {
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
}
