//! Inodes: which names they have, what is known of them, and what only this mount knows yet.
//!
//! The table maps an inode to (parent inode, name), so renaming a directory changes one node and no key
//! below it. What the bucket has stands in the directories' [`Listing`]s; a node adds what the bucket does
//! not have yet (`local`), and what the kernel was told (`lookups`, `pages`). A node without a name is an
//! open file that was unlinked or replaced; it keeps what was known of it in `nameless`.
//!
//! An inode of a file is one version of it, as far as other clients make versions: the kernel keeps a size,
//! attributes, pages and a link's target by inode, each for a time of its own, and would mix them. So a name
//! whose object another client has replaced gets another inode (see [`Namespace::part_from_replaced`]); the
//! old one goes on for those who have it open, and is ESTALE to everybody else, upon which the kernel looks
//! the name up anew. What this mount itself writes or copies is the next version of the same inode.
//!
//! Memory only: whoever holds the lock around this does nothing that waits.

mod local_state;
mod lookup;

use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::listing::{BYTES_PER_ENTRY, Entry, LOOKED_AT, Listing, Object, Ttl, fresh};
use super::object_name::Name;
use super::scan::SharedReading;
use super::walk::Walk;
use crate::fs::attributes::{Attributes, Change, Defaults, Kind, Timestamp};
use crate::fs::data::budget::{MemoryBudget, Reservation};
use crate::fs::error::Result;
use crate::store::object_store::ETag;

/// What an inode takes, in bytes: the node, its share of two tables, and its name.
const BYTES_PER_INODE: u64 = 768;
/// And so many more if it is a directory, with nothing in it.
const BYTES_PER_DIRECTORY: u64 = 1024;
/// Inodes are counted by so many.
const INODES_COUNTED: usize = 64;
/// So much of the memory budget, as a divisor, may go to what directories have in them.
const NAMES_SHARE: u64 = 4;
/// And so much to inodes.
const INODES_SHARE: u64 = 8;
/// A listing is counted anew when it has changed by this part of what was counted, as a divisor.
const NAMES_COUNTED: u64 = 8;

/// Forgotten inodes of which it is known what they stood for: some 2 MB.
const FORGOTTEN: NonZeroUsize = NonZeroUsize::new(16384).expect("not zero");
/// The same of directories that the kernel has not forgotten: some 3 MB. A working directory from which nothing was
/// asked while so many others were dropped is ESTALE.
const DROPPED: NonZeroUsize = NonZeroUsize::new(16384).expect("not zero");

/// Directories within each other: no key is longer.
const DEEPEST: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    pub const ROOT: Ino = Ino(1);
}

/// What a file that is not in the bucket as it stands here looks like.
#[derive(Clone, Debug)]
pub struct Local {
    pub attributes: Attributes,
    /// In bytes.
    pub size: u64,
    /// Counts changes of the attributes, so that an upload can tell whether it carried the last.
    pub revision: u64,
}

/// What is known of a directory itself.
#[derive(Debug, Default)]
pub struct Directory {
    pub listing: Listing,
    children: HashMap<Name, Ino>,
    /// From its marker's headers, and when that was true. None: it must be asked.
    known: Option<KnownDirectory>,
    /// Changes in the directory since its stored times, ours: shown, not stored.
    touched: Option<Timestamp>,
    /// This mount has made it.
    made_here: bool,
    pub walk: Walk,
    /// When somebody last wanted to know what is in it.
    pub wanted: Option<Instant>,
    /// What the listing takes of the memory budget.
    memory: Option<Reservation>,
    /// A reading of the listing as it stands, while somebody goes on with it.
    pub reading: Option<SharedReading>,
}

#[derive(Clone, Debug)]
struct KnownDirectory {
    attributes: Attributes,
    checked: Instant,
    /// The marker's time and whether a later change would show; None without a marker.
    marker: Option<Marker>,
}

/// A directory's marker object, as far as it tells one version from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    pub etag: ETag,
    /// Seconds since the epoch.
    pub last_modified: u64,
    /// As [`Known::settled`].
    pub settled: bool,
    /// As [`Object::ours`].
    pub ours: bool,
}

