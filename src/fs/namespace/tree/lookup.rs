//! What a name or an inode looks like, as far as memory can tell, or what must be requested.

use std::time::Instant;

use super::{CachedLookup, CachedStat, Namespace, Target};
use crate::fs::namespace::entry::{CachedAttributes, Entry, Object};
use crate::fs::namespace::freshness::fresh;
use crate::fs::namespace::inode::{Detached, Directory, DirtyInode, Ino, Inode, Node, Stored};
use crate::fs::namespace::listing::CachedEntry;

impl Namespace {
    /// What a name looks like to a call that began at `start`. Known names get an inode.
    pub fn peek(&mut self, parent: Ino, name: &str, start: Instant) -> CachedLookup {
        self.lookup_as(parent, name, start, false)
    }

    /// `traversing`: for a program that may be going through the directory, see `Listing::lookup_traversing`.
    fn lookup_as(
        &mut self,
        parent: Ino,
        name: &str,
        start: Instant,
        traversing: bool,
    ) -> CachedLookup {
        // A file that was changed here looks as it stands here, whatever others made of its object.
        if let Some(ino) = self.child(parent, name)
            && self.nodes[&ino].is_dirty()
        {
            return self.getattr(ino, start);
        }
        let moving = self.is_moving(parent);
        let ttl = self.ttl_of(moving);
        let Some(directory) = self.directory(parent) else {
            return CachedLookup::Stale;
        };
        directory.wanted = Some(start);
        let listing = &mut directory.listing;
        let answer = match traversing {
            true => listing.lookup_traversing(name, ttl, start),
            false => listing.lookup(name, ttl, start),
        };
        match answer {
            CachedEntry::Miss => CachedLookup::NeedsName,
            CachedEntry::Negative(checked) => {
                if let Some(ino) = self.child(parent, name)
                    && self.is_dirty_below(ino)
                {
                    return self.getattr(ino, start);
                }
                self.forget_name(parent, name);
                CachedLookup::Negative(checked)
            }
            CachedEntry::Hit(Entry::Directory, _) => {
                let ino = self.node_for(parent, name, true);
                self.getattr(ino, start)
            }
            CachedEntry::Hit(Entry::Object(object), checked) => {
                let object = object.clone();
                self.detach_replaced(parent, name, &object.etag);
                match &object.known {
                    Some(known) => {
                        let ino = self.node_of_kind(parent, name, known.attributes.kind);
                        if let Some(file) = self.file_mut(ino)
                            && file.dirty.is_none()
                        {
                            file.version.get_or_insert_with(|| object.etag.clone());
                        }
                        CachedLookup::Hit(self.stat_of(ino, known, object.size, checked, start))
                    }
                    None => CachedLookup::NeedsHead(object),
                }
            }
        }
    }

    /// As [`Namespace::peek`], for an answer to the kernel, which may be going through the directory: what is known
    /// counts as looked up once more, at once, lest a forget that comes now takes the inode away.
    pub fn lookup(&mut self, parent: Ino, name: &str, start: Instant) -> CachedLookup {
        let look = self.lookup_as(parent, name, start, true);
        if let CachedLookup::Hit(stat) = &look {
            self.remember(stat.ino);
        }
        look
    }

    /// What an inode looks like to a call that began at `start`. Absent: it is gone.
    pub fn getattr(&mut self, ino: Ino, start: Instant) -> CachedLookup {
        self.getattr_as(ino, start, false)
    }

    /// As [`Namespace::getattr`], for a program that may be going through the directory that the inode is in.
    pub fn getattr_traversing(&mut self, ino: Ino, start: Instant) -> CachedLookup {
        self.getattr_as(ino, start, true)
    }

    fn getattr_as(&mut self, ino: Ino, start: Instant, traversing: bool) -> CachedLookup {
        let Some(node) = self.nodes.get(&ino) else {
            return CachedLookup::Stale;
        };
        let file = match &node.inode {
            Inode::Directory(directory) => {
                return self.getattr_of_directory(ino, node, directory, start);
            }
            Inode::File(file) => file,
        };
        if let Some(dirty) = &file.dirty {
            return CachedLookup::Hit(dirty_stat(ino, dirty, node, start));
        }
        if let Some(detached) = &file.detached {
            if detached.replaced && file.open.is_none() {
                // Its name stands for another version: the kernel looks that up.
                return CachedLookup::Negative(start);
            }
            if let Some(object) = &detached.object {
                return match &object.known {
                    Some(known) => {
                        let (known, size) = (known.clone(), object.size);
                        CachedLookup::Hit(self.stat_of(ino, &known, size, start, start))
                    }
                    None => CachedLookup::Stale,
                };
            }
        }
        match node.place.clone() {
            Some((parent, name)) => match self.lookup_as(parent, &name, start, traversing) {
                CachedLookup::Hit(stat) if stat.ino != ino => CachedLookup::Stale,
                look => look,
            },
            None => CachedLookup::Stale,
        }
    }

