//! The name tree behind its lock, and changes of names while they are under way.
//!
//! Between the moment at which the bucket carries out a change and the moment at which we hear of it, what
//! the bucket says of the name is neither what was nor what will be. `NameGuard` marks the names for that
//! time: what is cached stands, responses about them are dropped, and a call that would have to request them waits
//! for the end. `Names::lock_keys` is the right to change their keys; a directory above may be renamed
//! while one waits for it, so the keys are looked up again once it is there.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tokio::sync::Notify;

use super::change_log::Epoch;
use super::inode::Ino;
use super::kernel::{Invalidation, Kernel};
use super::key_locks::{KeyGuard, KeyLocks, Scope};
use super::object_name::{self, Name};
use super::tree::Namespace;
use crate::base::sync::lock;
use crate::base::wait::until;
use crate::encrypted::reserved::RESERVED;
use crate::fs::error::{Error, Result};
use crate::fs::settings::Settings;
use crate::store::object_store::ObjectKey;

/// The name tree as it is known here, and the right to change it.
pub(crate) struct Names {
    /// Memory only. Taken after an open file's state when both are needed, and before all the others.
    namespace: Mutex<Namespace>,
    key_locks: KeyLocks,
    /// A change of names has ended.
    changed: Notify,
    kernel: Kernel,
    settings: Arc<Settings>,
}

/// Where an upload goes.
pub(crate) struct Destination {
    pub key: ObjectKey,
    pub parent: Ino,
    pub name: Name,
    _locked: KeyGuard,
}

/// Marks, until dropped.
pub(crate) struct NameGuard {
    names: Arc<Names>,
    marked: Vec<(Ino, Name)>,
    moving: Option<Ino>,
    leaving: Option<Ino>,
}

impl NameGuard {
    /// The directory is renamed, and everything below it.
    pub(crate) fn and_below(mut self, directory: Ino) -> NameGuard {
        self.names.lock().under_way.begin_move(directory);
        self.moving = Some(directory);
        self
    }

    /// All but the mark of this name ends.
    pub(crate) fn keep_only(&mut self, kept: &(Ino, Name)) {
        let (kept, ended) = std::mem::take(&mut self.marked)
            .into_iter()
            .partition(|name| name == kept);
        self.marked = kept;
        let ended = NameGuard {
            names: self.names.clone(),
            marked: ended,
            moving: self.moving.take(),
            leaving: self.leaving.take(),
        };
        drop(ended);
    }

    /// This inode loses its name: it is opened before, or not at all.
    pub(crate) fn and_unlinking(mut self, ino: Option<Ino>) -> NameGuard {
        if let Some(ino) = ino {
            self.names.lock().under_way.begin_unlinking(ino);
        }
        self.leaving = ino;
        self
    }
}

impl Drop for NameGuard {
    fn drop(&mut self) {
        {
            let mut namespace = self.names.lock();
            for (parent, name) in &self.marked {
                if let Some(directory) = namespace.directory(*parent) {
                    directory.listing.end_change(name);
                }
            }
            if let Some(directory) = self.moving {
                namespace.under_way.end_move(directory);
            }
            if let Some(ino) = self.leaving {
                namespace.under_way.end_unlinking(ino);
            }
        }
        self.names.changed.notify_waiters();
    }
}

impl Names {
    pub(crate) fn new(namespace: Namespace, kernel: Kernel, settings: Arc<Settings>) -> Arc<Names> {
        Arc::new(Names {
            namespace: Mutex::new(namespace),
            key_locks: KeyLocks::default(),
            changed: Notify::new(),
            kernel,
            settings,
        })
    }

    /// What the kernel keeps of this.
    pub(crate) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Namespace> {
        lock(&self.namespace)
    }

    pub(crate) fn is_reserved(&self, parent: Ino, name: &str) -> bool {
        parent == Ino::ROOT && name == RESERVED
    }

    /// # Errors
    /// [`Error::NotPermitted`] for reserved names; [`Error::NameTooLong`], [`Error::Invalid`] for keys that
    /// the service would refuse.
    pub(crate) fn check_new_name(&self, parent: Ino, name: &str) -> Result<()> {
        if self.is_reserved(parent, name) {
            return Err(Error::NotPermitted);
        }
        let key = self.lock().child_key(parent, name);
        object_name::object_key(key.ok_or(Error::Stale)?)?;
        Ok(())
    }

    /// Passes on the result of a change of a name. Where the bucket may have it or not, or has what another client made,
    /// what is known of the name counts no more.
    pub(crate) fn after_change<T>(&self, parent: Ino, name: &Name, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && (!error.is_refusal() || matches!(error, Error::Exists))
        {
            self.lock().invalidate(parent, name);
        }
        result
    }

