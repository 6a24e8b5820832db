//! What the kernel calls, one family of calls a file: each reads like its man page, over the rooms below.

pub mod copy_range;
pub mod create;
pub mod lookup;
pub mod open;
pub mod readdir;
pub mod rename;
pub mod write;
pub mod xattr;