#[derive(Debug)]
struct Node {
    /// None: it has no name any more.
    place: Option<(Ino, Name)>,
    lookups: u64,
    /// The kernel was given it again since it was last considered for being forgotten.
    used: bool,
    /// Open files and whatever else must not lose the node.
    pins: u32,
    local: Option<Local>,
    /// There is no object of this name yet, or another one that this file replaces.
    unpublished: bool,
    /// What it was when its name was last looked at.
    kind: Option<Kind>,
    /// When it was renamed last: shown as its time of change, stored only where that costs nothing.
    renamed: Option<Timestamp>,
    /// It is to replace an object: when it goes before it was uploaded, that object must go as well.
    covers: bool,
    /// Attribute changes on their way to the bucket.
    pending: Option<Box<Pending>>,
    /// When somebody last set attributes to what they were: shown as the time of change, not stored.
    confirmed: Option<Timestamp>,
    /// Made here under a tool's temporary name, which it still has: its rename is to come.
    awaits_rename: bool,
    /// What was known when it lost its name.
    nameless: Option<Object>,
    /// The version that open files read; a name that shows another one gets another inode.
    open: Option<Object>,
    /// The content that the kernel's pages show.
    pages: Option<ETag>,
    /// The version that was shown under this inode last.
    version: Option<ETag>,
    /// Until when the kernel may show what it was told of `version`, its size above all.
    shown_until: Option<Instant>,
    /// Another client has replaced the object, and its name has another inode.
    replaced: bool,
    directory: Option<Box<Directory>>,
}

/// Attribute changes that were asked for and are not in the bucket yet.
#[derive(Debug, Default)]
struct Pending {
    change: Change,
    /// Of the calls that asked, in their order.
    waiting: Vec<Outcome>,
}

/// What became of one call's change; empty while it is on its way. Changes that come while a copy is under
/// way go with the next: a copy's failure is the failure of those that it carried, and of no others.
pub type Outcome = Arc<OnceLock<Result<()>>>;

/// What a name or an inode looks like.
#[derive(Clone, Debug)]
pub struct View {
    pub ino: Ino,
    pub attributes: Attributes,
    /// In bytes.
    pub size: u64,
    /// When this was last known to be true; now for what only this mount knows.
    pub checked: Instant,
    /// It has a name. Otherwise it lives on for those who have it open.
    pub named: bool,
}

/// Where an inode had its place.
#[derive(Clone, Debug)]
struct Forgotten {
    parent: Ino,
    name: Name,
    directory: bool,
}

/// What can be said without asking the bucket.
#[derive(Clone, Debug)]
pub enum Look {
    Known(View),
    Absent(Instant),
    /// The directory must be listed, or the name asked for.
    AskName,
    /// It is an object of this size whose headers must be asked for.
    AskObject(Object),
    /// It is a directory whose marker must be asked for.
    AskDirectory(Ino),
    /// The inode in whose terms the question was put is not known any more, which says nothing about any name.
    Stale,
}

/// What stands under a name.
#[derive(Clone, Debug)]
pub enum Target {
    /// Only this mount has it yet.
    Unpublished(Ino),
    Object(Object, Option<Ino>),
    Directory(Ino),
}

