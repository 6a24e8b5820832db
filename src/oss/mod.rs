//! The protocol of the service: request, signature, client, retry, XML, credentials.

pub mod body;
pub mod client;
pub mod crc;
pub mod credentials;
pub mod date;
pub mod deadline;
pub mod download;
pub mod endpoint;
pub mod error;
pub(crate) mod object_head;
pub mod operations;
pub mod progress;
pub(crate) mod proxy;
pub mod retry;
pub mod sign;
pub mod types;
pub mod xml;
