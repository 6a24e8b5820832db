//! Changes of names while they are under way.
//!
//! Between the moment at which the bucket carries out a change and the moment at which we hear of it, what
//! the bucket says of the name is neither what was nor what will be. [`Changing`] marks the names for that
//! time: what is known of them stands, answers about them are dropped, and who has to ask the bucket waits
//! for the end. [`Filesystem::enter`] is the right to change their keys; a directory above may be renamed
//! while one waits for it, so the keys are looked up again once it is there.

use std::sync::Arc;

use super::error::{Error, Result};
use super::filesystem::Filesystem;
use super::gate::{Pass, Scope};
use super::names::Name;
use super::namespace::{Ino, Namespace};
use crate::base::wait::until;

/// Marks, until dropped.
pub(super) struct Changing {
    fs: Arc<Filesystem>,
    names: Vec<(Ino, Name)>,
    moving: Option<Ino>,
    leaving: Option<Ino>,
}

impl Changing {
    /// The directory is renamed, and everything below it.
    pub fn and_below(mut self, directory: Ino) -> Changing {
        self.fs.namespace().begin_move(directory);
        self.moving = Some(directory);
        self
    }

    /// All but the mark of this name ends.
    pub fn keep_only(&mut self, kept: &(Ino, Name)) {
        let (kept, ended) = std::mem::take(&mut self.names)
            .into_iter()
            .partition(|name| name == kept);
        self.names = kept;
        let ended = Changing {
            fs: self.fs.clone(),
            names: ended,
            moving: self.moving.take(),
            leaving: self.leaving.take(),
        };
        drop(ended);
    }

    /// This inode loses its name: it is opened before, or not at all.
    pub fn and_leaving(mut self, ino: Option<Ino>) -> Changing {
        if let Some(ino) = ino {
            self.fs.namespace().begin_leaving(ino);
        }
        self.leaving = ino;
        self
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        {
            let mut namespace = self.fs.namespace();
            for (parent, name) in &self.names {
                if let Some(directory) = namespace.directory(*parent) {
                    directory.listing.end_change(name);
                }
            }
            if let Some(directory) = self.moving {
                namespace.end_move(directory);
            }
            if let Some(ino) = self.leaving {
                namespace.end_leaving(ino);
            }
        }
        self.fs.changed.notify_waiters();
    }
}

impl Filesystem {
    pub(super) fn begin_change<'a>(
        self: &Arc<Self>,
        names: impl IntoIterator<Item = (Ino, &'a Name)>,
    ) -> Changing {
        let mut namespace = self.namespace();
        let mut marked = Vec::new();
        for (parent, name) in names {
            if let Some(directory) = namespace.directory(parent) {
                directory.listing.begin_change(name);
                marked.push((parent, name.clone()));
            }
        }
        Changing {
            fs: self.clone(),
            names: marked,
            moving: None,
            leaving: None,
        }
    }

    /// Waits until nobody is changing what this name stands for. Each change ends within its requests'
    /// deadlines.
    pub(super) async fn unchanging(&self, parent: Ino, name: &str) {
        self.until_changed(|namespace| !namespace.is_changing(parent, name))
            .await;
    }

    /// Waits until no directory above, nor this one itself, is being renamed.
    pub(super) async fn unmoving(&self, directory: Ino) {
        self.until_changed(|namespace| !namespace.is_moving(directory))
            .await;
    }

    /// Waits until the name of an inode is there to stay, or gone.
    pub(super) async fn not_leaving(&self, ino: Ino) {
        self.until_changed(|namespace| !namespace.is_leaving(ino))
            .await;
    }

    async fn until_changed(&self, done: impl Fn(&Namespace) -> bool) {
        let done = || done(&self.namespace()).then_some(());
        until(&self.changed, done).await;
    }

    /// The right to change what `scopes` tells; its keys are those at the end of the waiting.
    ///
    /// # Errors
    /// [`Error::Stale`] when `scopes` finds no keys: what is to be changed has no name any more.
    pub(super) async fn enter(
        &self,
        scopes: impl Fn(&Namespace) -> Option<Vec<Scope>>,
    ) -> Result<Pass> {
        loop {
            let wanted = scopes(&self.namespace()).ok_or(Error::Stale)?;
            let pass = self.gate.enter(wanted.clone()).await;
            if scopes(&self.namespace()).as_ref() == Some(&wanted) {
                return Ok(pass);
            }
        }
    }

    /// The right to change the object of one name.
    pub(super) async fn enter_name(&self, parent: Ino, name: &str) -> Result<Pass> {
        self.enter(|namespace| Some(vec![Scope::Key(namespace.child_key(parent, name)?)]))
            .await
    }
}
