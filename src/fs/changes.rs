//! Making, removing and renaming names.

use std::sync::Arc;
use std::time::Instant;

use super::attributes::{Attributes, Kind};
use super::error::{Error, Result};
use super::filesystem::Filesystem;
use super::gate::Scope;
use super::lookup::{Caller, Looks};
use super::names::{self, Name};
use super::namespace::{Ino, Namespace, Target, now};
use super::open_file::OpenFile;
use super::uploads::{headers_of, object_of_ours};
use crate::base::sync::lock;
use crate::encrypted::Plaintext;
use crate::envelope::format::LONGEST_LINK;
use crate::store::object_store::{ListRequest, Overwrite};

impl Filesystem {
    // ---- what every change asks first ----

    pub(super) fn is_reserved(&self, parent: Ino, name: &str) -> bool {
        parent == Ino::ROOT && name == names::RESERVED
    }

    /// # Errors
    /// [`Error::NotPermitted`] for reserved names; [`Error::NameTooLong`], [`Error::Invalid`] for keys that
    /// the service would refuse.
    pub(super) fn check_new_name(&self, parent: Ino, name: &str) -> Result<()> {
        if self.is_reserved(parent, name) {
            return Err(Error::NotPermitted);
        }
        let key = self.namespace().child_key(parent, name);
        names::object_key(key.ok_or(Error::Stale)?)?;
        Ok(())
    }

    /// What stands under a name, asked for if need be.
    pub(super) async fn target(
        self: &Arc<Self>,
        parent: Ino,
        name: &str,
        start: Instant,
    ) -> Result<Option<Target>> {
        loop {
            let target = self.namespace().target(parent, name, start);
            match target {
                Some(target) => return Ok(target),
                None => self.ask_name(parent, name, start).await?,
            }
        }
    }

    /// Passes on how a change of a name ended. Where the bucket may have it or not, or has what another client made,
    /// what is known of the name counts no more.
    pub(super) fn settled<T>(&self, parent: Ino, name: &Name, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && (!error.is_refusal() || matches!(error, Error::Exists))
        {
            self.namespace().doubt(parent, name);
        }
        result
    }

    // ---- make ----

    pub async fn mkdir(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        mode: u32,
        caller: Caller,
    ) -> Result<Looks> {
        let start = self.begin_making(parent, name).await?;
        let _held;
        let ino = {
            let _changing = self.begin_change([(parent, name)]);
            let marker_key = |namespace: &Namespace| {
                let key = namespace.child_key(parent, name)?;
                Some(format!("{key}/"))
            };
            let _pass = self
                .enter(|namespace| Some(vec![Scope::Key(marker_key(namespace)?)]))
                .await?;
            let (key, attributes) = {
                let namespace = self.namespace();
                let key = marker_key(&namespace).ok_or(Error::Stale)?;
                let attributes =
                    self.new_attributes(&namespace, parent, Kind::Directory, mode, caller);
                (names::object_key(key)?, attributes)
            };
            let marker = self
                .put_marker(&key, &attributes, Overwrite::Forbidden)
                .await;
            let marker = self.settled(parent, name, marker)?;
            let mut namespace = self.namespace();
            namespace.touch_directory(parent, now());
            let now = Instant::now();
            let ino = namespace.made_directory(parent, name, attributes, marker, now);
            _held = self.hold_in(&mut namespace, ino);
            ino
        };
        let view = self.look_at(ino, start).await?;
        Ok(self.entered(view, start))
    }

    pub async fn symlink(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        target: &[u8],
        caller: Caller,
    ) -> Result<Looks> {
        if target.is_empty() {
            return Err(Error::NotFound);
        }
        if target.len() as u64 > LONGEST_LINK {
            return Err(Error::NameTooLong);
        }
        let target = bytes::Bytes::copy_from_slice(target);
        self.make_object(parent, name, Kind::Symlink, 0o777, 0, target, caller)
            .await
    }

    /// Special files are empty objects that say what they are. So is a regular file that mknod makes.
    pub async fn mknod(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        mode: u32,
        rdev: u32,
        caller: Caller,
    ) -> Result<Looks> {
        let kind = Kind::from_mode(mode).ok_or(Error::Invalid)?;
        if matches!(kind, Kind::Directory | Kind::Symlink) {
            return Err(Error::NotPermitted);
        }
        let content = bytes::Bytes::new();
        self.make_object(parent, name, kind, mode, rdev, content, caller)
            .await
    }

