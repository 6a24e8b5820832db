//! Buckets: the trait, the service, a folder on disk.

// Paths are those of the whole program.
use crate as store;
use ossvault_base as base;
use ossvault_database as database;
use ossvault_object as object;

pub mod circuit_breaker;
pub mod local;
pub mod object_store;
pub mod oss;

// The words that every store speaks, beside the trait.
pub use crate::object::{error, listing};
