//! One description of an object, for every floor: its key, its tag and headers, its bytes, its listing, and what can
//! go wrong with it. The protocol speaks these words, and so does every store above it.

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
