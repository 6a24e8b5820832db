//! The table of inodes: the tree of their names, and the references that the kernel has.
//!
//! The table maps an inode to (parent inode, name), so renaming a directory changes one node and no key
//! below it. A node without a name is an open file that was unlinked or replaced. A node goes when the kernel has
//! forgotten it and nothing here needs it.
//!
//! Memory only: nothing waits while the lock around this is held.

mod memory;

use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::entry::Entry;
use super::freshness::Ttl;
use super::inode::{Directory, FileNode, Ino, Inode, Node};
use super::object_name::Name;
use crate::fs::data::budget::{MemoryBudget, Reservation};

/// Forgotten inodes of which it is known what they stood for: some 2 MB.
const FORGOTTEN: NonZeroUsize = NonZeroUsize::new(16384).expect("not zero");
/// The same of directories that the kernel has not forgotten: some 3 MB. A working directory from which nothing was
/// asked while so many others were dropped is ESTALE.
const DROPPED: NonZeroUsize = NonZeroUsize::new(16384).expect("not zero");

/// Directories within each other: no key is longer.
const DEEPEST: usize = 1024;

#[derive(Debug)]
pub struct InodeTable {
    pub(super) nodes: HashMap<Ino, Node>,
    /// How many of them are directories.
    directories: usize,
    /// What inodes stood for that the kernel has forgotten: it may ask for one by a file handle.
    forgotten: LruCache<Ino, Forgotten>,
    /// What directories stood for that were forgotten here alone.
    dropped: LruCache<Ino, Forgotten>,
    pub(super) prefix: String,
    ttl: Ttl,
    memory: Option<Memory>,
    /// Those first that were made or considered longest ago. May hold some that are gone.
    clock: VecDeque<Ino>,
}

/// What everything here takes of the memory budget.
#[derive(Debug)]
struct Memory {
    budget: MemoryBudget,
    /// Of all listings together, in bytes.
    names: u64,
    inodes: Reservation,
    /// How many inodes are counted.
    counted: usize,
}

/// Where an inode had its place.
#[derive(Clone, Debug)]
struct Forgotten {
    parent: Ino,
    name: Name,
    directory: bool,
}

impl InodeTable {
    /// `prefix` is empty or ends with `/`.
    pub(super) fn new(prefix: String, ttl: Ttl) -> InodeTable {
        let mut root = Node::new(None, true);
        root.kernel.lookups = 1;
        root.pins = 1;
        InodeTable {
            nodes: HashMap::from([(Ino::ROOT, root)]),
            directories: 1,
            forgotten: LruCache::new(FORGOTTEN),
            dropped: LruCache::new(DROPPED),
            prefix,
            ttl,
            memory: None,
            clock: VecDeque::new(),
        }
    }

    pub fn ttl(&self) -> Ttl {
        self.ttl
    }

    pub(super) fn file(&self, ino: Ino) -> Option<&FileNode> {
        self.nodes.get(&ino)?.file()
    }

    pub(super) fn file_mut(&mut self, ino: Ino) -> Option<&mut FileNode> {
        self.nodes.get_mut(&ino)?.file_mut()
    }

    pub fn directory_ref(&self, ino: Ino) -> Option<&Directory> {
        self.nodes.get(&ino)?.directory()
    }

    /// How many inodes there are.
    #[allow(clippy::len_without_is_empty)] // the root is always there
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The key of a file; of a directory the prefix of what is in it, with a trailing `/` except for an
    /// empty mount prefix. None if it has no name.
    pub fn key(&self, ino: Ino) -> Option<String> {
        let mut components = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT {
            let (parent, name) = self.nodes.get(&at)?.place.as_ref()?;
            components.push(&**name);
            at = *parent;
        }
        let mut key = self.prefix.clone();
        for component in components.iter().rev() {
            key.push_str(component);
            key.push('/');
        }
        if ino != Ino::ROOT && !self.is_directory(ino) {
            key.pop();
        }
        Some(key)
    }

    /// The key of a file of that name.
    pub fn child_key(&self, parent: Ino, name: &str) -> Option<String> {
        let mut key = self.key(parent)?;
        key.push_str(name);
        Some(key)
    }

