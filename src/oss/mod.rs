//! The protocol of the service: request, signature, client, retry, XML, credentials.

pub mod client;
pub mod credentials;
pub mod download;
pub mod endpoint;
pub mod error;
pub(crate) mod headers;
mod metadata;
pub mod operations;
pub mod progress;
pub(crate) mod proxy;
pub mod retry;
mod sending;
pub mod sign;
pub mod xml;
