//! Buckets: the trait, the service, a folder on disk.

pub mod error;
pub mod local;
pub mod object_store;
pub mod oss;
