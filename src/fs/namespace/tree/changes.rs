//! Names that are made, moved and removed, and which version of a file an inode stands for.

use std::time::Instant;

use super::Namespace;
use crate::files::attributes::{Attributes, Kind, Timestamp};
use crate::fs::namespace::entry::{Entry, Object};
use crate::fs::namespace::inode::{
    Detached, DirtyInode, Ino, Inode, KnownDirectory, Marker, Stored,
};
use crate::fs::namespace::listing::Listing;
use crate::fs::namespace::object_name::Name;
use crate::store::object_store::ETag;

impl Namespace {
    /// A new file that only this mount has yet. It must be pinned before the lock is let go.
    pub fn create(&mut self, parent: Ino, name: &Name, attributes: Attributes) -> Ino {
        if let Some(old) = self.child(parent, name) {
            self.detach(old);
        }
        let ino = self.make(parent, name, false);
        let file = self.file_mut(ino).expect("made above");
        file.stored = Stored::Uncommitted;
        file.dirty = Some(DirtyInode {
            attributes,
            size: 0,
            revision: 1,
        });
        ino
    }

    /// The name is gone, in the bucket as well as here.
    pub fn removed(&mut self, parent: Ino, name: &Name, now: Instant) {
        self.forget_name(parent, name);
        self.removed_name(parent, name, now);
    }

    /// What is known of a name may be wrong: it is requested anew.
    pub fn invalidate(&mut self, parent: Ino, name: &Name) {
        if let Some(directory) = self.directory(parent) {
            directory.listing.invalidate(name);
        }
    }

    /// The name is gone, and whatever inode had it has another name already.
    pub fn removed_name(&mut self, parent: Ino, name: &Name, now: Instant) {
        if let Some(directory) = self.directory(parent) {
            directory.listing.remove(name, now);
        }
    }

    /// Takes a name away from the inode that has it; what the bucket has under it is what it was.
    pub fn forget_name(&mut self, parent: Ino, name: &str) {
        if let Some(ino) = self.child(parent, name) {
            self.detach(ino);
        }
    }

    /// Takes an inode's name away. What was known of it stays with it: of the version that is open, if one
    /// is, since the name may stand for another one by now.
    fn detach(&mut self, ino: Ino) {
        self.detach_as(ino, false);
    }

    /// `replaced`: by another client's object, for which the name stands from now on.
    fn detach_as(&mut self, ino: Ino, replaced: bool) {
        let known = self.object(ino);
        let Some(node) = self.nodes.get_mut(&ino) else {
            return;
        };
        if let Inode::File(file) = &mut node.inode {
            let object = match (&file.open, known) {
                (Some(open), Some(known)) if known.etag == open.etag && known.known.is_some() => {
                    Some(known)
                }
                (Some(open), _) => Some(open.clone()),
                (None, known) => known,
            };
            let before = file.detached.take();
            let replaced = replaced || before.is_some_and(|before| before.replaced);
            file.detached = Some(Detached { object, replaced });
        }
        let Some((parent, name)) = node.place.take() else {
            return;
        };
        if let Some(directory) = self.directory(parent)
            && directory.children.get(&name) == Some(&ino)
        {
            directory.children.remove(&name);
        }
        self.drop_if_unused(ino);
    }

    /// While files of this inode are open they read this version, and the kernel's pages show it.
    pub fn set_open(&mut self, ino: Ino, version: Option<Object>) {
        if let Some(file) = self.file_mut(ino) {
            if let Some(version) = &version {
                file.version = Some(version.etag.clone());
            }
            file.open = version;
        }
    }

    /// The content of an inode has another tag now: this mount has copied it.
    pub fn retag(&mut self, ino: Ino, copied: &ETag, copy: &ETag) {
        if let Some(file) = self.file_mut(ino)
            && file.version.as_ref() == Some(copied)
        {
            file.version = Some(copy.clone());
        }
    }

    /// The content of an inode is what this mount has uploaded.
    pub fn uploaded(&mut self, ino: Ino, version: &ETag) {
        if let Some(file) = self.file_mut(ino) {
            file.version = Some(version.clone());
        }
    }

    /// The version that was shown under the inode last.
    pub fn version(&self, ino: Ino) -> Option<ETag> {
        self.file(ino)?.version.clone()
    }

    /// Whether the inode stands for this version of its name, so that it can be opened.
    pub fn stands_for(&self, ino: Ino, version: &ETag) -> bool {
        self.is_replaced(ino)
            || self.nodes.get(&ino).is_some_and(|node| {
                let shown = node.file().and_then(|file| file.version.as_ref());
                shown.is_none_or(|shown| shown == version)
            })
    }

    /// Whether the name of this inode stands for the version of another client's by now.
    pub fn is_replaced(&self, ino: Ino) -> bool {
        let detached = self.file(ino).and_then(|file| file.detached.as_ref());
        detached.is_some_and(|detached| detached.replaced)
    }

    /// Whether the kernel may have shown the inode's attributes, as they are cached, to a program after `since`.
    pub fn was_shown_after(&self, ino: Ino, since: Instant) -> bool {
        let shown_until = self.file(ino).and_then(|file| file.shown_until);
        shown_until.is_some_and(|until| until > since)
    }

    /// Detaches the inode of a name whose object another client has replaced: the name gets another inode.
    pub(super) fn detach_replaced(&mut self, parent: Ino, name: &str, etag: &ETag) {
        let Some(ino) = self.child(parent, name) else {
            return;
        };
        let Some(file) = self.file(ino) else {
            return;
        };
        let open = file.open.as_ref().map(|open| &open.etag);
        let shown = open.or(file.version.as_ref());
        let replaced = file.dirty.is_none() && shown.is_some_and(|shown| shown != etag);
        // Our own copies may change the tag.
        if replaced && !self.is_changing(parent, name) {
            self.detach_as(ino, true);
        }
    }

