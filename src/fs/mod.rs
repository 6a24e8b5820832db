//! The file system.

pub mod budget;
pub mod content;
pub mod read_ahead;
pub mod staging;
