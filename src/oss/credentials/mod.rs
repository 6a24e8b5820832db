//! The access keys that sign requests: where they come from, and how they are renewed.
//!
//! [`chain`] chooses one [`source`] from what was configured; [`provider`] asks it for a key, again before the key
//! expires and when the service refuses it, and hands the current key to the client. Each source is a file.

pub mod access_key;
mod arn;
pub mod assume_role;
pub mod chain;
pub mod command;
pub mod environment;
pub mod error;
pub mod file;
mod http;
pub mod json;
pub mod metadata;
pub mod network;
pub mod oidc;
pub mod provider;
mod recipe;
pub mod source;
pub mod sts;

pub mod uri;

pub use access_key::AccessKey;
pub use provider::Provider;
