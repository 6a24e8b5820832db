//! Bringing what has changed into the bucket.
//!
//! `publish` decides when a file is uploaded, `upload` is one attempt, `streaming` and `multipart` send large ones in
//! parts. `metadata` stores attributes of what the bucket has already. `changes` and `close` are what follows from
//! a write and from a close, a rename or a removal.

pub mod changes;
pub mod close;
pub mod deferred;
pub mod metadata;
pub mod multipart;
pub mod publish;
pub mod server_copy;
pub mod streaming;
pub mod upload;
