//! Encodes directory entries.
//!
//! The FUSE library cannot mark the type of an entry as unknown, and a wrong type is worse than none, because
//! programs rely on it. So these replies are encoded here and written to the session's device in the kernel's
//! own layout (linux/fuse.h: fuse_out_header, fuse_dirent, fuse_direntplus; native byte order).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use fuser::{Errno, FileAttr, ReplyDirectory, ReplyDirectoryPlus, RequestId};

use super::convert::attr;
use crate::files::attributes::Timestamp;
use crate::fs::ops::readdir::DirectoryEntry;

/// Bytes of entries in one reply: the kernel's buffers are between a page and 128 KiB, and every libc uses at
/// least this much.
const ROOM: usize = 4096;

/// The maximum number of entries in one reply, with names of one byte.
pub(super) const MOST: usize = ROOM / 32;

/// The same for entries with attributes.
pub(super) const MOST_PLUS: usize = ROOM / 160;

/// fuse_out_header
const HEADER: usize = 16;

/// DT_UNKNOWN: programs that need the type call lstat.
const UNKNOWN: u32 = 0;

/// The device that replies are written to. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Dirents(Arc<OnceLock<OwnedFd>>);

impl Dirents {
    /// Must be set before the session runs.
    ///
    /// # Errors
    /// The descriptor cannot be duplicated.
    /// When the descriptor cannot be duplicated.
    pub(crate) fn set_device(&self, device: BorrowedFd<'_>) -> io::Result<()> {
        // If it is set twice, the first one is kept: it is the same device.
        let _ = self.0.set(device.try_clone_to_owned()?);
        Ok(())
    }

    pub(super) fn reply(
        &self,
        unique: RequestId,
        reply: ReplyDirectory,
        entries: &[DirectoryEntry],
    ) {
        let mut data = header_room();
        for entry in entries {
            if !push(&mut data, &[], entry) {
                break;
            }
        }
        match self.send(unique, data) {
            // The reply has been written; the library must not send another.
            Ok(()) => std::mem::forget(reply),
            Err(error) => {
                log::warn!("a directory reply failed: {error}");
                reply.error(Errno::EIO);
            }
        }
    }

    /// `taken` is called for the entries that count as looked up; if it returns false, the kernel must not
    /// cache the attributes.
    pub(super) fn reply_plus(
        &self,
        unique: RequestId,
        reply: ReplyDirectoryPlus,
        entries: &[DirectoryEntry],
        taken: impl Fn(&DirectoryEntry) -> bool,
    ) {
        let mut data = header_room();
        for entry in entries {
            let (at, out) = (data.len(), entry_out(entry));
            if !push(&mut data, &out, entry) {
                break;
            }
            // Before the kernel can forget it.
            if !taken(entry) {
                data[at..at + out.len()].fill(0);
            }
        }
        match self.send(unique, data) {
            Ok(()) => std::mem::forget(reply),
            Err(error) => {
                log::warn!("a directory reply failed: {error}");
                reply.error(Errno::EIO);
            }
        }
    }

    fn send(&self, unique: RequestId, mut data: Vec<u8>) -> io::Result<()> {
        let device = self.0.get().ok_or(io::ErrorKind::NotConnected)?;
        let len = data.len() as u32;
        data[0..4].copy_from_slice(&len.to_ne_bytes());
        data[8..16].copy_from_slice(&unique.0.to_ne_bytes());
        // The device accepts a reply in a single write or not at all.
        nix::unistd::write(device.as_fd(), &data)?;
        Ok(())
    }
}

fn header_room() -> Vec<u8> {
    let mut data = Vec::with_capacity(HEADER + ROOM);
    data.resize(HEADER, 0);
    data
}

/// Appends an entry, preceded by `before`; false if there is no room.
fn push(data: &mut Vec<u8>, before: &[u8], entry: &DirectoryEntry) -> bool {
    let name = entry.name.as_bytes();
    let len = (before.len() + 24 + name.len()).next_multiple_of(8);
    if data.len() + len > HEADER + ROOM {
        return false;
    }
    let end = data.len() + len;
    data.extend_from_slice(before);
    data.extend_from_slice(&entry.ino.0.to_ne_bytes());
    data.extend_from_slice(&entry.next.to_ne_bytes());
    data.extend_from_slice(&(name.len() as u32).to_ne_bytes());
    data.extend_from_slice(
        &entry
            .kind
            .map_or(UNKNOWN, |kind| kind.type_bits() >> 12)
            .to_ne_bytes(),
    );
    data.extend_from_slice(name);
    data.resize(end, 0);
    true
}

/// fuse_entry_out, of 128 bytes. Zero if nothing is known: the kernel then treats the entry as one from
/// readdir.
fn entry_out(entry: &DirectoryEntry) -> [u8; 128] {
    let mut out = [0; 128];
    let Some(stat) = &entry.stat else {
        return out;
    };
    let FileAttr {
        ino,
        size,
        blocks,
        atime,
        mtime,
        ctime,
        perm,
        nlink,
        uid,
        gid,
        rdev,
        blksize,
        ..
    } = attr(stat);
    let (valid, mode) = (stat.valid, stat.kind.type_bits() | u32::from(perm));
    let [atime, mtime, ctime] = [atime, mtime, ctime].map(Timestamp::from_system);
    let mut writer = Writer {
        out: &mut out,
        at: 0,
    };
    writer.u64(ino.0);
    writer.u64(0); // generation
    writer.u64(valid.as_secs());
    writer.u64(valid.as_secs());
    writer.u32(valid.subsec_nanos());
    writer.u32(valid.subsec_nanos());
    writer.u64(ino.0);
    writer.u64(size);
    writer.u64(blocks);
    for time in [atime, mtime, ctime] {
        writer.u64(time.seconds as u64);
    }
    for time in [atime, mtime, ctime] {
        writer.u32(time.nanos);
    }
    for field in [mode, nlink, uid, gid, rdev, blksize] {
        writer.u32(field);
    }
    out
}

struct Writer<'a> {
    out: &'a mut [u8; 128],
    at: usize,
}

impl Writer<'_> {
    fn u64(&mut self, value: u64) {
        self.out[self.at..self.at + 8].copy_from_slice(&value.to_ne_bytes());
        self.at += 8;
    }

    fn u32(&mut self, value: u32) {
        self.out[self.at..self.at + 4].copy_from_slice(&value.to_ne_bytes());
        self.at += 4;
    }
}
