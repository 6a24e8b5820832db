//! Looks for what keeps a mount from working, step by step: this machine, the way to the service, the bucket, its
//! permissions, and the keys.
//!
//! A [`Check`](check::Check) has a verdict, what was found and, unless all is well, what to do about it. A check that
//! needs another one which failed is skipped, and says which. Nothing is changed but scratch objects below
//! `.ossvault/doctor-…`, which are removed at the end, whatever happened before.

pub(crate) mod advice;
mod bucket;
pub(crate) mod check;
mod keys;
mod machine;
mod network;
mod objects;
pub(crate) mod patient;
mod scratch;
mod speed;
