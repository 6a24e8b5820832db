//! What every store does.

mod copies;
mod listings;
mod multipart;
mod objects;

pub use copies::*;
pub use listings::*;
pub use multipart::*;
pub use objects::*;
