//! The protocol of the service: request, signature, client, retry, XML, credentials.

// Paths are those of the whole program.
use ossvault_base as base;
use ossvault_object as object;

pub mod client;
pub mod credentials;
pub mod download;
pub mod endpoint;
pub mod error;
pub mod headers;
mod metadata;
pub mod operations;
pub mod probe;
pub mod progress;
pub mod proxy;
pub mod retry;
mod sending;
pub mod sign;
pub mod xml;
