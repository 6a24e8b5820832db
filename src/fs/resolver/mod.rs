//! What the bucket has: names, attributes, headers and contents, with as few requests as answer the question.
//!
//! `resolve` answers from memory or has `revalidate` and `directory_scan` send requests; `prefetch` sends what
//! `namespace/planner` wants ahead, `subtree_listing` lists several directories at once, and `requests` sends nothing twice at
//! a time. Below the resolver: `objects` are copied and deleted,
//! `markers` are those of directories, `object_cache` keeps headers and contents.

pub(super) mod delete_permission;
pub(super) mod directory_scan;
pub(super) mod marker_xattrs;
pub(super) mod markers;
pub(super) mod object_cache;
pub(super) mod objects;
pub(super) mod prefetch;
pub(super) mod prefetched;
pub(super) mod requests;
pub(super) mod resolve;
pub(super) mod revalidate;
pub(super) mod stat;
pub(super) mod subtree_listing;