    pub fn place(&self, ino: Ino) -> Option<(Ino, Name)> {
        self.nodes.get(&ino)?.place.clone()
    }

    /// Whether `ino` is `ancestor` or below it.
    pub fn is_within(&self, ino: Ino, ancestor: Ino) -> bool {
        let mut at = ino;
        loop {
            if at == ancestor {
                return true;
            }
            match self.nodes.get(&at).and_then(|node| node.place.as_ref()) {
                Some((parent, _)) => at = *parent,
                None => return false,
            }
        }
    }

    pub fn exists(&self, ino: Ino) -> bool {
        self.nodes.contains_key(&ino)
    }

    pub fn is_directory(&self, ino: Ino) -> bool {
        self.nodes.get(&ino).is_some_and(|node| node.is_directory())
    }

    pub fn directory(&mut self, ino: Ino) -> Option<&mut Directory> {
        self.nodes.get_mut(&ino)?.directory_mut()
    }

    /// The inode that is or would be the child's; for d_ino.
    pub fn ino_of_child(&self, parent: Ino, name: &str) -> Ino {
        match self.child(parent, name) {
            Some(ino) => ino,
            None => Ino(hash(&self.child_key(parent, name).unwrap_or_default(), 0)),
        }
    }

    /// Numbers the children of a directory as [`InodeTable::ino_of_child`] does where no two keys' hashes are equal,
    /// without a lookup of each.
    pub fn numbers_children(&self, parent: Ino) -> impl Fn(&str) -> Ino + use<> {
        let directory = self.key(parent).unwrap_or_default();
        move |name| Ino(hash(&format!("{directory}{name}"), 0))
    }

    /// The inode that has this name, if one is known.
    pub fn child(&self, parent: Ino, name: &str) -> Option<Ino> {
        let directory = self.directory_ref(parent)?;
        directory.children.get(name).copied()
    }

    /// The inode that has this path below a directory, if one is known.
    pub fn descend(&self, directory: Ino, path: &str) -> Option<Ino> {
        let mut components = path.split('/');
        components.try_fold(directory, |at, name| self.child(at, name))
    }

    /// Inodes in a directory.
    pub(super) fn children(&self, parent: Ino) -> Vec<(Name, Ino)> {
        let directory = self.directory_ref(parent);
        directory.map_or_else(Vec::new, |directory| {
            let children = directory.children.iter();
            children.map(|(name, ino)| (name.clone(), *ino)).collect()
        })
    }

    /// How many directories in a directory were wanted within `lately`.
    pub fn directories_wanted(&self, parent: Ino, lately: Duration, now: Instant) -> usize {
        let directory = |ino: &Ino| self.directory_ref(*ino);
        let children = directory(&parent).map(|parent| parent.children.values());
        let wanted = children.into_iter().flatten().filter(|child| {
            let wanted = directory(child).and_then(|directory| directory.wanted);
            wanted.is_some_and(|wanted| now.saturating_duration_since(wanted) < lately)
        });
        wanted.count()
    }

    pub(super) fn listed(&self, parent: Ino, name: &str) -> Option<&Entry> {
        let directory = self.directory_ref(parent)?;
        directory.listing.last_known(name)
    }

    /// Whether the inode, or anything below it, has content that is not in the bucket: then it is there,
    /// whatever others did to its name.
    pub fn is_dirty_below(&self, ino: Ino) -> bool {
        let Some(node) = self.nodes.get(&ino) else {
            return false;
        };
        match &node.inode {
            Inode::Directory(directory) => {
                let mut children = directory.children.values();
                children.any(|&child| self.is_dirty_below(child))
            }
            Inode::File(file) => file.dirty.is_some(),
        }
    }

