//! Operations on a whole prefix: rewrapping, verifying, adopting, saving envelopes.
//!
//! [`bulk`] lists, processes many objects in parallel and counts; most of the other modules define an operation on one
//! object. Memory does not grow with the number of objects, and the state is in the bucket: an interrupted run is simply
//! repeated. Where that would take too long, [`shard`] divides the objects among many processes, [`inventory`] names
//! them without a listing, [`report`] keeps what a run has finished, and [`merge`] proves that all reports together
//! are complete.

pub(crate) mod adopt;
pub(crate) mod bulk;
pub(crate) mod envelopes;
pub(crate) mod finding;
pub(crate) mod inspect;
pub(crate) mod inventory;
pub(crate) mod local_file;
mod local_tree;
pub(crate) mod merge;
pub(crate) mod report;
mod resend;
pub(crate) mod rewrap;
pub(crate) mod shard;
pub(crate) mod verify;
