//! The file system.

pub mod budget;
pub mod staging;
