//! An OSS endpoint on loopback over local stores: demo, tests, benches.
//!
//! [`endpoint`] accepts connections, and [`service`] takes a request through its stations: [`call`] reads it, [`auth`]
//! checks its signature, [`accepted`] says what its [`operation`] takes, and [`objects`], [`multipart`] and [`listing`]
//! answer it. What they share is the [`state`]. What the service refuses, and how it says so, is in [`refusal`]; how
//! long a client may take is in [`pace`].
//!
//! With the feature `instruments`, for tests and benches, requests go through `instrumented`: `instruments` count and
//! delay them, `faults` spoil their answers, and with `s3` clients that speak S3 are served as well.

// Paths are those of the whole program.
use ossvault_base as base;
use ossvault_object as object;
use ossvault_oss as oss;
use ossvault_store as store;

pub mod accepted;
pub mod auth;
pub mod call;
pub mod encryption_rules;
pub mod endpoint;
#[cfg(feature = "instruments")]
pub mod faults;
#[cfg(feature = "instruments")]
mod instrumented;
#[cfg(feature = "instruments")]
pub mod instruments;
pub mod listing;
pub mod multipart;
pub mod objects;
pub mod operation;
pub mod pace;
pub mod refusal;
pub mod reply;
#[cfg(feature = "instruments")]
pub mod s3;
pub mod service;
pub mod state;
pub mod xml;
