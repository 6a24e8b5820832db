//! What inodes and listings take of the memory budget, and which give way.

use std::time::Instant;

use super::{InodeTable, Memory, hash};
use crate::fs::data::budget::{MemoryBudget, Reservation};
use crate::fs::namespace::freshness::{LOOKED_AT, fresh};
use crate::fs::namespace::inode::{Directory, Ino, Inode};
use crate::fs::namespace::listing::BYTES_PER_ENTRY;
use crate::fs::namespace::object_name::Name;

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

impl InodeTable {
    /// From now on, what is remembered counts against this budget and keeps to its shares of it.
    pub fn count_against(&mut self, budget: &MemoryBudget) {
        self.memory = Some(Memory {
            budget: budget.clone(),
            names: 0,
            inodes: budget.charge(0),
            counted: 0,
        });
    }

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
        if let Some(directory) = node.and_then(|node| node.directory_mut()) {
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
            let directory = node.directory()?;
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

    /// Forgets what is known of a directory's names, but for those of known inodes.
    fn forget_names(&mut self, ino: Ino) {
        if let Some(Directory {
            listing, children, ..
        }) = self.directory(ino)
        {
            listing.trim(0, |name| children.contains_key(name));
        }
        self.count_names(ino);
    }

    /// A request waits for memory, and nothing is cached that could be dropped: listings are forgotten,
    /// but for those whose response a call is about to read.
    pub fn release_memory(&mut self, now: Instant) {
        self.drop_expired(now);
        let idle = self.nodes.iter().filter(|(_, node)| {
            let wanted = node.directory().and_then(|directory| directory.wanted);
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
    pub(super) fn count_inodes(&mut self) {
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
    /// that it was not given of late, and that are not open.
    ///
    /// Directories are never asked back: the kernel would take the name away from a program whose working directory it
    /// is. They are forgotten here alone, once nothing below them is known, and [recalled](InodeTable::recall) when the
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
            let used = std::mem::replace(&mut node.kernel.used, false);
            let held = node.pins > 0 || node.is_dirty() || node.pending.is_some();
            if used || held || node.kernel.lookups == 0 {
                continue;
            }
            match &node.inode {
                Inode::File(file) if file.open.is_some() => {}
                Inode::File(_) => surplus.extend(node.place.clone()),
                Inode::Directory(directory) if directory.children.is_empty() => {
                    gone += usize::from(self.forget_directory(ino));
                }
                Inode::Directory(_) => {}
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
                node.kernel.lookups = 0;
                self.drop_if_unused(ino);
                if let Some(place) = self.forgotten.pop(&ino) {
                    self.dropped.put(ino, place);
                }
                true
            }
            _ => false,
        }
    }

    /// Forgets listings that have expired, but for the names of known inodes.
    pub fn drop_expired(&mut self, now: Instant) {
        let ttl = self.ttl;
        let mut dropped = Vec::new();
        for (ino, node) in &mut self.nodes {
            if let Some(Directory {
                listing, children, ..
            }) = node.directory_mut()
                && listing.drop_expired(ttl, now, |name| children.contains_key(name))
            {
                dropped.push(*ino);
            }
        }
        for ino in dropped {
            self.count_names(ino);
        }
    }
}
