//! What every store does.

mod copies;
mod listings;
mod multipart;
mod objects;

pub(super) use copies::*;
pub(super) use listings::*;
pub(super) use multipart::*;
pub(super) use objects::*;
