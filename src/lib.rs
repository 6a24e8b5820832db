//! An OSS bucket mounted as an encrypted directory.
//!
//! The rooms, from top to bottom; each imports only from those below it (`tests/it/architecture.rs`):
//!
//! - [`cli`]: commands; [`tools`]: work on whole prefixes; [`fuse`]: kernel requests and replies;
//! - [`fs`]: the file system; [`server`]: an OSS endpoint for tests and the demo;
//! - [`encrypted`]: a bucket whose objects are read and written as plaintext;
//! - [`store`]: what every bucket can do, and the folder on disk; [`oss`]: the protocol;
//! - [`object`]: what every bucket speaks of, from keys to errors;
//! - [`envelope`]: how a wrapped key is written down; [`crypto`]: keys and ciphers;
//! - [`base`], [`text`]: the ground floor.
//!
//! docs/architecture.md is the map: how a lookup, a read, a write and a rename travel, and where to add what.

pub mod base;
pub mod cli;
pub mod crypto;
pub mod encrypted;
pub mod envelope;
pub mod fs;
pub mod fuse;
#[doc(hidden)]
pub mod fuzzing;
pub mod object;
pub mod oss;
pub mod server;
pub mod store;
#[doc(hidden)]
pub mod testing;
pub mod text;
pub mod tools;
