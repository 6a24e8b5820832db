//! Bringing what has changed into the bucket: contents, and attributes.

pub mod changes;
pub mod close;
pub mod metadata;
pub mod multipart;
pub mod multipart_plan;
pub mod publish;
pub mod streaming;
pub mod upload;
