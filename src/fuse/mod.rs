//! The FUSE adapter: kernel requests and replies.

pub(crate) mod adapter;
mod convert;
mod dirents;
mod errno;
pub(crate) mod guard;
pub(crate) mod mount_table;
pub(crate) mod session;
