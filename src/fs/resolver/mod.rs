//! Finding out what the bucket has: names, attributes and headers, with as few requests as answer the question.

pub mod ahead;
pub mod delete_permission;
pub mod directory_scan;
pub mod markers;
pub mod object_cache;
pub mod objects;
pub mod resolve;
pub mod revalidate;
pub mod stat;
pub mod subtree_listing;