#[derive(Debug)]
pub struct Namespace {
    nodes: HashMap<Ino, Node>,
    /// How many of them are directories.
    directories: usize,
    /// Directories that are being renamed: the keys of all that is below them change.
    moving: Vec<Ino>,
    /// Inodes whose names are being taken away.
    leaving: Vec<Ino>,
    /// What inodes stood for that the kernel has forgotten: it may ask for one by a file handle.
    forgotten: LruCache<Ino, Forgotten>,
    /// What directories stood for that were forgotten here alone.
    dropped: LruCache<Ino, Forgotten>,
    prefix: String,
    ttl: Ttl,
    defaults: Defaults,
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

impl Node {
    /// Of which nothing is known but its name.
    fn new(place: Option<(Ino, Name)>, directory: bool) -> Node {
        Node {
            place,
            lookups: 0,
            used: true,
            pins: 0,
            local: None,
            unpublished: false,
            kind: None,
            renamed: None,
            covers: false,
            pending: None,
            confirmed: None,
            awaits_rename: false,
            nameless: None,
            open: None,
            pages: None,
            version: None,
            shown_until: None,
            replaced: false,
            directory: directory.then(Box::default),
        }
    }
}

impl Namespace {
    /// `prefix` is empty or ends with `/`.
    pub fn new(prefix: String, ttl: Ttl, defaults: Defaults) -> Namespace {
        let root = Node {
            lookups: 1,
            pins: 1,
            ..Node::new(None, true)
        };
        Namespace {
            nodes: HashMap::from([(Ino::ROOT, root)]),
            directories: 1,
            moving: Vec::new(),
            leaving: Vec::new(),
            forgotten: LruCache::new(FORGOTTEN),
            dropped: LruCache::new(DROPPED),
            prefix,
            ttl,
            defaults,
            memory: None,
            clock: VecDeque::new(),
        }
    }

    /// From now on, what is remembered counts against this budget and keeps to its shares of it.
    pub fn count_against(&mut self, budget: &MemoryBudget) {
        self.memory = Some(Memory {
            budget: budget.clone(),
            names: 0,
            inodes: budget.charge(0),
            counted: 0,
        });
    }

    /// How many inodes there are.
    #[allow(clippy::len_without_is_empty)] // the root is always there
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn ttl(&self) -> Ttl {
        self.ttl
    }

    /// What is known below a directory that is being renamed counts until that is done.
    fn ttl_of(&self, moving: bool) -> Ttl {
        const LONG: Duration = Duration::from_secs(3600 * 24);
        match moving {
            true => Ttl {
                objects: LONG,
                directories: LONG,
            },
            false => self.ttl,
        }
    }

    // ---- keys ----

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
        self.nodes
            .get(&ino)
            .is_some_and(|node| node.directory.is_some())
    }

    pub fn directory(&mut self, ino: Ino) -> Option<&mut Directory> {
        self.nodes.get_mut(&ino)?.directory.as_deref_mut()
    }

    /// The inode that is or would be the child's; for d_ino.
    pub fn ino_of_child(&self, parent: Ino, name: &str) -> Ino {
        match self.child(parent, name) {
            Some(ino) => ino,
            None => Ino(hash(&self.child_key(parent, name).unwrap_or_default(), 0)),
        }
    }

    /// Numbers the children of a directory as [`Namespace::ino_of_child`] does where no two keys' hashes are equal,
    /// without a lookup of each.
    pub fn numbers_children(&self, parent: Ino) -> impl Fn(&str) -> Ino + use<> {
        let directory = self.key(parent).unwrap_or_default();
        move |name| Ino(hash(&format!("{directory}{name}"), 0))
    }

    /// The inode that has this name, if one is known.
    pub fn child(&self, parent: Ino, name: &str) -> Option<Ino> {
        let directory = self.nodes.get(&parent)?.directory.as_deref()?;
        directory.children.get(name).copied()
    }

    /// The inode that has this path below a directory, if one is known.
    pub fn descend(&self, directory: Ino, path: &str) -> Option<Ino> {
        let mut components = path.split('/');
        components.try_fold(directory, |at, name| self.child(at, name))
    }

    /// Inodes in a directory.
    pub fn children(&self, parent: Ino) -> Vec<(Name, Ino)> {
        let directory = self
            .nodes
            .get(&parent)
            .and_then(|node| node.directory.as_deref());
        directory.map_or_else(Vec::new, |directory| {
            let children = directory.children.iter();
            children.map(|(name, ino)| (name.clone(), *ino)).collect()
        })
    }

    /// How many directories in a directory were wanted within `lately`.
    pub fn directories_wanted(&self, parent: Ino, lately: Duration, now: Instant) -> usize {
        let directory = |ino: &Ino| self.nodes.get(ino)?.directory.as_deref();
        let children = directory(&parent).map(|parent| parent.children.values());
        let wanted = children.into_iter().flatten().filter(|child| {
            let wanted = directory(child).and_then(|directory| directory.wanted);
            wanted.is_some_and(|wanted| now.saturating_duration_since(wanted) < lately)
        });
        wanted.count()
    }

