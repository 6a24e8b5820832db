//! The ground floor: what every other room may borrow, and what knows of none of them.
//!
//! Nothing here speaks of buckets, keys or files of a mount. What only one room uses stays in that room.

pub mod backoff;
pub mod crc64;
pub mod deadline;
pub mod encoding;
pub mod error_chain;
pub mod log_limit;
pub mod sync;
pub mod time;
pub mod wait;
