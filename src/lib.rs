//! An OSS bucket mounted as an encrypted directory.
//!
//! The layers, from top to bottom; each imports only from those below it (`tests/it/architecture.rs`):
//!
//! - [`cli`]: commands; [`transfer`]: files without a mount; [`doctor`]: what keeps a mount from working; [`tools`]: work
//!   on whole prefixes; [`fuse`]: kernel requests and replies;
//! - [`fs`]: the file system; [`server`]: an OSS endpoint for tests and the demo;
//! - [`files`]: how files are objects;
//! - [`encrypted`]: a bucket whose objects are read and written as plaintext;
//! - [`store`]: what every bucket can do, and the folder on disk; [`oss`]: the protocol;
//! - [`object`]: what every bucket speaks of, from keys to errors;
//! - [`envelope`]: how a wrapped key is written down; [`crypto`]: keys and ciphers;
//! - [`database`]: SQLite databases;
//! - [`base`], [`text`]: the ground floor.
//!
//! docs/architecture.md is the map: how a lookup, a read, a write and a rename travel, and where to add what.

pub use ossvault_base as base;
pub use ossvault_database as database;
pub use ossvault_object as object;
pub use ossvault_oss as oss;
pub use ossvault_server as server;
pub use ossvault_store as store;

pub mod cli;
pub mod crypto;
mod doctor;
pub mod encrypted;
pub mod envelope;
pub mod files;
pub mod fs;
mod fuse;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod fuzzing;
mod text;
mod tools;
mod transfer;
