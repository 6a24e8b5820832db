//! How a wrapped key is written in object metadata.
//!
//! Four families of names and values, made by the documentation example and by the official SDKs, are
//! read; three formats are written. [`detect`](detect::detect) says which one an object has,
//! [`open`](open::open) unwraps it, [`write`](write::write) makes one. All are pure but for RSA's padding.
//! `docs/format.md` describes each field.

pub mod detect;
pub mod error;
pub mod format;
pub mod open;
pub mod write;

pub use detect::{Envelope, detect};
pub use error::Error;
pub use format::Format;
