//! An OSS bucket mounted as an encrypted directory. Imports run downward only.

pub mod base;
pub mod cli;
pub mod crypto;
pub mod encrypted;
pub mod envelope;
pub mod fs;
pub mod fuse;
#[doc(hidden)]
pub mod fuzzing;
pub mod oss;
pub mod server;
pub mod store;
pub mod text;
pub mod tools;
