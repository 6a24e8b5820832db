//! One description of an object for every layer: its key, its ETag and headers, its content, its listing, and
//! its errors. The protocol and every store above it use these types.

// Paths are those of the whole program.
use ossvault_base as base;

pub mod answer;
pub mod body;
pub mod copy;
pub mod error;
pub mod key;
pub mod listing;
pub mod meta;
pub mod upload;
