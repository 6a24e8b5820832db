//! The FUSE adapter: kernel requests and replies.

pub mod adapter;
mod convert;
mod dirents;
mod errno;
pub mod mount_table;
pub mod session;
