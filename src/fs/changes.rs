//! Making, removing and renaming names.

use std::sync::Arc;
use std::time::Instant;

use super::attributes::{Attributes, Kind};
use super::error::{Error, Result};
use super::filesystem::{Filesystem, Notice, lock};
use super::gate::Scope;
use super::listing::Object;
use super::lookup::{Caller, Looks};
use super::names::{self, Name};
use super::namespace::{Ino, Target, now};
use super::open_file::OpenFile;
use super::staging::StagedFile;
use super::writeback::{headers_of, object_of_ours};
use crate::encrypted::Plaintext;
use crate::encrypted::copy::CopyLimits;
use crate::store::object_store::{
    CopyHeaders, ETag, ListRequest, ObjectKey, ObjectMeta, Overwrite, PutAnswer,
};

/// How long a symbolic link's target may be, in bytes.
const MAX_TARGET: usize = 4095;

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
        names::object_key(key.ok_or(Error::NotFound)?)?;
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

    /// Passes on how a change of a name ended. Where the bucket may have it or not, what is known of the name
    /// counts no more.
    fn settled<T>(&self, parent: Ino, name: &Name, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && !error.is_refusal()
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
        let (key, attributes) = {
            let namespace = self.namespace();
            let key = namespace.child_key(parent, name).ok_or(Error::NotFound)?;
            let attributes = self.new_attributes(&namespace, parent, Kind::Directory, mode, caller);
            (format!("{key}/"), attributes)
        };
        let object_key = names::object_key(key.clone())?;
        let _pass = self.gate.enter(vec![Scope::Key(key)]).await;
        let marker = self.put_marker(&object_key, &attributes).await;
        let marker = self.settled(parent, name, marker)?;
        let ino = {
            let mut namespace = self.namespace();
            namespace.touch_directory(parent, now());
            namespace.made_directory(parent, name, attributes, marker, Instant::now())
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
        if target.len() > MAX_TARGET {
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
        let (key, attributes) = {
            let namespace = self.namespace();
            let key = namespace.child_key(parent, name).ok_or(Error::NotFound)?;
            let mut attributes = self.new_attributes(&namespace, parent, kind, mode, caller);
            attributes.rdev = rdev;
            (names::object_key(key)?, attributes)
        };
        let _pass = self
            .gate
            .enter(vec![Scope::Key(key.as_str().to_owned())])
            .await;
        let size = content.len() as u64;
        let uploaded = self
            .bucket
            .put(
                &key,
                &Plaintext::from_bytes(content),
                headers_of(&attributes),
                None,
                Overwrite::Forbidden,
            )
            .await;
        let uploaded = self.settled(parent, name, uploaded.map_err(Error::from))?;
        let etag = uploaded.object.etag.clone();
        let object = object_of_ours(size, etag, uploaded.date, &attributes, false);
        {
            let mut namespace = self.namespace();
            namespace.published(parent, name, object, Instant::now());
            namespace.touch_directory(parent, now());
        }
        let view = self.look(parent, name, start).await?;
        Ok(self.entered(view.map_err(|_| Error::NotFound)?, start))
    }

    /// # Errors
    /// [`Error::Exists`] when the name is taken.
    async fn begin_making(self: &Arc<Self>, parent: Ino, name: &str) -> Result<Instant> {
        self.writable()?;
        self.check_new_name(parent, name)?;
        let start = Instant::now();
        match self.target(parent, name, start).await? {
            Some(_) => Err(Error::Exists),
            None => Ok(start),
        }
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
            Target::Object(_, ino) => {
                self.delete_object(parent, name, ino).await?;
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
    fn covers_object(&self, ino: Ino) -> bool {
        let stored = self
            .file_of(ino)
            .is_some_and(|file| file.lock().maybe_stored);
        let namespace = self.namespace();
        stored || namespace.covers(ino) || !namespace.is_unpublished(ino)
    }

    /// Deletes what a file that has moved on stood over.
    async fn remove_covered(self: &Arc<Self>, from: &(Ino, Name), key: &str) -> Result<()> {
        self.keep_directory(from.0, &from.1).await?;
        let key = names::object_key(key.to_owned())?;
        self.bucket.store().delete(&key).await?;
        self.namespace()
            .removed_name(from.0, &from.1, Instant::now());
        Ok(())
    }

    /// The file is not to be uploaded any more.
    fn abandon(&self, file: &Arc<OpenFile>) {
        {
            let mut state = file.lock();
            state.gone = true;
            state.leaving = true;
            state.abandon_stream();
        }
        file.moved.notify_waiters();
    }

    /// The file's name is about to go, and perhaps its object: whoever has it open goes on reading, and it is
    /// not uploaded any more. Followed by [`Filesystem::after_removal`] or [`Filesystem::take_back`].
    async fn part_with(self: &Arc<Self>, file: &Arc<OpenFile>) -> Result<()> {
        loop {
            self.preserve(file).await?;
            let state = file.lock();
            // Opened meanwhile, or an upload has just let go of what was staged.
            let again = state.handles > 0
                && state.aside.is_none()
                && state.needs_base()
                && self.bucket.can_read()
                && state.content.is_some();
            drop(state);
            if !again {
                self.abandon(file);
                return Ok(());
            }
        }
    }

    /// It could not be removed after all.
    fn take_back(self: &Arc<Self>, file: &Arc<OpenFile>) {
        {
            let mut state = file.lock();
            (state.gone, state.leaving) = (false, false);
        }
        self.tend(file);
        self.let_go(file);
    }

    pub(super) fn file_of(&self, ino: Ino) -> Option<Arc<OpenFile>> {
        lock(&self.files).get(&ino).cloned()
    }

    fn after_removal(self: &Arc<Self>, ino: Ino) {
        if let Some(file) = self.file_of(ino) {
            file.lock().leaving = false;
            self.let_go(&file);
        }
    }

    /// Removes a name and its object; who has it open goes on reading.
    async fn delete_object(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        ino: Option<Ino>,
    ) -> Result<()> {
        let file = ino.and_then(|ino| self.file_of(ino));
        if let Some(file) = &file {
            self.part_with(file).await?;
        }
        let key = self
            .namespace()
            .child_key(parent, name)
            .ok_or(Error::NotFound)?;
        let result = async {
            // An upload under way ends first.
            let _pass = self.gate.enter(vec![Scope::Key(key.clone())]).await;
            if ino.is_some_and(|ino| !self.covers_object(ino)) {
                // The bucket never had it.
                self.keep_directory(parent, name).await?;
                self.namespace().forgotten(parent, name);
                return Ok(());
            }
            self.keep_directory(parent, name).await?;
            let key = names::object_key(key)?;
            self.bucket.store().delete(&key).await?;
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
            let key = namespace.key(parent).ok_or(Error::NotFound)?;
            let stored = namespace.stored_directory(parent);
            let Some(directory) = namespace.directory(parent) else {
                return Ok(());
            };
            let listing = &directory.listing;
            let others = listing.names().any(|(name, _)| **name != *last);
            if listing.marker() != Some(false) || others || listing.complete().is_none() {
                return Ok(());
            }
            let attributes = stored.unwrap_or_else(|| Attributes::implicit_directory(now()));
            (names::object_key(key)?, attributes)
        };
        let marker = self.put_marker(&key, &attributes).await?;
        self.namespace()
            .set_directory(parent, attributes, Some(marker), Instant::now());
        Ok(())
    }

    /// Makes what handles of a clean file may still read independent of its object, which is about to go:
    /// its bytes are staged, or, when they are many, the object is copied aside.
    pub(super) async fn preserve(self: &Arc<Self>, file: &Arc<OpenFile>) -> Result<()> {
        let content = {
            let state = file.lock();
            if state.handles == 0 || (state.staged.is_some() && !state.needs_base()) {
                return Ok(());
            }
            match &state.content {
                Some(content) if content.size() > 0 && self.bucket.can_read() => content.clone(),
                _ => return Ok(()),
            }
        };
        let largest = self.settings.memory_limit / 4;
        if content.size() <= largest {
            match self.stage_whole(file, &content).await {
                Ok(()) => return Ok(()),
                Err(Error::NoSpace) => {}
                Err(error) => return Err(error),
            }
        }
        let Some(key) = self.namespace().key(file.ino) else {
            return Ok(());
        };
        let key = names::object_key(key)?;
        let aside = names::object_key(format!(
            "{}{}/aside/{:016x}",
            self.settings.prefix,
            names::RESERVED,
            rand::random::<u64>()
        ))?;
        let described = self.headers(&key, &content.etag(), Instant::now()).await?;
        let answer = self
            .copy_object(&key, &described.meta, &aside, CopyHeaders::Keep)
            .await?;
        if let Ok(object) = &described.object {
            content.set_object(aside.clone(), object.with_etag(answer.etag));
        }
        file.lock().aside = Some(aside);
        Ok(())
    }

    /// Reads all of a version into staging, below what was written.
    async fn stage_whole(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        content: &Arc<super::content::Content>,
    ) -> Result<()> {
        let reader = content.reader();
        let staged_already = file.lock().staged.is_some();
        if !staged_already {
            let mut staged = StagedFile::new(&self.staging, None);
            self.fill(&mut staged, &reader, 0..content.size()).await?;
            let mut state = file.lock();
            if state.staged.is_none() {
                state.staged = Some(staged);
            }
            return Ok(());
        }
        loop {
            let gap = {
                let state = file.lock();
                let Some(staged) = &state.staged else {
                    return Ok(());
                };
                staged.base_gaps(0..staged.len()).into_iter().next()
            };
            let Some(gap) = gap else { return Ok(()) };
            let step = gap.start..gap.end.min(gap.start + (1 << 20));
            let bytes = reader.read(step.clone()).await?;
            if bytes.is_empty() {
                return Err(Error::io("the object ended early"));
            }
            loop {
                let room = match &file.lock().staged {
                    Some(staged) => staged.room_for(step.start, bytes.len()),
                    None => return Ok(()),
                };
                let room = room.await?;
                let mut state = file.lock();
                let Some(staged) = &mut state.staged else {
                    return Ok(());
                };
                // Written over meanwhile: that counts more.
                let still_gap = staged.base_gaps(step.clone()) == [step.clone()];
                if !still_gap || staged.write_with(step.start, &bytes, room).is_ok() {
                    break;
                }
            }
        }
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
        let key = self.namespace().key(ino).ok_or(Error::NotFound)?;
        let _pass = self.gate.enter(vec![Scope::Subtree(key.clone())]).await;
        self.check_empty(ino, start).await?;
        self.keep_directory(parent, name).await?;
        let deleted = self.bucket.store().delete(&names::object_key(key)?).await;
        self.settled(parent, name, deleted.map_err(Error::from))?;
        let mut namespace = self.namespace();
        namespace.removed(parent, name, Instant::now());
        namespace.touch_directory(parent, now());
        Ok(())
    }

    /// # Errors
    /// [`Error::NotEmpty`].
    pub(super) async fn check_empty(self: &Arc<Self>, ino: Ino, start: Instant) -> Result<()> {
        let (fresh, key) = {
            let mut namespace = self.namespace();
            if !namespace.unpublished_children(ino).is_empty() {
                return Err(Error::NotEmpty);
            }
            let key = namespace.key(ino).ok_or(Error::NotFound)?;
            let ttl = namespace.ttl();
            let directory = namespace.directory(ino).ok_or(Error::NotDirectory)?;
            if directory.listing.is_fresh(ttl, start) {
                return match directory.listing.is_empty() {
                    true => Ok(()),
                    false => Err(Error::NotEmpty),
                };
            }
            (directory.listing.is_one_page(), key)
        };
        if fresh {
            self.list(ino, false, start).ended().await?;
            let mut namespace = self.namespace();
            let directory = namespace.directory(ino).ok_or(Error::NotDirectory)?;
            return match directory.listing.is_empty() {
                true => Ok(()),
                false => Err(Error::NotEmpty),
            };
        }
        let below = ListRequest {
            prefix: key.clone(),
            max_keys: 2,
            ..ListRequest::default()
        };
        let page = self.bucket.store().list(&below).await?;
        match page.objects.iter().all(|object| object.key == key) {
            true => Ok(()),
            false => Err(Error::NotEmpty),
        }
    }

    // ---- rename ----

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
            self.rename_directory(ino, &from, &to, replaced, start)
                .await?;
        } else {
            self.rename_file(source, &from, &to, target).await?;
        }
        let mut namespace = self.namespace();
        namespace.touch_directory(from.0, now());
        namespace.touch_directory(to.0, now());
        Ok(())
    }

    async fn rename_file(
        self: &Arc<Self>,
        source: Target,
        from: &(Ino, Name),
        to: &(Ino, Name),
        target: Option<Target>,
    ) -> Result<()> {
        let replaced = match &target {
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
        let (old_key, new_key) = {
            let namespace = self.namespace();
            let old = namespace
                .child_key(from.0, &from.1)
                .ok_or(Error::NotFound)?;
            let new = namespace.child_key(to.0, &to.1).ok_or(Error::NotFound)?;
            (old, new)
        };
        // Whatever is on its way under either name ends first; nothing of the new name starts again.
        let replaced_file = replaced.and_then(|ino| self.file_of(ino));
        if let Some(file) = &replaced_file {
            self.part_with(file).await?;
        }
        let result = self
            .rename_onto(source, (from, &old_key), (to, &new_key), &target)
            .await;
        if let Some(ino) = replaced {
            let named = self.namespace().place(ino).is_some();
            match &replaced_file {
                Some(file) if named && result.is_err() => self.take_back(file),
                _ => self.after_removal(ino),
            }
        }
        result
    }

    /// Gives a file the name `to`; who had that has been parted with.
    async fn rename_onto(
        self: &Arc<Self>,
        source: Target,
        (from, old_key): (&(Ino, Name), &str),
        (to, new_key): (&(Ino, Name), &str),
        target: &Option<Target>,
    ) -> Result<()> {
        let scopes = vec![
            Scope::Key(old_key.to_owned()),
            Scope::Key(new_key.to_owned()),
        ];
        let pass = self.gate.enter(scopes).await;
        // The upload that was waited for may have put it into the bucket.
        let source = match source {
            Target::Unpublished(ino) if !self.namespace().is_unpublished(ino) => {
                let object = self.namespace().object(ino).ok_or(Error::NotFound)?;
                Target::Object(object, Some(ino))
            }
            source => source,
        };
        match source {
            Target::Unpublished(ino) => {
                let uncovers = self.covers_object(ino);
                let covers = match target {
                    Some(Target::Unpublished(replaced)) => self.covers_object(*replaced),
                    target => target.is_some(),
                };
                self.rename_unpublished(ino, to, covers);
                let removed = match uncovers {
                    true => self.remove_covered(from, old_key).await,
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
                    namespace.doubt(from.0, &from.1);
                    namespace.doubt(to.0, &to.1);
                    drop(namespace);
                    self.notify(Notice::Name(to.0, to.1.to_string()));
                }
                result
            }
            Target::Object(object, ino) => {
                let result = self
                    .move_object(old_key, new_key, object, ino, from, to)
                    .await;
                drop(pass);
                if result.is_err() {
                    // How far it came, the bucket knows.
                    let mut namespace = self.namespace();
                    namespace.doubt(from.0, &from.1);
                    namespace.doubt(to.0, &to.1);
                }
                result
            }
            Target::Directory(_) => Err(Error::Invalid),
        }
    }

    /// A file that the bucket does not have yet costs no request: its upload takes the new name.
    fn rename_unpublished(&self, ino: Ino, to: &(Ino, Name), covers: bool) {
        if let Some(file) = self.file_of(ino) {
            let mut state = file.lock();
            // An upload cannot change its name; a rename replaces, whatever the file was created with.
            state.abandon_stream();
            state.exclusive = false;
            state.maybe_stored = false;
            drop(state);
            file.moved.notify_waiters();
        }
        let mut namespace = self.namespace();
        namespace.moved(ino, to.0, &to.1);
        namespace.set_covers(ino, covers);
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
        old_key: &str,
        new_key: &str,
        object: Object,
        ino: Option<Ino>,
        from: &(Ino, Name),
        to: &(Ino, Name),
    ) -> Result<()> {
        let old_key = names::object_key(old_key.to_owned())?;
        let new_key = names::object_key(new_key.to_owned())?;
        let described = self.known_headers(&old_key, &object.etag);
        let mut object = object;
        let mut tries = 0;
        let answer = loop {
            let copied = self.copy_listed(&old_key, &object, &new_key).await;
            match copied {
                Err(Error::Stale) if tries < 4 => {
                    // Replaced by another client: it is the newer one that is renamed.
                    tries += 1;
                    let sent = Instant::now();
                    let meta = self.bucket.store().head(&old_key).await?;
                    object = self.describe(&old_key, meta, sent);
                }
                result => break result?,
            }
        };
        self.keep_directory(from.0, &from.1).await?;
        self.bucket.store().delete(&old_key).await?;
        let sent = Instant::now();
        if let Some(described) = described {
            let meta = ObjectMeta {
                etag: answer.etag.clone(),
                last_modified: answer.date,
                date: answer.date,
                ..described.meta.clone()
            };
            self.remember_headers(&new_key, meta, sent);
        }
        let copied = object.etag.clone();
        let moved = Object {
            etag: answer.etag.clone(),
            last_modified: super::seconds(answer.date),
            ours: true,
            ..object
        };
        {
            let mut namespace = self.namespace();
            if let Some(ino) = ino {
                namespace.moved(ino, to.0, &to.1);
            }
            namespace.removed_name(from.0, &from.1, sent);
            if ino.is_none() {
                // No inode knows the name; whoever had the new one lost it.
                namespace.removed(to.0, &to.1, sent);
            }
            namespace.published(to.0, &to.1, moved.clone(), sent);
        }
        if let Some(ino) = ino {
            self.moved_content(ino, &new_key, &copied, &moved);
        }
        Ok(())
    }

    /// Open files read on from the new name, if version `copied`, which was moved there, is what they read.
    pub(super) fn moved_content(&self, ino: Ino, key: &ObjectKey, copied: &ETag, object: &Object) {
        let Some(file) = self.file_of(ino) else {
            return;
        };
        let state = file.lock();
        let same = state
            .content
            .as_ref()
            .filter(|content| content.etag() == *copied);
        let Some(content) = same else {
            return;
        };
        match content.object() {
            Some(envelope) => {
                content.set_object(key.clone(), envelope.with_etag(object.etag.clone()));
            }
            None => content.set_key(key.clone()),
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
    ) -> Result<PutAnswer> {
        if object.size < self.settings.copy_limit {
            let store = self.bucket.store();
            let copied = store.copy(
                source,
                &object.etag,
                destination,
                CopyHeaders::Keep,
                Overwrite::Allowed,
            );
            return Ok(copied.await?);
        }
        let described = self.headers(source, &object.etag, Instant::now()).await?;
        if described.meta.etag != object.etag {
            return Err(Error::Stale);
        }
        self.copy_object(source, &described.meta, destination, CopyHeaders::Keep)
            .await
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
    ) -> Result<PutAnswer> {
        let limits = CopyLimits {
            copy: self.settings.copy_limit,
            ..CopyLimits::default()
        };
        let copied = self.bucket.copy(source, meta, destination, headers, limits);
        Ok(copied.await?)
    }
}
