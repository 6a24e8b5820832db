//! Buckets: the trait, the service, a folder on disk.

pub mod error;
pub mod listing;
pub mod local;
mod log_limit;
pub mod object_store;
pub mod oss;
