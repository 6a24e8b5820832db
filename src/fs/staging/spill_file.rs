//! Where staged bytes go when memory is short: one file without a name, sealed block by block.
//!
//! The file is divided into slots, one for each block. A slot holds a block's leaves, each sealed on
//! its own, so that reading 128 KiB of a block costs 128 KiB. What a leaf is sealed with names it:
//! file, block, generation and leaf; bytes that were moved, swapped or put back from an older block
//! do not open. Freed slots are punched out of the file, so that the disk gets its room back.
//!
//! Everything here blocks on the disk: it is called from `spawn_blocking`, but for dropping a
//! [`Stored`], which only notes that the slot is free.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::sys::statvfs::fstatvfs;

use super::cipher::{Nonce, StagingCipher};
use super::error::Error;

/// What is sealed at once: the most a small read of spilled bytes costs, in bytes.
pub(super) const LEAF: usize = 128 << 10;
/// What sealing adds to a leaf.
const TAG: usize = 16;
/// Slots begin and end at multiples of this, so that punching one frees all of it.
const PAGE: u64 = 4096;

/// What a block is sealed as. No two blocks ever have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockName {
    pub file: u64,
    pub index: u64,
    /// Drawn once for each block ever made: a block that replaces another has a higher one.
    pub generation: u64,
}

impl BlockName {
    fn leaf(&self, leaf: usize) -> [u8; 32] {
        let mut name = [0; 32];
        for (place, number) in name.chunks_exact_mut(8).zip([
            self.file,
            self.index,
            self.generation,
            leaf as u64,
        ]) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        name
    }
}

pub(super) struct SpillFile {
    file: File,
    cipher: StagingCipher,
    /// Sealed bytes of a whole block, rounded up to [`PAGE`].
    slot_len: u64,
    leaf: usize,
    limit: u64,
    free_reserve: u64,
    /// A leaf; nothing is done with the disk while it is held.
    slots: Mutex<Slots>,
}

/// Which slots are free; bytes count as used until they are punched.
#[derive(Default)]
struct Slots {
    free: BinaryHeap<Reverse<u64>>,
    /// Given up and not punched yet: slot, bytes.
    dropped: Vec<(u64, u64)>,
    /// Slots from here on have never been used.
    next: u64,
    /// In bytes of disk.
    used: u64,
}