    /// The kernel was given this inode once more.
    pub fn remember(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.kernel.lookups += 1;
            node.kernel.used = true;
        }
    }

    pub fn forget(&mut self, ino: Ino, lookups: u64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.kernel.lookups = node.kernel.lookups.saturating_sub(lookups);
            self.drop_if_unused(ino);
        } else if let Some(place) = self.dropped.pop(&ino) {
            self.forgotten.put(ino, place);
        }
    }

    /// The kernel asks for an inode by its number, which it may have forgotten. It counts as looked up once more.
    /// False if it is not known what it stood for, or another inode stands there.
    pub fn recall(&mut self, ino: Ino) -> bool {
        // From the inode up to the first that is known, and back down.
        let mut path = Vec::new();
        let mut at = ino;
        while !self.nodes.contains_key(&at) {
            let dropped = self.dropped.get(&at).cloned();
            let kernel_knows = dropped.is_some();
            let Some(place) = dropped.or_else(|| self.forgotten.get(&at).cloned()) else {
                return false;
            };
            if path.len() > DEEPEST {
                return false;
            }
            let parent = place.parent;
            path.push((at, place, kernel_knows && at != ino));
            at = parent;
        }
        for (at, place, kernel_knows) in path.into_iter().rev() {
            let taken = self.child(place.parent, &place.name).is_some();
            if taken || !self.is_directory(place.parent) {
                self.drop_if_unused(place.parent);
                return false;
            }
            self.insert(at, place.parent, &place.name, place.directory);
            if kernel_knows {
                self.remember(at);
            }
        }
        self.remember(ino);
        true
    }

    /// The kernel comes with the number of an inode that it knows of, and that may have been forgotten here alone.
    pub fn recall_if_forgotten(&mut self, ino: Ino) {
        if !self.nodes.contains_key(&ino) {
            self.recall(ino);
        }
    }

    /// Keeps an inode until [`InodeTable::unpin`]. False if it is not known.
    pub fn pin(&mut self, ino: Ino) -> bool {
        let node = self.nodes.get_mut(&ino);
        node.map(|node| node.pins += 1).is_some()
    }

    pub fn unpin(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.pins = node.pins.saturating_sub(1);
            self.drop_if_unused(ino);
        }
    }

    pub(super) fn drop_if_unused(&mut self, ino: Ino) {
        let mut at = ino;
        loop {
            let Some(node) = self.nodes.get(&at) else {
                return;
            };
            let has_children = node
                .directory()
                .is_some_and(|directory| !directory.children.is_empty());
            let used =
                node.kernel.lookups > 0 || node.pins > 0 || node.pending.is_some() || has_children;
            if at == Ino::ROOT || used {
                return;
            }
            let node = self.nodes.remove(&at).expect("looked up above");
            self.directories -= usize::from(node.is_directory());
            let names = node.directory();
            let names = names.and_then(|directory| directory.memory.as_ref());
            if let (Some(memory), Some(names)) = (&mut self.memory, names) {
                memory.names = memory.names.saturating_sub(names.bytes());
            }
            self.count_inodes();
            let directory = node.is_directory();
            let Some((parent, name)) = node.place else {
                return;
            };
            let place = Forgotten {
                parent,
                name: name.clone(),
                directory,
            };
            self.forgotten.put(at, place);
            if let Some(directory) = self.directory(parent) {
                directory.children.remove(&name);
            }
            at = parent;
        }
    }

    pub(super) fn make(&mut self, parent: Ino, name: &Name, directory: bool) -> Ino {
        let key = self.child_key(parent, name).unwrap_or_default();
        let ino = (0..)
            .map(|attempt| Ino(hash(&key, attempt)))
            .find(|ino| !self.nodes.contains_key(ino))
            .expect("an endless iterator");
        self.insert(ino, parent, name, directory);
        ino
    }

    pub(super) fn insert(&mut self, ino: Ino, parent: Ino, name: &Name, directory: bool) {
        self.nodes
            .insert(ino, Node::new(Some((parent, name.clone())), directory));
        if let Some(parent) = self.directory(parent) {
            parent.children.insert(name.clone(), ino);
        }
        self.directories += usize::from(directory);
        self.clock.push_back(ino);
        self.count_inodes();
    }
}

/// An inode number for a key: not 0, which means none, and not 1, the root.
fn hash(key: &str, attempt: u64) -> u64 {
    // FNV is stable across runs and machines, which the standard hasher does not promise.
    struct Fnv(u64);
    impl Hasher for Fnv {
        fn write(&mut self, bytes: &[u8]) {
            for &byte in bytes {
                self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
        fn finish(&self) -> u64 {
            self.0
        }
    }
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    key.as_bytes().hash(&mut hasher);
    attempt.hash(&mut hasher);
    hasher.finish().max(2)
}