    /// Files in a directory that stand here whatever the bucket has: not uploaded yet, or changed.
    pub fn changed_files(&self, parent: Ino) -> Vec<(Name, Ino)> {
        let mut children = self.children(parent);
        children.retain(|(_, ino)| self.nodes[ino].local.is_some());
        children
    }

    /// Names in a directory that the bucket does not have yet, or not any more.
    pub fn unpublished_children(&self, parent: Ino) -> Vec<(Name, Ino)> {
        let mut children = self.children(parent);
        children.retain(|(name, ino)| {
            self.nodes[ino].unpublished
                || (self.listed(parent, name).is_none() && self.holds_local(*ino))
        });
        children
    }

    // ---- changes under way ----

    /// Below a directory that is being renamed, all there is to know is what was known before. Followed by
    /// [`Namespace::end_move`].
    pub fn begin_move(&mut self, ino: Ino) {
        self.moving.push(ino);
    }

    pub fn end_move(&mut self, ino: Ino) {
        if let Some(at) = self.moving.iter().position(|&moving| moving == ino) {
            self.moving.swap_remove(at);
        }
    }

    /// Whether it is a directory that is being renamed, or below one.
    pub fn is_moving(&self, ino: Ino) -> bool {
        self.moving
            .iter()
            .any(|&moving| self.is_within(ino, moving))
    }

    /// Its name is being taken away. Followed by [`Namespace::end_leaving`].
    pub fn begin_leaving(&mut self, ino: Ino) {
        self.leaving.push(ino);
    }

    pub fn end_leaving(&mut self, ino: Ino) {
        if let Some(at) = self.leaving.iter().position(|&leaving| leaving == ino) {
            self.leaving.swap_remove(at);
        }
    }

    pub fn is_leaving(&self, ino: Ino) -> bool {
        self.leaving.contains(&ino)
    }

    /// Whether the bucket cannot be asked what this name stands for, because we are changing that.
    pub fn is_changing(&self, parent: Ino, name: &str) -> bool {
        let directory = self
            .nodes
            .get(&parent)
            .and_then(|node| node.directory.as_deref());
        directory.is_some_and(|directory| directory.listing.is_changing(name))
            || self.is_moving(parent)
    }

    // ---- memory ----

    /// How many names all listings together may have.
    pub fn most_names(&self) -> usize {
        let share = self.names_share();
        usize::try_from(share / BYTES_PER_ENTRY).unwrap_or(usize::MAX)
    }

    fn names_share(&self) -> u64 {
        let memory = self.memory.as_ref();
        memory.map_or(u64::MAX, |memory| memory.budget.limit() / NAMES_SHARE)
    }

    /// Counts what is known of a directory against the budget, if that has grown or become less. Beyond the share
    /// of all listings, those give way that have expired, then those wanted longest ago; the directory's own
    /// is remembered as far as it fits.
    pub fn account(&mut self, ino: Ino, now: Instant) {
        let Some(directory) = self.directory(ino) else {
            return;
        };
        let counted = directory.memory.as_ref().map_or(0, Reservation::bytes);
        let weight = directory.listing.weight();
        if weight.abs_diff(counted) * NAMES_COUNTED <= counted {
            return;
        }
        let share = self.names_share();
        if self.names_but(ino).saturating_add(weight) > share {
            self.drop_expired(now);
        }
        if self.names_but(ino).saturating_add(weight) > share {
            self.make_room(ino, share / 4 * 3);
        }
        let free = share.saturating_sub(self.names_but(ino));
        if let Some(Directory {
            listing, children, ..
        }) = self.directory(ino)
            && listing.weight() > free
        {
            let most = free / BYTES_PER_ENTRY / 4 * 3;
            listing.trim(most as usize, |name| children.contains_key(name));
        }
        self.count_names(ino);
    }