    /// A directory of ours that is in the bucket now.
    pub fn made_directory(
        &mut self,
        parent: Ino,
        name: &Name,
        attributes: Attributes,
        marker: Marker,
        now: Instant,
    ) -> Ino {
        if let Some(old) = self.child(parent, name) {
            self.detach(old);
        }
        let ino = self.make(parent, name, true);
        let above = self.directory(parent).map(|directory| &directory.listing);
        let listing = Listing::of_new_directory(above.unwrap_or(&Listing::default()), now);
        let directory = self.directory(ino).expect("made as a directory");
        directory.listing = listing;
        directory.made_here = true;
        directory.wanted = Some(now);
        directory.known = Some(KnownDirectory {
            attributes,
            checked: now,
            marker: Some(marker),
        });
        if let Some(directory) = self.directory(parent) {
            directory.listing.put(name, Entry::Directory, now);
        }
        self.account(parent, now);
        ino
    }

    /// Moves an inode and, for a directory, everything below it. What the listings say of the two names is
    /// the caller's to say.
    pub fn moved(&mut self, ino: Ino, parent: Ino, name: &Name) {
        if let Some(old) = self.child(parent, name)
            && old != ino
        {
            self.detach(old);
        }
        let Some(node) = self.nodes.get_mut(&ino) else {
            return;
        };
        // It has a name again, should it have lost it meanwhile.
        if let Inode::File(file) = &mut node.inode {
            file.detached = None;
            file.awaits_rename = false;
        }
        let before = node.place.replace((parent, name.clone()));
        if let Some((old_parent, old_name)) = before
            && let Some(directory) = self.directory(old_parent)
        {
            directory.children.remove(&old_name);
        }
        if let Some(directory) = self.directory(parent) {
            directory.children.insert(name.clone(), ino);
        }
    }

    /// The bucket has `object` under this name now, through us.
    pub fn published(&mut self, parent: Ino, name: &Name, object: Object, now: Instant) {
        if let Some(ino) = self.child(parent, name)
            && let Some(file) = self.file_mut(ino)
        {
            file.stored = Stored::Committed;
        }
        if let Some(directory) = self.directory(parent) {
            directory.listing.put(name, Entry::Object(object), now);
        }
        self.account(parent, now);
    }

    /// Whether the inode is to replace an object that it is not the next version of.
    pub fn shadows_object(&self, ino: Ino) -> bool {
        let file = self.file(ino);
        file.is_some_and(|file| file.stored == Stored::Shadowing)
    }

    pub fn set_shadows_object(&mut self, ino: Ino, covers: bool) {
        if let Some(file) = self.file_mut(ino) {
            file.stored = match (file.stored, covers) {
                (Stored::Committed, _) => Stored::Committed,
                (_, true) => Stored::Shadowing,
                (_, false) => Stored::Uncommitted,
            };
        }
    }

    /// Everything below was moved: what the listings there say of tags may be wrong.
    pub fn invalidate_subtree(&mut self, ino: Ino) {
        let below: Vec<Ino> = self
            .nodes
            .keys()
            .copied()
            .filter(|&node| self.is_within(node, ino) && self.is_directory(node))
            .collect();
        for directory in below {
            if let Some(directory) = self.directory(directory) {
                directory.listing.expire();
                directory.known = None;
            }
        }
    }

    /// Whether the kernel's pages of this inode show that content already; from now on they do.
    pub fn pages_show(&mut self, ino: Ino, content: Option<&ETag>) -> bool {
        let Some(file) = self.file_mut(ino) else {
            return false;
        };
        let same = file.pages.is_some() && file.pages.as_ref() == content;
        file.pages = content.cloned();
        same
    }

    /// The inode of a name that stands for an object of this kind. One that stood for another kind gets another inode,
    /// though the tags be the same, as those of all empty objects are.
    pub(super) fn node_of_kind(&mut self, parent: Ino, name: &str, kind: Kind) -> Ino {
        let ino = self.node_for(parent, name, false);
        let other = self.file(ino).is_some_and(|file| {
            file.dirty.is_none() && file.kind.is_some_and(|before| before != kind)
        });
        let ino = match other {
            true => {
                self.detach(ino);
                self.make(parent, &Name::from(name), false)
            }
            false => ino,
        };
        if let Some(file) = self.file_mut(ino) {
            file.kind = Some(kind);
        }
        ino
    }

    /// The inode has another name since that time.
    pub fn renamed(&mut self, ino: Ino, time: Timestamp) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.renamed = Some(time);
        }
    }

    /// Names in a directory that the bucket does not have yet, or not any more.
    pub fn uncommitted_children(&self, parent: Ino) -> Vec<(Name, Ino)> {
        let mut children = self.children(parent);
        children.retain(|(name, ino)| {
            self.is_uncommitted(*ino)
                || (self.listed(parent, name).is_none() && self.is_dirty_below(*ino))
        });
        children
    }

    /// The inode of a name, made if there is none. A name that changed between file and directory gets
    /// another inode.
    pub fn node_for(&mut self, parent: Ino, name: &str, directory: bool) -> Ino {
        if let Some(ino) = self.child(parent, name) {
            if self.is_directory(ino) == directory {
                return ino;
            }
            self.detach(ino);
        }
        self.make(parent, &Name::from(name), directory)
    }

    /// Files in a directory that stand here whatever the bucket has: not uploaded yet, or changed.
    pub fn changed_files(&self, parent: Ino) -> Vec<(Name, Ino)> {
        let mut children = self.children(parent);
        children.retain(|(_, ino)| self.nodes[ino].is_dirty());
        children
    }
}
