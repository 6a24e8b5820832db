//! What the kernel calls, one family of calls a file: each reads like its man page, over the rooms below.
//!
//! [`Filesystem`](filesystem::Filesystem) is made of the components of those rooms. An operation first tries what memory
//! can answer; its caller polls it once on the session thread, and hands it to the runtime only if it has to wait.

pub mod copy_range;
pub mod create;
pub mod filesystem;
pub mod lifecycle;
pub mod lookup;
pub mod open;
pub mod read;
pub mod readdir;
pub mod remove;
pub mod rename;
pub mod setattr;
pub mod write;
pub mod xattr;