    /// What the listings of all other directories take, in bytes.
    fn names_but(&mut self, ino: Ino) -> u64 {
        let own = self.directory(ino);
        let own = own.and_then(|directory| directory.memory.as_ref());
        let own = own.map_or(0, Reservation::bytes);
        let memory = self.memory.as_ref();
        memory.map_or(0, |memory| memory.names.saturating_sub(own))
    }

    fn count_names(&mut self, ino: Ino) {
        let Some(memory) = &mut self.memory else {
            return;
        };
        let node = self.nodes.get_mut(&ino);
        if let Some(directory) = node.and_then(|node| node.directory.as_deref_mut()) {
            let weight = directory.listing.weight();
            let counted = directory
                .memory
                .get_or_insert_with(|| memory.budget.charge(0));
            memory.names = memory.names.saturating_sub(counted.bytes()) + weight;
            counted.resize(weight);
        }
    }

    /// Forgets listings, those wanted longest ago first, until all but `except` take no more than `goal`.
    fn make_room(&mut self, except: Ino, goal: u64) {
        let directories = self.nodes.iter().filter_map(|(ino, node)| {
            let directory = node.directory.as_deref()?;
            (*ino != except && !directory.listing.is_bare()).then_some((directory.wanted, *ino))
        });
        let mut directories: Vec<_> = directories.collect();
        directories.sort_unstable();
        for (_, ino) in directories {
            if self.names_but(except) <= goal {
                return;
            }
            self.forget_names(ino);
        }
    }

    /// Forgets what is known of a directory's names, but for those that somebody holds.
    fn forget_names(&mut self, ino: Ino) {
        if let Some(Directory {
            listing, children, ..
        }) = self.directory(ino)
        {
            listing.trim(0, |name| children.contains_key(name));
        }
        self.count_names(ino);
    }

    /// Somebody waits for memory, and nothing is cached that could be dropped: the names in directories are asked for
    /// anew, but for those where somebody is about to look at an answer.
    pub fn release_memory(&mut self, now: Instant) {
        self.drop_expired(now);
        let idle = self.nodes.iter().filter(|(_, node)| {
            let wanted = node
                .directory
                .as_deref()
                .and_then(|directory| directory.wanted);
            wanted.is_none_or(|wanted| !fresh(wanted, 2 * LOOKED_AT, now))
        });
        let idle: Vec<_> = idle.map(|(ino, _)| *ino).collect();
        for ino in idle {
            self.forget_names(ino);
        }
    }

    fn weight_of_inodes(&self) -> u64 {
        self.nodes.len() as u64 * BYTES_PER_INODE + self.directories as u64 * BYTES_PER_DIRECTORY
    }

    /// Counts the inodes against the budget.
    fn count_inodes(&mut self) {
        let len = self.nodes.len();
        let weight = self.weight_of_inodes();
        if let Some(memory) = &mut self.memory
            && memory.counted.abs_diff(len) >= INODES_COUNTED
        {
            memory.counted = len;
            memory.inodes.resize(weight);
        }
        if self.clock.len() > 2 * len + INODES_COUNTED {
            let nodes = &self.nodes;
            self.clock.retain(|ino| nodes.contains_key(ino));
        }
    }

    /// Names of files that the kernel should forget, because there are more inodes than the budget has room for: some
    /// that it was not given of late, and that nobody has open.
    ///
    /// Directories are never asked back: the kernel would take the name away from a program whose working directory it
    /// is. They are forgotten here alone, once nothing below them is known, and [recalled](Namespace::recall) when the
    /// kernel comes with their numbers.
    pub fn surplus(&mut self) -> Vec<(Ino, Name)> {
        /// For each that is added, more than one goes.
        const AT_ONCE: usize = 4;
        const LOOKED_AT: usize = 32;
        let mut surplus = Vec::new();
        let Some(memory) = &self.memory else {
            return surplus;
        };
        let share = memory.budget.limit() / INODES_SHARE;
        if self.weight_of_inodes() <= share {
            return surplus;
        }
        let mut gone = 0;
        for _ in 0..LOOKED_AT {
            let Some(ino) = self.clock.pop_front() else {
                break;
            };
            let Some(node) = self.nodes.get_mut(&ino) else {
                continue;
            };
            self.clock.push_back(ino);
            let used = std::mem::replace(&mut node.used, false);
            let held = node.pins > 0 || node.local.is_some() || node.pending.is_some();
            if used || held || node.lookups == 0 || node.open.is_some() {
                continue;
            }
            match &node.directory {
                None => surplus.extend(node.place.clone()),
                Some(directory) if directory.children.is_empty() => {
                    gone += usize::from(self.forget_directory(ino));
                }
                Some(_) => {}
            }
            if surplus.len() + gone >= AT_ONCE {
                break;
            }
        }
        surplus
    }