    #[allow(clippy::too_many_arguments)] // what mknod and symlink have together
    async fn make_object(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        kind: Kind,
        mode: u32,
        rdev: u32,
        content: bytes::Bytes,
        caller: Caller,
    ) -> Result<Looks> {
        let start = self.begin_making(parent, name).await?;
        {
            let _changing = self.begin_change([(parent, name)]);
            let _pass = self.enter_name(parent, name).await?;
            let (key, attributes) = {
                let namespace = self.namespace();
                let key = namespace.child_key(parent, name).ok_or(Error::Stale)?;
                let mut attributes = self.new_attributes(&namespace, parent, kind, mode, caller);
                attributes.rdev = rdev;
                (names::object_key(key)?, attributes)
            };
            let size = content.len() as u64;
            let plain = Plaintext::from_bytes(content);
            let headers = headers_of(&attributes);
            let put = self
                .bucket
                .put(&key, &plain, headers, None, Overwrite::Forbidden);
            let uploaded = put.await.map_err(Error::from);
            if uploaded.is_err() {
                self.forget_object(&key);
            }
            let uploaded = self.settled(parent, name, uploaded)?;
            self.remember_upload(&key, &uploaded, Instant::now());
            let etag = uploaded.object.etag.clone();
            let object = object_of_ours(size, etag, uploaded.date, &attributes, false);
            let mut namespace = self.namespace();
            namespace.published(parent, name, object, Instant::now());
            namespace.touch_directory(parent, now());
        }
        let view = self.look_up(parent, name, start).await?;
        Ok(self.looks(view.map_err(|_| Error::NotFound)?))
    }

    /// # Errors
    /// [`Error::Exists`] when the name is taken.
    async fn begin_making(self: &Arc<Self>, parent: Ino, name: &str) -> Result<Instant> {
        self.writable()?;
        self.check_new_name(parent, name)?;
        let start = Instant::now();
        if self.target(parent, name, start).await?.is_some() {
            return Err(Error::Exists);
        }
        // What is made in a directory may get its group from it.
        self.look_at(parent, start).await?;
        Ok(start)
    }

    // ---- remove ----

