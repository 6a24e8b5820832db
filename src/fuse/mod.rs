//! Kernel requests in, replies out.

pub mod adapter;
mod convert;
mod dirents;
mod errno;
pub mod mount_table;
pub mod session;
