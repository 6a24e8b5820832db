//! Where staged bytes go when memory is short: one file without a name, sealed block by block.
//!
//! The file is divided into slots, one for each block. A slot holds a block's leaves, each sealed on
//! its own, so that reading 128 KiB of a block costs 128 KiB. What a leaf is sealed with names it:
//! file, block, generation and leaf; bytes that were moved, swapped or put back from an older block
//! do not open. The seals stay in memory, so that whole pages are written. They go past the page cache
//! while the disk is fast: copying them there takes longer than sealing them, and crowds out what others
//! have cached. Freed slots are punched out of the file, so that the disk gets its room back.
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
use std::sync::{Arc, Mutex, MutexGuard};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::sys::statvfs::fstatvfs;
use tokio::sync::Notify;

use super::direct::Direct;
use super::error::Error;
use crate::base::sync::lock;
use crate::crypto::staging_cipher::{Seal, StagingCipher};

/// A block is sealed in so many leaves: 128 KiB each, which is what a small read of spilled bytes
/// costs.
const LEAVES: usize = 8;
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
        for (place, number) in
            name.chunks_exact_mut(8)
                .zip([self.file, self.index, self.generation, leaf as u64])
        {
            place.copy_from_slice(&number.to_be_bytes());
        }
        name
    }
}

pub(super) struct SpillFile {
    file: File,
    direct: Option<Direct>,
    cipher: StagingCipher,
    /// Bytes of a whole block, rounded up to [`PAGE`].
    slot_len: u64,
    /// Plain bytes of a leaf.
    leaf: usize,
    limit: u64,
    free_reserve: u64,
    /// Told when a slot was dropped.
    freed: Arc<Notify>,
    /// Held while slots are punched, before `slots`: a write that finds no room waits for what is on its way.
    punching: Mutex<()>,
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
    pub(super) fn open(
        directory: &Path,
        block: usize,
        limit: u64,
        free_reserve: u64,
        freed: Arc<Notify>,
    ) -> io::Result<SpillFile> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let leaf = block.div_ceil(LEAVES);
        let file = nameless(directory)?;
        Ok(SpillFile {
            direct: Direct::open(&file),
            file,
            cipher: StagingCipher::generate(),
            slot_len: (block as u64).next_multiple_of(PAGE),
            leaf,
            limit,
            free_reserve,
            freed,
            punching: Mutex::default(),
            slots: Mutex::default(),
        })
    }

    /// Whether "the disk" is memory after all.
    pub(super) fn on_tmpfs(&self) -> bool {
        fstatfs(&self.file).is_ok_and(|stat| stat.filesystem_type() == TMPFS_MAGIC)
    }

    /// Plain bytes of a leaf.
    pub(super) fn leaf(&self) -> usize {
        self.leaf
    }

    /// Bytes of disk in use.
    pub(super) fn used(&self) -> u64 {
        self.slots().used
    }

    /// How long `scratch` has to be for [`store`](Self::store): what is written begins at a whole page of it.
    pub(super) fn scratch_len(&self) -> usize {
        PAGE as usize + self.slot_len as usize + StagingCipher::SPARE
    }

    /// Seals and writes a block of at most the block size. `scratch` is for the sealing.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`]: nothing is kept of the block.
    pub(super) fn store(
        self: &Arc<Self>,
        name: BlockName,
        plain: &[u8],
        scratch: &mut [u8],
    ) -> Result<Stored, Error> {
        let bytes = (plain.len() as u64).next_multiple_of(PAGE);
        let slot = self.allocate(bytes)?;
        // From here on dropping it gives the slot back.
        let mut stored = Stored {
            file: self.clone(),
            name,
            slot,
            bytes,
            len: plain.len(),
            seals: Vec::with_capacity(plain.len().div_ceil(self.leaf)),
        };
        let first_page = scratch.as_ptr().align_offset(PAGE as usize);
        let scratch = &mut scratch[first_page..];
        for (number, leaf) in plain.chunks(self.leaf).enumerate() {
            // What is left behind a leaf goes under the next one.
            let room = &mut scratch[number * self.leaf..][..leaf.len() + StagingCipher::SPARE];
            let seal = self.cipher.seal(&name.leaf(number), leaf, room);
            stored.seals.push(seal);
        }
        scratch[plain.len()..bytes as usize].fill(0);
        let whole_pages = &scratch[..bytes as usize];
        self.write(whole_pages, stored.offset(0))?;
        Ok(stored)
    }

    fn write(&self, pages: &[u8], offset: u64) -> io::Result<()> {
        if let Some(direct) = &self.direct
            && direct.write(pages, offset)?
        {
            return Ok(());
        }
        self.file.write_all_at(pages, offset)
    }

    /// Punches what has been dropped; returns how many bytes that freed.
    pub(super) fn punch_dropped(&self) -> u64 {
        let _punching = lock(&self.punching);
        let mut dropped = std::mem::take(&mut self.slots().dropped);
        dropped.sort_unstable();
        let freed = dropped.iter().map(|(_, bytes)| bytes).sum::<u64>();
        // Slots that follow each other go together.
        for run in dropped.chunk_by(|a, b| a.0 + 1 == b.0) {
            // Where the file system cannot punch, the slots are still used again.
            let punched = fallocate(
                &self.file,
                FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
                (run[0].0 * self.slot_len) as libc::off_t,
                (run.len() as u64 * self.slot_len) as libc::off_t,
            );
            if let Err(errno) = punched {
                log::debug!("cache directory: freed blocks stay allocated: {errno}");
            }
        }
        let mut slots = self.slots();
        slots.used -= freed;
        slots
            .free
            .extend(dropped.iter().map(|&(slot, _)| Reverse(slot)));
        freed
    }

    pub(super) fn has_dropped(&self) -> bool {
        !self.slots().dropped.is_empty()
    }

    fn allocate(&self, bytes: u64) -> Result<u64, Error> {
        if let Some(slot) = self.try_allocate(bytes)? {
            return Ok(slot);
        }
        self.punch_dropped();
        self.try_allocate(bytes)?.ok_or(Error::NoSpace)
    }

    fn try_allocate(&self, bytes: u64) -> Result<Option<u64>, Error> {
        if !self.has_room_on_disk(bytes)? {
            return Ok(None);
        }
        let mut slots = self.slots();
        let slots = &mut *slots;
        // The pages of one that was dropped are there: it is the cheapest to write to.
        let (dropped, before) = slots.dropped.last().copied().unzip();
        let used = slots.used - before.unwrap_or(0) + bytes;
        if used > self.limit {
            return Ok(None);
        }
        slots.used = used;
        if dropped.is_some() {
            slots.dropped.pop();
            return Ok(dropped);
        }
        if let Some(Reverse(slot)) = slots.free.pop() {
            return Ok(Some(slot));
        }
        slots.next += 1;
        Ok(Some(slots.next - 1))
    }

    fn has_room_on_disk(&self, bytes: u64) -> Result<bool, Error> {
        let stat = fstatvfs(&self.file).map_err(io::Error::from)?;
        let free = (stat.blocks_available() as u64).saturating_mul(stat.fragment_size() as u64);
        Ok(free >= self.free_reserve.saturating_add(bytes))
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        lock(&self.slots)
    }

    /// All that is on disk, as it is there.
    #[cfg(test)]
    pub(super) fn raw(&self) -> Vec<u8> {
        let mut raw = vec![0; self.file.metadata().expect("it is open").len() as usize];
        self.file
            .read_exact_at(&mut raw, 0)
            .expect("it is readable");
        raw
    }

    #[cfg(test)]
    pub(super) fn metadata(&self) -> std::fs::Metadata {
        self.file.metadata().expect("it is open")
    }

    #[cfg(test)]
    pub(super) fn overwrite(&self, offset: u64, bytes: &[u8]) {
        self.file
            .write_all_at(bytes, offset)
            .expect("it is writable");
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
    seals: Vec<Seal>,
}

