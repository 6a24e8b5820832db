//! What the bucket has: names, attributes, headers and contents, with as few requests as answer the question.
//!
//! `resolve` answers from memory or has `revalidate` and `directory_scan` send requests; `prefetch` sends what
//! `namespace/planner` wants ahead, `subtree_listing` lists several directories at once, and `requests` sends nothing twice at
//! a time. Below the resolver: `objects` are copied and deleted,
//! `markers` are those of directories, `object_cache` keeps headers and contents.

pub mod delete_permission;
pub mod directory_scan;
pub mod marker_xattrs;
pub mod markers;
pub mod object_cache;
pub mod objects;
pub mod prefetch;
pub mod prefetched;
pub mod requests;
pub mod resolve;
pub mod revalidate;
pub mod stat;
pub mod subtree_listing;
