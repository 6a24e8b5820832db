//! Bytes and the memory that they take: contents on their way in, staged changes on their way out.

pub mod budget;
pub mod byte_lru;
pub mod content;
pub mod memory;
pub mod read_ahead;
pub mod staging;
