//! A bucket whose objects are read and written as plaintext: in ranges, with a fresh key for each upload.
//!
//! [`EncryptedBucket`] is the entry point. [`EncryptedObject`] is one version of one object with its
//! envelope, unwrapped once. [`Ciphertext`] is a response body, decrypted from the socket's chunk straight
//! into the reader's buffer. [`EncryptedUpload`] is a multipart upload; [`Plaintext`] is the content of an
//! upload, and can be read again when a request is retried. [`key_marker`] says which keys the objects below a
//! prefix are for; [`key_check`] compares them with a mount's.

pub mod bucket;
pub mod ciphertext;
pub mod copy;
pub mod error;
pub mod key_check;
pub mod key_marker;
pub mod object;
pub mod plaintext;
pub mod reserved;
mod strips;
#[cfg(test)]
mod tests;
pub mod upload;

pub use crate::crypto::xattr::Xattrs;
pub use bucket::{EncryptedBucket, Settings};
pub use ciphertext::Ciphertext;
pub use error::{Error, Result};
pub use object::EncryptedObject;
pub use plaintext::Plaintext;
pub use upload::{EncryptedUpload, Uploaded};
