//! Converts attributes, kinds and times to the kernel's types and back. Pure.

use std::time::SystemTime;

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use crate::files::attributes::{Kind, Timestamp};
use crate::fs::namespace::stat::Stat;

/// The value of st_blksize in bytes: the preferred size of reads and writes.
pub(super) const BLOCK_SIZE: u32 = 128 << 10;

/// A file's attributes as the kernel wants them.
pub(super) fn attr(stat: &Stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(stat.ino.0),
        size: stat.size,
        blocks: stat.size.div_ceil(512),
        atime: stat.atime.to_system(),
        mtime: stat.mtime.to_system(),
        ctime: stat.ctime.to_system(),
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(stat.kind),
        perm: stat.mode as u16,
        nlink: stat.links,
        uid: stat.uid,
        gid: stat.gid,
        rdev: stat.rdev,
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
