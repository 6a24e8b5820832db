//! What is done to a whole prefix at once: re-wrapping, verifying, adopting, saving envelopes.
//!
//! [`bulk`] lists, keeps many objects in work and counts; each of the others says what happens to one
//! object. Memory does not grow with the number of objects, and there is no state but the bucket's: whatever
//! was broken off is run again.

pub mod adopt;
pub mod bulk;
pub mod envelopes;
pub mod inspect;
pub mod local_file;
mod local_tree;
mod resend;
pub mod rewrap;
pub mod verify;
