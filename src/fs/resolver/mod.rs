//! What the bucket has: names, attributes, headers and contents, with as few requests as answer the question.
//!
//! `resolve` answers from memory or has `revalidate` and `directory_scan` ask; `ahead` and `subtree_listing` ask for more
//! than was asked, `requests` for nothing twice at once. Below the resolver: `objects` are copied and deleted,
//! `markers` are those of directories, `object_cache` keeps headers and contents.

pub mod ahead;
pub mod delete_permission;
pub mod directory_scan;
pub mod marker_xattrs;
pub mod markers;
pub mod object_cache;
pub mod objects;
pub mod requests;
pub mod resolve;
pub mod revalidate;
pub mod stat;
pub mod subtree_listing;