    /// Forgets a directory of which the kernel may still know. Not one that would get another number when its name is
    /// looked up again: one that was renamed, or above which a directory was.
    fn forget_directory(&mut self, ino: Ino) -> bool {
        let key = match self.place(ino) {
            Some((parent, name)) => self.child_key(parent, &name),
            None => None,
        };
        let again = key.map(|key| Ino(hash(&key, 0)));
        match (again == Some(ino), self.nodes.get_mut(&ino)) {
            (true, Some(node)) => {
                node.lookups = 0;
                self.drop_if_unused(ino);
                if let Some(place) = self.forgotten.pop(&ino) {
                    self.dropped.put(ino, place);
                }
                true
            }
            _ => false,
        }
    }

    /// Forgets listings that answer nothing any more, but for the names that somebody holds.
    pub fn drop_expired(&mut self, now: Instant) {
        let ttl = self.ttl;
        let mut dropped = Vec::new();
        for (ino, node) in &mut self.nodes {
            if let Some(directory) = &mut node.directory {
                let Directory {
                    listing, children, ..
                } = &mut **directory;
                if listing.drop_expired(ttl, now, |name| children.contains_key(name)) {
                    dropped.push(*ino);
                }
            }
        }
        for ino in dropped {
            self.count_names(ino);
        }
    }

    fn listed(&self, parent: Ino, name: &str) -> Option<&Entry> {
        let directory = self.nodes.get(&parent)?.directory.as_deref()?;
        directory.listing.last_known(name)
    }

    /// Whether the inode, or anything below it, has content that is not in the bucket: then it is there,
    /// whatever others did to its name.
    pub fn holds_local(&self, ino: Ino) -> bool {
        let Some(node) = self.nodes.get(&ino) else {
            return false;
        };
        match &node.directory {
            Some(directory) => directory
                .children
                .values()
                .any(|&child| self.holds_local(child)),
            None => node.local.is_some(),
        }
    }

    // ---- the kernel's references ----

