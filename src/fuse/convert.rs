//! Converts attributes, kinds and times to the kernel's types and back. Pure.

use std::time::SystemTime;

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use crate::fs::attributes::{Kind, Timestamp};
use crate::fs::namespace::stat::Stat;

/// The value of st_blksize in bytes: the preferred size of reads and writes.
pub(super) const BLOCK_SIZE: u32 = 128 << 10;

/// A file's attributes in the kernel's type.
pub(super) fn attr(looks: &Stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(looks.ino.0),
        size: looks.size,
        blocks: looks.size.div_ceil(512),
        atime: looks.atime.to_system(),
        mtime: looks.mtime.to_system(),
        ctime: looks.ctime.to_system(),
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(looks.kind),
        perm: looks.mode as u16,
        nlink: looks.links,
        uid: looks.uid,
        gid: looks.gid,
        rdev: looks.rdev,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// Inode 0: a negative entry.
pub(super) fn no_entry() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

pub(super) fn timestamp(time: TimeOrNow) -> Timestamp {
    let time = match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    };
    match SystemTime::UNIX_EPOCH.duration_since(time) {
        // For times before the epoch, the kernel sends whole seconds (rounded down) plus nanoseconds; fuser
        // counts both backward.
        Ok(before) if before.as_secs() > 0 => Timestamp {
            seconds: -(before.as_secs() as i64),
            nanos: before.subsec_nanos(),
        },
        _ => Timestamp::from_system(time),
    }
}
