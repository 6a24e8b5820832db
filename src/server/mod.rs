//! An OSS endpoint on loopback over local stores: demo, tests, benches.
//!
//! [`endpoint`] accepts connections and takes a request through its stations: [`call`] reads it, [`auth`]
//! checks who sent it, [`accepted`] says what its [`operation`] takes, [`instruments`] count or delay it, [`faults`] spoil
//! its answer, and [`objects`], [`multipart`] and [`listing`] answer it. What they share is the [`state`]. What the service refuses, and how it says so, is in
//! [`refusal`]; how long a client may take is in [`pace`]. With [`s3`], an instrumented server
//! takes requests of clients that speak S3 as well.

pub mod accepted;
pub mod auth;
pub mod call;
pub mod encryption_rules;
pub mod endpoint;
pub mod faults;
pub mod instruments;
pub mod listing;
pub mod multipart;
pub mod objects;
pub mod operation;
pub mod pace;
pub mod refusal;
pub mod reply;
pub mod s3;
pub mod state;
pub mod xml;