    pub async fn unlink(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<()> {
        self.writable()?;
        let target = self.target(parent, name, Instant::now()).await?;
        match target.ok_or(Error::NotFound)? {
            Target::Directory(_) => return Err(Error::IsDirectory),
            Target::Unpublished(ino) => {
                self.delete_object(parent, name, Some(ino)).await?;
                self.after_removal(ino);
            }
            Target::Object(object, ino) => {
                let key = self.namespace().child_key(parent, name);
                self.delete_object(parent, name, ino).await?;
                if let Some(Ok(key)) = key.map(names::object_key) {
                    self.forget_kept(&key, &object.etag);
                }
                if let Some(ino) = ino {
                    self.after_removal(ino);
                }
            }
        }
        self.namespace().touch_directory(parent, now());
        Ok(())
    }

    /// Whether there may be an object under the name of a file that the bucket does not have yet: one that
    /// it is to replace, or what an upload that was broken off has left. An object that another client made
    /// meanwhile is not ours to delete.
    pub(super) fn covers_object(&self, ino: Ino) -> bool {
        let stored = self
            .file_of(ino)
            .is_some_and(|file| file.lock().maybe_stored);
        let namespace = self.namespace();
        stored || namespace.covers(ino) || !namespace.is_unpublished(ino)
    }

    pub(super) fn file_of(&self, ino: Ino) -> Option<Arc<OpenFile>> {
        lock(&self.files).get(&ino).cloned()
    }

    /// Removes a name and its object; who has it open goes on reading.
    async fn delete_object(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        ino: Option<Ino>,
    ) -> Result<()> {
        let _changing = self.begin_change([(parent, name)]).and_leaving(ino);
        let file = ino.and_then(|ino| self.file_of(ino));
        if let Some(file) = &file {
            self.part_with(file).await?;
        }
        let result = async {
            // An upload under way ends first.
            let _pass = self.enter_name(parent, name).await?;
            self.keep_directory(parent, name).await?;
            if ino.is_some_and(|ino| !self.covers_object(ino)) {
                // The bucket never had it.
                self.namespace().forgotten(parent, name);
                return Ok(());
            }
            let key = self.namespace().child_key(parent, name);
            let key = names::object_key(key.ok_or(Error::Stale)?)?;
            let deleted = self.bucket.store().delete(&key).await;
            let deleted = deleted.map_err(Error::from);
            self.note_deletion(key.as_str(), &deleted);
            self.forget_object(&key);
            deleted?;
            self.namespace().removed(parent, name, Instant::now());
            Ok(())
        }
        .await;
        if result.is_err()
            && let Some(file) = &file
        {
            self.take_back(file);
        }
        self.settled(parent, name, result)
    }

    /// A directory whose last name is about to go gets a marker, or it would go along.
    pub(super) async fn keep_directory(self: &Arc<Self>, parent: Ino, last: &str) -> Result<()> {
        if parent == Ino::ROOT {
            return Ok(());
        }
        let (key, attributes) = {
            let mut namespace = self.namespace();
            let key = namespace.key(parent).ok_or(Error::Stale)?;
            let stored = namespace.stored_directory(parent);
            let Some(directory) = namespace.directory(parent) else {
                return Ok(());
            };
            let listing = &directory.listing;
            let others = listing.has_hidden() || listing.names().any(|(name, _)| **name != *last);
            if listing.marker() != Some(false) || others || listing.complete().is_none() {
                return Ok(());
            }
            let attributes = stored.unwrap_or_else(|| Attributes::implicit_directory(now()));
            (names::object_key(key)?, attributes)
        };
        let marker = self
            .put_marker(&key, &attributes, Overwrite::Allowed)
            .await?;
        self.namespace()
            .set_directory(parent, attributes, Some(marker), Instant::now());
        Ok(())
    }

    // ---- rmdir ----

    pub async fn rmdir(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<()> {
        self.writable()?;
        let start = Instant::now();
        let ino = match self
            .target(parent, name, start)
            .await?
            .ok_or(Error::NotFound)?
        {
            Target::Directory(ino) => ino,
            _ => return Err(Error::NotDirectory),
        };
        let _changing = self.begin_change([(parent, name)]);
        let _pass = self
            .enter(|namespace| Some(vec![Scope::Subtree(namespace.key(ino)?)]))
            .await?;
        self.check_empty(ino, start).await?;
        self.keep_directory(parent, name).await?;
        let key = self.namespace().key(ino).ok_or(Error::Stale)?;
        let key = names::object_key(key)?;
        let deleted = self.bucket.store().delete(&key).await;
        let deleted = deleted.map_err(Error::from);
        self.note_deletion(key.as_str(), &deleted);
        self.forget_object(&key);
        self.settled(parent, name, deleted)?;
        let mut namespace = self.namespace();
        namespace.removed(parent, name, Instant::now());
        namespace.touch_directory(parent, now());
        Ok(())
    }

    /// Nothing of the directory changes meanwhile: the caller has a pass for its subtree, so it is not listed.
    ///
    /// # Errors
    /// [`Error::NotEmpty`].
    pub(super) async fn check_empty(self: &Arc<Self>, ino: Ino, start: Instant) -> Result<()> {
        let key = {
            let mut namespace = self.namespace();
            if !namespace.unpublished_children(ino).is_empty() {
                return Err(Error::NotEmpty);
            }
            let key = namespace.key(ino).ok_or(Error::Stale)?;
            let ttl = namespace.ttl();
            let directory = namespace.directory(ino).ok_or(Error::NotDirectory)?;
            if directory.listing.is_fresh(ttl, start) {
                return match directory.listing.is_empty() {
                    true => Ok(()),
                    false => Err(Error::NotEmpty),
                };
            }
            key
        };
        match self.is_bare(&key).await? {
            true => Ok(()),
            false => Err(Error::NotEmpty),
        }
    }

    /// Whether there is no object below this prefix but its marker.
    pub(super) async fn is_bare(&self, prefix: &str) -> Result<bool> {
        let below = ListRequest {
            prefix: prefix.to_owned(),
            max_keys: 2,
            ..ListRequest::default()
        };
        let page = self.bucket.store().list(&below).await?;
        // What is hidden is there all the same.
        Ok(page.hidden == 0 && page.objects.iter().all(|object| object.key == prefix))
    }
}