    /// Marks names as changing.
    pub(crate) fn begin_change<'a>(
        self: &Arc<Self>,
        names: impl IntoIterator<Item = (Ino, &'a Name)>,
    ) -> NameGuard {
        let mut namespace = self.lock();
        let mut marked = Vec::new();
        for (parent, name) in names {
            if let Some(directory) = namespace.directory(parent) {
                directory.listing.begin_change(name);
                marked.push((parent, name.clone()));
            }
        }
        NameGuard {
            names: self.clone(),
            marked,
            moving: None,
            leaving: None,
        }
    }

    /// Waits until no operation of ours changes what this name stands for. Each change ends within its requests'
    /// deadlines.
    pub(crate) async fn wait_name_stable(&self, parent: Ino, name: &str) {
        self.until_changed(|namespace| !namespace.is_changing(parent, name))
            .await;
    }

    /// Waits until no directory above, nor this one itself, is being renamed.
    pub(crate) async fn wait_not_renaming(&self, directory: Ino) {
        self.until_changed(|namespace| !namespace.is_moving(directory))
            .await;
    }

    /// Waits until the name of an inode is there to stay, or gone.
    pub(crate) async fn wait_not_unlinking(&self, ino: Ino) {
        self.until_changed(|namespace| !namespace.under_way.is_unlinking(ino))
            .await;
    }

    async fn until_changed(&self, done: impl Fn(&Namespace) -> bool) {
        let done = || done(&self.lock()).then_some(());
        until(&self.changed, done).await;
    }

    /// The right to change what `scopes` tells; its keys are those at the end of the waiting.
    ///
    /// # Errors
    /// [`Error::Stale`] when `scopes` finds no keys: what is to be changed has no name any more.
    pub(crate) async fn lock_keys(
        &self,
        scopes: impl Fn(&Namespace) -> Option<Vec<Scope>>,
    ) -> Result<KeyGuard> {
        loop {
            let wanted = scopes(&self.lock()).ok_or(Error::Stale)?;
            let locked = self.key_locks.lock(wanted.clone()).await;
            if scopes(&self.lock()).as_ref() == Some(&wanted) {
                return Ok(locked);
            }
        }
    }

    /// As [`Names::lock_keys`], for a call that began at `start`: what it waits for may hang.
    ///
    /// # Errors
    /// [`Error::TimedOut`] as well: nothing was done.
    pub(crate) async fn lock_keys_in_time(
        &self,
        start: Instant,
        scopes: impl Fn(&Namespace) -> Option<Vec<Scope>>,
    ) -> Result<KeyGuard> {
        self.settings.in_time(start, self.lock_keys(scopes)).await?
    }

    /// The right to change the object of one name, for a call that began at `start`.
    ///
    /// # Errors
    /// As [`Names::lock_keys_in_time`].
    pub(crate) async fn lock_key_of(
        &self,
        parent: Ino,
        name: &str,
        start: Instant,
    ) -> Result<KeyGuard> {
        let key = |namespace: &Namespace| {
            let key = namespace.child_key(parent, name)?;
            Some(vec![Scope::Key(key)])
        };
        self.lock_keys_in_time(start, key).await
    }

    /// The right to change these at once, if no other operation holds or awaits any of them.
    pub(crate) fn try_lock_keys(&self, scopes: Vec<Scope>) -> Option<KeyGuard> {
        self.key_locks.try_lock(scopes)
    }

    /// The answer that a listing's epoch was begun for does not come.
    pub(crate) fn give_up(&self, parent: Ino, epoch: Epoch) {
        if let Some(directory) = self.lock().directory(parent) {
            directory.listing.give_up(epoch);
        }
    }

    /// For messages: the key, escaped.
    pub(crate) fn describe_place(&self, ino: Ino) -> String {
        match self.lock().key(ino) {
            Some(key) => format!("\"{}\"", key.escape_debug()),
            None => "a file without a name".to_owned(),
        }
    }

    /// The key a file has when its upload starts, and the right to change it. None: it has no name.
    pub(crate) async fn lock_destination(&self, ino: Ino) -> Result<Option<Destination>> {
        let entered = self
            .lock_keys(|namespace| Some(vec![Scope::Key(namespace.key(ino)?)]))
            .await;
        let Ok(locked) = entered else { return Ok(None) };
        let namespace = self.lock();
        let key = namespace.key(ino).ok_or(Error::Stale)?;
        let (parent, name) = namespace.place(ino).ok_or(Error::Stale)?;
        Ok(Some(Destination {
            key: object_name::object_key(key)?,
            parent,
            name,
            _locked: locked,
        }))
    }

    /// Others have made something under the target's name, which the kernel may still hold to be absent.
    pub(crate) fn invalidate_target(&self, to: &(Ino, Name)) {
        self.lock().invalidate(to.0, &to.1);
        self.kernel
            .notify(Invalidation::Name(to.0, to.1.to_string()));
    }
}
