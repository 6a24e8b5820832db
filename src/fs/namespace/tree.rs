//! The name tree: inodes and their names, what is known of them, and what only this mount knows yet.
//!
//! What the bucket has stands in the directories' [`Listing`](super::listing::Listing)s; a node of the [`InodeTable`]
//! adds what the bucket does not have yet, and what the kernel was told.
//!
//! An inode of a file is one version of it, as far as other clients make versions: the kernel keeps a size,
//! attributes, pages and a link's target by inode, each for a time of its own, and would mix them. So a name
//! whose object another client has replaced gets another inode (see `Namespace::detach_replaced`); the
//! old one goes on for those who have it open, and is ESTALE to everybody else, upon which the kernel looks
//! the name up anew. What this mount itself writes or copies is the next version of the same inode.
//!
//! Memory only: nothing waits while the lock around this is held.

mod changes;
mod dirty_state;
mod lookup;

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use super::entry::Object;
use super::freshness::Ttl;
use super::inode::Ino;
use super::inode_table::InodeTable;
use crate::files::attributes::{Attributes, Defaults};

/// What a name or an inode looks like.
#[derive(Clone, Debug)]
pub struct CachedStat {
    pub ino: Ino,
    pub attributes: Attributes,
    /// In bytes.
    pub size: u64,
    /// When this was last known to be true; now for what only this mount knows.
    pub checked: Instant,
    /// It has a name. Otherwise it lives on for those who have it open.
    pub named: bool,
}

/// What can be said without asking the bucket.
#[derive(Clone, Debug)]
pub enum CachedLookup {
    Hit(CachedStat),
    Negative(Instant),
    /// The directory must be listed, or the name requested.
    NeedsName,
    /// It is an object of this size whose headers must be requested.
    NeedsHead(Object),
    /// It is a directory whose marker must be requested.
    NeedsMarker(Ino),
    /// The inode in whose terms the question was put is not known any more, which says nothing about any name.
    Stale,
}

/// What stands under a name.
#[derive(Clone, Debug)]
pub enum Target {
    /// Only this mount has it yet.
    Uncommitted(Ino),
    Object(Object, Option<Ino>),
    Directory(Ino),
}

/// Renames and removals that are not done yet.
#[derive(Debug, Default)]
pub struct ChangesUnderWay {
    /// Directories that are being renamed: the keys of all that is below them change.
    moving: Vec<Ino>,
    /// Inodes whose names are being taken away.
    unlinking: Vec<Ino>,
}

impl ChangesUnderWay {
    /// Below a directory that is being renamed, all there is to know is what was known before. Followed by
    /// [`ChangesUnderWay::end_move`].
    pub fn begin_move(&mut self, ino: Ino) {
        self.moving.push(ino);
    }

    pub fn end_move(&mut self, ino: Ino) {
        remove_one(&mut self.moving, ino);
    }

    /// Its name is being taken away. Followed by [`ChangesUnderWay::end_unlinking`].
    pub fn begin_unlinking(&mut self, ino: Ino) {
        self.unlinking.push(ino);
    }

    pub fn end_unlinking(&mut self, ino: Ino) {
        remove_one(&mut self.unlinking, ino);
    }

    pub fn is_unlinking(&self, ino: Ino) -> bool {
        self.unlinking.contains(&ino)
    }
}

fn remove_one(inodes: &mut Vec<Ino>, ino: Ino) {
    if let Some(at) = inodes.iter().position(|&other| other == ino) {
        inodes.swap_remove(at);
    }
}

/// The inodes, and what names and inodes look like.
///
/// Questions about the tree itself are those of its [`InodeTable`], to which this dereferences.
#[derive(Debug)]
pub struct Namespace {
    inodes: InodeTable,
    defaults: Defaults,
    pub under_way: ChangesUnderWay,
}

impl Deref for Namespace {
    type Target = InodeTable;

    fn deref(&self) -> &InodeTable {
        &self.inodes
    }
}

impl DerefMut for Namespace {
    fn deref_mut(&mut self) -> &mut InodeTable {
        &mut self.inodes
    }
}

impl Namespace {
    /// `prefix` is empty or ends with `/`.
    pub fn new(prefix: String, ttl: Ttl, defaults: Defaults) -> Namespace {
        Namespace {
            inodes: InodeTable::new(prefix, ttl),
            defaults,
            under_way: ChangesUnderWay::default(),
        }
    }

    /// Whether it is a directory that is being renamed, or below one.
    pub fn is_moving(&self, ino: Ino) -> bool {
        let mut moving = self.under_way.moving.iter();
        moving.any(|&moving| self.is_within(ino, moving))
    }

    /// Whether the bucket cannot tell what this name stands for, because we are changing that.
    pub fn is_changing(&self, parent: Ino, name: &str) -> bool {
        let directory = self.directory_ref(parent);
        directory.is_some_and(|directory| directory.listing.is_changing(name))
            || self.is_moving(parent)
    }

    /// What is known below a directory that is being renamed counts until that is done.
    fn ttl_of(&self, moving: bool) -> Ttl {
        const LONG: Duration = Duration::from_secs(3600 * 24);
        match moving {
            true => Ttl {
                objects: LONG,
                directories: LONG,
            },
            false => self.ttl(),
        }
    }
}
