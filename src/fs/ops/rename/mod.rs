//! rename(2): a copy and a delete, of a file or of everything below a directory.

pub mod deferred_delete;
pub mod directory;
pub mod file;
pub mod intent;
pub mod memory;
