//! rename(2): a copy and a delete, of a file or of everything below a directory.
//!
//! Nothing is deleted before its copy is there; what cannot be deleted at once is left to
//! [`deferred_delete`], and what a mount does not live to finish to the next one, by its [`intent`].

pub mod deferred_delete;
pub mod directory;
pub mod dispatch;
pub mod file;
pub mod intent;
pub mod memory;
pub mod renames;
pub mod resume;
