//! The file system: names, inodes, listings, open files, staging, read-ahead, writeback, rename.

use std::time::{SystemTime, UNIX_EPOCH};

pub mod attributes;
pub mod budget;
pub mod content;
pub mod error;
pub mod filesystem;
mod gate;
mod listing;
mod lister;
mod names;
pub mod namespace;
mod probe;
pub mod read_ahead;
pub mod settings;
pub mod staging;
mod temporary_names;

/// Whole seconds since the epoch.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