impl Stored {
    /// Of the block, in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The bytes of `range`, which lies within the block, into `out`, which is as long.
    ///
    /// # Errors
    /// [`Error::Damaged`] if they are not what was stored; [`Error::Io`].
    pub(super) fn read(&self, range: Range<usize>, out: &mut [u8]) -> Result<(), Error> {
        debug_assert!(range.end <= self.len && range.len() == out.len());
        let leaf_len = self.file.leaf;
        let mut sealed = vec![0; leaf_len];
        let mut leaf = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let number = at / leaf_len;
            let first = number * leaf_len;
            let len = leaf_len.min(self.len - first);
            let sealed = &mut sealed[..len];
            self.file
                .file
                .read_exact_at(sealed, self.offset(first))
                .map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => Error::Damaged,
                    _ => Error::from(error),
                })?;
            let open = |plain: &mut [u8]| {
                let cipher = &self.file.cipher;
                cipher.open(&self.seals[number], &self.name.leaf(number), sealed, plain)
            };
            let end = range.end.min(first + len);
            let place = &mut out[at - range.start..end - range.start];
            if place.len() == len {
                open(place).map_err(|_| Error::Damaged)?;
            } else {
                leaf.resize(len, 0);
                open(&mut leaf).map_err(|_| Error::Damaged)?;
                place.copy_from_slice(&leaf[at - first..end - first]);
            }
            at = end;
        }
        Ok(())
    }

    /// Where byte `at` of the block stands in the file.
    fn offset(&self, at: usize) -> u64 {
        self.slot * self.file.slot_len + at as u64
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.file.slots().dropped.push((self.slot, self.bytes));
        self.file.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_whichever_way_they_were_written() {
        const BLOCK: usize = 1 << 20;
        let directory = tempfile::tempdir().unwrap();
        let mut file =
            SpillFile::open(directory.path(), BLOCK, u64::MAX, 0, Arc::default()).unwrap();
        if file.direct.is_none() {
            println!("skipped in part: this file system has no way past the page cache");
        }
        let ways: [fn(&mut SpillFile); 3] = [
            |_| {},
            // The disk turned out to be slow.
            |file| {
                if let Some(direct) = &file.direct {
                    direct.turned_out_slow();
                }
            },
            |file| file.direct = None,
        ];
        for (generation, way) in ways.into_iter().enumerate() {
            way(&mut file);
            let shared = Arc::new(file);
            let mut scratch = vec![0; shared.scratch_len()];
            for len in [BLOCK, BLOCK - 1, 200_000, 5] {
                let plain: Vec<u8> = (0..len).map(|i| (i % 251 + generation) as u8).collect();
                let name = BlockName {
                    file: 1,
                    index: len as u64,
                    generation: generation as u64,
                };
                let stored = shared.store(name, &plain, &mut scratch).unwrap();
                let mut found = vec![0; len];
                stored.read(0..len, &mut found).unwrap();
                assert!(found == plain, "{len} bytes, way {generation}");
            }
            file = Arc::into_inner(shared).unwrap();
        }
    }
}
