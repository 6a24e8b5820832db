//! The protocol of the service: requests, signatures, client, retries, XML, credentials.

// Paths are those of the whole program.
use ossvault_base as base;
use ossvault_object as object;

mod call;
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
pub mod refusal;
pub mod retry;
mod sending;
pub mod sign;
pub mod xml;
