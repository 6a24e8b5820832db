//! The protocol of the service: request, signature, client, retry, XML, credentials.

pub mod credentials;
pub mod date;
pub mod error;
pub mod sign;
