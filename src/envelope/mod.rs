//! The encoding of wrapped keys in object metadata.
//!
//! Four families of names and values, produced by the documentation example and the official SDKs, can be
//! read; three formats can be written. [`detect`](detect::detect) determines the format of an object,
//! [`open`](open::open) unwraps it, [`write`](write::write) creates an envelope. Everything is pure except
//! for RSA's padding. `docs/format.md` describes each field.

#![warn(missing_docs)]

pub mod detect;
pub mod error;
pub mod format;
pub mod open;
pub mod write;

pub use detect::{Envelope, detect};
pub use error::Error;
pub use format::Format;
