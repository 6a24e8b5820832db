//! The content of files that have been changed and are not in the bucket yet.
//!
//! What makes it hard: files may be larger than memory, yet nothing may reach a disk in plaintext;
//! an upload must read the same bytes however often it is tried again, while the file is written
//! on; and a write that memory has room for is answered on the session thread, which never waits.
//!
//! - [`StagedFile`] is such a content: written bytes over what remains visible of an object.
//! - [`Snapshot`] is what a file held at one moment, for uploads. It shares the file's blocks.
//! - [`StagingArea`] is what all of them share: memory, the spill file, and the moving from one to
//!   the other.
//!
//! A `Block` is the unit of memory, sharing and spilling. Two rules keep bytes frozen:
//! a block's bytes change only through its file, while there is no other reference to the block or its buffer;
//! and a block that went to disk never changes again, a write there makes a new block.

mod area;
mod block;
mod buffer;
mod content;
mod direct;
mod error;
mod ranges;
mod snapshot;
mod spill_file;
mod staged_file;
#[cfg(test)]
mod tests;

pub use area::{BLOCK, Settings, StagingArea, run_spiller};
pub use content::{Piece, StagedPiece, zeros};
pub use error::Error;
pub use snapshot::{BaseReader, Snapshot};
pub use staged_file::{NeedsRoom, Room, StagedFile};
