//! Buckets: the trait, the service, a folder on disk.

pub mod circuit_breaker;
pub mod error;
pub mod listing;
pub mod local;
pub mod log_limit;
pub mod object_store;
pub mod oss;
pub mod page_token;