impl SpillFile {
    /// Makes `directory` (0700) if it is not there, and in it a file that vanishes with the process.
    /// At most `limit` bytes are stored, and none when that would leave less than `free_reserve`
    /// bytes of the disk free.
    pub fn open(
        directory: &Path,
        block: usize,
        limit: u64,
        free_reserve: u64,
    ) -> io::Result<SpillFile> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let leaf = LEAF.min(block);
        let slot_len = (block + block.div_ceil(leaf) * TAG) as u64;
        Ok(SpillFile {
            file: nameless(directory)?,
            cipher: StagingCipher::new(),
            slot_len: slot_len.next_multiple_of(PAGE),
            leaf,
            limit,
            free_reserve,
            slots: Mutex::default(),
        })
    }

    /// Whether "the disk" is memory after all.
    pub fn on_tmpfs(&self) -> bool {
        fstatfs(&self.file).is_ok_and(|stat| stat.filesystem_type() == TMPFS_MAGIC)
    }

    /// Bytes of disk in use.
    pub fn used(&self) -> u64 {
        self.slots().used
    }

    /// Seals and writes a block of at most the block size. `scratch` is for the sealing: one leaf.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`]: nothing is kept of the block.
    pub fn store(
        self: &Arc<Self>,
        name: BlockName,
        plain: &[u8],
        scratch: &mut Vec<u8>,
    ) -> Result<Stored, Error> {
        let leaves = plain.len().div_ceil(self.leaf);
        let bytes = ((plain.len() + leaves * TAG) as u64).next_multiple_of(PAGE);
        let slot = self.allocate(bytes)?;
        // From here on dropping it gives the slot back.
        let mut stored = Stored {
            file: self.clone(),
            name,
            slot,
            bytes,
            len: plain.len(),
            nonces: Vec::with_capacity(leaves),
        };
        for (number, leaf) in plain.chunks(self.leaf).enumerate() {
            scratch.clear();
            scratch.extend_from_slice(leaf);
            stored
                .nonces
                .push(self.cipher.seal(&name.leaf(number), scratch));
            self.file.write_all_at(scratch, stored.leaf_offset(number))?;
        }
        Ok(stored)
    }

    /// Punches what has been dropped; returns how many bytes that freed.
    pub fn punch_dropped(&self) -> u64 {
        let dropped = std::mem::take(&mut self.slots().dropped);
        let mut freed = 0;
        for &(slot, bytes) in &dropped {
            // Where the file system cannot punch, the slot is still used again.
            let punched = fallocate(
                &self.file,
                FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
                (slot * self.slot_len) as libc::off_t,
                self.slot_len as libc::off_t,
            );
            if let Err(errno) = punched {
                log::debug!("cache directory: a freed block stays allocated: {errno}");
            }
            freed += bytes;
        }
        let mut slots = self.slots();
        slots.used -= freed;
        slots
            .free
            .extend(dropped.iter().map(|&(slot, _)| Reverse(slot)));
        freed
    }

    pub fn has_dropped(&self) -> bool {
        !self.slots().dropped.is_empty()
    }

    fn allocate(&self, bytes: u64) -> Result<u64, Error> {
        // Before a slot that was never used, those waiting to be punched: the file stays short.
        for attempt in 0..2 {
            let room = self.has_room_on_disk(bytes)?;
            let mut slots = self.slots();
            if room && slots.used + bytes <= self.limit {
                slots.used += bytes;
                return Ok(match slots.free.pop() {
                    Some(Reverse(slot)) => slot,
                    None => {
                        slots.next += 1;
                        slots.next - 1
                    }
                });
            }
            drop(slots);
            if attempt == 0 && self.punch_dropped() == 0 {
                break;
            }
        }
        Err(Error::NoSpace)
    }

    fn has_room_on_disk(&self, bytes: u64) -> Result<bool, Error> {
        let stat = fstatvfs(&self.file).map_err(io::Error::from)?;
        let free = (stat.blocks_available() as u64).saturating_mul(stat.fragment_size() as u64);
        Ok(free >= self.free_reserve.saturating_add(bytes))
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that is on disk, as it is there.
    #[cfg(test)]
    pub fn raw(&self) -> Vec<u8> {
        let mut raw = vec![0; self.file.metadata().expect("it is open").len() as usize];
        self.file.read_exact_at(&mut raw, 0).expect("it is readable");
        raw
    }

    #[cfg(test)]
    pub fn overwrite(&self, offset: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, offset).expect("it is writable");
    }
}

/// A file that no directory names, 0600.
fn nameless(directory: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    let made = options
        .clone()
        .custom_flags(libc::O_TMPFILE)
        .open(directory);
    match made {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT | libc::EINVAL)
            ) =>
        {
            // Some file systems cannot: then the name lives for an instant.
            let path = directory.join(format!("staging.{}.{:016x}", std::process::id(), {
                rand::random::<u64>()
            }));
            let file = options.create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        }
        made => made,
    }
}

/// A block on disk. Its bytes never change; dropping it frees its slot.
pub(super) struct Stored {
    file: Arc<SpillFile>,
    name: BlockName,
    slot: u64,
    /// Of disk.
    bytes: u64,
    len: usize,
    /// One for each leaf.
    nonces: Vec<Nonce>,
}

impl Stored {
    /// Of the block, in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Appends the bytes of `range`, which lies within the block, to `out`.
    ///
    /// # Errors
    /// [`Error::Damaged`] if they are not what was stored; [`Error::Io`].
    pub fn read(&self, range: Range<usize>, out: &mut Vec<u8>) -> Result<(), Error> {
        debug_assert!(range.end <= self.len);
        let leaf_len = self.file.leaf;
        let mut sealed = Vec::with_capacity(leaf_len + TAG);
        let mut at = range.start;
        while at < range.end {
            let number = at / leaf_len;
            let first = number * leaf_len;
            let len = leaf_len.min(self.len - first);
            sealed.clear();
            sealed.resize(len + TAG, 0);
            self.file
                .file
                .read_exact_at(&mut sealed, self.leaf_offset(number))
                .map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => Error::Damaged,
                    _ => Error::from(error),
                })?;
            self.file
                .cipher
                .open(self.nonces[number], &self.name.leaf(number), &mut sealed)
                .map_err(|_| Error::Damaged)?;
            let end = range.end.min(first + len);
            out.extend_from_slice(&sealed[at - first..end - first]);
            at = end;
        }
        Ok(())
    }

    fn leaf_offset(&self, number: usize) -> u64 {
        self.slot * self.file.slot_len + (number * (self.file.leaf + TAG)) as u64
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.file.slots().dropped.push((self.slot, self.bytes));
    }
}
