//! What a name or an inode looks like, as far as memory can tell, or what must be asked.

use std::time::Instant;

use super::{Look, Namespace, Target, View};
use crate::fs::namespace::entry::{Entry, Known, Object};
use crate::fs::namespace::freshness::fresh;
use crate::fs::namespace::inode::{Detached, Directory, DirtyInode, Ino, Inode, Node, Stored};
use crate::fs::namespace::listing::Answer;

impl Namespace {
    /// What a name looks like to a call that began at `start`. Known names get an inode.
    pub fn look(&mut self, parent: Ino, name: &str, start: Instant) -> Look {
        self.look_as(parent, name, start, false)
    }

    /// `traversing`: for who may be going through the directory, see [`Listing::look_traversing`].
    fn look_as(&mut self, parent: Ino, name: &str, start: Instant, traversing: bool) -> Look {
        // A file that was changed here looks as it stands here, whatever others made of its object.
        if let Some(ino) = self.child(parent, name)
            && self.nodes[&ino].is_dirty()
        {
            return self.look_at(ino, start);
        }
        let moving = self.is_moving(parent);
        let ttl = self.ttl_of(moving);
        let Some(directory) = self.directory(parent) else {
            return Look::Stale;
        };
        directory.wanted = Some(start);
        let listing = &mut directory.listing;
        let answer = match traversing {
            true => listing.look_traversing(name, ttl, start),
            false => listing.look(name, ttl, start),
        };
        match answer {
            Answer::Unknown => Look::AskName,
            Answer::Absent(checked) => {
                if let Some(ino) = self.child(parent, name)
                    && self.is_dirty_below(ino)
                {
                    return self.look_at(ino, start);
                }
                self.forget_name(parent, name);
                Look::Absent(checked)
            }
            Answer::Present(Entry::Directory, _) => {
                let ino = self.node_for(parent, name, true);
                self.look_at(ino, start)
            }
            Answer::Present(Entry::Object(object), checked) => {
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
                        Look::Known(self.view_of(ino, known, object.size, checked, start))
                    }
                    None => Look::AskObject(object),
                }
            }
        }
    }

    /// As [`Namespace::look`], for an answer to the kernel, which may be going through the directory: what is known
    /// counts as looked up once more, at once, lest a forget that comes now takes the inode away.
    pub fn look_up(&mut self, parent: Ino, name: &str, start: Instant) -> Look {
        let look = self.look_as(parent, name, start, true);
        if let Look::Known(view) = &look {
            self.remember(view.ino);
        }
        look
    }

    /// What an inode looks like to a call that began at `start`. Absent: it is gone.
    pub fn look_at(&mut self, ino: Ino, start: Instant) -> Look {
        self.look_at_as(ino, start, false)
    }

    /// As [`Namespace::look_at`], for who may be going through the directory that the inode is in.
    pub fn look_at_traversing(&mut self, ino: Ino, start: Instant) -> Look {
        self.look_at_as(ino, start, true)
    }

    fn look_at_as(&mut self, ino: Ino, start: Instant, traversing: bool) -> Look {
        let Some(node) = self.nodes.get(&ino) else {
            return Look::Stale;
        };
        let file = match &node.inode {
            Inode::Directory(directory) => {
                return self.look_at_directory(ino, node, directory, start);
            }
            Inode::File(file) => file,
        };
        if let Some(dirty) = &file.dirty {
            return Look::Known(dirty_view(ino, dirty, node, start));
        }
        if let Some(detached) = &file.detached {
            if detached.replaced && file.open.is_none() {
                // Its name stands for another version: the kernel looks that up.
                return Look::Absent(start);
            }
            if let Some(object) = &detached.object {
                return match &object.known {
                    Some(known) => {
                        let (known, size) = (known.clone(), object.size);
                        Look::Known(self.view_of(ino, &known, size, start, start))
                    }
                    None => Look::Stale,
                };
            }
        }
        match node.place.clone() {
            Some((parent, name)) => match self.look_as(parent, &name, start, traversing) {
                Look::Known(view) if view.ino != ino => Look::Stale,
                look => look,
            },
            None => Look::Stale,
        }
    }

    fn look_at_directory(
        &self,
        ino: Ino,
        node: &Node,
        directory: &Directory,
        start: Instant,
    ) -> Look {
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
                Look::Known(View {
                    ino,
                    attributes,
                    size: 0,
                    // The kernel keeps it as long as anything, and then asks for what is known here.
                    checked: start.min(known.checked + (lasts - ttl.objects)),
                    named: ino == Ino::ROOT || node.place.is_some(),
                })
            }
            _ => Look::AskDirectory(ino),
        }
    }

    fn view_of(
        &mut self,
        ino: Ino,
        known: &Known,
        size: u64,
        checked: Instant,
        start: Instant,
    ) -> View {
        let until = start.max(checked + self.ttl.objects);
        let node = self
            .inodes
            .nodes
            .get_mut(&ino)
            .expect("looked up by the caller");
        if let Some(file) = node.file_mut() {
            file.shown_until = file.shown_until.max(Some(until));
        }
        if let Some(dirty) = node.file().and_then(|file| file.dirty.as_ref()) {
            return dirty_view(ino, dirty, node, start);
        }
        let mut attributes = known.attributes.clone();
        if let Some(pending) = &node.pending {
            pending.change.apply(&mut attributes, &self.defaults);
        }
        attributes.ctime = attributes.ctime.max(node.confirmed).max(node.renamed);
        View {
            ino,
            attributes,
            size,
            checked,
            named: node.place.is_some(),
        }
    }

    /// What stands under a name, for a call that is about to change it. None: it must be asked.
    pub fn target(&mut self, parent: Ino, name: &str, start: Instant) -> Option<Option<Target>> {
        if let Some(ino) = self.child(parent, name)
            && self.is_unpublished(ino)
        {
            return Some(Some(Target::Unpublished(ino)));
        }
        let ttl = self.ttl;
        let child = self.child(parent, name);
        let local = child.filter(|&ino| self.is_dirty_below(ino));
        let answer = match self.directory(parent)?.listing.look(name, ttl, start) {
            Answer::Unknown => return None,
            Answer::Absent(_) => match local {
                Some(ino) if self.is_directory(ino) => Some(Target::Directory(ino)),
                Some(ino) => Some(self.only_here(ino)),
                None => None,
            },
            Answer::Present(Entry::Directory, _) => match local {
                Some(ino) if !self.is_directory(ino) => Some(self.only_here(ino)),
                _ => Some(Target::Directory(self.node_for(parent, name, true))),
            },
            Answer::Present(Entry::Object(object), _) => {
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
        Target::Unpublished(ino)
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

    pub fn is_unpublished(&self, ino: Ino) -> bool {
        let file = self.file(ino);
        file.is_some_and(|file| file.stored != Stored::Committed)
    }
}

/// A changed file looks as it stands here.
fn dirty_view(ino: Ino, dirty: &DirtyInode, node: &Node, start: Instant) -> View {
    let mut attributes = dirty.attributes.clone();
    attributes.ctime = attributes.ctime.max(node.confirmed);
    View {
        ino,
        attributes,
        size: dirty.size,
        checked: start,
        named: node.place.is_some(),
    }
}
