//! Operations on a whole prefix: rewrapping, verifying, adopting, saving envelopes.
//!
//! [`bulk`] lists, processes many objects in parallel and counts; each of the other modules defines the
//! operation on one object. Memory does not grow with the number of objects, and there is no state except in
//! the bucket: an interrupted run is simply repeated.

pub mod adopt;
pub mod bulk;
pub mod envelopes;
pub mod inspect;
pub mod local_file;
mod local_tree;
mod resend;
pub mod rewrap;
pub mod verify;
