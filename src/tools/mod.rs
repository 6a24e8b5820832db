//! Operations on a whole prefix: rewrapping, verifying, adopting, saving envelopes.
//!
//! [`bulk`] lists, processes many objects in parallel and counts; each of the other modules defines the
//! operation on one object. Memory does not grow with the number of objects, and there is no state except in
//! the bucket: an interrupted run is simply repeated.

pub(crate) mod adopt;
pub(crate) mod bulk;
pub(crate) mod envelopes;
pub(crate) mod inspect;
pub(crate) mod local_file;
mod local_tree;
mod resend;
pub(crate) mod rewrap;
pub(crate) mod verify;