    fn getattr_of_directory(
        &self,
        ino: Ino,
        node: &Node,
        directory: &Directory,
        start: Instant,
    ) -> CachedLookup {
        let ttl = self.ttl_of(self.is_moving(ino));
        // The root's lie in an object of their own, which no listing of the root shows.
        let lasts = match ino == Ino::ROOT && self.prefix.is_empty() {
            true => ttl.of_directories(),
            false => ttl.objects,
        };
        match &directory.known {
            Some(known) if fresh(known.checked, lasts, start) => {
                let mut attributes = known.attributes.clone();
                if let Some(pending) = &node.pending {
                    pending.change.apply(&mut attributes, &self.defaults);
                }
                if let Some(touched) = directory.touched {
                    attributes.set_mtime(touched);
                    attributes.ctime = attributes.ctime.max(Some(touched));
                }
                attributes.ctime = attributes.ctime.max(node.confirmed).max(node.renamed);
                CachedLookup::Hit(CachedStat {
                    ino,
                    attributes,
                    size: 0,
                    // The kernel keeps it as long as anything, and then asks for what is known here.
                    checked: start.min(known.checked + (lasts - ttl.objects)),
                    named: ino == Ino::ROOT || node.place.is_some(),
                })
            }
            _ => CachedLookup::NeedsMarker(ino),
        }
    }

    fn stat_of(
        &mut self,
        ino: Ino,
        known: &CachedAttributes,
        size: u64,
        checked: Instant,
        start: Instant,
    ) -> CachedStat {
        let until = start.max(checked + self.ttl().objects);
        let node = self
            .inodes
            .nodes
            .get_mut(&ino)
            .expect("looked up by the caller");
        if let Some(file) = node.file_mut() {
            file.shown_until = file.shown_until.max(Some(until));
        }
        if let Some(dirty) = node.file().and_then(|file| file.dirty.as_ref()) {
            return dirty_stat(ino, dirty, node, start);
        }
        let mut attributes = known.attributes.clone();
        if let Some(pending) = &node.pending {
            pending.change.apply(&mut attributes, &self.defaults);
        }
        attributes.ctime = attributes.ctime.max(node.confirmed).max(node.renamed);
        CachedStat {
            ino,
            attributes,
            size,
            checked,
            named: node.place.is_some(),
        }
    }

    /// What stands under a name, for a call that is about to change it. None: it must be requested.
    pub fn target(&mut self, parent: Ino, name: &str, start: Instant) -> Option<Option<Target>> {
        if let Some(ino) = self.child(parent, name)
            && self.is_uncommitted(ino)
        {
            return Some(Some(Target::Uncommitted(ino)));
        }
        let ttl = self.ttl();
        let child = self.child(parent, name);
        let local = child.filter(|&ino| self.is_dirty_below(ino));
        let answer = match self.directory(parent)?.listing.lookup(name, ttl, start) {
            CachedEntry::Miss => return None,
            CachedEntry::Negative(_) => match local {
                Some(ino) if self.is_directory(ino) => Some(Target::Directory(ino)),
                Some(ino) => Some(self.only_here(ino)),
                None => None,
            },
            CachedEntry::Hit(Entry::Directory, _) => match local {
                Some(ino) if !self.is_directory(ino) => Some(self.only_here(ino)),
                _ => Some(Target::Directory(self.node_for(parent, name, true))),
            },
            CachedEntry::Hit(Entry::Object(object), _) => {
                let object = object.clone();
                Some(Target::Object(object, self.child(parent, name)))
            }
        };
        Some(answer)
    }

    /// A changed file whose object others have removed: it is like one that was never uploaded.
    fn only_here(&mut self, ino: Ino) -> Target {
        if let Some(file) = self.file_mut(ino)
            && file.stored == Stored::Committed
        {
            file.stored = Stored::Uncommitted;
        }
        Target::Uncommitted(ino)
    }

    /// The version that open files of this inode read.
    pub fn open_version(&self, ino: Ino) -> Option<Object> {
        self.file(ino)?.open.clone()
    }

    /// What the bucket has for an inode, as last known; what is open, if others have removed it since.
    pub fn object(&self, ino: Ino) -> Option<Object> {
        let node = self.nodes.get(&ino)?;
        let file = node.file()?;
        if let Some(Detached {
            object: Some(object),
            ..
        }) = &file.detached
        {
            return Some(object.clone());
        }
        if file.stored != Stored::Committed {
            return None;
        }
        let (parent, name) = node.place.as_ref()?;
        match self.listed(*parent, name) {
            Some(Entry::Object(object)) => Some(object.clone()),
            _ => file.open.clone(),
        }
    }

    pub fn local(&self, ino: Ino) -> Option<&DirtyInode> {
        self.file(ino)?.dirty.as_ref()
    }

    pub fn is_uncommitted(&self, ino: Ino) -> bool {
        let file = self.file(ino);
        file.is_some_and(|file| file.stored != Stored::Committed)
    }
}

/// A changed file looks as it stands here.
fn dirty_stat(ino: Ino, dirty: &DirtyInode, node: &Node, start: Instant) -> CachedStat {
    let mut attributes = dirty.attributes.clone();
    attributes.ctime = attributes.ctime.max(node.confirmed);
    CachedStat {
        ino,
        attributes,
        size: dirty.size,
        checked: start,
        named: node.place.is_some(),
    }
}