    /// The kernel was given this inode once more.
    pub fn remember(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.lookups += 1;
            node.used = true;
        }
    }

    pub fn forget(&mut self, ino: Ino, lookups: u64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.lookups = node.lookups.saturating_sub(lookups);
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

    /// Keeps an inode until [`Namespace::unpin`]. False if it is not known.
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

    fn drop_if_unused(&mut self, ino: Ino) {
        let mut at = ino;
        loop {
            let Some(node) = self.nodes.get(&at) else {
                return;
            };
            let has_children = node
                .directory
                .as_deref()
                .is_some_and(|directory| !directory.children.is_empty());
            let used = node.lookups > 0 || node.pins > 0 || node.pending.is_some() || has_children;
            if at == Ino::ROOT || used {
                return;
            }
            let node = self.nodes.remove(&at).expect("looked up above");
            self.directories -= usize::from(node.directory.is_some());
            let names = node.directory.as_deref();
            let names = names.and_then(|directory| directory.memory.as_ref());
            if let (Some(memory), Some(names)) = (&mut self.memory, names) {
                memory.names = memory.names.saturating_sub(names.bytes());
            }
            self.count_inodes();
            let Some((parent, name)) = node.place else {
                return;
            };
            let place = Forgotten {
                parent,
                name: name.clone(),
                directory: node.directory.is_some(),
            };
            self.forgotten.put(at, place);
            if let Some(directory) = self.directory(parent) {
                directory.children.remove(&name);
            }
            at = parent;
        }
    }

    /// Whether the kernel's pages of this inode show that content already; from now on they do.
    pub fn pages_show(&mut self, ino: Ino, content: Option<&ETag>) -> bool {
        let Some(node) = self.nodes.get_mut(&ino) else {
            return false;
        };
        let same = node.pages.is_some() && node.pages.as_ref() == content;
        node.pages = content.cloned();
        same
    }

    // ---- making and changing names ----

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

    /// The inode of a name that stands for an object of this kind. One that stood for another kind gets another inode,
    /// though the tags be the same, as those of all empty objects are.
    fn node_of_kind(&mut self, parent: Ino, name: &str, kind: Kind) -> Ino {
        let ino = self.node_for(parent, name, false);
        let node = &self.nodes[&ino];
        let other = node.local.is_none() && node.kind.is_some_and(|before| before != kind);
        let ino = match other {
            true => {
                self.detach(ino);
                self.make(parent, &Name::from(name), false)
            }
            false => ino,
        };
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.kind = Some(kind);
        }
        ino
    }

    /// The inode has another name since that time.
    pub fn renamed(&mut self, ino: Ino, time: Timestamp) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.renamed = Some(time);
        }
    }

    fn make(&mut self, parent: Ino, name: &Name, directory: bool) -> Ino {
        let key = self.child_key(parent, name).unwrap_or_default();
        let ino = (0..)
            .map(|attempt| Ino(hash(&key, attempt)))
            .find(|ino| !self.nodes.contains_key(ino))
            .expect("an endless iterator");
        self.insert(ino, parent, name, directory);
        ino
    }

    fn insert(&mut self, ino: Ino, parent: Ino, name: &Name, directory: bool) {
        self.nodes
            .insert(ino, Node::new(Some((parent, name.clone())), directory));
        if let Some(parent) = self.directory(parent) {
            parent.children.insert(name.clone(), ino);
        }
        self.directories += usize::from(directory);
        self.clock.push_back(ino);
        self.count_inodes();
    }

    /// A new file that only this mount has yet. It must be pinned before the lock is let go.
    pub fn create(&mut self, parent: Ino, name: &Name, attributes: Attributes) -> Ino {
        if let Some(old) = self.child(parent, name) {
            self.detach(old);
        }
        let ino = self.make(parent, name, false);
        let node = self.nodes.get_mut(&ino).expect("made above");
        node.unpublished = true;
        node.local = Some(Local {
            attributes,
            size: 0,
            revision: 1,
        });
        ino
    }

    /// The name is gone, in the bucket as well as here.
    pub fn removed(&mut self, parent: Ino, name: &Name, now: Instant) {
        if let Some(ino) = self.child(parent, name) {
            self.detach(ino);
        }
        if let Some(directory) = self.directory(parent) {
            directory.listing.remove(name, now);
        }
    }

    /// The inode of the name is gone; what the bucket has under it is what it was.
    pub fn forgotten(&mut self, parent: Ino, name: &Name) {
        self.forget_name(parent, name);
    }

    /// What is known of a name may be wrong: it is asked for anew.
    pub fn doubt(&mut self, parent: Ino, name: &Name) {
        if let Some(directory) = self.directory(parent) {
            directory.listing.doubt(name);
        }
    }

    /// The same of a directory's own attributes.
    pub fn doubt_attributes(&mut self, ino: Ino) {
        if let Some(directory) = self.directory(ino) {
            directory.known = None;
        }
    }

    /// The name is gone, and whatever inode had it has another name already.
    pub fn removed_name(&mut self, parent: Ino, name: &Name, now: Instant) {
        if let Some(directory) = self.directory(parent) {
            directory.listing.remove(name, now);
        }
    }

    /// The listing says that the name is gone: so is whatever inode had it.
    fn forget_name(&mut self, parent: Ino, name: &str) {
        if let Some(ino) = self.child(parent, name) {
            self.detach(ino);
        }
    }

    /// Takes an inode's name away. What was known of it stays with it: of the version that is open, if one
    /// is, since the name may stand for another one by now.
    fn detach(&mut self, ino: Ino) {
        let object = self.object(ino);
        let Some(node) = self.nodes.get_mut(&ino) else {
            return;
        };
        node.nameless = match (&node.open, object) {
            (Some(open), Some(object)) if object.etag == open.etag && object.known.is_some() => {
                Some(object)
            }
            (Some(open), _) => Some(open.clone()),
            (None, object) => object,
        };
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
        if let Some(node) = self.nodes.get_mut(&ino) {
            if let Some(version) = &version {
                node.version = Some(version.etag.clone());
            }
            node.open = version;
        }
    }

    /// The content of an inode has another tag now: this mount has copied it.
    pub fn retag(&mut self, ino: Ino, copied: &ETag, copy: &ETag) {
        if let Some(node) = self.nodes.get_mut(&ino)
            && node.version.as_ref() == Some(copied)
        {
            node.version = Some(copy.clone());
        }
    }

    /// The content of an inode is what this mount has uploaded.
    pub fn uploaded(&mut self, ino: Ino, version: &ETag) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.version = Some(version.clone());
        }
    }

    /// The version that was shown under the inode last.
    pub fn version(&self, ino: Ino) -> Option<ETag> {
        self.nodes.get(&ino)?.version.clone()
    }

    /// Whether the inode stands for this version of its name, so that it can be opened.
    pub fn stands_for(&self, ino: Ino, version: &ETag) -> bool {
        self.nodes.get(&ino).is_some_and(|node| {
            let shown = node.version.as_ref();
            node.replaced || shown.is_none_or(|shown| shown == version)
        })
    }

    /// Whether the name of this inode stands for the version of another client's by now.
    pub fn is_replaced(&self, ino: Ino) -> bool {
        self.nodes.get(&ino).is_some_and(|node| node.replaced)
    }

    /// Whether the kernel may have shown the inode's attributes, as they are known, to somebody after `since`.
    pub fn was_shown_after(&self, ino: Ino, since: Instant) -> bool {
        let node = self.nodes.get(&ino);
        node.and_then(|node| node.shown_until)
            .is_some_and(|until| until > since)
    }

    /// Detaches the inode of a name whose object another client has replaced: the name gets another inode.
    fn part_from_replaced(&mut self, parent: Ino, name: &str, etag: &ETag) {
        let Some(ino) = self.child(parent, name) else {
            return;
        };
        let node = &self.nodes[&ino];
        let open = node.open.as_ref().map(|open| &open.etag);
        let shown = open.or(node.version.as_ref());
        let replaced = node.local.is_none() && shown.is_some_and(|shown| shown != etag);
        // Our own copies may change the tag.
        if replaced && !self.is_changing(parent, name) {
            if let Some(node) = self.nodes.get_mut(&ino) {
                node.replaced = true;
            }
            self.detach(ino);
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
        node.nameless = None;
        node.replaced = false;
        node.awaits_rename = false;
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
            && let Some(node) = self.nodes.get_mut(&ino)
        {
            node.unpublished = false;
            node.covers = false;
        }
        if let Some(directory) = self.directory(parent) {
            directory.listing.put(name, Entry::Object(object), now);
        }
        self.account(parent, now);
    }

    /// Whether the inode is to replace an object that it is not the next version of.
    pub fn covers(&self, ino: Ino) -> bool {
        self.nodes.get(&ino).is_some_and(|node| node.covers)
    }

    pub fn set_covers(&mut self, ino: Ino, covers: bool) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.covers = covers;
        }
    }

    /// The upload of a nameless file's content, or a copy of it put aside.
    pub fn set_nameless(&mut self, ino: Ino, object: Object) {
        if let Some(node) = self.nodes.get_mut(&ino)
            && node.place.is_none()
        {
            node.nameless = Some(object);
        }
    }

    /// Everything below was moved: what the listings there say of tags may be wrong.
    pub fn doubt_below(&mut self, ino: Ino) {
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

/// For attributes that are made now.
pub fn now() -> Timestamp {
    Timestamp::from_system(std::time::SystemTime::now())
}

/// Whether an object of this kind is opened, rather than followed or looked at.
pub fn has_content(kind: Kind) -> bool {
    matches!(kind, Kind::File | Kind::Symlink)
}
