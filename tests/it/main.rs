//! Integration tests, one binary.

mod cli;
mod counts;
mod endurance;
mod faults;
mod formats;
mod interop;
mod rig;
mod server;
mod signing;
mod store;
mod tools;
mod wire;
