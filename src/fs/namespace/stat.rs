//! What a program is shown of a file.

use std::time::Duration;

use super::inode::Ino;
use crate::files::attributes::{Kind, Timestamp};

/// The process that makes a call.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
}

/// A file as stat shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub ino: Ino,
    pub kind: Kind,
    /// In bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub rdev: u32,
    /// An object has one name; what is open has none once that is gone.
    pub links: u32,
    /// How long the kernel may count on it.
    pub valid: Duration,
}

/// An answer to a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    Present(Stat),
    /// Not there, and how long the kernel may count on that.
    Absent(Duration),
}
